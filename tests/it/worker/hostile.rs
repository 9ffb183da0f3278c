//! Models that are hostile while they are compiled and loaded.

use std::{
    fmt::Write as _,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use airlock::{
    execute::Step,
    limits::{SandboxLimits, WorkerLimits},
};
use airlock_tests::{
    client::{get, post},
    gateway::{Gateway, Repository},
    guest::{self, hostile},
    process::Process,
};
use serde_json::json;

use super::Fixture;

/// Functions that are each within the profile, and together keep a compiler busy for very long.
fn compile_bomb() -> Vec<u8> {
    const FUNCTIONS: usize = 40;
    const LOCALS: usize = 5_000;
    const BLOCKS: usize = 9_000;
    let locals = " i32".repeat(LOCALS);
    let mut text = String::new();
    for function in 0..FUNCTIONS {
        let _ = write!(text, "(func $bomb{function} (param i32) (result i32) (local{locals})");
        for block in 0..BLOCKS {
            let local = 1 + block % LOCALS;
            let _ = writeln!(
                text,
                "(if (local.get 0) (then (local.set {local} (i32.add (local.get {local}) (local.get {})))))",
                1 + (block * 7) % LOCALS
            );
        }
        text.push_str("(local.get 1))\n");
    }
    guest::module(&text).expect("the bomb assembles")
}

/// Takes so much memory in `load` that its snapshot is as large.
const SWELLS: &str = r#"
;; replaces: load
(func (export "airlock:inference/plugin@0.1.0#load") (param i32 i32 i32 i32) (result i32)
  (if (i32.eq (i32.const -1) (memory.grow (i32.const 3000))) (then (unreachable)))
  (memory.fill (i32.const 0x20000) (i32.const 7) (i32.const 0xbb80000))
  (i32.const 128))
"#;

/// Takes memory in `load` for as long as there is any.
const GROWS: &str = r#"
;; replaces: load
(func (export "airlock:inference/plugin@0.1.0#load") (param i32 i32 i32 i32) (result i32)
  (loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 16)))))
  (unreachable))
"#;

fn fixture(text: &str) -> Vec<u8> {
    guest::module(text).expect("a valid fixture")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compile_bomb_costs_its_worker_and_nobody_else() {
    let repository = Repository::default()
        .with("good", "1", "model.wasm", guest::good())
        .with("bomb", "1", "model.wasm", compile_bomb())
        .with("loop", "1", "model.wasm", fixture(hostile::LOOP_IN_LOAD))
        .with("grow", "1", "model.wasm", fixture(GROWS));
    let gateway = Gateway::serve_with(repository, |settings| {
        settings.limits.worker_cpu = Some("3s".parse().expect("a time"));
        // Or the bomb might hit this limit first.
        settings.limits.worker_memory = Some("16GiB".parse().expect("a size"));
        settings.limits.guest_load_deadline = Some("2s".parse().expect("a time"));
        settings.limits.guest_memory = Some("64MiB".parse().expect("a size"));
    })
    .await;
    let at = gateway.address();
    for (model, part) in [
        ("bomb", "compile: it took more than the 3s of processor time"),
        ("loop", "load: it did not end within 2s"),
        ("grow", "load: the model needs more than the 67108864 bytes of memory"),
    ] {
        let answer = get(at, &format!("/v2/models/{model}/ready")).await;
        assert_eq!(answer.status, 503);
        assert!(answer.error().contains(part), "{model}: {}", answer.error());
    }
    let request =
        json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1.5] }] });
    let answer = post(at, "/v2/models/good/infer", &request).await;
    assert_eq!((answer.status, &answer.json()["outputs"][0]["data"]), (200, &json!([1.5])));
}

