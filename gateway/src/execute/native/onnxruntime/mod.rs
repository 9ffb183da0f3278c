//! ONNX models on ONNX Runtime, in a worker process and nowhere else: the library is native code of somebody else's, which
//! dies of what a file makes it do more often than it says so.
//!
//! Its tensors are the same as the other engine's, so that a worker reads and writes them in one way.

mod convert;

use std::{cell::RefCell, path::Path};

use ort::{
    LoadDynamicError,
    environment::Environment,
    session::{Session, builder::GraphOptimizationLevel},
    value::ValueType,
};
use prost::Message;
use tract_onnx::prelude::{TValue, TVec};

use crate::{
    execute::{ExecuteError, LoadError, Source, Step},
    limits::NativeLimits,
    tensor::{InferResponse, Shape, Signature, TensorSpec},
};

use super::{
    graph::{Graph, brief},
    pool::{Watch, caught},
    proto::Port,
    respond,
    settle::{self, Settled},
};

/// A loaded model.
pub struct OnnxRuntime {
    session: RefCell<Session>,
    signature: Signature,
    max_output_bytes: usize,
}

/// Why there is no loaded model.
#[derive(Debug)]
pub enum Unloaded {
    /// The library cannot be loaded, whatever the model is.
    Library {
        reason: String,
        cause: Option<String>,
    },
    Model(LoadError),
}

impl From<LoadError> for Unloaded {
    fn from(error: LoadError) -> Self {
        Self::Model(error)
    }
}

/// Loads a model and the library that runs it.
///
/// # Errors
/// What is wrong with the library, or with the model.
pub fn load(library: &Path, source: Source, limits: &NativeLimits) -> Result<OnnxRuntime, Unloaded> {
    let environment = open(library)?;
    let max_output_bytes = source.limits.native_output(limits);
    let signature = signature(source.clone())?;
    let Settled { file, inputs, outputs } = settle::for_onnx_runtime(&airlock_onnx::engine(), source)?;
    let bytes = file.encode_to_vec();
    drop(file);
    let session = session(&environment, &bytes).map_err(|error| {
        end_if_out_of_memory(&error);
        LoadError::new(Step::Compile, format!("ONNX Runtime cannot run this graph: {}", text(&error)))
    })?;
    let signature = match signature {
        Some(signature) => signature,
        None => own_signature(&session, inputs, outputs)?,
    };
    Ok(OnnxRuntime { session: RefCell::new(session), signature, max_output_bytes })
}

fn open(library: &Path) -> Result<Environment, Unloaded> {
    let builder = ort::init_from(library).map_err(|error| {
        let cause = match &error {
            LoadDynamicError::Dlopen { error, .. } => std::error::Error::source(error),
            _ => None,
        };
        Unloaded::Library { reason: unusable(&error), cause: cause.map(ToString::to_string) }
    })?;
    let environment = builder.with_name("airlock").with_telemetry(false).build();
    environment.map_err(|error| Unloaded::Library {
        reason: format!("it does not start: {}", text(&error)),
        cause: None,
    })
}

/// What is wrong with a library, for its operator.
fn unusable(error: &LoadDynamicError) -> String {
    match error {
        LoadDynamicError::Dlopen { error, .. } => format!("it cannot be loaded: {error}"),
        LoadDynamicError::MissingApi { .. } => "it is another library than ONNX Runtime's".to_owned(),
        LoadDynamicError::BadVersion { version_str, .. } => {
            format!("it is ONNX Runtime {version_str:.32}, and 1.{} or later is needed", ort::MINOR_VERSION)
        }
        other => other.to_string(),
    }
}

/// Its text, but for the places in its sources that it names.
fn text(error: &ort::Error) -> String {
    let words = error.message().split_whitespace().filter(|word| !word.starts_with('/'));
    brief(words.collect::<Vec<_>>().join(" "))
}

fn session(environment: &Environment, file: &[u8]) -> ort::Result<Session> {
    // One thread, which is the worker's own: it may start none. Memory has the worker's bound, and stays with the session, as
    // ONNX Runtime takes it in large pieces.
    Session::builder(environment)?
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .with_parallel_execution(false)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_log_level(ort::logging::LogLevel::Fatal)?
        // Else it would look at the bytes, and take what begins as a file of its own format for one: another graph than the one
        // that was checked.
        .with_config_entry("session.load_model_format", "ONNX")?
        .commit_from_memory(file)
}

