//! The worker's own side: it does one job.

use std::{
    fs,
    io::{self, Read, Stdout, Write},
    num::TryFromIntError,
    time::{Duration, Instant},
};

use crate::{
    digest::Digest,
    execute::{Format, LoadError, Report, Source, Step, native, wasm},
};

use super::{
    Bounds,
    job::{ARTIFACT, CODE, Done, Job, Message, Task, file_name},
    seclusion,
};

/// Threads that compile. Each takes address space, of which there is a fixed amount, whatever the number of cores.
const MAX_THREADS: usize = 4;

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
    #[error("it was told what no gateway says")]
    Order,
    #[error("it cannot read its job: {0}")]
    Job(#[from] serde_json::Error),
    #[error("it cannot answer: {0}")]
    Answer(#[from] io::Error),
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
        untrusted: job.untrusted,
        isolation: None,
        engine: None,
        batching: None,
        artifact_is_plugin: job.artifact_is_plugin,
    };
    let (artifact_bytes, file_bytes) = source.sizes();
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
            let is_onnx = source.artifact_is_plugin;
            let source = if is_onnx {
                progress.enter(Step::Check);
                native::for_plugin(source)?
            } else {
                source
            };
            let compiled = wasm::prepare(&settings, source, &mut |step| progress.enter(step))?;
            fs::write(CODE, &compiled.code).map_err(|error| {
                LoadError::disk(Step::Compile, "its compiled code cannot be written", &error)
            })?;
            let format = match compiled.form {
                _ if is_onnx => Format::Onnx,
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
