//! Models that are not trusted run in worker processes: what a panic, an abort, too much memory or an endless node ends is a
//! worker and the call that it ran.
//!
//! - [`Isolated`]: the gateway's side
//! - `places`: how many workers there are in all, and whose
//! - `crew`: the workers of one loaded version
//! - `running`: one running worker; `outputs`: what it answers, before it is believed
//! - `shared`: the memory through which tensors go; `wire`: what is said about them
//! - [`serve`]: the worker's own side
//!
//! A worker contains an engine that fails, and one that was taken over only as far as the operating system does: it runs as
//! the gateway's own user and without a filter of system calls.

mod child;
mod crew;
mod outputs;
mod places;
mod running;
mod shared;
mod wire;

use std::{
    cmp::Reverse,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    thread::available_parallelism,
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout_at};

use crate::{
    execute::{BoxFuture, Call, ExecuteError, Executor, LoadError, Source, worker::THIS_PROGRAM},
    limits::{NativeLimits, WorkerLimits},
    memory_watch::MemoryWatch,
    tensor::{InferRequest, InferResponse, Signature},
};

pub use child::serve;
pub use running::OF_LIBRARY;

use crew::{Crew, Job, Members};
use places::{Owner, Place, Places};
use wire::Load;

/// One tenant may have that part of all places, and one in any case.
const PART_OF_PLACES: usize = 8;

/// Starts worker processes for the models that it loads, up to a number of them in all.
#[derive(Debug)]
pub struct Isolated {
    limits: NativeLimits,
    program: PathBuf,
    /// Bytes of the memory that is shared with one worker.
    shared_bytes: u64,
    /// Time in which a worker has to load its model.
    load_time: Duration,
    /// Processor time of that.
    load_cpu: Duration,
    /// Workers of one version at a time.
    threads: usize,
    places: Places,
    crews: Mutex<Vec<Weak<Crew>>>,
    memory: Arc<MemoryWatch>,
}

impl Isolated {
    /// Workers that run `program`, this one if none is named. `input_bytes` is what all inputs of one call may have. To load a
    /// model they have the time and the processor time of `worker`. While `memory` is short none is started, and those that are
    /// idle go.
    pub fn new(
        limits: NativeLimits,
        program: Option<PathBuf>,
        input_bytes: usize,
        worker: &WorkerLimits,
        memory: Arc<MemoryWatch>,
    ) -> Arc<Self> {
        let threads = match limits.threads {
            0 => available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        Arc::new(Self {
            program: program.unwrap_or_else(|| THIS_PROGRAM.into()),
            shared_bytes: (input_bytes as u64)
                .saturating_add(limits.output_bytes as u64)
                .saturating_add(1 << 20),
            load_time: worker.time,
            load_cpu: worker.cpu,
            threads,
            places: Places::new(limits.max_workers, (limits.max_workers / PART_OF_PLACES).max(1)),
            crews: Mutex::default(),
            memory,
            limits,
        })
    }

    /// Loads and optimises an ONNX model in a worker, which then is ready to run it: on ONNX Runtime, if it is told where that
    /// library is. Blocks for as long as that takes.
    pub fn load(
        self: &Arc<Self>,
        source: Source,
        onnxruntime: Option<PathBuf>,
    ) -> Result<Arc<dyn Executor>, LoadError> {
        let order = Load {
            label: source.label.clone(),
            artifact: source.artifact.len(),
            files: source.files.iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect(),
            declared_inputs: source.declared_inputs.clone(),
            limits: source.limits,
            untrusted: source.untrusted,
            native: self.limits.clone(),
            cpu: self.load_cpu,
        };
        let bytes = source.files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + source.artifact.len();
        let crew = Crew::load(self, order, source, onnxruntime)?;
        Ok(Arc::new(IsolatedExecutor { crew, artifact_bytes: bytes as u64 }))
    }

    fn know(&self, crew: &Arc<Crew>) {
        let mut crews = self.crews.lock().unwrap_or_else(PoisonError::into_inner);
        crews.retain(|crew| crew.strong_count() > 0);
        crews.push(Arc::downgrade(crew));
    }

    /// Waits for a place for one more worker of this crew's; `None` once it is not wanted any more.
    fn place(&self, crew: &Crew, wanted: impl FnMut() -> bool) -> Option<Place<'_>> {
        self.places.take(crew.owner(), wanted, || self.make_room(crew))
    }

