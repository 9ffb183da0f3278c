//! A disk without room: a file system of a few megabytes, filled up to so much that each write in turn is the one that fails.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use airlock::meter::ledger;
use airlock_tests::{
    client::{Answer, call, get, post},
    gateway::binary,
    process::Process,
};
use serde_json::json;
use tempfile::TempDir;

use super::{files, unique};

/// A gateway with all that it keeps on a small file system of its own, which only it and we can see.
struct Small {
    process: Process,
    mount: TempDir,
}

/// Takes the mount's folder, and then what is to run.
const MOUNT: &str = "mount -t tmpfs -o size=24m,mode=700 tmpfs \"$0\" && exec \"$@\"";

impl Small {
    /// `None` where an ordinary user may not mount anything.
    fn serve() -> Option<Self> {
        let mount = TempDir::new().expect("a temporary folder");
        let at = mount.path().to_str().expect("UTF-8");
        let mut tried = Command::new("unshare");
        tried.args(["-rm", "sh", "-c", MOUNT, at, "true"]).stderr(Stdio::null());
        if !tried.status().is_ok_and(|status| status.success()) {
            eprintln!("not checked: nothing may be mounted here");
            return None;
        }
        let store = mount.path().join("store");
        let store = store.to_str().expect("UTF-8");
        let arguments = ["--store", store, "--tenant-versions", "1000", "--drain-delay", "0s"];
        let process = Process::serve_under(&["unshare", "-rm", "sh", "-c", MOUNT, at], &arguments);
        Some(Self { process, mount })
    }

