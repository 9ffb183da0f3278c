//! One JSON object in, one out, or events: Triton's generate extension. Where a server has no such path, it says nothing of it.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::{
    Case,
    Outcome::{self, Kept, Skipped},
    Subject,
    binary::flatten,
};
use crate::{http::Answer, model::Tensor};

pub const CASES: &[Case] = &[
    Case {
        name: "generate answers one object: model_name, model_version, and each output by its name",
        run: generate,
    },
    Case { name: "its outputs are those of infer", run: as_infer },
    Case { name: "an id comes back as it was sent", run: id },
    Case { name: "keys that are no input are parameters, and so are those in 'parameters'", run: parameters },
    Case { name: "generate_stream answers the same as an event", run: stream },
    Case { name: "a version can be named", run: version },
    Case { name: "a missing input is a 4xx", run: missing },
    Case { name: "an element of another kind is a 4xx", run: other_kind },
    Case { name: "malformed JSON is a 4xx", run: malformed },
    Case { name: "an unknown model is a 4xx", run: unknown_model },
];

const CALLS: [&str; 2] = ["generate", "generate_stream"];

/// The plain request as generate takes it: a key for each input.
fn body(subject: &Subject) -> Map<String, Value> {
    let inputs = subject.model.inputs.iter();
    inputs.map(|input| (input.name.clone(), input.to_json()["data"].clone())).collect()
}

/// A reason to skip, if the server has no such path, or the model cannot be called there.
fn absent(subject: &Subject) -> Result<Option<Outcome>> {
    if !subject.model.inputs.iter().chain(&subject.model.outputs).all(Tensor::is_plain) {
        return Ok(Some(Skipped("the model has tensors that JSON does not carry")));
    }
    let answer = subject.server.post(&subject.model.path("generate"), &Value::from(body(subject)))?;
    Ok(match answer.status {
        404 | 405 | 501 => Some(Skipped("the server has no generate")),
        // MLServer's takes the bodies of infer.
        422 => Some(Skipped("the server's generate takes other bodies")),
        _ => None,
    })
}

fn ask(subject: &Subject, call: &str, body: &Value) -> Result<Answer> {
    subject.server.post(&subject.model.path(call), body)
}

/// An answer has the model's name and a key for each output.
fn check(subject: &Subject, answer: &Value) -> Result<()> {
    ensure!(answer["model_name"] == subject.model.name.as_str(), "model_name is {}", answer["model_name"]);
    ensure!(answer["model_version"].is_string(), "model_version is {}", answer["model_version"]);
    for output in &subject.model.outputs {
        ensure!(answer.get(&output.name).is_some(), "output '{}' is missing in {answer}", output.name);
    }
    Ok(())
}

/// The objects of a stream of events.
fn events(answer: &Answer) -> Result<Vec<Value>> {
    ensure!(answer.status == 200, "expected 200, got {answer}");
    let kind = answer.header("content-type").unwrap_or_default();
    ensure!(kind.starts_with("text/event-stream"), "Content-Type is '{kind}'");
    let text = std::str::from_utf8(&answer.body).context("the events are not UTF-8")?;
    ensure!(text.ends_with("\n\n"), "the last event has no end: {answer}");
    let lines = text.split("\n\n").filter(|event| !event.is_empty());
    lines
        .map(|event| {
            let data = event.strip_prefix("data:").with_context(|| format!("no data in '{event}'"))?;
            serde_json::from_str(data).with_context(|| format!("no JSON in '{event}'"))
        })
        .collect()
}

fn generate(subject: &Subject) -> Result<Outcome> {
    if let Some(skipped) = absent(subject)? {
        return Ok(skipped);
    }
    check(subject, &ask(subject, "generate", &Value::from(body(subject)))?.good()?)?;
    Ok(Kept)
}

fn as_infer(subject: &Subject) -> Result<Outcome> {
    if let Some(skipped) = absent(subject)? {
        return Ok(skipped);
    }
    let told = ask(subject, "generate", &Value::from(body(subject)))?.good()?;
    for output in subject.model.answer(&subject.server)?["outputs"].as_array().into_iter().flatten() {
        let name = output["name"].as_str().unwrap_or_default();
        let mut elements = Vec::new();
        flatten(output["data"].as_array().context("no data")?, &mut elements);
        // A lone element needs no list.
        let same =
            told[name] == Value::from(elements.clone()) || (elements.len() == 1 && told[name] == elements[0]);
        ensure!(same, "'{name}' is {}, infer answers {}", told[name], output["data"]);
    }
    Ok(Kept)
}

