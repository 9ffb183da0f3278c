//! What a worker allows itself, before it does anything else.

use std::{num::TryFromIntError, process, time::Duration};

use rustix::process::{
    Resource, Rlimit, Signal, getppid, getrlimit, nice, set_parent_process_death_signal, setrlimit,
};

use crate::limits::WorkerLimits;

use super::WorkError;

/// Open files: a job needs a handful at a time.
const MAX_FILES: u64 = 64;

/// Open files of a worker that serves: it has what it was started with, and opens none.
const MAX_FILES_SERVING: u64 = 16;

/// Stack of a worker that serves, the same as that of a compute thread in the gateway.
const STACK_BYTES: u64 = 16 << 20;

/// What a worker allows itself, as it stands on its command line. It knows it before it reads anything else.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Whole seconds of processor time; without them, whoever started it watches the clock.
    pub cpu: Option<u64>,
    /// Bytes of address space.
    pub memory: u64,
    /// Bytes of a file that it writes.
    pub file: u64,
    /// The process that is to outlive it.
    pub parent: u32,
}

/// Rounded up: the kernel counts in seconds.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl Bounds {
    /// Of a worker that does one job.
    pub(super) fn of(limits: &WorkerLimits) -> Self {
        Self {
            cpu: Some(whole_seconds(limits.cpu)),
            memory: limits.memory_bytes as u64,
            file: limits.file_bytes as u64,
            parent: process::id(),
        }
    }

    /// Of a worker that runs one model until it is ended, and writes nothing but the memory it shares.
    pub(in crate::execute) fn serving(memory: u64, shared: u64) -> Self {
        Self { cpu: None, memory, file: shared, parent: process::id() }
    }

    /// Bounds the processor time that this process has taken since it began, until it is told to have no such bound any more.
    pub(in crate::execute) fn on_processor_time(cpu: Option<Duration>) -> Result<(), WorkError> {
        let maximum = getrlimit(Resource::Cpu).maximum;
        let current =
            cpu.map(whole_seconds).map_or(maximum, |cpu| Some(maximum.map_or(cpu, |most| cpu.min(most))));
        Ok(setrlimit(Resource::Cpu, Rlimit { current, maximum })?)
    }

    pub(in crate::execute) fn arguments(self) -> Vec<String> {
        let Self { cpu, memory, file, parent } = self;
        let task = cpu.map_or_else(|| "--serve".to_owned(), |cpu| format!("--cpu={cpu}"));
        vec![
            "worker".to_owned(),
            task,
            format!("--memory={memory}"),
            format!("--file={file}"),
            format!("--parent={parent}"),
        ]
    }

    /// None of it can be taken back, by this process or by what it starts.
    pub(in crate::execute) fn apply(self) -> Result<(), WorkError> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before that.
        let parent = getppid().map(|parent| parent.as_raw_nonzero().get());
        if parent != Some(i32::try_from(self.parent).map_err(|error: TryFromIntError| error)?) {
            return Err(WorkError::Orphan);
        }
        rustix::thread::set_no_new_privs(true)?;
        let limit = |resource, current, maximum| {
            setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })
        };
        limit(Resource::As, self.memory, self.memory)?;
        limit(Resource::Fsize, self.file, self.file)?;
        match self.cpu {
            Some(cpu) => {
                // The first signal says what was used up, the second, a second later, cannot be ignored.
                limit(Resource::Cpu, cpu, cpu.saturating_add(1))?;
                limit(Resource::Nofile, MAX_FILES, MAX_FILES)?;
                // Who calls models comes before who loads them: a worker gets what is left.
                nice(19)?;
            }
            None => {
                limit(Resource::Stack, STACK_BYTES, STACK_BYTES)?;
                limit(Resource::Nofile, MAX_FILES_SERVING, MAX_FILES_SERVING)?;
                // Neither processes nor threads, unless it is root's.
                limit(Resource::Nproc, 0, 0)?;
                // As the threads that run guests: those that serve sockets go first whenever they have work.
                nice(5)?;
            }
        }
        Ok(())
    }
}
