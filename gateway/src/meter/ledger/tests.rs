use std::{fs, os::unix::fs::PermissionsExt};

use tempfile::TempDir;

use super::*;
use crate::meter::{Usage, start};

fn folder() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

fn used(meter: &Arc<Meter>, model: &str, outcome: &'static str) {
    let mut usage: Usage = start(meter, &"a".parse().expect("a name"), &model.parse().expect("a name"));
    usage.model_known();
    usage.received(3);
    usage.failed(outcome);
}

/// Model, outcome and calls of everything in the ledger.
fn sum(folder: &TempDir) -> Vec<(String, String, u64)> {
    let sum = read(folder.path()).expect("a whole ledger").into_iter();
    sum.map(|(key, figures)| {
        assert_eq!(figures.bytes_in, 3 * figures.calls);
        (key.model.map(|model| model.to_string()).unwrap_or_default(), key.outcome.into(), figures.calls)
    })
    .collect()
}

fn all(calls: u64) -> Vec<(String, String, u64)> {
    vec![("m".into(), "overloaded".into(), calls)]
}

fn files(folder: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.path()).expect("a folder");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn only_what_moved_is_written_one_line_each() {
    let folder = folder();
    let meter = Arc::<Meter>::default();
    let mut ledger = Ledger::open(&folder.path().join("made")).expect("a ledger");
    ledger.flush(&meter);
    assert!(ledger.file.is_none(), "nothing was used");
    for model in ["m", "m", "n"] {
        used(&meter, model, "overloaded");
    }
    ledger.flush(&meter);
    ledger.flush(&meter);
    used(&meter, "m", "model_failed");
    ledger.flush(&meter);
    let path = ledger.folder.join(format!("{}.jsonl", ledger.instance));
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&ledger.folder)), (0o600, 0o700));
    let text = fs::read_to_string(path).expect("a file");
    let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
    let told: Vec<(u64, &str, u64)> =
        lines.iter().map(|line| (line.seq, line.outcome.as_str(), line.calls)).collect();
    assert_eq!(told, [(1, "overloaded", 2), (2, "overloaded", 1), (3, "model_failed", 1)]);
    assert!(lines.iter().all(|line| line.from > 0 && line.to >= line.from));
}

#[test]
fn files_and_instances_are_summed_up() {
    let folder = folder();
    for _ in 0..2 {
        let meter = Arc::<Meter>::default();
        let mut ledger = Ledger::open(folder.path()).expect("a ledger");
        ledger.max_file_bytes = 400;
        for _ in 0..10 {
            used(&meter, "m", "overloaded");
            ledger.flush(&meter);
        }
        assert!(ledger.part > 2, "{} parts", ledger.part);
        assert_eq!(ledger.seq, 10);
    }
    assert_eq!(sum(&folder), all(20));
    fs::write(folder.path().join("notes.txt"), "not ours").expect("a writable folder");
    assert_eq!(sum(&folder), all(20));

    // A file in the middle is missed.
    fs::remove_file(&files(&folder)[1]).expect("a file");
    let error = read(folder.path()).expect_err("lines are missing").to_string();
    assert!(error.contains("follows number"), "{error}");
    assert!(read(Path::new("nowhere")).expect("nothing").is_empty());
}

