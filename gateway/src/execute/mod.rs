//! Execute: run one inference request on its model, in a wasm sandbox or natively.
//!
//! [`Executor`] is the seam between the two; nothing outside this folder knows which of them answers.

mod isolation;
pub mod native;
mod onnx_engine;
mod output;
mod schedule;
pub mod wasm;
pub mod worker;

use std::{fmt, future::Future, io, pin::Pin, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    consumption::Consumption,
    deadline::RunDeadline,
    digest::{Digest, Hasher},
    limits::ModelLimits,
    log_allowance::LogAllowance,
    name::TenantName,
    tensor::{InferRequest, InferResponse, Signature, Tensor, TensorSpec},
};

pub use isolation::Isolation;
pub use onnx_engine::OnnxEngine;
pub use output::check_outputs;
pub use schedule::Reserved;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A loaded version of a model.
pub trait Executor: Send + Sync + fmt::Debug {
    fn signature(&self) -> &Signature;

    /// What metadata calls the platform: `wasm_component`, `onnx_onnxv1`, or `onnxruntime_onnx` where that engine runs it.
    fn platform(&self) -> &'static str;

    /// Bytes of memory that it takes for as long as it is loaded, as far as they are known.
    fn loaded_bytes(&self) -> u64;

    /// Whether it may give several responses to a request.
    fn streams(&self) -> bool {
        false
    }

    /// Runs a request whose inputs were checked against [`Executor::signature`]. The answer is checked likewise, and
    /// holds only outputs that were asked for; it has none at all if the last response is among those that
    /// [`Call::responses`] took. Dropping the future stops the work, or lets it end unseen.
    fn infer(&self, request: InferRequest, call: Call) -> BoxFuture<'_, Result<InferResponse, ExecuteError>>;
}

/// What a run inherits from the request that caused it.
#[derive(Clone)]
pub struct Call {
    pub deadline: RunDeadline,
    /// 0 for the client's own call, one more for each `models.infer` on the way.
    pub depth: u32,
    /// Shared by nested calls: all that they use is billed to the tenant of the client's own call, whoever owns the models.
    pub consumed: Arc<Consumption>,
    /// Likewise the tenant whose turns all of them take.
    pub share: Arc<Share>,
    /// What that tenant's models may still say in the log.
    pub log: Arc<LogAllowance>,
    pub models: Arc<dyn Models>,
    /// Who takes the responses that are not the last one. Without it the run may give one response only.
    pub responses: Option<Arc<dyn Responses>>,
}

/// Whose processor time a run takes, and how much of it that tenant gets beside others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub tenant: TenantName,
    /// Against [`Share::WEIGHT`], which is everybody's by default: twice as much gets twice the time while all want more.
    pub weight: u32,
}

impl Share {
    pub const WEIGHT: u32 = 100;

    /// Processor time as it counts for this tenant, in nanoseconds.
    fn time(&self, nanos: u64) -> u64 {
        nanos.saturating_mul(u64::from(Self::WEIGHT)) / u64::from(self.weight.max(1))
    }
}

impl Default for Share {
    fn default() -> Self {
        Self { tenant: TenantName::default_tenant(), weight: Self::WEIGHT }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("deadline", &self.deadline)
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}

/// The other models of the gateway, as a guest reaches them through `models.infer`.
pub trait Models: Send + Sync {
    /// Runs another model for the guest that `caller` runs: same deadline, one level deeper, no slot of its own.
    fn infer<'a>(
        &'a self,
        model: &'a str,
        version: Option<&'a str>,
        inputs: Vec<Tensor>,
        caller: &'a Call,
    ) -> BoxFuture<'a, Result<Vec<Tensor>, NestedError>>;
}

/// The client of a run that gives several responses.
pub trait Responses: Send + Sync {
    /// Takes a response of a run with that deadline, and returns when there is room for the next one. Where none can follow
    /// it does not return: the run is dropped then.
    fn take<'a>(&'a self, response: InferResponse, deadline: &'a RunDeadline) -> BoxFuture<'a, ()>;
}

/// What `models.infer` answers a guest; the texts are for the guest and, if it passes them on, for the client.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NestedError {
    #[error("{0}")]
    InvalidInput(String),
    #[error("{0}")]
    Failed(String),
}

/// Why a run gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The model says that its caller sent something it cannot work with.
    #[error("{0}")]
    InvalidInput(String),
    /// The model says that it could not do its work.
    #[error("{0}")]
    Failed(String),
    /// The guest trapped, or the engine panicked. `reason` is for the client, `detail` for the log.
    #[error("{reason}")]
    Trapped { reason: String, detail: String },
    /// The guest asked for more memory than it may have, and then trapped.
    #[error("the model needs more than the {limit_bytes} bytes of memory that it may use")]
    Memory { limit_bytes: usize },
    /// The answer contradicts the model's own signature, or is too large.
    #[error("the model's answer is not valid: {0}")]
    Output(String),
    /// A second response to a client that takes one.
    #[error(
        "the model gives several responses to this request: ask with infer_stream, generate_stream or ModelStreamInfer"
    )]
    Several,
    #[error("the deadline passed before the model answered")]
    Deadline,
    /// No instance or compute thread was free.
    #[error("no capacity to run the model now")]
    Busy,
}

