//! JSON Schemas of what a model takes and gives: names, datatypes and shapes are its signature's.
//!
//! Names of tensors come from tenants. They are constants and keys here, never a part of a description, which viewers of OpenAPI
//! take for Markdown, and so for HTML.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::tensor::{Datatype, Signature, TensorSpec, element_count};

/// Puts a model's own schemas in the place of the general ones.
pub(super) fn narrow(schemas: &mut Map<String, Value>, model: &str, signature: &Signature) {
    let Signature { inputs, outputs } = signature;
    for general in ["Input", "Output", "Data"] {
        schemas.remove(general);
    }
    let datatypes: BTreeSet<_> = inputs.iter().chain(outputs).map(|spec| spec.datatype.name()).collect();
    for datatype in datatypes.into_iter().filter_map(Datatype::from_name) {
        let element = element(datatype);
        let (nested, flat) = (nested(datatype), flat(datatype));
        schemas.insert(
            nested.clone(),
            json!({ "type": "array", "items": { "anyOf": [element, reference(&nested)] } }),
        );
        schemas.insert(flat, json!({ "anyOf": [element, { "type": "array", "items": element }] }));
    }
    for (position, spec) in inputs.iter().enumerate() {
        schemas.insert(format!("Input{position}"), input(spec));
    }
    for (position, spec) in outputs.iter().enumerate() {
        schemas.insert(format!("Output{position}"), output(spec));
    }
    schemas.insert("Classes".into(), classes());

    let request = &mut schemas["InferRequest"]["properties"];
    request["inputs"] = all("Input", inputs.len());
    let names: Vec<_> = outputs.iter().map(|spec| &spec.name).collect();
    let name = json!({ "properties": { "name": { "enum": names } } });
    request["outputs"]["items"] = json!({ "allOf": [reference("RequestedOutput"), name] });
    let response = &mut schemas["InferResponse"]["properties"];
    response["model_name"] = json!({ "const": model });
    response["outputs"] = some("Output", outputs.len());

    for (schema, specs, more) in [
        ("GenerateRequest", inputs, &["id"][..]),
        ("GenerateResponse", outputs, &["id", "model_name", "model_version"]),
    ] {
        let mut properties: Map<String, Value> =
            more.iter().map(|name| ((*name).to_owned(), json!({ "type": "string" }))).collect();
        // A tensor goes before what else has its name.
        properties.extend(specs.iter().map(|spec| (spec.name.clone(), reference(&flat(spec.datatype)))));
        schemas[schema]["properties"] = properties.into();
        schemas[schema]["required"] = specs.iter().map(|spec| spec.name.as_str()).collect();
    }
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// Elements of a request, nested in any way.
fn nested(datatype: Datatype) -> String {
    format!("{datatype}Data")
}

/// Elements as `generate` has them: one, or a flat array.
fn flat(datatype: Datatype) -> String {
    format!("{datatype}Value")
}

fn element(datatype: Datatype) -> Value {
    let integer =
        |minimum: i64, maximum: u64| json!({ "type": "integer", "minimum": minimum, "maximum": maximum });
    match datatype {
        Datatype::Bool => json!({ "type": "boolean" }),
        Datatype::Uint8 => integer(0, u8::MAX.into()),
        Datatype::Uint16 => integer(0, u16::MAX.into()),
        Datatype::Uint32 => integer(0, u32::MAX.into()),
        Datatype::Uint64 => integer(0, u64::MAX),
        Datatype::Int8 => integer(i8::MIN.into(), i8::MAX.unsigned_abs().into()),
        Datatype::Int16 => integer(i16::MIN.into(), i16::MAX.unsigned_abs().into()),
        Datatype::Int32 => integer(i32::MIN.into(), i32::MAX.unsigned_abs().into()),
        Datatype::Int64 => integer(i64::MIN, i64::MAX.unsigned_abs()),
        // What is not finite is null, where it is not written as a literal that JSON does not know.
        Datatype::Fp16 | Datatype::Fp32 | Datatype::Fp64 => json!({ "type": ["number", "null"] }),
        Datatype::Bytes => json!({ "type": "string" }),
        // JSON cannot carry it.
        Datatype::Bf16 => json!(false),
    }
}

fn shape(spec: &TensorSpec) -> Value {
    let rank = spec.shape.0.len();
    let mut shape = json!({ "type": "array", "minItems": rank, "maxItems": rank });
    if rank > 0 {
        let dimension = |dim: &i64| match dim {
            -1 => json!({ "type": "integer", "minimum": 0 }),
            fixed => json!({ "const": fixed }),
        };
        shape["prefixItems"] = spec.shape.0.iter().map(dimension).collect();
    }
    shape
}

fn input(spec: &TensorSpec) -> Value {
    let binary = spec.datatype == Datatype::Bf16;
    json!({
        "type": "object",
        "required": if binary { &["name", "datatype", "shape", "parameters"] } else { &["name", "datatype", "shape", "data"] },
        "properties": {
            "name": { "const": spec.name },
            "datatype": { "const": spec.datatype.name() },
            "shape": shape(spec),
            "parameters": reference("Parameters"),
            "data": reference(&nested(spec.datatype)),
        },
    })
}

/// An output, or the best of its classes if the request asks for these.
fn output(spec: &TensorSpec) -> Value {
    let mut data = json!({ "type": "array", "items": element(spec.datatype) });
    let fixed: Option<Vec<u64>> = spec.shape.0.iter().map(|dim| u64::try_from(*dim).ok()).collect();
    if let Some(count) = fixed.and_then(|shape| element_count(&shape)) {
        data["minItems"] = count.into();
        data["maxItems"] = count.into();
    }
    let whole = json!({
        "properties": { "datatype": { "const": spec.datatype.name() }, "shape": shape(spec), "data": data },
    });
    let mut forms = vec![whole];
    if !matches!(spec.datatype, Datatype::Bool | Datatype::Bytes) {
        forms.push(reference("Classes"));
    }
    json!({
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": { "name": { "const": spec.name }, "parameters": reference("Parameters") },
        "anyOf": forms,
    })
}

fn classes() -> Value {
    json!({
        "description": "What a requested output with the parameter `classification` is answered as: `value:index[:label]`",
        "properties": {
            "datatype": { "const": "BYTES" },
            "shape": reference("Shape"),
            "data": { "type": "array", "items": { "type": "string" } },
        },
    })
}

/// An array with each of so many schemas once, in any order.
fn all(schema: &str, count: usize) -> Value {
    let mut array = some(schema, count);
    array["minItems"] = count.into();
    if count > 0 {
        let contains = |position| json!({ "contains": reference(&format!("{schema}{position}")) });
        array["allOf"] = (0..count).map(contains).collect();
    }
    array
}

/// An array of things that fit one of so many schemas.
fn some(schema: &str, count: usize) -> Value {
    let mut array = json!({ "type": "array", "maxItems": count });
    if count > 0 {
        let any: Vec<_> = (0..count).map(|position| reference(&format!("{schema}{position}"))).collect();
        array["items"] = json!({ "anyOf": any });
    }
    array
}