#[tokio::test]
async fn what_swells_is_stopped_by_the_limit_that_it_hits() {
    let swells = fixture(SWELLS);
    let small = Fixture::real(WorkerLimits { memory_bytes: 512 << 20, ..WorkerLimits::default() });
    let error = small.refused(SandboxLimits::default(), swells.clone()).await;
    assert!(error.reason.contains("--worker-memory"), "{error}");

    let short = Fixture::real(WorkerLimits { file_bytes: 64 << 20, ..WorkerLimits::default() });
    let error = short.refused(SandboxLimits::default(), swells.clone()).await;
    assert!(error.reason.contains("larger than 67108864 bytes"), "{error}");
    assert!(error.reason.contains("--worker-file"), "{error}");

    let roomy = Fixture::real(WorkerLimits::default());
    let report = roomy.check(&SandboxLimits::default(), swells).expect("the default limits have room for it");
    assert!(report.compiled_bytes > 180 << 20, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_bounds_itself_and_its_violent_end_is_told_with_its_step() {
    let fixture = Fixture::real(WorkerLimits::default());
    let loops = guest::module(hostile::LOOP_IN_LOAD).expect("a valid fixture");
    let limits = SandboxLimits { load_deadline: Duration::from_secs(60), ..SandboxLimits::default() };
    let (error, ()) = tokio::join!(fixture.refused(limits, loops), async {
        let child = tokio::task::block_in_place(|| fixture.child());
        let seen = |name: &str| fs::read_to_string(format!("/proc/{child}/{name}")).unwrap_or_default();
        // The ticker is started before the guest is; the bounds are set before the job is even read.
        let threads = || {
            let tasks = fs::read_dir(format!("/proc/{child}/task")).into_iter().flatten().flatten();
            tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok()).collect::<String>()
        };
        let begun = Instant::now();
        while !threads().contains("epoch-ticker") {
            assert!(begun.elapsed() < Duration::from_secs(20), "the worker does nothing");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let bounds = seen("limits");
        let bound = |name: &str| {
            let line = bounds.lines().find(|line| line.starts_with(name)).expect(name);
            line[name.len()..].split_whitespace().take(2).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(bound("Max cpu time"), "30 31");
        assert_eq!(bound("Max address space"), "2147483648 2147483648");
        assert_eq!(bound("Max file size"), "268435456 268435456");
        assert_eq!(bound("Max open files"), "64 64");
        // None at all; see `no_core_dumps` for why it is not 0, which stays where it was the limit before.
        assert!(["1 1", "0 0"].contains(&bound("Max core file size").as_str()), "{bounds}");
        assert!(seen("status").contains("NoNewPrivs:\t1"), "{}", seen("status"));
        assert_eq!(seen("environ"), "");
        assert!(seen("status").contains("CapEff:\t0000000000000000"), "{}", seen("status"));
        assert_eq!(seen("oom_score_adj").trim(), "1000");
        let namespace = |process: &str, name: &str| fs::read_link(format!("/proc/{process}/ns/{name}")).ok();
        for name in ["net", "ipc", "uts", "user"] {
            let own = namespace("self", name);
            let moved = namespace(&child.to_string(), name) != own && own.is_some();
            assert!(moved || !may_unshare(), "it is in the {name} namespace of the gateway");
        }
        let nice = |stat: &str| -> Option<i32> {
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(16)?.parse().ok())
        };
        assert_eq!(nice(&seen("stat")), Some(19));
        let killed =
            Command::new("kill").args(["-s", "KILL", &child.to_string()]).status().expect("kill runs");
        assert!(killed.success());
    });
    assert!(matches!(error.step, Step::Snapshot | Step::Compile | Step::Load), "{error}");
    assert!(error.reason.contains("killed from outside"), "{error}");
}

/// Whether this machine lets anybody have namespaces of their own.
fn may_unshare() -> bool {
    Command::new("unshare").args(["-Urn", "true"]).status().is_ok_and(|status| status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_worker_cannot_leave_the_network_models_are_loaded_all_the_same_and_it_is_told_once() {
    if !may_unshare() {
        return;
    }
    let mut repository = Repository::default();
    for model in ["a", "b", "c"] {
        repository = repository.with(model, "1", "model.wasm", guest::good());
    }
    let folder = repository.path().to_str().expect("UTF-8");
    let forbidden =
        ["unshare", "-Ur", "sh", "-c", "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"", "sh"];
    let process = Process::serve_under(&forbidden, &["--model-repository", folder]);
    for model in ["a", "b", "c"] {
        assert_eq!(get(process.address, &format!("/v2/models/{model}/ready")).await.status, 200);
    }
    process.signal("TERM");
    let (_, _, log) = process.end();
    let told = log.lines().filter(|line| line.contains("workers are less secluded")).count();
    assert_eq!(told, 1, "{log}");

    let process = Process::serve(&["--model-repository", folder]);
    process.signal("TERM");
    let (_, _, log) = process.end();
    assert!(!log.contains("workers are less secluded"), "{log}");
}
