//! `airlock list`: the models that a tenant can call.

use std::time::Duration;

use anyhow::Result;
use bytesize::ByteSize;
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    client::{self, Client, is_refusal},
    connection::Connection,
    records::{Output, table},
    say::{plain, say},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// List your models and those that the operator shares
#[derive(Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    answer: super::Answer,
    #[command(flatten)]
    connection: Connection,
}

impl List {
    pub(super) fn run(self) -> Result<()> {
        let client = self.connection.client(PATIENCE)?;
        let versions = client::block_on(versions(&client))?;
        match self.answer.output {
            Output::Json => say(Value::Array(versions)),
            Output::Text if versions.is_empty() => say("there are no models yet; airlock push makes one"),
            Output::Text => {
                let headings = ["MODEL", "VERSION", "OWNER", "STATE", "KIND", "SIZE"];
                say(table(&headings, &versions.iter().map(row).collect::<Vec<_>>()))
            }
        }
    }
}

/// All versions: the tenant's own with all that is known of them, then the shared ones.
async fn versions(client: &Client) -> Result<Vec<Value>> {
    let own = match client.get("/v2/repository/models").await {
        Ok(own) => own["models"].as_array().cloned().unwrap_or_default(),
        // A gateway without a store has shared models only.
        Err(error) if is_refusal(&error, "uploads_disabled") => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut versions = Vec::new();
    for name in own.iter().filter_map(Value::as_str) {
        match client.get(&format!("/v2/repository/models/{name}")).await {
            Ok(model) => versions.extend(model["versions"].as_array().cloned().unwrap_or_default()),
            // Removed a moment ago.
            Err(error) if is_refusal(&error, "model_not_found") => {}
            Err(error) => return Err(error),
        }
    }
    for version in &mut versions {
        version["shared"] = json!(false);
    }
    let index = client.json(client.request(Method::POST, "/v2/repository/index")).await?;
    for entry in index.as_array().into_iter().flatten().filter(|entry| !own.contains(&entry["name"])) {
        let mut entry = entry.clone();
        entry["shared"] = json!(true);
        versions.push(entry);
    }
    Ok(versions)
}

pub(super) fn row(version: &Value) -> Vec<String> {
    let word = |field: &str| plain(version[field].as_str().unwrap_or("-"));
    vec![
        word("name"),
        word("version"),
        if version["shared"] == json!(true) { "shared" } else { "you" }.to_owned(),
        word("state"),
        word("kind"),
        version["size"].as_u64().map_or_else(|| "-".to_owned(), |size| ByteSize(size).to_string()),
    ]
}
