//! Any bytes as the binary tensors of a request whose header announces any shapes and sizes, or as a raw request.
#![no_main]

use airlock::{
    decode::{self, Head},
    limits::DecodeLimits,
    tensor::{Datatype, Shape, Signature, TensorSpec},
};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&[first, second, first_dim, second_dim, first_size, raw], binary)) =
        input.split_first_chunk::<6>()
    else {
        return;
    };
    let datatypes = [first, second].map(|choice| Datatype::ALL[usize::from(choice) % Datatype::ALL.len()]);
    let dims = [first_dim, second_dim].map(u64::from);
    let first_size = u64::from(first_size);
    let sizes = [first_size, (binary.len() as u64).saturating_sub(first_size)];
    let entry = |index: usize| {
        format!(
            r#"{{"name":"{index}","datatype":"{}","shape":[{}],"parameters":{{"binary_data_size":{}}}}}"#,
            datatypes[index], dims[index], sizes[index]
        )
    };
    let spec = |index: usize| TensorSpec {
        name: index.to_string(),
        datatype: datatypes[index],
        shape: Shape(vec![-1]),
    };
    let (json, inputs) = if raw % 2 == 0 {
        (format!(r#"{{"inputs":[{},{}]}}"#, entry(0), entry(1)), vec![spec(0), spec(1)])
    } else {
        (String::new(), vec![spec(0)])
    };
    let length = json.len().to_string();
    let head = Head { inference_header_content_length: Some(length.as_bytes()), content_encoding: None };
    let body = Bytes::from([json.as_bytes(), binary].concat());
    let signature = Signature { inputs, outputs: Vec::new() };
    if let Ok(decoded) = decode::infer(&head, body, &signature, &DecodeLimits::default()) {
        for input in &decoded.request.inputs {
            input.check_layout().expect("decoded tensors have their layout");
        }
    }
});
