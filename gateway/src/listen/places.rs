//! Places: how many connections there may be, and whose goes when there are no more.
//!
//! A connection is at work while a request of somebody whom the gateway knows is under way on it, from its head to the
//! last byte of its answer. All others wait: they are silent, half-way through a head, kept for later, or send what is
//! refused. They are welcome while there is room, and none of them can keep anybody out: who comes when every place is
//! taken gets one that waits. Strangers go before those that have been at work, and of either kind the one that has
//! waited longest, from the address that has most of them.
//!
//! A tenant's part is a quarter of the places. What its keys hold beyond that may be cut even while it is at work, and
//! goes before the strangers if there is more of it than of them: no tenant can hold every place, and no crowd of
//! strangers drives out all of a large tenant.
//!
//! What this does not stop: four tenants that help each other. Who comes without a key is of no tenant's part: where there
//! are keys it is a stranger, and where there are none everybody is one tenant.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio::sync::Notify;

use crate::{
    authenticate::{Principal, network},
    limits::ListenLimits,
    name::TenantName,
};

/// A tenant's part is one of so many.
const PARTS: usize = 4;

/// The places of one port.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    /// 0 is no limit but `max`.
    max_per_address: usize,
    /// Connections of one tenant that are safe while they are at work.
    part: usize,
    state: Mutex<State>,
    /// A connection has ended or begun to wait. One task at a time waits for that.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: usize,
    /// Names connections, and the moments at which they began to wait.
    next: u64,
    networks: HashMap<u128, Network>,
    parts: Parts,
    /// Connections of all addresses that wait, by kind.
    waiting: [usize; 3],
}

/// The connections of one address, or of one IPv6 network.
#[derive(Debug, Default)]
struct Network {
    connections: HashMap<u64, Connection>,
    /// Those that wait, by kind and the moment at which they began to.
    waiting: [BTreeMap<u64, u64>; 3],
}

/// Why a connection may be cut.
#[derive(Clone, Copy, Debug)]
enum Waits {
    /// Nobody known has sent anything on it.
    Stranger,
    /// Its tenant has its part without it.
    Beyond,
    /// It has been at work.
    Kept,
}

#[derive(Debug)]
struct Connection {
    /// Requests under way.
    at_work: usize,
    known: bool,
    /// The tenant within whose part it is.
    part_of: Option<TenantName>,
    /// There was no room in its tenant's part.
    beyond: bool,
    since: u64,
    cut: Arc<Notify>,
}

impl Connection {
    /// `None` while it is safe.
    fn waits(&self) -> Option<Waits> {
        match (self.known, self.beyond, self.at_work) {
            (false, ..) => Some(Waits::Stranger),
            (_, true, _) => Some(Waits::Beyond),
            (_, _, 0) => Some(Waits::Kept),
            _ => None,
        }
    }
}

/// Connections within each tenant's part, kept ones as well.
#[derive(Debug, Default)]
struct Parts(HashMap<TenantName, usize>);

impl Parts {
    /// Counts a connection that is about to work among those of a tenant, if that has room for it.
    fn add(&mut self, connection: &mut Connection, tenant: Option<&TenantName>, part: usize) {
        if connection.part_of.as_ref() == tenant && !connection.beyond {
            return;
        }
        self.release(connection);
        let Some(tenant) = tenant else { return };
        let counted = self.0.entry(tenant.clone()).or_default();
        if *counted < part {
            *counted += 1;
            connection.part_of = Some(tenant.clone());
        } else {
            connection.beyond = true;
        }
    }

    fn release(&mut self, connection: &mut Connection) {
        connection.beyond = false;
        let Some(tenant) = connection.part_of.take() else { return };
        if let Some(counted) = self.0.get_mut(&tenant) {
            *counted -= 1;
            if *counted == 0 {
                self.0.remove(&tenant);
            }
        }
    }
}

