use proptest::prelude::*;

use super::*;
use crate::tensor::{Datatype, Parameter, Shape, check_layout};

fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: Shape(shape.into()) }
}

/// `text`: one or more texts; `n`: any number of pairs of INT32.
fn signature() -> Signature {
    let inputs = vec![spec("text", Datatype::Bytes, &[-1, -1]), spec("n", Datatype::Int32, &[-1, 2])];
    Signature { inputs, outputs: Vec::new() }
}

fn parse(json: &str) -> Result<Header, DecodeError> {
    generate(json.as_bytes(), &signature(), &DecodeLimits::default())
}

fn told(json: &str) -> String {
    parse(json).expect_err("to be refused").to_string()
}

/// The inputs as name, shape and bytes.
fn inputs(json: &str) -> Vec<(String, Vec<u64>, Vec<u8>)> {
    let inputs = parse(json).expect("a request").inputs.into_iter();
    let input = |input: Input| {
        let Content::Json(bytes) = input.content else { panic!("not in the JSON") };
        assert_eq!(check_layout(input.datatype, &input.shape, &bytes), Ok(()));
        (input.name, input.shape, bytes)
    };
    inputs.map(input).collect()
}

#[test]
fn keys_are_inputs_by_name_and_parameters_else() {
    let json = r#"{"id":"7","text":"hé\n","parameters":{"n":[1,2,3,4],"temperature":0.5,"stop":["a"]},"stream":false,"timeout":5}"#;
    let header = parse(json).expect("a request");
    assert_eq!(header.reply.id.as_deref(), Some("7"));
    assert_eq!(header.timeout, Some(std::time::Duration::from_micros(5)));
    assert_eq!(
        header.parameters,
        [
            ("temperature".into(), Parameter::Double(0.5)),
            ("stop".into(), Parameter::Json(r#"["a"]"#.into())),
            ("stream".into(), Parameter::Boolean(false)),
        ]
    );
    let numbers = [1, 2, 3, 4].into_iter().flat_map(i32::to_le_bytes).collect();
    assert_eq!(
        inputs(json),
        [("text".into(), vec![1, 1], b"\x04\0\0\0h\xc3\xa9\n".to_vec()), ("n".into(), vec![2, 2], numbers),]
    );
    assert_eq!(inputs(r#" { "text" : [ "a" , "" ] } "#)[0].1, [1, 2]);
    assert_eq!(inputs(r#"{"text":[]}"#)[0].1, [1, 0]);
    assert!(inputs(r#"{"parameters":null}"#).is_empty());
}

#[test]
fn the_innermost_dimension_that_varies_takes_what_the_others_leave() {
    let filled = |dims: &[i64], count| shape(&spec("x", Datatype::Int8, dims), count).ok();
    assert_eq!(filled(&[-1, -1], 3), Some(vec![1, 3]));
    assert_eq!(filled(&[-1, 3], 6), Some(vec![2, 3]));
    assert_eq!(filled(&[3, -1], 6), Some(vec![3, 2]));
    assert_eq!(filled(&[2, 3], 6), Some(vec![2, 3]));
    assert_eq!(filled(&[], 1), Some(vec![]));
    assert_eq!(filled(&[-1], 0), Some(vec![0]));
    assert_eq!(filled(&[0, -1], 0), Some(vec![0, 0]));
    let misfits: [(&[i64], u64); 7] =
        [(&[-1, 3], 4), (&[2, 3], 12), (&[2], 1), (&[2], 0), (&[], 2), (&[0], 1), (&[i64::MAX, 4, -1], 8)];
    for (dims, count) in misfits {
        assert_eq!(filled(dims, count), None, "{dims:?} {count}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (json, expected) in [
        ("[]", "the request must be an object, got an array at byte 0"),
        (r#"{"n":[1,2,3]}"#, "input 'n': 3 elements do not fit into the model's shape [-1,2]"),
        (r#"{"n":1}"#, "input 'n': 1 elements do not fit into the model's shape [-1,2]"),
        (r#"{"n":[1,"x"]}"#, "input 'n': element 1 of 'data' is a string, INT32 takes an integer"),
        (r#"{"text":7}"#, "input 'text': element 0 of 'data' is a number, BYTES takes a string"),
        (r#"{"text":null}"#, "input 'text': element 0 of 'data' is null, BYTES takes a string"),
        (r#"{"n":[[1,2],[3,4]]}"#, "input 'n': shape [1,2] has 2 elements, 'data' holds more"),
        (
            r#"{"n":[1,2147483648]}"#,
            "input 'n': element 1 of 'data' is 2147483648, which is out of range for INT32",
        ),
        (r#"{"text":"a","text":"b"}"#, "the request has the key 'text' twice"),
        (r#"{"top":1,"parameters":{"top":2}}"#, "parameter 'top' is given twice"),
        (r#"{"parameters":{"top":1,"top":2}}"#, "'parameters' of the request has the key 'top' twice"),
        (r#"{"parameters":"x"}"#, "'parameters' of the request must be an object, got a string at byte 14"),
        (r#"{"triton_x":1}"#, "parameter 'triton_x': names that start with 'triton_' are reserved"),
        (r#"{"text":"a"} x"#, "the JSON is not valid at byte 13: the text goes on behind the request"),
        (r#"{"text":"a"#, "the JSON is not valid at byte 10: the text ends in a string"),
        (r#"{"text":["a""#, "the JSON is not valid at byte 12: the text ends before a `]`"),
    ] {
        assert_eq!(told(json), expected, "{json}");
    }
    let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(1000), "]".repeat(1000));
    assert!(told(&deep).contains("nested more than"));
    let deep = format!(r#"{{"text":{}{}}}"#, "[".repeat(1000), "]".repeat(1000));
    assert!(told(&deep).contains("nested more than"));
}

#[test]
fn an_ordinary_body_is_told_by_its_list_of_inputs() {
    let limits = DecodeLimits::default();
    let is = |json: &str, signature: &Signature| is_infer(json.as_bytes(), signature, &limits);
    assert_eq!(is(r#"{"id":"1","inputs":[{"name":"text"}]}"#, &signature()), Ok(true));
    assert_eq!(is(r#"{"text":"a","inputs":"b"}"#, &signature()), Ok(false));
    assert_eq!(is(r#"{"x":{"inputs":[]}}"#, &signature()), Ok(false));
    let own = Signature { inputs: vec![spec("inputs", Datatype::Bytes, &[-1])], outputs: Vec::new() };
    assert_eq!(is(r#"{"inputs":["a"]}"#, &own), Ok(false));
    assert!(is("{", &signature()).is_err());
}

proptest! {
    #[test]
    fn any_elements_are_read_as_the_data_of_an_ordinary_request_is(values in proptest::collection::vec(any::<i32>(), 0..20)) {
        let text = format!("{values:?}");
        let expected: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let json = format!(r#"{{"n":{text}}}"#);
        if values.len() % 2 == 0 {
            prop_assert_eq!(&inputs(&json)[0].2, &expected);
            prop_assert_eq!(&inputs(&json)[0].1, &[values.len() as u64 / 2, 2]);
        } else {
            prop_assert!(parse(&json).is_err());
        }
    }

    #[test]
    fn no_text_is_too_much_for_it(text in "\\PC*") {
        let _ = parse(&text);
    }
}
