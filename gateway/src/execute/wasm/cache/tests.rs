use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;
use crate::{
    execute::{
        Format, Step,
        wasm::engine::{Memories, compiling},
    },
    secret::{Purpose, Secret},
    tensor::Signature,
};

const ROOM: usize = 1 << 20;

fn secret_key(byte: u8) -> secret::Key {
    Secret::from_bytes([byte; LENGTH]).key(Purpose::CompiledCode)
}

fn cache_in(folder: &TempDir, max_bytes: usize) -> Cache {
    Cache::open(folder.path().join("cache"), secret_key(1), max_bytes).expect("a cache")
}

fn folder() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

/// Not machine code: nothing here runs it.
fn prepared(code: &[u8]) -> Prepared {
    let report = Report {
        format: Format::Component,
        signature: Signature::default(),
        imports: vec!["airlock:inference/log@0.1.0".into()],
        artifact_bytes: 1,
        file_bytes: 2,
        compiled_bytes: code.len() as u64,
        steps: vec![(Step::Compile, Duration::from_millis(3))],
    };
    Prepared::trusted(report, code.to_vec())
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn file(cache: &Cache, key: &Digest) -> Vec<u8> {
    fs::read(cache.path(key)).expect("the entry's file")
}

/// Nothing comes out, and what was there is gone.
fn assert_refused(cache: &Cache, key: &Digest, what: &str) {
    assert!(cache.get(key).is_none(), "{what} was used");
    assert!(fs::symlink_metadata(cache.path(key)).is_err(), "{what} was left");
}

#[test]
fn what_was_put_comes_out_after_a_restart_too() {
    let folder = folder();
    let (key, code) = (digest("a"), prepared(b"code"));
    let cache = cache_in(&folder, ROOM);
    assert!(cache.get(&key).is_none());
    cache.put(&key, &code);
    let got = cache_in(&folder, ROOM).get(&key).expect("the entry");
    assert_eq!((got.code(), &got.report), (code.code(), &code.report));
    assert!(cache.get(&digest("b")).is_none());
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&cache.folder), mode(&cache.path(&key))), (0o700, 0o600));
    assert_eq!(fs::read_dir(&cache.folder).expect("the folder").count(), 1, "nothing unfinished is left");
}

#[test]
fn no_altered_file_is_used() {
    let folder = folder();
    let cache = cache_in(&folder, ROOM);
    let key = digest("a");
    cache.put(&key, &prepared(b"code"));
    let whole = file(&cache, &key);
    // Every byte: the tag, the length, the report, the code.
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(cache.path(&key), bytes).expect("a writable file");
        assert_refused(&cache, &key, &format!("a file with byte {at} flipped"));
    }
    for end in [0, 1, LENGTH - 1, LENGTH, LENGTH + PREFIX, whole.len() - 1] {
        fs::write(cache.path(&key), &whole[..end]).expect("a writable file");
        assert_refused(&cache, &key, &format!("a file cut to {end} bytes"));
    }
    let longer = [whole.as_slice(), b"x"].concat();
    fs::write(cache.path(&key), longer).expect("a writable file");
    assert_refused(&cache, &key, "a longer file");
    fs::write(cache.path(&key), &whole).expect("a writable file");
    assert!(cache.get(&key).is_some(), "the file as it was is good");
}

#[test]
fn an_entry_is_good_under_its_own_key_and_secret_only() {
    let folder = folder();
    let cache = cache_in(&folder, ROOM);
    let (a, b) = (digest("a"), digest("b"));
    cache.put(&a, &prepared(b"code of a"));
    cache.put(&b, &prepared(b"code of b"));
    let (of_a, of_b) = (file(&cache, &a), file(&cache, &b));
    fs::write(cache.path(&a), of_b).expect("a writable file");
    fs::write(cache.path(&b), of_a).expect("a writable file");
    assert_refused(&cache, &a, "another model's code");
    assert_refused(&cache, &b, "another model's code");

    cache.put(&a, &prepared(b"code of a"));
    let other = Cache::open(cache.folder.clone(), secret_key(2), ROOM).expect("a cache");
    assert_refused(&other, &a, "code of who has another secret");
}

#[test]
fn what_is_no_ordinary_file_is_neither_read_nor_followed() {
    let folder = folder();
    let cache = cache_in(&folder, ROOM);
    let key = digest("a");
    cache.put(&key, &prepared(b"code"));
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(cache.path(&key), &elsewhere).expect("a writable folder");
    symlink(&elsewhere, cache.path(&key)).expect("a link");
    assert_refused(&cache, &key, "a link, even to a good file");
    assert!(elsewhere.exists(), "what the link led to is not ours to remove");

    let made = std::process::Command::new("mkfifo").arg(cache.path(&key)).status().expect("mkfifo runs");
    assert!(made.success());
    assert_refused(&cache, &key, "a FIFO");

    fs::create_dir(cache.path(&key)).expect("a folder");
    assert!(cache.get(&key).is_none(), "a folder was used");
}

