use super::*;
use crate::tensor::Datatype;

fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: Shape(shape.into()) }
}

fn signature() -> Signature {
    Signature {
        inputs: vec![spec("A", Datatype::Fp32, &[1, 4]), spec("B", Datatype::Int32, &[-1])],
        outputs: vec![spec("X", Datatype::Fp32, &[1, 4]), spec("Y", Datatype::Int32, &[-1])],
    }
}

fn tensor(name: &str, datatype: Datatype, shape: &[u64]) -> Tensor {
    Tensor {
        name: name.into(),
        datatype,
        shape: shape.into(),
        parameters: Vec::new(),
        bytes: bytes::Bytes::new(),
    }
}

fn told(inputs: &[Tensor], outputs: &[&str]) -> String {
    let outputs: Vec<String> = outputs.iter().map(|output| (*output).into()).collect();
    check(&signature(), inputs, &outputs).err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn what_fits_the_signature_passes_in_any_order() {
    let a = tensor("A", Datatype::Fp32, &[1, 4]);
    let b = tensor("B", Datatype::Int32, &[7]);
    assert_eq!(told(&[a.clone(), b.clone()], &[]), "");
    assert_eq!(told(&[b, a], &["Y", "X"]), "");
}

#[test]
fn each_difference_is_told_with_expected_and_given() {
    let a = || tensor("A", Datatype::Fp32, &[1, 4]);
    let b = || tensor("B", Datatype::Int32, &[7]);
    let cases: [(&[Tensor], &[&str], &str); 10] = [
        (&[], &[], "input 'A': is missing, expected FP32 of shape [1,4]"),
        (&[a()], &[], "input 'B': is missing, expected INT32 of shape [-1]"),
        (
            &[a(), b(), tensor("C", Datatype::Fp32, &[])],
            &[],
            "input 'C': the model has no such input, it takes 'A', 'B'",
        ),
        (&[a(), b(), a()], &[], "input 'A': is given twice"),
        (
            &[tensor("A", Datatype::Fp64, &[1, 4]), b()],
            &[],
            "input 'A': datatype is FP64, the model expects FP32",
        ),
        (&[tensor("A", Datatype::Fp32, &[4]), b()], &[], "input 'A': shape is [4], the model expects [1,4]"),
        (
            &[tensor("A", Datatype::Fp32, &[1, 5]), b()],
            &[],
            "input 'A': shape is [1,5], the model expects [1,4]",
        ),
        (&[a(), tensor("B", Datatype::Int32, &[])], &[], "input 'B': shape is [], the model expects [-1]"),
        (&[a(), b()], &["Z"], "output 'Z': the model has no such output, it gives 'X', 'Y'"),
        (&[a(), b()], &["X", "X"], "output 'X': is asked for twice"),
    ];
    for (inputs, outputs, text) in cases {
        assert_eq!(told(inputs, outputs), text);
    }
}

#[test]
fn names_are_quoted_short_and_without_control_characters() {
    let long = tensor(&format!("\u{1b}\n{}", "x".repeat(10_000)), Datatype::Fp32, &[]);
    let text = told(&[long], &[]);
    assert!(text.len() < 200 && text.contains('…') && !text.contains(['\n', '\u{1b}']), "{text}");
}
