//! The wasm executor: every request runs in a brand-new instance in a brand-new store.
//!
//! - [`profile`]: what a guest may consist of, checked before anything is compiled
//! - `prepare`, `componentize`, `snapshot`, `signature`: from bytes to compiled code that starts from the loaded state
//! - `direct`: host functions without a detour
//! - `cache`: compiled code on disk, so that a second start compiles nothing
//! - `artifact`: from compiled code to a component; with one line of `call` the only place with `unsafe`
//! - `engine`, `limiter`: settings and bounds
//! - `bindings`, `host`: the types and imports of `wit/inference.wit`
//! - `responses`: what a guest answers, at once or bit by bit
//! - `onnx`: ONNX models, by a plugin of the gateway's own
//! - `call`, `fault`: one request, what it costs, and what can go wrong in it

mod artifact;
mod bindings;
mod cache;
mod call;
mod componentize;
mod direct;
mod engine;
mod fault;
mod host;
mod limiter;
mod onnx;
mod prepare;
pub mod profile;
mod responses;
mod signature;
mod snapshot;
mod text;

use std::{
    fmt,
    sync::{Arc, OnceLock},
    thread::available_parallelism,
};

use tokio::sync::Semaphore;
use wasmtime::{
    Engine,
    component::{Component, Linker},
};

use crate::limits::SandboxLimits;

use super::{
    Executor, LoadError, Report, Source, Step,
    schedule::{Habit, Reserved, Scheduler},
    worker::Workers,
};
use call::{Model, WasmModel};
use host::Guest;

/// The engine that serves, its ticker, and the threads that run guests for longer than a turn.
pub struct Sandbox {
    settings: Settings,
    engine: Engine,
    linker: Linker<Guest>,
    workers: Arc<Workers>,
    cache: Option<Cache>,
    /// One permit for each instance that may be alive. The pool has the same bound; without a pool this is the only one.
    slots: Arc<Semaphore>,
    schedule: Scheduler,
}

impl Sandbox {
    /// Starts the engine and the threads for guests. Models are compiled by `workers`; what they compiled is kept in the
    /// cache, if there is one.
    ///
    /// # Errors
    /// If the engine or a thread cannot be started. Too little address space for the instance pool is not an error: then
    /// instances are made on demand, and a line in the log says so.
    pub fn new(
        limits: SandboxLimits,
        workers: Arc<Workers>,
        cache: Option<Cache>,
    ) -> Result<Arc<Self>, LoadError> {
        let (engine, memories) = engine::serving(&limits)?;
        let linker =
            host::serving(&engine).map_err(|error| LoadError::new(Step::Load, format_args!("{error:#}")))?;
        let cores = available_parallelism().map_or(1, usize::from);
        let threads = if limits.threads == 0 { cores } else { limits.threads };
        let schedule = Scheduler::new(threads)
            .map_err(|error| LoadError::new(Step::Load, format_args!("no threads for guests: {error}")))?;
        let turns = Arc::clone(schedule.turns());
        engine::start_ticker(&engine, move || turns.look())?;
        let slots = Arc::new(Semaphore::new(limits.max_instances as usize));
        let settings = Settings { limits, memories };
        Ok(Arc::new(Self { settings, engine, linker, workers, cache, slots, schedule }))
    }

    /// Takes a thread of the current runtime, which has to have another one, into reserve: it serves while guests hold all others.
    pub fn keep_reserve(&self) -> Reserved {
        self.schedule.turns().keep_reserve()
    }

    /// Where the instances live.
    pub fn memories(&self) -> Memories {
        self.settings.memories
    }

    /// Instances that are alive, and how many may be.
    pub fn instances(&self) -> (usize, usize) {
        let most = self.settings.limits.max_instances as usize;
        (most - self.slots.available_permits().min(most), most)
    }

    /// Loads a component, or a core module that carries its component type: checks it, runs its `load` once and takes a
    /// snapshot that every request starts from. Blocks for as long as compiling takes; not for threads that serve.
    ///
    /// # Errors
    /// The step at which the model was refused, and why.
    pub fn load(self: &Arc<Self>, source: Source) -> Result<Arc<dyn Executor>, LoadError> {
        let label: Arc<str> = source.label.as_str().into();
        let limits = source.limits.sandbox(&self.settings.limits);
        let is_onnx = source.artifact_is_plugin;
        let (report, component) = self.component(&source)?;
        let compiled_bytes = report.compiled_bytes;
        drop(source);
        let infer = bindings::Exports::find(&component)
            .ok_or_else(|| LoadError::new(Step::Check, "it does not export airlock:inference/plugin@0.1"))?
            .infer;
        let instance = self
            .linker
            .instantiate_pre(&component)
            .map_err(|error| LoadError::new(Step::Check, format_args!("{error:#}")))?;
        let streams =
            component.component_type().imports(&self.engine).any(|(name, _)| bindings::is_responses(name));
        let model = Model {
            sandbox: self.clone(),
            instance,
            infer,
            infer_fits: OnceLock::new(),
            signature: report.signature,
            label,
            is_onnx,
            streams,
            compiled_bytes,
            limits,
            habit: Habit::default(),
        };
        Ok(Arc::new(WasmModel(Arc::new(model))))
    }

    /// Does all that loading does but for serving: what is compiled is in the cache afterwards, if there is one.
    ///
    /// # Errors
    /// As [`Sandbox::load`].
    pub fn check(&self, source: &Source) -> Result<Report, LoadError> {
        self.component(source).map(|(report, _)| report)
    }

    /// From the cache if it can be, else from a worker.
    fn component(&self, source: &Source) -> Result<(Report, Component), LoadError> {
        let limits = &self.settings.limits;
        let beside: usize = source.files.iter().map(|(_, bytes)| bytes.len()).sum();
        if beside > limits.max_file_bytes {
            return Err(LoadError::new(
                Step::Read,
                format_args!(
                    "the files beside it have {beside} bytes, at most {} are admitted",
                    limits.max_file_bytes
                ),
            ));
        }
        let cached = self.cache.as_ref().and_then(|cache| {
            let key = cache::key(&self.engine, &self.settings, source)?;
            Some((cache, key))
        });
        if let Some((cache, key)) = &cached
            && let Some(prepared) = cache.get(key)
        {
            match artifact::map(&self.engine, &prepared) {
                Ok(component) => return Ok((prepared.report, component)),
                Err(error) => {
                    tracing::warn!(model = source.label, %error, "compiled again: cached code does not fit")
                }
            }
        }
        let prepared = self.workers.prepare(&self.settings, source)?;
        let component = artifact::map(&self.engine, &prepared)?;
        if let Some((cache, key)) = &cached {
            cache.put(key, &prepared);
        }
        Ok((prepared.report, component))
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("settings", &self.settings).finish_non_exhaustive()
    }
}

pub(super) use artifact::Prepared;
pub use cache::Cache;
pub use engine::Memories;
pub use onnx::OnnxPlugin;
pub(super) use prepare::{Settings, prepare};
