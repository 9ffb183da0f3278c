//! What one tenant has taken of what it may: tokens of its rate, places among its running requests, and bytes in memory.
//!
//! Nothing runs in the background: tokens are counted when somebody asks, and a place that is given back goes to who waits
//! longest. Whose place it is next among all tenants is not decided here.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{AdmitError, pace::Pace};
use crate::deadline::Deadline;

/// The state of one tenant that has limits on its calls.
#[derive(Debug, Default)]
pub struct Account {
    state: Mutex<State>,
    pub(super) pace: Pace,
    /// Of its requests and answers.
    pub(super) buffered: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    /// None before the first request that is counted.
    bucket: Option<Bucket>,
    running: u64,
    /// Requests that are under way, from their arrival until they are answered.
    seated: u64,
    /// Requests that may run, as the last one was told: the operator may change it at any time.
    most: u64,
    waiting: VecDeque<oneshot::Sender<Place>>,
}

/// Tokens, of which each request takes one.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    counted: Instant,
    /// When it will be full if nothing is taken.
    full: Instant,
}

impl Bucket {
    /// Takes a token, or says after what time there will be one.
    fn take(&mut self, rate: f64, burst: f64, now: Instant) -> Result<(), Duration> {
        let elapsed = now.saturating_duration_since(self.counted).as_secs_f64();
        let tokens = (self.tokens + elapsed * rate).min(burst);
        let taken = if tokens >= 1.0 { Ok(tokens - 1.0) } else { Err(tokens) };
        self.tokens = taken.unwrap_or(tokens);
        self.counted = now;
        self.full = now + Duration::from_secs_f64((burst - self.tokens) / rate);
        taken.map(drop).map_err(|tokens| Duration::from_secs_f64((1.0 - tokens) / rate))
    }
}

impl Account {
    /// How many requests wait for one of its places.
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a token of `rate` a second, of which `burst` can be saved up, or says after what time there will be one.
    pub(super) fn take(&self, rate: f64, burst: f64, now: Instant) -> Result<(), Duration> {
        let full = Bucket { tokens: burst, counted: now, full: now };
        self.lock().bucket.get_or_insert(full).take(rate, burst, now)
    }

    /// Whether forgetting it would give the tenant nothing that it does not have; its places are known by who holds them.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.lock().bucket.is_none_or(|bucket| bucket.full <= now) && self.pace.is_idle(now)
    }

    /// A seat among as many as may run and wait.
    pub(super) fn seat(self: &Arc<Self>, running: u64, queued: u64) -> Result<Seat, AdmitError> {
        let mut state = self.lock();
        if state.seated >= running.saturating_add(queued) {
            return Err(AdmitError::TenantBusy { running, queued });
        }
        state.seated += 1;
        drop(state);
        Ok(Seat(Arc::clone(self)))
    }

    /// Waits for one of `running` places, until the deadline at most, with no more than `queued` others.
    pub(super) async fn place(
        self: &Arc<Self>,
        running: u64,
        queued: u64,
        deadline: Deadline,
    ) -> Result<Place, AdmitError> {
        let turn = {
            let mut state = self.lock();
            state.most = running;
            // There may be more places than when they came, and some have left.
            self.give(&mut state);
            state.waiting.retain(|waiting| !waiting.is_closed());
            if state.running < state.most {
                state.running += 1;
                return Ok(Place(Some(Arc::clone(self))));
            }
            if state.waiting.len() as u64 >= queued {
                return Err(AdmitError::TenantBusy { running, queued });
            }
            let (give, turn) = oneshot::channel();
            state.waiting.push_back(give);
            turn
        };
        match tokio::time::timeout_at(deadline.instant().into(), turn).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(AdmitError::Deadline),
        }
    }

    /// Gives free places to those who wait longest.
    fn give(self: &Arc<Self>, state: &mut State) {
        while state.running < state.most
            && let Some(waiting) = state.waiting.pop_front()
        {
            match waiting.send(Place(Some(Arc::clone(self)))) {
                Ok(()) => state.running += 1,
                // It has left; dropped as it is, the place would ask for the lock that is held here.
                Err(mut place) => drop(place.0.take()),
            }
        }
    }
}

/// One of a tenant's requests that are under way.
#[derive(Debug)]
pub struct Seat(Arc<Account>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.lock().seated -= 1;
    }
}

