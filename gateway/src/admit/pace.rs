//! Pace: how fast a tenant is told what no model had to run for.
//!
//! Refusals, errors and what is asked about models cost processor time as well, which is in no tenant's share. Who asks again
//! as soon as it is answered would have the threads that serve for itself; so there is a pace for such answers, and those that
//! come faster are held back for a while.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What may be told ahead of the pace.
const AT_ONCE: Duration = Duration::from_millis(20);

/// Nobody waits longer for being told that.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers of a tenant that are held back at a time: each holds its connection and the head of its request.
const HELD: usize = 1000;

/// The pace of one tenant.
#[derive(Debug, Default)]
pub(super) struct Pace {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By when all answers so far would have been told at the pace.
    until: Option<Instant>,
    held: usize,
}

/// So many answers are held back for this tenant that this one, which is to wait so long, is not worth to be told.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMany {
    pub wait: Duration,
}

impl Pace {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when an answer may be told, at that many a second.
    pub(super) async fn keep(&self, per_second: f64) -> Result<(), TooMany> {
        let Some((wait, _held)) = self.note(per_second, Instant::now())? else { return Ok(()) };
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Notes an answer; how long it is to be held back, if at all.
    fn note(&self, per_second: f64, now: Instant) -> Result<Option<(Duration, Held<'_>)>, TooMany> {
        let between = Duration::from_secs_f64(1.0 / per_second).min(PATIENCE);
        let mut state = self.lock();
        let until = state.until.map_or(now, |until| until.max(now)) + between;
        let wait = until.saturating_duration_since(now + AT_ONCE).min(PATIENCE);
        state.until = Some(until.min(now + AT_ONCE + PATIENCE));
        if wait.is_zero() {
            return Ok(None);
        }
        if state.held >= HELD {
            return Err(TooMany { wait });
        }
        state.held += 1;
        Ok(Some((wait, Held(self))))
    }

    /// Whether forgetting it would change nothing.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.lock().until.is_none_or(|until| until <= now)
    }
}

#[derive(Debug)]
struct Held<'a>(&'a Pace);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.lock().held -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: f64 = 5000.0;
    const BETWEEN: Duration = Duration::from_micros(200);

    /// How long an answer waits that leaves at once.
    fn wait(pace: &Pace, now: Instant) -> Duration {
        pace.note(RATE, now).expect("few are held").map_or(Duration::ZERO, |(wait, _)| wait)
    }

    #[test]
    fn few_are_told_at_once_and_many_at_the_pace() {
        let (pace, begun) = (Pace::default(), Instant::now());
        let waits: Vec<Duration> = (0..20_000).map(|_| wait(&pace, begun)).collect();
        assert!(waits[..100].iter().all(Duration::is_zero), "{:?}", &waits[..100]);
        assert_eq!((waits[100], waits[1099]), (BETWEEN, BETWEEN * 1000));
        assert_eq!(waits.last(), Some(&PATIENCE));
        // However many there were, what is held against the tenant is soon over.
        let later = begun + AT_ONCE + PATIENCE;
        assert!(!pace.is_idle(later - BETWEEN) && pace.is_idle(later));
        assert_eq!(wait(&pace, later), Duration::ZERO);
        // Who keeps the pace never waits.
        let slow = |index| later + Duration::from_secs(1) + BETWEEN * index;
        assert!((0..10_000).all(|index| wait(&pace, slow(index)).is_zero()));
    }

    #[test]
    fn no_more_are_held_than_may_be_and_a_place_comes_back() {
        let (pace, now) = (Pace::default(), Instant::now());
        let mut held: Vec<_> = std::iter::repeat_with(|| pace.note(RATE, now)).take(1100).collect();
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(pace.note(RATE, now).map(drop), Err(TooMany { wait: BETWEEN * 1101 - AT_ONCE }));
        held.pop();
        assert!(pace.note(RATE, now).is_ok());
        drop(held);
        assert_eq!(pace.lock().held, 0);
    }

    #[tokio::test]
    async fn what_is_held_back_is_told_in_the_end() {
        let pace = Pace::default();
        for _ in 0..150 {
            assert_eq!(pace.keep(RATE).await, Ok(()));
        }
        assert_eq!(pace.lock().held, 0);
    }
}
