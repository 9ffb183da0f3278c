//! Statistics: how many requests a version of a model answered, and how long that took, as Triton's clients read it.
//!
//! Kept for each tenant that calls, so that nobody sees another one's traffic in a model that all of them share. They only ever
//! grow while the process lives, also when the version is loaded again.

use std::collections::{BTreeMap, HashMap};

use crate::{
    consumption::Execution,
    name::{ModelName, Version},
};

use super::{CLIENT_GONE, OK, Spent, Usage};

/// Versions of one tenant's calls that are told apart; calls of further ones are in the [totals](super::Meter::usage) alone.
pub(super) const MAX_VERSIONS: usize = 10_000;

/// Sizes of batches of one version that are told apart. The client chooses them.
pub(super) const MAX_BATCH_SIZES: usize = 16;

/// Upper bounds of the histogram of durations, in seconds; above the last one there is one more bucket.
pub const BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Calls, and the nanoseconds that they took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timed {
    pub count: u64,
    pub nanos: u64,
}

impl Timed {
    fn add(&mut self, nanos: u64) {
        self.count += 1;
        self.nanos += nanos;
    }

    fn add_all(&mut self, other: &Self) {
        self.count += other.count;
        self.nanos += other.nanos;
    }
}

/// Why a call has no answer, in the four words that Triton has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Not begun: by its tenant's limits or the gateway's.
    Rejected,
    /// Its client was gone before the whole answer was sent.
    Canceled,
    /// The model's own: it failed, took too long, or would not have the input.
    Backend,
    Other,
}

impl Failure {
    pub const ALL: [Self; 4] = [Self::Rejected, Self::Canceled, Self::Backend, Self::Other];

    pub fn word(self) -> &'static str {
        match self {
            Self::Rejected => "REJECTED",
            Self::Canceled => "CANCELED",
            Self::Backend => "BACKEND",
            Self::Other => "OTHER",
        }
    }

    fn of(outcome: &str) -> Self {
        match outcome {
            "calls_busy" | "draining" | "model_quarantined" | "overloaded" | "rate_limited" => Self::Rejected,
            CLIENT_GONE => Self::Canceled,
            "deadline_exceeded"
            | "invalid_input"
            | "model_failed"
            | "model_memory"
            | "model_output_invalid" => Self::Backend,
            _ => Self::Other,
        }
    }
}

/// Executions with batches of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batches {
    pub count: u64,
    pub spent: Spent,
}

/// What became of the calls of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// When a call ended last, in milliseconds since 1970.
    pub last_ms: u64,
    /// Calls that were answered.
    pub success: Timed,
    /// Those of them that a run answered, each as many times as its batch was large.
    pub inferences: u64,
    /// Runs of the model: one for each of these calls, but for those that ran together.
    pub executions: u64,
    /// Those of them whose response had been kept, and the time to find it.
    pub cache_hit: Timed,
    /// Calls for which none had been kept although it could have been, and the time to find that out.
    pub cache_miss: Timed,
    /// Those that were not, in the order of [`Failure::ALL`].
    pub failures: [Timed; 4],
    /// Where the time of those that a run answered went.
    pub spent: Spent,
    /// By the size of the batch, of so many sizes as are told apart.
    pub batches: BTreeMap<u64, Batches>,
    /// How many of all calls took no longer than each of [`BUCKETS`] and longer than the one before, and how many longer than all.
    pub durations: [u64; BUCKETS.len() + 1],
}

impl Statistics {
    /// Calls that a run answered.
    pub fn ran(&self) -> u64 {
        self.success.count - self.cache_hit.count
    }

    pub fn failed(&self) -> Timed {
        let mut all = Timed::default();
        self.failures.iter().for_each(|some| all.add_all(some));
        all
    }

    pub fn add(&mut self, other: &Self) {
        self.last_ms = self.last_ms.max(other.last_ms);
        self.success.add_all(&other.success);
        self.inferences = self.inferences.saturating_add(other.inferences);
        self.executions += other.executions;
        self.cache_hit.add_all(&other.cache_hit);
        self.cache_miss.add_all(&other.cache_miss);
        for (own, some) in self.failures.iter_mut().zip(&other.failures) {
            own.add_all(some);
        }
        self.spent.add(&other.spent);
        for (size, some) in &other.batches {
            let own = self.batches.entry(*size).or_default();
            own.count += some.count;
            own.spent.add(&some.spent);
        }
        for (own, some) in self.durations.iter_mut().zip(&other.durations) {
            *own += some;
        }
    }

    fn note(&mut self, (usage, execution): (&Usage, Execution), now_ms: u64) {
        let nanos = usage.clock.nanos();
        self.last_ms = self.last_ms.max(now_ms);
        let seconds = nanos as f64 / 1e9;
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.durations[bucket] += 1;
        if usage.kept == Some(false) {
            self.cache_miss.add(usage.clock.spent.cache);
        }
        if usage.outcome != OK {
            return self.failures[Failure::of(usage.outcome) as usize].add(nanos);
        }
        let spent = &usage.clock.spent;
        self.success.add(nanos);
        if usage.kept == Some(true) {
            return self.cache_hit.add(spent.cache);
        }
        // A batch without elements may be as large as a number can be.
        self.inferences = self.inferences.saturating_add(usage.batch);
        self.spent.add(spent);
        let batch = match execution {
            Execution::Own => usage.batch,
            Execution::First { rows } => rows,
            Execution::Shared => return,
        };
        self.executions += 1;
        if self.batches.len() < MAX_BATCH_SIZES || self.batches.contains_key(&batch) {
            let own = self.batches.entry(batch).or_default();
            own.count += 1;
            own.spent.add(spent);
        }
    }
}

/// A version that answered calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Served {
    pub model: ModelName,
    pub version: Version,
    /// It is the operator's, and not the calling tenant's own.
    pub shared: bool,
}

type Models = HashMap<ModelName, HashMap<Version, Statistics>>;

/// The calls of one tenant, by the version that answered.
#[derive(Debug, Default)]
pub(super) struct Calls {
    own: Models,
    shared: Models,
    versions: usize,
}

impl Calls {
    fn models(&self, shared: bool) -> &Models {
        if shared { &self.shared } else { &self.own }
    }

    pub(super) fn of(&self, served: &Served) -> Option<&Statistics> {
        self.models(served.shared).get(&served.model)?.get(&served.version)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (Served, &Statistics)> {
        [false, true].into_iter().flat_map(|shared| {
            self.models(shared).iter().flat_map(move |(model, versions)| {
                versions.iter().map(move |(version, statistics)| {
                    (Served { model: model.clone(), version: version.clone(), shared }, statistics)
                })
            })
        })
    }

    /// Notes a call, whose name and version are cloned the first time only.
    pub(super) fn note(&mut self, call: (&Usage, Execution), version: &Version, shared: bool, now_ms: u64) {
        let Some(model) = &call.0.model else { return };
        let models = if shared { &mut self.shared } else { &mut self.own };
        if let Some(statistics) = models.get_mut(model).and_then(|versions| versions.get_mut(version)) {
            return statistics.note(call, now_ms);
        }
        if self.versions < MAX_VERSIONS {
            self.versions += 1;
            let versions = models.entry(model.clone()).or_default();
            versions.entry(version.clone()).or_default().note(call, now_ms);
        }
    }
}
