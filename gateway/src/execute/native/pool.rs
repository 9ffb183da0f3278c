//! The compute threads: a bounded number of runs at a time, a bounded number that wait, and no panic that escapes.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{sync::oneshot, time::timeout_at};

use crate::{
    deadline::Deadline,
    execute::{ExecuteError, LoadError, Step},
    limits::NativeLimits,
};

/// Stack of a compute thread, in bytes. Only what is touched is ever backed by memory.
const STACK_BYTES: usize = 16 << 20;

/// Threads that run ONNX models, apart from those that serve sockets.
#[derive(Debug)]
pub struct Pool {
    threads: rayon::ThreadPool,
    /// Runs accepted and not yet ended, those that wait for a thread included.
    accepted: Arc<AtomicUsize>,
    max_accepted: usize,
}

impl Pool {
    pub fn new(limits: &NativeLimits) -> Result<Self, LoadError> {
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(limits.threads)
            .stack_size(STACK_BYTES)
            .thread_name(|index| format!("native-{index}"))
            .build()
            .map_err(|error| LoadError::new(Step::Load, format!("cannot start compute threads: {error}")))?;
        let max_accepted = threads.current_num_threads().saturating_add(limits.max_queued);
        Ok(Self { threads, accepted: Arc::default(), max_accepted })
    }

    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// Runs `work` on a compute thread. It is not started once the deadline passed or the caller dropped the future,
    /// and is handed a [`Watch`] to notice that while it runs.
    ///
    /// The answer comes at the deadline at the latest; work that does not look at its watch then ends unseen, and
    /// holds its thread until it does.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Deadline,
        work: impl FnOnce(&Watch) -> Result<T, ExecuteError> + Send + 'static,
    ) -> Result<T, ExecuteError> {
        if deadline.passed() {
            return Err(ExecuteError::Deadline);
        }
        let slot = self.accept()?;
        let (answer, answered) = oneshot::channel();
        let gone = Gone(answer);
        self.threads.spawn(move || {
            let gone_away = || gone.0.is_closed();
            let watch = Watch::new(deadline, &gone_away);
            let result = match watch.is_over() {
                true => Err(ExecuteError::Deadline),
                false => caught(|| work(&watch)).unwrap_or_else(|detail| Err(trapped(detail))),
            };
            // Freed before the caller hears of it, so that its next call finds the place.
            drop(slot);
            let _ = gone.0.send(result);
        });
        match timeout_at(deadline.instant().into(), answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(trapped("the compute thread went away".into())),
            Err(_) => Err(ExecuteError::Deadline),
        }
    }

    fn accept(&self) -> Result<Slot, ExecuteError> {
        self.accepted
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < self.max_accepted).then_some(n + 1))
            .map_err(|_| ExecuteError::Busy)?;
        Ok(Slot(Arc::clone(&self.accepted)))
    }
}

/// The sending end of an answer; closed once the caller dropped its future.
struct Gone<T>(oneshot::Sender<T>);

/// One accepted run; gives its place back when it is dropped.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells running work whether anybody still waits for it.
pub struct Watch<'a> {
    deadline: Deadline,
    gone: &'a dyn Fn() -> bool,
}

impl<'a> Watch<'a> {
    /// `gone` says whether whoever asked has left.
    pub fn new(deadline: Deadline, gone: &'a dyn Fn() -> bool) -> Self {
        Self { deadline, gone }
    }

    pub fn is_over(&self) -> bool {
        (self.gone)() || self.deadline.passed()
    }
}

/// Runs `work` and turns a panic into its message.
///
/// An abort is out of reach: memory that the allocator refuses in a `Vec`, or a stack that overflows, still ends the
/// process.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| message(payload.as_ref()))
}

fn message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

pub fn trapped(detail: String) -> ExecuteError {
    ExecuteError::Trapped { reason: "the native engine failed while it ran the model".into(), detail }
}
