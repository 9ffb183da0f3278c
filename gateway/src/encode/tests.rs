use super::*;
use crate::{
    content_type::ContentType,
    reply::RequestedOutput,
    tensor::{Classes, Parameter, Parameters, Tensor},
};

fn tensor(name: &str, datatype: Datatype, shape: &[u64], bytes: &[u8]) -> Tensor {
    Tensor {
        name: name.into(),
        datatype,
        shape: shape.into(),
        parameters: Parameters::new(),
        bytes: Bytes::copy_from_slice(bytes),
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn encoded(outputs: Vec<Tensor>, reply: &Reply) -> Result<Encoded, EncodeError> {
    let response = InferResponse { parameters: Parameters::new(), outputs };
    infer("m", "1", &response, reply, None, NonFinite::Literal)
}

fn text(encoded: &Encoded) -> &str {
    std::str::from_utf8(&encoded.parts[0]).expect("JSON")
}

/// The text of one output's `data`.
fn data_of(output: Tensor, non_finite: NonFinite) -> Result<String, EncodeError> {
    let response = InferResponse { parameters: Parameters::new(), outputs: vec![output] };
    let encoded = infer("m", "1", &response, &Reply::default(), None, non_finite)?;
    let json = text(&encoded);
    let start = json.find("\"data\":").expect("data") + 7;
    Ok(json[start..json.len() - 3].to_owned())
}

#[test]
fn a_response_has_the_fields_in_tritons_order() {
    let output = || tensor("OUTPUT0", Datatype::Fp32, &[1, 4], &floats(&[1.0, 2.5, -3.0, 4.0]));
    let plain = encoded(vec![output()], &Reply::default()).expect("JSON");
    assert_eq!(
        text(&plain),
        r#"{"model_name":"m","model_version":"1","outputs":[{"name":"OUTPUT0","datatype":"FP32","shape":[1,4],"data":[1.0,2.5,-3.0,4.0]}]}"#
    );
    assert_eq!(plain.content_type, "application/json");
    assert_eq!(plain.inference_header_content_length, None);
    assert_eq!(plain.content_encoding, None);
    assert_eq!(plain.parts.len(), 1);

    let mut with_parameters = output();
    with_parameters.parameters.push(("p".into(), Parameter::Int64(-1)));
    let response = InferResponse {
        parameters: vec![("q".into(), Parameter::Boolean(true)), ("r".into(), Parameter::Double(0.5))],
        outputs: vec![with_parameters],
    };
    let reply = Reply { id: Some("a\"b".into()), ..Reply::default() };
    let full = infer("m", "v1", &response, &reply, None, NonFinite::Literal).expect("JSON");
    assert_eq!(
        text(&full),
        r#"{"id":"a\"b","model_name":"m","model_version":"v1","parameters":{"q":true,"r":0.5},"outputs":[{"name":"OUTPUT0","datatype":"FP32","shape":[1,4],"parameters":{"p":-1},"data":[1.0,2.5,-3.0,4.0]}]}"#
    );
}

#[test]
fn binary_outputs_follow_the_header_in_order_and_uncopied() {
    let mut a = tensor("a", Datatype::Fp32, &[2], &floats(&[1.0, 2.0]));
    a.parameters = vec![("binary_data_size".into(), Parameter::Int64(99)), ("p".into(), Parameter::Int64(1))];
    let outputs =
        vec![a, tensor("b", Datatype::Int8, &[1], &[7]), tensor("c", Datatype::Bf16, &[1], &[1, 2])];
    let named =
        |name: &str, binary| RequestedOutput { name: name.into(), binary, ..RequestedOutput::default() };
    let reply = Reply {
        outputs: vec![named("a", Some(true)), named("b", None), named("c", Some(true))],
        ..Reply::default()
    };
    let pointers: Vec<*const u8> = outputs.iter().map(|output| output.bytes.as_ptr()).collect();
    let encoded = encoded(outputs, &reply).expect("binary");
    assert_eq!(
        text(&encoded),
        r#"{"model_name":"m","model_version":"1","outputs":[{"name":"a","datatype":"FP32","shape":[2],"parameters":{"binary_data_size":8,"p":1}},{"name":"b","datatype":"INT8","shape":[1],"data":[7]},{"name":"c","datatype":"BF16","shape":[1],"parameters":{"binary_data_size":2}}]}"#
    );
    assert_eq!(encoded.content_type, "application/octet-stream");
    assert_eq!(encoded.inference_header_content_length, Some(encoded.parts[0].len()));
    let parts: Vec<*const u8> = encoded.parts[1..].iter().map(|part| part.as_ptr()).collect();
    assert_eq!(parts, [pointers[0], pointers[2]]);
}

#[test]
fn binary_outputs_weigh_nothing_unless_they_are_compressed() {
    let outputs =
        vec![tensor("a", Datatype::Uint8, &[3], &[1; 3]), tensor("b", Datatype::Uint8, &[5], &[1; 5])];
    let response = InferResponse { outputs, ..InferResponse::default() };
    let binary = Reply { binary_default: true, ..Reply::default() };
    assert_eq!(weight(&response, &Reply::default(), None), 8);
    assert_eq!(weight(&response, &binary, None), 0);
    assert_eq!(weight(&response, &binary, Some(b"gzip")), 8);
}

#[test]
fn empty_binary_outputs_leave_a_json_response() {
    let reply = Reply { binary_default: true, ..Reply::default() };
    let encoded = encoded(vec![tensor("a", Datatype::Fp32, &[0], &[])], &reply).expect("JSON");
    assert!(text(&encoded).ends_with(r#""shape":[0],"parameters":{"binary_data_size":0}}]}"#));
    assert_eq!((encoded.content_type, encoded.inference_header_content_length), ("application/json", None));
    assert_eq!(encoded.parts.len(), 1);
}

#[test]
fn every_datatype_is_written_from_its_raw_layout() {
    let cases: [(Datatype, &[u8], &str); 13] = [
        (Datatype::Bool, &[1, 0], "[true,false]"),
        (Datatype::Uint8, &[0, 255], "[0,255]"),
        (Datatype::Uint16, &[0, 0, 255, 255], "[0,65535]"),
        (Datatype::Uint32, &[0, 0, 0, 0, 255, 255, 255, 255], "[0,4294967295]"),
        (Datatype::Uint64, &[255; 16], "[18446744073709551615,18446744073709551615]"),
        (Datatype::Int8, &[128, 127], "[-128,127]"),
        (Datatype::Int16, &[0, 128, 255, 255], "[-32768,-1]"),
        (Datatype::Int32, &[0, 0, 0, 128, 1, 0, 0, 0], "[-2147483648,1]"),
        (Datatype::Int64, &[0, 0, 0, 0, 0, 0, 0, 128, 1, 0, 0, 0, 0, 0, 0, 0], "[-9223372036854775808,1]"),
        (Datatype::Fp16, &[0, 0x3c, 0, 0x80], "[1.0,-0.0]"),
        (Datatype::Fp32, &[0, 0, 128, 63, 205, 204, 204, 61], "[1.0,0.1]"),
        (Datatype::Fp64, &[154, 153, 153, 153, 153, 153, 185, 63, 1, 0, 0, 0, 0, 0, 0, 0], "[0.1,5e-324]"),
        (Datatype::Bytes, b"\x01\0\0\0a\0\0\0\0", r#"["a",""]"#),
    ];
    for (datatype, raw, expected) in cases {
        let written = data_of(tensor("x", datatype, &[2], raw), NonFinite::Literal);
        assert_eq!(written.as_deref(), Ok(expected), "{datatype}");
        let empty = data_of(tensor("x", datatype, &[0], &[]), NonFinite::Literal);
        assert_eq!(empty.as_deref(), Ok("[]"), "{datatype}");
    }
}

#[test]
fn non_finite_floats_are_literals_or_null() {
    let bytes = floats(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN, 1.0]);
    let output = || tensor("x", Datatype::Fp32, &[5], &bytes);
    assert_eq!(data_of(output(), NonFinite::Literal).as_deref(), Ok("[NaN,Infinity,-Infinity,NaN,1.0]"));
    assert_eq!(data_of(output(), NonFinite::Null).as_deref(), Ok("[null,null,null,null,1.0]"));
}

#[test]
fn strings_are_escaped_where_json_needs_it() {
    let element = "\"\\/\u{8}\u{c}\n\r\t\0\u{1f}\u{7f}é☃😀";
    let raw = [&u32::try_from(element.len()).expect("short").to_le_bytes()[..], element.as_bytes()].concat();
    let written = data_of(tensor("x", Datatype::Bytes, &[1], &raw), NonFinite::Literal).expect("text");
    assert_eq!(written, "[\"\\\"\\\\/\\u0008\\u000c\\n\\r\\t\\u0000\\u001f\u{7f}é☃😀\"]");
    let read: Vec<String> = serde_json::from_str(&written).expect("JSON");
    assert_eq!(read, [element]);
}

#[test]
fn what_json_cannot_carry_is_a_request_for_binary() {
    let bf16 = encoded(vec![tensor("x", Datatype::Bf16, &[1], &[0, 0])], &Reply::default());
    let text = bf16.expect_err("no BF16 in JSON").to_string();
    assert!(
        text.starts_with("output 'x' is BF16, which JSON does not carry: request binary output"),
        "{text}"
    );
    let raw = b"\x01\0\0\0a\x02\0\0\0\xff\0";
    let bytes = encoded(vec![tensor("x", Datatype::Bytes, &[2], raw)], &Reply::default());
    assert_eq!(bytes, Err(EncodeError::NotUtf8 { name: "x".into(), index: 1 }));
    let reply = Reply { binary_default: true, ..Reply::default() };
    assert!(encoded(vec![tensor("x", Datatype::Bytes, &[2], raw)], &reply).is_ok());
}

#[test]
fn json_parameters_are_spliced_only_if_they_are_json() {
    let parameter = |value| ("p\n".to_owned(), value);
    let cases = [
        (Parameter::Json(r#"{"a":[1,null]}"#.into()), r#"{"a":[1,null]}"#),
        (Parameter::Json("1}],\"x\":[{".into()), r#""1}],\"x\":[{""#),
        (Parameter::Json("1 2".into()), "\"1 2\""),
        (Parameter::Json(String::new()), "\"\""),
        (Parameter::Json("NaN".into()), "\"NaN\""),
        (Parameter::Text("null".into()), "\"null\""),
        (Parameter::Uint64(u64::MAX), "18446744073709551615"),
        (Parameter::Double(f64::NAN), "NaN"),
    ];
    for (value, expected) in cases {
        let response = InferResponse { parameters: vec![parameter(value)], outputs: Vec::new() };
        let encoded = infer("m", "1", &response, &Reply::default(), None, NonFinite::Literal).expect("JSON");
        let expected = format!(
            "{{\"model_name\":\"m\",\"model_version\":\"1\",\"parameters\":{{\"p\\n\":{expected}}},\"outputs\":[]}}"
        );
        assert_eq!(text(&encoded), expected);
    }
}

#[test]
fn the_whole_body_is_compressed_and_the_header_length_is_not() {
    let outputs = vec![tensor("x", Datatype::Fp32, &[1000], &[0; 4000])];
    let response = InferResponse { parameters: Parameters::new(), outputs };
    let reply = Reply { binary_default: true, ..Reply::default() };
    let plain = infer("m", "1", &response, &reply, None, NonFinite::Literal).expect("binary");
    for encoding in ["gzip", "deflate"] {
        let accept = Some(encoding.as_bytes());
        let compressed = infer("m", "1", &response, &reply, accept, NonFinite::Literal).expect("binary");
        assert_eq!(compressed.content_encoding, Some(encoding));
        assert_eq!(compressed.inference_header_content_length, plain.inference_header_content_length);
        assert_eq!(compressed.content_type, plain.content_type);
        assert_eq!(compressed.parts.len(), 1);
        assert!(compressed.parts[0].len() < 500);
    }
}

/// One BYTES output of the elements `hi` and 0xff, as it is after the request's wishes, or what the client is told.
fn as_asked_of(own: Option<&str>, asked: Option<ContentType>, of_request: Option<ContentType>) -> String {
    let mut output = tensor("X", Datatype::Bytes, &[2], b"\x02\0\0\0hi\x01\0\0\0!");
    output.parameters.extend(own.map(|own| ("content_type".to_owned(), Parameter::Text(own.into()))));
    let requested = RequestedOutput { name: "X".into(), content_type: asked, ..RequestedOutput::default() };
    let outputs = asked.map(|_| requested).into_iter().collect();
    let reply = Reply { content_type: of_request, outputs, ..Reply::default() };
    let mut response = InferResponse { parameters: Parameters::new(), outputs: vec![output] };
    as_asked(&mut response, &reply, &Classes::default(), 0).expect("an answer");
    let encoded = infer("m", "1", &response, &reply, None, NonFinite::Literal).expect("JSON");
    let json = text(&encoded);
    json[json.find("[2]").expect("a shape") + 3..json.len() - 3].to_owned()
}

#[test]
fn a_content_type_is_followed_where_it_is_named_and_nowhere_else() {
    use ContentType::{Base64, Datetime, Np, Other, Pd, Str};
    let plain = r#","data":["hi","!"]"#;
    let labelled =
        |label: &str, data: &str| format!(r#","parameters":{{"content_type":"{label}"}},"data":[{data}]"#);
    let coded = labelled("base64", r#""aGk=","IQ==""#);
    assert_eq!(as_asked_of(None, None, None), plain);
    assert_eq!(as_asked_of(None, Some(Base64), None), coded);
    assert_eq!(as_asked_of(None, None, Some(Base64)), coded);
    assert_eq!(as_asked_of(Some("base64"), None, None), coded);
    assert_eq!(as_asked_of(Some("str"), Some(Base64), None), coded);
    // Who names another one gets that.
    assert_eq!(as_asked_of(None, Some(Other), Some(Base64)), plain);
    assert_eq!(as_asked_of(Some("base64"), Some(Str), Some(Base64)), labelled("str", r#""hi","!""#));
    assert_eq!(as_asked_of(Some("base64"), Some(Other), None), plain);
    assert_eq!(as_asked_of(Some("str"), None, Some(Base64)), labelled("str", r#""hi","!""#));
    // A label is given where the model gives none and it is true.
    assert_eq!(as_asked_of(None, Some(Datetime), None), labelled("datetime", r#""hi","!""#));
    assert_eq!(as_asked_of(Some("own"), Some(Str), None), labelled("own", r#""hi","!""#));
    assert_eq!(as_asked_of(None, Some(Np), None), labelled("np", r#""hi","!""#));
    assert_eq!(as_asked_of(None, Some(Pd), None), plain);
    assert_eq!(as_asked_of(None, None, Some(Str)), plain);
}

#[test]
fn arrays_and_columns_have_null_for_what_json_has_no_number_for() {
    let written = |of_request, own: Option<&str>| {
        let mut output = tensor("X", Datatype::Fp32, &[3], &floats(&[f32::NAN, f32::INFINITY, 1.0]));
        output.parameters.extend(own.map(|own| ("content_type".to_owned(), Parameter::Text(own.into()))));
        let reply = Reply { content_type: of_request, ..Reply::default() };
        let encoded = encoded(vec![output, tensor("Y", Datatype::Fp32, &[1], &floats(&[f32::NAN]))], &reply);
        let encoded = encoded.expect("JSON");
        let data =
            text(&encoded).split("\"data\":").skip(1).map(|data| data.split(']').next().unwrap_or_default());
        data.collect::<String>()
    };
    assert_eq!(written(None, None), "[NaN,Infinity,1.0[NaN");
    assert_eq!(written(Some(ContentType::Pd), None), "[null,null,1.0[null");
    assert_eq!(written(Some(ContentType::Np), None), "[null,null,1.0[null");
    assert_eq!(written(None, Some("np")), "[null,null,1.0[NaN");
    assert_eq!(written(Some(ContentType::Str), None), "[NaN,Infinity,1.0[NaN");
}

#[test]
fn the_best_classes_are_sent_as_texts() {
    let output = tensor("X", Datatype::Fp32, &[1, 4], &floats(&[1.0, 2.5, -3.0, 4.0]));
    let requested =
        RequestedOutput { name: "X".into(), classification: Some(2), ..RequestedOutput::default() };
    let mut reply = Reply { outputs: vec![requested], ..Reply::default() };
    let mut response = InferResponse { parameters: Parameters::new(), outputs: vec![output] };
    as_asked(&mut response, &reply, &Classes::default(), 99).expect("classes");
    let json = infer("identity", "1", &response, &reply, None, NonFinite::Literal).expect("JSON");
    // Triton's own answer.
    assert_eq!(
        text(&json),
        r#"{"model_name":"identity","model_version":"1","outputs":[{"name":"OUTPUT0","datatype":"BYTES","shape":[2],"data":["4.000000:3","2.500000:1"]}]}"#
            .replace("OUTPUT0", "X")
    );
    reply.outputs[0].binary = Some(true);
    let binary = infer("identity", "1", &response, &reply, None, NonFinite::Literal).expect("binary");
    assert_eq!(&binary.parts[1][..], b"\x0a\0\0\x004.000000:3\x0a\0\0\x002.500000:1");
}

fn generated(response: &InferResponse, reply: &Reply, form: Generated<'_>) -> String {
    let encoded = generate("m", "1", response, reply, form, NonFinite::Literal).expect("JSON");
    String::from_utf8(encoded.parts.concat()).expect("UTF-8")
}

const TEXT: Generated<'_> = Generated::Text { accept_encoding: None };

#[test]
fn generated_outputs_are_keys_and_lone_elements_have_no_array() {
    let outputs = vec![
        tensor("text_output", Datatype::Bytes, &[1, 1], b"\x02\0\0\0hi"),
        tensor("scores", Datatype::Fp32, &[2], &floats(&[0.5, f32::NAN])),
        tensor("none", Datatype::Int8, &[0], &[]),
    ];
    let parameters = vec![
        ("finish".into(), Parameter::Text("stop".into())),
        ("model_name".into(), Parameter::Text("another".into())),
        ("scores".into(), Parameter::Int64(1)),
    ];
    let response = InferResponse { parameters, outputs };
    let reply = Reply { id: Some("7".into()), form: Form::Generate, ..Reply::default() };
    assert_eq!(
        generated(&response, &reply, TEXT),
        r#"{"id":"7","model_name":"m","model_version":"1","finish":"stop","text_output":"hi","scores":[0.5,NaN],"none":[]}"#
    );
    let clash =
        InferResponse { parameters: vec![], outputs: vec![tensor("model_name", Datatype::Int8, &[1], &[7])] };
    let reply = Reply { form: Form::Generate, ..Reply::default() };
    assert_eq!(generated(&clash, &reply, TEXT), r#"{"model_version":"1","model_name":7}"#);
    let bf16 =
        InferResponse { parameters: vec![], outputs: vec![tensor("X", Datatype::Bf16, &[1], &[0, 0])] };
    assert!(generate("m", "1", &bf16, &reply, TEXT, NonFinite::Literal).is_err());
}

#[test]
fn an_event_is_one_line_whatever_the_model_answers() {
    let parameters = vec![("own".into(), Parameter::Json("{\"a\":\r\n\n1}".into()))];
    let outputs = vec![tensor("X", Datatype::Bytes, &[1], b"\x09\0\0\0a\n\ndata: ")];
    let response = InferResponse { parameters, outputs };
    let reply = Reply { form: Form::Generate, ..Reply::default() };
    let event = generated(&response, &reply, Generated::Event);
    let json = event.strip_prefix("data: ").and_then(|event| event.strip_suffix("\n\n")).expect("an event");
    assert_eq!(json, r#"{"model_name":"m","model_version":"1","own":{"a":   1},"X":"a\n\ndata: "}"#);
    let infer = generated(&response, &Reply::default(), Generated::Event);
    assert!(infer.starts_with(r#"data: {"model_name":"m","model_version":"1","parameters":"#), "{infer}");
    assert_eq!(infer.matches('\n').count(), 2);
    let encoded =
        generate("m", "1", &response, &reply, Generated::Event, NonFinite::Literal).expect("an event");
    assert_eq!(encoded.content_type, "text/event-stream; charset=utf-8");
    let gzip = Generated::Text { accept_encoding: Some(b"gzip") };
    let encoded = generate("m", "1", &response, &reply, gzip, NonFinite::Literal).expect("JSON");
    assert_eq!(encoded.content_encoding, Some("gzip"));
}

#[test]
fn the_classes_of_all_outputs_together_are_bounded() {
    // Each output's lists alone would fit.
    let items = 10_000_u64;
    let output = |name: &str| Tensor {
        name: name.into(),
        datatype: Datatype::Uint8,
        shape: vec![items, 1],
        parameters: Vec::new(),
        bytes: vec![7; 10_000].into(),
    };
    let asked = |name: &str| RequestedOutput {
        name: name.into(),
        binary: None,
        classification: Some(1),
        content_type: None,
    };
    let labels: std::sync::Arc<[Box<str>]> = [Box::from("x".repeat(1000))].into();
    let classes = Classes {
        batched: true,
        labels: [("A".to_owned(), std::sync::Arc::clone(&labels)), ("B".to_owned(), labels)].into(),
    };
    for (names, fits) in [(&["A"][..], true), (&["A", "B"], false)] {
        let outputs = names.iter().map(|name| output(name)).collect();
        let mut response = InferResponse { parameters: Vec::new(), outputs };
        let outputs = names.iter().map(|name| asked(name)).collect();
        let reply = Reply { outputs, ..Reply::default() };
        let listed = as_asked(&mut response, &reply, &classes, 1 << 30);
        assert_eq!(listed.is_ok(), fits, "{names:?}: {listed:?}");
    }
}
