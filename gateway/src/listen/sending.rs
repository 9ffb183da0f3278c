//! Answers on their way: a peer that does not read its answer must not keep it in memory for ever.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often a connection looks for answers that take too long.
const LOOK: Duration = Duration::from_secs(1);

/// The answers of one connection that are not sent yet, by the order in which they began.
#[derive(Clone, Debug, Default)]
pub struct Sending(Arc<Mutex<Unsent>>);

#[derive(Debug, Default)]
struct Unsent {
    begun: u64,
    answers: BTreeMap<u64, Instant>,
}

/// One answer; it counts as sent when this is dropped.
#[derive(Debug)]
pub struct Answer {
    sending: Sending,
    number: u64,
}

impl Sending {
    pub fn begin(&self) -> Answer {
        let number = self.with(|unsent| {
            unsent.begun += 1;
            unsent.answers.insert(unsent.begun, Instant::now());
            unsent.begun
        });
        Answer { sending: self.clone(), number }
    }

    /// Returns when an answer has been on its way for longer than `timeout`, seconds late at most.
    pub async fn stalled(&self, timeout: Duration) {
        loop {
            tokio::time::sleep(timeout.min(LOOK)).await;
            let oldest = self.with(|unsent| unsent.answers.first_key_value().map(|(_, begun)| *begun));
            if oldest.is_some_and(|begun| begun.elapsed() > timeout) {
                return;
            }
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Unsent) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.sending.with(|unsent| unsent.answers.remove(&self.number));
    }
}