/// The step of loading at which a model was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Read,
    Check,
    Compile,
    Load,
    Snapshot,
    Signature,
    /// A first call, with the sample that was uploaded.
    Trial,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Check => "check",
            Self::Compile => "compile",
            Self::Load => "load",
            Self::Snapshot => "snapshot",
            Self::Signature => "signature",
            Self::Trial => "trial",
        })
    }
}

/// Why a model could not be loaded: the step, and a reason that names what to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {reason}")]
pub struct LoadError {
    pub step: Step,
    pub reason: String,
    /// It was this machine's fault, as far as is known: the same model may load another time. A worker cannot say that of itself.
    #[serde(skip)]
    pub transient: bool,
    /// Nothing is said of the model: the gateway had no room on its disk. It may be loaded later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_room: bool,
}

impl LoadError {
    pub fn new(step: Step, reason: impl fmt::Display) -> Self {
        Self { step, reason: reason.to_string(), transient: false, no_room: false }
    }

    pub(crate) fn transient(step: Step, reason: impl fmt::Display) -> Self {
        Self { transient: true, ..Self::new(step, reason) }
    }

    /// For what the gateway could not write or read.
    pub fn disk(step: Step, what: &str, error: &io::Error) -> Self {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        let reason = format_args!("{what}: {error}");
        Self { no_room: full.contains(&error.kind()), ..Self::transient(step, reason) }
    }
}

/// What kind of artifact a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Component,
    /// A core module that carries its component type; the gateway makes a component of it.
    CoreModule,
    Onnx,
}

/// What checking a model showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub format: Format,
    pub signature: Signature,
    /// Names of the interfaces that a component imports.
    pub imports: Vec<String>,
    pub artifact_bytes: u64,
    /// Of all the files beside it.
    pub file_bytes: u64,
    /// Of the machine code with the snapshot; 0 for ONNX.
    pub compiled_bytes: u64,
    /// How long each step took, in the order in which they were first entered.
    pub steps: Vec<(Step, Duration)>,
}

/// Everything a version is loaded from; an executor reads nothing else.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// `model/version`, for log lines.
    pub label: String,
    pub artifact: Vec<u8>,
    /// The other files of the version's folder: name and bytes.
    pub files: Vec<(String, Vec<u8>)>,
    /// The model's configuration, handed to `plugin.load`.
    pub parameters: Vec<(String, String)>,
    /// Inputs as the model's configuration declares them; empty if it does not. The native engine takes dimensions
    /// from here that the graph leaves open.
    pub declared_inputs: Vec<TensorSpec>,
    /// What the model's configuration allows it of what the gateway allows.
    pub limits: ModelLimits,
    /// The tenant whose model it is; `None` for the operator's. What one of them had compiled is not used for another: how long
    /// loading takes would tell who else has the same model.
    pub owner: Option<TenantName>,
    /// Where its configuration wants it to run, if it is an ONNX model.
    pub isolation: Option<Isolation>,
    /// Which engine it wants to run on, likewise.
    pub engine: Option<OnnxEngine>,
    /// Requests for it that wait at the same time may run as one, where it runs in the gateway's own process.
    pub batching: Option<Batching>,
    /// It comes from somebody who is not trusted: an ONNX file then has to keep within tighter bounds, see
    /// `native/preflight.rs`.
    pub untrusted: bool,
    /// The artifact is the gateway's own plugin for ONNX models, and the model lies beside it as [`MODEL_FILE`].
    pub artifact_is_plugin: bool,
}

/// How requests for a model are put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batching {
    /// Rows of the largest batch.
    pub max: u64,
    /// Sizes of batches, in rows, that the model is best at; empty if none is known to be better than others.
    pub preferred: Vec<u64>,
    /// Time that a request may wait for others, although there is a thread to run it.
    pub delay: Duration,
}

impl Batching {
    /// The longest delay that makes sense: several times the longest deadline.
    pub const MAX_DELAY: Duration = Duration::from_secs(10);
}

/// What the plugin for ONNX models finds its model under.
const MODEL_FILE: &str = "model.onnx";

impl Source {
    /// The digest of everything that decides what the model does: two versions of the same content are one model.
    pub fn content(&self) -> Digest {
        let mut hasher = Hasher::default();
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(&self.artifact);
        add(&(self.files.len() as u64).to_le_bytes());
        for (name, bytes) in &self.files {
            add(name.as_bytes());
            add(bytes);
        }
        for (name, value) in &self.parameters {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        hasher.finish()
    }

    /// The source of an ONNX model that the gateway's own plugin is to run in the sandbox.
    #[must_use]
    fn in_plugin(mut self, plugin: &[u8]) -> Self {
        self.files.push((MODEL_FILE.to_owned(), std::mem::replace(&mut self.artifact, plugin.to_vec())));
        Self { artifact_is_plugin: true, ..self }
    }

    /// Bytes of the model itself, and of all files beside it.
    fn sizes(&self) -> (u64, u64) {
        let beside: u64 = self.files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let model = self.files.iter().find(|(name, _)| self.artifact_is_plugin && name == MODEL_FILE);
        match model {
            Some((_, model)) => (model.len() as u64, beside - model.len() as u64),
            None => (self.artifact.len() as u64, beside),
        }
    }
}