#[test]
fn a_torn_last_line_is_dropped_and_a_torn_one_before_it_is_told() {
    let folder = folder();
    let meter = Arc::<Meter>::default();
    let mut ledger = Ledger::open(folder.path()).expect("a ledger");
    for _ in 0..3 {
        used(&meter, "m", "overloaded");
        ledger.flush(&meter);
    }
    let path = &files(&folder)[0];
    let whole = fs::read(path).expect("a file");
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("lines") + 1;
    for end in last..whole.len() {
        fs::write(path, &whole[..end]).expect("a file");
        assert_eq!(sum(&folder), all(2), "cut at {end}");
    }
    // What a file system may leave of a block that was never written.
    fs::write(path, [&whole[..last], &[0; 100]].concat()).expect("a file");
    assert_eq!(sum(&folder), all(2));

    for (bad, reason) in [
        (whole[1..].to_vec(), "line 1"),
        ([b"\xff\n", &whole[..]].concat(), "line 1"),
        (whole[last..].to_vec(), "follows number 0"),
        ([&whole[..], &whole[last..]].concat(), "number 3 follows number 3"),
        (String::from_utf8_lossy(&whole).replacen("\"m\"", "\"../m\"", 1).into_bytes(), "is not a name"),
    ] {
        fs::write(path, &bad).expect("a file");
        let error = read(folder.path()).expect_err("it is damaged").to_string();
        assert!(error.contains(reason), "{error} lacks {reason}");
        assert!(!error.contains(&*folder.path().to_string_lossy()), "{error}");
    }
}

#[test]
fn a_full_disk_loses_nothing() {
    let folder = folder();
    let meter = Arc::<Meter>::default();
    let mut ledger = Ledger::open(folder.path()).expect("a ledger");
    // A disk that fills up: with room for nothing, for half of a flush, and for the better part of one.
    let writes: [Write; 4] = [
        |_, _| Err(io::ErrorKind::StorageFull.into()),
        |file, bytes| file.write(&bytes[..bytes.len() / 2]),
        |file, bytes| file.write(&bytes[..bytes.len() - 1]),
        |_, _| Err(io::ErrorKind::StorageFull.into()),
    ];
    used(&meter, "m", "overloaded");
    ledger.flush(&meter);
    for write in writes {
        ledger.write = write;
        used(&meter, "m", "overloaded");
        ledger.flush(&meter);
        assert!(ledger.failing);
        assert_eq!(sum(&folder), all(1));
    }
    ledger.write = File::write;
    used(&meter, "m", "overloaded");
    ledger.flush(&meter);
    assert!(!ledger.failing);
    assert_eq!(sum(&folder), all(6));
    assert_eq!(ledger.seq, 2, "what waited was added up, not queued");
}

#[test]
fn a_device_that_is_always_full_keeps_everything_in_memory() {
    let folder = folder();
    let meter = Arc::<Meter>::default();
    let mut ledger = Ledger::open(folder.path()).expect("a ledger");
    ledger.file = Some(OpenOptions::new().append(true).open("/dev/full").expect("Linux has it"));
    for calls in 1..=3 {
        used(&meter, "m", "overloaded");
        ledger.flush(&meter);
        let kept = meter.take_moved();
        assert_eq!(kept.values().map(|figures| figures.calls).sum::<u64>(), calls);
        meter.put_back(kept);
    }
    ledger.file = None;
    ledger.flush(&meter);
    assert_eq!(sum(&folder), all(3));
}

#[test]
fn a_folder_that_vanished_is_written_to_again_when_it_is_back() {
    let folder = folder();
    let meter = Arc::<Meter>::default();
    let path = folder.path().join("ledger");
    let mut ledger = Ledger::open(&path).expect("a ledger");
    fs::remove_dir(&path).expect("an empty folder");
    used(&meter, "m", "overloaded");
    ledger.flush(&meter);
    assert!(ledger.failing);
    fs::create_dir(&path).expect("a writable folder");
    ledger.flush(&meter);
    assert_eq!(read(&path).expect("a ledger").len(), 1);
}

#[tokio::test]
async fn the_last_flush_comes_with_the_end() {
    let folder = folder();
    let meter = Arc::<Meter>::default();
    let ledger = Ledger::open(folder.path()).expect("a ledger");
    let (stop, stopped) = oneshot::channel();
    let kept = tokio::spawn(ledger.keep(Arc::clone(&meter), stopped));
    used(&meter, "m", "overloaded");
    drop(stop);
    kept.await.expect("no panic");
    assert_eq!(sum(&folder), all(1));
}

#[test]
fn two_ledgers_of_one_folder_never_share_a_file() {
    let folder = folder();
    let names: Vec<String> =
        (0..3).map(|_| Ledger::open(folder.path()).expect("a ledger").instance).collect();
    assert!(names[0] != names[1] && names[1] != names[2]);
    assert_eq!(names[0].len(), 32);
}