#[test]
fn what_was_used_longest_ago_goes_first() {
    let folder = folder();
    let keys = ["a", "b", "c"].map(digest);
    let code = prepared(&[7; 1000]);
    let one = {
        let cache = cache_in(&folder, ROOM);
        cache.put(&keys[0], &code);
        file(&cache, &keys[0]).len()
    };
    let cache = cache_in(&folder, 2 * one);
    cache.put(&keys[1], &code);
    for key in &keys[..2] {
        let file = File::options().append(true).open(cache.path(key)).expect("the entry's file");
        let old = SystemTime::now() - Duration::from_secs(100);
        file.set_modified(old).expect("a time");
    }
    assert!(cache.get(&keys[0]).is_some());
    cache.put(&keys[2], &code);
    assert!(cache.get(&keys[1]).is_none(), "it was not used since");
    assert!(cache.get(&keys[0]).is_some() && cache.get(&keys[2]).is_some());

    cache.put(&keys[1], &prepared(&vec![7; 2 * one]));
    assert!(cache.get(&keys[1]).is_none(), "it is larger than the cache");
    assert!(cache.get(&keys[0]).is_some() && cache.get(&keys[2]).is_some(), "nobody had to go for it");
}

#[test]
fn what_was_never_finished_goes_in_time() {
    let folder = folder();
    let cache = cache_in(&folder, ROOM);
    let paths = ["old", "new"].map(|name| cache.folder.join(format!("{UNFINISHED}{name}")));
    for path in &paths {
        fs::write(path, b"half").expect("a file");
    }
    let old = File::options().append(true).open(&paths[0]).expect("the file");
    old.set_modified(SystemTime::now() - 2 * ABANDONED).expect("a time");
    cache.put(&digest("a"), &prepared(b"code"));
    assert_eq!(paths.map(|path| path.exists()), [false, true]);
}

#[test]
fn a_key_covers_all_that_the_code_is_made_from() {
    let source = Source {
        artifact: b"artifact".to_vec(),
        files: vec![("weights".into(), b"bytes".to_vec())],
        parameters: vec![("name".into(), "value".into())],
        ..Source::default()
    };
    let limits = SandboxLimits::default();
    let of = |memories, limits: SandboxLimits, source: &Source| {
        let engine = compiling(&limits, memories).expect("an engine");
        key(&engine, &Settings { limits, memories }, source).expect("a key")
    };
    let usual = of(Memories::Pooled, limits.clone(), &source);
    assert_eq!(usual, of(Memories::Pooled, limits.clone(), &source), "it is the same in another engine");

    let elsewhere = Source { label: "other/7".into(), ..source.clone() };
    assert_eq!(usual, of(Memories::Pooled, limits.clone(), &elsewhere));
    let busier = SandboxLimits { max_instances: 7, threads: 3, ..limits.clone() };
    assert_eq!(usual, of(Memories::Pooled, busier, &source));

    let sources = [
        Source { artifact: b"Artifact".to_vec(), ..source.clone() },
        Source { files: vec![("Weights".into(), b"bytes".to_vec())], ..source.clone() },
        Source { files: vec![("weights".into(), b"Bytes".to_vec())], ..source.clone() },
        Source { files: vec![], ..source.clone() },
        Source { parameters: vec![("name".into(), "Value".into())], ..source.clone() },
        Source { parameters: vec![], ..source.clone() },
        Source { owner: Some("acme".parse().expect("a name")), ..source.clone() },
    ];
    for other in sources {
        assert_ne!(usual, of(Memories::Pooled, limits.clone(), &other), "{other:?}");
    }
    assert_ne!(usual, of(Memories::OnDemand, limits.clone(), &source));
    for other in [
        SandboxLimits { memory_bytes: 1 << 20, ..limits.clone() },
        SandboxLimits { stack_bytes: 1 << 20, ..limits.clone() },
        SandboxLimits { load_deadline: Duration::from_secs(1), ..limits.clone() },
    ] {
        assert_ne!(usual, of(Memories::Pooled, other, &source));
    }

    // The engine's own part, the rest being the same.
    let settings = Settings { limits: limits.clone(), memories: Memories::Pooled };
    let deeper = SandboxLimits { stack_bytes: 1 << 20, ..limits };
    let engines = [Memories::Pooled, Memories::OnDemand]
        .map(|memories| compiling(&deeper, memories).expect("an engine"));
    assert_ne!(key(&engines[0], &settings, &source), key(&engines[1], &settings, &source));
}
