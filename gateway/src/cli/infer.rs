//! `airlock infer`: one request to a model.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::{
    client::{self, Client},
    connection::Connection,
    records::Output,
    say::{plain, say},
    tensors,
    values::Input,
};
use crate::{
    name::{ModelName, Version},
    tensor::{Datatype, Shape, TensorSpec},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Where a body's JSON ends and its binary tensors begin.
pub(super) const HEADER_LENGTH: &str = "inference-header-content-length";

/// Ask a model
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  airlock infer iris -i 'x=[[5.1,3.5,1.4,0.2]]'   JSON, nested like the shape, or flat
  airlock infer iris -i x=@flowers.npy            what numpy.save wrote
  airlock infer photos -i image=@cat.jpg          a file's bytes, as one BYTES element
  airlock infer greet -i name=World               a text, as one BYTES element

`airlock show MODEL` says which inputs there are. In JSON answers, what is no number (NaN, infinity) is null, and bytes that are no text are {\"base64\": …}.")]
pub(super) struct Infer {
    /// The model's name
    model: ModelName,
    /// A version or an alias [default: the model's default version]
    #[arg(long, value_name = "VERSION")]
    version: Option<Version>,
    /// An input tensor; once for each
    #[arg(long = "input", short, value_name = "NAME=VALUE|NAME=@FILE")]
    inputs: Vec<Input>,
    #[command(flatten)]
    answer: super::Answer,
    #[command(flatten)]
    connection: Connection,
}

impl Infer {
    pub(super) fn run(self) -> Result<()> {
        let client = self.connection.client(PATIENCE)?;
        client::block_on(self.infer(&client))
    }

    async fn infer(&self, client: &Client) -> Result<()> {
        let mut path = format!("/v2/models/{}", self.model);
        if let Some(version) = &self.version {
            path.push_str(&format!("/versions/{version}"));
        }
        let (entries, binary) = tensors_of(client, &path, &self.model, &self.inputs).await?;
        let header = json!({ "inputs": entries, "parameters": { "binary_data_output": true } }).to_string();
        let request = client
            .request(Method::POST, &format!("{path}/infer"))
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(HEADER_LENGTH, header.len())
            .body([header.as_bytes(), &binary].concat());
        let response = client.send(request).await?;
        let length = match response.headers().get(HEADER_LENGTH) {
            None => None,
            Some(length) => {
                let length = length.to_str().ok().and_then(|length| length.parse().ok());
                Some(length.context("the answer's header length is no number")?)
            }
        };
        let body = client.bytes(response).await?;
        let (mut head, outputs) = tensors::outputs(&body, length)?;
        match self.answer.output {
            Output::Json => {
                head["outputs"] = outputs.iter().map(tensors::OutputTensor::json).collect();
                say(head)
            }
            Output::Text => {
                let tables: Vec<String> = outputs.iter().map(tensors::OutputTensor::table).collect();
                say(tables.join("\n"))
            }
        }
    }
}

/// The inputs of a request as the model at that path takes them: their JSON, and the bytes that follow it.
pub(super) async fn tensors_of(
    client: &Client,
    path: &str,
    model: &ModelName,
    inputs: &[Input],
) -> Result<(Vec<Value>, Vec<u8>)> {
    let specs = specs(&client.get(path).await?)?;
    let mut entries = Vec::new();
    let mut binary = Vec::new();
    for input in inputs {
        let Some(spec) = specs.iter().find(|spec| spec.name == input.name) else {
            let known: Vec<_> = specs.iter().map(|spec| format!("'{}'", plain(&spec.name))).collect();
            bail!("'{model}' has no input '{}'; it has {}", input.name, known.join(", "));
        };
        let tensor = input.tensor(spec)?;
        entries.push(tensor.entry);
        binary.extend(tensor.bytes);
    }
    Ok((entries, binary))
}

/// A model's inputs, as its metadata has them.
fn specs(metadata: &Value) -> Result<Vec<TensorSpec>> {
    let inputs = metadata["inputs"].as_array().context("the model's metadata has no inputs")?;
    let spec = |input: &Value| {
        Some(TensorSpec {
            name: input["name"].as_str()?.to_owned(),
            datatype: Datatype::from_name(input["datatype"].as_str()?)?,
            shape: Shape(input["shape"].as_array()?.iter().map(Value::as_i64).collect::<Option<_>>()?),
        })
    };
    inputs.iter().map(spec).collect::<Option<_>>().context("the model's metadata cannot be read")
}
