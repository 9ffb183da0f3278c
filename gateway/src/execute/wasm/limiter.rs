//! Bounds on the memories and tables of one store, all of them together.

use wasmtime::{Error, ResourceLimiter, Result};

use crate::limits::SandboxLimits;

use super::engine::{MAX_CORE_MODULES, MAX_TABLES};

/// wasmtime's own limiter bounds each memory and each table; this one bounds their sums, so that a second memory does
/// not buy a second allowance.
#[derive(Debug)]
pub(super) struct Limiter {
    memory: Allowance,
    table: Allowance,
    refused: bool,
    starved: bool,
}

#[derive(Debug)]
struct Allowance {
    limit: usize,
    used: usize,
    /// What the last permitted growth added, to be given back if the growth then fails.
    last: usize,
}

impl Allowance {
    fn new(limit: usize) -> Self {
        Self { limit, used: 0, last: 0 }
    }

    fn take(&mut self, current: usize, desired: usize) -> bool {
        let more = desired.saturating_sub(current);
        let Some(used) = self.used.checked_add(more).filter(|used| *used <= self.limit) else {
            return false;
        };
        self.used = used;
        self.last = more;
        true
    }

    fn give_back(&mut self) {
        self.used -= std::mem::take(&mut self.last);
    }
}

impl Limiter {
    pub(super) fn new(limits: &SandboxLimits) -> Self {
        Self {
            memory: Allowance::new(limits.memory_bytes),
            table: Allowance::new(limits.table_elements),
            refused: false,
            starved: false,
        }
    }

    /// Whether a growth was refused: a trap that follows is for want of memory.
    pub(super) fn refused(&self) -> bool {
        self.refused
    }

    /// Bytes of all memories. They only ever grow, so at the end this is the most that there was.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory.used
    }

    /// Whether a growth within bounds failed because this process itself could get no more memory.
    pub(super) fn starved(&self) -> bool {
        self.starved
    }

    /// Room for what the gateway itself adds to a guest's memory while taking the snapshot, in bytes.
    pub(super) fn extend(&mut self, bytes: usize) {
        self.memory.limit = self.memory.limit.saturating_add(bytes);
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if !self.memory.take(current, desired) {
            self.refused = true;
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            // The module's own maximum: the growth fails without any refusal of ours.
            self.memory.give_back();
            return Ok(false);
        }
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _: Error) -> Result<()> {
        self.starved = true;
        self.memory.give_back();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if !self.table.take(current, desired) {
            self.refused = true;
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            self.table.give_back();
            return Ok(false);
        }
        Ok(true)
    }

    fn table_grow_failed(&mut self, _: Error) -> Result<()> {
        self.table.give_back();
        Ok(())
    }

    fn instances(&self) -> usize {
        // One more for the module that reads the state out while a snapshot is taken.
        MAX_CORE_MODULES as usize + 1
    }

    fn tables(&self) -> usize {
        MAX_TABLES as usize
    }

    fn memories(&self) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter() -> Limiter {
        Limiter::new(&SandboxLimits { memory_bytes: 100, table_elements: 10, ..Default::default() })
    }

    #[test]
    fn the_sum_over_all_memories_is_bounded() {
        let mut limiter = limiter();
        assert!(limiter.memory_growing(0, 60, None).expect("an answer"));
        assert!(!limiter.refused());
        assert!(!limiter.memory_growing(0, 60, None).expect("an answer"));
        assert!(limiter.refused());
        assert!(limiter.memory_growing(0, 40, None).expect("an answer"));
        assert_eq!(limiter.memory_bytes(), 100);
    }

    #[test]
    fn tables_have_an_allowance_of_their_own() {
        let mut limiter = limiter();
        assert!(limiter.memory_growing(0, 100, None).expect("an answer"));
        assert!(limiter.table_growing(0, 10, None).expect("an answer"));
        assert!(!limiter.table_growing(0, 1, None).expect("an answer"));
    }

    #[test]
    fn a_growth_that_fails_is_given_back() {
        let mut limiter = limiter();
        assert!(limiter.memory_growing(0, 100, None).expect("an answer"));
        limiter.memory_grow_failed(Error::msg("no memory")).expect("an answer");
        assert_eq!(limiter.memory_bytes(), 0);
        assert!(limiter.starved() && !limiter.refused());
        assert!(!limiter.memory_growing(0, 50, Some(40)).expect("an answer"));
        assert!(!limiter.refused(), "the module's own maximum is not a refusal");
        assert!(limiter.memory_growing(0, 100, None).expect("an answer"));
    }
}
