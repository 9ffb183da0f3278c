//! Places: how many connections there may be, and whose goes when there are no more.
//!
//! A connection is at work while a request of somebody whom the gateway knows is under way on it, from its head to the
//! last byte of its answer. All others wait: they are silent, half-way through a head, kept for later, or send what is
//! refused. They are welcome while there is room, and none of them can keep anybody out: who comes when every place is
//! taken gets one that waits. Strangers go before those that have been at work, and of either kind the one that has
//! waited longest, from the address that has most of them.
//!
//! What this does not stop: connections that are all at work. They are bounded by what each tenant may have under way.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio::sync::Notify;

use crate::{authenticate::network, limits::ListenLimits};

/// The places of one port.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    /// 0 is no limit but `max`.
    max_per_address: usize,
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
}

/// The connections of one address, or of one IPv6 network.
#[derive(Debug, Default)]
struct Network {
    connections: HashMap<u64, Connection>,
    /// Those that wait, by the moment at which they began to: strangers, and those that have been at work.
    waiting: [BTreeMap<u64, u64>; 2],
}

#[derive(Debug)]
struct Connection {
    /// Requests under way.
    at_work: usize,
    known: bool,
    waits_since: u64,
    cut: Arc<Notify>,
}

impl State {
    fn moment(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Ends the connection that is to go first, if any of that kind waits.
    fn cut(&mut self, known: bool) -> bool {
        let longest =
            self.networks.values_mut().max_by_key(|network| network.waiting[usize::from(known)].len());
        let Some(network) = longest else { return false };
        let Some((_, id)) = network.waiting[usize::from(known)].pop_first() else { return false };
        if let Some(connection) = network.connections.remove(&id) {
            connection.cut.notify_one();
            self.open -= 1;
        }
        true
    }

    fn cut_any(&mut self) -> bool {
        self.cut(false) || self.cut(true)
    }
}

impl Places {
    pub(super) fn new(limits: &ListenLimits) -> Arc<Self> {
        Arc::new(Self {
            max: limits.max_connections,
            max_per_address: limits.max_connections_per_address,
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
        state.open += 1;
        let (id, cut) = (state.moment(), Arc::new(Notify::new()));
        let connection = Connection { at_work: 0, known: false, waits_since: id, cut: Arc::clone(&cut) };
        let connections = state.networks.entry(network).or_default();
        connections.connections.insert(id, connection);
        connections.waiting[0].insert(id, id);
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

    fn change(&self, by: impl FnOnce(&mut Connection)) {
        let mut state = self.places.lock();
        let now = state.moment();
        let Some(network) = state.networks.get_mut(&self.network) else { return };
        let Some(connection) = network.connections.get_mut(&self.id) else { return };
        let (waited, was_known, since) = (connection.at_work == 0, connection.known, connection.waits_since);
        by(connection);
        connection.waits_since = now;
        let (waits, known) = (connection.at_work == 0, connection.known);
        if waited {
            network.waiting[usize::from(was_known)].remove(&since);
        }
        if waits {
            network.waiting[usize::from(known)].insert(now, self.id);
            drop(state);
            self.places.changed.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        let Some(network) = state.networks.get_mut(&self.network) else { return };
        if let Some(connection) = network.connections.remove(&self.id) {
            network.waiting[usize::from(connection.known)].remove(&connection.waits_since);
            state.open -= 1;
        }
        if state.networks.get(&self.network).is_some_and(|network| network.connections.is_empty()) {
            state.networks.remove(&self.network);
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
    known: OnceLock<()>,
}

impl Visitor {
    pub(super) fn new(address: IpAddr, place: &Arc<Place>) -> Self {
        Self { address, place: Arc::clone(place), known: OnceLock::new() }
    }

    /// The gateway knows who it is: from now on its connection is at work.
    pub(super) fn is_known(&self) {
        if self.known.set(()).is_ok() {
            self.place.change(|connection| {
                connection.known = true;
                connection.at_work += 1;
            });
        }
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        if self.known.get().is_some() {
            self.place.change(|connection| connection.at_work -= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn places(max: usize, max_per_address: usize) -> Arc<Places> {
        let limits = ListenLimits {
            max_connections: max,
            max_connections_per_address: max_per_address,
            ..ListenLimits::default()
        };
        Places::new(&limits)
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn take(places: &Arc<Places>, last: u8) -> Arc<Place> {
        places.take(address(last)).now_or_never().expect("at once").expect("a place")
    }

    fn lost(place: &Place) -> bool {
        place.lost().now_or_never().is_some()
    }

    fn at_work(place: &Arc<Place>) -> Visitor {
        let visitor = Visitor::new(address(0), place);
        visitor.is_known();
        visitor
    }

    #[test]
    fn the_address_with_most_of_those_that_wait_gives_up_its_oldest() {
        let places = places(4, 0);
        let all: Vec<_> = [1, 2, 2, 3].map(|last| take(&places, last)).into();
        let new = take(&places, 4);
        assert_eq!(
            [&all[0], &all[1], &all[2], &all[3], &new].map(|place| lost(place)),
            [false, true, false, false, false]
        );
        assert_eq!(places.open(), 4);
        drop((all, new));
        assert_eq!(places.open(), 0);
        assert!(places.lock().networks.is_empty());
    }

    #[test]
    fn strangers_go_before_those_who_were_at_work_and_these_before_nobody() {
        let places = places(3, 0);
        let (known, working, stranger) = (take(&places, 1), take(&places, 1), take(&places, 2));
        drop(at_work(&known));
        let work = at_work(&working);
        let first = take(&places, 3);
        let _work = at_work(&first);
        assert!(lost(&stranger));
        let second = take(&places, 3);
        assert!(lost(&known) && !lost(&working));
        let _more = at_work(&second);
        // All are at work now: the next one waits until one of them is not.
        let mut waits = Box::pin(places.take(address(9)));
        assert!((&mut waits).now_or_never().is_none());
        drop(work);
        let last = waits.now_or_never().flatten();
        assert!(last.is_some() && lost(&working));
        assert_eq!(places.open(), 3);
    }

    #[test]
    fn a_place_that_was_lost_is_not_given_back_twice() {
        let places = places(1, 0);
        let old = take(&places, 1);
        let visitor = Visitor::new(address(1), &old);
        let new = take(&places, 1);
        visitor.is_known();
        drop((visitor, old));
        assert_eq!(places.open(), 1);
        drop(new);
        assert!(places.empty().now_or_never().is_some());
    }

    #[test]
    fn an_address_has_no_more_than_it_may_and_no_other_feels_it() {
        let places = places(10, 2);
        let held = [take(&places, 1), take(&places, 1)];
        assert!(places.take(address(1)).now_or_never().expect("at once").is_none());
        let _other = take(&places, 2);
        drop(held);
        let _again = take(&places, 1);
    }
}
