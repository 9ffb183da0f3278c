use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::{
    decode::{Kind, tests::round_trip::tensor},
    encode::grpc::{self, Call},
    proto::{
        inference::{
            InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
            ModelStreamInferResponse,
            infer_parameter::ParameterChoice,
            model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
        },
        wire::PREFIX,
    },
    tensor::{InferResponse, TensorSpec, elements},
};

fn spec(name: &str, datatype: Datatype, rank: usize) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: Shape(vec![-1; rank]) }
}

fn signature(datatype: Datatype) -> Signature {
    Signature { inputs: vec![spec("A", datatype, 1)], outputs: vec![spec("X", Datatype::Fp32, 1)] }
}

/// One input `A` of one dimension.
fn request(datatype: &str, count: i64, contents: Option<InferTensorContents>) -> ModelInferRequest {
    let input = InferInputTensor {
        name: "A".into(),
        datatype: datatype.into(),
        shape: vec![count],
        contents,
        ..InferInputTensor::default()
    };
    ModelInferRequest { model_name: "m".into(), inputs: vec![input], ..ModelInferRequest::default() }
}

fn decode(request: &ModelInferRequest, datatype: Datatype) -> Result<Decoded, DecodeError> {
    decode_bytes(&request.encode_to_vec(), datatype)
}

fn decode_bytes(message: &[u8], datatype: Datatype) -> Result<Decoded, DecodeError> {
    infer(&Bytes::copy_from_slice(message), &signature(datatype), &DecodeLimits::default())
}

fn told(result: Result<Decoded, DecodeError>) -> String {
    let error = result.expect_err("to be refused");
    let shared_memory = matches!(error, DecodeError::SharedMemory { .. });
    assert_eq!(error.kind(), if shared_memory { Kind::NotOffered } else { Kind::Invalid });
    error.to_string()
}

fn ints(values: &[i32]) -> Option<InferTensorContents> {
    Some(InferTensorContents { int_contents: values.into(), ..InferTensorContents::default() })
}

fn uints(values: &[u32]) -> Option<InferTensorContents> {
    Some(InferTensorContents { uint_contents: values.into(), ..InferTensorContents::default() })
}

