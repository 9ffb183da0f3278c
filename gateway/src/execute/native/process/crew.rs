//! The workers of one loaded version: as many as its calls need at a time, each with a thread of the gateway that started it,
//! hands it one call after the other, and replaces it when it dies.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    consumption::Consumption,
    deadline::Deadline,
    execute::{ExecuteError, LoadError, Source, Step},
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
    max_output_bytes: usize,
    fleet: Arc<Isolated>,
    signature: OnceLock<Signature>,
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
    /// Members that are to let their worker go before they take another job, because others need its place.
    dismissed: usize,
    last_used: Option<Instant>,
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
    /// What a call of this tenant is told while it may end no more workers.
    fn paused(&self, tenant: &TenantName) -> Option<ExecuteError> {
        let deaths = self.deaths.get(tenant)?;
        let paused = deaths.paused_until.is_some_and(|until| until > Instant::now());
        paused.then(|| ExecuteError::Trapped {
            reason: "the model's worker processes end again and again; it can be called again in a moment"
                .to_owned(),
            detail: format!("{} ended in a row", deaths.in_a_row),
        })
    }

    /// Notes that a call of this tenant ended a worker.
    fn died(&mut self, tenant: &TenantName) {
        let deaths = self.deaths.entry(tenant.clone()).or_default();
        deaths.in_a_row = deaths.in_a_row.saturating_add(1);
        if let Some(more) = deaths.in_a_row.checked_sub(FREE_DEATHS + 1) {
            let pause = FIRST_PAUSE.saturating_mul(1 << more.min(16)).min(LONGEST_PAUSE);
            deaths.paused_until = Some(Instant::now() + pause);
        }
    }
}

/// One call, on its way to a worker.
pub struct Job {
    pub request: InferRequest,
    /// Whose call it is, which need not be whose model it is.
    pub tenant: TenantName,
    pub deadline: Deadline,
    pub consumed: Arc<Consumption>,
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
    pub fn load(fleet: &Arc<Isolated>, order: Load, source: Source) -> Result<Arc<Self>, LoadError> {
        let max_output_bytes = source.limits.native_output(&fleet.limits);
        let crew = Arc::new(Self {
            order,
            source,
            max_output_bytes,
            fleet: Arc::clone(fleet),
            signature: OnceLock::new(),
            state: Mutex::default(),
        });
        fleet.know(&crew);
        let (loaded, result) = mpsc::channel();
        crew.lock().members += 1;
        crew.enlist(Some(loaded));
        let ended = || Err(LoadError::new(Step::Load, "the thread of its worker ended"));
        result.recv().unwrap_or_else(|_| ended())?;
        Ok(crew)
    }

    pub fn signature(&self) -> &Signature {
        static NOTHING: Signature = Signature { inputs: Vec::new(), outputs: Vec::new() };
        // Set before `load` returned.
        self.signature.get().unwrap_or(&NOTHING)
    }

    /// Queues a call.
    pub fn submit(self: &Arc<Self>, job: Job) -> Result<(), ExecuteError> {
        let mut state = self.lock();
        state.last_used = Some(Instant::now());
        if let Some(paused) = state.paused(&job.tenant) {
            return Err(paused);
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

    /// Lets one worker go: one that is idle, or else the first that has answered its call.
    pub fn dismiss(&self) {
        let mut state = self.lock();
        if !state.idle.is_empty() {
            state.dismissed += 1;
            state.idle.remove(0).unpark();
        } else if state.dismissed == 0 {
            state.dismissed = 1;
        }
    }

    pub fn owner(&self) -> &Owner {
        &self.source.owner
    }

    pub fn members(&self) -> usize {
        self.lock().members
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
        let Isolated { program, limits, shared_bytes, load_time, .. } = &*self.fleet;
        let mut worker = Worker::start(program, limits, *shared_bytes).map_err(|error| {
            tracing::error!(program = %program.display(), "a worker cannot be started: {error}");
            LoadError::new(Step::Load, format_args!("a worker process cannot be started: {error}"))
        })?;
        let signature = worker.load(&self.order, &self.source, *load_time)?;
        if self.signature.get_or_init(|| signature.clone()) != &signature {
            return Err(LoadError::new(Step::Load, "its worker says another signature than the one before"));
        }
        tracing::debug!(model = self.order.label, elapsed = ?begun.elapsed(), "a worker is ready");
        Ok(worker)
    }

    /// The next call; `None` when the worker is to go. One that is `new` has a call first: two who want the same place would
    /// else start workers for each other to dismiss.
    fn next(&self, worker: &Worker, new: bool) -> Option<Job> {
        let mut state = self.lock();
        let (begun, mut rested) = (Instant::now(), false);
        let until = begun + self.fleet.limits.worker_idle;
        loop {
            if state.dismissed > 0 && (!new || state.waiting.is_empty()) {
                state.dismissed -= 1;
                return None;
            }
            while let Some(job) = state.waiting.pop_front() {
                if let Some(paused) = state.paused(&job.tenant) {
                    let _ = job.answer.send(Err(paused));
                } else if !job.answer.is_closed() {
                    state.busy += 1;
                    return Some(job);
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                return None;
            }
            let wait = if rested { left } else { left.min(REST_AFTER) };
            state.idle.push(thread::current());
            drop(state);
            thread::park_timeout(wait);
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
        tracing::warn!(model = self.order.label, %error, "a worker did not come up");
        let mut state = self.lock();
        if let Some(job) = state.waiting.pop_front() {
            state.died(&job.tenant);
            let reason = "no worker process could be started for the model".to_owned();
            let _ = job.answer.send(Err(ExecuteError::Trapped { reason, detail: error.to_string() }));
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
        loop {
            let loading = first.is_some();
            let place = crew.fleet.place(crew.owner(), || loading || self.is_wanted());
            let Some(_place) = place else { return };
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
            }
        }
    }

    /// Whether anybody waits for a worker. If nobody does this one is not counted from then on: a call that comes now gets
    /// another.
    fn is_wanted(&mut self) -> bool {
        let mut state = self.crew.lock();
        state.waiting.retain(|job| !job.answer.is_closed());
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
                let Job { request, tenant, deadline, consumed, answer } = &job;
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
                Ended::Badly(error) => {
                    tracing::warn!(model = self.order.label, %error, "a worker is replaced");
                    state.died(&job.tenant);
                    (Err(error), true)
                }
            };
            drop(state);
            // First this: whoever hears of it may call again at once, and needs no other member.
            drop(busy);
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