/// A place among a tenant's running requests; given back when dropped, also on the way to who left meanwhile.
#[derive(Debug)]
pub(super) struct Place(Option<Arc<Account>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(account) = self.0.take() {
            let mut state = account.lock();
            state.running -= 1;
            account.give(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_millis(20))
    }

    fn later() -> Deadline {
        Deadline::after(Duration::from_secs(30))
    }

    /// Waits until that many requests wait.
    async fn waiting(account: &Account, count: usize) {
        let are = || account.lock().waiting.iter().filter(|waiting| !waiting.is_closed()).count();
        while are() != count {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_burst_is_let_in_and_then_the_rate() {
        let (account, begun) = (Account::default(), Instant::now());
        let take = |millis| account.take(2.0, 3.0, begun + Duration::from_millis(millis));
        assert!((0..3).all(|_| take(0).is_ok()));
        assert_eq!(take(0), Err(Duration::from_millis(500)));
        assert_eq!(take(250), Err(Duration::from_millis(250)));
        assert_eq!(take(500), Ok(()));
        assert!(take(500).is_err());
        // However long it is quiet, no more than the burst is saved up.
        assert_eq!((0..10).filter(|_| take(60_000).is_ok()).count(), 3);
        assert!(!account.is_full(begun + Duration::from_millis(61_000)));
        assert!(account.is_full(begun + Duration::from_millis(61_501)));
    }

    #[test]
    fn a_clock_that_seems_to_go_back_gives_nothing() {
        let (account, begun) = (Account::default(), Instant::now() + Duration::from_secs(60));
        assert_eq!(account.take(1.0, 1.0, begun), Ok(()));
        assert!(account.take(1.0, 1.0, begun - Duration::from_secs(50)).is_err());
    }

    #[tokio::test]
    async fn who_waits_longest_is_next_and_who_left_is_not() {
        let account = Arc::new(Account::default());
        let first = account.place(1, 3, soon()).await.expect("a free place");
        let queue = |order: Arc<Mutex<Vec<u8>>>, name| {
            let account = Arc::clone(&account);
            tokio::spawn(async move {
                let _place = account.place(1, 3, later()).await.expect("a place in the end");
                order.lock().expect("no panic").push(name);
            })
        };
        let order = Arc::new(Mutex::new(Vec::new()));
        let second = queue(Arc::clone(&order), 2);
        waiting(&account, 1).await;
        let leaves = queue(Arc::clone(&order), 3);
        waiting(&account, 2).await;
        let fourth = queue(Arc::clone(&order), 4);
        waiting(&account, 3).await;
        let refused = account.place(1, 3, soon()).await.map(drop);
        assert_eq!(refused, Err(AdmitError::TenantBusy { running: 1, queued: 3 }));
        leaves.abort();
        assert!(leaves.await.is_err());
        drop(first);
        second.await.expect("no panic");
        fourth.await.expect("no panic");
        assert_eq!(*order.lock().expect("no panic"), [2, 4]);
        let state = account.lock();
        assert_eq!((state.running, state.waiting.len()), (0, 0));
    }

    #[tokio::test]
    async fn places_may_become_more_and_fewer_while_they_are_taken() {
        let account = Arc::new(Account::default());
        let one = account.place(2, 1, soon()).await.expect("a free place");
        let two = account.place(2, 1, soon()).await.expect("a free place");
        // Fewer: nobody is thrown out, and nobody comes in until there are fewer.
        assert_eq!(
            account.place(1, 0, soon()).await.map(drop).expect_err("none free"),
            AdmitError::TenantBusy { running: 1, queued: 0 }
        );
        drop(one);
        assert_eq!(account.place(1, 1, soon()).await.map(drop), Err(AdmitError::Deadline));
        // More: those who wait come in with the next one.
        let waits = tokio::spawn({
            let account = Arc::clone(&account);
            async move { account.place(1, 1, later()).await }
        });
        waiting(&account, 1).await;
        let three = account.place(3, 0, soon()).await.expect("a free place");
        let waited = waits.await.expect("no panic").expect("a place");
        assert_eq!(account.lock().running, 3);
        drop((two, three, waited));
        assert_eq!(account.lock().running, 0);
    }

    #[tokio::test]
    async fn a_place_that_arrives_too_late_is_not_lost() {
        let account = Arc::new(Account::default());
        let place = account.place(1, 1, soon()).await.expect("a free place");
        let mut waits = Box::pin(account.place(1, 1, later()));
        assert!((&mut waits).now_or_never().is_none());
        drop(place);
        assert_eq!(account.lock().running, 1, "it is on its way");
        drop(waits);
        assert_eq!(account.lock().running, 0);
    }
}
