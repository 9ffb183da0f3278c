//! A generator that never sleeps: who sleeps on one core has to be woken by who answers on the other. Over loopback that is
//! the server's processor time, some microseconds a request, and the more of it the slower the server is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::{JoinHandle, yield_now};

/// What a look at all sockets takes at most if there is nothing on any.
const LOOK: Duration = Duration::from_micros(2);

/// Keeps the thread of a runtime that has but one awake, until it is dropped.
#[derive(Debug)]
pub struct Awake {
    idle: Arc<AtomicU64>,
    looks: JoinHandle<()>,
}

impl Awake {
    pub fn keep() -> Self {
        let idle = Arc::<AtomicU64>::default();
        let own = Arc::clone(&idle);
        let looks = tokio::spawn(async move {
            let mut last = Instant::now();
            loop {
                yield_now().await;
                let passed = last.elapsed();
                if passed < LOOK {
                    own.fetch_add(u64::try_from(passed.as_nanos()).unwrap_or(0), Ordering::Relaxed);
                }
                last += passed;
            }
        });
        Self { idle, looks }
    }

    /// Time so far in which there was nothing to do.
    pub fn idle(&self) -> Duration {
        Duration::from_nanos(self.idle.load(Ordering::Relaxed))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.looks.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_is_idle_and_work_is_not() {
        let awake = Awake::keep();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let waited = awake.idle();
        assert!(waited > Duration::from_millis(10), "{waited:?}");
        std::thread::sleep(Duration::from_millis(100));
        yield_now().await;
        assert!(awake.idle() - waited < Duration::from_millis(50));
    }
}
