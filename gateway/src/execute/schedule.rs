//! Schedule: whose turn it is on the threads that run guests, by the processor time that each tenant has had.
//!
//! A run is a future that gives its thread up at every tick. Its first turn may be taken where the request is served, while
//! no tenant that had less is waiting and its tenant does not [crowd](crowd::Crowd) others out: a short call then costs no
//! change of threads. What needs more turns goes to threads of its own, which share the processor with those that serve and
//! yield to them. There the next turn is that of the tenant whose [clock](queue::Queue) is furthest behind. What a tenant
//! leaves unused is everybody's, and no debt of those who took it.
//!
//! What this does not share out: the time of decoding and encoding, and runs of the native engine, which have threads of
//! their own.

mod crowd;
mod queue;
mod reserve;
mod timed;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::Instant,
};

use async_task::Runnable;
use rustix::process::setpriority_process;
use tokio::runtime::Handle;

use super::Share;
use crate::{
    consumption::{Consumption, thread_nanos},
    name::TenantName,
};
use crowd::Crowd;
use queue::{Queue, TURN};
pub use reserve::Reserved;
use reserve::Turns;
use timed::Timed;

/// How much less than others a compute thread counts for the kernel: threads that serve go first whenever they have work.
const NICE: i32 = 5;

/// The threads, and what waits for them.
#[derive(Debug)]
pub struct Scheduler {
    shared: Arc<Shared>,
    /// Those that are taken where requests are served.
    turns: Arc<Turns>,
    crowd: Mutex<Crowd>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Runs in the queue, to be looked at without its lock.
    waiting: AtomicUsize,
    stopped: AtomicBool,
    work: Condvar,
    /// Tells relief threads that there may be something for them.
    stuck: Condvar,
}

#[derive(Debug)]
struct State {
    queue: Queue<Runnable>,
    /// Whose turn each thread takes, and since when: first those of compute threads, then as many of relief threads.
    turns: Vec<Option<(TenantName, Instant)>>,
    /// Relief threads that look at nothing until they are told to.
    asleep: usize,
}

impl State {
    /// Whether a relief thread is to begin to look: no compute thread is free for what waits.
    fn wants_relief(&self) -> bool {
        self.asleep > 0
            && self.queue.len() > 0
            && self.turns[..self.turns.len() / 2].iter().all(Option::is_some)
    }

    /// Whether every compute thread is in a turn that was to have ended: a bulk operation on a guest's memory, which is not
    /// interrupted.
    fn is_stuck(&self) -> bool {
        self.turns[..self.turns.len() / 2].iter().all(|turn| turn.as_ref().is_some_and(is_overdue))
    }

    /// The next run for a relief thread: of a tenant that does not hold up a thread.
    fn relief(&mut self) -> Option<(Arc<Share>, Runnable)> {
        if !self.is_stuck() {
            return None;
        }
        let Self { queue, turns, .. } = self;
        let overdue =
            |tenant: &TenantName| turns.iter().flatten().any(|turn| turn.0 == *tenant && is_overdue(turn));
        queue.pop_of(|tenant| !overdue(tenant))
    }
}

fn is_overdue((_, since): &(TenantName, Instant)) -> bool {
    since.elapsed() > 2 * TURN
}

/// Whether the last run of a model took longer than a turn: the next one then begins on the compute threads.
#[derive(Clone, Debug, Default)]
pub struct Habit(Arc<AtomicBool>);

