//! Dynamic batching: requests for one model that wait at the same time run as one.
//!
//! A request waits until as many rows are there as the largest batch has, or for the time that the model's configuration says; and
//! then for as long as batches of the model run on all compute threads. Who goes into a batch is chosen by turns of the tenants, by
//! rows. What goes wrong with a batch goes wrong with each of its requests alone, and only with those that are at fault.
//!
//! Only for models that the gateway runs in its own process: in a sandbox or a worker, requests are kept apart on purpose. A
//! model may answer a row with other rounding when it stands among others.

mod merge;
mod waiting;

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, oneshot},
    task::spawn_blocking,
    time::timeout_at,
};

use crate::{
    consumption::{Consumption, thread_nanos},
    deadline::Deadline,
    execute::{Batching, Call, ExecuteError, check_outputs},
    name::TenantName,
    tensor::{InferRequest, InferResponse},
};

use super::{
    Engine, Model,
    pool::{Watch, caught, trapped},
};
use merge::{merge, split};
use waiting::{Sizes, Waiting};

/// The requests of one model that wait to be batched.
pub(super) struct Batcher {
    model: Arc<Model>,
    engine: Arc<Engine>,
    batching: Batching,
    sizes: Sizes,
    waiting: Mutex<Waiting>,
    /// As many rows wait as the largest batch has.
    full: Condvar,
    /// Batches that run at a time: one for each compute thread.
    places: Arc<Semaphore>,
    /// An output of the model has not as many rows as its inputs: from now on nothing is batched.
    unfit: AtomicBool,
    /// Tenants whose requests spoilt a batch, and until when theirs run alone: else who sends nothing but faulty ones would have
    /// everybody's requests run twice.
    apart: Mutex<HashMap<TenantName, Instant>>,
}

/// Time for which a tenant that spoilt a batch is kept apart: so it spoils few of them in a second, and loses little by a mistake.
const APART: Duration = Duration::from_millis(500);

/// Time from the end of a wait until its batch runs, where threads are free and the processor was idle.
const WAKING: Duration = Duration::from_micros(500);

/// A request that waits.
pub(super) struct Member {
    request: InferRequest,
    /// The first dimension of its inputs.
    rows: u64,
    tenant: TenantName,
    since: Instant,
    deadline: Deadline,
    consumed: Arc<Consumption>,
    answer: oneshot::Sender<Answer>,
}

type Answer = Result<InferResponse, ExecuteError>;

impl Batcher {
    /// For a model whose inputs and outputs all have a first dimension that varies; makes the plans for all sizes of batches.
    pub(super) fn new(model: Arc<Model>, engine: Arc<Engine>, batching: Batching) -> Self {
        let sizes = Sizes::new(&batching);
        sizes.all().for_each(|rows| model.prepare(rows));
        let places = Arc::new(Semaphore::new(engine.pool.threads()));
        Self {
            model,
            engine,
            batching,
            sizes,
            waiting: Mutex::default(),
            full: Condvar::new(),
            places,
            unfit: AtomicBool::new(false),
            apart: Mutex::default(),
        }
    }

    /// Whether a tenant's request may run together with others: all its inputs have as many rows, and no more than a batch.
    pub(super) fn rows_of(&self, request: &InferRequest, tenant: &TenantName) -> Option<u64> {
        let mut rows = request.inputs.iter().map(|input| input.shape.first().copied());
        let first = rows.next()??;
        let fits = (1..=self.sizes.largest()).contains(&first)
            && rows.all(|rows| rows == Some(first))
            && request.parameters.is_empty()
            && !self.unfit.load(Ordering::Relaxed)
            && self.apart().get(tenant).is_none_or(|until| *until <= Instant::now());
        fits.then_some(first)
    }

    pub(super) async fn infer(self: &Arc<Self>, request: InferRequest, rows: u64, call: Call) -> Answer {
        let deadline = call.deadline.first();
        let (answer, answered) = oneshot::channel();
        let tenant = call.share.tenant.clone();
        let member = Member {
            request,
            rows,
            tenant,
            since: Instant::now(),
            deadline,
            consumed: call.consumed,
            answer,
        };
        let (begins, full) = {
            let mut waiting = self.waiting();
            waiting.add(member);
            (waiting.begin(), waiting.rows() >= self.sizes.largest())
        };
        if begins {
            tokio::spawn(Arc::clone(self).form());
        } else if full {
            self.full.notify_one();
        }
        match timeout_at(deadline.instant().into(), answered).await {
            Ok(answered) => answered.unwrap_or(Err(ExecuteError::Busy)),
            Err(_) => Err(ExecuteError::Deadline),
        }
    }

    /// Forms batches until nobody waits.
    async fn form(self: Arc<Self>) {
        loop {
            let Some(oldest) = self.waiting().oldest() else { return };
            if !self.batching.delay.is_zero() {
                let own = Arc::clone(&self);
                // On a thread of its own: the runtime's timer would be late by one or two milliseconds.
                let _ = spawn_blocking(move || own.gather(oldest)).await;
            }
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            let batch = self.waiting().take(&self.sizes);
            if !batch.is_empty() {
                let own = Arc::clone(&self);
                tokio::spawn(async move {
                    own.run(batch).await;
                    drop(place);
                });
            }
        }
    }

