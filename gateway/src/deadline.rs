//! The moment by which a request must have its answer.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// An instant on the monotonic clock; nested calls inherit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn after(duration: Duration) -> Self {
        Self(Instant::now() + duration)
    }

    pub fn at(instant: Instant) -> Self {
        Self(instant)
    }

    pub fn instant(self) -> Instant {
        self.0
    }

    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub fn passed(self) -> bool {
        self.passed_at(Instant::now())
    }

    pub fn passed_at(self, now: Instant) -> bool {
        self.0 <= now
    }
}

/// The deadline of a run. If the run gives several responses, it moves on for as long as the run waits for the client to take one:
/// who reads slowly does not take a model's time away. How far it moves in all is bounded.
#[derive(Clone, Debug)]
pub struct RunDeadline {
    first: Deadline,
    waited: Option<Arc<Mutex<Waited>>>,
}

#[derive(Debug)]
struct Waited {
    before: Duration,
    since: Option<Instant>,
    most: Duration,
}

impl Waited {
    fn so_far(&self) -> Duration {
        let now = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        (self.before + now).min(self.most)
    }
}

impl RunDeadline {
    /// One that moves, by `most` in all.
    pub fn movable(deadline: Deadline, most: Duration) -> Self {
        let waited = Waited { before: Duration::ZERO, since: None, most };
        Self { first: deadline, waited: Some(Arc::new(Mutex::new(waited))) }
    }

    /// As it was before the run had to wait for anybody.
    pub fn first(&self) -> Deadline {
        self.first
    }

    /// As things stand.
    pub fn now(&self) -> Deadline {
        Deadline(self.first.0 + self.with(|waited| waited.so_far()).unwrap_or_default())
    }

    /// From now on the run waits for its client.
    pub fn wait(&self) {
        self.with(|mut waited| waited.since = Some(Instant::now()));
    }

    /// The run goes on.
    pub fn go_on(&self) {
        self.with(|mut waited| {
            waited.before = waited.so_far();
            waited.since = None;
        });
    }

    /// Returns when it has passed.
    pub async fn passed(&self) {
        loop {
            let deadline = self.now();
            if deadline.passed() {
                return;
            }
            // While the run waits, what is left stays the same, however little that is.
            let waits = self.with(|waited| waited.since.is_some()).unwrap_or_default();
            let left = deadline.remaining();
            tokio::time::sleep(if waits { left.max(WHILE_WAITING) } else { left }).await;
        }
    }

    fn with<T>(&self, work: impl FnOnce(MutexGuard<'_, Waited>) -> T) -> Option<T> {
        self.waited.as_ref().map(|waited| work(waited.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// How often, at most, it is seen whether a run still waits.
const WHILE_WAITING: Duration = Duration::from_millis(20);

impl From<Deadline> for RunDeadline {
    fn from(deadline: Deadline) -> Self {
        Self { first: deadline, waited: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_stands_still_while_the_run_waits_for_its_client() {
        let deadline = RunDeadline::movable(Deadline::after(Duration::from_millis(100)), Duration::MAX);
        deadline.wait();
        let passed = tokio::time::timeout(Duration::from_millis(300), deadline.passed()).await;
        assert!(passed.is_err(), "it passed while the run waited");
        deadline.go_on();
        let moved = deadline.now().instant() - deadline.first().instant();
        assert!(moved >= Duration::from_millis(300), "{moved:?}");
        deadline.go_on();
        assert_eq!(deadline.now().instant() - deadline.first().instant(), moved);
        deadline.passed().await;
        assert!(deadline.now().passed() && deadline.first().passed());
    }

    #[tokio::test]
    async fn it_moves_no_further_than_it_may() {
        let most = Duration::from_millis(100);
        let deadline = RunDeadline::movable(Deadline::after(Duration::from_millis(100)), most);
        deadline.wait();
        deadline.passed().await;
        assert_eq!(deadline.now().instant() - deadline.first().instant(), most);
    }

    #[test]
    fn a_deadline_that_nobody_moves_is_where_it_was() {
        let deadline = Deadline::after(Duration::from_secs(1));
        let run = RunDeadline::from(deadline);
        run.wait();
        assert_eq!(run.now(), deadline);
    }
}
