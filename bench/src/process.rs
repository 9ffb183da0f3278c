//! What a server used, as Linux tells it: its process and all that descend from it.

use std::{collections::HashMap, fs, time::Duration};

use anyhow::{Context, Result};

/// CPU time so far of a process and its descendants, all threads, user and system, in steps of 10 ms.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mut time = parse(&stat).with_context(|| format!("{path} is not as expected"))?.cpu;
    for child in family(pid).into_iter().filter(|process| *process != pid) {
        // One that has ended meanwhile is left out.
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok();
        time += stat.and_then(|stat| parse(&stat)).map_or(Duration::ZERO, |stat| stat.cpu);
    }
    Ok(time)
}

/// Proportional set size of a process and its descendants, in bytes: what several of them share is counted once.
pub fn memory(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let own = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mut bytes = parse_pss(&own).with_context(|| format!("{path} is not as expected"))?;
    for child in family(pid).into_iter().filter(|process| *process != pid) {
        let text = fs::read_to_string(format!("/proc/{child}/smaps_rollup")).ok();
        bytes += text.and_then(|text| parse_pss(&text)).unwrap_or(0);
    }
    Ok(bytes)
}

/// A process and all that descend from it.
fn family(pid: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok();
        if let Some(stat) = stat.and_then(|stat| parse(&stat)) {
            children.entry(stat.parent).or_default().push(process);
        }
    }
    let mut family = vec![pid];
    let mut seen = 0;
    while let Some(process) = family.get(seen) {
        family.extend(children.remove(process).unwrap_or_default());
        seen += 1;
    }
    family
}

struct Stat {
    parent: u32,
    cpu: Duration,
}

fn parse(stat: &str) -> Option<Stat> {
    // The command's name comes second, in brackets, and may hold anything: count from its end.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let mut fields = fields.skip(9);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    // The kernel reports in hundredths of a second, whatever its own tick is.
    Some(Stat { parent, cpu: Duration::from_millis((user + system).checked_mul(10)?) })
}

fn parse_pss(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_command_name_may_hold_brackets_and_spaces() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 150 9 9 20 0 1 0 100 0 0";
        let stat = parse(stat).expect("it is whole");
        assert_eq!((stat.parent, stat.cpu), (1, Duration::from_secs(4)));
        assert!(parse("7 (a) S 1").is_none());
    }

    #[test]
    fn the_proportional_size_is_read() {
        assert_eq!(parse_pss("00-ff ---p 0 0:0 0 [rollup]\nRss:   9 kB\nPss:      3 kB\n"), Some(3072));
        assert_eq!(parse_pss("Rss: 9 kB\n"), None);
    }

    #[test]
    fn descendants_count() {
        let own = memory(std::process::id()).expect("this process");
        assert!(own > 0 && cpu_time(std::process::id()).is_ok());
        // The shell waits for a child of its own.
        let mut shell = Command::new("sh").args(["-c", "sleep 20 & echo; wait"]).spawn().expect("sh starts");
        let found = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            family(std::process::id()).contains(&shell.id()) && family(shell.id()).len() == 2
        });
        let children = family(shell.id());
        shell.kill().expect("it runs");
        shell.wait().expect("it ends");
        for orphan in children.into_iter().skip(1) {
            let _ = Command::new("kill").arg(orphan.to_string()).status();
        }
        assert!(found, "the shell and its child were not found");
    }
}
