//! What a loss of power leaves: only what the kernel was told to make durable, and in any order.
//!
//! The gateway runs under `strace`, and its system calls are played to a disk that forgets whatever was not asked for: the
//! content of a file until the file is synced, and a name until its folder is. What would be left if the power went in the
//! moment of an acknowledgement is what counts.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use airlock_tests::{
    client::{call, post},
    process::Process,
    store::Store,
};
use serde_json::json;

use super::unique;

/// A call that has ended well, with the paths that it names; a file descriptor's is the one that it was opened by.
#[derive(Clone, Debug)]
struct Call {
    name: String,
    paths: Vec<PathBuf>,
    text: String,
}

/// Reads what `strace -f -y` writes. A call that was interrupted by another thread's is on two lines.
fn calls(trace: &str) -> Vec<Call> {
    let mut unfinished = BTreeMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let whole = if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread.to_owned(), begun.to_owned());
            // What is written is in danger from the first moment on.
            if !(rest.starts_with("write") || rest.starts_with("pwrite")) {
                continue;
            }
            format!("{begun}) = 0")
        } else if rest.starts_with("<... ") {
            let (_, end) = rest.split_once("resumed>").expect("strace's words");
            unfinished.remove(thread).unwrap_or_default() + end
        } else {
            rest.to_owned()
        };
        let Some((name, arguments)) = whole.split_once('(') else { continue };
        let Some((arguments, result)) = arguments.rsplit_once(" = ") else { continue };
        if result.starts_with('-') {
            continue;
        }
        calls.push(Call { name: name.into(), paths: paths(arguments), text: whole.clone() });
    }
    calls
}

/// Absolute paths among a call's arguments: `"/a/b"` and `5</a/b>`, but not `AT_FDCWD</a/b>`.
fn paths(arguments: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (at, _) in arguments.match_indices('/') {
        let (before, from) = arguments.split_at(at);
        let end = match before.chars().last() {
            Some('"') => '"',
            Some('<') if !before.ends_with("AT_FDCWD<") => '>',
            _ => continue,
        };
        found.extend(from.split(end).next().map(PathBuf::from));
    }
    found
}

/// A disk that forgets what it was not told to keep.
#[derive(Debug, Default)]
struct Disk {
    /// Files, and whether all that was written to them is durable.
    content: BTreeMap<PathBuf, bool>,
    /// Names of files and folders, and whether they are.
    names: BTreeMap<PathBuf, bool>,
    /// Files that got their name before their content was durable: the name may come to the disk first.
    early: Vec<PathBuf>,
}

impl Disk {
    fn take(&mut self, call: &Call) {
        match (call.name.as_str(), call.paths.as_slice()) {
            ("openat", [path, ..]) if call.text.contains("O_CREAT") => {
                self.names.entry(path.clone()).or_insert(false);
                self.content.entry(path.clone()).or_insert(false);
            }
            ("mkdir" | "mkdirat", [path, ..]) => drop(self.names.insert(path.clone(), false)),
            ("write" | "pwrite64" | "writev" | "pwritev" | "ftruncate", [file, ..])
            | ("copy_file_range", [_, file]) => {
                if let Some(content) = self.content.get_mut(file) {
                    *content = false;
                }
            }
            ("fsync" | "fdatasync", [path]) => {
                if let Some(content) = self.content.get_mut(path) {
                    *content = true;
                }
                for (_, name) in self.names.iter_mut().filter(|(name, _)| name.parent() == Some(path)) {
                    *name = true;
                }
            }
            ("link" | "linkat" | "rename" | "renameat" | "renameat2", [from, to]) => {
                let durable = self.content.get(from).copied().unwrap_or(true);
                if !durable {
                    self.early.push(to.clone());
                }
                self.content.insert(to.clone(), durable);
                self.names.insert(to.clone(), false);
                if call.name.starts_with("rename") {
                    self.forget(from);
                }
            }
            ("unlink" | "unlinkat" | "rmdir", [path]) => self.forget(path),
            _ => {}
        }
    }

    fn forget(&mut self, path: &Path) {
        self.content.remove(path);
        self.names.remove(path);
    }

    /// Files below a folder: how many there are, and those of them that a loss of power would take.
    fn below(&self, folder: &Path) -> (usize, Vec<&PathBuf>) {
        let files: Vec<_> = self.content.iter().filter(|(path, _)| path.starts_with(folder)).collect();
        let named = |path: &Path| path.ancestors().all(|part| self.names.get(part).copied().unwrap_or(true));
        let lost = files.iter().filter(|(path, durable)| !**durable || !named(path));
        (files.len(), lost.map(|(path, _)| *path).collect())
    }
}

