//! Throttle: how often somebody has failed to authenticate of late.
//!
//! It decides about failures only. A valid key is always accepted, so nobody can lock a tenant out by guessing in its
//! name or from its address; and since checking a key costs a microsecond, nothing is saved by refusing to look. What it
//! stops is the flood of answers and log lines. Guessing itself is stopped by 256 random bits.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::KeyId;

/// Failures are counted over this time, then forgotten.
const WINDOW: Duration = Duration::from_secs(60);

/// Failures of one address, or with one key id, that are answered as such in a window.
pub const MAX_FAILURES: u32 = 30;

/// Who counts on the same slot counts together, which can only make a failure's answer a 429 too early.
const SLOTS: usize = 4096;

#[derive(Debug)]
pub struct Throttle {
    started: Instant,
    /// Places in the table cannot be chosen from outside.
    hasher: RandomState,
    addresses: Mutex<Box<[Slot]>>,
    ids: Mutex<Box<[Slot]>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    window: u64,
    failures: u32,
}

/// What is to be said to somebody who failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Refuse,
    /// Too many failures; the first one of these in a window is worth a line in the log.
    Slow {
        seconds: u32,
        first: bool,
    },
}

impl Default for Throttle {
    fn default() -> Self {
        let table = || Mutex::new(vec![Slot::default(); SLOTS].into_boxed_slice());
        Self { started: Instant::now(), hasher: RandomState::new(), addresses: table(), ids: table() }
    }
}

impl Throttle {
    /// Notes a failure of `peer`, with that key id if what it sent was a key at all.
    pub fn failed(&self, peer: IpAddr, id: Option<KeyId>) -> Verdict {
        self.failed_at(self.started.elapsed(), peer, id)
    }

    fn failed_at(&self, now: Duration, peer: IpAddr, id: Option<KeyId>) -> Verdict {
        let window = now.as_secs() / WINDOW.as_secs();
        let by_address = self.count(&self.addresses, window, network(peer));
        let by_id = id.map_or(0, |id| self.count(&self.ids, window, id));
        let most = by_address.max(by_id);
        if most <= MAX_FAILURES {
            return Verdict::Refuse;
        }
        let left = WINDOW.as_secs() - now.as_secs() % WINDOW.as_secs();
        let first = most == MAX_FAILURES + 1;
        Verdict::Slow { seconds: u32::try_from(left).unwrap_or(1), first }
    }

    fn count(&self, table: &Mutex<Box<[Slot]>>, window: u64, who: impl Hash) -> u32 {
        let place = self.hasher.hash_one(who) % SLOTS as u64;
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut table[usize::try_from(place).unwrap_or(0)];
        if slot.window != window {
            *slot = Slot { window, failures: 0 };
        }
        slot.failures = slot.failures.saturating_add(1);
        slot.failures
    }
}

/// Who has one IPv6 address has the 2^64 around it as well: those count as one.
pub fn network(peer: IpAddr) -> u128 {
    match peer.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn slow(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Slow { .. })
    }

    #[test]
    fn failures_of_one_address_are_answered_as_such_until_there_are_too_many() {
        let throttle = Throttle::default();
        let peer = address("192.0.2.1");
        for _ in 0..MAX_FAILURES {
            assert_eq!(throttle.failed_at(Duration::from_secs(70), peer, None), Verdict::Refuse);
        }
        let next = |at| throttle.failed_at(Duration::from_secs(at), peer, None);
        assert_eq!(next(70), Verdict::Slow { seconds: 50, first: true });
        assert_eq!(next(119), Verdict::Slow { seconds: 1, first: false });
        assert_eq!(next(120), Verdict::Refuse, "a new window begins");
    }

    #[test]
    fn one_key_id_is_counted_over_all_addresses() {
        let throttle = Throttle::default();
        let id: KeyId = "00112233aabbccdd".parse().expect("an id");
        let mut verdicts = Vec::new();
        for last in 0..=u8::try_from(MAX_FAILURES).expect("a small number") {
            let peer = IpAddr::from([198, 51, 100, last]);
            verdicts.push(throttle.failed_at(Duration::ZERO, peer, Some(id)));
        }
        assert!(slow(verdicts.pop().expect("verdicts")));
        assert!(!verdicts.into_iter().any(slow));
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_count_as_one() {
        assert_eq!(network(address("2001:db8::1")), network(address("2001:db8::ffff:2")));
        assert_ne!(network(address("2001:db8::1")), network(address("2001:db8:0:1::1")));
        assert_eq!(network(address("::ffff:192.0.2.1")), network(address("192.0.2.1")));
    }

    #[test]
    fn ten_thousand_addresses_take_no_more_memory_than_one() {
        let throttle = Throttle::default();
        for number in 0..10_000u32 {
            throttle.failed_at(Duration::ZERO, IpAddr::from(number.to_be_bytes()), None);
        }
        assert_eq!(throttle.addresses.lock().expect("no panic").len(), SLOTS);
    }
}
