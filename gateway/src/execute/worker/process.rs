//! A running worker: what it says, how long it may take, and what its end means.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Arc, Once,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    execute::{LoadError, Step},
    limits::WorkerLimits,
    log_allowance::LogAllowance,
    name::TenantName,
};

use super::{
    Bounds,
    folder::Folder,
    job::{Done, JOB, Message},
};

/// Bytes that a worker may say. A signature of the largest admitted size takes a fraction of it.
const MAX_ANSWER: u64 = 4 << 20;

/// Bytes of a worker's stderr that are read for the log.
const MAX_STDERR: u64 = 64 << 10;

/// Characters of one line of it. Those of guests are shorter.
const MAX_LINE: usize = 1 << 10;

/// Whose allowance of the log a worker's lines are taken from.
pub(super) type Teller<'a> = (&'a Arc<LogAllowance>, TenantName);

/// Runs a program as the worker for the job in a folder.
pub(super) fn run(
    program: &Path,
    limits: &WorkerLimits,
    folder: &Folder,
    teller: Teller<'_>,
) -> Result<Done, LoadError> {
    let end = Instant::now() + limits.time;
    let mut worker = Worker::start(program, limits, folder, teller).map_err(|error| {
        tracing::error!(program = %program.display(), "a worker cannot be started: {error}");
        LoadError::transient(Step::Read, format_args!("a worker process cannot be started: {error}"))
    })?;
    let mut step = Step::Read;
    let ended = worker.listen(end, &mut step);
    let (status, stderr) = worker.end();
    let (reason, transient) = match ended {
        // Only a worker that also ended well is believed.
        Ok(Some(answer)) if status.is_some_and(|status| status.success()) => return answer,
        Ok(_) => meaning(status, &stderr, limits),
        // Processor time has a bound of its own, which was not reached: the machine was busy with something else.
        Err(Fault::Late) => {
            let reason = format!(
                "it took longer than the {:?} that a worker has; make the model smaller, or raise --worker-time",
                limits.time
            );
            (reason, true)
        }
        Err(Fault::Garbage) => ("the worker's answer makes no sense, so it was stopped".to_owned(), false),
    };
    tracing::warn!(%step, ?status, reason, transient, "a worker gave no answer");
    Err(LoadError { transient, ..LoadError::new(step, reason) })
}

/// Why a worker was stopped.
enum Fault {
    Late,
    /// It said something that no worker says, or more than one may.
    Garbage,
}

struct Worker {
    child: Child,
    messages: Receiver<Option<Message>>,
    stderr: Receiver<String>,
}

impl Worker {
    fn start(
        program: &Path,
        limits: &WorkerLimits,
        folder: &Folder,
        (allowance, tenant): Teller<'_>,
    ) -> std::io::Result<Self> {
        let allowance = Arc::clone(allowance);
        let job = File::open(folder.path().join(JOB))?;
        let mut child = Command::new(program)
            .arg0("airlock")
            .args(Bounds::of(limits).arguments())
            .env_clear()
            .current_dir(folder.path())
            // A group of its own: it can be killed with whatever it started, and ctrl-C does not reach it.
            .process_group(0)
            .stdin(Stdio::from(job))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (said, messages) = mpsc::channel();
        let (told, log) = mpsc::channel();
        let worker = Self { child, messages, stderr: log };
        // From here on the child is killed and reaped whatever happens.
        if let (Some(stdout), Some(stderr)) = (stdout, stderr) {
            thread::Builder::new()
                .name("worker-answer".into())
                .spawn(move || read_messages(stdout, &said))?;
            let read = move || read_log(stderr, &told, &allowance, &tenant);
            thread::Builder::new().name("worker-log".into()).spawn(read)?;
        }
        Ok(worker)
    }

    /// Listens until the worker's stdout is closed, which it is at its end, or until there is reason to stop it.
    fn listen(&mut self, end: Instant, step: &mut Step) -> Result<Option<Result<Done, LoadError>>, Fault> {
        let mut answer = None;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.messages.recv_timeout(left) {
                Ok(Some(message)) if answer.is_none() => match message {
                    Message::Exposed(what) => tell_once(&what),
                    Message::Step(entered) => *step = entered,
                    Message::Done(done) => answer = Some(Ok(done)),
                    Message::Refused(error) => answer = Some(Err(error)),
                },
                Ok(_) => return Err(Fault::Garbage),
                Err(RecvTimeoutError::Timeout) => return Err(Fault::Late),
                Err(RecvTimeoutError::Disconnected) => return Ok(answer),
            }
        }
    }

    /// Ends the worker and what it started, and reaps it. One that is ending by itself keeps its own status.
    fn end(&mut self) -> (Option<ExitStatus>, String) {
        self.kill();
        let status = self.child.wait().ok();
        // Its pipe is closed now, unless something that left its group holds it.
        let stderr = self.stderr.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        (status, stderr)
    }

    fn kill(&mut self) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // After `end` the number may be another process's.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// Every worker of a machine says the same.
