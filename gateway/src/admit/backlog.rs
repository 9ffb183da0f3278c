//! Backlog: the work that each tenant has under way, and how long its share of the processor needs for that.
//!
//! A request that would wait for more than half of its time is refused when it comes: it would be given up in the end, and
//! what was done for it until then would be taken from those that can still be answered. What a request needs is not
//! known before; what the tenant's requests needed of late, on average, is.
//!
//! What this does not see: a tenant's single large request among small ones, work that no model does (decoding,
//! encoding), and processes beside the gateway.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::name::TenantName;

/// Requests after which an average says something, and over which it is taken.
const FEWEST: u64 = 8;
const MOST: u64 = 32;

/// Requests of a tenant for each core that are never too many.
const FEW: u64 = 2;

/// A wait that is never too long to be tried: the averages are coarser than that.
const LEAST: Duration = Duration::from_millis(100);

/// The work of all tenants.
#[derive(Debug)]
pub(super) struct Backlog {
    cores: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tenants: HashMap<TenantName, Tenant>,
    /// Of the tenants that have anything under way.
    weights: u64,
}

#[derive(Debug, Default)]
struct Tenant {
    under_way: u64,
    weight: u64,
    /// Requests that were noted, and what one of them took on average.
    noted: u64,
    usual: Duration,
}

/// How long a request would have to wait, if that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong(pub(super) Duration);

