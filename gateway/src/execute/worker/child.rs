//! The worker's own side: it bounds itself, then does one job.

use std::{
    fs,
    io::{self, Read, Stdout, Write},
    num::TryFromIntError,
    process,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, Signal, getppid, nice, set_parent_process_death_signal, setrlimit};

use crate::{
    digest::Digest,
    execute::{Format, LoadError, Report, Source, Step, native, wasm},
    limits::WorkerLimits,
};

use super::{
    job::{ARTIFACT, CODE, Done, Job, Message, Task, file_name},
    seclusion,
};

/// Open files: a job needs a handful at a time.
const MAX_FILES: u64 = 64;

/// Threads that compile. Each takes address space, of which there is a fixed amount, whatever the number of cores.
const MAX_THREADS: usize = 4;

/// What a worker allows itself, as it stands on its command line. It knows it before it reads anything else.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Whole seconds of processor time.
    pub cpu: u64,
    /// Bytes of address space.
    pub memory: u64,
    /// Bytes of a file that it writes.
    pub file: u64,
    /// The process that is to outlive it.
    pub parent: u32,
}

/// Why a worker could not even begin.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    #[error("it cannot bound itself: {0}")]
    Bounds(#[from] rustix::io::Errno),
    #[error("it cannot drop its capabilities: {0}")]
    Secluded(#[source] io::Error),
    #[error("its parent is gone")]
    Orphan,
    #[error("its parent has no process number: {0}")]
    Parent(#[from] TryFromIntError),
    #[error("it cannot read its job: {0}")]
    Job(#[from] serde_json::Error),
    #[error("it cannot answer: {0}")]
    Answer(#[from] io::Error),
}

impl Bounds {
    pub(super) fn of(limits: &WorkerLimits) -> Self {
        Self {
            cpu: limits.cpu.as_secs() + u64::from(limits.cpu.subsec_nanos() > 0),
            memory: limits.memory_bytes as u64,
            file: limits.file_bytes as u64,
            parent: process::id(),
        }
    }

    pub(super) fn arguments(self) -> [String; 5] {
        let Self { cpu, memory, file, parent } = self;
        [
            "worker".to_owned(),
            format!("--cpu={cpu}"),
            format!("--memory={memory}"),
            format!("--file={file}"),
            format!("--parent={parent}"),
        ]
    }

    /// None of it can be taken back, by this process or by what it starts.
    fn apply(self) -> Result<(), WorkError> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before that.
        let parent = getppid().map(|parent| parent.as_raw_nonzero().get());
        if parent != Some(i32::try_from(self.parent)?) {
            return Err(WorkError::Orphan);
        }
        rustix::thread::set_no_new_privs(true)?;
        let limit = |resource, current, maximum| {
            setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })
        };
        limit(Resource::As, self.memory, self.memory)?;
        // The first signal says what was used up, the second, a second later, cannot be ignored.
        limit(Resource::Cpu, self.cpu, self.cpu.saturating_add(1))?;
        limit(Resource::Fsize, self.file, self.file)?;
        limit(Resource::Nofile, MAX_FILES, MAX_FILES)?;
        // Who calls models comes before who loads them: a worker gets what is left.
        nice(19)?;
        Ok(())
    }
}

/// Does the job on stdin, with the files in the working folder, and answers on stdout.
///
/// # Errors
/// If it could not begin or not answer. A model that is refused is an answer.
pub fn work(bounds: Bounds) -> Result<(), WorkError> {
    // First: a new namespace would undo some of the bounds.
    let exposed = seclusion::leave().map_err(WorkError::Secluded)?;
    bounds.apply()?;
    // If they cannot be started, the compiler does with its own.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads()).build_global();
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text)?;
    let job: Job = serde_json::from_slice(&text)?;
    drop(text);
    let mut progress = Progress { stdout: io::stdout(), steps: Vec::new(), failure: None };
    if let Some(what) = exposed {
        progress.say(&Message::Exposed(what));
    }
    let answer = match run(job, &mut progress) {
        Ok(done) => Message::Done(done),
        Err(error) => Message::Refused(error),
    };
    progress.say(&answer);
    progress.failure.map_or(Ok(()), |error| Err(error.into()))
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
}

fn run(job: Job, progress: &mut Progress) -> Result<Done, LoadError> {
    progress.enter(Step::Read);
    let source = Source {
        label: job.label,
        artifact: read(ARTIFACT, &job.artifact)?,
        files: job
            .files
            .into_iter()
            .enumerate()
            .map(|(index, (name, digest))| Ok((name, read(&file_name(index), &digest)?)))
            .collect::<Result<_, LoadError>>()?,
        parameters: job.parameters,
        declared_inputs: job.declared_inputs,
        limits: job.limits,
        owner: None,
    };
    let artifact_bytes = source.artifact.len() as u64;
    let file_bytes = source.files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let report = |format, signature, imports, compiled_bytes, steps| Report {
        format,
        signature,
        imports,
        artifact_bytes,
        file_bytes,
        compiled_bytes,
        steps,
    };
    match job.task {
        Task::Onnx(limits) => {
            progress.enter(Step::Load);
            let signature = native::check(source, &limits)?;
            Ok(Done { report: report(Format::Onnx, signature, Vec::new(), 0, progress.times()), code: None })
        }
        Task::Wasm(settings) => {
            let compiled = wasm::prepare(&settings, source, &mut |step| progress.enter(step))?;
            fs::write(CODE, &compiled.code).map_err(|error| {
                LoadError::disk(Step::Compile, "its compiled code cannot be written", &error)
            })?;
            let format = match compiled.form {
                wasm::profile::Form::Component => Format::Component,
                wasm::profile::Form::CoreModule => Format::CoreModule,
            };
            let bytes = compiled.code.len() as u64;
            let report = report(format, compiled.signature, compiled.imports, bytes, progress.times());
            Ok(Done { report, code: Some(Digest::of(&compiled.code)) })
        }
    }
}

fn read(name: &str, digest: &Digest) -> Result<Vec<u8>, LoadError> {
    let failed = |reason: &dyn std::fmt::Display| {
        LoadError::new(Step::Read, format_args!("the worker cannot read it: {reason}"))
    };
    let bytes = fs::read(name).map_err(|error| failed(&error))?;
    if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(failed(&"its bytes were changed on the way")) }
}

/// Tells each step as it begins, so that a worker that is killed leaves behind where it was.
struct Progress {
    stdout: Stdout,
    steps: Vec<(Step, Instant)>,
    failure: Option<io::Error>,
}

impl Progress {
    fn enter(&mut self, step: Step) {
        self.steps.push((step, Instant::now()));
        self.say(&Message::Step(step));
    }

    fn say(&mut self, message: &Message) {
        let said = serde_json::to_string(message).map_err(io::Error::from).and_then(|line| {
            let mut stdout = self.stdout.lock();
            writeln!(stdout, "{line}")?;
            stdout.flush()
        });
        if let Err(error) = said {
            self.failure.get_or_insert(error);
        }
    }

    /// The time of each step, summed if it was entered more than once.
    fn times(&self) -> Vec<(Step, Duration)> {
        let ends = self.steps.iter().skip(1).map(|(_, at)| *at).chain([Instant::now()]);
        let mut times: Vec<(Step, Duration)> = Vec::new();
        for ((step, begin), end) in self.steps.iter().zip(ends) {
            let took = end.saturating_duration_since(*begin);
            match times.iter_mut().find(|(known, _)| known == step) {
                Some((_, time)) => *time += took,
                None => times.push((*step, took)),
            }
        }
        times
    }
}
