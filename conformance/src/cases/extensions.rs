//! Extensions of few rules: parameters, classification, logging and trace.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Case,
    Outcome::{self, Kept, Skipped},
    Subject,
};

pub const PARAMETERS: &[Case] = &[
    Case { name: "texts, numbers and booleans are taken, of the request and of inputs", run: taken },
    Case { name: "names of the server's own (triton_…) are refused", run: reserved },
];

pub const CLASSIFICATION: &[Case] = &[
    Case { name: "classification k answers k of value:index, the largest first", run: classes },
    Case { name: "a k that is none is a 4xx", run: no_classes },
];

pub const LOGGING: &[Case] = &[Case { name: "GET /v2/logging is an object of settings", run: logging }];

pub const TRACE: &[Case] = &[Case { name: "GET /v2/trace/setting is an object of settings", run: trace }];

fn taken(subject: &Subject) -> Result<Outcome> {
    let parameters = json!({ "a": "text", "b": 1, "c": true, "d": 1.5 });
    let mut request = subject.model.request_with(&json!({ "parameters": parameters }));
    request["inputs"][0]["parameters"] = parameters;
    subject.model.check(&subject.model.infer(&subject.server, &request)?.good()?)?;
    Ok(Kept)
}

fn reserved(subject: &Subject) -> Result<Outcome> {
    let request = subject.model.request_with(&json!({ "parameters": { "triton_x": 1 } }));
    subject.model.infer(&subject.server, &request)?.refused(400..=499)?;
    Ok(Kept)
}

fn classified(subject: &Subject, k: &Value) -> Option<Value> {
    let output = subject.model.outputs.iter().find(|output| output.is_numeric())?;
    let outputs = json!([{ "name": output.name, "parameters": { "classification": k } }]);
    Some(subject.model.request_with(&json!({ "outputs": outputs })))
}

fn classes(subject: &Subject) -> Result<Outcome> {
    let Some(request) = classified(subject, &json!(2)) else { return Ok(Skipped("no output is a number")) };
    let answer = subject.model.infer(&subject.server, &request)?.good()?;
    let output = &answer["outputs"][0];
    ensure!(output["datatype"] == "BYTES", "'datatype' is {}", output["datatype"]);
    let texts = output["data"].as_array().context("no data")?;
    let mut last = f64::INFINITY;
    for text in texts {
        let text = text.as_str().context("a class that is no text")?;
        let mut parts = text.split(':');
        let value: f64 = parts.next().unwrap_or_default().parse().with_context(|| format!("'{text}'"))?;
        let _: u64 = parts.next().unwrap_or_default().parse().with_context(|| format!("'{text}'"))?;
        ensure!(value <= last || texts.len() > 2, "{texts:?} is not in order");
        last = value;
    }
    Ok(Kept)
}

fn no_classes(subject: &Subject) -> Result<Outcome> {
    for k in [json!(-1), json!("2"), json!(1.5)] {
        let Some(request) = classified(subject, &k) else { return Ok(Skipped("no output is a number")) };
        subject.model.infer(&subject.server, &request)?.refused(400..=499)?;
    }
    Ok(Kept)
}

fn logging(subject: &Subject) -> Result<Outcome> {
    settings(subject, "/v2/logging", "log_info")
}

fn trace(subject: &Subject) -> Result<Outcome> {
    settings(subject, "/v2/trace/setting", "trace_level")
}

fn settings(subject: &Subject, path: &str, known: &str) -> Result<Outcome> {
    let settings = subject.server.get(path)?.good()?;
    ensure!(settings.get(known).is_some(), "no '{known}' in {settings}");
    Ok(Kept)
}
