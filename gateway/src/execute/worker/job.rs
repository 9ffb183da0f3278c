//! What the two sides say to each other: a job goes in as JSON, lines of JSON come out.

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    execute::{LoadError, Report, Step, wasm::Settings},
    limits::{ModelLimits, NativeLimits},
    tensor::TensorSpec,
};

/// Names in a worker's folder. What a model calls its files is in the job and never becomes a path.
pub(super) const JOB: &str = "job";
pub(super) const ARTIFACT: &str = "artifact";
/// Written by the worker.
pub(super) const CODE: &str = "code";

pub(super) fn file_name(index: usize) -> String {
    format!("file-{index}")
}

/// What a worker is to do. The bytes are in files beside it; the digests show that it got those that were meant.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Job {
    pub(super) task: Task,
    pub(super) label: String,
    pub(super) artifact: Digest,
    pub(super) files: Vec<(String, Digest)>,
    pub(super) parameters: Vec<(String, String)>,
    pub(super) declared_inputs: Vec<TensorSpec>,
    pub(super) limits: ModelLimits,
    pub(super) untrusted: bool,
    pub(super) artifact_is_plugin: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Task {
    /// Compile a wasm model for an engine with these settings.
    Wasm(Settings),
    /// Load an ONNX model.
    Onnx(NativeLimits),
}

/// One line of a worker's answer: what it could not give up, if anything; the steps as it enters them; how it ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    Exposed(String),
    Step(Step),
    Done(Done),
    Refused(LoadError),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Done {
    pub(super) report: Report,
    /// Of the file of compiled code.
    pub(super) code: Option<Digest>,
}