impl Habit {
    fn is_long(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn note(&self, long: bool) {
        if self.is_long() != long {
            self.0.store(long, Ordering::Relaxed);
        }
    }
}

/// The run panicked, or the scheduler is gone.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run was lost")]
pub struct Lost;

impl Scheduler {
    /// Starts that many compute threads, and as many relief threads.
    ///
    /// # Errors
    /// If the kernel gives no more threads.
    pub fn new(threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { queue: Queue::default(), turns: vec![None; 2 * threads], asleep: 0 }),
            waiting: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            work: Condvar::new(),
            stuck: Condvar::new(),
        });
        let crowd = Mutex::new(Crowd::new(Instant::now()));
        let scheduler = Self { shared, turns: Arc::default(), crowd };
        for number in 0..2 * threads {
            let shared = Arc::clone(&scheduler.shared);
            // Not joined: a turn ends at the next tick, and nobody waits for it.
            thread::Builder::new().name(format!("guest-{number}")).spawn(move || shared.work(number))?;
        }
        Ok(scheduler)
    }

    /// Runs a future for a tenant, on compute threads if it needs more than a turn, and adds the time that it takes to what was
    /// consumed. Dropping what this returns stops it
    /// before its next turn; it is dropped on a compute thread then.
    ///
    /// # Errors
    /// [`Lost`] if it panics.
    pub async fn run<F>(
        &self,
        share: &Arc<Share>,
        habit: &Habit,
        nested: bool,
        consumed: Arc<Consumption>,
        run: F,
    ) -> Result<F::Output, Lost>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let mut run = Timed::new(run, consumed, habit.clone());
        // A guest that calls another one waits on its own thread already.
        if !nested
            && !habit.is_long()
            && let Some(turn) = self.turn_here(share)
        {
            let first = std::future::poll_fn(|context| {
                let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut run).poll(context)));
                Poll::Ready(polled.map_err(|_| Lost))
            });
            let first = first.await;
            drop(turn);
            self.crowd().took(share, run.took());
            if let Poll::Ready(output) = first? {
                return Ok(output);
            }
        }
        self.spawn(Arc::clone(share), run).await.ok_or(Lost)
    }

    /// A turn where the caller is, if no tenant that had less is waiting for one.
    fn turn_here<'a>(&'a self, share: &'a Share) -> Option<TurnHere<'a>> {
        if !self.crowd().admits(share, Instant::now()) {
            return None;
        }
        // One of the threads that serve stays free for the sockets, or in reserve.
        let most = Handle::current().metrics().num_workers().saturating_sub(1);
        let place = self.turns.begin(most).then(|| Here(&self.turns))?;
        if self.shared.waiting.load(Ordering::Relaxed) == 0 {
            return Some(TurnHere { _place: place, charged: None });
        }
        // Behind a turn that does not end, even who has had more would wait longer than is fair.
        let goes_first = {
            let state = self.shared.state();
            state.queue.goes_first(share) || state.is_stuck()
        };
        goes_first.then(|| TurnHere { _place: place, charged: Some((&self.shared, share, thread_nanos())) })
    }

    /// The turns that are taken where requests are served: to be looked at every tick.
    pub fn turns(&self) -> &Arc<Turns> {
        &self.turns
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn<F>(&self, share: Arc<Share>, run: F) -> async_task::FallibleTask<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let run = OnRuntime { runtime: Handle::current(), run: Box::pin(run) };
        let shared = Arc::clone(&self.shared);
        let (runnable, task) = async_task::spawn(run, move |runnable| shared.push(&share, runnable));
        runnable.schedule();
        task.fallible()
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // What waits holds the queue that it waits in.
        let waiting = self.shared.state().queue.clear();
        self.shared.work.notify_all();
        self.shared.stuck.notify_all();
        drop(waiting);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, share: &Arc<Share>, runnable: Runnable) {
        let mut state = self.state();
        if self.stopped.load(Ordering::Relaxed) {
            drop(state);
            return drop(runnable);
        }
        state.queue.push(Arc::clone(share), runnable);
        self.waiting.store(state.queue.len(), Ordering::Relaxed);
        let relief = state.wants_relief();
        drop(state);
        self.work.notify_one();
        if relief {
            self.stuck.notify_one();
        }
    }

    /// A compute thread, or a relief thread if its number is beyond those. Relief threads run only what would else wait for a
    /// turn that does not end, and none of the tenant whose turn that is: it gains nothing by holding a thread up.
    fn work(&self, number: usize) {
        // A gateway that may not do so is as fair, and slower to answer under load.
        let _ = setpriority_process(None, NICE);
        let mut state = self.state();
        let relieves = number >= state.turns.len() / 2;
        while !self.stopped.load(Ordering::Relaxed) {
            let next = if relieves { state.relief() } else { state.queue.pop() };
            let Some((share, runnable)) = next else {
                state = if !relieves {
                    self.work.wait(state).unwrap_or_else(PoisonError::into_inner)
                } else if state.queue.len() > 0 {
                    // Whether a turn does not end is seen after a while.
                    self.stuck.wait_timeout(state, TURN).unwrap_or_else(PoisonError::into_inner).0
                } else {
                    state.asleep += 1;
                    let mut woken = self.stuck.wait(state).unwrap_or_else(PoisonError::into_inner);
                    woken.asleep -= 1;
                    woken
                };
                continue;
            };
            self.waiting.store(state.queue.len(), Ordering::Relaxed);
            state.turns[number] = Some((share.tenant.clone(), Instant::now()));
            let relief = state.wants_relief();
            drop(state);
            if relief {
                self.stuck.notify_one();
            }
            let start = thread_nanos();
            // The task notes the panic, and whoever waits for it learns of it.
            let _ = catch_unwind(AssertUnwindSafe(|| runnable.run()));
            let used = thread_nanos().saturating_sub(start);
            state = self.state();
            state.turns[number] = None;
            state.queue.used(&share, used);
        }
    }
}

/// One of the turns that are taken where requests are served.
struct Here<'a>(&'a Turns);

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A turn that is being taken on this thread; charged to its tenant if others were waiting when it began.
struct TurnHere<'a> {
    _place: Here<'a>,
    charged: Option<(&'a Shared, &'a Share, u64)>,
}

impl Drop for TurnHere<'_> {
    fn drop(&mut self) {
        if let Some((shared, share, start)) = self.charged {
            shared.state().queue.used_elsewhere(share, thread_nanos().saturating_sub(start));
        }
    }
}

/// A future that finds the timers of the runtime that it came from.
struct OnRuntime<F> {
    runtime: Handle,
    run: Pin<Box<F>>,
}

impl<F: Future> Future for OnRuntime<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { runtime, run } = &mut *self;
        let _entered = runtime.enter();
        run.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests;
