//! The queue of one scheduler: start-time fair queueing (Goyal, Vin and Cheng, 1996) between tenants, first come first
//! served within one.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{execute::Share, name::TenantName};

/// What a turn takes, as long as it can be interrupted: a bulk operation of a guest on its memory cannot. It is charged when
/// the turn begins, and at its end what it really took. Without that, a tenant that is behind would get every thread at once.
pub const TURN: Duration = Duration::from_millis(2);

/// Idle tenants that are kept before those are looked for that can be forgotten.
const IDLE: usize = 64;

/// What waits, by tenant.
///
/// A tenant's clock advances by the processor time of its turns, divided by its weight. The queue's own clock is that of the
/// tenant that had the last turn: who comes after a pause begins there, without credit from before; and who had the machine
/// alone is not ahead of it, and so owes nothing.
#[derive(Debug)]
pub struct Queue<R> {
    tenants: HashMap<TenantName, Tenant<R>>,
    /// The tenants that have something to run, those furthest behind first.
    ready: BTreeSet<(u64, TenantName)>,
    clock: u64,
    length: usize,
}

#[derive(Debug)]
struct Tenant<R> {
    clock: u64,
    runs: VecDeque<(Arc<Share>, R)>,
    /// Turns that have begun and not ended.
    running: usize,
}

impl<R> Default for Queue<R> {
    fn default() -> Self {
        Self { tenants: HashMap::new(), ready: BTreeSet::new(), clock: 0, length: 0 }
    }
}

impl<R> Queue<R> {
    /// Runs that wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Tenants that something is kept of.
    #[cfg(test)]
    pub fn remembered(&self) -> usize {
        self.tenants.len()
    }

    pub fn push(&mut self, share: Arc<Share>, run: R) {
        let tenant = tenant(&mut self.tenants, &share.tenant, self.clock);
        if tenant.runs.is_empty() {
            self.ready.insert((tenant.clock, share.tenant.clone()));
        }
        tenant.runs.push_back((share, run));
        self.length += 1;
    }

    /// The run whose turn it is, with the share that [`used`](Self::used) is to be told of.
    pub fn pop(&mut self) -> Option<(Arc<Share>, R)> {
        self.pop_of(|_| true)
    }

    /// The same among those tenants.
    pub fn pop_of(&mut self, tenants: impl Fn(&TenantName) -> bool) -> Option<(Arc<Share>, R)> {
        let (clock, name) = self.ready.iter().find(|(_, name)| tenants(name))?.clone();
        self.ready.remove(&(clock, name.clone()));
        self.clock = self.clock.max(clock);
        let tenant = self.tenants.get_mut(&name)?;
        let (share, run) = tenant.runs.pop_front()?;
        self.length -= 1;
        tenant.running += 1;
        tenant.clock = clock.saturating_add(share.time(turn()));
        if !tenant.runs.is_empty() {
            self.ready.insert((tenant.clock, name));
        }
        Some((share, run))
    }

    /// A turn has ended that took so much processor time.
    pub fn used(&mut self, share: &Share, nanos: u64) {
        self.charge(share, |clock| {
            clock.saturating_add(share.time(nanos)).saturating_sub(share.time(turn()))
        });
        if let Some(tenant) = self.tenants.get_mut(&share.tenant) {
            tenant.running = tenant.running.saturating_sub(1);
        }
        self.forget();
    }

    /// Forgets the tenants that owe nothing: all of them, once there is nothing to share out.
    fn forget(&mut self) {
        if self.tenants.len() <= self.ready.len() + IDLE {
            return;
        }
        if self.tenants.values().all(|tenant| tenant.runs.is_empty() && tenant.running == 0) {
            self.clock = self.tenants.values().map(|tenant| tenant.clock).fold(self.clock, u64::max);
            return self.tenants.clear();
        }
        let now = self.clock;
        self.tenants.retain(|_, tenant| !tenant.runs.is_empty() || tenant.running > 0 || tenant.clock > now);
    }

    /// Whether no tenant that had less than this one waits for a turn.
    pub fn goes_first(&self, share: &Share) -> bool {
        let clock = self.tenants.get(&share.tenant).map_or(self.clock, |tenant| tenant.clock.max(self.clock));
        self.ready.first().is_none_or(|(least, _)| clock <= *least)
    }

    /// A tenant had so much processor time without waiting here for it.
    pub fn used_elsewhere(&mut self, share: &Share, nanos: u64) {
        tenant(&mut self.tenants, &share.tenant, self.clock);
        self.charge(share, |clock| clock.saturating_add(share.time(nanos)));
    }

    fn charge(&mut self, share: &Share, advance: impl FnOnce(u64) -> u64) {
        let Some(tenant) = self.tenants.get_mut(&share.tenant) else { return };
        let before = tenant.clock;
        tenant.clock = advance(before);
        let mut place = (before, share.tenant.clone());
        if self.ready.remove(&place) {
            place.0 = tenant.clock;
            self.ready.insert(place);
        }
    }

    /// Everything that waits, which nobody will run.
    pub fn clear(&mut self) -> Vec<R> {
        self.ready.clear();
        self.length = 0;
        self.tenants.drain().flat_map(|(_, tenant)| tenant.runs).map(|(_, run)| run).collect()
    }
}

/// The same in nanoseconds.
fn turn() -> u64 {
    u64::try_from(TURN.as_nanos()).unwrap_or(u64::MAX)
}

/// A tenant as it is now; one without anything here begins at the queue's clock.
fn tenant<'a, R>(
    tenants: &'a mut HashMap<TenantName, Tenant<R>>,
    name: &TenantName,
    now: u64,
) -> &'a mut Tenant<R> {
    if !tenants.contains_key(name) {
        tenants.insert(name.clone(), Tenant { clock: now, runs: VecDeque::new(), running: 0 });
    }
    let tenant = tenants.get_mut(name).expect("it was inserted");
    if tenant.runs.is_empty() && tenant.running == 0 {
        tenant.clock = tenant.clock.max(now);
    }
    tenant
}
