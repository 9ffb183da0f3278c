//! Triton's `config.pbtxt`: which of its fields apply here, and what they mean.

use std::time::Duration;

use crate::{
    execute::Batching,
    name::{ModelName, Version},
    tensor::{Datatype, Shape, TensorSpec},
};

use super::{
    Kind, json,
    model_config::{ModelConfig, VersionPolicy, brief, declare, is_file_name},
    pbtxt::{self, Field, Position, Value},
};

pub(super) const FILE_NAME: &str = "config.pbtxt";

/// Why a `config.pbtxt` cannot be served by, with the line that says so.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{FILE_NAME} {position}: {reason}")]
pub(super) struct TritonConfigError {
    position: Position,
    reason: String,
}

impl From<pbtxt::PbtxtError> for TritonConfigError {
    fn from(error: pbtxt::PbtxtError) -> Self {
        Self { position: error.position, reason: error.reason }
    }
}

type Read<T> = Result<T, TritonConfigError>;

/// Reads the configuration of the model whose folder has that name.
pub(super) fn parse(text: &str, model: &ModelName) -> Read<ModelConfig> {
    read(&pbtxt::parse(text)?, model)
}

/// Reads the same configuration from JSON, as Triton's clients send it.
pub(super) fn parse_json(text: &str, model: &ModelName) -> Result<ModelConfig, String> {
    let fields = json::parse(text).map_err(|reason| format!("the config {reason}"))?;
    let mut config = read(&fields, model).map_err(|error| format!("config: {}", error.reason))?;
    config.file = "config";
    // Who uploads one version and says nothing of the others means to leave them alone.
    if !fields.iter().any(|field| field.name == "version_policy") {
        config.version_policy = None;
    }
    Ok(config)
}

fn read(fields: &[Field], model: &ModelName) -> Read<ModelConfig> {
    let mut config = ModelConfig {
        file: FILE_NAME,
        // Triton's default.
        version_policy: Some(VersionPolicy::Latest(1)),
        ..Default::default()
    };
    read_name(fields, model)?;
    config.max_batch_size = read_max_batch_size(fields)?;
    // Triton finds out for itself whether a model that says nothing has batches.
    config.batched = once(fields, "max_batch_size")?.map(|_| config.max_batch_size.is_some());
    config.artifact = read_artifact(fields)?;
    config.kind = read_kind(fields, config.artifact.as_deref())?;
    if let Some(field) = once(fields, "version_policy")? {
        config.version_policy = Some(read_version_policy(message(field)?)?);
    }
    let batched = config.max_batch_size.is_some();
    for field in fields {
        match field.name.as_str() {
            "name"
            | "platform"
            | "backend"
            | "max_batch_size"
            | "default_model_filename"
            | "version_policy" => {}
            "input" => {
                let spec = read_tensor(field, batched, &mut config)?;
                declare(&mut config.inputs, spec).map_err(|reason| wrong(field, reason))?;
            }
            "output" => {
                let spec = read_tensor(field, batched, &mut config)?;
                declare(&mut config.outputs, spec).map_err(|reason| wrong(field, reason))?;
            }
            "parameters" => {
                let (key, value) = read_parameter(field)?;
                // The last of equal keys counts, as in any protobuf map.
                config.parameters.retain(|(other, _)| *other != key);
                config.parameters.push((key, value));
            }
            "response_cache" => config.response_cache = read_response_cache(field)?,
            "dynamic_batching" => config.batching = Some(read_batching(message(field)?, &mut config)?),
            "instance_group" | "optimization" | "model_warmup" | "metric_tags" | "cc_model_filenames"
            | "model_metrics" | "model_operations" | "runtime" => {
                config.ignored.insert(field.name.clone());
            }
            _ => {
                config.unsupported.insert(field.name.clone());
            }
        }
    }
    Ok(config)
}

fn read_name(fields: &[Field], model: &ModelName) -> Read<()> {
    let Some(field) = once(fields, "name")? else { return Ok(()) };
    let name = text(field)?;
    if name.is_empty() || name == model.as_str() {
        return Ok(());
    }
    Err(wrong(field, format!("the name is '{}', it must be that of the folder, '{model}'", brief(name))))
}