fn tell_once(what: &str) {
    static TOLD: Once = Once::new();
    let what: String = what.chars().filter(|c| !c.is_control()).take(MAX_LINE).collect();
    TOLD.call_once(|| tracing::warn!("workers are less secluded than they should be: {what}"));
}

/// Hands on each line; `None` for one that is no message, after which nothing is read any more.
fn read_messages(stdout: ChildStdout, said: &Sender<Option<Message>>) {
    let mut stdout = BufReader::new(stdout.take(MAX_ANSWER));
    let mut line = Vec::new();
    while let Ok(1..) = stdout.read_until(b'\n', &mut line) {
        let message = line.ends_with(b"\n").then(|| serde_json::from_slice(&line).ok()).flatten();
        let is_message = message.is_some();
        if said.send(message).is_err() || !is_message {
            return;
        }
        line.clear();
    }
    if stdout.get_ref().limit() == 0 {
        let _ = said.send(None);
    }
}

/// Puts each line into the log, those of the model's own `load` at the level that it gave them, as far as the tenant's
/// allowance admits; hands on the whole.
fn read_log(mut stderr: ChildStderr, told: &Sender<String>, allowance: &LogAllowance, tenant: &TenantName) {
    let mut bytes = Vec::new();
    let _ = stderr.by_ref().take(MAX_STDERR).read_to_end(&mut bytes);
    // The rest is read as well, or a worker that says too much would stand still.
    let _ = std::io::copy(&mut stderr, &mut std::io::sink());
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let shown =
        |line: &str| line.trim().replace(char::is_control, "?").chars().take(MAX_LINE).collect::<String>();
    for line in text.lines().map(shown).filter(|line| !line.is_empty()) {
        let (level, rest) = line.split_once(' ').unwrap_or_default();
        if level != "DEBUG" && level != "TRACE" && !allowance.admits(tenant, line.len()) {
            continue;
        }
        match (level, rest.trim_start()) {
            ("ERROR", line) => tracing::error!(target: "worker", "{line}"),
            ("WARN", line) => tracing::warn!(target: "worker", "{line}"),
            ("INFO", line) => tracing::info!(target: "worker", "{line}"),
            _ => tracing::debug!(target: "worker", "{line}"),
        }
    }
    let _ = told.send(text);
}

/// What it means that a worker ended without an answer, and whether it may end otherwise another time.
fn meaning(status: Option<ExitStatus>, stderr: &str, limits: &WorkerLimits) -> (String, bool) {
    let is = |signal: Signal| status.and_then(|status| status.signal()) == Some(signal.as_raw());
    let mut killed = false;
    let reason = if is(Signal::XCPU) {
        format!(
            "it took more than the {:?} of processor time that a worker has; make the model smaller or its functions \
             shorter, or raise --worker-cpu",
            limits.cpu
        )
    } else if is(Signal::XFSZ) {
        format!(
            "its compiled code is larger than {} bytes; make the model smaller, or raise --worker-file",
            limits.file_bytes
        )
    } else if stderr.contains("memory allocation of ") {
        format!(
            "it took more than the {} bytes of memory that a worker has; make the model smaller or its functions shorter, \
             or raise --worker-memory",
            limits.memory_bytes
        )
    } else if stderr.contains("has overflowed its stack") {
        "it is nested so deeply that the worker's stack overflowed; make it flatter".to_owned()
    } else if is(Signal::KILL) {
        killed = true;
        "the worker was killed from outside, perhaps because the machine has no memory left; try again"
            .to_owned()
    } else {
        let end = ending(status);
        format!("the worker ended {end} and without an answer; the gateway's log has its last words")
    };
    (reason, killed)
}

/// How a worker came to its end.
pub(in crate::execute) fn ending(status: Option<ExitStatus>) -> String {
    match status {
        None => "for unknown reasons".to_owned(),
        Some(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => format!("by signal {signal}"),
            (None, Some(101)) => "by a panic".to_owned(),
            (None, code) => format!("with exit code {}", code.unwrap_or(-1)),
        },
    }
}