impl State {
    fn moment(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn remove(&mut self, network: u128, id: u64) -> Option<Connection> {
        let of = self.networks.get_mut(&network)?;
        let connection = of.connections.remove(&id)?;
        if let Some(kind) = connection.waits() {
            of.waiting[kind as usize].remove(&connection.since);
            self.waiting[kind as usize] -= 1;
        }
        if of.connections.is_empty() {
            self.networks.remove(&network);
        }
        self.open -= 1;
        Some(connection)
    }

    fn insert(&mut self, network: u128, id: u64, connection: Connection) {
        let of = self.networks.entry(network).or_default();
        if let Some(kind) = connection.waits() {
            of.waiting[kind as usize].insert(connection.since, id);
            self.waiting[kind as usize] += 1;
        }
        of.connections.insert(id, connection);
        self.open += 1;
    }

    /// Ends the connection that is to go first, if any of that kind waits.
    fn cut(&mut self, kind: Waits) -> bool {
        if self.waiting[kind as usize] == 0 {
            return false;
        }
        let longest = self.networks.iter().max_by_key(|(_, network)| network.waiting[kind as usize].len());
        let Some((&network, of)) = longest else { return false };
        let Some((_, &id)) = of.waiting[kind as usize].first_key_value() else { return false };
        if let Some(mut connection) = self.remove(network, id) {
            self.parts.release(&mut connection);
            connection.cut.notify_one();
        }
        true
    }

    fn cut_any(&mut self) -> bool {
        let (first, second) = if self.waiting[Waits::Beyond as usize] > self.waiting[Waits::Stranger as usize]
        {
            (Waits::Beyond, Waits::Stranger)
        } else {
            (Waits::Stranger, Waits::Beyond)
        };
        self.cut(first) || self.cut(second) || self.cut(Waits::Kept)
    }
}

impl Places {
    pub(super) fn new(limits: &ListenLimits) -> Arc<Self> {
        Arc::new(Self {
            max: limits.max_connections,
            max_per_address: limits.max_connections_per_address,
            part: (limits.max_connections / PARTS).max(1),
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection, as soon as there is one; none if its address has as many as it may.
    pub(super) async fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Arc<Place>> {
        loop {
            if let Ok(place) = self.try_take(peer) {
                return place;
            }
            self.changed.notified().await;
        }
    }

    /// The same without waiting.
    fn try_take(self: &Arc<Self>, peer: IpAddr) -> Result<Option<Arc<Place>>, Full> {
        let mut state = self.lock();
        let network = network(peer);
        let taken = state.networks.get(&network).map_or(0, |network| network.connections.len());
        if self.max_per_address > 0 && taken >= self.max_per_address {
            return Ok(None);
        }
        if state.open >= self.max && !state.cut_any() {
            return Err(Full);
        }
        let (id, cut) = (state.moment(), Arc::new(Notify::new()));
        let connection = Connection {
            at_work: 0,
            known: false,
            part_of: None,
            beyond: false,
            since: id,
            cut: Arc::clone(&cut),
        };
        state.insert(network, id, connection);
        Ok(Some(Arc::new(Place { places: Arc::clone(self), network, id, cut })))
    }

    /// Ends the connection that would go for the next one, for what else there is too little of. Says whether one waited.
    pub(super) fn give_up(&self) -> bool {
        self.lock().cut_any()
    }

    pub(super) fn open(&self) -> usize {
        self.lock().open
    }

    /// Returns when there is no connection any more. Nobody may wait for a place meanwhile.
    pub(super) async fn empty(&self) {
        while self.open() > 0 {
            self.changed.notified().await;
        }
    }
}

/// There is no place, and none that could be had.
struct Full;

/// The place of one connection; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    network: u128,
    id: u64,
    cut: Arc<Notify>,
}

impl Place {
    /// Returns when the place was given to somebody else.
    pub(super) async fn lost(&self) {
        self.cut.notified().await;
    }

    /// A request of that tenant begins.
    fn begins(&self, tenant: Option<&TenantName>) {
        self.change(|parts, connection| {
            // Several tenants may share one behind a proxy: then it is the one's who was there first.
            if connection.at_work == 0 {
                parts.add(connection, tenant, self.places.part);
            }
            connection.known = true;
            connection.at_work += 1;
        });
    }

    fn ends(&self) {
        self.change(|_, connection| connection.at_work -= 1);
    }

    fn change(&self, by: impl FnOnce(&mut Parts, &mut Connection)) {
        let mut state = self.places.lock();
        let now = state.moment();
        let State { networks, parts, waiting, .. } = &mut *state;
        let Some(network) = networks.get_mut(&self.network) else { return };
        let Some(connection) = network.connections.get_mut(&self.id) else { return };
        let (waited, since) = (connection.waits(), connection.since);
        by(parts, connection);
        connection.since = now;
        let waits = connection.waits();
        if let Some(kind) = waited {
            network.waiting[kind as usize].remove(&since);
            waiting[kind as usize] -= 1;
        }
        if let Some(kind) = waits {
            network.waiting[kind as usize].insert(now, self.id);
            waiting[kind as usize] += 1;
            drop(state);
            self.places.changed.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        if let Some(mut connection) = state.remove(self.network, self.id) {
            state.parts.release(&mut connection);
        }
        drop(state);
        self.places.changed.notify_one();
    }
}

/// Who sent one request. Kept until its answer is sent.
#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) address: IpAddr,
    place: Arc<Place>,
    /// The tenant by whose key it came, once the gateway knows who it is.
    known: OnceLock<Option<TenantName>>,
}

impl Visitor {
    pub(super) fn new(address: IpAddr, place: &Arc<Place>) -> Self {
        Self { address, place: Arc::clone(place), known: OnceLock::new() }
    }

    /// The gateway knows who it is: from now on its connection is at work.
    pub(super) fn is_known(&self, principal: &Principal) {
        let tenant = principal.key.is_some().then(|| principal.tenant.clone());
        if self.known.set(tenant).is_ok() {
            self.place.begins(self.tenant());
        }
    }

    /// The tenant by whose key the request came; `None` also for who needs no key.
    pub(super) fn tenant(&self) -> Option<&TenantName> {
        self.known.get()?.as_ref()
    }

    /// Ends its connection, with all that is under way on it.
    pub(super) fn cut(&self) {
        self.place.cut.notify_one();
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        if self.known.get().is_some() {
            self.place.ends();
        }
    }
}

#[cfg(test)]
mod tests;