fn read_max_batch_size(fields: &[Field]) -> Read<Option<u64>> {
    let Some(field) = once(fields, "max_batch_size")? else { return Ok(None) };
    let size = integer(field)?;
    let size = i32::try_from(size).ok().and_then(|size| u64::try_from(size).ok());
    let size = size.ok_or_else(|| wrong(field, "expected a whole number from 0 to 2147483647"))?;
    Ok((size > 0).then_some(size))
}

fn read_artifact(fields: &[Field]) -> Read<Option<String>> {
    let Some(field) = once(fields, "default_model_filename")? else { return Ok(None) };
    let name = text(field)?;
    if name.is_empty() {
        return Ok(None);
    }
    if !is_file_name(name) {
        return Err(wrong(field, "expected the name of a file in the version's folder, not hidden"));
    }
    Ok(Some(name.to_owned()))
}

/// The kind that `backend` or else `platform` asks for; `None` if neither is set.
fn read_kind(fields: &[Field], artifact: Option<&str>) -> Read<Option<Kind>> {
    let mut kind = None;
    for name in ["platform", "backend"] {
        let Some(field) = once(fields, name)? else { continue };
        kind = match text(field)? {
            "" => continue,
            "onnxruntime" | "onnxruntime_onnx" | "onnx_onnxv1" => Some(Kind::Onnx),
            "wasm" | "wasm_component" => Some(Kind::Wasm),
            // OpenVINO reads its own format unless the file is an ONNX model.
            "openvino" if artifact.is_some_and(|file| Kind::of_file_name(file) == Some(Kind::Onnx)) => {
                Some(Kind::Onnx)
            }
            other => {
                return Err(wrong(
                    field,
                    format!(
                        "{name} '{}' is not supported: ONNX models (onnxruntime) and wasm are",
                        brief(other)
                    ),
                ));
            }
        };
    }
    Ok(kind)
}

fn read_version_policy(fields: &[Field]) -> Read<VersionPolicy> {
    let mut choices = fields.iter();
    let Some(field) = choices.next() else { return Ok(VersionPolicy::Latest(1)) };
    if let Some(second) = choices.next() {
        return Err(wrong(second, format!("'{}' is chosen already", field.name)));
    }
    let inner = message(field)?;
    match field.name.as_str() {
        "all" => Ok(VersionPolicy::All),
        "latest" => match once(inner, "num_versions")? {
            None => Ok(VersionPolicy::Latest(1)),
            Some(count) => match usize::try_from(integer(count)?) {
                Ok(0) | Err(_) => Err(wrong(count, "expected a whole number, at least 1")),
                Ok(number) => Ok(VersionPolicy::Latest(number)),
            },
        },
        "specific" => inner
            .iter()
            .map(|version| match (version.name.as_str(), integer(version)?) {
                ("versions", number @ 1..) => {
                    number.to_string().parse::<Version>().map_err(|error| wrong(version, error.to_string()))
                }
                _ => Err(wrong(version, "expected versions: [ … ] of whole numbers, each at least 1")),
            })
            .collect::<Read<_>>()
            .map(VersionPolicy::Specific),
        _ => Err(wrong(field, "expected one of latest, all, specific")),
    }
}

/// An `input` or `output`: its full shape, with a leading -1 where the model batches.
fn read_tensor(field: &Field, batched: bool, config: &mut ModelConfig) -> Read<TensorSpec> {
    let fields = message(field)?;
    let name = match once(fields, "name")? {
        Some(name) => text(name)?.to_owned(),
        None => return Err(wrong(field, format!("the {} has no name", field.name))),
    };
    let Some(datatype) = once(fields, "data_type")? else {
        return Err(wrong(field, format!("{} '{}' has no data_type", field.name, brief(&name))));
    };
    let datatype = read_datatype(datatype)?;
    let mut dims = numbers(fields, "dims")?;
    for inner in fields {
        match inner.name.as_str() {
            "name" | "data_type" | "dims" => {}
            // The model's own shape; it is also what clients have to send here.
            "reshape" => {
                dims = numbers(message(inner)?, "shape")?;
                config.unsupported.insert(format!("{}.reshape", field.name));
            }
            "label_filename" if field.name == "output" => match text(inner)? {
                "" => {}
                file if is_file_name(file) => config.label_files.push((name.clone(), file.to_owned())),
                _ => {
                    config.unsupported.insert("output.label_filename with a path".into());
                }
            },
            "format" => {
                config.ignored.insert(format!("{}.{}", field.name, inner.name));
            }
            other => {
                config.unsupported.insert(format!("{}.{other}", field.name));
            }
        }
    }
    if batched {
        dims.insert(0, -1);
    }
    Ok(TensorSpec { name, datatype, shape: Shape(dims) })
}

