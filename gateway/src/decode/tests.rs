use proptest::prelude::*;

use super::*;
use crate::tensor::{Datatype, Parameter, Shape, TensorSpec};

pub(super) mod round_trip;

fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: Shape(shape.into()) }
}

/// One FP32 input `A` and one BYTES input `B`, both of any length.
fn signature() -> Signature {
    Signature {
        inputs: vec![spec("A", Datatype::Fp32, &[-1]), spec("B", Datatype::Bytes, &[-1])],
        outputs: vec![spec("X", Datatype::Fp32, &[-1])],
    }
}

fn with_header_length(length: &[u8], body: &[u8]) -> Result<Decoded, DecodeError> {
    let head = Head { inference_header_content_length: Some(length), content_encoding: None };
    infer(&head, Bytes::copy_from_slice(body), &signature(), &DecodeLimits::default())
}

fn decode(json: &str, binary: &[u8]) -> Result<Decoded, DecodeError> {
    with_header_length(json.len().to_string().as_bytes(), &[json.as_bytes(), binary].concat())
}

fn told(result: Result<Decoded, DecodeError>) -> String {
    let error = result.expect_err("to be refused");
    assert_eq!(error.kind(), Kind::Invalid);
    error.to_string()
}

/// Both inputs as binary tensors of those sizes.
fn binary_header(a_shape: &str, a_size: &str, b_shape: &str, b_size: &str) -> String {
    format!(
        r#"{{"inputs":[
            {{"name":"A","shape":[{a_shape}],"datatype":"FP32","parameters":{{"binary_data_size":{a_size}}}}},
            {{"name":"B","shape":[{b_shape}],"datatype":"BYTES","parameters":{{"binary_data_size":{b_size}}}}}]}}"#
    )
}

const A: &[u8] = &[0, 0, 128, 63];
const B: &[u8] = b"\x02\0\0\0hi\0\0\0\0";

#[test]
fn a_json_request_is_decoded() {
    let json = r#"{"id":"7","parameters":{"timeout":5,"p":true},"outputs":[{"name":"X"}],
        "inputs":[{"name":"B","shape":[1],"datatype":"BYTES","data":["é"]},
                  {"name":"A","shape":[1],"datatype":"FP32","data":[1],"parameters":{"q":"r"}}]}"#;
    let body = Bytes::from_static(json.as_bytes());
    let decoded =
        infer(&Head::default(), body, &signature(), &DecodeLimits::default()).expect("a good request");
    assert_eq!(decoded.timeout, Some(Duration::from_micros(5)));
    assert_eq!(decoded.reply.id.as_deref(), Some("7"));
    assert_eq!(decoded.request.id.as_deref(), Some("7"));
    assert_eq!(decoded.request.outputs, ["X"]);
    assert_eq!(decoded.request.parameters, [("p".into(), Parameter::Boolean(true))]);
    let [b, a] = decoded.request.inputs.as_slice() else { panic!("two inputs") };
    assert_eq!((b.name.as_str(), &b.bytes[..]), ("B", "\x02\0\0\0é".as_bytes()));
    assert_eq!((a.name.as_str(), &a.bytes[..]), ("A", A));
    assert_eq!(a.parameters, [("q".into(), Parameter::Text("r".into()))]);
}

#[test]
fn binary_tensors_are_slices_of_the_body() {
    let json = binary_header("1", "4", "2", "10");
    let body = Bytes::from([json.as_bytes(), A, B].concat());
    let length = json.len().to_string();
    let head = Head { inference_header_content_length: Some(length.as_bytes()), content_encoding: None };
    let decoded = infer(&head, body.clone(), &signature(), &DecodeLimits::default()).expect("a good request");
    let [a, b] = decoded.request.inputs.as_slice() else { panic!("two inputs") };
    assert_eq!((&a.bytes[..], &b.bytes[..]), (A, B));
    assert_eq!(a.bytes.as_ptr(), body[json.len()..].as_ptr());
    assert_eq!(b.bytes.as_ptr(), body[json.len() + 4..].as_ptr());
    assert!(a.parameters.is_empty());
}

