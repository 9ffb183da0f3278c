//! What one request has used of the machine so far, added up by whoever runs a part of it.
//!
//! A run and the models that it calls share one consumption: what they use is billed to the client that asked.

use std::{
    cell::Cell,
    marker::PhantomData,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

/// Grows for as long as something runs for the request, which may be a little longer than the client waits for it.
#[derive(Debug, Default)]
pub struct Consumption {
    cpu_nanos: AtomicU64,
    peak_memory_bytes: AtomicU64,
    called_others: AtomicBool,
    batch: AtomicU64,
}

/// How the run for a request was an execution of its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// It ran alone.
    Own,
    /// With other requests, in a batch of so many rows; it counts for all of them.
    First { rows: u64 },
    /// With other requests, one of which counts for it.
    Shared,
}

impl Consumption {
    const SHARED: u64 = u64::MAX;
}

impl Consumption {
    /// Adds the CPU time that this thread takes until the returned value is dropped, which must happen on this thread.
    /// Time in which the thread waits, or another one works for it, is not counted.
    #[must_use]
    pub fn on_this_thread(&self) -> OnThread<'_> {
        OnThread { consumption: self, since: Since::now(), stays: PhantomData }
    }

    /// Adds CPU time that another process took.
    pub fn elsewhere(&self, time: Duration) {
        self.nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds CPU time in nanoseconds: its part of what was used for several requests.
    pub fn nanos(&self, nanos: u64) {
        self.cpu_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Notes that it ran in a batch of so many rows, and whether it is the one that the batch is counted by.
    pub fn in_batch(&self, rows: u64, first: bool) {
        self.batch.store(if first { rows } else { Self::SHARED }, Ordering::Relaxed);
    }

    pub fn execution(&self) -> Execution {
        match self.batch.load(Ordering::Relaxed) {
            0 => Execution::Own,
            Self::SHARED => Execution::Shared,
            rows => Execution::First { rows },
        }
    }

    /// Notes the most memory that one instance had, in bytes. Instances that call each other are not added up.
    pub fn memory(&self, bytes: usize) {
        self.peak_memory_bytes.fetch_max(bytes as u64, Ordering::Relaxed);
    }

    /// Notes that a model called another one.
    pub fn calls_another(&self) {
        self.called_others.store(true, Ordering::Relaxed);
    }

    /// Whether one model alone ran.
    pub fn is_of_one_model(&self) -> bool {
        !self.called_others.load(Ordering::Relaxed)
    }

    pub fn cpu_nanos(&self) -> u64 {
        self.cpu_nanos.load(Ordering::Relaxed)
    }

    pub fn peak_memory_bytes(&self) -> u64 {
        self.peak_memory_bytes.load(Ordering::Relaxed)
    }
}

/// Work on this thread that a request is billed for, until dropped: also by a panic.
#[derive(Debug)]
pub struct OnThread<'a> {
    consumption: &'a Consumption,
    since: Since,
    /// The clock is this thread's own.
    stays: PhantomData<*const ()>,
}

impl OnThread<'_> {
    /// Ends it, and says how many nanoseconds it was.
    pub fn end(self) -> u64 {
        let used = self.since.used();
        self.consumption.nanos(used);
        std::mem::forget(self);
        used
    }
}

impl Drop for OnThread<'_> {
    fn drop(&mut self) {
        self.consumption.nanos(self.since.used());
    }
}

thread_local! {
    /// When the thread's clock was read last, and what it said.
    static LAST: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
}

/// How old the last reading may be for the next one to be left out.
const RECENT: Duration = Duration::from_millis(1);

/// From when on processor time counts. The clock is a call of the kernel, and takes as long as a short run does besides; so after
/// a recent reading it is not read when a run begins, but only when it ends.
#[derive(Clone, Copy, Debug)]
enum Since {
    Reading(u64),
    /// The run began then, after the last reading. It had no more than the time that passed, and no more than the thread had since
    /// that reading. Both are more than it had if the thread lost the processor in the middle: by what it did for others in the
    /// millisecond before, at most.
    Recently(Instant, u64),
}

impl Since {
    fn now() -> Self {
        match LAST.get() {
            Some((read, nanos)) => {
                let now = Instant::now();
                if now.saturating_duration_since(read) < RECENT {
                    Self::Recently(now, nanos)
                } else {
                    Self::Reading(thread_nanos())
                }
            }
            None => Self::Reading(thread_nanos()),
        }
    }

    /// Nanoseconds until now.
    fn used(self) -> u64 {
        let (now, nanos) = (Instant::now(), thread_nanos());
        LAST.set(Some((now, nanos)));
        match self {
            Self::Reading(since) => nanos.saturating_sub(since),
            Self::Recently(began, before) => {
                let passed = now.saturating_duration_since(began).as_nanos();
                nanos.saturating_sub(before).min(u64::try_from(passed).unwrap_or(u64::MAX))
            }
        }
    }
}

/// Processor time of this thread so far, in nanoseconds.
pub fn thread_nanos() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanos.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_and_waiting_is_not() {
        let consumption = Consumption::default();
        {
            let _time = consumption.on_this_thread();
            std::thread::sleep(Duration::from_millis(50));
        }
        let waited = consumption.cpu_nanos();
        assert!(waited < 20_000_000, "{waited} ns of CPU time in a sleep");
        {
            let _time = consumption.on_this_thread();
            let start = thread_nanos();
            while thread_nanos() - start < 5_000_000 {}
        }
        assert!(consumption.cpu_nanos() >= waited + 5_000_000);
    }

    #[test]
    fn one_run_after_another_is_counted_with_one_reading_and_no_less_than_it_took() {
        let consumption = Consumption::default();
        let spin = |nanos: u64| {
            let start = thread_nanos();
            while thread_nanos() - start < nanos {}
        };
        let mut recently = 0;
        for _ in 0..50 {
            let before = consumption.cpu_nanos();
            {
                let time = consumption.on_this_thread();
                recently += u64::from(matches!(time.since, Since::Recently(..)));
                spin(100_000);
            }
            assert!(consumption.cpu_nanos() - before >= 100_000);
        }
        // Not always: the thread may have lost the processor in between.
        assert!(recently > 0);
        // What was done before a run is not a part of it, and waiting within it is not either.
        drop(consumption.on_this_thread());
        spin(20_000_000);
        let before = consumption.cpu_nanos();
        drop(consumption.on_this_thread());
        {
            let _time = consumption.on_this_thread();
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(consumption.cpu_nanos() - before < 10_000_000);
    }

    #[test]
    fn the_largest_instance_is_the_peak() {
        let consumption = Consumption::default();
        consumption.memory(5);
        consumption.memory(3);
        assert_eq!(consumption.peak_memory_bytes(), 5);
    }
}
