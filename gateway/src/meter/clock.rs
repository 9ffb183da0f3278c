//! How long a request was at each station.

use std::time::{Duration, Instant};

/// The stations whose time is noted apart. What Triton calls them: queue, and compute input, infer and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Station {
    /// Reading tensors out of the body; a large one waits for its turn first.
    Decode,
    /// Looking for a response that was kept; only of models whose responses are.
    Cache,
    /// Waiting for a place among the running.
    Wait,
    /// The model's own run, and of a guest the turns of others meanwhile.
    Run,
    Encode,
}

/// Nanoseconds at each station.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    pub decode: u64,
    pub cache: u64,
    pub wait: u64,
    pub run: u64,
    pub encode: u64,
}

impl Spent {
    pub fn add(&mut self, other: &Self) {
        self.decode += other.decode;
        self.cache += other.cache;
        self.wait += other.wait;
        self.run += other.run;
        self.encode += other.encode;
    }
}

/// Runs from the moment at which the gateway has the whole request, or from the request's begin if it never gets it, until
/// there is an answer: for as long as it takes the client to send and to read, it stands still.
#[derive(Debug)]
pub(super) struct Clock {
    begun: Instant,
    passed: Instant,
    ended: Option<Instant>,
    /// What of the time since its begin the client took to read responses.
    clients: Duration,
    pub(super) spent: Spent,
}

impl Clock {
    pub(super) fn start() -> Self {
        let now = Instant::now();
        Self { begun: now, passed: now, ended: None, clients: Duration::ZERO, spent: Spent::default() }
    }

    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    pub(super) fn restart(&mut self) {
        *self = Self::start();
    }

    /// What has passed since the last station is this one's.
    pub(super) fn pass(&mut self, station: Station) {
        let now = Instant::now();
        let nanos = nanos(now - self.passed);
        self.passed = now;
        *match station {
            Station::Decode => &mut self.spent.decode,
            Station::Cache => &mut self.spent.cache,
            Station::Wait => &mut self.spent.wait,
            Station::Run => &mut self.spent.run,
            Station::Encode => &mut self.spent.encode,
        } += nanos;
    }

    /// So much of what has passed is no station's.
    pub(super) fn stand_still(&mut self, time: Duration) {
        self.passed = (self.passed + time).min(Instant::now());
        self.clients += time;
    }

    pub(super) fn end(&mut self) {
        self.ended = Some(Instant::now());
    }

    /// Nanoseconds from begin to end, or so far.
    pub(super) fn nanos(&self) -> u64 {
        nanos((self.ended.unwrap_or_else(Instant::now) - self.begun).saturating_sub(self.clients))
    }
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
