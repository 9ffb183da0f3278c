//! Health, metadata and inference over gRPC, as REST has them.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Case,
    Outcome::{self, Kept, Skipped},
    Subject,
};
use crate::{
    grpc::{
        messages::{ModelMetadata, RequestedOutput, Said, ServerMetadata, TensorMetadata},
        requests::{named, to_json},
    },
    model::Tensor,
};

pub const CASES: &[Case] = &[
    Case { name: "ServerLive and ServerReady say yes", run: health },
    Case { name: "ServerMetadata says what REST says", run: server_metadata },
    Case { name: "ModelReady says yes of the model and of each of its versions", run: model_ready },
    Case { name: "ModelMetadata says what REST says", run: model_metadata },
    Case { name: "an answer to raw tensors fits the metadata", run: raw },
    Case { name: "an answer to typed tensors is that to raw ones", run: typed },
    Case { name: "an answer is that of REST", run: as_rest },
    Case { name: "an id comes back as it was sent", run: id },
    Case { name: "only outputs that were asked for are answered", run: requested_outputs },
    Case { name: "each version of the metadata can be named", run: versions },
    Case { name: "the order of inputs does not matter", run: order },
];

fn health(subject: &Subject) -> Result<Outcome> {
    for call in ["ServerLive", "ServerReady"] {
        ensure!(subject.grpc()?.ask::<Said>(call, &())?.yes, "{call} says no");
    }
    Ok(Kept)
}

fn server_metadata(subject: &Subject) -> Result<Outcome> {
    let told: ServerMetadata = subject.grpc()?.ask("ServerMetadata", &())?;
    let rest = subject.server.get("/v2")?.good()?;
    let told = json!({ "name": told.name, "version": told.version, "extensions": told.extensions });
    for key in ["name", "version", "extensions"] {
        ensure!(told[key] == rest[key], "'{key}' is {}, REST says {}", told[key], rest[key]);
    }
    Ok(Kept)
}

fn model_ready(subject: &Subject) -> Result<Outcome> {
    let model = &subject.model;
    for version in model.versions.iter().map(String::as_str).chain([""]) {
        let said: Said = subject.grpc()?.ask("ModelReady", &named(&model.name, version))?;
        ensure!(said.yes, "version '{version}' is not ready");
    }
    Ok(Kept)
}

fn model_metadata(subject: &Subject) -> Result<Outcome> {
    let model = &subject.model;
    let told: ModelMetadata = subject.grpc()?.ask("ModelMetadata", &named(&model.name, ""))?;
    ensure!(told.name == model.name, "the metadata of '{}' are those of '{}'", model.name, told.name);
    ensure!(told.versions == model.versions, "versions {:?}, REST says {:?}", told.versions, model.versions);
    let rest = subject.server.get(&model.path(""))?.good()?;
    ensure!(
        rest["platform"] == told.platform.as_str(),
        "platform '{}', REST says {}",
        told.platform,
        rest["platform"]
    );
    let same = |told: &[TensorMetadata], rest: &[Tensor]| {
        told.len() == rest.len()
            && told.iter().zip(rest).all(|(told, rest)| {
                (&told.name, &told.datatype, &told.shape) == (&rest.name, &rest.datatype, &rest.told)
            })
    };
    ensure!(same(&told.inputs, &model.inputs), "inputs {:?}, REST says {:?}", told.inputs, model.inputs);
    ensure!(same(&told.outputs, &model.outputs), "outputs {:?}, REST says {:?}", told.outputs, model.outputs);
    Ok(Kept)
}

fn raw(subject: &Subject) -> Result<Outcome> {
    let answer = subject.model.infer_over_grpc(subject.grpc()?, &subject.model.raw_request())?;
    let (came, told) = (answer.outputs.len(), subject.model.outputs.len());
    ensure!(came == told, "{came} outputs of {told}");
    Ok(Kept)
}