    /// Lets one worker go, for one of this crew's, unless as many as are needed are about to: an idle one of whoever has most
    /// of them, or, if none is idle, the next to answer its call of whoever has most. Of an owner who may have no more it is
    /// one of their own.
    fn make_room(&self, crew: &Crew) {
        let crews: Vec<Arc<Crew>> = {
            let crews = self.crews.lock().unwrap_or_else(PoisonError::into_inner);
            crews.iter().filter_map(Weak::upgrade).collect()
        };
        let owner = crew.owner();
        let (own, full) = (self.places.taken(owner), self.places.is_full(owner));
        // Nobody's last worker goes for somebody's second one, nor back and forth between two who have nearly as many.
        let most = if own == 0 { 0 } else { own + 1 };
        let others: Vec<(usize, Members, &Arc<Crew>)> = crews
            .iter()
            .map(|other| (self.places.taken(other.owner()), other.members(), other))
            .filter(|(taken, _, other)| other.owner() == owner || (!full && *taken > most))
            .collect();
        let needs = self.places.needs(owner);
        let going = |count: fn(&Members) -> usize| {
            crews
                .iter()
                .filter(|other| !full || other.owner() == owner)
                .map(|other| count(&other.members()))
                .sum()
        };
        let leaving: usize = going(|members| members.leaving);
        if leaving >= needs {
            return;
        }
        let idle =
            others.iter().filter_map(|(taken, _, other)| Some((Reverse(taken), other.idle_since()?, other)));
        if let Some((.., other)) = idle.min_by_key(|(taken, since, _)| (*taken, *since)) {
            return other.dismiss();
        }
        let recalled: usize = going(|members| members.recalled);
        if leaving + recalled >= needs {
            return;
        }
        // One that works for the same owner goes only for a version that has none.
        let none = crew.members().serving == 0;
        let busy = others.iter().filter(|(_, members, other)| {
            members.serving > 0
                && (other.owner() != owner || (none && !std::ptr::eq(Arc::as_ptr(other), crew)))
        });
        if let Some((.., other)) = busy.max_by_key(|(taken, members, _)| (*taken, members.serving)) {
            other.recall();
        }
    }
}

/// A caller that leaves takes its call with it, if that still waits: its inputs are in nobody's count any more.
struct Caller<'a>(&'a Crew);

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.0.forget_left();
    }
}

/// One loaded version of a model that runs in workers.
#[derive(Debug)]
struct IsolatedExecutor {
    crew: Arc<Crew>,
    artifact_bytes: u64,
}

impl Executor for IsolatedExecutor {
    fn signature(&self) -> &Signature {
        self.crew.signature()
    }

    fn platform(&self) -> &'static str {
        if self.crew.is_onnx_runtime() { "onnxruntime_onnx" } else { "onnx_onnxv1" }
    }

    /// An estimate, with one worker: the file that is kept for the next one, and what the first worker took once it had loaded it,
    /// or what the graph and its plans come to if that is more.
    fn loaded_bytes(&self) -> u64 {
        let graph = self.artifact_bytes.saturating_mul(3);
        self.artifact_bytes.saturating_add(self.crew.worker_bytes().max(graph))
    }

    fn infer(&self, request: InferRequest, call: Call) -> BoxFuture<'_, Result<InferResponse, ExecuteError>> {
        Box::pin(async move {
            let deadline = call.deadline.first();
            if deadline.passed() {
                return Err(ExecuteError::Deadline);
            }
            // Dropped after the channel's end, by which it is seen that nobody waits.
            let _caller = Caller(&self.crew);
            let (answer, answered) = oneshot::channel();
            let (tenant, consumed, log) = (call.share.tenant.clone(), call.consumed, call.log);
            self.crew.submit(Job { request, tenant, deadline, consumed, log, answer })?;
            match timeout_at(deadline.instant().into(), answered).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(super::pool::trapped("the worker's thread went away".into())),
                Err(_) => Err(ExecuteError::Deadline),
            }
        })
    }
}

impl Drop for IsolatedExecutor {
    fn drop(&mut self) {
        self.crew.close();
    }
}