impl Backlog {
    pub(super) fn new(cores: usize) -> Arc<Self> {
        Arc::new(Self { cores: cores.max(1) as u64, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another request of that tenant could be answered within `time`.
    pub(super) fn check(&self, tenant: &TenantName, weight: u64, time: Duration) -> Result<(), TooLong> {
        let state = self.lock();
        let Some(known) = state.tenants.get(tenant) else { return Ok(()) };
        if known.noted < FEWEST || known.under_way < FEW * self.cores {
            return Ok(());
        }
        // Each tenant gets a part of the processor by its weight, among those that have anything under way.
        let share = as_float(weight.max(1)) / as_float(state.weights.max(weight).max(1));
        let work = known.usual.as_secs_f64() * as_float(known.under_way);
        let wait = work / share / as_float(self.cores);
        if wait <= (time.as_secs_f64() / 2.0).max(LEAST.as_secs_f64()) {
            return Ok(());
        }
        Err(TooLong(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX)))
    }

    /// Counts a request, until what this returns is dropped.
    pub(super) fn add(self: &Arc<Self>, tenant: &TenantName, weight: u64) -> Work {
        let mut state = self.lock();
        let State { tenants, weights } = &mut *state;
        let known = tenants.entry(tenant.clone()).or_default();
        if known.under_way == 0 {
            known.weight = weight.max(1);
            *weights += known.weight;
        }
        known.under_way += 1;
        drop(state);
        Work { backlog: Arc::clone(self), tenant: tenant.clone(), counts: AtomicBool::new(true) }
    }
}

fn as_float(number: u64) -> f64 {
    u32::try_from(number).map_or_else(|_| f64::from(u32::MAX), f64::from)
}

/// One request that is under way.
#[derive(Debug)]
pub(super) struct Work {
    backlog: Arc<Backlog>,
    tenant: TenantName,
    counts: AtomicBool,
}

impl Work {
    /// Whether it is among what is under way: not while it wants nothing of the processor.
    pub(super) fn count(&self, counts: bool) {
        let mut state = self.backlog.lock();
        if self.counts.swap(counts, Ordering::Relaxed) == counts {
            return;
        }
        let State { tenants, weights } = &mut *state;
        let Some(known) = tenants.get_mut(&self.tenant) else { return };
        if counts {
            *weights += if known.under_way == 0 { known.weight } else { 0 };
            known.under_way += 1;
            return;
        }
        known.under_way -= 1;
        if known.under_way == 0 {
            *weights = weights.saturating_sub(known.weight);
        }
    }

    /// Notes what it took of the processor.
    pub(super) fn took(&self, time: Duration) {
        let mut state = self.backlog.lock();
        let Some(known) = state.tenants.get_mut(&self.tenant) else { return };
        known.noted = (known.noted + 1).min(MOST);
        let (part, before) = (1.0 / as_float(known.noted), known.usual.as_secs_f64());
        let usual = before + (time.as_secs_f64() - before) * part;
        known.usual = Duration::try_from_secs_f64(usual).unwrap_or_default();
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.count(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(2);

    fn tenant(name: &str) -> TenantName {
        name.parse().expect("a name")
    }

    /// Has that many requests under way, of a tenant whose requests take that long.
    fn busy(backlog: &Arc<Backlog>, name: &str, count: usize, usual: Duration) -> Vec<Work> {
        let work: Vec<_> = (0..count).map(|_| backlog.add(&tenant(name), 1)).collect();
        (0..100).for_each(|_| work[0].took(usual));
        work
    }

    #[test]
    fn more_than_half_of_the_time_is_too_long_to_wait() {
        let (backlog, one) = (Backlog::new(2), tenant("one"));
        let mut work = busy(&backlog, "one", 20, Duration::from_millis(100));
        assert_eq!(backlog.check(&one, 1, TIME), Ok(()));
        work.push(backlog.add(&one, 1));
        let TooLong(wait) = backlog.check(&one, 1, TIME).expect_err("1.05 s of 2 s");
        assert!((Duration::from_millis(1040)..Duration::from_millis(1060)).contains(&wait), "{wait:?}");
        assert_eq!(backlog.check(&one, 1, TIME * 2), Ok(()));
        drop(work);
        assert_eq!(backlog.check(&one, 1, TIME), Ok(()));
    }

    #[test]
    fn work_that_waits_for_its_client_keeps_nobody_waiting() {
        let backlog = Backlog::new(1);
        let idle = busy(&backlog, "idle", 3, Duration::from_secs(1));
        let _one = busy(&backlog, "one", 6, Duration::from_millis(100));
        assert!(backlog.check(&tenant("one"), 1, TIME).is_err(), "half of a core: 1.2 s");
        idle.iter().for_each(|work| work.count(false));
        idle[0].count(false);
        assert_eq!(backlog.check(&tenant("one"), 1, TIME), Ok(()), "a whole core: 0.6 s");
        idle[0].count(true);
        assert!(backlog.check(&tenant("one"), 1, TIME).is_err());
        idle[0].count(false);
        drop(idle);
        assert_eq!(backlog.check(&tenant("one"), 1, TIME), Ok(()));
    }

    #[test]
    fn another_tenant_s_work_counts_by_weight_and_never_for_one_that_has_none() {
        let backlog = Backlog::new(1);
        let _one = busy(&backlog, "one", 1000, Duration::from_millis(100));
        assert!(backlog.check(&tenant("one"), 1, TIME).is_err());
        assert_eq!(backlog.check(&tenant("two"), 1, TIME), Ok(()));
        let two = busy(&backlog, "two", 6, Duration::from_millis(100));
        assert!(backlog.check(&tenant("two"), 1, TIME).is_err(), "half of a core: 1.2 s");
        drop(two);
        let _two: Vec<_> = (0..6).map(|_| backlog.add(&tenant("two"), 3)).collect();
        assert_eq!(backlog.check(&tenant("two"), 3, TIME), Ok(()), "three quarters: 0.8 s");
    }

    #[test]
    fn nothing_is_refused_before_anything_is_known_nor_when_there_are_few() {
        let backlog = Backlog::new(2);
        let mut work: Vec<_> = (0..100).map(|_| backlog.add(&tenant("one"), 1)).collect();
        (1..FEWEST).for_each(|_| work[0].took(TIME));
        assert_eq!(backlog.check(&tenant("one"), 1, TIME), Ok(()));
        work[0].took(TIME);
        assert!(backlog.check(&tenant("one"), 1, TIME).is_err());
        work.truncate(3);
        assert_eq!(backlog.check(&tenant("one"), 1, TIME), Ok(()));
    }
}
