use std::collections::BTreeSet;

use super::*;
use crate::tensor::{Shape, Signature};

fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: Shape(shape.into()) }
}

fn inputs(inputs: Vec<TensorSpec>) -> Signature {
    Signature { inputs, outputs: vec![spec("y", Datatype::Fp32, &[])] }
}

#[test]
fn every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own() {
    let document: Value = serde_json::from_str(openapi(true)).expect("JSON");
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().expect("an end")) {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
    let operations = entries(&document["paths"])
        .flat_map(|(_, item)| entries(item).filter(|(name, _)| *name != "parameters"));
    let names: Vec<_> =
        operations.map(|(_, operation)| operation["operationId"].as_str().expect("a name")).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    assert!(
        names.contains(&"infer")
            && names.contains(&"inferOfVersion")
            && !names.contains(&"modelTraceSettingsOfVersion")
    );
    let version = &document["paths"]["/v2/models/{model}/versions/{version}/infer"];
    assert_eq!(version["parameters"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_document_says_whether_keys_are_asked_for() {
    let security = |keyed| serde_json::from_str::<Value>(openapi(keyed)).expect("JSON")["security"].clone();
    assert_eq!((security(false), security(true)), (json!([]), json!([{ "key": [] }])));
}

#[test]
fn examples_take_one_where_a_dimension_varies() {
    let signature = inputs(vec![
        spec("a", Datatype::Int64, &[-1, 2]),
        spec("b", Datatype::Bytes, &[]),
        spec("c", Datatype::Bool, &[0, -1]),
    ]);
    let expected = json!({ "inputs": [
        { "name": "a", "datatype": "INT64", "shape": [1, 2], "data": [0, 0] },
        { "name": "b", "datatype": "BYTES", "shape": [], "data": [""] },
        { "name": "c", "datatype": "BOOL", "shape": [0, 1], "data": [] },
    ] });
    assert_eq!(example::infer(&signature), Some(Example::Json(expected)));
    assert_eq!(example::generate(&signature), Some(json!({ "a": [0, 0], "b": "", "c": [] })));
    let empty = example::infer(&inputs(Vec::new()));
    assert_eq!(empty, Some(Example::Json(json!({ "inputs": [] }))));
}

#[test]
fn an_example_is_bounded_over_all_inputs_together() {
    let half = |name: &str, more: i64| spec(name, Datatype::Fp32, &[2048 + more]);
    assert!(example::infer(&inputs(vec![half("a", 0), half("b", 0)])).is_some());
    assert_eq!(example::infer(&inputs(vec![half("a", 0), half("b", 1)])), None);
    let overflows = inputs(vec![spec("a", Datatype::Fp32, &[i64::MAX, 4])]);
    assert_eq!((example::infer(&overflows), example::generate(&overflows)), (None, None));
}
