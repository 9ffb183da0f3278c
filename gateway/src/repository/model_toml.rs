//! `model.toml`: a model's configuration in this gateway's own words, documented in `docs/model-repository.md`.

use std::collections::BTreeMap;

use bytesize::ByteSize;
use serde::Deserialize;

use crate::{
    execute::{Batching, Isolation, OnnxEngine},
    limits::ModelLimits,
    name::Version,
    tensor::{Datatype, Shape, TensorSpec},
};

use super::model_config::{ModelConfig, VersionPolicy, brief, declare, is_file_name};

pub(super) const FILE_NAME: &str = "model.toml";

/// What is wrong with a `model.toml`: the line and the reason. The line itself is not quoted: clients may read this, and
/// configurations hold secrets.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{FILE_NAME} line {line}: {reason}")]
pub(super) struct ModelTomlError {
    line: usize,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version_policy: Option<toml::Spanned<Policy>>,
    max_batch_size: Option<u64>,
    #[serde(default)]
    response_cache: bool,
    dynamic_batching: Option<toml::Spanned<OwnBatching>>,
    #[serde(default)]
    parameters: BTreeMap<String, Parameter>,
    #[serde(default)]
    inputs: Vec<toml::Spanned<Input>>,
    /// Outputs, and the files that name their classes.
    #[serde(default)]
    label_files: BTreeMap<String, toml::Spanned<String>>,
    limits: Option<toml::Spanned<OwnLimits>>,
    onnx_isolation: Option<Isolation>,
    onnx_engine: Option<OnnxEngine>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "expected \"all\", \"latest\", { latest = N } or { specific = [\"1\", \"2\"] }"
)]
enum Policy {
    Word(String),
    Latest { latest: usize },
    Specific { specific: Vec<String> },
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string, a number, true or false")]
enum Parameter {
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    name: String,
    datatype: String,
    shape: Vec<i64>,
}

/// How requests are put together.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnBatching {
    max_queue_delay: Option<String>,
    #[serde(default)]
    preferred_batch_size: Vec<u64>,
}

/// Bounds below the gateway's own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnLimits {
    deadline: Option<String>,
    memory: Option<ByteSize>,
    output: Option<ByteSize>,
    max_body: Option<ByteSize>,
}

pub(super) fn parse(text: &str) -> Result<ModelConfig, ModelTomlError> {
    let file: File = toml::from_str(text)
        .map_err(|error| wrong(text, error.span().map_or(0, |span| span.start), error.message()))?;
    let mut config = ModelConfig {
        file: FILE_NAME,
        max_batch_size: file.max_batch_size.filter(|size| *size > 0),
        batched: file.max_batch_size.filter(|size| *size > 0).map(|_| true),
        response_cache: file.response_cache,
        isolation: file.onnx_isolation,
        engine: file.onnx_engine,
        parameters: file.parameters.into_iter().map(|(name, value)| (name, value.into_text())).collect(),
        ..Default::default()
    };
    if let Some(policy) = file.version_policy {
        let start = policy.span().start;
        config.version_policy =
            Some(policy.into_inner().read().map_err(|reason| wrong(text, start, &reason))?);
    }
    if let Some(batching) = file.dynamic_batching {
        let start = batching.span().start;
        config.batching = Some(batching.into_inner().read().map_err(|reason| wrong(text, start, &reason))?);
    }
    if let Some(limits) = file.limits {
        let start = limits.span().start;
        config.limits = limits.into_inner().read().map_err(|reason| wrong(text, start, &reason))?;
    }
    for (output, name) in file.label_files {
        if !is_file_name(name.get_ref()) {
            let reason = format!("label_files: '{}' is not the name of a file", brief(name.get_ref()));
            return Err(wrong(text, name.span().start, &reason));
        }
        config.label_files.push((output, name.into_inner()));
    }
    for input in file.inputs {
        let start = input.span().start;
        let input = input.into_inner();
        let spec = Datatype::from_name(&input.datatype)
            .map(|datatype| TensorSpec { name: input.name, datatype, shape: Shape(input.shape) })
            .ok_or_else(|| format!("datatype '{}' is not one of {}", brief(&input.datatype), datatypes()));
        spec.and_then(|spec| declare(&mut config.inputs, spec))
            .map_err(|reason| wrong(text, start, &reason))?;
    }
    Ok(config)
}

impl Policy {
    fn read(self) -> Result<VersionPolicy, String> {
        match self {
            Self::Word(word) if word == "all" => Ok(VersionPolicy::All),
            Self::Word(word) if word == "latest" => Ok(VersionPolicy::Latest(1)),
            Self::Word(word) => Err(format!("version_policy '{}' is neither all nor latest", brief(&word))),
            Self::Latest { latest: 0 } => Err("version_policy: latest must be at least 1".into()),
            Self::Latest { latest } => Ok(VersionPolicy::Latest(latest)),
            Self::Specific { specific } => specific
                .iter()
                .map(|version| version.parse::<Version>().map_err(|error| format!("version_policy: {error}")))
                .collect::<Result<_, _>>()
                .map(VersionPolicy::Specific),
        }
    }
}

impl OwnBatching {
    fn read(self) -> Result<Batching, String> {
        let delay = self.max_queue_delay.map(|text| {
            let time = humantime::parse_duration(&text).ok().filter(|time| *time <= Batching::MAX_DELAY);
            time.ok_or_else(|| {
                format!("max_queue_delay '{}' is not a time up to 10s, as in \"100us\"", brief(&text))
            })
        });
        if self.preferred_batch_size.contains(&0) {
            return Err("preferred_batch_size: a batch has at least 1 row".into());
        }
        Ok(Batching {
            delay: delay.transpose()?.unwrap_or_default(),
            preferred: self.preferred_batch_size,
            ..Batching::default()
        })
    }
}

impl OwnLimits {
    fn read(self) -> Result<ModelLimits, String> {
        let deadline = self.deadline.map(|text| {
            let time = humantime::parse_duration(&text).ok().filter(|time| !time.is_zero());
            time.ok_or_else(|| {
                format!("deadline '{}' is not a time above zero, as in \"500ms\"", brief(&text))
            })
        });
        let bytes = |name: &str, size: Option<ByteSize>| {
            let bytes = size.map(|size| usize::try_from(size.as_u64()).ok().filter(|bytes| *bytes > 0));
            let wrong = || format!("{name} has to be above zero: it would refuse everything");
            bytes.map(|bytes| bytes.ok_or_else(wrong)).transpose()
        };
        Ok(ModelLimits {
            deadline: deadline.transpose()?,
            memory_bytes: bytes("memory", self.memory)?,
            output_bytes: bytes("output", self.output)?,
            max_body_bytes: bytes("max_body", self.max_body)?,
        })
    }
}

impl Parameter {
    fn into_text(self) -> String {
        match self {
            Self::Boolean(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            // As it is written in TOML: `1.0` stays `1.0`.
            Self::Float(value) => format!("{value:?}"),
            Self::Text(text) => text,
        }
    }
}

fn wrong(text: &str, offset: usize, reason: &str) -> ModelTomlError {
    let before = text.get(..offset).unwrap_or(text);
    ModelTomlError { line: before.matches('\n').count() + 1, reason: reason.replace('\n', " ") }
}

fn datatypes() -> String {
    Datatype::ALL.map(Datatype::name).join(" ")
}

#[cfg(test)]
mod tests;