/// The disk in the moment before the first call that `until` names, or at the end.
fn disk(calls: &[Call], until: impl Fn(&Call) -> bool) -> Disk {
    let mut disk = Disk::default();
    calls.iter().take_while(|call| !until(call)).for_each(|call| disk.take(call));
    disk
}

fn is_answer(call: &Call) -> bool {
    call.text.contains("HTTP/1.1 200")
}

const CALLS: &str = "trace=openat,mkdir,mkdirat,write,pwrite64,writev,pwritev,ftruncate,copy_file_range,fsync,fdatasync,link,\
                     linkat,rename,renameat,renameat2,unlink,unlinkat,rmdir,sendto,sendmsg";

/// Whether programs of ours may be traced here.
fn can_trace() -> bool {
    let traced =
        Command::new("strace").args(["-D", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    traced.is_ok_and(|status| status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_survives_a_loss_of_power() {
    if !can_trace() {
        eprintln!("not checked: no strace here, or it may not trace");
        return;
    }
    let store = Store::default();
    let root = store.path().canonicalize().expect("a folder");
    let folder = root.to_str().expect("UTF-8");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let trace = file.path().to_str().expect("UTF-8");
    // `-D`: the gateway stays our own child.
    let wrapper = ["strace", "-D", "-f", "-y", "-s", "32", "-e", CALLS, "-o", trace];
    let process = Process::serve_under(&wrapper, &["--store", folder, "--drain-delay", "0s"]);
    let id = process.id();
    let put = call(process.address, "PUT", "/v2/repository/models/m/versions/1", &[], unique(1)).await;
    assert_eq!(put.status, 200, "{}", put.error());
    let body = json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [4.5] }] });
    assert_eq!(post(process.address, "/v2/models/m/infer", &body).await.status, 200);
    process.signal("TERM");
    assert_eq!(process.end().0, Some(0));
    let ended = format!("{id} +++ exited with 0 +++");
    let mut text = String::new();
    for _ in 0..500 {
        text = fs::read_to_string(trace).expect("a file");
        if text.lines().any(|line| line.split_whitespace().eq(ended.split_whitespace())) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let calls = calls(&text);
    assert!(calls.iter().any(is_answer), "the acknowledgement is in the trace");

    let (objects, secret, ledger, cache) = (
        root.join("objects"),
        root.join("local/secret"),
        root.join("local/ledger"),
        root.join("local/cache"),
    );
    let acknowledged = disk(&calls, is_answer);
    // A blob and a record; that of the self-test is durable too.
    let (count, lost) = acknowledged.below(&objects);
    assert!(count >= 3 && lost.is_empty(), "{count} files, lost: {lost:?}");
    let (count, lost) = acknowledged.below(&secret);
    assert!(count == 1 && lost.is_empty(), "lost: {lost:?}");
    let ended = disk(&calls, |_| false);
    let (count, lost) = ended.below(&ledger);
    assert!(count == 1 && lost.is_empty(), "{count} files, lost: {lost:?}");
    let early: Vec<_> = ended
        .early
        .iter()
        .filter(|path| [&objects, &cache].iter().any(|root| path.starts_with(root)))
        .collect();
    assert!(early.is_empty(), "named before they were whole: {early:?}");

    // The model sees what it looks for: without the syncs of files, or of folders, things are lost, or come early.
    let folders: Vec<PathBuf> =
        ended.names.keys().filter_map(|name| name.parent().map(Path::to_owned)).collect();
    let is_sync = |call: &Call, of_folders: bool| {
        call.name.ends_with("sync") && call.paths.iter().any(|path| folders.contains(path) == of_folders)
    };
    for of_folders in [false, true] {
        let without: Vec<Call> = calls.iter().filter(|call| !is_sync(call, of_folders)).cloned().collect();
        for (place, until) in
            [(&objects, is_answer as fn(&Call) -> bool), (&secret, is_answer), (&ledger, |_| false)]
        {
            let disk = disk(&without, until);
            assert!(
                !disk.below(place).1.is_empty(),
                "without syncs nothing is lost at {place:?}: folders: {of_folders}"
            );
        }
        assert_eq!(disk(&without, |_| false).early.is_empty(), of_folders);
    }
}
