//! The gateway's own memory beside hostile models: bounded while they run, and back afterwards.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use airlock_tests::{client::post, gateway::Repository, guest, guest::hostile, process::Process};

use super::{fixture, request};

const MIB: u64 = 1 << 20;

/// Writes all the memory that it may have, and answers.
const TOUCHES: &str = r#"
;; replaces: infer
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 1)))))
  (memory.fill (i32.const 65536) (i32.const 7)
    (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 65536)))
  (call $ok (call $echo (local.get $input)) (i32.const 1)))
"#;

fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_thousand_hostile_calls_the_gateway_is_as_large_as_before() {
    const CAP: u64 = 64 * MIB;
    let cases = [
        ("touches", TOUCHES, 200),
        ("grows", hostile::GROW_MEMORY, 502),
        // Its 32 MiB are more than an answer may have here.
        ("giant", hostile::GIANT_OUTPUT, 502),
        ("stack", hostile::STACK_OVERFLOW, 502),
        ("traps", hostile::UNREACHABLE, 502),
        ("text", hostile::ERROR_TEXT, 502),
        ("outputs", hostile::MANY_OUTPUTS, 502),
        ("pointer", hostile::POINTER_OUT_OF_MEMORY, 502),
    ];
    let mut repository = Repository::default().with("good", "1", "model.wasm", guest::good());
    for (model, text, _) in cases {
        repository = repository.with(model, "1", "model.wasm", fixture(text));
    }
    let folder = repository.path().to_str().expect("UTF-8");
    let arguments = ["--guest-memory", "64MiB", "--guest-output", "1MiB", "--quarantine-faults", "0"];
    let process = Process::serve(&[&["--model-repository", folder], &arguments[..]].concat());
    let round = async || {
        for (model, _, status) in cases {
            let answer = post(process.address, &format!("/v2/models/{model}/infer"), &request()).await;
            assert_eq!(answer.status, status, "{model}: {}", String::from_utf8_lossy(&answer.body));
        }
    };
    // What is allocated once: connections, threads, slots.
    for _ in 0..10 {
        round().await;
    }
    let start = resident(process.id());
    let (peak, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let watch = thread::spawn({
        let (id, peak, done) = (process.id(), Arc::clone(&peak), Arc::clone(&done));
        move || {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(resident(id), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    for _ in 0..1000 / cases.len() {
        round().await;
    }
    done.store(true, Ordering::Relaxed);
    watch.join().expect("no panic");
    let (peak, end) = (peak.load(Ordering::Relaxed), resident(process.id()));
    println!("start {} KiB, peak {} KiB, end {} KiB", start >> 10, peak >> 10, end >> 10);
    assert!(peak <= start + CAP + 32 * MIB, "{} MiB at most, {} MiB at first", peak / MIB, start / MIB);
    assert!(peak >= start + CAP / 2, "nobody wrote its memory: {} MiB, {} MiB", peak / MIB, start / MIB);
    assert!(end <= start + 16 * MIB, "{} MiB at the end, {} MiB at first", end / MIB, start / MIB);
    assert_eq!(post(process.address, "/v2/models/good/infer", &request()).await.status, 200);
    process.signal("TERM");
    assert_eq!(process.end().0, Some(0));
}