/// What the model takes and gives, as tract sees it, so that a client cannot tell the engines apart. `None` where tract cannot
/// run the graph; what a tenant uploaded has to pass there in any case, see `preflight.rs`.
fn signature(source: Source) -> Result<Option<Signature>, LoadError> {
    let untrusted = source.untrusted;
    let loaded = caught(|| Graph::load(source).map(|graph| graph.signature))
        .unwrap_or_else(|panic| Err(LoadError::new(Step::Compile, brief(panic))));
    match loaded {
        Ok(signature) => Ok(Some(signature)),
        Err(error) if untrusted => Err(error),
        Err(_) => Ok(None),
    }
}

/// The same as ONNX Runtime sees it.
fn own_signature(session: &Session, inputs: Vec<Port>, outputs: Vec<Port>) -> Result<Signature, LoadError> {
    let input = |Port { name, datatype, shape }: Port| TensorSpec {
        name,
        datatype,
        shape: Shape(shape.unwrap_or_default()),
    };
    // It says of a shape that it does not know the same as of a scalar's.
    let output = |(port, outlet): (Port, &ort::value::Outlet)| match outlet.dtype() {
        ValueType::Tensor { shape, .. } if port.shape.is_some() || !shape.is_empty() => {
            Ok(TensorSpec { name: port.name, datatype: port.datatype, shape: Shape(shape.to_vec()) })
        }
        _ => Err(LoadError::new(
            Step::Signature,
            format!("output '{:.64}' has no shape: export the model with its outputs' shapes", port.name),
        )),
    };
    Ok(Signature {
        inputs: inputs.into_iter().map(input).collect(),
        outputs: outputs.into_iter().zip(session.outputs()).map(output).collect::<Result<_, _>>()?,
    })
}

impl OnnxRuntime {
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Runs on inputs in the signature's order. Once it has begun, only the end of the process stops it.
    pub fn run(
        &self,
        inputs: TVec<TValue>,
        requested: &[String],
        watch: &Watch<'_>,
    ) -> Result<InferResponse, ExecuteError> {
        if watch.is_over() {
            return Err(ExecuteError::Deadline);
        }
        let specs = self.signature.inputs.iter().zip(&inputs);
        let values = specs
            .map(|(spec, native)| Ok((spec.name.as_str(), convert::to_onnx_runtime(&spec.name, native)?)))
            .collect::<Result<Vec<_>, ExecuteError>>()?;
        let mut session = self.session.borrow_mut();
        let outputs = session.run(values).map_err(|error| failed(&error))?;
        let values = outputs
            .values()
            .zip(&self.signature.outputs)
            .map(|(value, spec)| convert::from_onnx_runtime(&spec.name, &value));
        respond(&self.signature, requested, values.collect::<Result<TVec<_>, _>>()?, self.max_output_bytes)
    }
}

/// How ONNX Runtime puts it that there is no memory.
const OUT_OF_MEMORY: [&str; 2] = ["Failed to allocate memory", "bad_alloc"];

/// From then on its arena would ask for as much again, whatever is wanted of it. So this ends as Rust's own allocator does.
fn end_if_out_of_memory(error: &ort::Error) {
    let text = text(error);
    if OUT_OF_MEMORY.iter().any(|words| text.contains(words)) {
        eprintln!("memory allocation of ONNX Runtime failed: {text}");
        std::process::abort();
    }
}

fn failed(error: &ort::Error) -> ExecuteError {
    end_if_out_of_memory(error);
    let text = text(error);
    // What a node says while it runs it says of the graph as much as of the inputs.
    if error.code() == ort::ErrorCode::InvalidArgument && !text.starts_with("Non-zero status code") {
        return ExecuteError::InvalidInput(format!("the model cannot run these inputs: {text}"));
    }
    ExecuteError::Failed(format!("the model failed: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_too_old_is_told_with_both_versions() {
        let old = LoadDynamicError::BadVersion { version_str: "1.19.2".into(), path: "x.so".into() };
        assert_eq!(unusable(&old), "it is ONNX Runtime 1.19.2, and 1.20 or later is needed");
    }
}
