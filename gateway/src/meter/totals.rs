//! The totals of this process: in memory, exact, and no larger than the number of models that exist.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    consumption::{Consumption, Execution},
    name::{ModelName, TenantName},
};

use super::{AllUsage, Served, Statistics, TenantTotal, TenantUsage, Usage, statistics::Calls, unix_ms};

/// Models of one tenant that are told apart. A tenant that makes and removes models without end does not fill the memory:
/// what goes beyond is noted without a model, and never lost.
pub(super) const MAX_MODELS: usize = 10_000;

/// What is counted apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub tenant: TenantName,
    /// None for all the names that are no model of the tenant's.
    pub model: Option<ModelName>,
    /// `ok`, `client_gone`, or the code word of an error.
    pub outcome: Cow<'static, str>,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub calls: u64,
    /// Bytes of request bodies as they were sent, of those not read to their end too.
    pub bytes_in: u64,
    /// Bytes of answers that were handed to the connection; error texts are not counted.
    pub bytes_out: u64,
    /// CPU time of the models, in nanoseconds: of guests from instantiation to clean-up, of ONNX models their run. Reading
    /// and writing tensors for the client is not in it.
    pub cpu_nanos: u64,
    /// The most memory that one guest had, in bytes; ONNX models are not measured.
    pub peak_memory_bytes: u64,
    /// When something of it was first and last noted, in milliseconds since 1970.
    pub first_ms: u64,
    pub last_ms: u64,
}

impl Figures {
    pub fn add(&mut self, other: &Self) {
        self.first_ms = if self.first_ms == 0 { other.first_ms } else { self.first_ms.min(other.first_ms) };
        self.last_ms = self.last_ms.max(other.last_ms);
        self.calls += other.calls;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.cpu_nanos += other.cpu_nanos;
        self.peak_memory_bytes = self.peak_memory_bytes.max(other.peak_memory_bytes);
    }
}

pub type Outcomes = BTreeMap<Cow<'static, str>, Figures>;
pub type Models = BTreeMap<Option<ModelName>, Outcomes>;

/// The usage of all tenants since this process began.
#[derive(Debug)]
pub struct Meter {
    since_ms: u64,
    /// Requests that have begun and are not noted yet.
    open: AtomicUsize,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    totals: HashMap<TenantName, Models>,
    /// The same calls, those that a version was found for, by version.
    calls: HashMap<TenantName, Calls>,
    /// What came since the ledger asked last; never more entries than `totals` has.
    moved: BTreeMap<Key, Figures>,
    /// Runs that go on although their request is noted: a guest until its next tick, an ONNX model until it looks at its
    /// watch. No more than may run at a time.
    late: Vec<Late>,
}

#[derive(Debug)]
struct Late {
    key: Key,
    consumed: Arc<Consumption>,
    /// Nanoseconds of it that are noted already.
    noted: u64,
}

impl Default for Meter {
    fn default() -> Self {
        Self { since_ms: unix_ms(), open: AtomicUsize::new(0), counted: Mutex::default() }
    }
}

impl Meter {
    /// When this process began to count, in milliseconds since 1970.
    pub fn since_ms(&self) -> u64 {
        self.since_ms
    }

    /// What a tenant used since this process began; requests that still run are not in it.
    pub fn usage(&self, tenant: &TenantName) -> TenantUsage {
        self.with(|counted| {
            counted.settle();
            TenantUsage::new(tenant, self.since_ms, counted.totals.get(tenant))
        })
    }

    /// What every tenant used since this process began, ordered by name.
    pub fn all(&self) -> AllUsage {
        let mut tenants: Vec<TenantTotal> = self.with(|counted| {
            counted.settle();
            let tenants = counted.totals.iter();
            let total = |(tenant, models)| {
                let usage = TenantUsage::new(tenant, self.since_ms, Some(models));
                TenantTotal { tenant: usage.tenant, sum: usage.total }
            };
            tenants.map(total).collect()
        });
        tenants.sort_by(|one, other| one.tenant.cmp(&other.tenant));
        AllUsage { since: self.since_ms, tenants }
    }

    /// What became of a tenant's calls of one version.
    pub fn statistics(&self, tenant: &TenantName, served: &Served) -> Statistics {
        self.with(|counted| counted.calls.get(tenant).and_then(|calls| calls.of(served)).cloned())
            .unwrap_or_default()
    }

    /// The tenants that called, in order.
    pub fn tenants(&self) -> Vec<TenantName> {
        let mut tenants: Vec<TenantName> = self.with(|counted| counted.totals.keys().cloned().collect());
        tenants.sort();
        tenants
    }