/// What a disk does that was told to make something durable and could not.
fn failed(_: &File) -> io::Result<()> {
    Err(io::Error::other("as requested"))
}

#[test]
fn what_could_not_be_made_durable_is_written_again_and_counts_once() {
    // What is left of the flush that failed: nothing, all of it, zeros, a torn line, something else.
    type Left = fn(&[u8]) -> Vec<u8>;
    let all_that_may_be_left: [Left; 5] = [
        |_| Vec::new(),
        <[u8]>::to_vec,
        |flush| vec![0; flush.len()],
        |flush| flush[..flush.len() - 5].to_vec(),
        |flush| [b"\0\0\0\n", flush, b"{}\n"].concat(),
    ];
    for left in all_that_may_be_left {
        let folder = folder();
        let meter = Arc::<Meter>::default();
        let mut ledger = Ledger::open(folder.path()).expect("a ledger");
        used(&meter, "m", "overloaded");
        ledger.flush(&meter);
        let durable = fs::read(&files(&folder)[0]).expect("a file").len();

        ledger.sync = failed;
        for _ in 0..3 {
            used(&meter, "m", "overloaded");
            ledger.flush(&meter);
            assert!(ledger.failing && ledger.file.is_none(), "that file is not written again");
        }
        assert_eq!(files(&folder).len(), 1, "files in which nothing is durable go");
        let path = &files(&folder)[0];
        let whole = fs::read(path).expect("a file");
        assert!(whole.len() > durable, "it was written");
        fs::write(path, [&whole[..durable], &left(&whole[durable..])].concat()).expect("a file");

        ledger.sync = File::sync_data;
        for _ in 0..2 {
            used(&meter, "m", "overloaded");
            ledger.flush(&meter);
        }
        assert!(!ledger.failing);
        assert_eq!((ledger.seq, files(&folder).len()), (3, 2));
        assert_eq!(sum(&folder), all(6));
    }
}

#[test]
fn what_is_durable_is_not_replaced_by_a_later_file() {
    let folder = folder();
    let meter = Arc::<Meter>::default();
    let mut ledger = Ledger::open(folder.path()).expect("a ledger");
    ledger.max_file_bytes = 300;
    for _ in 0..4 {
        used(&meter, "m", "overloaded");
        ledger.flush(&meter);
    }
    let path = &ledger.path(1);
    let whole = fs::read(path).expect("a file");
    // The last line of a file with a good one behind it is damaged: nothing later stands for it.
    fs::write(path, &whole[..whole.len() - 5]).expect("a file");
    let error = read(folder.path()).expect_err("it is damaged").to_string();
    assert!(error.contains("damaged at line"), "{error}");
}

#[test]
fn a_name_that_could_not_be_made_durable_is_made_again() {
    let folder = folder();
    let meter = Arc::<Meter>::default();
    let mut ledger = Ledger::open(folder.path()).expect("a ledger");
    ledger.sync_folder = failed;
    used(&meter, "m", "overloaded");
    ledger.flush(&meter);
    assert!(ledger.failing && files(&folder).is_empty());
    ledger.sync_folder = File::sync_all;
    ledger.flush(&meter);
    assert_eq!(sum(&folder), all(1));
}

#[test]
fn a_file_system_that_makes_nothing_durable_is_written_to_nevertheless() {
    let folder = folder();
    let meter = Arc::<Meter>::default();
    let mut ledger = Ledger::open(folder.path()).expect("a ledger");
    ledger.sync = |_| Err(io::ErrorKind::InvalidInput.into());
    ledger.sync_folder = |_| Err(io::ErrorKind::Unsupported.into());
    for _ in 0..2 {
        used(&meter, "m", "overloaded");
        ledger.flush(&meter);
    }
    assert!(!ledger.failing);
    assert_eq!((sum(&folder), files(&folder).len()), (all(2), 1));
}
