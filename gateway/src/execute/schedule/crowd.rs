//! Who takes turns where requests are served, and whether one tenant fills these threads while others need them.
//!
//! What waits there waits in sockets and in the runtime's own queue, where nobody sees whose it is: a request of one tenant
//! stands behind as many short calls as another one has sent. So a tenant that takes much more than the others are, beside
//! which it runs, takes its turns on the compute threads, which yield to those that serve.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::queue::TURN;
use crate::{execute::Share, name::TenantName};

/// Time over which turns are added up. Who has not called for so long is not one of the others.
const WINDOW: Duration = Duration::from_millis(100);

/// The turns of this window, by tenant.
#[derive(Debug)]
pub struct Crowd {
    began: Instant,
    /// Nanoseconds by weight, see [`Share::time`].
    had: HashMap<TenantName, u64>,
    /// Tenants of the window before.
    before: usize,
}

impl Crowd {
    pub fn new(now: Instant) -> Self {
        Self { began: now, had: HashMap::new(), before: 0 }
    }

    /// Whether a tenant may take a turn here: always when it is alone; beside others if it had no more than a turn's time in
    /// this window, or not much more than they had on average.
    pub fn admits(&mut self, share: &Share, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.began);
        if passed >= WINDOW {
            self.before = if passed < 2 * WINDOW { self.had.len() } else { 0 };
            self.had.clear();
            self.began = now;
        }
        if !self.had.contains_key(&share.tenant) {
            self.had.insert(share.tenant.clone(), 0);
        }
        let tenants = self.had.len().max(self.before);
        if tenants <= 1 {
            return true;
        }
        let own = self.had.get(&share.tenant).copied().unwrap_or(0);
        let all: u64 = self.had.values().sum();
        let average = all / u64::try_from(tenants).unwrap_or(u64::MAX);
        u128::from(own) <= TURN.as_nanos().max(u128::from(average) * 3 / 2)
    }

    /// A turn of a tenant has ended that took so long.
    pub fn took(&mut self, share: &Share, time: Duration) {
        let nanos = share.time(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        if let Some(had) = self.had.get_mut(&share.tenant) {
            *had = had.saturating_add(nanos);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Duration = Duration::from_micros(50);

    fn share(tenant: &str, weight: u32) -> Share {
        Share { tenant: tenant.parse().expect("a name"), weight }
    }

    /// Calls one after the other for so long, those that are not admitted included. Returns how many were admitted.
    fn calls(crowd: &mut Crowd, share: &Share, from: Instant, count: u32) -> u32 {
        let admitted = (0..count).filter(|call| {
            let admitted = crowd.admits(share, from + CALL * *call);
            if admitted {
                crowd.took(share, CALL);
            }
            admitted
        });
        u32::try_from(admitted.count()).expect("no more than there were")
    }

    #[test]
    fn who_is_alone_takes_every_turn() {
        let start = Instant::now();
        assert_eq!(calls(&mut Crowd::new(start), &share("alone", 100), start, 10_000), 10_000);
    }

    #[test]
    fn who_takes_much_more_than_the_other_goes_elsewhere() {
        let start = Instant::now();
        let (few, many) = (share("few", 100), share("many", 100));
        let mut crowd = Crowd::new(start);
        assert_eq!(calls(&mut crowd, &few, start, 1), 1);
        // Two milliseconds, and the call that goes beyond.
        assert_eq!(calls(&mut crowd, &many, start, 1000), 41);
        assert_eq!(calls(&mut crowd, &few, start + CALL * 1000, 10), 10);
        // In the next window the other one has not come yet, and is known all the same.
        assert_eq!(calls(&mut crowd, &many, start + WINDOW, 1000), 41);
        // Who has left is forgotten.
        assert_eq!(calls(&mut crowd, &many, start + 3 * WINDOW, 1000), 1000);
    }

    #[test]
    fn equals_stay_where_they_are_and_weight_counts() {
        let start = Instant::now();
        let (one, two, heavy) = (share("one", 100), share("two", 100), share("heavy", 1000));
        let mut crowd = Crowd::new(start);
        for round in 0..500 {
            for share in [&one, &two] {
                assert_eq!(calls(&mut crowd, share, start + CALL * 2 * round, 1), 1, "{round}");
            }
        }
        assert_eq!(calls(&mut crowd, &heavy, start + CALL * 1000, 1000), 1000);
    }
}
