//! What encode writes, decode reads back to the bit, in JSON and in binary.

use half::f16;

use super::*;
use crate::{
    content_type::ContentType,
    encode,
    reply::{NonFinite, RequestedOutput},
    tensor::{Classes, InferResponse, element_count},
};

/// Any tensor, its floats drawn from all bit patterns and its BYTES from all bytes or, for JSON, all texts.
pub(in crate::decode) fn tensor(json: bool) -> impl Strategy<Value = Tensor> {
    let datatypes: Vec<Datatype> =
        Datatype::ALL.into_iter().filter(|datatype| !json || *datatype != Datatype::Bf16).collect();
    let shape = proptest::collection::vec(0..5_u64, 0..4);
    (proptest::sample::select(datatypes), shape).prop_flat_map(move |(datatype, shape)| {
        let count = usize::try_from(element_count(&shape).unwrap_or(0)).unwrap_or(0);
        raw(datatype, count, json).prop_map(move |bytes| Tensor {
            name: "T\"\n☃".into(),
            datatype,
            shape: shape.clone(),
            parameters: Vec::new(),
            bytes: bytes.into(),
        })
    })
}

fn raw(datatype: Datatype, count: usize, json: bool) -> BoxedStrategy<Vec<u8>> {
    let bytes = |element: BoxedStrategy<Vec<u8>>| {
        proptest::collection::vec(element, count)
            .prop_map(|elements| {
                let prefixed = elements.into_iter().flat_map(|element| {
                    [&u32::try_from(element.len()).expect("short").to_le_bytes()[..], &element].concat()
                });
                prefixed.collect()
            })
            .boxed()
    };
    match datatype.element_size() {
        None if json => bytes(any::<String>().prop_map(String::into_bytes).boxed()),
        None => bytes(proptest::collection::vec(any::<u8>(), 0..10).boxed()),
        Some(_) if datatype == Datatype::Bool => proptest::collection::vec(0..2_u8, count).boxed(),
        Some(size) => proptest::collection::vec(any::<u8>(), count * size).boxed(),
    }
}

/// JSON has one NaN: every other is replaced by it.
fn one_nan(datatype: Datatype, bytes: &[u8]) -> Vec<u8> {
    fn replaced<const N: usize>(bytes: &[u8], is_nan: impl Fn([u8; N]) -> bool, nan: [u8; N]) -> Vec<u8> {
        bytes.as_chunks().0.iter().flat_map(|element| if is_nan(*element) { nan } else { *element }).collect()
    }
    match datatype {
        Datatype::Fp16 => replaced(bytes, |e| f16::from_le_bytes(e).is_nan(), f16::NAN.to_le_bytes()),
        Datatype::Fp32 => replaced(bytes, |e| f32::from_le_bytes(e).is_nan(), f32::NAN.to_le_bytes()),
        Datatype::Fp64 => replaced(bytes, |e| f64::from_le_bytes(e).is_nan(), f64::NAN.to_le_bytes()),
        _ => bytes.to_vec(),
    }
}

/// The tensor, sent as an output and taken as an input: a response becomes a request by renaming one key.
fn there_and_back(tensor: &Tensor, binary: bool, encoding: Option<&str>, non_finite: NonFinite) -> Tensor {
    let reply = Reply { id: Some("i".into()), binary_default: binary, ..Reply::default() };
    let response = InferResponse { parameters: Vec::new(), outputs: vec![tensor.clone()] };
    let encoded = encode::infer("m", "1", &response, &reply, encoding.map(str::as_bytes), non_finite)
        .expect("an answer that can be written");
    assert_eq!(encoded.content_encoding, encoding);
    let head = Head { content_encoding: encoded.content_encoding.map(str::as_bytes), ..Head::default() };
    let body = compression::decompress(encoded.parts.concat().into(), head.content_encoding, usize::MAX)
        .expect("what was compressed here");
    let header_length = encoded.inference_header_content_length.unwrap_or(body.len());
    let json =
        std::str::from_utf8(&body[..header_length]).expect("JSON").replace("\"outputs\":[{", "\"inputs\":[{");
    let length = json.len().to_string();
    let head = Head { inference_header_content_length: Some(length.as_bytes()), content_encoding: None };
    let body = [json.as_bytes(), &body[header_length..]].concat();
    let dims = tensor.shape.iter().map(|_| -1).collect();
    let spec = TensorSpec { name: tensor.name.clone(), datatype: tensor.datatype, shape: Shape(dims) };
    let signature = Signature { inputs: vec![spec], outputs: Vec::new() };
    let mut decoded =
        infer(&head, body.into(), &signature, &DecodeLimits::default()).expect("what was written here");
    decoded.request.inputs.remove(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn json_gives_back_every_bit(
        tensor in tensor(true),
        encoding in proptest::option::of(proptest::sample::select(vec!["gzip", "deflate"])),
    ) {
        let expected = Tensor { bytes: one_nan(tensor.datatype, &tensor.bytes).into(), ..tensor.clone() };
        prop_assert_eq!(there_and_back(&tensor, false, encoding, NonFinite::Literal), expected);
    }

    #[test]
    fn binary_gives_back_every_bit(
        tensor in tensor(false),
        encoding in proptest::option::of(proptest::sample::select(vec!["gzip", "deflate"])),
    ) {
        prop_assert_eq!(there_and_back(&tensor, true, encoding, NonFinite::Literal), tensor);
    }
}

proptest! {
    #[test]
    fn bytes_survive_as_base64_wherever_it_is_asked_for(
        elements in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..5),
        place in 0..3_u8,
        binary in any::<bool>(),
    ) {
        let bytes = elements.iter().flat_map(|element| {
            [&u32::try_from(element.len()).expect("short").to_le_bytes()[..], element].concat()
        });
        let mut tensor = Tensor {
            name: "T".into(),
            datatype: Datatype::Bytes,
            shape: vec![elements.len() as u64],
            parameters: Vec::new(),
            bytes: bytes.collect::<Vec<u8>>().into(),
        };
        let label = ("content_type".to_owned(), Parameter::Text("base64".into()));
        let base64 = Some(ContentType::Base64);
        let requested = RequestedOutput { name: "T".into(), content_type: base64, ..RequestedOutput::default() };
        let mut reply = Reply { binary_default: binary, ..Reply::default() };
        let mut answer = tensor.clone();
        match place {
            0 => reply.outputs = vec![requested],
            1 => reply.content_type = base64,
            _ => answer.parameters = vec![label.clone()],
        }
        let mut response = InferResponse { parameters: Vec::new(), outputs: vec![answer] };
        encode::as_asked(&mut response, &reply, &Classes::default(), 0).expect("base64");
        prop_assert_eq!(response.outputs[0].check_layout(), Ok(()));
        tensor.parameters = vec![label];
        prop_assert_eq!(there_and_back(&response.outputs[0], binary, None, NonFinite::Literal), tensor);
    }
}

#[test]
fn null_reads_back_as_nan() {
    let values = [f32::NAN, f32::INFINITY, -1.5];
    let tensor = Tensor {
        name: "T".into(),
        datatype: Datatype::Fp32,
        shape: vec![3],
        parameters: Vec::new(),
        bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into(),
    };
    let back = there_and_back(&tensor, false, None, NonFinite::Null);
    let back: Vec<f32> = back.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert!(back[0].is_nan() && back[1].is_nan() && back[2].to_bits() == (-1.5f32).to_bits());
}
