//! How much of the gateway's log one tenant's models may fill: a number of bytes within a second, all of its calls together.
//!
//! What is more is left out, counted, and told in one line later. It bounds what guests write and what is told of their faults;
//! it does not bound lines at the level `debug`, nor those about a tenant's uploads, which are bounded in number.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::name::TenantName;

/// Bytes that are counted for each line beside its text: its time, its level and the names of its fields.
const BESIDE_TEXT: usize = 96;

const NANOS: u128 = 1_000_000_000;

/// How often it is told what was left out.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// What each tenant has left of its second.
#[derive(Debug)]
pub struct LogAllowance {
    bytes_per_second: u64,
    tenants: Mutex<HashMap<TenantName, Account>>,
}

#[derive(Debug)]
struct Account {
    left: u64,
    counted: Instant,
    left_out: u64,
}

impl Account {
    fn refill(&mut self, bytes_per_second: u64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.counted).as_nanos();
        let more = elapsed.saturating_mul(bytes_per_second.into()) / NANOS;
        let left = u128::from(self.left) + more;
        if left >= bytes_per_second.into() {
            (self.left, self.counted) = (bytes_per_second, now);
        } else if let (Ok(left), Some(nanos)) =
            (u64::try_from(left), (more * NANOS).checked_div(bytes_per_second.into()))
        {
            // What is less than a byte is kept for the next time.
            self.left = left;
            self.counted += Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
    }
}

impl LogAllowance {
    /// No more than that many bytes within a second for each tenant, and as many at once; 0 leaves out everything.
    pub fn new(bytes_per_second: usize) -> Self {
        Self { bytes_per_second: bytes_per_second as u64, tenants: Mutex::default() }
    }

    /// Whether a line with that many bytes of text may be written for a tenant. If not, it is counted as left out.
    pub fn admits(&self, tenant: &TenantName, bytes: usize) -> bool {
        self.admits_at(tenant, bytes, 1, Instant::now())
    }

    /// The same for a line that tells how many others are missing: if it may not be written, those are counted.
    pub fn admits_count(&self, tenant: &TenantName, bytes: usize, lines: u64) -> bool {
        self.admits_at(tenant, bytes, lines, Instant::now())
    }

    /// Writes a line for each tenant of which something was left out since the last time, and forgets those that say no more
    /// than a new one would.
    pub fn report(&self) {
        for (tenant, lines) in self.left_out(Instant::now()) {
            let allowed = self.bytes_per_second;
            tracing::warn!(
                %tenant,
                lines,
                "lines of this tenant's models were left out or cut; they may take {allowed} bytes a second"
            );
        }
    }

    /// [`report`](Self::report)s again and again, for as long as it is awaited.
    pub async fn keep_reporting(&self) {
        loop {
            tokio::time::sleep(REPORT_INTERVAL).await;
            self.report();
        }
    }

    fn admits_at(&self, tenant: &TenantName, bytes: usize, lines: u64, now: Instant) -> bool {
        let bytes = bytes.saturating_add(tenant.as_str().len() + BESIDE_TEXT) as u64;
        self.with(tenant, now, |account| {
            account.refill(self.bytes_per_second, now);
            let left = account.left.checked_sub(bytes);
            match left {
                Some(left) => account.left = left,
                None => account.left_out += lines,
            }
            left.is_some()
        })
    }

    fn left_out(&self, now: Instant) -> Vec<(TenantName, u64)> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = Vec::new();
        tenants.retain(|tenant, account| {
            account.refill(self.bytes_per_second, now);
            if account.left_out > 0 {
                told.push((tenant.clone(), std::mem::take(&mut account.left_out)));
            }
            account.left < self.bytes_per_second
        });
        told
    }

    fn with<T>(&self, tenant: &TenantName, now: Instant, work: impl FnOnce(&mut Account) -> T) -> T {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let account = match tenants.entry(tenant.clone()) {
            Entry::Occupied(account) => account.into_mut(),
            Entry::Vacant(place) => {
                place.insert(Account { left: self.bytes_per_second, counted: now, left_out: 0 })
            }
        };
        work(account)
    }
}

impl Default for LogAllowance {
    fn default() -> Self {
        Self::new(crate::limits::WorkerLimits::default().log_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantName {
        name.parse().expect("a name")
    }

    #[test]
    fn a_second_s_bytes_are_admitted_at_once_and_then_as_they_come() {
        let (allowance, begun, acme) = (LogAllowance::new(10 << 10), Instant::now(), tenant("acme"));
        let admits = |millis| allowance.admits_at(&acme, 924, 1, begun + Duration::from_millis(millis));
        // Each line counts 1 KiB.
        assert_eq!((0..1000).filter(|_| admits(0)).count(), 10);
        assert_eq!((0..1000).filter(|_| admits(100)).count(), 1);
        // Asked often, nothing is lost to rounding: 1000 ms bring ten more.
        assert_eq!((101..=1100).filter(|millis| admits(*millis)).count(), 10);
        assert_eq!((0..1000).filter(|_| admits(60_000)).count(), 10, "no more than a second's is saved up");
        assert_eq!((0..1000).filter(|_| admits(0)).count(), 0, "a clock that seems to go back gives nothing");
    }

    #[test]
    fn what_is_left_out_is_told_once_and_a_quiet_tenant_is_forgotten() {
        let (allowance, begun) = (LogAllowance::new(1 << 10), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!((0..5).filter(|_| allowance.admits_at(&tenant("loud"), 900, 1, begun)).count(), 1);
        assert!(
            allowance.admits_at(&tenant("calm"), 900, 1, begun),
            "the other's lines are not counted here"
        );
        assert_eq!(allowance.left_out(begun), [(tenant("loud"), 4)]);
        assert_eq!(allowance.left_out(begun), []);
        assert!(!allowance.admits_at(&tenant("cut"), 9000, 3, begun), "it stands for three");
        assert_eq!(allowance.left_out(at(2)), [(tenant("cut"), 3)]);
        assert!(allowance.tenants.lock().expect("no panic").is_empty());
    }

    #[test]
    fn none_at_all_is_a_choice() {
        assert!(!LogAllowance::new(0).admits(&tenant("acme"), 0));
    }
}
