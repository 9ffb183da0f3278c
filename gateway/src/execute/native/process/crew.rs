//! The workers of one loaded version: as many as its calls need at a time, each with a thread of the gateway that started it,
//! hands it one call after the other, and replaces it when it dies.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    consumption::Consumption,
    deadline::Deadline,
    execute::{ExecuteError, LoadError, Source, Step},
    log_allowance::LogAllowance,
    name::TenantName,
    tensor::{InferRequest, InferResponse, Signature},
};

use super::{
    Isolated, Owner,
    running::{Ended, Task, Worker},
    wire::Load,
};

/// Workers that a tenant's calls may end in a row before its next calls have to wait.
const FREE_DEATHS: u32 = 3;

/// Time without a call after which a worker gives back the memory that it shares.
const REST_AFTER: Duration = Duration::from_secs(1);

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

pub struct Crew {
    order: Load,
    source: Source,
    /// The library that its workers run the model on, if it is not tract.
    onnxruntime: Option<PathBuf>,
    max_output_bytes: usize,
    fleet: Arc<Isolated>,
    signature: OnceLock<Signature>,
    /// What the first worker took of memory once it had loaded the model.
    worker_bytes: OnceLock<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Threads, those that just start their worker included.
    members: usize,
    /// Members that run a job. All others will look for the next one without being asked, or are idle.
    busy: usize,
    /// Members that wait for a job. The last one is the next to get one: its worker's memory is still in the caches.
    idle: Vec<Thread>,
    /// Of members: those that have a place for a worker; idle ones that were told to let theirs go, because others need its
    /// place; and busy ones that will before they take another job.
    serving: usize,
    leaving: usize,
    recalled: usize,
    last_used: Option<Instant>,
    /// How long the last worker took to load the model.
    load_took: Duration,
    /// Of tenants whose last call ended a worker. What one of them does to a model that many may call keeps nobody else waiting.
    deaths: HashMap<TenantName, Deaths>,
    closed: bool,
}

#[derive(Default)]
struct Deaths {
    in_a_row: u32,
    paused_until: Option<Instant>,
}

impl State {
    /// Whether a call of this tenant may end no more workers for now. It is told that there is no capacity: nothing of it ran,
    /// so that nothing is to be said against the model that was not said of the calls before.
    fn is_paused(&self, tenant: &TenantName) -> bool {
        let until = self.deaths.get(tenant).and_then(|deaths| deaths.paused_until);
        until.is_some_and(|until| until > Instant::now())
    }

    /// Forgets calls that nobody waits for, with their inputs, and answers those that have to wait longer.
    fn weed(&mut self) {
        for job in std::mem::take(&mut self.waiting) {
            if self.is_paused(&job.tenant) {
                let _ = job.answer.send(Err(ExecuteError::Busy));
            } else if !job.answer.is_closed() {
                self.waiting.push_back(job);
            }
        }
    }

    /// Notes that a call of this tenant ended a worker.
    fn died(&mut self, tenant: &TenantName) {
        let deaths = self.deaths.entry(tenant.clone()).or_default();
        deaths.in_a_row = deaths.in_a_row.saturating_add(1);
        if let Some(more) = deaths.in_a_row.checked_sub(FREE_DEATHS + 1) {
            let pause = FIRST_PAUSE.saturating_mul(1 << more.min(16)).min(LONGEST_PAUSE);
            // Somebody else pays for loading: it takes no more than half of the time.
            deaths.paused_until = Some(Instant::now() + pause.max(self.load_took));
        }
    }
}

/// How many members of a crew have a place for a worker, and how many of those are about to give it back.
#[derive(Clone, Copy)]
pub struct Members {
    pub serving: usize,
    pub leaving: usize,
    pub recalled: usize,
}

/// One call, on its way to a worker.
pub struct Job {
    pub request: InferRequest,
    /// Whose call it is, which need not be whose model it is.
    pub tenant: TenantName,
    pub deadline: Deadline,
    pub consumed: Arc<Consumption>,
    /// What may still be said of the tenant's calls.
    pub log: Arc<LogAllowance>,
    /// Closed once nobody waits any more.
    pub answer: oneshot::Sender<Result<InferResponse, ExecuteError>>,
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("label", &self.order.label).finish_non_exhaustive()
    }
}

