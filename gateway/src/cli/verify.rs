//! `airlock verify`: the same inputs through two versions.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::{
    client::{self, Client},
    connection::Connection,
    infer::{HEADER_LENGTH, tensors_of},
    records::Output,
    say::{plain, say},
    values::Input,
};
use crate::name::{ModelName, Version};

const PATIENCE: Duration = Duration::from_secs(60);

/// Compare what two versions answer to the same inputs
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  airlock verify iris 2 -i x=@flowers.npy                       beside the version that answers by default
  airlock verify iris 2 --against 1 -i x=@flowers.npy
  airlock verify iris 2 --against iris-onnx/1 -i x=@flowers.npy --rtol 1e-5

The exit code is 0 if all outputs agree within the tolerance, and 1 if they do not.")]
pub(super) struct Verify {
    /// The model's name
    model: ModelName,
    /// The version to look at
    version: Version,
    /// A version or alias of the model, or MODEL/VERSION [default: the model's default version]
    #[arg(long, value_name = "VERSION")]
    against: Option<String>,
    /// Relative tolerance
    #[arg(long, value_name = "NUMBER", default_value_t = 1e-3)]
    rtol: f64,
    /// Absolute tolerance
    #[arg(long, value_name = "NUMBER", default_value_t = 1e-4)]
    atol: f64,
    /// An input tensor; once for each
    #[arg(long = "input", short, value_name = "NAME=VALUE|NAME=@FILE")]
    inputs: Vec<Input>,
    #[command(flatten)]
    answer: super::Answer,
    #[command(flatten)]
    connection: Connection,
}

impl Verify {
    pub(super) fn run(self) -> Result<()> {
        let client = self.connection.client(PATIENCE)?;
        client::block_on(self.verify(&client))
    }

    async fn verify(&self, client: &Client) -> Result<()> {
        let Self { model, version, .. } = self;
        let path = format!("/v2/models/{model}/versions/{version}");
        let (entries, binary) = tensors_of(client, &path, model, &self.inputs).await?;
        let mut parameters = json!({ "rtol": self.rtol, "atol": self.atol });
        if let Some(against) = &self.against {
            parameters["against"] = json!(against);
        }
        let header = json!({ "inputs": entries, "parameters": parameters }).to_string();
        let path = format!("/v2/repository/models/{model}/versions/{version}/verify");
        let request = client
            .request(Method::POST, &path)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(HEADER_LENGTH, header.len())
            .body([header.as_bytes(), &binary].concat());
        let report = client.json(request).await?;
        match self.answer.output {
            Output::Json => say(&report)?,
            Output::Text => say(table(&report))?,
        }
        if report["pass"] == json!(true) { Ok(()) } else { bail!("the versions differ") }
    }
}

/// One line for each output.
fn table(report: &Value) -> String {
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text),
        other => other.to_string(),
    };
    let against = &report["against"];
    let mut lines = vec![format!(
        "{}/{} beside {}/{}",
        text(&report["model"]),
        text(&report["version"]),
        text(&against["model"]),
        text(&against["version"])
    )];
    for output in report["outputs"].as_array().into_iter().flatten() {
        let verdict = if output["pass"] == json!(true) { "pass" } else { "FAIL" };
        let mut line = format!("{verdict}  {}", text(&output["name"]));
        match &output["reason"] {
            Value::String(reason) => line.push_str(&format!("  {}", plain(reason))),
            _ => line.push_str(&format!(
                "  largest difference {} absolute, {} relative; {} elements differ",
                text(&output["max_abs"]),
                text(&output["max_rel"]),
                text(&output["mismatches"])
            )),
        }
        lines.push(line);
    }
    lines.join("\n")
}
