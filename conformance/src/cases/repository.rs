//! The index of the model repository. Loading and unloading would change the server, and is left out.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Case,
    Outcome::{self, Kept},
    Subject,
};

pub const CASES: &[Case] = &[
    Case {
        name: "the index is a list with the model, whatever the body: none, {} or null settings",
        run: index,
    },
    Case { name: "with \"ready\": true only models that are ready are listed", run: ready },
    Case { name: "states are the five that there are", run: states },
    Case { name: "loading a model that there is not is an error", run: load_unknown },
];

const PATH: &str = "/v2/repository/index";

fn entries(index: &Value) -> Result<&Vec<Value>> {
    index.as_array().context("the index is no list")
}

fn index(subject: &Subject) -> Result<Outcome> {
    for body in [&b""[..], b"{}"] {
        let index = subject.server.send("POST", PATH, &[], body)?.good()?;
        let there = entries(&index)?.iter().any(|entry| entry["name"] == subject.model.name.as_str());
        ensure!(there, "'{}' is not in the index", subject.model.name);
    }
    Ok(Kept)
}

fn ready(subject: &Subject) -> Result<Outcome> {
    let index = subject.server.post(PATH, &json!({ "ready": true }))?.good()?;
    for entry in entries(&index)? {
        ensure!(entry["state"] == "READY", "{} is listed as {}", entry["name"], entry["state"]);
    }
    ensure!(!entries(&index)?.is_empty(), "no model is ready");
    Ok(Kept)
}

fn states(subject: &Subject) -> Result<Outcome> {
    let index = subject.server.send("POST", PATH, &[], b"")?.good()?;
    for entry in entries(&index)? {
        let Some(state) = entry["state"].as_str() else { continue };
        let known = ["UNKNOWN", "READY", "UNAVAILABLE", "LOADING", "UNLOADING"].contains(&state);
        ensure!(known, "{} is '{state}'", entry["name"]);
    }
    Ok(Kept)
}

fn load_unknown(subject: &Subject) -> Result<Outcome> {
    subject.server.post("/v2/repository/models/no-such-model/load", &json!({}))?.refused(400..=599)?;
    Ok(Kept)
}
