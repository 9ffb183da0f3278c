//! Memory watch: how much of the memory that there is is taken, and what is not done any more because of that.
//!
//! Looked at ten times a second. What is taken is the largest of two shares: of the gateway's own process in what it may
//! take (`--memory-limit`, or all that the machine has), and of each control group that it is in and that has a limit, workers
//! included, without what the kernel would give back by itself. At a first mark nothing is loaded any more, at a second nothing
//! waits and connections are not kept, at a third nothing is answered but health. A mark that was reached holds until a
//! little less is taken.
//!
//! What this does not stop: whatever takes the rest of the memory between two looks, and others on the machine, of whom the
//! gateway sees only what they take in its own control groups. Workers have bounds of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use crate::limits::MemoryLimits;

const INTERVAL: Duration = Duration::from_millis(100);

/// Percent below a mark at which it no longer holds.
const BELOW: u64 = 2;

/// Where the kernel shows control groups, in its second version.
const GROUPS: &str = "/sys/fs/cgroup";

/// What the gateway may not do now.
#[derive(Debug)]
pub struct MemoryWatch {
    /// Bytes that its own process may take; none if nobody says how many there are.
    most: Option<u64>,
    groups: Vec<PathBuf>,
    /// What was taken when it looked last.
    percent: AtomicU64,
    no_loads: Mark,
    no_queue: Mark,
    no_calls: Mark,
}

#[derive(Debug)]
struct Mark {
    percent: u64,
    passed: AtomicBool,
    /// What is not done from here on, for the log.
    stops: &'static str,
}

impl Mark {
    fn new(percent: u32, stops: &'static str) -> Self {
        Self { percent: percent.into(), passed: AtomicBool::new(false), stops }
    }

    fn holds(&self) -> bool {
        self.passed.load(Ordering::Relaxed)
    }

    fn look(&self, percent: u64) {
        let (held, stops) = (self.holds(), self.stops);
        let least = if held { self.percent.saturating_sub(BELOW).max(1) } else { self.percent };
        let holds = self.percent > 0 && percent >= least;
        self.passed.store(holds, Ordering::Relaxed);
        match (held, holds) {
            (false, true) => tracing::warn!(percent, "memory is short: {stops}"),
            (true, false) => tracing::info!(percent, "memory is there again; no longer so: {stops}"),
            _ => {}
        }
    }
}

impl MemoryWatch {
    /// Looks for the first time.
    pub fn new(limits: &MemoryLimits) -> Self {
        let most = match limits.most_bytes {
            0 => fs::read_to_string("/proc/meminfo").ok().and_then(|text| field(&text, "MemTotal:")),
            most => Some(most as u64),
        };
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let watch = Self {
            most,
            groups: groups(Path::new(GROUPS), &own),
            percent: AtomicU64::new(0),
            no_loads: Mark::new(limits.no_loads, "nothing is loaded or compiled"),
            no_queue: Mark::new(
                limits.no_queue,
                "no request waits for its turn, and connections are not kept",
            ),
            no_calls: Mark::new(limits.no_calls, "nothing is answered but health"),
        };
        watch.look();
        let (own_bytes, groups) = (watch.most, watch.groups.len());
        tracing::debug!(own_bytes, groups, "watching memory: the process's own, and of control groups");
        watch
    }

    /// Nothing is to be loaded or compiled.
    pub fn no_loads(&self) -> bool {
        self.no_loads.holds()
    }

    /// No request is to wait, and no connection to be kept.
    pub fn no_queue(&self) -> bool {
        self.no_queue.holds()
    }

    /// Nothing is to be answered but health.
    pub fn no_calls(&self) -> bool {
        self.no_calls.holds()
    }

    /// What is refused where memory is short, and whether that is so now.
    pub fn marks(&self) -> [(&'static str, bool); 3] {
        [("loads", self.no_loads()), ("waiting", self.no_queue()), ("calls", self.no_calls())]
    }

    /// Bytes that there are, of the process's own or in the least of its groups; none if nobody says how many.
    pub fn bytes(&self) -> Option<u64> {
        self.groups.iter().filter_map(|folder| limit_of_group(folder)).chain(self.most).min()
    }

    /// Percent of the memory that were taken when it looked last.
    pub fn percent(&self) -> u64 {
        self.percent.load(Ordering::Relaxed)
    }

    /// Looks again and again, for as long as it is awaited. Tells `of_shortage` each time whether nothing is to be loaded.
    pub async fn keep_looking(&self, mut of_shortage: impl FnMut(bool)) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            self.look();
            of_shortage(self.no_loads());
        }
    }

    fn look(&self) {
        let own = fs::read_to_string("/proc/self/status").ok().and_then(|status| taken(&status));
        let own = own.zip(self.most).map(|(taken, most)| share(taken, most));
        let groups = self.groups.iter().filter_map(|folder| share_of_group(folder));
        let percent = groups.chain(own).max().unwrap_or(0);
        self.percent.store(percent, Ordering::Relaxed);
        for mark in [&self.no_loads, &self.no_queue, &self.no_calls] {
            mark.look(percent);
        }
    }
}