impl Crew {
    /// Loads the model into a first worker. Blocks for as long as that takes.
    pub fn load(
        fleet: &Arc<Isolated>,
        order: Load,
        source: Source,
        onnxruntime: Option<PathBuf>,
    ) -> Result<Arc<Self>, LoadError> {
        let crew = Self::new(fleet, order, source, onnxruntime);
        let (loaded, result) = mpsc::channel();
        crew.lock().members += 1;
        crew.enlist(Some(loaded));
        let ended = || Err(LoadError::transient(Step::Load, "the thread of its worker could not be started"));
        result.recv().unwrap_or_else(|_| ended())?;
        Ok(crew)
    }

    fn new(fleet: &Arc<Isolated>, order: Load, source: Source, onnxruntime: Option<PathBuf>) -> Arc<Self> {
        let crew = Arc::new(Self {
            max_output_bytes: source.limits.native_output(&fleet.limits),
            order,
            source,
            onnxruntime,
            fleet: Arc::clone(fleet),
            signature: OnceLock::new(),
            worker_bytes: OnceLock::new(),
            state: Mutex::default(),
        });
        fleet.know(&crew);
        crew
    }

    pub fn signature(&self) -> &Signature {
        static NOTHING: Signature = Signature { inputs: Vec::new(), outputs: Vec::new() };
        // Set before `load` returned.
        self.signature.get().unwrap_or(&NOTHING)
    }

    /// Bytes of memory that a worker takes before its first call; 0 if that could not be seen.
    pub fn worker_bytes(&self) -> u64 {
        self.worker_bytes.get().copied().unwrap_or(0)
    }

    /// Queues a call.
    pub fn submit(self: &Arc<Self>, job: Job) -> Result<(), ExecuteError> {
        let mut state = self.lock();
        state.last_used = Some(Instant::now());
        // No member may look at what waits for as long as all of them start workers.
        state.weed();
        if state.is_paused(&job.tenant) {
            return Err(ExecuteError::Busy);
        }
        if state.waiting.len() >= self.fleet.limits.max_queued {
            return Err(ExecuteError::Busy);
        }
        state.waiting.push_back(job);
        if let Some(member) = state.idle.pop() {
            member.unpark();
        }
        let more = state.waiting.len() > state.members - state.busy && state.members < self.fleet.threads;
        if more {
            state.members += 1;
        }
        drop(state);
        if more {
            self.enlist(None);
        }
        Ok(())
    }

    /// Calls that nobody waits for go at once.
    pub fn forget_left(&self) {
        self.lock().waiting.retain(|job| !job.answer.is_closed());
    }

