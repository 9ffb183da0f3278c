mod properties;

use super::*;
use crate::{content_type::ContentType, decode::Kind};

fn parse(json: &str) -> Result<Header, DecodeError> {
    header(json.as_bytes(), &DecodeLimits::default())
}

fn told(json: &str) -> String {
    let error = parse(json).expect_err("to be refused");
    let shared_memory = matches!(error, DecodeError::SharedMemory { .. });
    assert_eq!(error.kind(), if shared_memory { Kind::NotOffered } else { Kind::Invalid });
    error.to_string()
}

/// A request with one input `X` of that datatype, shape and data.
fn with_data(datatype: &str, shape: &str, data: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"X","datatype":"{datatype}","shape":{shape},"data":{data}}}]}}"#)
}

fn bytes_of(datatype: &str, shape: &str, data: &str) -> Result<Vec<u8>, String> {
    let mut header = parse(&with_data(datatype, shape, data)).map_err(|error| error.to_string())?;
    match header.inputs.remove(0).content {
        Content::Json(bytes) => Ok(bytes),
        Content::Binary { .. } => Err("binary".into()),
    }
}

fn refused(datatype: &str, shape: &str, data: &str) -> String {
    bytes_of(datatype, shape, data).expect_err("to be refused")
}

#[test]
fn every_datatype_is_parsed_into_its_raw_layout() {
    let cases: [(&str, &str, &[u8]); 13] = [
        ("BOOL", "[true, false]", &[1, 0]),
        ("UINT8", "[0,255]", &[0, 255]),
        ("UINT16", "[1,65535]", &[1, 0, 255, 255]),
        ("UINT32", "[1,4294967295]", &[1, 0, 0, 0, 255, 255, 255, 255]),
        (
            "UINT64",
            "[1,18446744073709551615]",
            &[1, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255],
        ),
        ("INT8", "[-128,127]", &[128, 127]),
        ("INT16", "[-32768,-1]", &[0, 128, 255, 255]),
        ("INT32", "[-2147483648,-0]", &[0, 0, 0, 128, 0, 0, 0, 0]),
        ("INT64", "[-9223372036854775808,1]", &[0, 0, 0, 0, 0, 0, 0, 128, 1, 0, 0, 0, 0, 0, 0, 0]),
        ("FP16", "[1,-0.5]", &[0, 0x3c, 0, 0xb8]),
        ("FP32", "[1,-2.5]", &[0, 0, 128, 63, 0, 0, 32, 192]),
        ("FP64", "[1,-0.0]", &[0, 0, 0, 0, 0, 0, 240, 63, 0, 0, 0, 0, 0, 0, 0, 128]),
        ("BYTES", r#"["ab",""]"#, &[2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0]),
    ];
    for (datatype, data, raw) in cases {
        assert_eq!(bytes_of(datatype, "[2]", data).as_deref(), Ok(raw), "{datatype}");
    }
}

#[test]
fn floats_take_null_and_the_literals() {
    let bytes = bytes_of("FP32", "[5]", "[NaN, null, Infinity, -Infinity, 1e39]").expect("floats");
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert!(values[0].is_nan() && values[1].is_nan());
    assert_eq!(values[2..], [f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY]);
    for datatype in ["FP16", "FP64"] {
        assert!(bytes_of(datatype, "[4]", "[NaN,null,Infinity,-Infinity]").is_ok());
    }
    assert_eq!(
        refused("FP32", "[1]", "[1e999]"),
        "input 'X': element 0 of 'data' is 1e999, which is beyond the range of FP64 and so of FP32"
    );
    for (data, position) in [("[nan]", 61), ("[Inf]", 61), ("[-Infinit]", 61), ("[-]", 61), ("[NaN1]", 64)] {
        let text = refused("FP32", "[1]", data);
        assert!(text.starts_with(&format!("the JSON is not valid at byte {position}: ")), "{data}: {text}");
    }
}

#[test]
fn nesting_is_free_but_the_count_is_not() {
    let flat = bytes_of("UINT8", "[2,2]", "[1,2,3,4]");
    for data in [
        "[[1,2],[3,4]]",
        "[[1],[2,3,4]]",
        "[1,[2,[3]],4]",
        " [ [ ] , [ 1,2 ],3,\n\t\r4 ] ",
        "[[[[1,2,3,4]]]]",
    ] {
        assert_eq!(bytes_of("UINT8", "[2,2]", data), flat, "{data}");
    }
    assert_eq!(refused("UINT8", "[2,2]", "[1,2,3]"), "input 'X': shape [2,2] has 4 elements, 'data' holds 3");
    assert_eq!(
        refused("UINT8", "[2,2]", "[1,2,3,4,5]"),
        "input 'X': shape [2,2] has 4 elements, 'data' holds more"
    );
    assert_eq!(refused("UINT8", "[1]", "[]"), "input 'X': shape [1] has 1 elements, 'data' holds 0");
    assert_eq!(
        refused("BYTES", "[1]", "[\"a\",\"b\"]"),
        "input 'X': shape [1] has 1 elements, 'data' holds more"
    );
    assert_eq!(bytes_of("FP32", "[0,3]", "[]"), Ok(vec![]));
    assert_eq!(
        refused("FP32", "[18446744073709551615,0]", "[[],[]]"),
        "input 'X': the product of shape [9223372036854775807,0] overflows"
    );
    assert_eq!(bytes_of("INT8", "[]", "[7]"), Ok(vec![7]));
}

#[test]
fn elements_of_another_kind_or_range_are_named() {
    let cases = [
        ("UINT8", "[256]", "element 0 of 'data' is 256, which is out of range for UINT8"),
        ("INT8", "[-129]", "element 0 of 'data' is -129, which is out of range for INT8"),
        ("UINT64", "[-1]", "element 0 of 'data' is -1, which is out of range for UINT64"),
        ("UINT64", "[18446744073709551616]", "is 18446744073709551616, which is out of range for UINT64"),
        ("INT64", "[9223372036854775808]", "is 9223372036854775808, which is out of range for INT64"),
        ("INT32", "[1.5]", "element 0 of 'data' is 1.5, which is not an integer, as is needed for INT32"),
        ("INT32", "[1e2]", "element 0 of 'data' is 1e2, which is not an integer, as is needed for INT32"),
        ("INT32", "[null]", "element 0 of 'data' is null, INT32 takes an integer"),
        ("INT32", "[true]", "element 0 of 'data' is a boolean, INT32 takes an integer"),
        ("FP32", "[\"1\"]", "element 0 of 'data' is a string, FP32 takes a number"),
        ("FP32", "[\"NaN\"]", "element 0 of 'data' is a string, FP32 takes a number"),
        ("FP32", "[true]", "element 0 of 'data' is a boolean, FP32 takes a number"),
        ("FP32", "[{}]", "element 0 of 'data' is an object, FP32 takes a number"),
        ("BOOL", "[1]", "element 0 of 'data' is a number, BOOL takes true or false"),
        ("BOOL", "[\"true\"]", "element 0 of 'data' is a string, BOOL takes true or false"),
        ("BYTES", "[1]", "element 0 of 'data' is a number, BYTES takes a string"),
        ("BYTES", "[null]", "element 0 of 'data' is null, BYTES takes a string"),
        ("BF16", "[1]", "JSON does not carry BF16: send it as a binary tensor"),
        ("FP32", "1", "'data' must be an array, got a number at byte 60"),
        ("FP32", "{}", "'data' must be an array, got an object at byte 60"),
    ];
    for (datatype, data, expected) in cases {
        let text = refused(datatype, "[1]", data);
        assert!(text.starts_with("input 'X': ") && text.ends_with(expected), "{text}");
    }
    let long = format!("[1,{}]", "9".repeat(100_000));
    let text = refused("INT32", "[2]", &long);
    assert!(text.contains("element 1") && text.len() < 200, "{text}");
}

#[test]
fn strings_are_decoded() {
    let element =
        |text: &str| bytes_of("BYTES", "[1]", &format!("[{text}]")).map(|bytes| bytes[4..].to_vec());
    assert_eq!(element(r#""w\u00f6rld \u2603 ☃""#).as_deref(), Ok("wörld ☃ ☃".as_bytes()));
    assert_eq!(element(r#""\ud83d\ude00""#).as_deref(), Ok("😀".as_bytes()));
    assert_eq!(element(r#""a\u0000b\"\\\/\b\f\n\r\t""#).as_deref(), Ok(&b"a\0b\"\\/\x08\x0c\n\r\t"[..]));
    assert_eq!(element(&format!("{:?}", "x".repeat(100_000))).map(|bytes| bytes.len()), Ok(100_000));
    for bad in [r#""\ud83d""#, r#""\ude00""#, r#""\ud83d\u0041""#, r#""\x""#, r#""\u12""#, "\"\n\"", "\"a"] {
        assert!(element(bad).is_err_and(|text| text.starts_with("the JSON is not valid at byte ")), "{bad}");
    }
    let [before, after] = [&with_data("BYTES", "[1]", "[\"")[..60], "\"]}]}"];
    let invalid = [before.as_bytes(), b"\xff", after.as_bytes()].concat();
    assert!(matches!(
        header(&invalid, &DecodeLimits::default()),
        Err(DecodeError::Json { position: 60.., .. })
    ));
}

#[test]
fn data_may_come_before_what_describes_it() {
    for json in [
        r#"{"inputs":[{"data":[[1,NaN],[null]],"name":"X","datatype":"FP32","shape":[3],"more":{"a":[1]}}],"id":"7"}"#,
        r#"{"inputs":[{"shape":[3],"data":[1,NaN,null],"datatype":"FP32","name":"X"}],"id":"7"}"#,
    ] {
        let header = parse(json).expect("a request");
        assert_eq!(header.reply.id.as_deref(), Some("7"));
        assert!(matches!(&header.inputs[0].content, Content::Json(bytes) if bytes.len() == 12));
    }
    let brackets =
        r#"{"inputs":[{"data":[["a]\"["],[],["[[","\\"]],"name":"X","datatype":"BYTES","shape":[3]}]}"#;
    let header = parse(brackets).expect("a request");
    assert!(matches!(&header.inputs[0].content, Content::Json(bytes) if bytes.len() == 4 * 3 + 4 + 2 + 1));
    for open in ["[", "[1", "[1}", "[1,[2]", "[\"a]", "[1]]", "[1}]", "[1,]", "[\"a]\"]"] {
        let json = format!(r#"{{"inputs":[{{"data":{open},"name":"X","datatype":"FP32","shape":[1]}}]}}"#);
        assert!(parse(&json).is_err(), "{json}");
    }
    let deep = format!(r#"{{"inputs":[{{"data":{},"name":"X"}}]}}"#, "[".repeat(1 << 20));
    assert!(told(&deep).contains("nested more than"), "{}", told(&deep));
    let late = r#"{"inputs":[{"data":["a"],"name":"X","datatype":"FP32","shape":[1]}]}"#;
    assert_eq!(told(late), "input 'X': element 0 of 'data' is a string, FP32 takes a number");
    let scalar = r#"{"inputs":[{"data":5,"name":"X","datatype":"FP32","shape":[1]}]}"#;
    assert_eq!(told(scalar), "input 'X': 'data' must be an array, got a number at byte 19");
}

#[test]
fn an_input_needs_its_fields_and_one_source_of_bytes() {
    let cases = [
        (r#"{"datatype":"FP32","shape":[1],"data":[1]}"#, "an entry of 'inputs' has no 'name'"),
        (r#"{"name":"X","shape":[1],"data":[1]}"#, "input 'X': has no 'datatype'"),
        (r#"{"name":"X","datatype":"FP32","data":[1]}"#, "input 'X': has no 'shape'"),
        (r#"{"name":"X","datatype":"FP32","shape":[1]}"#, "or the parameter 'binary_data_size', got neither"),
        (r#"{"name":"X","datatype":"FP32","shape":[1],"data":null}"#, "'binary_data_size', got neither"),
        (
            r#"{"name":"X","datatype":"FP32","shape":[1],"data":[1],"parameters":{"binary_data_size":4}}"#,
            "got both",
        ),
        (
            r#"{"name":"X","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":-4}}"#,
            "'binary_data_size' must be a whole number of bytes",
        ),
        (
            r#"{"name":"X","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4.0}}"#,
            "'binary_data_size' must be a whole number of bytes",
        ),
        (
            r#"{"name":"X","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":"4"}}"#,
            "'binary_data_size' must be a whole number of bytes",
        ),
        (
            r#"{"name":"X","datatype":"FP32","shape":[1],"parameters":{"shared_memory_region":"r"}}"#,
            "shared memory is not offered: send the tensor in the request",
        ),
        (
            r#"{"name":"X","datatype":"fp32","shape":[1],"data":[1]}"#,
            "there is no datatype 'fp32', use one of BOOL,",
        ),
        (r#"{"name":"X","datatype":7}"#, "'datatype' must be a string, got a number at byte"),
        (r#"{"name":7}"#, "'name' must be a string, got a number at byte"),
        (r#"{"name":"X","shape":4}"#, "'shape' must be an array, got a number at byte"),
        (r#"{"name":"X","shape":[-1]}"#, "must be an integer from 0 to 18446744073709551615, got -1"),
        (r#"{"name":"X","shape":[1.0]}"#, "must be an integer from 0 to 18446744073709551615, got 1.0"),
        (r#"{"name":"X","shape":[1e2]}"#, "must be an integer from 0 to 18446744073709551615, got 1e2"),
        (r#"{"name":"X","shape":["1"]}"#, "must be a number, got a string at byte"),
        (r#"{"name":"X","shape":[99999999999999999999]}"#, "got 99999999999999999999"),
        (
            r#"{"name":"X","shape":[9223372036854775807,4]}"#,
            "the product of shape [9223372036854775807,4] overflows",
        ),
        (
            r#"{"name":"X","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}"#,
            "'shape' has more than 16 dimensions",
        ),
        (r#"{"name":"X","name":"X"}"#, "an entry of 'inputs' has the key 'name' twice"),
        (r#"[]"#, "an entry of 'inputs' must be an object, got an array at byte"),
    ];
    for (input, expected) in cases {
        let text = told(&format!("{{\"inputs\":[{input}]}}"));
        assert!(text.contains(expected), "{input}: {text}");
    }
}

#[test]
fn a_huge_shape_reserves_no_more_than_its_json_can_fill() {
    let shape = format!("[{}]", u64::MAX / 8);
    let text = refused("FP64", &shape, "[1,2]");
    assert!(text.ends_with("'data' holds 2"), "{text}");
    assert!(refused("BYTES", &shape, "[\"a\"]").ends_with("'data' holds 1"));
    let bytes = bytes_of("FP64", "[3]", &format!("[1,2,3{}]", " ".repeat(10_000))).expect("three");
    assert!(bytes.capacity() <= 24, "{}", bytes.capacity());
}

#[test]
fn parameters_keep_their_type_and_order() {
    let header = parse(
        r#"{"inputs":[],"parameters":{"s":"t\n","i":-7,"u":18446744073709551615,"d":1.50,"e":1e3,"b":true,
            "big":123456789012345678901234567890,"n":null,"l":[1, {"x":"\u00e9"}],"o":{"k":[]},"":0,
            "sequence_id":1,"priority":2}}"#,
    )
    .expect("a request");
    let expected: [(&str, Parameter); 13] = [
        ("s", Parameter::Text("t\n".into())),
        ("i", Parameter::Int64(-7)),
        ("u", Parameter::Uint64(u64::MAX)),
        ("d", Parameter::Double(1.5)),
        ("e", Parameter::Double(1000.0)),
        ("b", Parameter::Boolean(true)),
        ("big", Parameter::Double(123_456_789_012_345_678_901_234_567_890.0)),
        ("n", Parameter::Json("null".into())),
        ("l", Parameter::Json(r#"[1, {"x":"\u00e9"}]"#.into())),
        ("o", Parameter::Json(r#"{"k":[]}"#.into())),
        ("", Parameter::Int64(0)),
        ("sequence_id", Parameter::Int64(1)),
        ("priority", Parameter::Int64(2)),
    ];
    assert_eq!(header.parameters, expected.map(|(name, value)| (name.into(), value)));
}

#[test]
fn what_is_addressed_to_the_gateway_is_taken_out() {
    let header = parse(
        r#"{"parameters":{"timeout":1500,"binary_data_output":true,"x":1},
            "inputs":[{"name":"X","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4,"y":2}}]}"#,
    )
    .expect("a request");
    assert_eq!(header.timeout, Some(Duration::from_micros(1500)));
    assert!(header.reply.binary_default);
    assert_eq!(header.parameters, [("x".into(), Parameter::Int64(1))]);
    assert_eq!(header.inputs[0].parameters, [("y".into(), Parameter::Int64(2))]);
    assert!(matches!(header.inputs[0].content, Content::Binary { size: 4 }));
}

#[test]
fn a_timeout_is_a_whole_number_of_microseconds() {
    let timeout = |value: &str| {
        parse(&format!(r#"{{"inputs":[],"parameters":{{"timeout":{value}}}}}"#)).map(|header| header.timeout)
    };
    assert_eq!(timeout("0"), Ok(None));
    assert_eq!(timeout("\"0\""), Ok(None));
    assert_eq!(timeout("\"25\""), Ok(Some(Duration::from_micros(25))));
    assert_eq!(timeout("18446744073709551615"), Ok(Some(Duration::from_micros(u64::MAX))));
    for bad in ["-1", "1.5", "\"\"", "\"-1\"", "\"1s\"", "true", "null", "[1]", "\"99999999999999999999\""] {
        assert!(timeout(bad).is_err(), "{bad}");
    }
}

#[test]
fn parameters_that_cannot_be_obeyed_are_refused() {
    let cases = [
        (r#""triton_x":1"#, "'triton_x': names that start with 'triton_' are reserved"),
        (r#""binary_data_output":1"#, "parameter 'binary_data_output' must be true or false"),
        (r#""a":1,"a":1"#, "'parameters' of the request has the key 'a' twice"),
        (r#""a":1e999"#, "parameter 'a' must be a finite number"),
        (r#""a":NaN"#, "parameter 'a' must be a finite number"),
        (r#""a":[1,NaN]"#, "NaN and Infinity may stand in 'data' only"),
        (r#""a":{"b":-Infinity}"#, "NaN and Infinity may stand in 'data' only"),
    ];
    for (parameters, expected) in cases {
        let text = told(&format!(r#"{{"inputs":[],"parameters":{{{parameters}}}}}"#));
        assert!(text.contains(expected), "{text}");
    }
    let many: Vec<String> = (0..=MAX_KEYS).map(|n| format!("\"k{n}\":1")).collect();
    let text = told(&format!(r#"{{"inputs":[],"parameters":{{{}}}}}"#, many.join(",")));
    assert!(text.ends_with("has more than 256 keys"), "{text}");
    assert!(told(&format!("{{{}}}", many.join(","))).ends_with("the request has more than 256 keys"));
}

#[test]
fn requested_outputs_say_what_they_are_wanted_as() {
    let header = parse(
        r#"{"inputs":[],"parameters":{"content_type":"pd"},
            "outputs":[{"name":"a","parameters":{"classification":2,"content_type":"base64"}},
            {"name":"b","parameters":{"classification":18446744073709551615,"content_type":null}},
            {"name":"c","parameters":{"classification":0,"content_type":"own"}}]}"#,
    )
    .expect("a request");
    let wanted = header.reply.outputs.iter().map(|output| (output.classification, output.content_type));
    assert_eq!(
        wanted.collect::<Vec<_>>(),
        [(Some(2), Some(ContentType::Base64)), (Some(u64::MAX), None), (None, Some(ContentType::Other))]
    );
    assert_eq!(header.reply.content_type, Some(ContentType::Pd));
    assert_eq!(header.parameters, [("content_type".into(), Parameter::Text("pd".into()))]);
}

#[test]
fn requested_outputs_say_how_they_are_sent() {
    let header = parse(
        r#"{"inputs":[],"outputs":[{"name":"a","parameters":{"binary_data":true,"other":1}},{"name":"b"},
            {"name":"c","parameters":{"binary_data":false}},{"name":"d","parameters":null}]}"#,
    )
    .expect("a request");
    let binary: Vec<Option<bool>> = header.reply.outputs.iter().map(|output| output.binary).collect();
    assert_eq!(binary, [Some(true), None, Some(false), None]);
    let cases = [
        (r#"{}"#, "an entry of 'outputs' has no 'name'"),
        (
            r#"{"name":"a","parameters":{"classification":-1}}"#,
            "output 'a': the parameter 'classification' must be a whole number of classes",
        ),
        (
            r#"{"name":"a","parameters":{"classification":"2"}}"#,
            "output 'a': the parameter 'classification' must be a whole number of classes",
        ),
        (
            r#"{"name":"a","parameters":{"classification":1.5}}"#,
            "output 'a': the parameter 'classification' must be a whole number of classes",
        ),
        (
            r#"{"name":"a","parameters":{"binary_data":1}}"#,
            "output 'a': the parameter 'binary_data' must be true or false",
        ),
        (
            r#"{"name":"a","parameters":{"shared_memory_region":"r"}}"#,
            "output 'a': shared memory is not offered",
        ),
        (r#"{"name":"a","parameters":[]}"#, "'parameters' of an output must be an object, got an array"),
        (r#""a""#, "an entry of 'outputs' must be an object, got a string"),
    ];
    for (output, expected) in cases {
        let text = told(&format!(r#"{{"inputs":[],"outputs":[{output}]}}"#));
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn the_frame_of_a_request_is_checked() {
    for good in [
        r#"{"inputs":[]}"#,
        "\u{feff}{\"inputs\":[]}",
        " \r\n\t{ \"inputs\" : [ ] } \n",
        r#"{"id":null,"parameters":null,"outputs":null,"inputs":[],"model_name":"m","x":[NaN,{"y":{}}]}"#,
        r#"{"id":"","inputs":[],"outputs":[]}"#,
    ] {
        assert!(parse(good).is_ok(), "{good}");
    }
    let cases = [
        ("", "at byte 0: the text ends where a value should be"),
        ("[]", "the request must be an object, got an array at byte 0"),
        ("\"x\"", "the request must be an object, got a string at byte 0"),
        ("x", "at byte 0: expected a value"),
        ("{}", "the request has no 'inputs'"),
        (r#"{"inputs":null}"#, "'inputs' must be an array, got null at byte 10"),
        (r#"{"inputs":{}}"#, "'inputs' must be an array, got an object at byte 10"),
        (r#"{"inputs":[]} x"#, "at byte 14: the text goes on behind the request"),
        (r#"{"inputs":[]}{}"#, "at byte 13: the text goes on behind the request"),
        (r#"{"inputs":[],}"#, "at byte 13: trailing comma"),
        (r#"{"inputs":[]"#, "at byte 12: the text ends before a `}`"),
        (r#"{'inputs':[]}"#, "at byte 1: a key must be a string"),
        (r#"{"inputs" []}"#, "at byte 10: expected `:`"),
        (r#"{"inputs":[],"id":42}"#, "'id' must be a string, got a number at byte 18"),
        (r#"{"inputs":[],"parameters":[]}"#, "'parameters' of the request must be an object, got an array"),
        (r#"{"inputs":[],"id":"a","id":"b"}"#, "the request has the key 'id' twice"),
        (r#"{"inputs":[],"x":1,"\u0078":2}"#, "the request has the key 'x' twice"),
        (r#"{"inputs":[],"x":tru}"#, "at byte 17: expected `true`"),
        (r#"{"inputs":[],"x":01}"#, "at byte 18: invalid number"),
        ("{\"inputs\":[],\"x\":\"\u{1}\"}", "at byte 18: control character"),
        ("\u{feff}\u{feff}{\"inputs\":[]}", "at byte 3: expected a value"),
    ];
    for (json, expected) in cases {
        let text = told(json);
        assert!(text.contains(expected), "{json}: {text}");
    }
    for place in [r#"{"inputs":[],"id":"?"}"#, r#"{"inputs":[],"x":["?"]}"#, r#"{"inputs":[],"?":1}"#] {
        let invalid: Vec<u8> = place.bytes().map(|byte| if byte == b'?' { 0xff } else { byte }).collect();
        assert!(
            matches!(header(&invalid, &DecodeLimits::default()), Err(DecodeError::Json { .. })),
            "{place}"
        );
    }
}

#[test]
fn depth_and_numbers_of_entries_are_bounded() {
    let nested = |depth: usize, open: &str, close: &str| {
        format!("{{\"inputs\":[],\"x\":{}{}}}", open.repeat(depth), close.repeat(depth))
    };
    // The request itself is the first of 32 levels.
    assert!(parse(&nested(31, "[", "]")).is_ok());
    for depth in [32, 128, 100_000] {
        assert!(told(&nested(depth, "[", "]")).ends_with("nested more than 32 deep"));
        assert!(told(&nested(depth, "{\"a\":", "}")).ends_with("nested more than 32 deep"));
        assert!(
            told(&nested(depth, "[", "]").replace("\"x\":", "\"parameters\":{\"x\":")).ends_with("32 deep")
        );
        let data = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(refused("FP32", "[1]", &data).ends_with("nested more than 32 deep"));
        assert!(refused("BYTES", "[1]", &data.replace('1', "\"a\"")).ends_with("nested more than 32 deep"));
    }
    let data = format!("{}1{}", "[".repeat(29), "]".repeat(29));
    assert!(bytes_of("FP32", "[1]", &data).is_ok());

    let key = |length| format!("{{\"inputs\":[],\"{}\":1}}", "k".repeat(length));
    assert!(parse(&key(1024)).is_ok());
    assert!(told(&key(1025)).ends_with("a key is longer than 1024 bytes"));

    let input = r#"{"name":"X","shape":[0],"datatype":"FP32","data":[]}"#;
    let list = |count: usize| format!("[{}]", vec![input; count].join(","));
    assert!(parse(&format!("{{\"inputs\":{}}}", list(64))).is_ok());
    assert_eq!(told(&format!("{{\"inputs\":{}}}", list(65))), "'inputs' has more than 64 entries");
    assert_eq!(
        told(&format!("{{\"outputs\":{},\"inputs\":[]}}", list(65))),
        "'outputs' has more than 64 entries"
    );
}
