use super::*;
use crate::tensor::{Datatype, Shape};

fn raw(datatype: Datatype, shape: &[i64], body: &'static [u8]) -> Result<(Vec<u64>, Bytes), String> {
    let spec = TensorSpec { name: "X".into(), datatype, shape: Shape(shape.into()) };
    let signature = Signature { inputs: vec![spec], outputs: Vec::new() };
    input(Bytes::from_static(body), &signature)
        .map(|tensor| (tensor.shape, tensor.bytes))
        .map_err(|error| error.to_string())
}

#[test]
fn the_one_variable_dimension_follows_from_the_length() {
    let body = Bytes::from_static(&[0; 24]);
    assert_eq!(raw(Datatype::Fp32, &[-1, 3], &[0; 24]), Ok((vec![2, 3], body.clone())));
    assert_eq!(raw(Datatype::Fp32, &[2, 3], &[0; 24]), Ok((vec![2, 3], body.clone())));
    assert_eq!(raw(Datatype::Uint8, &[-1], &[0; 24]), Ok((vec![24], body)));
    assert_eq!(raw(Datatype::Uint8, &[-1], &[]), Ok((vec![0], Bytes::new())));
    assert_eq!(raw(Datatype::Int8, &[], &[5]), Ok((vec![], Bytes::from_static(&[5]))));
    assert_eq!(raw(Datatype::Int8, &[-1, 0], &[]), Ok((vec![0, 0], Bytes::new())));
}

#[test]
fn a_bytes_input_is_one_element() {
    let element = Bytes::from_static(b"\x03\0\0\0abc");
    assert_eq!(raw(Datatype::Bytes, &[1], b"abc"), Ok((vec![1], element.clone())));
    assert_eq!(raw(Datatype::Bytes, &[-1, 1], b"abc"), Ok((vec![1, 1], element)));
    assert_eq!(raw(Datatype::Bytes, &[-1], b""), Ok((vec![1], Bytes::from_static(&[0; 4]))));
    let text = raw(Datatype::Bytes, &[2], b"abc").expect_err("two elements");
    assert!(text.ends_with("one BYTES element, the model expects shape [2]"), "{text}");
}

#[test]
fn bodies_that_fit_no_shape_are_refused() {
    let cases: [(&[i64], &'static [u8], &str); 4] = [
        (&[-1, -1], &[0; 16], "more than one dimension of shape [-1,-1] varies"),
        (&[-1, 4], &[0; 15], "shape [0,4] of FP32 takes 0 bytes, got 15"),
        (&[4], &[0; 20], "shape [4] of FP32 takes 16 bytes, got 20"),
        (&[-1, i64::MAX], &[0; 4], "shape [0,9223372036854775807] of FP32 takes 0 bytes, got 4"),
    ];
    for (shape, body, expected) in cases {
        let text = raw(Datatype::Fp32, shape, body).expect_err("to be refused");
        assert!(text.contains(expected), "{text}");
    }
    assert!(raw(Datatype::Bool, &[1], &[2]).is_err());
}

#[test]
fn only_a_model_with_one_input_takes_a_raw_body() {
    let spec = TensorSpec { name: "X".into(), datatype: Datatype::Fp32, shape: Shape(vec![1]) };
    for inputs in [vec![], vec![spec.clone(), spec]] {
        let signature = Signature { inputs, outputs: Vec::new() };
        assert!(input(Bytes::new(), &signature).is_err());
    }
}