    /// Everything that is counted of a tenant: by model and outcome, and by version.
    pub fn counted(&self, tenant: &TenantName) -> (Models, Vec<(Served, Statistics)>) {
        self.with(|counted| {
            counted.settle();
            let calls = counted.calls.get(tenant).into_iter().flat_map(Calls::all);
            let calls = calls.map(|(served, statistics)| (served, statistics.clone())).collect();
            (counted.totals.get(tenant).cloned().unwrap_or_default(), calls)
        })
    }

    /// Requests that are on the road now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Whether everything is noted: no request is on the road, and no run is left of one that was.
    pub fn settled(&self) -> bool {
        self.open() == 0
            && self.with(|counted| {
                counted.settle();
                counted.late.is_empty()
            })
    }

    /// What was counted since the last time; the caller now owes it to the ledger.
    pub(super) fn take_moved(&self) -> BTreeMap<Key, Figures> {
        self.with(|counted| {
            counted.settle();
            mem::take(&mut counted.moved)
        })
    }

    /// Takes back what the ledger could not write.
    pub(super) fn put_back(&self, unwritten: BTreeMap<Key, Figures>) {
        self.with(|counted| {
            for (key, figures) in unwritten {
                counted.moved.entry(key).or_default().add(&figures);
            }
        });
    }

    pub(super) fn begin(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self, usage: &Usage, mut consumed: Arc<Consumption>) {
        // Asked first: once nobody else has it, what it says is final.
        let ended = Arc::get_mut(&mut consumed).is_some();
        let now = unix_ms();
        let figures = Figures {
            calls: 1,
            bytes_in: usage.received_bytes,
            bytes_out: usage.sent_bytes,
            cpu_nanos: consumed.cpu_nanos(),
            peak_memory_bytes: consumed.peak_memory_bytes(),
            first_ms: now,
            last_ms: now,
        };
        let mut key = Key {
            tenant: usage.tenant.clone(),
            model: usage.model.clone().filter(|_| usage.known),
            outcome: usage.outcome.into(),
        };
        self.with(|counted| {
            counted.bound(&mut key);
            counted.add(&key, &figures);
            counted.note(usage, consumed.execution(), now);
            if !ended {
                counted.settle();
                counted.late.push(Late { key, consumed, noted: figures.cpu_nanos });
            }
        });
        self.open.fetch_sub(1, Ordering::Release);
    }

    fn with<T>(&self, work: impl FnOnce(&mut Counted) -> T) -> T {
        // Nothing panics while the lock is held, and the totals are whole at every point.
        work(&mut self.counted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Counted {
    fn bound(&self, key: &mut Key) {
        let full = |models: &Models| models.len() >= MAX_MODELS && !models.contains_key(&key.model);
        if self.totals.get(&key.tenant).is_some_and(full) {
            key.model = None;
        }
    }

    fn add(&mut self, key: &Key, figures: &Figures) {
        let models = match self.totals.get_mut(&key.tenant) {
            Some(models) => models,
            None => self.totals.entry(key.tenant.clone()).or_default(),
        };
        let outcomes = match models.get_mut(&key.model) {
            Some(outcomes) => outcomes,
            None => models.entry(key.model.clone()).or_default(),
        };
        outcomes.entry(key.outcome.clone()).or_default().add(figures);
        match self.moved.get_mut(key) {
            Some(moved) => moved.add(figures),
            None => drop(self.moved.insert(key.clone(), figures.clone())),
        }
    }

    fn note(&mut self, usage: &Usage, execution: Execution, now_ms: u64) {
        let Some((version, shared)) = &usage.version else { return };
        let calls = match self.calls.get_mut(&usage.tenant) {
            Some(calls) => calls,
            None => self.calls.entry(usage.tenant.clone()).or_default(),
        };
        calls.note((usage, execution), version, *shared, now_ms);
    }

    /// Notes what late runs have used meanwhile, and forgets those that have ended.
    fn settle(&mut self) {
        for mut late in mem::take(&mut self.late) {
            let ended = Arc::get_mut(&mut late.consumed).is_some();
            let (used, now) = (late.consumed.cpu_nanos(), unix_ms());
            if used > late.noted || ended {
                let figures = Figures {
                    cpu_nanos: used - late.noted,
                    peak_memory_bytes: late.consumed.peak_memory_bytes(),
                    first_ms: now,
                    last_ms: now,
                    ..Figures::default()
                };
                self.add(&late.key, &figures);
                late.noted = used;
            }
            if !ended {
                self.late.push(late);
            }
        }
    }
}
