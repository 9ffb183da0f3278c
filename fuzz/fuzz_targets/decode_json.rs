//! Any body as a JSON request to a model with one input `X`; what is accepted is also written back.
#![no_main]

use airlock::{
    decode::{self, Head},
    encode,
    limits::DecodeLimits,
    reply::NonFinite,
    tensor::{Datatype, InferResponse, Shape, Signature, TensorSpec},
};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((choice, body)) = input.split_first() else { return };
    let datatype = Datatype::ALL[usize::from(*choice) % Datatype::ALL.len()];
    let spec = TensorSpec { name: "X".into(), datatype, shape: Shape(vec![-1]) };
    let signature = Signature { inputs: vec![spec.clone()], outputs: vec![spec] };
    let limits = DecodeLimits::default();
    let body = Bytes::copy_from_slice(body);
    let Ok(decoded) = decode::infer(&Head::default(), body.clone(), &signature, &limits) else { return };
    for input in &decoded.request.inputs {
        input.check_layout().expect("decoded tensors have their layout");
        assert!(input.bytes.len() <= 4 * body.len());
    }
    if datatype == Datatype::Bf16 {
        // Only an empty one gets here, and JSON does not carry the datatype at all.
        return;
    }
    let response = InferResponse { parameters: decoded.request.parameters, outputs: decoded.request.inputs };
    let encoded = encode::infer("m", "1", &response, &decoded.reply, None, NonFinite::Null);
    encoded.expect("what came as JSON can go as JSON");
});
