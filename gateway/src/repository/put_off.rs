//! When a version that this machine could not load is tried again, though nothing is known to be wrong with it.

use std::time::{Duration, Instant};

/// Between the first attempt and the second; it doubles from one to the next.
const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(600);

/// A wait that has begun.
#[derive(Clone, Debug)]
pub(super) struct PutOff {
    pub(super) wait: Duration,
    until: Instant,
}

impl PutOff {
    /// From now on, for twice the time of the one before.
    pub(super) fn after(before: Option<&Self>) -> Self {
        let wait = before.map_or(SHORTEST, |before| (before.wait * 2).min(LONGEST));
        Self { wait, until: Instant::now() + wait }
    }

    pub(super) fn is_over(&self) -> bool {
        self.until <= Instant::now()
    }
}
