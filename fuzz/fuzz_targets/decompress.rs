//! Any bytes as a compressed raw request: nothing larger than the limit comes out.
#![no_main]

use airlock::{
    decode::{self, Head},
    limits::DecodeLimits,
    tensor::{Datatype, Shape, Signature, TensorSpec},
};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1 << 16;

fuzz_target!(|input: &[u8]| {
    let Some((choice, body)) = input.split_first() else { return };
    let encoding: &[u8] = if choice % 2 == 0 { b"gzip" } else { b"deflate" };
    let head = Head { inference_header_content_length: Some(b"0"), content_encoding: Some(encoding) };
    let spec = TensorSpec { name: "X".into(), datatype: Datatype::Uint8, shape: Shape(vec![-1]) };
    let signature = Signature { inputs: vec![spec], outputs: Vec::new() };
    let limits = DecodeLimits { max_body_bytes: LIMIT, ..DecodeLimits::default() };
    if let Ok(decoded) = decode::infer(&head, Bytes::copy_from_slice(body), &signature, &limits) {
        assert!(decoded.request.inputs[0].bytes.len() <= LIMIT);
    }
});