    /// A place on that file system, as it is reached from here.
    fn path(&self, name: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.process.id());
        Path::new(&root).join(self.mount.path().strip_prefix("/").expect("absolute")).join(name)
    }

    /// Fills it up to so many bytes.
    fn leave(&self, bytes: u64) {
        let filling = self.path("filling");
        let mut file = fs::File::create(&filling).expect("a file");
        let block = [0; 4096];
        // The last piece fails: there is no room any more.
        while file.write_all(&block).is_ok() {}
        let length = file.metadata().expect("a file").len();
        file.set_len(length.saturating_sub(bytes)).expect("it can be cut");
        assert_eq!(filling.metadata().expect("a file").size(), length.saturating_sub(bytes));
    }

    async fn put(&self, version: &str, content: u32) -> Answer {
        let path = format!("/v2/repository/models/m/versions/{version}");
        call(self.process.address, "PUT", &path, &[], unique(content)).await
    }

    async fn infer(&self, version: &str) -> Answer {
        let body =
            json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [4.5] }] });
        post(self.process.address, &format!("/v2/models/m/versions/{version}/infer"), &body).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_loses_nothing() {
    let Some(small) = Small::serve() else { return };
    let mut answers = BTreeMap::<String, u32>::new();
    let (mut acknowledged, mut calls) = (vec![], 0);
    // From no room at all to enough, so that every write on the way once finds none. What is new is staged, given to a worker,
    // compiled and kept; of what was compiled before only the record is.
    for round in 0..64u32 {
        let (version, content, pages) = match round {
            0..40 => (round.to_string(), round, round),
            // Each twice: the ledger may take the last room at any time.
            _ => (format!("again-{round}"), 39, (round - 40) / 2),
        };
        small.leave(u64::from(pages) * 4096);
        let put = small.put(&version, content).await;
        let outcome = if put.status == 200 { "published".to_owned() } else { put.code() };
        match (put.status, outcome.as_str()) {
            (200, _) => acknowledged.push(version),
            (503, "disk_unavailable" | "store_unavailable") => {
                assert!(!put.error().contains('/'), "{}", put.error());
                assert!(put.header("retry-after").is_some());
            }
            _ => panic!("{}: {}", put.status, put.error()),
        }
        *answers.entry(outcome).or_default() += 1;
        for version in acknowledged.iter().rev().take(2) {
            let answer = small.infer(version).await;
            assert_eq!(answer.status, 200, "{}", answer.error());
            calls += 1;
        }
        assert_eq!(get(small.process.address, "/v2/health/ready").await.status, 200);
    }
    eprintln!("answers: {answers:?}");
    // The gateway's own disk, the store, and enough room.
    let all = ["disk_unavailable", "store_unavailable", "published"];
    assert!(all.iter().all(|outcome| answers.contains_key(*outcome)), "{answers:?}");
    let listed = get(small.process.address, "/v2/repository/models/m").await;
    let listed = listed.json()["versions"].as_array().cloned().expect("a list");
    for version in &acknowledged {
        let found =
            listed.iter().find(|found| found["version"] == json!(version)).expect("it was acknowledged");
        assert_eq!(found["state"], "READY");
    }

    // The ledger had no room either for a while. With room it says everything.
    small.leave(0);
    for _ in 0..3 {
        assert_eq!(small.infer(&acknowledged[0]).await.status, 200);
        calls += 1;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    fs::remove_file(small.path("filling")).expect("a file");
    // What was refused is taken now, and nothing of it is in the way.
    let refused = (0..40).find(|version: &u32| !acknowledged.contains(&version.to_string())).expect("one");
    assert_eq!(small.put(&refused.to_string(), refused).await.status, 200);
    assert_eq!(small.infer(&refused.to_string()).await.status, 200);
    calls += 1;
    let sum = || -> u64 {
        let ledger = ledger::read(&small.path("store/local/ledger")).expect("a whole ledger");
        ledger.values().map(|figures| figures.calls).sum()
    };
    for _ in 0..100 {
        if sum() == calls {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(sum(), calls);
    assert!(files(&small.path("store/local/staging")).is_empty(), "nothing is left of what was refused");

    // What is on it is whole: another gateway serves a copy of it.
    let copy = TempDir::new().expect("a temporary folder");
    let from = small.path("store");
    let copied = Command::new("cp").arg("-a").arg(&from).arg(copy.path()).status().expect("cp runs");
    assert!(copied.success());
    let store = copy.path().join("store");
    let process = Process::serve(&["--store", store.to_str().expect("UTF-8"), "--tenant-versions", "1000"]);
    let small = Small { process, mount: small.mount };
    acknowledged.push(refused.to_string());
    for version in &acknowledged {
        let answer = small.infer(version).await;
        assert_eq!(answer.status, 200, "{version}: {}", answer.error());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_costs_no_request() {
    // Its disk is full, or who read it is gone.
    let full: Stdio = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it").into();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    for log in [full, writer.into()] {
        let store = TempDir::new().expect("a temporary folder");
        // Both at once: one after the other they may be the same.
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [http, admin] = free.each_ref().map(|free| free.local_addr().expect("it is bound"));
        drop(free);
        let child = Command::new(binary())
            .args([
                "serve",
                "--http",
                &http.to_string(),
                "--grpc",
                "off",
                "--admin",
                &admin.to_string(),
                "--metrics",
                "off",
                "--drain-delay",
                "0s",
            ])
            .args(["--log", "debug", "--store"])
            .arg(store.path())
            .stderr(log)
            .spawn();
        let mut child = Killed(child.expect("the binary starts"));
        for _ in 0..500 {
            if TcpStream::connect(http).is_ok() && get(http, "/v2/health/ready").await.status == 200 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let put = call(http, "PUT", "/v2/repository/models/m/versions/1", &[], unique(1)).await;
        assert_eq!(put.status, 200, "{}", put.error());
        let body =
            json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [4.5] }] });
        for _ in 0..3 {
            assert_eq!(post(http, "/v2/models/m/infer", &body).await.status, 200);
        }
        let stop = Command::new("kill").args(["-s", "TERM", &child.0.id().to_string()]).status();
        assert!(stop.expect("kill runs").success());
        assert_eq!(child.0.wait().expect("a child of ours").code(), Some(0));
    }
}

/// A process that ends with the test, whatever becomes of that.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