    /// Waits until a batch is full, or until the first of those who wait has done so for the configured delay, less what it takes
    /// to wake up. Blocks.
    fn gather(&self, oldest: Instant) {
        let delay = self.batching.delay;
        let until = oldest + delay.saturating_sub(WAKING.min(delay / 2));
        let mut waiting = self.waiting();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || waiting.rows() >= self.sizes.largest() {
                return;
            }
            waiting = self.full.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Runs a batch on a compute thread, and tells each of its requests. Those of one that finds no thread learn it by being
    /// dropped.
    async fn run(&self, batch: Vec<Member>) {
        let Some(latest) = batch.iter().map(|member| member.deadline).max() else { return };
        let (model, sizes) = (Arc::clone(&self.model), self.sizes.clone());
        let ran = self.engine.pool.run(latest, move |_| Ok(answer_all(&model, &sizes, batch)));
        let Ok(told) = ran.await else { return };
        if !told.at_fault.is_empty() {
            let now = Instant::now();
            let mut apart = self.apart();
            apart.retain(|_, until| *until > now);
            apart.extend(told.at_fault.into_iter().map(|tenant| (tenant, now + APART)));
        }
        if !told.fits {
            tracing::warn!(model = %self.model.label, "its outputs do not have a row for each of its inputs': it is not batched");
            self.unfit.store(true, Ordering::Relaxed);
        }
    }

    fn apart(&self) -> MutexGuard<'_, HashMap<TenantName, Instant>> {
        self.apart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while the lock is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a batch showed.
struct Told {
    /// The model can be batched.
    fits: bool,
    /// Whose requests failed alone, after all of them had failed together.
    at_fault: Vec<TenantName>,
}

/// Runs all at once, and each alone if that does not work.
fn answer_all(model: &Model, sizes: &Sizes, batch: Vec<Member>) -> Told {
    let mut told = Told { fits: true, at_fault: Vec::new() };
    let together = batch.len() > 1;
    if together {
        let start = thread_nanos();
        let ran = caught(|| run_together(model, sizes, &batch)).unwrap_or_else(|panic| Err(trapped(panic)));
        let used = thread_nanos().saturating_sub(start);
        let rows: u64 = batch.iter().map(|member| member.rows).sum();
        for (index, member) in batch.iter().enumerate() {
            member.consumed.nanos(used / rows * member.rows);
            if matches!(ran, Ok(Some(_))) {
                member.consumed.in_batch(rows, index == 0);
            }
        }
        match ran {
            Ok(Some(responses)) => {
                for (member, response) in batch.into_iter().zip(responses) {
                    let _ = member.answer.send(response);
                }
                return told;
            }
            Ok(None) => told.fits = false,
            // Whose fault it is shows when each runs alone.
            Err(_) => {}
        }
    }
    for member in batch {
        let tenant = member.tenant.clone();
        let failed = !answer_one(model, member);
        if failed && together && told.fits {
            told.at_fault.push(tenant);
        }
    }
    told
}

/// The answers of all, in order; `None` if the outputs cannot be told apart.
fn run_together(model: &Model, sizes: &Sizes, batch: &[Member]) -> Result<Option<Vec<Answer>>, ExecuteError> {
    let left = || batch.iter().all(|member| member.answer.is_closed());
    let latest = batch.iter().map(|member| member.deadline).max();
    let watch = Watch::new(latest.unwrap_or_else(|| Deadline::after(Duration::ZERO)), &left);
    let requests: Vec<&InferRequest> = batch.iter().map(|member| &member.request).collect();
    let rows: Vec<u64> = batch.iter().map(|member| member.rows).collect();
    let padded = sizes.padded(rows.iter().sum());
    let Some(merged) = merge(&requests, padded) else { return Ok(None) };
    let response = model.infer(merged, &watch)?;
    let Some(parts) = split(response, &rows, padded) else { return Ok(None) };
    let signature = &model.graph.signature;
    let asked =
        |(part, request): (InferResponse, &&InferRequest)| check_outputs(signature, &request.outputs, part);
    Ok(Some(parts.into_iter().zip(&requests).map(asked).collect()))
}

/// `false` if the request itself is to blame for having no answer.
fn answer_one(model: &Model, member: Member) -> bool {
    let Member { request, deadline, consumed, answer, .. } = member;
    let result = {
        let left = || answer.is_closed();
        let watch = Watch::new(deadline, &left);
        let _time = consumed.on_this_thread();
        match watch.is_over() {
            true => Err(ExecuteError::Deadline),
            false => caught(|| model.infer(request, &watch)).unwrap_or_else(|panic| Err(trapped(panic))),
        }
    };
    drop(consumed);
    let good = matches!(result, Ok(_) | Err(ExecuteError::Deadline));
    let _ = answer.send(result);
    good
}

#[cfg(test)]
mod tests;