#[test]
fn json_and_binary_inputs_mix_and_empty_tensors_are_legal() {
    let json = r#"{"inputs":[{"name":"A","shape":[0],"datatype":"FP32","data":[]},
        {"name":"B","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":10}}]}"#;
    assert!(decode(json, B).is_ok());
    assert!(decode(&binary_header("0", "0", "0", "0"), b"").is_ok());
}

#[test]
fn the_sizes_must_add_up_to_the_byte() {
    let header = || binary_header("1", "4", "2", "10");
    let all = [A, B].concat();
    let cases: [(String, &[u8], &str); 9] = [
        (
            header(),
            &all[..13],
            "input 'B': binary_data_size is 10, but 9 bytes are left behind the JSON header",
        ),
        (
            header(),
            &all[..2],
            "input 'A': binary_data_size is 4, but 2 bytes are left behind the JSON header",
        ),
        (
            header(),
            b"",
            "4, but 0 bytes are left behind the JSON header, is Inference-Header-Content-Length set?",
        ),
        (header(), &[&all[..], b"x"].concat(), "1 bytes follow the last binary tensor: the binary_data_size"),
        (binary_header("1", "4", "2", "0"), A, "shape [2] has 2 elements, the BYTES data holds 0"),
        (
            binary_header("1", "18446744073709551615", "2", "18446744073709551615"),
            &all,
            "input 'A': binary_data_size is 18446744073709551615, but 14 bytes are left",
        ),
        (binary_header("2", "4", "2", "10"), &all, "input 'A': shape [2] of FP32 takes 8 bytes, got 4"),
        (
            binary_header("1", "4", "3", "10"),
            &all,
            "input 'B': shape [3] has 3 elements, the BYTES data holds 2",
        ),
        (binary_header("4611686018427387904", "4", "2", "10"), &all, "input 'A': the product of shape"),
    ];
    for (json, binary, expected) in cases {
        let text = told(decode(&json, binary));
        assert!(text.contains(expected), "{text}");
    }
    let cut = [A, b"\x63\0\0\0hi\0\0\0\0"].concat();
    let text = told(decode(&header(), &cut));
    assert_eq!(text, "input 'B': BYTES element 0 is cut short: it announces 99 bytes, 6 are left");
}

#[test]
fn bool_bytes_are_0_or_1() {
    let signature = Signature { inputs: vec![spec("A", Datatype::Bool, &[2])], outputs: Vec::new() };
    let json =
        r#"{"inputs":[{"name":"A","shape":[2],"datatype":"BOOL","parameters":{"binary_data_size":2}}]}"#;
    let length = json.len().to_string();
    let head = Head { inference_header_content_length: Some(length.as_bytes()), content_encoding: None };
    for (binary, good) in [([0, 1], true), ([1, 2], false), ([255, 0], false)] {
        let body = Bytes::from([json.as_bytes(), &binary].concat());
        assert_eq!(infer(&head, body, &signature, &DecodeLimits::default()).is_ok(), good, "{binary:?}");
    }
}

#[test]
fn the_header_length_is_plain_digits_within_the_body() {
    let body = r#"{"inputs":[]}"#;
    for bad in [
        "",
        " ",
        "-1",
        "+13",
        "1e1",
        "13.0",
        " 13",
        "13 ",
        "13,13",
        "0x0d",
        "14",
        "9999",
        "9223372036854775808",
        "18446744073709551616",
        "99999999999999999999999999999999",
        "１３",
        "abc",
    ] {
        let text = told(with_header_length(bad.as_bytes(), body.as_bytes()));
        assert!(
            text.starts_with("Inference-Header-Content-Length must be a whole number from 0 to"),
            "{text}"
        );
    }
    let text = told(with_header_length(b"\xff\n", body.as_bytes()));
    assert!(text.ends_with("got '\u{fffd}\\n'"), "{text}");
    // The JSON is read up to that byte, wherever it points.
    assert!(told(with_header_length(b"12", body.as_bytes())).contains("at byte 12: the text ends"));
    let text = told(with_header_length(b"12", "{\"inputs\":\"é\"}".as_bytes()));
    assert!(text.contains("the JSON is not valid") || text.contains("must be an array"), "{text}");
    // The whole body is a fine length too.
    assert!(told(with_header_length(b"0013", body.as_bytes())).starts_with("input 'A': is missing"));
}