fn share(taken: u64, most: u64) -> u64 {
    taken.saturating_mul(100) / most.max(1)
}

/// Bytes of a process that no file gives back: what it has written to. Memory that it shares is not counted, because it would
/// be once for every mapping; so the images of models, which are bounded by what may be loaded, are not.
fn taken(status: &str) -> Option<u64> {
    field(status, "RssAnon:").or_else(|| field(status, "VmRSS:"))
}

/// A field of the kernel's that is written in kB, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The folders of the group that a process is in and of those around it, as far as they count memory. Which of them has a
/// limit may change at any time.
fn groups(root: &Path, own: &str) -> Vec<PathBuf> {
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::/")) else { return Vec::new() };
    // In a container the path may be one of outside: what there is of it is looked at.
    let all = root.join(path);
    let around = all.ancestors().take_while(|folder| folder.starts_with(root));
    around.filter(|folder| folder.join("memory.max").is_file()).map(Path::to_owned).collect()
}

fn number(folder: &Path, name: &str) -> Option<u64> {
    fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()
}

/// Bytes that a group may take, if it has a limit.
fn limit_of_group(folder: &Path) -> Option<u64> {
    // From the second one on the kernel slows everybody down, which is no better than what follows the first.
    ["memory.max", "memory.high"].into_iter().filter_map(|name| number(folder, name)).min()
}

/// Percent of a group's limit that are taken; none without a limit.
fn share_of_group(folder: &Path) -> Option<u64> {
    let most = limit_of_group(folder)?;
    let current = number(folder, "memory.current")?;
    // Files that were read count as well, until the kernel needs their room.
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let free = stat.lines().filter_map(|line| {
        let (name, bytes) = line.split_once(' ')?;
        let free = matches!(name, "active_file" | "inactive_file" | "slab_reclaimable");
        if free { bytes.parse::<u64>().ok() } else { None }
    });
    Some(share(current.saturating_sub(free.sum()), most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_holds_until_a_little_less_is_taken() {
        let mark = Mark::new(85, "nothing");
        let holds = [84, 85, 99, 84, 83, 82, 84, 85].map(|percent| {
            mark.look(percent);
            mark.holds()
        });
        assert_eq!(holds, [false, true, true, true, true, false, false, true]);
        let never = Mark::new(0, "nothing");
        never.look(200);
        assert!(!never.holds());
    }

    #[test]
    fn the_group_that_is_nearest_to_its_limit_counts_without_what_files_take() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).expect("a writable folder");
        let group = |folder: &Path, most: &str, current: &str, stat: &str| {
            for (name, text) in [("memory.max", most), ("memory.current", current), ("memory.stat", stat)] {
                fs::write(folder.join(name), text).expect("a writable folder");
            }
        };
        group(&inner, "max\n", "900\n", "anon 900\n");
        group(
            &root.path().join("a"),
            "1000\n",
            "950\n",
            "anon 600\nactive_file 100\ninactive_file 200\nslab_reclaimable 50\n",
        );
        let found = groups(root.path(), "4:memory:/x\n0::/a/b\n");
        assert_eq!(found, [inner.clone(), root.path().join("a")]);
        assert_eq!(found.iter().map(|folder| share_of_group(folder)).collect::<Vec<_>>(), [None, Some(60)]);
        // A limit may come while the gateway runs.
        fs::write(inner.join("memory.max"), "1000").expect("a writable folder");
        assert_eq!(share_of_group(&inner), Some(90));
        fs::write(inner.join("memory.high"), "900").expect("a writable folder");
        assert_eq!(share_of_group(&inner), Some(100));
        assert!(groups(root.path(), "4:memory:/a/b\n").is_empty());
    }

    #[test]
    fn memory_that_files_give_back_is_not_the_process_s() {
        let status =
            "Name:\tx\nVmRSS:\t    5000 kB\nRssAnon:\t     100 kB\nRssFile:\t  4890 kB\nRssShmem:\t  10 kB\n";
        assert_eq!(taken(status), Some(100 * 1024));
        assert_eq!(taken("VmRSS:\t 7 kB\n"), Some(7 * 1024));
        assert_eq!(taken("VmRSS:\t many\n"), None);
    }
}
