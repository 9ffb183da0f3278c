//! Nothing of a request is left for the next one: a guest writes all its memory, another one looks for it.

use airlock_tests::{
    client::post,
    gateway::{Gateway, Repository},
    process::Process,
};
use serde_json::{Value, json};

use super::fixture;

/// Fills all the memory it may have with 0xA5 and answers one byte of it; below zero, it traps after that.
const WRITER: &str = r#"
;; replaces: infer
(data (i32.const 1024) "\01\00\00\00\00\00\00\00")
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (local $end i32)
  (loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 1)))))
  (local.set $end (i32.shl (memory.size) (i32.const 16)))
  (memory.fill (i32.const 8192) (i32.const 0xa5) (i32.sub (local.get $end) (i32.const 8192)))
  (if (f32.lt (f32.load (i32.load offset=28 (local.get $input))) (f32.const 0)) (then (unreachable)))
  (f32.store (i32.const 1048) (f32.convert_i32_u (i32.load8_u (i32.sub (local.get $end) (i32.const 1)))))
  (drop (call $echo (local.get $input)))
  (i32.store (i32.const 524) (i32.const 1024))
  (i32.store (i32.const 540) (i32.const 1048))
  (i32.store (i32.const 544) (i32.const 4))
  (call $ok (i32.const 512) (i32.const 1)))
"#;

/// Answers how many of its words are not zero where none of its own are; below zero, it makes one first.
const SCANNER: &str = r#"
;; replaces: infer
(data (i32.const 1024) "\01\00\00\00\00\00\00\00")
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (local $end i32) (local $at i32) (local $found i32)
  (loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 1)))))
  (local.set $end (i32.shl (memory.size) (i32.const 16)))
  (if (f32.lt (f32.load (i32.load offset=28 (local.get $input))) (f32.const 0))
    (then (i32.store8 (i32.sub (local.get $end) (i32.const 1)) (i32.const 0xa5))))
  (local.set $at (i32.const 8192))
  (loop $more
    (local.set $found (i32.add (local.get $found) (i64.ne (i64.load (local.get $at)) (i64.const 0))))
    (local.set $at (i32.add (local.get $at) (i32.const 8)))
    (br_if $more (i32.ne (local.get $at) (local.get $end))))
  (f32.store (i32.const 1048) (f32.convert_i32_u (local.get $found)))
  (drop (call $echo (local.get $input)))
  (i32.store (i32.const 524) (i32.const 1024))
  (i32.store (i32.const 540) (i32.const 1048))
  (i32.store (i32.const 544) (i32.const 4))
  (call $ok (i32.const 512) (i32.const 1)))
"#;

fn repository() -> Repository {
    Repository::default().with("writer", "1", "model.wasm", fixture(WRITER)).with(
        "scanner",
        "1",
        "model.wasm",
        fixture(SCANNER),
    )
}

fn with(value: f32) -> Value {
    json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [value] }] })
}

/// `AIRLOCK_RESIDUE_ROUNDS` says how many times the two alternate; the full size is 10,000.
fn rounds() -> usize {
    std::env::var("AIRLOCK_RESIDUE_ROUNDS").map_or(200, |text| text.parse().expect("a number"))
}

async fn alternate(at: std::net::SocketAddr) {
    let asked = async |model: &str, value: f32| {
        let answer = post(at, &format!("/v2/models/{model}/infer"), &with(value)).await;
        (answer.status == 200).then(|| answer.json()["outputs"][0]["data"][0].as_f64().expect("a number"))
    };
    assert_eq!(asked("scanner", -1.0).await, Some(1.0), "the scanner sees what is there");
    for round in 0..rounds() {
        // Every other writer ends with a trap.
        let (value, expected) = if round % 2 == 0 { (1.0, Some(165.0)) } else { (-1.0, None) };
        assert_eq!(asked("writer", value).await, expected);
        assert_eq!(asked("scanner", 1.0).await, Some(0.0), "words of somebody else, in round {round}");
    }
    println!("0 foreign words in {} rounds", rounds());
}

/// Slots that are reset after each request; the memory is larger than what stays resident.
#[tokio::test(flavor = "multi_thread")]
async fn in_the_pool_nothing_is_left() {
    let gateway = Gateway::serve_with(repository(), |settings| {
        settings.limits.guest_memory = Some("16MiB".parse().expect("a size"));
        settings.limits.quarantine_faults = Some(0);
    })
    .await;
    alternate(gateway.address()).await;
}

/// All of the memory stays resident, and the same slots are used at once again.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_small_pool_of_small_memories_nothing_is_left() {
    let gateway = Gateway::serve_with(repository(), |settings| {
        settings.limits.guest_memory = Some("512KiB".parse().expect("a size"));
        settings.limits.guest_instances = Some(2);
        settings.limits.quarantine_faults = Some(0);
    })
    .await;
    alternate(gateway.address()).await;
}

/// Where the address space has no room for a pool.
#[tokio::test(flavor = "multi_thread")]
async fn on_demand_nothing_is_left() {
    let repository = repository();
    let folder = repository.path().to_str().expect("UTF-8");
    let little = ["sh", "-c", "ulimit -v 8000000 && exec \"$@\"", "sh"];
    let arguments = ["--model-repository", folder, "--guest-memory", "16MiB", "--quarantine-faults", "0"];
    let process = Process::serve_under(&little, &arguments);
    alternate(process.address).await;
    process.signal("TERM");
    let (code, _, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("no instance pool"), "{log}");
}
