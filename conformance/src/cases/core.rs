//! Health, metadata and inference, as every server has them.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Case,
    Outcome::{self, Kept, Skipped},
    Subject,
};

pub const CASES: &[Case] = &[
    Case { name: "GET /v2/health/live is 200, with {\"live\": true} if it has a body", run: live },
    Case { name: "GET /v2/health/ready is 200", run: ready },
    Case { name: "GET /v2 has name, version and extensions", run: server_metadata },
    Case { name: "GET /v2/models/M has name, platform, inputs and outputs", run: model_metadata },
    Case { name: "GET /v2/models/M/ready is 200", run: model_ready },
    Case { name: "each version of the metadata can be named in the path", run: versions },
    Case { name: "an answer fits the metadata: names, datatypes, shapes, elements", run: infer },
    Case { name: "an id comes back as it was sent", run: id },
    Case { name: "only outputs that were asked for are answered", run: requested_outputs },
    Case { name: "an empty list of outputs asks for all", run: no_requested_outputs },
    Case { name: "data may be nested as the shape is", run: nested },
    Case { name: "fields that nobody knows are ignored", run: unknown_fields },
    Case { name: "a query string does not matter", run: query },
    Case { name: "a body in pieces (chunked) is a body", run: chunked },
    Case { name: "a request without Content-Type is answered", run: no_content_type },
    Case { name: "the order of inputs does not matter", run: order },
];

fn live(subject: &Subject) -> Result<Outcome> {
    health(subject, "/v2/health/live", "live")
}

fn ready(subject: &Subject) -> Result<Outcome> {
    health(subject, "/v2/health/ready", "ready")
}

/// The specification wants a body, and Triton and MLServer have none: what is there has to be right.
fn health(subject: &Subject, path: &str, word: &str) -> Result<Outcome> {
    let answer = subject.server.get(path)?;
    ensure!(answer.status == 200, "expected 200, got {answer}");
    // The text of the specification has `live` in both.
    let says = |body: &Value| body[word] == true || body["live"] == true;
    ensure!(answer.body.is_empty() || says(&answer.json()?), "expected {{\"{word}\": true}}, got {answer}");
    Ok(Kept)
}

fn server_metadata(subject: &Subject) -> Result<Outcome> {
    let metadata = subject.server.get("/v2")?.good()?;
    for key in ["name", "version"] {
        ensure!(metadata[key].is_string(), "'{key}' is {}", metadata[key]);
    }
    let extensions = metadata["extensions"].as_array().context("'extensions' is no list")?;
    ensure!(extensions.iter().all(Value::is_string), "an extension is no text");
    Ok(Kept)
}

fn model_metadata(subject: &Subject) -> Result<Outcome> {
    let metadata = subject.server.get(&subject.model.path(""))?.good()?;
    ensure!(metadata["platform"].is_string(), "'platform' is {}", metadata["platform"]);
    ensure!(!subject.model.inputs.is_empty(), "the model has no inputs");
    ensure!(!subject.model.outputs.is_empty(), "the model has no outputs");
    Ok(Kept)
}

fn model_ready(subject: &Subject) -> Result<Outcome> {
    let answer = subject.server.get(&subject.model.path("ready"))?;
    ensure!(answer.status == 200, "expected 200, got {answer}");
    ensure!(
        answer.body.is_empty() || answer.json()?["ready"] == true,
        "expected \"ready\": true, got {answer}"
    );
    Ok(Kept)
}

fn versions(subject: &Subject) -> Result<Outcome> {
    let Subject { server, model, .. } = subject;
    if model.versions.is_empty() {
        return Ok(Skipped("the metadata name no version"));
    }
    for version in &model.versions {
        let path = |what: &str| model.path(&format!("versions/{version}{what}"));
        let metadata = server.get(&path(""))?.good()?;
        ensure!(metadata["name"] == model.name.as_str(), "version {version} is of {}", metadata["name"]);
        ensure!(server.get(&path("/ready"))?.status == 200, "version {version} is not ready");
        let answer = server.post(&path("/infer"), &model.request())?.good()?;
        ensure!(
            answer["model_version"] == version.as_str(),
            "version {version} was named, {} answered",
            answer["model_version"]
        );
    }
    Ok(Kept)
}

fn infer(subject: &Subject) -> Result<Outcome> {
    let answer = subject.model.answer(&subject.server)?;
    let names = answer["outputs"].as_array().map_or(0, Vec::len);
    ensure!(names == subject.model.outputs.len(), "{names} outputs of {}", subject.model.outputs.len());
    Ok(Kept)
}