fn read_datatype(field: &Field) -> Read<Datatype> {
    let Value::Word(word) = &field.value else {
        return Err(expected(field, "a data type such as TYPE_FP32"));
    };
    let name = match word.strip_prefix("TYPE_") {
        Some("STRING") => Some("BYTES"),
        // `TYPE_BYTES` is not one of Triton's.
        Some("BYTES") => None,
        name => name,
    };
    name.and_then(Datatype::from_name)
        .ok_or_else(|| wrong(field, format!("'{}' is not a data type", brief(word))))
}

fn read_parameter(field: &Field) -> Read<(String, String)> {
    let fields = message(field)?;
    let key = once(fields, "key")?.ok_or_else(|| wrong(field, "the parameter has no key"))?;
    let key = text(key)?.to_owned();
    let value = match once(fields, "value")? {
        Some(value) => match once(message(value)?, "string_value")? {
            Some(value) => text(value)?.to_owned(),
            None => String::new(),
        },
        None => String::new(),
    };
    Ok((key, value))
}

fn read_batching(fields: &[Field], config: &mut ModelConfig) -> Read<Batching> {
    let mut batching = Batching::default();
    for field in fields {
        match field.name.as_str() {
            "preferred_batch_size" => {
                let size = u64::try_from(integer(field)?).ok().filter(|size| *size > 0);
                batching
                    .preferred
                    .push(size.ok_or_else(|| wrong(field, "expected a whole number, at least 1"))?);
            }
            "max_queue_delay_microseconds" => {
                let micros = u64::try_from(integer(field)?).ok();
                let delay = micros.map(Duration::from_micros).filter(|delay| *delay <= Batching::MAX_DELAY);
                batching.delay =
                    delay.ok_or_else(|| wrong(field, "expected a whole number from 0 to 10000000"))?;
            }
            // Answers are told as they come; rows of a batch have the order of their turns.
            "preserve_ordering" => {
                config.ignored.insert("dynamic_batching.preserve_ordering".into());
            }
            other => {
                config.unsupported.insert(format!("dynamic_batching.{other}"));
            }
        }
    }
    Ok(batching)
}

fn read_response_cache(field: &Field) -> Read<bool> {
    match once(message(field)?, "enable")? {
        None => Ok(false),
        Some(enable) => boolean(enable),
    }
}

/// The only field of that name, if there is one.
fn once<'a>(fields: &'a [Field], name: &str) -> Read<Option<&'a Field>> {
    let mut found = fields.iter().filter(|field| field.name == name);
    let first = found.next();
    match found.next() {
        Some(second) => Err(wrong(second, "it is given twice")),
        None => Ok(first),
    }
}

fn text(field: &Field) -> Read<&str> {
    if let Value::Text(text) = &field.value { Ok(text) } else { Err(expected(field, "a string")) }
}

fn integer(field: &Field) -> Read<i128> {
    if let Value::Integer(value) = field.value { Ok(value) } else { Err(expected(field, "a whole number")) }
}

fn boolean(field: &Field) -> Read<bool> {
    match &field.value {
        Value::Word(word) if word == "true" => Ok(true),
        Value::Word(word) if word == "false" => Ok(false),
        _ => Err(expected(field, "true or false")),
    }
}

fn numbers(fields: &[Field], name: &str) -> Read<Vec<i64>> {
    fields
        .iter()
        .filter(|field| field.name == name)
        .map(|field| i64::try_from(integer(field)?).map_err(|_| expected(field, "a 64-bit number")))
        .collect()
}

fn message(field: &Field) -> Read<&[Field]> {
    if let Value::Message(fields) = &field.value { Ok(fields) } else { Err(expected(field, "{ … }")) }
}

fn expected(field: &Field, what: &str) -> TritonConfigError {
    let given = match &field.value {
        Value::Integer(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(text) => format!("\"{}\"", brief(text)),
        Value::Word(word) => brief(word),
        Value::Message(_) => "{ … }".into(),
    };
    wrong(field, format!("expected {what}, given {given}"))
}

fn wrong(field: &Field, reason: impl Into<String>) -> TritonConfigError {
    TritonConfigError {
        position: field.position,
        reason: format!("{}: {}", brief(&field.name), reason.into()),
    }
}

#[cfg(test)]
mod tests;
