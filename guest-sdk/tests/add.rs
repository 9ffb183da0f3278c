//! The plugin that the documentation shows first.

use airlock_guest::prelude::*;

#[path = "../../examples/guests/add/src/lib.rs"]
mod add;

fn infer(a: &[f32], b: &[f32]) -> Result<Response> {
    let add = add::Add::load(Config::default(), Files::default())?;
    let vector = |name, elements: &[f32]| Tensor::from_slice(name, &[elements.len() as u64], elements);
    add.infer(Request {
        id: None,
        parameters: vec![],
        inputs: vec![vector("A", a)?, vector("B", b)?],
        outputs: vec![],
    })
}

#[test]
fn it_is_under_25_lines() {
    assert!(include_str!("../../examples/guests/add/src/lib.rs").lines().count() < 25);
}

#[test]
fn it_adds() {
    let response = infer(&[1.0, 2.0], &[0.5, -2.0]).expect("the shapes agree");
    assert_eq!(response.outputs[0].as_slice::<f32>(), Ok([1.5, 0.0].as_slice()));
    assert_eq!(response.outputs[0].name, "SUM");
}

#[test]
fn it_tells_the_caller_what_to_change() {
    let error = infer(&[1.0, 2.0], &[0.5]).expect_err("the shapes differ");
    assert_eq!(error, Error::invalid_input("A and B must have the same shape"));
}