fn id(subject: &Subject) -> Result<Outcome> {
    for id in ["a", "4f9c-☃-\"quoted\""] {
        let answer =
            subject.model.infer(&subject.server, &subject.model.request_with(&json!({ "id": id })))?;
        let answer = answer.good()?;
        ensure!(answer["id"] == id, "sent '{id}', got {}", answer["id"]);
    }
    Ok(Kept)
}

fn requested_outputs(subject: &Subject) -> Result<Outcome> {
    for output in &subject.model.outputs {
        let request = subject.model.request_with(&json!({ "outputs": [{ "name": output.name }] }));
        let answer = subject.model.infer(&subject.server, &request)?.good()?;
        let outputs = answer["outputs"].as_array().context("the answer has no outputs")?;
        ensure!(
            outputs.len() == 1 && outputs[0]["name"] == output.name.as_str(),
            "asked for '{}' alone, got {}",
            output.name,
            Value::from(outputs.iter().map(|output| output["name"].clone()).collect::<Vec<_>>())
        );
    }
    Ok(Kept)
}

fn no_requested_outputs(subject: &Subject) -> Result<Outcome> {
    let request = subject.model.request_with(&json!({ "outputs": [] }));
    let answer = subject.model.infer(&subject.server, &request)?.good()?;
    let outputs = answer["outputs"].as_array().map_or(0, Vec::len);
    ensure!(outputs == subject.model.outputs.len(), "{outputs} outputs of {}", subject.model.outputs.len());
    Ok(Kept)
}

fn nested(subject: &Subject) -> Result<Outcome> {
    let mut first = subject.model.inputs[0].to_json();
    let mut list: Vec<Value> = first["data"].as_array().cloned().unwrap_or_default();
    for size in subject.model.inputs[0].shape.iter().skip(1).rev() {
        let size = usize::try_from(*size).unwrap_or(1).max(1);
        list = list.chunks(size).map(|row| Value::from(row.to_vec())).collect();
    }
    first["data"] = Value::from(list);
    let answer = subject.model.infer(&subject.server, &subject.model.request_of(&first))?.good()?;
    let flat = subject.model.answer(&subject.server)?;
    ensure!(answer["outputs"] == flat["outputs"], "nested and flat data have different answers");
    Ok(Kept)
}

fn unknown_fields(subject: &Subject) -> Result<Outcome> {
    let request = subject.model.request_with(&json!({ "x-unknown": { "a": [1, null] } }));
    subject.model.check(&subject.model.infer(&subject.server, &request)?.good()?)?;
    Ok(Kept)
}

fn query(subject: &Subject) -> Result<Outcome> {
    ensure!(subject.server.get("/v2/health/live?a=b&c")?.status == 200, "a query changes health");
    let answer = subject.server.post(&subject.model.path("infer?a=b"), &subject.model.request())?;
    subject.model.check(&answer.good()?)?;
    Ok(Kept)
}

fn chunked(subject: &Subject) -> Result<Outcome> {
    let body = subject.model.request().to_string();
    let mut pieces = String::new();
    let (first, second) = body.split_at(body.len() / 2);
    for piece in [first, second] {
        pieces += &format!("{:x}\r\n{piece}\r\n", piece.len());
    }
    pieces += "0\r\n\r\n";
    let lines = ["Content-Type: application/json", "Transfer-Encoding: chunked"];
    let answer = subject.server.exchange("POST", &subject.model.path("infer"), &lines, pieces.as_bytes())?;
    subject.model.check(&answer.good()?)?;
    Ok(Kept)
}

fn no_content_type(subject: &Subject) -> Result<Outcome> {
    let body = subject.model.request().to_string();
    let answer = subject.server.send("POST", &subject.model.path("infer"), &[], body.as_bytes())?;
    subject.model.check(&answer.good()?)?;
    Ok(Kept)
}

fn order(subject: &Subject) -> Result<Outcome> {
    if subject.model.inputs.len() < 2 {
        return Ok(Skipped("the model has one input"));
    }
    let mut request = subject.model.request();
    if let Some(inputs) = request["inputs"].as_array_mut() {
        inputs.reverse();
    }
    let answer = subject.model.infer(&subject.server, &request)?.good()?;
    ensure!(
        answer["outputs"] == subject.model.answer(&subject.server)?["outputs"],
        "another order, another answer"
    );
    Ok(Kept)
}