#[test]
fn a_raw_binary_request_is_answered_in_binary() {
    let signature = Signature { inputs: vec![spec("A", Datatype::Fp32, &[1, -1])], outputs: Vec::new() };
    let head = Head { inference_header_content_length: Some(b"0"), content_encoding: None };
    let body = Bytes::from([A, A].concat());
    let decoded = infer(&head, body.clone(), &signature, &DecodeLimits::default()).expect("a raw request");
    assert!(decoded.reply.binary_default);
    assert_eq!(decoded.request.inputs[0].shape, [1, 2]);
    assert_eq!(decoded.request.inputs[0].bytes.as_ptr(), body.as_ptr());
    assert!(told(with_header_length(b"0", b"")).contains("needs a model with one input, this one has 2"));
}

#[test]
fn binary_tensors_weigh_nothing_unless_their_elements_are_checked() {
    let numbers = Signature { inputs: vec![spec("A", Datatype::Fp32, &[-1])], outputs: vec![] };
    let weight = |header: Option<&[u8]>, encoding: Option<&[u8]>, length, signature: &Signature| {
        let head = Head { inference_header_content_length: header, content_encoding: encoding };
        super::weight(&head, length, signature)
    };
    assert_eq!(weight(Some(b"100"), None, 600_000, &numbers), 100);
    assert_eq!(weight(Some(b"0"), None, 600_000, &numbers), 0);
    assert_eq!(weight(Some(b"100"), None, 600_000, &signature()), 600_000, "there are texts");
    assert_eq!(weight(Some(b"100"), None, 5 << 20, &numbers), 5 << 20);
    assert_eq!(weight(Some(b"600001"), None, 600_000, &numbers), 600_000);
    assert_eq!(weight(None, None, 600_000, &numbers), 600_000);
    assert_eq!(weight(Some(b"100"), Some(b"gzip"), 600_000, &numbers), usize::MAX);
}

#[test]
fn a_compressed_body_is_sliced_after_decompression() {
    use std::io::Write as _;
    let json = binary_header("1", "4", "2", "10");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&[json.as_bytes(), A, B].concat()).expect("memory");
    let body = Bytes::from(encoder.finish().expect("memory"));
    let length = json.len().to_string();
    let head =
        Head { inference_header_content_length: Some(length.as_bytes()), content_encoding: Some(b"gzip") };
    assert!(infer(&head, body.clone(), &signature(), &DecodeLimits::default()).is_ok());
    let limits = DecodeLimits { max_body_bytes: 100, ..DecodeLimits::default() };
    let error = infer(&head, body.clone(), &signature(), &limits).expect_err("too large");
    assert_eq!(error.kind(), Kind::TooLarge);
    let head = Head { content_encoding: Some(b"br"), ..head };
    let error = infer(&head, body, &signature(), &limits).expect_err("not supported");
    assert_eq!(error.kind(), Kind::UnsupportedEncoding);
}

#[test]
fn the_signature_is_checked() {
    let json = r#"{"inputs":[{"name":"A","shape":[1],"datatype":"INT32","data":[1]},
                              {"name":"B","shape":[0],"datatype":"BYTES","data":[]}]}"#;
    assert_eq!(told(decode(json, b"")), "input 'A': datatype is INT32, the model expects FP32");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        head in proptest::option::of("[0-9]{1,3}"),
        encoding in proptest::option::of(proptest::sample::select(vec!["gzip", "deflate", "identity"])),
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let head = Head {
            inference_header_content_length: head.as_ref().map(String::as_bytes),
            content_encoding: encoding.map(str::as_bytes),
        };
        let _ = infer(&head, body.clone().into(), &signature(), &DecodeLimits::default());
    }

    #[test]
    fn no_binary_part_makes_it_panic(
        a in (0..4_u64, 0..20_u64),
        b in (0..4_u64, 0..20_u64),
        binary in proptest::collection::vec(0..4_u8, 0..40),
    ) {
        let [a_shape, a_size, b_shape, b_size] = [a.0, a.1, b.0, b.1].map(|number| number.to_string());
        let decoded = decode(&binary_header(&a_shape, &a_size, &b_shape, &b_size), &binary);
        if let Ok(decoded) = decoded {
            prop_assert_eq!(a.1 + b.1, binary.len() as u64);
            prop_assert_eq!(decoded.request.inputs[0].bytes.len() as u64, a.0 * 4);
        }
    }
}
