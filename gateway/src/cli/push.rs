//! `airlock push`: a file or a folder becomes a version of a model.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::{Context, Result};
use bytesize::ByteSize;
use clap::Args;
use reqwest::{
    Body, Method,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use serde_json::{Value, json};

use super::{
    client::{self, Client, ClientError, is_refusal},
    connection::Connection,
    package::Package,
    progress,
    records::Output,
    say::{note, plain, quoted, say},
    values,
};
use crate::name::{ModelName, Version};

/// Sending takes as long as the line is slow, and compiling as long as the model is large.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Time for a gateway to refuse an upload before its body is sent.
const PAUSE: Duration = Duration::from_secs(1);

/// Elements up to which an example spells a tensor out.
const MAX_EXAMPLE: u64 = 32;

/// Upload a model and serve it
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  airlock push iris.onnx                    as the next version of model `iris`
  airlock push v4.wasm --name iris --version 4
  airlock push iris/                        model.wasm or model.onnx, and what lies there

A version never changes. Pushing the same content again succeeds, other content under its name is refused.")]
pub(super) struct Push {
    /// A wasm plugin, an ONNX model, or a folder with one of them and what belongs to it
    path: PathBuf,
    /// The model's name [default: the file's or folder's]
    #[arg(long, value_name = "MODEL")]
    name: Option<ModelName>,
    /// The version's name [default: the number after the greatest one]
    #[arg(long, value_name = "VERSION")]
    version: Option<Version>,
    #[command(flatten)]
    answer: super::Answer,
    #[command(flatten)]
    connection: Connection,
}

impl Push {
    pub(super) fn run(self) -> Result<()> {
        let package = Package::open(&self.path)?;
        let name = match (&self.name, &package.name) {
            (Some(name), _) => name.clone(),
            (None, None) => anyhow::bail!("say what the model is called: --name MODEL"),
            (None, Some(name)) => name.parse().context("say what the model is called: --name MODEL")?,
        };
        let client = self.connection.client(PATIENCE)?;
        client::block_on(self.push(&client, &package, &name))
    }

    async fn push(&self, client: &Client, package: &Package, name: &ModelName) -> Result<()> {
        let version = match &self.version {
            Some(version) => version.clone(),
            None => {
                let next = next_version(client, name).await?;
                note(format!("{name}: this becomes version {next}"));
                next
            }
        };
        let path = format!("/v2/repository/models/{name}/versions/{version}");
        let digest = package.content_digest()?;
        let mut report = match send(client, package, &path, &digest, Duration::ZERO).await {
            // A gateway that refuses an upload by its head closes the connection, and the body that is on its way keeps
            // its word from being read: so this time the body waits for it. The same upload twice is the same as once.
            Err(error) if matches!(error.downcast_ref(), Some(ClientError::Broken { .. })) => {
                note(format!("{error:#}; trying once more"));
                send(client, package, &path, &digest, PAUSE).await?
            }
            report => report?,
        };
        // Only the upload that made the version is told how long that took.
        let new = report.get("load_ms").is_some();
        match self.answer.output {
            Output::Json => {
                report["new"] = json!(new);
                say(report)
            }
            Output::Text => say(self.text(&report, name, &version, new)),
        }
    }

    fn text(&self, report: &Value, name: &ModelName, version: &Version, new: bool) -> String {
        let word = |field: &str| plain(report[field].as_str().unwrap_or("?"));
        let mut lines = vec![if new {
            format!("{name} version {version} is published, loaded in {} ms", report["load_ms"])
        } else {
            format!("{name} version {version} was there already, with the same content")
        }];
        lines.push(format!("  digest  {}", word("digest")));
        lines.push(format!("  kind    {}", word("kind")));
        lines.push(format!("  size    {}", ByteSize(report["size"].as_u64().unwrap_or_default())));
        if let Some(reason) = report["reason"].as_str() {
            lines.push(format!("  {}: {}", word("state"), plain(reason)));
        }
        let Some(inputs) = report["signature"]["inputs"].as_array() else { return lines.join("\n") };
        for (what, tensors) in
            [("input ", Some(inputs)), ("output", report["signature"]["outputs"].as_array())]
        {
            for tensor in tensors.into_iter().flatten() {
                lines.push(format!("  {what}  {}", tensor_text(tensor)));
            }
        }
        let mut example = format!("  airlock infer {name}");
        if self.version.is_some() {
            example.push_str(&format!(" --version {version}"));
        }
        for input in inputs {
            example.push_str(&format!(" --input {}", quoted(&example_input(input))));
        }
        lines.push(format!("Try it:\n{example}{}", self.connection.repeated()));
        lines.join("\n")
    }
}

/// `INPUT0 FP32 [-1,4]`.
pub(super) fn tensor_text(tensor: &Value) -> String {
    let text = |field: &str| plain(tensor[field].as_str().unwrap_or("?"));
    format!("{} {} {}", text("name"), text("datatype"), tensor["shape"])
}

/// An input for `--input` that the model takes, of zeros or empty texts; a file's name where that would be long.
fn example_input(input: &Value) -> String {
    let name = input["name"].as_str().unwrap_or_default();
    let shape: Vec<u64> = input["shape"]
        .as_array()
        .map(|shape| shape.iter().map(|dim| dim.as_u64().unwrap_or(1)).collect())
        .unwrap_or_default();
    let element = match input["datatype"].as_str() {
        Some("BYTES") => json!("text"),
        Some("BOOL") => json!(false),
        _ => json!(0),
    };
    let count = crate::tensor::element_count(&shape).unwrap_or(u64::MAX);
    if count > MAX_EXAMPLE {
        return format!("{name}=@{name}.npy");
    }
    format!("{name}={}", values::nested(&shape, &mut std::iter::repeat(element)))
}

async fn send(
    client: &Client,
    package: &Package,
    path: &str,
    digest: &str,
    pause: Duration,
) -> Result<Value> {
    let length = package.length();
    let sent = Arc::new(AtomicU64::new(0));
    let request = client
        .request(Method::PUT, path)
        .header(CONTENT_TYPE, &package.content_type)
        .header(CONTENT_LENGTH, length)
        .header("content-digest", digest)
        .body(Body::wrap_stream(package.stream(pause, Arc::clone(&sent))));
    tokio::select! {
        report = client.json(request) => report,
        () = progress::show(&sent, length) => unreachable!("it goes on until the answer is there"),
    }
}

async fn next_version(client: &Client, name: &ModelName) -> Result<Version> {
    let greatest = match client.get(&format!("/v2/repository/models/{name}")).await {
        Ok(model) => model["versions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|version| version["version"].as_str()?.parse::<u64>().ok())
            .max()
            .unwrap_or(0),
        Err(error) if is_refusal(&error, "model_not_found") => 0,
        Err(error) => return Err(error),
    };
    let next =
        greatest.checked_add(1).context("there is no number after the greatest version: say --version")?;
    Ok(next.to_string().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_what_infer_takes() {
        for (input, example) in [
            (json!({ "name": "X", "datatype": "FP32", "shape": [-1, 2] }), "X=[[0,0]]"),
            (json!({ "name": "X", "datatype": "BYTES", "shape": [1] }), "X=[\"text\"]"),
            (json!({ "name": "X", "datatype": "BOOL", "shape": [] }), "X=false"),
            (json!({ "name": "X", "datatype": "FP32", "shape": [3, 224, 224] }), "X=@X.npy"),
            (json!({ "name": "X", "datatype": "FP32", "shape": [i64::MAX, i64::MAX] }), "X=@X.npy"),
            (json!({ "name": "X", "datatype": "FP32", "shape": [0] }), "X=[]"),
        ] {
            assert_eq!(example_input(&input), example);
        }
    }
}
