//! Worker processes that do one job: compiling, `load`, the snapshot and the check of ONNX files each happen in a process of
//! its own, which is bounded in time and memory and can be killed.
//!
//! - [`Workers`]: the gateway's side, one job at a time for each slot
//! - `job`: what the two sides say to each other
//! - `folder`: the private folder that a job's files are in
//! - `seclusion`: what a worker gives up before it begins
//! - [`Bounds`]: what a worker allows itself
//! - `process`: a running worker, and what its end means
//! - [`work`]: the worker's own side
//!
//! It keeps a model that makes the compiler loop, swell or crash away from the gateway and from everybody else's models. It
//! does not contain a compiler that was taken over: a worker runs as the gateway's own user, and what it compiles is run.

mod bounds;
mod child;
mod folder;
mod job;
mod process;
pub(super) mod seclusion;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::available_parallelism,
    time::Duration,
};

use crate::{
    digest::Digest,
    limits::{NativeLimits, SandboxLimits, WorkerLimits},
    log_allowance::LogAllowance,
    name::TenantName,
};

use super::{
    LoadError, Report, Source, Step,
    wasm::{Memories, Prepared, Settings},
};

pub use bounds::Bounds;
pub use child::{WorkError, work};
pub(super) use folder::{open_regular, private_folder};
pub(super) use process::ending;

use folder::Folder;
use job::{ARTIFACT, CODE, Done, JOB, Job, Task, file_name};

/// The program that runs now, whatever became of its file meanwhile: a worker of another version would not be understood.
pub(super) const THIS_PROGRAM: &str = "/proc/self/exe";

/// Processor time that a worker has on top where it compiles the gateway's own plugin for ONNX models, and time as well: the
/// plugin is large, and no tenant's. A model's `load` in it has the time of every `load`.
const PLUGIN_TIME: Duration = Duration::from_secs(300);

/// What starts workers, as many at a time as there are slots.
#[derive(Debug)]
pub struct Workers {
    limits: WorkerLimits,
    program: PathBuf,
    folder: PathBuf,
    slots: Slots,
    /// Of these, how many may be taken by what takes minutes: all but one, if there are several.
    slow: Slots,
    log: Arc<LogAllowance>,
}

impl Workers {
    /// Workers that run `program`, this one if none is named, and have their folders below `folder`, or below the system's
    /// folder for temporary files.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new(
        limits: WorkerLimits,
        program: Option<PathBuf>,
        folder: Option<PathBuf>,
    ) -> Result<Arc<Self>, LoadError> {
        let program = program.unwrap_or_else(|| THIS_PROGRAM.into());
        let folder = match folder {
            Some(folder) => folder::private_folder(&folder).map(|()| folder),
            None => Ok(std::env::temp_dir()),
        };
        let folder = folder
            .map_err(|error| LoadError::new(Step::Load, format_args!("no folder for workers: {error}")))?;
        folder::sweep(&folder);
        let most = match limits.max_concurrent {
            0 => available_parallelism().map_or(1, usize::from),
            most => most,
        };
        let log = Arc::new(LogAllowance::new(limits.log_bytes));
        let slow = Slots::new(most.saturating_sub(1).max(1));
        Ok(Arc::new(Self { limits, program, folder, slots: Slots::new(most), slow, log }))
    }

    /// What each tenant's models may say in the log; what they say in requests is to come out of the same.
    pub fn log(&self) -> &Arc<LogAllowance> {
        &self.log
    }

    /// Checks a wasm model in every way in which it is checked before it is served, and compiles it. Blocks; waits for a slot
    /// first.
    ///
    /// # Errors
    /// The step at which the model was refused or its worker ended, and why.
    pub fn check_wasm(&self, limits: &SandboxLimits, source: &Source) -> Result<Report, LoadError> {
        let settings = Settings { limits: limits.clone(), memories: Memories::Pooled };
        self.prepare(&settings, source).map(|prepared| prepared.report)
    }

    /// Checks an ONNX model by loading it, and says what it takes and gives. Blocks; waits for a slot first.
    ///
    /// # Errors
    /// The step at which the model was refused or its worker ended, and why.
    pub fn check_onnx(&self, limits: &NativeLimits, source: &Source) -> Result<Report, LoadError> {
        let _slot = self.slots.take();
        let folder = self.hand_over(Task::Onnx(limits.clone()), source)?;
        let Done { report, .. } = self.run(&folder, source)?;
        Ok(report)
    }

    /// What a serving engine with these settings needs to run a model.
    pub(super) fn prepare(&self, settings: &Settings, source: &Source) -> Result<Prepared, LoadError> {
        let _slow = source.artifact_is_plugin.then(|| self.slow.take());
        let _slot = self.slots.take();
        let folder = self.hand_over(Task::Wasm(settings.clone()), source)?;
        let Done { report, code } = self.run(&folder, source)?;
        let bytes = folder.read(CODE, self.limits.file_bytes).map_err(|error| {
            LoadError::new(Step::Compile, format_args!("its compiled code cannot be read: {error}"))
        })?;
        if code != Some(Digest::of(&bytes)) {
            return Err(LoadError::new(Step::Compile, "its compiled code is not what the worker announced"));
        }
        Ok(Prepared::trusted(report, bytes))
    }

    fn run(&self, folder: &Folder, source: &Source) -> Result<Done, LoadError> {
        let tenant = source.owner.clone().unwrap_or_else(TenantName::default_tenant);
        let mut limits = self.limits.clone();
        if source.artifact_is_plugin {
            limits.cpu += PLUGIN_TIME;
            limits.time += PLUGIN_TIME;
        }
        process::run(&self.program, &limits, folder, (&self.log, tenant))
    }

    /// A folder with the job and its files.
    fn hand_over(&self, task: Task, source: &Source) -> Result<Folder, LoadError> {
        let failed = |error: &io::Error| {
            tracing::error!(folder = %self.folder.display(), "no folder for a worker: {error}");
            LoadError::disk(Step::Read, "the gateway cannot hand it to a worker", error)
        };
        let folder = Folder::new(&self.folder).map_err(|error| failed(&error))?;
        let job = Job {
            task,
            label: source.label.clone(),
            artifact: Digest::of(&source.artifact),
            files: source.files.iter().map(|(name, bytes)| (name.clone(), Digest::of(bytes))).collect(),
            parameters: source.parameters.clone(),
            declared_inputs: source.declared_inputs.clone(),
            limits: source.limits,
            untrusted: source.untrusted,
            artifact_is_plugin: source.artifact_is_plugin,
        };
        let job = serde_json::to_vec(&job).map_err(|error| failed(&error.into()))?;
        let write = || {
            folder.write(JOB, &job)?;
            folder.write(ARTIFACT, &source.artifact)?;
            source
                .files
                .iter()
                .enumerate()
                .try_for_each(|(index, (_, bytes))| folder.write(&file_name(index), bytes))
        };
        write().map_err(|error| failed(&error))?;
        Ok(folder)
    }
}

/// A number of places. Each is held for a bounded time, so waiting for one needs no bound of its own.
#[derive(Debug)]
struct Slots {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Slots {
    fn new(slots: usize) -> Self {
        Self { free: Mutex::new(slots), freed: Condvar::new() }
    }

    fn take(&self) -> Slot<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Slot(self)
    }
}

struct Slot<'a>(&'a Slots);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}
