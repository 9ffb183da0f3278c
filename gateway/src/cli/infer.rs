//! `airlock infer`: one request to a model.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use reqwest::{Method, Response, header::CONTENT_TYPE};
use serde_json::{Map, Value, json};

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
  airlock infer babble -i PROMPT=the -p max_words=5 --stream   each response as it comes

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
    /// A parameter of the request, as JSON or else as a text; once for each
    #[arg(long = "parameter", short, value_name = "NAME=VALUE", value_parser = parameter)]
    parameters: Vec<(String, Value)>,
    /// Take any number of responses, each as a line of JSON when it comes
    #[arg(long)]
    stream: bool,
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
        let mut parameters: Map<String, Value> = self.parameters.iter().cloned().collect();
        if !self.stream {
            parameters.insert("binary_data_output".into(), true.into());
        }
        let header = json!({ "inputs": entries, "parameters": parameters }).to_string();
        let last = if self.stream { "infer_stream" } else { "infer" };
        let request = client
            .request(Method::POST, &format!("{path}/{last}"))
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(HEADER_LENGTH, header.len())
            .body([header.as_bytes(), &binary].concat());
        let response = client.send(request).await?;
        if self.stream {
            return told(client, response).await;
        }
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

/// Prints the events of an answer, each as it comes. An error among them is the last, and this command's own.
async fn told(client: &Client, mut response: Response) -> Result<()> {
    let mut read = Vec::new();
    // Bytes in which no event ends.
    let mut searched = 0;
    while let Some(piece) = client.piece(&mut response).await? {
        read.extend_from_slice(&piece);
        while let Some(end) = read[searched..].windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = read.drain(..searched + end + 2).collect();
            searched = 0;
            let json = event.strip_prefix(b"data: ").context("the answer is no stream of events")?;
            let response: Value = serde_json::from_slice(json).context("an event is not JSON")?;
            if let Some(error) = response["error"].as_str() {
                let code = response["code"].as_str().unwrap_or_default();
                bail!("{} [{}]", plain(error), plain(code));
            }
            say(response)?;
        }
        searched = read.len().saturating_sub(1);
    }
    Ok(())
}

fn parameter(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("it has to be NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
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