fn typed(subject: &Subject) -> Result<Outcome> {
    let Some(request) = subject.model.typed_request() else {
        return Ok(Skipped("the model has an input that travels raw only"));
    };
    let typed = to_json(&subject.model.infer_over_grpc(subject.grpc()?, &request)?)?;
    let raw = to_json(&subject.model.infer_over_grpc(subject.grpc()?, &subject.model.raw_request())?)?;
    ensure!(typed["outputs"] == raw["outputs"], "{} and {}", typed["outputs"], raw["outputs"]);
    Ok(Kept)
}

fn as_rest(subject: &Subject) -> Result<Outcome> {
    if !subject.model.inputs.iter().chain(&subject.model.outputs).all(Tensor::is_plain) {
        return Ok(Skipped("the model has tensors that JSON does not carry"));
    }
    let told = to_json(&subject.model.infer_over_grpc(subject.grpc()?, &subject.model.raw_request())?)?;
    let rest = subject.model.answer(&subject.server)?;
    let outputs = |answer: &Value| answer["outputs"].as_array().cloned().unwrap_or_default();
    let (told, rest) = (outputs(&told), outputs(&rest));
    ensure!(told.len() == rest.len(), "{} outputs, {} over REST", told.len(), rest.len());
    for (told, rest) in told.iter().zip(&rest) {
        for key in ["name", "datatype", "shape"] {
            ensure!(told[key] == rest[key], "'{key}' is {}, over REST {}", told[key], rest[key]);
        }
        let mut elements = Vec::new();
        super::binary::flatten(rest["data"].as_array().context("no data")?, &mut elements);
        let told = told["data"].as_array().context("no data")?;
        let same =
            told.len() == elements.len() && told.iter().zip(&elements).all(|(told, rest)| equal(told, rest));
        ensure!(same, "{told:?}, over REST {elements:?}");
    }
    Ok(Kept)
}

/// Equal as far as JSON carries it: digits of an FP32 may be those of an FP64.
fn equal(one: &Value, other: &Value) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "the comparison is one of FP32")]
    let single = |value: &Value| value.as_f64().map(|value| value as f32);
    one == other || (one.is_f64() && single(one) == single(other))
}

fn id(subject: &Subject) -> Result<Outcome> {
    for id in ["a", "4f9c-☃-\"quoted\""] {
        let mut request = subject.model.raw_request();
        request.id = id.to_owned();
        let answer = subject.model.infer_over_grpc(subject.grpc()?, &request)?;
        ensure!(answer.id == id, "sent '{id}', got '{}'", answer.id);
    }
    Ok(Kept)
}

fn requested_outputs(subject: &Subject) -> Result<Outcome> {
    for output in &subject.model.outputs {
        let mut request = subject.model.raw_request();
        request.outputs = vec![RequestedOutput { name: output.name.clone() }];
        let answer = subject.model.infer_over_grpc(subject.grpc()?, &request)?;
        let names: Vec<&str> = answer.outputs.iter().map(|output| output.name.as_str()).collect();
        ensure!(names == [output.name.as_str()], "asked for '{}' alone, got {names:?}", output.name);
    }
    Ok(Kept)
}

fn versions(subject: &Subject) -> Result<Outcome> {
    if subject.model.versions.is_empty() {
        return Ok(Skipped("the metadata name no version"));
    }
    for version in &subject.model.versions {
        let mut request = subject.model.raw_request();
        request.model_version.clone_from(version);
        let answer = subject.model.infer_over_grpc(subject.grpc()?, &request)?;
        ensure!(
            answer.model_version == *version,
            "version {version} was named, '{}' answered",
            answer.model_version
        );
    }
    Ok(Kept)
}

fn order(subject: &Subject) -> Result<Outcome> {
    if subject.model.inputs.len() < 2 {
        return Ok(Skipped("the model has one input"));
    }
    let mut request = subject.model.raw_request();
    request.inputs.reverse();
    request.raw.reverse();
    let answer = subject.model.infer_over_grpc(subject.grpc()?, &request)?;
    let plain = subject.model.infer_over_grpc(subject.grpc()?, &subject.model.raw_request())?;
    ensure!((answer.outputs, answer.raw) == (plain.outputs, plain.raw), "another order, another answer");
    Ok(Kept)
}
