//! The processor time of a run, turn by turn: fuel would be lost with a trap, and wall-clock time counts the neighbours'.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::{Habit, queue::TURN};
use crate::consumption::Consumption;

/// A guest's run, and how long it has taken so far. Each turn on a thread is billed when it ends, however it ends; so is the clean-up of a run that is
/// dropped between two turns.
///
/// Other models that the guest calls run as tasks of their own: a turn of the caller holds none of their time.
pub(super) struct Timed<F> {
    /// None once it has ended.
    run: Option<Pin<Box<F>>>,
    consumed: Arc<Consumption>,
    habit: Habit,
    took: Duration,
}

impl<F> Timed<F> {
    pub(super) fn new(run: F, consumed: Arc<Consumption>, habit: Habit) -> Self {
        Self { run: Some(Box::pin(run)), consumed, habit, took: Duration::ZERO }
    }

    pub(super) fn took(&self) -> Duration {
        self.took
    }
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { run, consumed, habit, took } = &mut *self;
        let turn = consumed.on_this_thread();
        let polled = run.as_mut().expect("not polled after its end").as_mut().poll(context);
        if polled.is_ready() {
            *run = None;
        }
        *took += Duration::from_nanos(turn.end());
        // Also of a run that is never seen to end, as of one that its deadline stops.
        if *took > TURN || polled.is_ready() {
            habit.note(*took > TURN);
        }
        polled
    }
}

impl<F> Drop for Timed<F> {
    fn drop(&mut self) {
        if self.run.is_some() {
            let _turn = self.consumed.on_this_thread();
            self.run = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn},
        panic::{AssertUnwindSafe, catch_unwind},
        task::Waker,
        time::Instant,
    };

    use super::*;

    /// Works, and gives its thread up in the middle.
    fn work() {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
    }

    struct WorksWhenDropped;

    impl Drop for WorksWhenDropped {
        fn drop(&mut self) {
            work();
        }
    }

    /// Polls once and drops; how much that was billed.
    fn billed(run: impl Future<Output = ()>) -> (bool, u64) {
        let consumed = Arc::new(Consumption::default());
        let mut timed = Timed::new(run, Arc::clone(&consumed), Habit::default());
        let poll = || Pin::new(&mut timed).poll(&mut Context::from_waker(Waker::noop()));
        let ended = catch_unwind(AssertUnwindSafe(poll)).is_ok_and(|poll| poll.is_ready());
        drop(timed);
        assert_eq!(Arc::strong_count(&consumed), 1);
        (ended, consumed.cpu_nanos())
    }

    /// Some of the five milliseconds may have gone to other threads.
    const SOME: u64 = 500_000;

    #[test]
    fn a_turn_counts_however_it_ends() {
        let (ended, used) = billed(async { work() });
        assert!(ended && used > SOME, "{used}");
        let (ended, used) = billed(poll_fn(|_| {
            work();
            Poll::Pending
        }));
        assert!(!ended && used > SOME, "{used}");
        let (ended, used) = billed(async {
            work();
            panic!("on purpose")
        });
        assert!(!ended && used > SOME, "{used}");
    }

    #[test]
    fn the_clean_up_of_what_was_dropped_counts() {
        let (ended, used) = billed(async {
            let _held = WorksWhenDropped;
            pending().await
        });
        assert!(!ended && used > SOME, "{used}");
    }
}
