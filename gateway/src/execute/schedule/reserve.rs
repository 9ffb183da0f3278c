//! A serving thread in reserve: it serves only while turns of guests hold all others and do not end.
//!
//! A thread that is free is woken whenever another one has more than one thing to do, and then takes half of it. Where there
//! are as many serving threads as cores, one more costs its wake-ups and its share of the processor and brings nothing,
//! unless the others are held up. So it sleeps in the middle of a task, where the runtime does not count it as free.
//!
//! It does not help against what holds up threads apart from turns that are taken [here](super::Scheduler::run).

use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{runtime::Handle, sync::Notify, task::yield_now};

/// Turns that are taken on threads that serve.
#[derive(Debug, Default)]
pub struct Turns {
    /// Those that are being taken.
    here: AtomicUsize,
    begun: AtomicUsize,
    /// How many had begun at the last look.
    seen: AtomicUsize,
    /// Threads that may be held; 0 before the first turn.
    most: AtomicUsize,
    reserve: Reserve,
}

#[derive(Debug, Default)]
struct Reserve {
    state: Mutex<State>,
    /// Tells the thread that is held.
    change: Condvar,
    /// Tells the task that serves: whichever thread runs it then is held next.
    dismissed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// A thread serves that was in reserve, or is about to.
    called: bool,
    /// A thread is held.
    holds: bool,
    /// It was not at the last look.
    fresh: bool,
    ended: bool,
    runtime: Option<Handle>,
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
    }

    /// Calls the thread in reserve if all others are held since the last look by the same turns, and sends one back when they
    /// are not. To be called at every tick, and not by a thread of the runtime.
    pub fn look(&self) {
        let begun = self.begun.load(Ordering::Relaxed);
        let most = self.most.load(Ordering::Relaxed);
        let held = most > 0 && self.here.load(Ordering::Relaxed) >= most;
        let same = self.seen.swap(begun, Ordering::Relaxed) == begun;
        self.reserve.look(held && same);
    }

    #[cfg(test)]
    pub fn here(&self) -> usize {
        self.here.load(Ordering::Relaxed)
    }

    /// Takes a thread of the current runtime into reserve, until the returned value is dropped. The runtime has to have
    /// another one.
    pub fn keep_reserve(self: &Arc<Self>) -> Reserved {
        let turns = Arc::clone(self);
        turns.reserve.state().runtime = Some(Handle::current());
        tokio::spawn(async move {
            loop {
                // A task that was woken last may wait for this very thread, and no other would take it over. So that one goes first.
                yield_now().await;
                if !turns.reserve.hold() {
                    return;
                }
                turns.reserve.dismissed.notified().await;
            }
        });
        Reserved(Arc::clone(self))
    }
}

impl Reserve {
    /// Holds the thread until it is called; false if the reserve ends.
    fn hold(&self) -> bool {
        let mut state = self.state();
        (state.holds, state.fresh) = (true, true);
        while !state.ended && !state.called {
            state = self.change.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.holds = false;
        !state.ended
    }

    fn look(&self, needed: bool) {
        let mut state = self.state();
        if state.called != needed {
            state.called = needed;
            if needed { self.change.notify_one() } else { self.dismissed.notify_one() }
        }
        if std::mem::take(&mut state.fresh)
            && let Some(runtime) = &state.runtime
        {
            // The thread that is held may be the one that waited for the sockets, or may have more to run. The runtime wakes
            // another one for a task that comes from outside, and that takes over both.
            runtime.spawn(async {});
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
        let reserve = &self.0.reserve;
        let mut state = reserve.state();
        (state.ended, state.runtime) = (true, None);
        reserve.dismissed.notify_one();
        reserve.change.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        sync::mpsc::{self, RecvTimeoutError},
        thread,
        time::{Duration, Instant},
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        runtime::Builder,
    };

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
        let looks_until_held = || {
            wait_until(|| {
                turns.look();
                turns.reserve.state().holds
            });
        };
        for _ in 0..3 {
            looks_until_held();
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
        looks_until_held();
        for _ in 0..3 {
            turns.look();
        }
        assert!(turns.reserve.state().holds, "no turn holds anybody up");
        drop(reserved);
        let begun = Instant::now();
        runtime.shutdown_timeout(LONG);
        assert!(begun.elapsed() < LONG / 2, "it ends with the runtime");
    }

    /// A turn ends in the task that answers, and whichever thread then goes into reserve may be the one that waited for sockets,
    /// or that has more to run.
    #[test]
    fn sockets_are_served_whichever_thread_goes_into_reserve() {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("it starts");
        let turns = Arc::<Turns>::default();
        let reserved = runtime.block_on(async { turns.keep_reserve() });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("it has one")).expect("it listens");
        client.set_read_timeout(Some(LONG)).expect("it takes one");
        let (server, _) = listener.accept().expect("the client is there");
        server.set_nonblocking(true).expect("it can be");
        let own = Arc::clone(&turns);
        runtime.spawn(async move {
            let mut server = tokio::net::TcpStream::from_std(server).expect("a socket");
            loop {
                let looks = server.read_u8().await.expect("the client is there");
                assert!(own.begin(1));
                // In every other turn it is called when it is no longer needed.
                (0..looks).for_each(|_| own.look());
                own.end();
                server.write_u8(looks).await.expect("the client is there");
            }
        });
        let (stop, stopped) = mpsc::channel::<()>();
        let own = Arc::clone(&turns);
        let ticker = thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
                own.look();
            }
        });
        for round in 0..200_u8 {
            let looks = 2 * (round % 2);
            client.write_all(&[looks]).expect("the server is there");
            let mut answer = [0];
            client.read_exact(&mut answer).unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert_eq!(answer, [looks]);
            thread::sleep(Duration::from_millis(u64::from(round % 4)));
        }
        stop.send(()).expect("the ticker listens");
        ticker.join().expect("it looked");
        drop(reserved);
    }
}
