//! A serving thread in reserve: it serves only while turns of guests hold all others and do not end.
//!
//! A thread that is free is woken whenever another one has more than one thing to do, and then takes half of it. Where there
//! are as many serving threads as cores, one more costs its wake-ups and its share of the processor and brings nothing,
//! unless the others are held up. So it sleeps in the middle of a task, where the runtime does not count it as free.
//!
//! It does not help against what holds up threads apart from turns that are taken [here](super::Scheduler::run).

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

/// Turns that are taken on threads that serve.
#[derive(Debug, Default)]
pub struct Turns {
    /// Those that are being taken.
    here: AtomicUsize,
    begun: AtomicUsize,
    /// How many had begun, and how many threads were held, at the last look.
    seen: AtomicUsize,
    /// Threads that may be held; 0 before the first turn.
    most: AtomicUsize,
    reserve: Reserve,
}

#[derive(Debug, Default)]
struct Reserve {
    /// It serves, or is about to.
    called: AtomicBool,
    state: Mutex<State>,
    change: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// A thread is held.
    holds: bool,
    ended: bool,
    /// Of its task, while it serves.
    waker: Option<Waker>,
}

impl Turns {
    /// Begins a turn, if fewer than `most` threads are held.
    pub fn begin(&self, most: usize) -> bool {
        self.most.store(most, Ordering::Relaxed);
        let more = |here: usize| (here < most).then_some(here + 1);
        let began = self.here.try_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if began {
            self.begun.fetch_add(1, Ordering::Relaxed);
        }
        began
    }

    pub fn end(&self) {
        self.here.fetch_sub(1, Ordering::Relaxed);
        if self.reserve.called.load(Ordering::Relaxed) {
            self.reserve.dismiss();
        }
    }

    /// Calls the thread in reserve if all others are held since the last look by the same turns. To be called at every tick.
    pub fn look(&self) {
        let begun = self.begun.load(Ordering::Relaxed);
        let most = self.most.load(Ordering::Relaxed);
        let held = most > 0 && self.here.load(Ordering::Relaxed) >= most;
        if self.seen.swap(begun, Ordering::Relaxed) == begun && held {
            self.reserve.call();
        }
    }

    #[cfg(test)]
    pub fn here(&self) -> usize {
        self.here.load(Ordering::Relaxed)
    }

    /// Takes a thread of the current runtime into reserve, until the returned value is dropped. The runtime has to have
    /// another one.
    pub fn keep_reserve(self: &Arc<Self>) -> Reserved {
        let turns = Arc::clone(self);
        tokio::spawn(std::future::poll_fn(move |context| turns.reserve.wait(context)));
        Reserved(Arc::clone(self))
    }
}

impl Reserve {
    /// Holds the thread until it is called or the reserve ends.
    fn wait(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        state.holds = true;
        while !state.ended && !self.called.load(Ordering::Relaxed) {
            state = self.change.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.holds = false;
        state.waker = Some(context.waker().clone());
        if state.ended { Poll::Ready(()) } else { Poll::Pending }
    }

    fn call(&self) {
        let _state = self.state();
        self.called.store(true, Ordering::Relaxed);
        self.change.notify_one();
    }

    /// Some thread goes back into reserve: whichever comes to it first.
    fn dismiss(&self) {
        let mut state = self.state();
        if let Some(waker) = state.waker.take() {
            self.called.store(false, Ordering::Relaxed);
            waker.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread in reserve.
#[derive(Debug)]
pub struct Reserved(Arc<Turns>);

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut state = self.0.reserve.state();
        state.ended = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        self.0.reserve.change.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        thread,
        time::{Duration, Instant},
    };

    use tokio::runtime::Builder;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    fn wait_until(what: impl Fn() -> bool) {
        let begun = Instant::now();
        while !what() {
            assert!(begun.elapsed() < LONG);
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn the_thread_in_reserve_serves_while_a_turn_holds_the_other_one() {
        let runtime = Builder::new_multi_thread().worker_threads(2).build().expect("it starts");
        let turns = Arc::<Turns>::default();
        let reserved = runtime.block_on(async { turns.keep_reserve() });
        for _ in 0..3 {
            wait_until(|| turns.reserve.state().holds);
            let ((begun, begins), (tell, told)) = (mpsc::channel(), mpsc::channel());
            let own = Arc::clone(&turns);
            runtime.spawn(async move {
                assert!(own.begin(1) && !own.begin(1));
                begun.send(()).expect("the test listens");
                let _ = told.recv_timeout(LONG);
                own.end();
            });
            begins.recv_timeout(LONG).expect("it begins");
            let (done, ran) = mpsc::channel();
            runtime.spawn(async move { done.send(()) });
            turns.look();
            assert!(ran.recv_timeout(Duration::from_millis(50)).is_err(), "the turn had only begun");
            turns.look();
            ran.recv_timeout(LONG).expect("a thread serves");
            tell.send(()).expect("the turn goes on");
        }
        wait_until(|| turns.reserve.state().holds);
        for _ in 0..3 {
            turns.look();
        }
        assert!(turns.reserve.state().holds, "no turn holds anybody up");
        drop(reserved);
        let begun = Instant::now();
        runtime.shutdown_timeout(LONG);
        assert!(begun.elapsed() < LONG / 2, "it ends with the runtime");
    }
}