fn choice(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

/// The elements in the field that is their datatype's; none for what travels raw only.
fn typed(tensor: &Tensor) -> Option<InferTensorContents> {
    fn list<const N: usize, T>(bytes: &[u8], element: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks().0.iter().map(|chunk| element(*chunk)).collect()
    }
    let mut contents = InferTensorContents::default();
    let bytes = &tensor.bytes;
    match tensor.datatype {
        Datatype::Bool => contents.bool_contents = list(bytes, |[byte]| byte != 0),
        Datatype::Int8 => contents.int_contents = list(bytes, |chunk| i8::from_le_bytes(chunk).into()),
        Datatype::Int16 => contents.int_contents = list(bytes, |chunk| i16::from_le_bytes(chunk).into()),
        Datatype::Int32 => contents.int_contents = list(bytes, i32::from_le_bytes),
        Datatype::Int64 => contents.int64_contents = list(bytes, i64::from_le_bytes),
        Datatype::Uint8 => contents.uint_contents = list(bytes, |chunk| u8::from_le_bytes(chunk).into()),
        Datatype::Uint16 => contents.uint_contents = list(bytes, |chunk| u16::from_le_bytes(chunk).into()),
        Datatype::Uint32 => contents.uint_contents = list(bytes, u32::from_le_bytes),
        Datatype::Uint64 => contents.uint64_contents = list(bytes, u64::from_le_bytes),
        Datatype::Fp32 => contents.fp32_contents = list(bytes, f32::from_le_bytes),
        Datatype::Fp64 => contents.fp64_contents = list(bytes, f64::from_le_bytes),
        Datatype::Bytes => {
            let elements = elements(bytes).map(|element| element.expect("whole elements"));
            contents.bytes_contents = elements.map(Bytes::copy_from_slice).collect();
        }
        Datatype::Fp16 | Datatype::Bf16 => return None,
    }
    Some(contents)
}

fn sent(tensor: &Tensor, raw: bool) -> Option<ModelInferRequest> {
    let dims = tensor.shape.iter().map(|dim| i64::try_from(*dim).expect("small"));
    let mut request = request(tensor.datatype.name(), 0, None);
    request.inputs[0].shape = dims.collect();
    request.inputs[0].name.clone_from(&tensor.name);
    if raw {
        request.raw_input_contents.push(tensor.bytes.clone());
    } else {
        request.inputs[0].contents = Some(typed(tensor)?);
    }
    Some(request)
}

fn received(tensor: &Tensor, request: &ModelInferRequest) -> Tensor {
    let signature = Signature {
        inputs: vec![spec(&tensor.name, tensor.datatype, tensor.shape.len())],
        outputs: Vec::new(),
    };
    let message = Bytes::from(request.encode_to_vec());
    let mut decoded = infer(&message, &signature, &DecodeLimits::default()).expect("a good request");
    decoded.request.inputs.remove(0)
}

#[test]
fn raw_contents_weigh_nothing_unless_their_elements_are_checked() {
    let mut raw = request("FP32", 1000, None);
    raw.raw_input_contents.push(vec![0; 4000].into());
    let message = raw.encode_to_vec();
    let weight = weight(&message, &signature(Datatype::Fp32));
    assert!(weight < 100, "{weight}");
    assert_eq!(super::weight(&message, &signature(Datatype::Bool)), message.len());
    let contents = InferTensorContents { fp32_contents: vec![0.5; 1000], ..InferTensorContents::default() };
    let typed = request("FP32", 1000, Some(contents)).encode_to_vec();
    assert_eq!(super::weight(&typed, &signature(Datatype::Fp32)), typed.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_tensor_survives_both_ways(tensor in tensor(false), raw: bool, stream: bool) {
        // What travels raw only has no other way.
        let request = sent(&tensor, raw).or_else(|| sent(&tensor, true)).expect("a request");
        prop_assert_eq!(&received(&tensor, &request), &tensor);

        let response = InferResponse { parameters: Vec::new(), outputs: vec![tensor.clone()] };
        let reply = Reply { id: Some("i".into()), ..Reply::default() };
        let call = if stream { Call::Stream { last: true } } else { Call::Single };
        let encoded = grpc::infer("m", "1", &response, &reply, call).expect("an answer");
        let frame = encoded.parts.concat();
        let (prefix, message) = frame.split_at(PREFIX);
        let length = u32::try_from(message.len()).expect("small").to_be_bytes();
        prop_assert_eq!(prefix, [&[0][..], &length].concat());
        let answer = if stream {
            let answer = ModelStreamInferResponse::decode(message).expect("a message");
            prop_assert_eq!(answer.error_message, "");
            answer.infer_response.expect("a response")
        } else {
            ModelInferResponse::decode(message).expect("a message")
        };
        prop_assert_eq!((answer.model_name.as_str(), answer.model_version.as_str(), answer.id.as_str()), ("m", "1", "i"));
        prop_assert_eq!(answer.parameters.contains_key("triton_final_response"), stream);
        let output = &answer.outputs[0];
        prop_assert_eq!(&output.name, &tensor.name);
        prop_assert_eq!(output.datatype.as_str(), tensor.datatype.name());
        prop_assert_eq!(&output.shape, &Shape::from(tensor.shape.as_slice()).0);
        prop_assert_eq!(&answer.raw_output_contents, &vec![tensor.bytes]);
    }

    #[test]
    fn any_bytes_are_a_request_or_refused(message in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = named(&message);
        let _ = decode_bytes(&message, Datatype::Int32);
    }

    #[test]
    fn a_request_that_is_cut_or_changed_is_a_request_or_refused(cut in any::<usize>(), at in any::<usize>(), to: u8) {
        let mut request = request("INT32", 3, ints(&[1, -2, 3]));
        request.parameters.insert("p".into(), choice(ParameterChoice::DoubleParam(1.5)));
        request.outputs.push(InferRequestedOutputTensor { name: "X".into(), ..InferRequestedOutputTensor::default() });
        let mut message = request.encode_to_vec();
        let (at, cut) = (at % message.len(), cut % (message.len() + 1));
        message[at] = to;
        if let Ok(decoded) = decode_bytes(&message[..cut], Datatype::Int32) {
            decoded.request.inputs[0].check_layout().expect("decoded tensors have their layout");
        }
    }
}

#[test]
fn everything_that_a_request_says_is_read() {
    let mut request = request("INT32", 2, ints(&[1, -1]));
    request.model_version = "7".into();
    request.id = "i".into();
    request.parameters = BTreeMap::from([
        ("b".into(), choice(ParameterChoice::BoolParam(true))),
        ("d".into(), choice(ParameterChoice::DoubleParam(0.5))),
        ("i".into(), choice(ParameterChoice::Int64Param(-5))),
        ("s".into(), choice(ParameterChoice::StringParam("t".into()))),
        ("timeout".into(), choice(ParameterChoice::Int64Param(20))),
        ("triton_enable_empty_final_response".into(), choice(ParameterChoice::BoolParam(true))),
        ("u".into(), choice(ParameterChoice::Uint64Param(u64::MAX))),
    ]);
    let of_input = choice(ParameterChoice::StringParam("v".into()));
    request.inputs[0].parameters.insert("q".into(), of_input);
    let output = InferRequestedOutputTensor { name: "X".into(), ..InferRequestedOutputTensor::default() };
    request.outputs.push(output);
    let message = request.encode_to_vec();
    let asked = Named { model: "m".into(), version: "7".into(), id: "i".into() };
    assert_eq!(named(&message), Ok(asked));
    let decoded = decode_bytes(&message, Datatype::Int32).expect("a good request");
    assert_eq!(decoded.timeout, Some(std::time::Duration::from_micros(20)));
    assert_eq!(decoded.reply.id.as_deref(), Some("i"));
    assert!(decoded.reply.tells_end);
    assert_eq!(decoded.request.outputs, ["X"]);
    let parameters = [
        ("b".to_owned(), Parameter::Boolean(true)),
        ("d".to_owned(), Parameter::Double(0.5)),
        ("i".to_owned(), Parameter::Int64(-5)),
        ("s".to_owned(), Parameter::Text("t".into())),
        ("u".to_owned(), Parameter::Uint64(u64::MAX)),
    ];
    assert_eq!(decoded.request.parameters, parameters);
    let input = &decoded.request.inputs[0];
    assert_eq!(input.parameters, [("q".to_owned(), Parameter::Text("v".into()))]);
    assert_eq!(input.bytes, [1i32.to_le_bytes(), (-1i32).to_le_bytes()].concat());
}

#[test]
fn an_empty_id_is_none() {
    let decoded = decode(&request("INT32", 0, None), Datatype::Int32).expect("a good request");
    assert_eq!((decoded.request.id, decoded.reply.id), (None, None));
}

#[test]
fn raw_and_packed_floats_are_parts_of_the_message() {
    let floats = InferTensorContents { fp32_contents: vec![1.0, 2.0], ..InferTensorContents::default() };
    let typed = request("FP32", 2, Some(floats));
    let mut raw = request("FP32", 2, None);
    raw.raw_input_contents.push(Bytes::from_static(&[0; 8]));
    for request in [typed, raw] {
        let message = Bytes::from(request.encode_to_vec());
        let decoded = infer(&message, &signature(Datatype::Fp32), &DecodeLimits::default());
        let bytes = &decoded.expect("a good request").request.inputs[0].bytes;
        assert!(message.as_ptr_range().contains(&bytes.as_ptr()));
    }
}

#[test]
fn elements_may_come_one_by_one() {
    // A field for each element, as proto2 writes lists.
    let contents = [&[0x10, 1][..], &[0x10, 2], &[0x12, 1, 3]].concat();
    let shape = [&[0x18, 3][..]].concat();
    let mut input = [&[0x0a, 1, b'A'][..], &[0x12, 5], b"INT32", &shape].concat();
    input.extend([0x2a, u8::try_from(contents.len()).expect("short")]);
    input.extend(&contents);
    let message = [&[0x2a, u8::try_from(input.len()).expect("short")][..], &input].concat();
    let decoded = decode_bytes(&message, Datatype::Int32).expect("a good request");
    let expected: Vec<u8> = [1i32, 2, 3].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(decoded.request.inputs[0].bytes, expected);

    let floats = [&[0x35][..], &1f32.to_le_bytes(), &[0x32, 4], &2f32.to_le_bytes()].concat();
    let message = Bytes::from(floats);
    for contents in [message.clone(), Bytes::from([&message[5..], &message[..5]].concat())] {
        let elements = contents::elements(&contents, &contents, Datatype::Fp32, &[2], 100).expect("floats");
        assert_eq!(elements.len(), 8);
    }
}

#[test]
fn numbers_out_of_range_are_refused() {
    for (datatype, contents, text) in [
        ("INT8", ints(&[0, 128]), "element 1 is 128, which is out of INT8's range"),
        ("INT8", ints(&[-129, 0]), "element 0 is -129, which is out of INT8's range"),
        ("INT16", ints(&[40_000, 0]), "element 0 is 40000, which is out of INT16's range"),
        ("UINT8", uints(&[256, 0]), "element 0 is 256, which is out of UINT8's range"),
        ("UINT16", uints(&[0, 65_536]), "element 1 is 65536, which is out of UINT16's range"),
    ] {
        let expected = Datatype::from_name(datatype).expect("a datatype");
        assert_eq!(told(decode(&request(datatype, 2, contents), expected)), format!("input 'A': {text}"));
    }
}

#[test]
fn contents_are_of_the_datatype_and_of_the_shape() {
    let both = {
        let mut both = request("INT32", 1, ints(&[1]));
        both.raw_input_contents.push(Bytes::from_static(&[0; 4]));
        both
    };
    let extra = {
        let mut extra = request("INT32", 1, None);
        extra.raw_input_contents.extend([Bytes::from_static(&[0; 4]), Bytes::new()]);
        extra
    };
    let negative = request("INT32", -1, ints(&[1]));
    let mut overflow = request("INT32", 4, None);
    overflow.inputs[0].shape = vec![i64::MAX, 4];
    let no_value = {
        let mut request = request("INT32", 0, None);
        request.parameters.insert("p".into(), InferParameter { parameter_choice: None });
        request
    };
    let mut shared = request("INT32", 1, None);
    let region = choice(ParameterChoice::StringParam("r".into()));
    shared.inputs[0].parameters.insert("shared_memory_region".into(), region);
    let mut reserved = request("INT32", 0, None);
    reserved.parameters.insert("triton_x".into(), choice(ParameterChoice::BoolParam(true)));
    for (request, text) in [
        (both, "send one of the two"),
        (extra, "has 1 inputs and 2 raw_input_contents"),
        (
            request("INT32", 1, uints(&[1])),
            "has 'uint_contents', but INT32 elements are sent in 'int_contents'",
        ),
        (request("INT32", 1, ints(&[1, 2])), "'contents' holds more than the 1 elements of its shape"),
        (request("INT32", 3, ints(&[1, 2])), "takes 12 bytes, got 8"),
        (request("INT32", 1, None), "takes 4 bytes, got 0"),
        (request("INT33", 1, ints(&[1])), "there is no datatype 'INT33'"),
        (negative, "a dimension of 'shape' is -1, expected 0 or more"),
        (overflow, "the product of shape [9223372036854775807,4] overflows"),
        (no_value, "parameter 'p' of the request has no value"),
        (shared, "shared memory is not offered"),
        (reserved, "'triton_' are reserved"),
    ] {
        let told = told(decode(&request, Datatype::Int32));
        assert!(told.contains(text), "{told}");
    }
    for datatype in [Datatype::Fp16, Datatype::Bf16] {
        let request = request(datatype.name(), 1, ints(&[1]));
        let told = told(decode(&request, datatype));
        assert!(told.contains("is sent in 'raw_input_contents' only"), "{told}");
    }
}

#[test]
fn small_messages_do_not_become_large_ones() {
    let limits = DecodeLimits { max_body_bytes: 1000, ..DecodeLimits::default() };
    // One byte each on the wire, eight in memory.
    let many = InferTensorContents { int64_contents: vec![0; 900], ..InferTensorContents::default() };
    let message = Bytes::from(request("INT64", 900, Some(many)).encode_to_vec());
    let error = infer(&message, &signature(Datatype::Int64), &limits).expect_err("to be refused");
    assert_eq!((error.kind(), error), (Kind::TooLarge, DecodeError::Tensors { limit: 4000 }));

    let limits = DecodeLimits::default();
    for (entry, what) in [([0x2a, 0], "datatype"), ([0x32, 0], "outputs"), ([0x3a, 0], "raw_input_contents")]
    {
        let message = Bytes::from(entry.repeat(1000));
        let error = infer(&message, &signature(Datatype::Int64), &limits).expect_err("to be refused");
        assert!(error.to_string().contains(what), "{error}");
    }
    let error = named(&[0x78, 0].repeat(MAX_FIELDS + 1)).expect_err("to be refused");
    assert!(error.to_string().contains("more than 4096 fields"));
}

#[test]
fn parameters_are_bounded_with_those_of_one_name_counted_each() {
    // `parameters`: { key "p", value { bool } }, again and again.
    let entry = [&[0x22, 7][..], &[0x0a, 1, b'p', 0x12, 2, 0x08, 1]].concat();
    let good = request("INT32", 1, ints(&[1])).encode_to_vec();
    for (count, fits) in [(256, true), (257, false)] {
        let message = [good.clone(), entry.repeat(count)].concat();
        let decoded = decode_bytes(&message, Datatype::Int32);
        assert_eq!(decoded.is_ok(), fits, "{count}");
        if !fits {
            assert!(told(decoded).contains("more than 256 parameters"));
        }
    }
}