fn id(subject: &Subject) -> Result<Outcome> {
    if let Some(skipped) = absent(subject)? {
        return Ok(skipped);
    }
    let mut body = body(subject);
    body.insert("id".into(), json!("4f9c-☃"));
    let told = ask(subject, "generate", &Value::from(body))?.good()?;
    ensure!(told["id"] == "4f9c-☃", "'id' is {}", told["id"]);
    Ok(Kept)
}

fn parameters(subject: &Subject) -> Result<Outcome> {
    if let Some(skipped) = absent(subject)? {
        return Ok(skipped);
    }
    let mut body = body(subject);
    body.insert("stream".into(), json!(false));
    body.insert("parameters".into(), json!({ "temperature": 0, "own": "text" }));
    check(subject, &ask(subject, "generate", &Value::from(body))?.good()?)?;
    Ok(Kept)
}

fn stream(subject: &Subject) -> Result<Outcome> {
    if let Some(skipped) = absent(subject)? {
        return Ok(skipped);
    }
    let body = Value::from(body(subject));
    let whole = ask(subject, "generate", &body)?.good()?;
    let events = events(&ask(subject, "generate_stream", &body)?)?;
    match &events[..] {
        [] => bail!("no event"),
        [event] => ensure!(*event == whole, "the event is {event}, generate answers {whole}"),
        more => {
            for event in more {
                ensure!(
                    event["model_name"] == subject.model.name.as_str(),
                    "an event of {}",
                    event["model_name"]
                );
            }
        }
    }
    Ok(Kept)
}

fn version(subject: &Subject) -> Result<Outcome> {
    if let Some(skipped) = absent(subject)? {
        return Ok(skipped);
    }
    let Some(version) = subject.model.versions.first() else {
        return Ok(Skipped("the metadata name no version"));
    };
    let body = Value::from(body(subject));
    let told = ask(subject, &format!("versions/{version}/generate"), &body)?.good()?;
    ensure!(told["model_version"] == version.as_str(), "model_version is {}", told["model_version"]);
    let events = events(&ask(subject, &format!("versions/{version}/generate_stream"), &body)?)?;
    ensure!(events.iter().all(|event| event["model_version"] == version.as_str()), "another version");
    Ok(Kept)
}

/// A body that both refuse.
fn faulty(subject: &Subject, body: &[u8]) -> Result<Outcome> {
    if let Some(skipped) = absent(subject)? {
        return Ok(skipped);
    }
    for call in CALLS {
        let lines = ["Content-Type: application/json"];
        let answer = subject.server.send("POST", &subject.model.path(call), &lines, body)?;
        answer.refused(400..=499).with_context(|| call.to_owned())?;
    }
    Ok(Kept)
}

fn missing(subject: &Subject) -> Result<Outcome> {
    let mut body = body(subject);
    body.remove(&subject.model.inputs[0].name);
    faulty(subject, Value::from(body).to_string().as_bytes())
}

fn other_kind(subject: &Subject) -> Result<Outcome> {
    let input = &subject.model.inputs[0];
    let wrong = if input.datatype == "BYTES" { json!(1) } else { json!("x") };
    let mut body = body(subject);
    body.insert(input.name.clone(), json!(vec![wrong; input.count()]));
    faulty(subject, Value::from(body).to_string().as_bytes())
}

fn malformed(subject: &Subject) -> Result<Outcome> {
    let whole = Value::from(body(subject)).to_string();
    for body in ["", "{", "[]", "nonsense", &whole[..whole.len() - 1]] {
        if let Outcome::Skipped(reason) = faulty(subject, body.as_bytes())? {
            return Ok(Skipped(reason));
        }
    }
    Ok(Kept)
}

fn unknown_model(subject: &Subject) -> Result<Outcome> {
    if let Some(skipped) = absent(subject)? {
        return Ok(skipped);
    }
    for call in CALLS {
        let path = format!("/v2/models/no-such-model/{call}");
        subject.server.post(&path, &Value::from(body(subject)))?.refused(400..=499)?;
    }
    Ok(Kept)
}
