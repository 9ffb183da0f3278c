//! OpenAPI documents of the HTTP port: one of everything, and for each model one of its own, which is the former narrowed to the model's
//! paths, tensors and an example.

mod example;
mod schemas;

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::{
    name::Version,
    repository::Model,
    tensor::{Datatype, TensorSpec},
};

use example::Example;

/// The paths of one model.
const MODEL: &str = "/v2/models/{model}";
const VERSION: &str = "/versions/{version}";

static GENERAL: LazyLock<Value> = LazyLock::new(|| {
    let mut document: Value =
        serde_json::from_str(include_str!("dataplane.json")).expect("a file of our own");
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    let versions: Map<String, Value> =
        entries(&document["paths"]).filter_map(|(path, item)| of_version(path, item)).collect();
    let paths = document["paths"].as_object_mut().expect("a file of our own");
    paths.extend(versions);
    document
});

/// The texts of that document: for a gateway without keys, and with them.
static TEXTS: LazyLock<[String; 2]> = LazyLock::new(|| {
    [false, true].map(|keyed| {
        let mut document = GENERAL.clone();
        secure(&mut document, keyed);
        document.to_string()
    })
});

fn entries(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

/// The same path of a version, where there is one.
fn of_version(path: &str, item: &Value) -> Option<(String, Value)> {
    let rest = path.strip_prefix(MODEL).filter(|rest| !rest.starts_with("/trace"))?;
    let mut item = item.clone();
    for (name, part) in item.as_object_mut()? {
        if name == "parameters" {
            part.as_array_mut()?.push(json!({ "$ref": "#/components/parameters/version" }));
        } else {
            part["operationId"] = format!("{}OfVersion", part["operationId"].as_str()?).into();
        }
    }
    Some((format!("{MODEL}{VERSION}{rest}"), item))
}

/// Says whether requests need a key.
fn secure(document: &mut Value, keyed: bool) {
    document["security"] = if keyed { json!([{ "key": [] }]) } else { json!([]) };
}

/// The JSON text of the document of everything; `keyed`: requests need a key.
pub fn openapi(keyed: bool) -> &'static str {
    &TEXTS[usize::from(keyed)]
}

/// The document of a model, with paths of that version if one is named. Its length grows with the signature alone: an example has
/// some thousand elements at most. Takes time in proportion to it (CPU-bound).
pub fn model_openapi(model: &Model, version: Option<&Version>, keyed: bool) -> Value {
    let (name, signature) = (model.name.as_str(), model.executor.signature());
    let mut document = json!({ "openapi": GENERAL["openapi"], "tags": GENERAL["tags"], "components": GENERAL["components"] });
    document["info"] = json!({
        "title": format!("Airlock: model {name}"),
        "description": "One model as the V2 (Open Inference) Protocol serves it: names, datatypes and shapes are its own.",
        "version": model.version.as_str(),
    });
    secure(&mut document, keyed);
    // JSON cannot carry BF16, and these calls know nothing else: both ways, or in their answers.
    let carried = |specs: &[TensorSpec]| specs.iter().all(|spec| spec.datatype != Datatype::Bf16);
    let streams = carried(&signature.outputs);
    let generates = streams && carried(&signature.inputs);
    let known = |path: &str| {
        (generates || !path.contains("/generate")) && (streams || !path.ends_with("/infer_stream"))
    };
    let paths = entries(&GENERAL["paths"]).filter_map(|(path, item)| {
        let own = path.starts_with(MODEL) && path.contains(VERSION) == version.is_some();
        (own && known(path)).then(|| of_model(path, item, name, version))
    });
    document["paths"] = paths.collect::<Map<_, _>>().into();
    let components = &mut document["components"];
    if let Some(schemas) = components["schemas"].as_object_mut() {
        schemas::narrow(schemas, name, signature);
    }
    if let Some(example) = example::generate(signature).filter(|_| generates) {
        components["requestBodies"]["Generate"]["content"]["application/json"]["example"] = example;
    }
    let content = &mut components["requestBodies"]["Infer"]["content"];
    match example::infer(signature) {
        Some(Example::Json(request)) => content["application/json"]["example"] = request,
        Some(Example::Binary { body, header_length }) => {
            *content =
                json!({ "application/octet-stream": { "schema": { "type": "string" }, "example": body } });
            let length = &mut components["parameters"]["headerLength"];
            length["required"] = true.into();
            length["example"] = header_length.into();
        }
        None => {}
    }
    document
}

/// A path with the names of model and version in it, which need no escapes there.
fn of_model(path: &str, item: &Value, model: &str, version: Option<&Version>) -> (String, Value) {
    let mut path = path.replace("{model}", model);
    if let Some(version) = version {
        path = path.replace("{version}", version.as_str());
    }
    let mut item = item.clone();
    if let Some(item) = item.as_object_mut() {
        item.remove("parameters");
    }
    (path, item)
}

#[cfg(test)]
mod tests;
