use super::*;
use crate::tensor::{Parameter, Shape, Tensor};

fn text(content_type: &str) -> Vec<(String, Parameter)> {
    vec![("content_type".into(), Parameter::Text(content_type.into()))]
}

fn elements_of(texts: &[&[u8]]) -> Bytes {
    let lengths = texts.iter().map(|text| u32::try_from(text.len()).expect("short").to_le_bytes());
    lengths.zip(texts).flat_map(|(length, text)| [&length[..], text].concat()).collect::<Vec<u8>>().into()
}

fn input(datatype: Datatype, shape: &[u64], own: Option<&str>, bytes: Bytes) -> Tensor {
    let parameters = own.map(text).unwrap_or_default();
    Tensor { name: "X".into(), datatype, shape: shape.into(), parameters, bytes }
}

/// The request's one input, after the content types were applied, or what the client is told.
fn applied(of_request: Option<&str>, input: Tensor, shape: &[i64]) -> Result<Tensor, String> {
    let spec = TensorSpec { name: "X".into(), datatype: input.datatype, shape: Shape(shape.into()) };
    let signature = Signature { inputs: vec![spec], outputs: Vec::new() };
    let parameters = of_request.map(text).unwrap_or_default();
    let mut request = InferRequest { parameters, inputs: vec![input], ..InferRequest::default() };
    apply(&mut request, &signature).map_err(|error| error.to_string())?;
    Ok(request.inputs.remove(0))
}

fn bytes(of_request: Option<&str>, own: Option<&str>, texts: &[&[u8]]) -> Result<Bytes, String> {
    let input = input(Datatype::Bytes, &[texts.len() as u64], own, elements_of(texts));
    let applied = applied(of_request, input, &[-1])?;
    assert_eq!(applied.check_layout(), Ok(()));
    Ok(applied.bytes)
}

#[test]
fn base64_becomes_the_bytes_that_it_stands_for() {
    let plain = Ok(elements_of(&[b"hello", b"", b"\xff\0"]));
    let coded: [&[u8]; 3] = [b"aGVsbG8=", b"", b"/wA="];
    assert_eq!(bytes(None, Some("base64"), &coded), plain);
    assert_eq!(bytes(Some("base64"), None, &coded), plain);
    assert_eq!(bytes(Some("str"), Some("base64"), &coded), plain);
    // The last character has two bits that count for nothing.
    assert_eq!(bytes(None, Some("base64"), &[b"/wB="]), Ok(elements_of(&[b"\xff\0"])));
}

#[test]
fn what_is_not_called_base64_stays_as_it_is() {
    let coded: [&[u8]; 1] = [b"aGVsbG8="];
    for (of_request, own) in [
        (None, None),
        (Some("base64"), Some("str")),
        (Some("base64"), Some("own")),
        (Some("np"), None),
        (None, Some("datetime")),
        (None, Some("Base64")),
    ] {
        assert_eq!(bytes(of_request, own, &coded), Ok(elements_of(&coded)), "{of_request:?} {own:?}");
    }
    let numbers = input(Datatype::Uint8, &[4], Some("base64"), Bytes::from_static(b"aGVs"));
    assert_eq!(applied(None, numbers.clone(), &[-1]), Ok(numbers));
}

#[test]
fn what_is_called_base64_and_is_not_names_the_element() {
    let bad: [&[u8]; 7] =
        [b"aGVsbG8", b"aGVs bG8=", b"aGVs\n", b"_-A=", b"\xff\xff\xff\xff", b"=", b"aGVsbG8=="];
    for text in bad {
        let told = bytes(None, Some("base64"), &[b"", text]).expect_err("to be refused");
        let expected = "input 'X': element 1 is not base64, as content_type says that it is: ";
        assert!(told.starts_with(expected), "{told}");
    }
}

#[test]
fn a_list_or_column_has_the_shape_that_the_model_has_for_one() {
    let fitted = |content_type, given: &[u64], wanted: &[i64]| {
        let input = input(Datatype::Uint8, given, content_type, Bytes::from_static(b"abc"));
        applied(None, input, wanted).expect("not refused here").shape
    };
    for known in ["np", "str", "base64", "datetime", "pd"] {
        assert_eq!(fitted(Some(known), &[3, 1], &[-1]), [3]);
        assert_eq!(fitted(Some(known), &[3], &[-1, 1]), [3, 1]);
        assert_eq!(fitted(Some(known), &[3], &[3, -1]), [3, 1]);
    }
    // What fits stays, and so does what does not fit either way: it is refused as it was sent.
    assert_eq!(fitted(Some("np"), &[3, 1], &[-1, -1]), [3, 1]);
    assert_eq!(fitted(Some("np"), &[3, 1], &[4]), [3, 1]);
    assert_eq!(fitted(Some("np"), &[1, 3], &[-1]), [1, 3]);
    assert_eq!(fitted(None, &[3, 1], &[-1]), [3, 1]);
    assert_eq!(fitted(Some("own"), &[3, 1], &[-1]), [3, 1]);
}
