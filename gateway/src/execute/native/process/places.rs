//! How many workers there are in all, and whose.

use std::{
    collections::HashMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::name::TenantName;

/// Time between two looks at whether a worker is still wanted, and whether another one could go for it.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Whose models workers run; `None` is the operator.
pub type Owner = Option<TenantName>;

#[derive(Debug)]
pub struct Places {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Places that one tenant may have. The operator is not bounded.
    each: usize,
    taken: HashMap<Owner, usize>,
    /// Those who wait for a place, each as often as for one, in the order in which they came.
    waiting: Vec<(u64, Owner)>,
    /// Of who comes next.
    number: u64,
}

impl State {
    fn taken(&self, owner: &Owner) -> usize {
        self.taken.get(owner).copied().unwrap_or(0)
    }

    /// Whether somebody has as many as they may have.
    fn is_full(&self, owner: &Owner) -> bool {
        owner.is_some() && self.taken(owner) >= self.each
    }

    /// Whether nobody waits who has fewer, or as many and came before. Those that may have no more are not in line.
    fn is_first(&self, number: u64, owner: &Owner) -> bool {
        let own = (self.taken(owner), number);
        let mut others = self.waiting.iter().filter(|(_, other)| !self.is_full(other));
        others.all(|(number, other)| (self.taken(other), *number) >= own)
    }

    fn may_take(&self, number: u64, owner: &Owner) -> bool {
        self.free > 0 && !self.is_full(owner) && self.is_first(number, owner)
    }
}

impl Places {
    /// So many places, of which one tenant may have `each`.
    pub fn new(places: usize, each: usize) -> Self {
        let state = State { free: places, each, taken: HashMap::new(), waiting: Vec::new(), number: 0 };
        Self { state: Mutex::new(state), freed: Condvar::new() }
    }

    pub fn taken(&self, owner: &Owner) -> usize {
        self.lock().taken(owner)
    }

    /// Whether this owner may have no more than there are of theirs.
    pub fn is_full(&self, owner: &Owner) -> bool {
        self.lock().is_full(owner)
    }

    /// How many wait for what one of this owner's waits for: for a place of their own if they may have no more, else for any.
    pub fn needs(&self, owner: &Owner) -> usize {
        let state = self.lock();
        let full = state.is_full(owner);
        let same = |other: &Owner| if full { other == owner } else { !state.is_full(other) };
        state.waiting.iter().filter(|(_, other)| same(other)).count()
    }

    /// Waits for a place, of which the next one is for whoever has fewest of them and came first; `None` once it is not
    /// wanted any more. `make_room` is called while there is none, or the owner may have no more.
    pub fn take(
        &self,
        owner: &Owner,
        mut wanted: impl FnMut() -> bool,
        make_room: impl Fn(),
    ) -> Option<Place<'_>> {
        let waiting = Waiting::new(self, owner.clone());
        loop {
            if !wanted() {
                return None;
            }
            let mut state = self.lock();
            if state.may_take(waiting.number, owner) {
                state.free -= 1;
                *state.taken.entry(owner.clone()).or_default() += 1;
                drop(state);
                drop(waiting);
                return Some(Place { places: self, owner: owner.clone() });
            }
            if state.free == 0 || state.is_full(owner) {
                drop(state);
                make_room();
                state = self.lock();
            }
            if !state.may_take(waiting.number, owner) {
                drop(self.freed.wait_timeout(state, LOOK_INTERVAL));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, and the counts are right at every point.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for a place.
struct Waiting<'a> {
    places: &'a Places,
    number: u64,
}

impl<'a> Waiting<'a> {
    fn new(places: &'a Places, owner: Owner) -> Self {
        let mut state = places.lock();
        let number = state.number;
        state.number += 1;
        state.waiting.push((number, owner));
        Self { places, number }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        state.waiting.retain(|(number, _)| *number != self.number);
        drop(state);
        // Others may have waited behind it.
        self.places.freed.notify_all();
    }
}

/// One worker's place among all of them.
#[derive(Debug)]
pub struct Place<'a> {
    places: &'a Places,
    owner: Owner,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        state.free += 1;
        if let Some(taken) = state.taken.get_mut(&self.owner) {
            *taken -= 1;
            if *taken == 0 {
                state.taken.remove(&self.owner);
            }
        }
        drop(state);
        self.places.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        thread,
    };

    use super::*;

    fn owner(name: &str) -> Owner {
        Some(name.parse().expect("a name"))
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let places = Places::new(2, 2);
        let (a, b) = (owner("a"), owner("b"));
        let first = places.take(&a, || true, || ()).expect("free");
        let _second = places.take(&b, || true, || ()).expect("free");
        let mut looks = 0;
        let wanted = || {
            looks += 1;
            looks < 3
        };
        assert!(places.take(&a, wanted, || ()).is_none());
        assert_eq!((places.taken(&a), places.taken(&b), places.taken(&None)), (1, 1, 0));
        drop(first);
        assert_eq!(places.taken(&a), 0);
        assert!(places.take(&a, || false, || ()).is_none(), "not wanted");
        assert!(places.take(&a, || true, || ()).is_some());
        assert!(places.lock().waiting.is_empty());
    }

    #[test]
    fn whoever_has_fewest_is_next() {
        let places = Arc::new(Places::new(3, 3));
        let (greedy, modest) = (owner("greedy"), owner("modest"));
        let mut held: Vec<_> = (0..3).map(|_| places.take(&greedy, || true, || ()).expect("free")).collect();
        let (took, order) = mpsc::channel();
        let start = |owner: Owner| {
            let (places, took) = (Arc::clone(&places), took.clone());
            let before = places.lock().waiting.len();
            let other = Arc::clone(&places);
            let waiter = thread::spawn(move || {
                let place = places.take(&owner, || true, || ()).expect("wanted");
                took.send(owner).expect("the test listens");
                drop(place);
            });
            while other.lock().waiting.len() == before {
                thread::yield_now();
            }
            waiter
        };
        // The greedy one asked first.
        let waiters = [start(greedy.clone()), start(modest.clone())];
        drop(held.pop());
        assert_eq!(order.recv(), Ok(modest));
        assert_eq!(order.recv(), Ok(greedy));
        waiters.into_iter().for_each(|waiter| waiter.join().expect("no panic"));
    }

    #[test]
    fn of_equals_the_first_to_come_is_next() {
        let places = Places::new(1, 1);
        let (a, b) = (owner("a"), owner("b"));
        let held = places.take(&a, || true, || ()).expect("free");
        let waiting = Waiting::new(&places, b.clone());
        drop(held);
        // The one that let it go does not have it back before.
        let mut looks = 0;
        let wanted = || {
            looks += 1;
            looks < 3
        };
        assert!(places.take(&a, wanted, || ()).is_none());
        drop(waiting);
        assert!(places.take(&a, || true, || ()).is_some());
    }

    #[test]
    fn a_tenant_has_no_more_than_its_part_and_keeps_nobody_waiting_for_more() {
        let places = Places::new(4, 1);
        let (a, b) = (owner("a"), owner("b"));
        let held = places.take(&a, || true, || ()).expect("free");
        let mut looks = 0;
        let (asked, wanted) = (std::cell::Cell::new(0), || {
            looks += 1;
            looks < 3
        });
        assert!(places.take(&a, wanted, || asked.set(asked.get() + 1)).is_none());
        assert!(asked.get() > 0, "one of its own could go");
        // The operator has more, and those who wait for what they cannot have are not before it.
        let waiting = Waiting::new(&places, a.clone());
        let _operator = [places.take(&None, || true, || ()), places.take(&None, || true, || ())];
        assert_eq!((places.taken(&None), places.is_full(&None)), (2, false));
        assert_eq!((places.needs(&a), places.needs(&b)), (1, 0));
        drop((waiting, held));
        assert!(places.take(&a, || true, || ()).is_some());
    }
}
