//! Memory that was freed: how much of it the C library keeps for what is asked for next, and when that goes back.

use std::thread::available_parallelism;

/// Blocks from this size on have mappings of their own, which are the system's again as soon as they are freed. The most that
/// glibc admits.
const MAPPED_FROM: i32 = 32 << 20;

/// What each arena may keep at its end before it gives that back by itself.
const KEPT_AT_END: i32 = 32 << 20;

/// What is kept in all at any time.
const ALWAYS_KEPT: usize = 16 << 20;

/// Looks until what lies free is given back.
const LOOKS: u32 = 10;

/// Sets what the C library may keep. To be called before there are other threads.
#[allow(unsafe_code, reason = "the C library's settings have no safe interface")]
pub fn bound() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let cores = available_parallelism().map_or(1, usize::from);
        let arenas = i32::try_from(cores + 2).unwrap_or(i32::MAX);
        // SAFETY: it sets numbers of the allocator's, under its lock, and no other thread runs yet.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_AT_END);
            libc::mallopt(libc::M_ARENA_MAX, arenas);
        }
    }
}

/// Gives back what lies free for a while.
#[derive(Debug, Default)]
pub struct FreeMemory {
    looks: u32,
    /// Whether much lay free when this was looked at last.
    much: bool,
}

impl FreeMemory {
    /// To be called ten times a second. If much lies free now and did so a second ago, or if memory is short, it all goes back
    /// to the system: a tensor that comes then has its pages cleared anew, once a second at most.
    pub fn look(&mut self, memory_is_short: bool) {
        self.looks += 1;
        if self.looks < LOOKS {
            return;
        }
        self.looks = 0;
        let much = free_bytes() > ALWAYS_KEPT;
        if memory_is_short || (much && self.much) {
            // Which takes milliseconds if it is much, on a thread where nobody waits for them.
            tokio::task::spawn_blocking(give_back);
        }
        self.much = much;
    }
}

/// Bytes that were freed and are still the process's.
#[allow(unsafe_code, reason = "the C library has no safe interface for it")]
fn free_bytes() -> usize {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it counts, under the locks of the arenas.
        unsafe { libc::mallinfo2() }.fordblks
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    0
}

#[allow(unsafe_code, reason = "the C library has no safe interface for it")]
fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes no pointer and touches nothing but memory that was freed, under the locks of the arenas.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_lies_free_for_a_second_goes_back() {
        bound();
        // Blocks below the size from which they would be given back at once, and one behind them, so that they are not at the end.
        let blocks: Vec<Vec<u8>> = (0..8).map(|_| vec![1; 8 << 20]).collect();
        let behind = vec![1_u8; 1 << 20];
        drop(blocks);
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
            statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
        };
        let before = resident();
        // Other tests may have taken some of it meanwhile.
        assert!(free_bytes() >= 48 << 20, "{}", free_bytes());
        let mut memory = FreeMemory::default();
        for _ in 0..2 * LOOKS {
            memory.look(false);
        }
        for _ in 0..500 {
            if resident() + (32 << 20) < before {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(resident() + (32 << 20) < before, "{} of {before} bytes", resident());
        drop(behind);
    }
}
