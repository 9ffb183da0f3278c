//! A running worker, from the gateway's side. Nothing that it says is believed before it is checked.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::unix::{
        net::UnixStream,
        process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid},
};

use crate::{
    consumption::Consumption,
    deadline::Deadline,
    execute::{
        ExecuteError, LoadError, Source, Step,
        native::pool::trapped,
        worker::{Bounds, ending},
    },
    limits::NativeLimits,
    name::TenantName,
    tensor::{InferRequest, InferResponse, Signature, Tensor},
};

use super::{
    outputs::{bounded, nonsense, take_over},
    shared::{FIRST, KEPT_BYTES, Shared, sealed},
    wire::{self, Answer, Fault, Load, Order, Placed, Run, Until},
};

/// Time after the deadline within which a worker has to say that it stopped; one that is between two nodes does so in
/// microseconds. Then it is killed.
const GRACE: Duration = Duration::from_millis(250);

/// The same on ONNX Runtime, which does not stop between nodes: as long as a new worker took to load the model, and no longer
/// than this. To kill it sooner would cost others more.
const LONGEST_GRACE: Duration = Duration::from_secs(5);

/// Bytes of a worker's stderr that are kept.
const MAX_LOG: u64 = 16 << 10;

#[derive(Debug)]
pub struct Worker {
    child: Child,
    control: UnixStream,
    shared: Arc<Shared>,
    /// Its stderr. The place at which it writes next is the same for both.
    log: File,
    memory_bytes: usize,
    on_onnx_runtime: bool,
    grace: Duration,
    calls: u64,
    /// Whose call was the last one.
    tenant: Option<TenantName>,
    /// Processor time of one that was reaped.
    spent: Option<Duration>,
    /// Processor time that is accounted for: that of loading, and what it said of its calls.
    accounted: Duration,
}

/// One call, as a worker is handed it.
pub struct Task<'a> {
    /// Its inputs were checked.
    pub request: &'a InferRequest,
    pub tenant: &'a TenantName,
    pub deadline: Deadline,
    pub consumed: &'a Consumption,
}

/// How a call ended.
#[derive(Debug)]
pub enum Ended {
    /// The worker answered, and is good for another one.
    Well(Result<InferResponse, ExecuteError>),
    /// It was not asked.
    Unasked(ExecuteError),
    /// The worker is dead, and was before it began.
    Unheard,
    /// It died, or is not to be trusted any more.
    Badly(ExecuteError),
}