    /// Nobody calls the model any more.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.idle.drain(..).for_each(|member| member.unpark());
    }

    /// When it was last called, if a worker of it could go.
    pub fn idle_since(&self) -> Option<Option<Instant>> {
        let state = self.lock();
        (!state.idle.is_empty() && state.waiting.is_empty()).then_some(state.last_used)
    }

    /// Lets a worker go that is idle.
    pub fn dismiss(&self) {
        let mut state = self.lock();
        if !state.idle.is_empty() {
            state.leaving += 1;
            state.idle.remove(0).unpark();
        }
    }

    /// Lets the first worker go that has answered its call.
    pub fn recall(&self) {
        self.lock().recalled = 1;
    }

    /// Whether ONNX Runtime runs the model.
    pub fn is_onnx_runtime(&self) -> bool {
        self.onnxruntime.is_some()
    }

    pub fn owner(&self) -> &Owner {
        &self.source.owner
    }

    pub fn members(&self) -> Members {
        let state = self.lock();
        Members { serving: state.serving, leaving: state.leaving, recalled: state.recalled }
    }

    /// Starts the thread of a member that is counted already.
    fn enlist(self: &Arc<Self>, first: Option<mpsc::Sender<Result<(), LoadError>>>) {
        let member = Member { crew: Arc::clone(self), left: false };
        let started = thread::Builder::new().name("native-worker".into()).spawn(move || member.work(first));
        if let Err(error) = started {
            tracing::error!(model = self.order.label, "no thread for a worker: {error}");
        }
    }

    fn start(&self) -> Result<Worker, LoadError> {
        let begun = Instant::now();
        let started = self.start_and_load();
        let elapsed = begun.elapsed();
        self.lock().load_took = elapsed;
        if started.is_ok() {
            tracing::debug!(model = self.order.label, ?elapsed, "a worker is ready");
        }
        started
    }

    fn start_and_load(&self) -> Result<Worker, LoadError> {
        if self.fleet.memory.no_loads() {
            return Err(LoadError::transient(Step::Load, "the gateway is short of memory"));
        }
        let Isolated { program, limits, shared_bytes, load_time, .. } = &*self.fleet;
        let library = self.onnxruntime.as_deref();
        let mut worker = Worker::start(program, limits, *shared_bytes, library).map_err(|error| {
            tracing::debug!(program = %program.display(), "a worker cannot be started: {error}");
            LoadError::transient(Step::Load, format_args!("a worker process cannot be started: {error}"))
        })?;
        let signature = worker.load(&self.order, &self.source, *load_time)?;
        if self.signature.get_or_init(|| signature.clone()) != &signature {
            return Err(LoadError::new(Step::Load, "its worker says another signature than the one before"));
        }
        self.worker_bytes.get_or_init(|| worker.memory());
        Ok(worker)
    }

    /// The next call; `None` when the worker is to go. One that is `new` has a call first: two who want the same place would
    /// else start workers for each other to dismiss.
    fn next(&self, worker: &Worker, new: bool) -> Option<Job> {
        let mut state = self.lock();
        let (begun, mut rested) = (Instant::now(), false);
        let until = begun + self.fleet.limits.worker_idle;
        loop {
            state.weed();
            if state.leaving + state.recalled > 0 && (!new || state.waiting.is_empty()) {
                if state.leaving > 0 {
                    state.leaving -= 1;
                } else {
                    state.recalled -= 1;
                }
                return None;
            }
            if let Some(job) = state.waiting.pop_front() {
                state.busy += 1;
                return Some(job);
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() || (rested && self.fleet.memory.no_loads()) {
                return None;
            }
            state.idle.push(thread::current());
            drop(state);
            // Woken to see whether memory has become short.
            thread::park_timeout(left.min(REST_AFTER));
            state = self.lock();
            let count = state.idle.len();
            state.idle.retain(|member| member.id() != thread::current().id());
            // It is still there: nobody called.
            if state.idle.len() < count && !rested && begun.elapsed() >= REST_AFTER {
                rested = true;
                worker.rest();
            }
        }
    }

    /// Answers the first that waits for a worker that did not come up.
    fn give_up(&self, error: &LoadError) {
        let mut state = self.lock();
        state.weed();
        let Some(job) = state.waiting.pop_front() else { return };
        // What the machine could not do is neither the model's fault nor the caller's.
        let answer = if error.transient {
            ExecuteError::Busy
        } else {
            state.died(&job.tenant);
            let reason = "no worker process could be started for the model".to_owned();
            ExecuteError::Trapped { reason, detail: error.to_string() }
        };
        drop(state);
        self.tell(&job, error, "a worker did not come up");
        let _ = job.answer.send(Err(answer));
    }

    /// A line in the log, as far as the caller's allowance admits.
    fn tell(&self, job: &Job, error: &dyn fmt::Display, what: &str) {
        let error = error.to_string();
        if job.log.admits(&job.tenant, self.order.label.len() + error.len() + what.len()) {
            tracing::warn!(model = self.order.label, tenant = %job.tenant, error, "{what}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, and the counts are right at every point.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread, from when it is counted. It has one worker at a time.
struct Member {
    crew: Arc<Crew>,
    /// It is not counted any more.
    left: bool,
}

/// A member that runs a job, until it is dropped.
struct Busy<'a>(&'a Crew);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.lock().busy -= 1;
    }
}

/// A member that has a place, until it is dropped.
struct Serving<'a>(&'a Crew);

impl<'a> Serving<'a> {
    fn new(crew: &'a Crew) -> Self {
        crew.lock().serving += 1;
        Self(crew)
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.serving -= 1;
        // One that went for another reason leaves a place as well.
        state.leaving = state.leaving.min(state.serving);
        state.recalled = state.recalled.min(state.serving);
    }
}

