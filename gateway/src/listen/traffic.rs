//! Traffic: how many connections each port has, and how many answers of each status it gave.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hyper::StatusCode;

use super::Door;

/// The statuses that there are: 100 to 599.
const STATUSES: usize = 500;

/// The traffic of all ports since the gateway started.
#[derive(Debug, Default)]
pub struct Traffic([Port; Door::ALL.len()]);

#[derive(Debug)]
struct Port {
    connections: AtomicUsize,
    answers: [AtomicU64; STATUSES],
}

impl Default for Port {
    fn default() -> Self {
        Self { connections: AtomicUsize::new(0), answers: [const { AtomicU64::new(0) }; STATUSES] }
    }
}

impl Traffic {
    /// One connection more, until the returned value is dropped.
    #[must_use]
    pub(super) fn connection(&self, door: Door) -> Connection<'_> {
        let count = &self.0[door as usize].connections;
        count.fetch_add(1, Ordering::Relaxed);
        Connection(count)
    }

    pub(super) fn answered(&self, door: Door, status: StatusCode) {
        if let Some(count) = self.0[door as usize].answers.get(usize::from(status.as_u16()) - 100) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Connections of a port that are open now.
    pub fn connections(&self, door: Door) -> usize {
        self.0[door as usize].connections.load(Ordering::Relaxed)
    }

    /// The statuses with which a port has answered, and how often.
    pub fn answers(&self, door: Door) -> impl Iterator<Item = (usize, u64)> {
        let counts = self.0[door as usize].answers.iter().map(|count| count.load(Ordering::Relaxed));
        counts.enumerate().filter(|(_, count)| *count > 0).map(|(status, count)| (status + 100, count))
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection<'a>(&'a AtomicUsize);

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
