//! `airlock show`: all that is known of a model.

use std::time::Duration;

use anyhow::Result;
use bytesize::ByteSize;
use clap::Args;
use serde_json::Value;

use super::{
    client::{self, Client, is_refusal},
    connection::Connection,
    push::tensor_text,
    records::{Output, moment, table},
    say::{plain, say},
};
use crate::name::ModelName;

const PATIENCE: Duration = Duration::from_secs(60);

/// Show a model: versions, digests, states, inputs and outputs, settings
#[derive(Args, Debug)]
pub(super) struct Show {
    /// The model's name
    model: ModelName,
    #[command(flatten)]
    answer: super::Answer,
    #[command(flatten)]
    connection: Connection,
}

impl Show {
    pub(super) fn run(self) -> Result<()> {
        let client = self.connection.client(PATIENCE)?;
        let model = client::block_on(model(&client, &self.model))?;
        match self.answer.output {
            Output::Json => say(model),
            Output::Text => say(text(&model)),
        }
    }
}

/// The tenant's own model, or what the metadata says of one that the operator shares.
async fn model(client: &Client, name: &ModelName) -> Result<Value> {
    match client.get(&format!("/v2/repository/models/{name}")).await {
        Err(error) if is_refusal(&error, "model_not_found") || is_refusal(&error, "uploads_disabled") => {
            client.get(&format!("/v2/models/{name}")).await
        }
        model => model,
    }
}

fn text(model: &Value) -> String {
    let name = plain(model["name"].as_str().unwrap_or("?"));
    let versions: Vec<&Value> = model["versions"].as_array().into_iter().flatten().collect();
    let mut lines = Vec::new();
    if let Some(settings) = model["settings"].as_object() {
        lines.push(name);
        lines.extend(settings.iter().map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), plain);
            format!("  {}: {value}", plain(name))
        }));
        let word = |version: &Value, field: &str| plain(version[field].as_str().unwrap_or("-"));
        let rows: Vec<Vec<String>> = versions
            .iter()
            .map(|version| {
                vec![
                    word(version, "version"),
                    word(version, "state"),
                    word(version, "kind"),
                    ByteSize(version["size"].as_u64().unwrap_or_default()).to_string(),
                    version["published"].as_u64().map_or_else(|| "-".to_owned(), moment),
                    word(version, "digest"),
                ]
            })
            .collect();
        lines.push(table(&["VERSION", "STATE", "KIND", "SIZE", "PUBLISHED", "DIGEST"], &rows));
    } else {
        let names: Vec<String> = versions.iter().filter_map(|version| version.as_str()).map(plain).collect();
        lines.push(format!("{name}, shared by the operator; versions {}", names.join(", ")));
        lines.extend(signature(model));
    }
    for version in versions.iter().filter(|version| version.is_object()) {
        lines.push(format!("version {}", plain(version["version"].as_str().unwrap_or("?"))));
        lines.extend(signature(&version["signature"]));
        if let Some(reason) = version["reason"].as_str() {
            lines.push(format!("  {}", plain(reason)));
        }
        for file in version["files"].as_array().into_iter().flatten() {
            let size = ByteSize(file["size"].as_u64().unwrap_or_default());
            lines.push(format!("  file   {} {size}", plain(file["name"].as_str().unwrap_or("?"))));
        }
    }
    lines.join("\n")
}

fn signature(tensors: &Value) -> Vec<String> {
    let of = |what: &'static str, tensors: &Value| -> Vec<String> {
        let tensors = tensors.as_array().into_iter().flatten();
        tensors.map(|tensor| format!("  {what} {}", tensor_text(tensor))).collect()
    };
    [of("input ", &tensors["inputs"]), of("output", &tensors["outputs"])].concat()
}