/// Why a member goes on without its worker.
#[derive(PartialEq, Eq)]
enum Parted {
    /// It was let go.
    Dismissed,
    /// It ended or was ended, and the next one may be wanted soon.
    Died,
}

impl Member {
    fn work(mut self, mut first: Option<mpsc::Sender<Result<(), LoadError>>>) {
        let crew = Arc::clone(&self.crew);
        let begun = Instant::now();
        loop {
            let loading = first.is_some();
            let place = crew.fleet.place(&crew, || {
                if loading { begun.elapsed() < crew.fleet.load_time } else { self.is_wanted() }
            });
            let Some(_place) = place else {
                if let Some(first) = first {
                    let reason =
                        "all places for worker processes are taken; try again, or raise --native-workers";
                    let _ = first.send(Err(LoadError::transient(Step::Load, reason)));
                }
                return;
            };
            let _serving = Serving::new(&crew);
            loop {
                let worker = match (crew.start(), first.take()) {
                    (Ok(worker), first) => {
                        let heard = first.is_none_or(|first| first.send(Ok(())).is_ok());
                        if !heard {
                            return;
                        }
                        worker
                    }
                    (Err(error), Some(first)) => {
                        let _ = first.send(Err(error));
                        return;
                    }
                    (Err(error), None) => {
                        crew.give_up(&error);
                        break;
                    }
                };
                if crew.serve(worker) == Parted::Dismissed {
                    break;
                }
                // Whoever called may have left, or have to wait longer: the next call starts the next worker.
                if !self.is_wanted() {
                    return;
                }
            }
        }
    }

    /// Whether anybody waits for a worker. If nobody does this one is not counted from then on: a call that comes now gets
    /// another.
    fn is_wanted(&mut self) -> bool {
        let mut state = self.crew.lock();
        state.weed();
        let wanted = !state.closed && !state.waiting.is_empty();
        if !wanted && !self.left {
            state.members -= 1;
            self.left = true;
        }
        wanted
    }
}

impl Crew {
    /// Hands a worker one call after the other.
    fn serve(&self, mut worker: Worker) -> Parted {
        let mut new = true;
        loop {
            let Some(job) = self.next(&worker, new) else { return Parted::Dismissed };
            new = false;
            let busy = Busy(self);
            let ended = if worker.has_ended() {
                Ended::Unheard
            } else {
                let Job { request, tenant, deadline, consumed, answer, log: _ } = &job;
                let _time = consumed.on_this_thread();
                let task = Task { request, tenant, deadline: *deadline, consumed };
                let wanted = || !answer.is_closed();
                worker.run(&task, self.signature(), self.max_output_bytes, &wanted)
            };
            let mut state = self.lock();
            let (result, died) = match ended {
                Ended::Well(result) => {
                    state.deaths.remove(&job.tenant);
                    (result, false)
                }
                Ended::Unasked(error) => (Err(error), false),
                Ended::Unheard => {
                    // While it was idle: nothing of this call is lost. One that never lasts so long is paused all the same.
                    state.died(&job.tenant);
                    state.waiting.push_front(job);
                    drop(state);
                    drop(busy);
                    return Parted::Died;
                }
                // Killed because the time was over or the caller left, which says nothing of what the worker would have done.
                Ended::Badly(error @ ExecuteError::Deadline) => (Err(error), true),
                Ended::Badly(error) => {
                    state.died(&job.tenant);
                    (Err(error), true)
                }
            };
            drop(state);
            // First this: whoever hears of it may call again at once, and needs no other member.
            drop(busy);
            if died && let Err(error) = &result {
                self.tell(&job, error, "a worker is replaced");
            }
            let Job { answer, request, consumed, .. } = job;
            drop((request, consumed));
            let _ = answer.send(result);
            if died {
                return Parted::Died;
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        let mut state = self.crew.lock();
        state.members -= 1;
        if state.members == 0 {
            // Nobody is left to answer them.
            for job in std::mem::take(&mut state.waiting) {
                let _ = job.answer.send(Err(ExecuteError::Busy));
            }
        }
    }
}

#[cfg(test)]
mod tests;