impl Worker {
    /// Starts a worker of the thread that calls this: it is killed when that thread ends.
    /// It runs its model on ONNX Runtime if it is told where that library is.
    pub fn start(
        program: &Path,
        limits: &NativeLimits,
        shared_bytes: u64,
        onnxruntime: Option<&Path>,
    ) -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        let shared = Arc::new(Shared::new(shared_bytes)?);
        let log = sealed("airlock-log", MAX_LOG)?;
        let mut command = Command::new(program);
        command
            .arg0("airlock")
            .env_clear()
            .args(Bounds::serving(limits.worker_memory_bytes as u64, shared_bytes).arguments());
        if let Some(library) = onnxruntime {
            // Microsoft's builds send events over the network from 1.29 on, the first before they can be told not to.
            command.arg("--onnxruntime").arg(library).env("ORT_DISABLE_TELEMETRY", "1");
        }
        let child = command
            .current_dir("/")
            // A group of its own: it can be killed with whatever it started, and ctrl-C does not reach it.
            .process_group(0)
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(Stdio::from(shared.handle()?))
            .stderr(Stdio::from(log.try_clone()?))
            .spawn()?;
        Ok(Self {
            child,
            control,
            shared,
            log,
            memory_bytes: limits.worker_memory_bytes,
            on_onnx_runtime: onnxruntime.is_some(),
            grace: GRACE,
            calls: 0,
            tenant: None,
            spent: None,
            accounted: Duration::ZERO,
        })
    }

    /// Hands it its model.
    pub fn load(&mut self, order: &Load, source: &Source, time: Duration) -> Result<Signature, LoadError> {
        let begun = Instant::now();
        let end = begun + time;
        let mut stream = Until::new(&self.control, end);
        let told = wire::write(&mut stream, &Order::Load(order.clone())).and_then(|()| {
            stream.write_all(&source.artifact)?;
            source.files.iter().try_for_each(|(_, bytes)| stream.write_all(bytes))
        });
        let answer = match told {
            // It may have said something before it ended without listening.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                wire::read(&mut stream)
            }
            told => told.and_then(|()| wire::read(&mut stream)),
        };
        let reason = match answer {
            Ok(Some(Answer::Loaded(signature))) => {
                self.accounted = self.processor_time();
                if self.on_onnx_runtime {
                    self.grace = begun.elapsed().clamp(GRACE, LONGEST_GRACE);
                }
                return Ok(signature);
            }
            Ok(Some(Answer::Refused(error))) => {
                return Err(LoadError::new(error.step, bounded(error.reason)));
            }
            Ok(Some(Answer::NoLibrary { reason, cause })) => {
                let reason = bounded(reason);
                tracing::error!(reason, cause = cause.map(bounded), "ONNX Runtime cannot be used");
                return Err(LoadError::transient(Step::Load, format_args!("{OF_LIBRARY}{reason}")));
            }
            // Processor time has a bound of its own, which was not reached: the machine was busy with something else.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(LoadError::transient(
                    Step::Load,
                    format_args!(
                        "it took longer than the {time:?} that a worker has to load it; make the model smaller, or raise \
                         --worker-time"
                    ),
                ));
            }
            Err(error)
                if [Errno::NOMEM, Errno::NOBUFS]
                    .map(Errno::raw_os_error)
                    .map(Some)
                    .contains(&error.raw_os_error()) =>
            {
                return Err(LoadError::transient(
                    Step::Load,
                    format_args!("a worker process could not be told its model: {error}"),
                ));
            }
            Ok(Some(Answer::Ran { .. })) => NONSENSE.to_owned(),
            Err(error) if is_nonsense(&error) => NONSENSE.to_owned(),
            Ok(None) | Err(_) => {
                let (status, said) = self.end();
                if said.contains(OUT_OF_MEMORY) {
                    format!(
                        "it takes more than the {} bytes of memory that a worker has; make the model smaller, or raise \
                         --native-memory",
                        self.memory_bytes
                    )
                } else if said.contains("has overflowed its stack") {
                    "it is nested so deeply that the worker's stack overflowed; make it flatter".to_owned()
                } else if status.and_then(|status| status.signal()) == Some(Signal::XCPU.as_raw()) {
                    format!(
                        "it took more than the {:?} of processor time that a worker has to load it; make the model smaller, or \
                         raise --worker-cpu",
                        order.cpu
                    )
                } else if status.and_then(|status| status.signal()) == Some(Signal::KILL.as_raw()) {
                    return Err(LoadError::transient(
                        Step::Load,
                        "the worker that loaded it was killed from outside, perhaps because the machine has no memory left; \
                         try again",
                    ));
                } else {
                    format!("the worker that loaded it ended {}", ending(status))
                }
            }
        };
        Err(LoadError::new(Step::Load, reason))
    }

    /// Runs a call, for as long as it is wanted.
    pub fn run(
        &mut self,
        task: &Task<'_>,
        signature: &Signature,
        max_output_bytes: usize,
        wanted: &dyn Fn() -> bool,
    ) -> Ended {
        let Task { request, tenant, deadline, consumed } = *task;
        if self.tenant.as_ref() != Some(tenant) {
            // What the one before sent and got is not there for the next one. That it is not in the engine's own memory either
            // is not promised.
            self.shared.trim(0);
            self.tenant = Some(tenant.clone());
        }
        self.calls += 1;
        let call = self.calls;
        let (inputs, free) = match self.hand_over(request) {
            Ok(placed) => placed,
            Err(error) => return Ended::Unasked(error),
        };
        if !wanted() || deadline.passed() {
            return Ended::Unasked(ExecuteError::Deadline);
        }
        // What it says from here on belongs to this call.
        let _ = self.log.rewind();
        let started = Instant::now();
        let order = Run { call, time: deadline.remaining(), inputs, outputs: request.outputs.clone(), free };
        let wanted = || {
            let wanted = wanted();
            if !wanted {
                // So that it stops between two nodes.
                self.shared.abandon(call);
            }
            wanted
        };
        let mut stream =
            Until::new(&self.control, deadline.instant() + self.grace).while_wanted(&wanted, self.grace);
        let answer = wire::write(&mut stream, &Order::Run(order)).and_then(|()| wire::read(&mut stream));
        let ended = match answer {
            Ok(Some(Answer::Ran { call: answered, cpu, result })) if answered == call => {
                // One thread cannot have worked for longer than the time that passed.
                let cpu = cpu.min(started.elapsed());
                consumed.elsewhere(cpu);
                self.accounted += cpu;
                let ended = match result {
                    // A worker of ours has checked its outputs before: one whose answer does not pass is not what it should be.
                    Ok(outputs) => {
                        take_over(&self.shared, outputs, &request.outputs, signature, max_output_bytes, free)
                            .map_or_else(Ended::Badly, |response| Ended::Well(Ok(response)))
                    }
                    Err(fault) => Ended::Well(Err(explain(fault, self.memory_bytes))),
                };
                self.shared.trim(KEPT_BYTES);
                return ended;
            }
            Ok(Some(_)) => Ended::Badly(nonsense("it answered what it was not asked")),
            Err(error) if is_nonsense(&error) => Ended::Badly(nonsense(&error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ended::Badly(ExecuteError::Deadline),
            Ok(None) | Err(_) if !self.shared.has_begun(call) => Ended::Unheard,
            Ok(None) | Err(_) => Ended::Badly(self.autopsy()),
        };
        consumed.elsewhere(self.processor_time().saturating_sub(self.accounted).min(started.elapsed()));
        ended
    }

    /// Does not reap it: what it started is in a group of its number.
    pub fn has_ended(&self) -> bool {
        let Some(pid) = self.pid() else { return true };
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(pid), look), Ok(None))
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Gives back what it does not need while nobody calls.
    pub fn rest(&self) {
        self.shared.trim(0);
    }

    /// Puts the inputs into the shared memory. Says where they are, and where they end.
    fn hand_over(&self, request: &InferRequest) -> Result<(Vec<Placed>, u64), ExecuteError> {
        let mut end = FIRST;
        let place = |input: &Tensor| {
            let length = input.bytes.len();
            let offset = self.shared.place(end, length).ok_or_else(|| {
                ExecuteError::InvalidInput(format!(
                    "the inputs have more than the {} bytes that a worker process takes",
                    self.shared.size()
                ))
            })?;
            self.shared.write(offset, &input.bytes).map_err(|error| trapped(error.to_string()))?;
            end = offset + length as u64;
            let (name, shape) = (input.name.clone(), input.shape.clone());
            Ok(Placed { name, datatype: input.datatype, shape, offset, length })
        };
        let inputs = request.inputs.iter().map(place).collect::<Result<_, ExecuteError>>()?;
        Ok((inputs, end))
    }

    /// What it means that the worker closed its end.
    fn autopsy(&mut self) -> ExecuteError {
        let (status, said) = self.end();
        if said.contains(OUT_OF_MEMORY) {
            return ExecuteError::Memory { limit_bytes: self.memory_bytes };
        }
        ExecuteError::Trapped {
            reason: "the model's worker process ended while it ran the model".to_owned(),
            detail: format!("it ended {}: {}", ending(status), bounded(said)),
        }
    }

    /// Bytes of memory that are the worker's alone.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let anonymous =
            status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
        anonymous.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024)
    }

    /// Processor time of the worker's thread so far, as the kernel counts it at its last tick.
    fn processor_time(&self) -> Duration {
        if let Some(spent) = self.spent {
            return spent;
        }
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.child.id())).unwrap_or_default();
        let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
        Duration::from_nanos(nanos.unwrap_or(0))
    }

    /// Ends the worker and what it started, and reaps it. One that is ending by itself keeps its own status.
    fn end(&mut self) -> (Option<ExitStatus>, String) {
        // Whoever closed the socket is about to end; one that is not is ended a moment later.
        let patience = Instant::now() + Duration::from_millis(100);
        while !self.has_ended() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        let status = self.reap();
        let written = self.log.stream_position().unwrap_or(0).min(MAX_LOG);
        let mut said = Vec::new();
        let _ = self.log.rewind().and_then(|()| (&self.log).take(written).read_to_end(&mut said));
        (status, String::from_utf8_lossy(&said).replace(char::is_control, " "))
    }

    /// Kills it and what it started.
    fn reap(&mut self) -> Option<ExitStatus> {
        if self.spent.is_none() {
            if let Some(group) = self.pid() {
                let _ = kill_process_group(group, Signal::KILL);
            }
            // After it was reaped its number may be another process's.
            self.spent = Some(self.processor_time());
        }
        self.child.wait().ok()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.reap();
    }
}

/// What errors begin with that are the library's and not the model's.
pub const OF_LIBRARY: &str = "the gateway's ONNX Runtime: ";

const NONSENSE: &str = "the worker's answer makes no sense, so it was stopped";

/// How the standard library and the engine put it that there is no memory.
const OUT_OF_MEMORY: &str = "memory allocation of ";
const ENGINE_OUT_OF_MEMORY: &str = "failed to allocate ";

fn explain(fault: Fault, memory_bytes: usize) -> ExecuteError {
    match fault {
        Fault::InvalidInput(text) => ExecuteError::InvalidInput(bounded(text)),
        Fault::Failed(text) => ExecuteError::Failed(bounded(text)),
        Fault::Trapped(detail) if detail.contains(ENGINE_OUT_OF_MEMORY) => {
            ExecuteError::Memory { limit_bytes: memory_bytes }
        }
        Fault::Trapped(detail) => trapped(bounded(detail)),
        Fault::Output(text) => ExecuteError::Output(bounded(text)),
        Fault::Deadline => ExecuteError::Deadline,
    }
}

/// Whether an error comes from what was said, and not from the stream.
fn is_nonsense(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
        || error.get_ref().is_some_and(|inner| inner.is::<serde_json::Error>())
}
