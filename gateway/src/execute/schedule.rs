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

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use async_task::Runnable;
use rustix::process::setpriority_process;
use tokio::runtime::Handle;

use super::Share;
use crate::consumption::thread_nanos;
use crowd::Crowd;
use queue::{Queue, TURN};

/// How much less than others a compute thread counts for the kernel: threads that serve go first whenever they have work.
const NICE: i32 = 5;

/// The threads, and what waits for them.
#[derive(Debug)]
pub struct Scheduler {
    shared: Arc<Shared>,
    /// Turns that are being taken where requests are served.
    here: AtomicUsize,
    crowd: Mutex<Crowd>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue<Runnable>>,
    /// Since when each compute thread takes its turn, in nanoseconds after `began`; 0 between two turns.
    turns: Vec<AtomicU64>,
    began: Instant,
    /// Runs in the queue, to be looked at without its lock.
    waiting: AtomicUsize,
    stopped: AtomicBool,
    work: Condvar,
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
    /// Starts that many compute threads.
    ///
    /// # Errors
    /// If the kernel gives no more threads.
    pub fn new(threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            turns: (0..threads).map(|_| AtomicU64::new(0)).collect(),
            began: Instant::now(),
            waiting: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            work: Condvar::new(),
        });
        let crowd = Mutex::new(Crowd::new(Instant::now()));
        let scheduler = Self { shared, here: AtomicUsize::new(0), crowd };
        for number in 0..threads {
            let shared = Arc::clone(&scheduler.shared);
            // Not joined: a turn ends at the next tick, and nobody waits for it.
            thread::Builder::new().name(format!("guest-{number}")).spawn(move || shared.work(number))?;
        }
        Ok(scheduler)
    }

    /// Runs a future for a tenant, on compute threads if it needs more than a turn. Dropping what this returns stops it
    /// before its next turn; it is dropped on a compute thread then.
    ///
    /// # Errors
    /// [`Lost`] if it panics.
    pub async fn run<F>(
        &self,
        share: &Arc<Share>,
        habit: &Habit,
        nested: bool,
        run: F,
    ) -> Result<F::Output, Lost>
    where
        F: Future + Send + Unpin + 'static,
        F::Output: Send,
    {
        let mut run = Watched { run, habit: habit.clone(), took: Duration::ZERO };
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
            self.crowd().took(share, run.took);
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
        // One of the threads that serve stays free for the sockets.
        let max = Handle::current().metrics().num_workers().saturating_sub(1);
        let taken = |here: usize| (here < max).then_some(here + 1);
        self.here.try_update(Ordering::Relaxed, Ordering::Relaxed, taken).ok()?;
        let place = Here(&self.here);
        if self.shared.waiting.load(Ordering::Relaxed) == 0 {
            return Some(TurnHere { _place: place, charged: None });
        }
        // Behind a turn that does not end, even who has had more would wait longer than is fair.
        let goes_first = self.shared.queue().goes_first(share) || self.shared.is_stuck();
        goes_first.then(|| TurnHere { _place: place, charged: Some((&self.shared, share, thread_nanos())) })
    }

    fn crowd(&self) -> std::sync::MutexGuard<'_, Crowd> {
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
        let waiting = self.shared.queue().clear();
        self.shared.work.notify_all();
        drop(waiting);
    }
}

impl Shared {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue<Runnable>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, share: &Arc<Share>, runnable: Runnable) {
        let mut queue = self.queue();
        if self.stopped.load(Ordering::Relaxed) {
            drop(queue);
            return drop(runnable);
        }
        queue.push(Arc::clone(share), runnable);
        self.waiting.store(queue.len(), Ordering::Relaxed);
        drop(queue);
        self.work.notify_one();
    }

    /// Whether every compute thread is in a turn that was to have ended: a bulk operation on a guest's memory, which is not
    /// interrupted.
    fn is_stuck(&self) -> bool {
        let now = self.nanos();
        let overdue = 2 * u64::try_from(TURN.as_nanos()).unwrap_or(u64::MAX);
        self.turns.iter().all(|since| match since.load(Ordering::Relaxed) {
            0 => false,
            since => now.saturating_sub(since) > overdue,
        })
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    /// A compute thread.
    fn work(&self, number: usize) {
        // A gateway that may not do so is as fair, and slower to answer under load.
        let _ = setpriority_process(None, NICE);
        let mut queue = self.queue();
        while !self.stopped.load(Ordering::Relaxed) {
            let Some((share, runnable)) = queue.pop() else {
                queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            self.waiting.store(queue.len(), Ordering::Relaxed);
            drop(queue);
            let start = thread_nanos();
            self.turns[number].store(self.nanos(), Ordering::Relaxed);
            // The task notes the panic, and whoever waits for it learns of it.
            let _ = catch_unwind(AssertUnwindSafe(|| runnable.run()));
            self.turns[number].store(0, Ordering::Relaxed);
            let used = thread_nanos().saturating_sub(start);
            queue = self.queue();
            queue.used(&share, used);
        }
    }
}

/// One of the turns that are taken where requests are served.
struct Here<'a>(&'a AtomicUsize);

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
            shared.queue().used_elsewhere(share, thread_nanos().saturating_sub(start));
        }
    }
}

/// A run that notes how long it takes, also if it is never seen to end: as with one that its deadline stops.
struct Watched<F> {
    run: F,
    habit: Habit,
    took: Duration,
}

impl<F: Future + Unpin> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Of the processor, not of the clock: a run that others kept waiting is not a long one.
        let start = thread_nanos();
        let polled = Pin::new(&mut self.run).poll(context);
        self.took += Duration::from_nanos(thread_nanos().saturating_sub(start));
        if self.took > TURN || polled.is_ready() {
            self.habit.note(self.took > TURN);
        }
        polled
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
