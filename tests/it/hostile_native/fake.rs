//! Programs that say that they are workers and lie: nothing that they say is believed, and nothing that they do hurts.

use std::path::Path;

use tempfile::TempDir;

use super::*;

/// A shell script that says these bytes on its socket, writes some into the shared memory, and then does as `then` says.
/// Another process writes the script: one that this test's process had open for writing could not be run while another
/// test forks.
pub fn script(folder: &TempDir, says: &[Vec<u8>], then: &str) -> PathBuf {
    let path = folder.path().join("program");
    let said = folder.path().join("said");
    fs::write(&said, says.concat()).expect("a writable folder");
    let text = format!(
        "#!/bin/sh\nprintf 0123456789abcdef 1<>/proc/self/fd/1\ncat {} >&0\n{then}\n",
        said.display()
    );
    let source = folder.path().join("source");
    fs::write(&source, text).expect("a writable folder");
    let copied = std::process::Command::new("sh")
        .args(["-c", "cat \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh"])
        .args([&source as &Path, &path])
        .status();
    assert!(copied.expect("a shell").success());
    path
}

fn frame(message: &Value) -> Vec<u8> {
    let text = message.to_string();
    [&u32::try_from(text.len()).expect("short").to_le_bytes(), text.as_bytes()].concat()
}

pub fn loaded() -> Vec<u8> {
    let spec = |name: &str| json!({ "name": name, "datatype": "FP32", "shape": [-1] });
    frame(&json!({ "Loaded": { "inputs": [spec("x")], "outputs": [spec("y")] } }))
}

pub fn ran(call: u64, result: &Value) -> Vec<u8> {
    frame(&json!({ "Ran": { "call": call, "cpu": { "secs": u64::MAX, "nanos": 0 }, "result": result } }))
}

fn answered(outputs: &Value) -> Vec<u8> {
    ran(1, &json!({ "Ok": outputs }))
}

pub fn output(name: &str, datatype: &str, shape: &Value, offset: u64, length: u64) -> Value {
    json!({ "name": name, "datatype": datatype, "shape": shape, "offset": offset, "length": length })
}

async fn called(says: &[Vec<u8>], then: &str) -> (Answer, Value) {
    let folder = TempDir::new().expect("a temporary folder");
    let program = script(&folder, says, then);
    let fixture = Fixture::with(707, Repository::default(), program, |settings| {
        settings.limits.deadline = Some("1s".parse().expect("a time"));
        settings.limits.native_output = Some("1MiB".parse().expect("a size"));
    })
    .await;
    fixture.put("m", &negation()).await;
    let answer = fixture.infer("m", &one(1.0)).await;
    // The gateway is well, and so is its accounting: nobody worked for longer than the call took.
    assert_eq!(airlock_tests::client::get(fixture.gateway.address(), "/v2/health/ready").await.status, 200);
    let usage = fixture.tenant().get("/v2/usage").await.json();
    (answer, usage)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_well_formed_is_an_answer() {
    // The input lies at 64, the answer behind it: there are zeros.
    let good = answered(&json!([output("y", "FP32", &json!([1]), 128, 4)]));
    let (answer, usage) = called(&[loaded(), good], "exec sleep 1000").await;
    assert_eq!(ok(&answer), json!([0.0]));
    let time = usage["total"]["cpu_ns"].as_u64();
    assert!(time.is_some_and(|time| time < 60_000_000_000), "{usage}");
    for (fault, status, code) in [
        (json!({ "InvalidInput": "no" }), 400, "invalid_input"),
        (json!({ "Failed": "no" }), 502, "model_failed"),
        (json!({ "Trapped": "no" }), 502, "model_failed"),
        (json!({ "Output": "no" }), 502, "model_output_invalid"),
        (json!("Deadline"), 504, "deadline_exceeded"),
    ] {
        let (answer, _) = called(&[loaded(), ran(1, &json!({ "Err": fault }))], "exec sleep 1000").await;
        told(&answer, status, code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_lie_are_not_sent() {
    let one_of = |output: Value| answered(&json!([output]));
    let y = |shape: Value, offset, length| one_of(output("y", "FP32", &shape, offset, length));
    let cases = [
        (y(json!([2]), 128, 4), "model_output_invalid"),
        (y(json!([1]), 128, 8), "model_output_invalid"),
        (y(json!([1, 1]), 128, 4), "model_output_invalid"),
        (y(json!([u64::MAX, 2]), 128, 4), "model_output_invalid"),
        (one_of(output("y", "FP64", &json!([1]), 128, 8)), "model_output_invalid"),
        (one_of(output("z", "FP32", &json!([1]), 128, 4)), "model_output_invalid"),
        (answered(&json!([])), "model_output_invalid"),
        // More than a model may answer, and than there is memory.
        (y(json!([1_000_000]), 128, 4_000_000), "model_output_invalid"),
        (y(json!([1]), 128, u64::MAX), "model_output_invalid"),
        // Outside of the shared memory, and what the caller itself sent.
        (y(json!([1]), 1 << 40, 4), "model_failed"),
        (y(json!([1]), u64::MAX, 4), "model_failed"),
        (y(json!([1]), 64, 4), "model_failed"),
        (y(json!([1]), 0, 4), "model_failed"),
        (answered(&json!(vec![output("y", "FP32", &json!([1]), 128, 4); 1000])), "model_failed"),
    ];
    for (index, (says, code)) in cases.into_iter().enumerate() {
        let (answer, _) = called(&[loaded(), says], "exec sleep 1000").await;
        assert_eq!((answer.status, answer.code().as_str()), (502, code), "{index}: {}", answer.error());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_silence_and_an_early_end_are_told_apart() {
    let cases: [(Vec<u8>, &str, u16, &str); 10] = [
        (b"\xff\xff\xff\xff".to_vec(), "exec sleep 1000", 502, "makes no sense"),
        (b"\x04\0\0\0what".to_vec(), "exec sleep 1000", 502, "makes no sense"),
        (frame(&json!({ "Ran": 1 })), "exec sleep 1000", 502, "makes no sense"),
        (ran(7, &json!({ "Ok": [] })), "exec sleep 1000", 502, "makes no sense"),
        (loaded(), "exec sleep 1000", 502, "makes no sense"),
        // It ends in the middle of a word, or without one; that it begins no call says nothing of the call.
        (b"\x09\0".to_vec(), "exit 0", 503, "no capacity"),
        (vec![], "cat >/dev/null; kill -SEGV $$", 504, "deadline"),
        (vec![], "exit 3", 503, "no capacity"),
        (vec![], "exec sleep 1000", 504, "deadline"),
        // It never stops talking.
        (vec![], "exec cat /dev/zero >&0", 502, ""),
    ];
    for (index, (says, then, status, part)) in cases.into_iter().enumerate() {
        let (answer, _) = called(&[loaded(), says], then).await;
        let text = answer.error();
        assert_eq!(answer.status, status, "{index}: {text}");
        assert!(text.contains(part), "{index}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_does_not_load_is_an_upload_refused() {
    let cases: [(Vec<u8>, &str, &str); 6] = [
        (b"\xff\xff\xff\xff".to_vec(), "exec sleep 1000", "makes no sense"),
        (vec![], "kill -XCPU $$", "--worker-cpu"),
        (ran(1, &json!({ "Ok": [] })), "exec sleep 1000", "makes no sense"),
        (vec![], "exit 3", "exit code 3"),
        (vec![], "echo memory allocation of 9 bytes failed >&2; kill -ABRT $$", "--native-memory"),
        (frame(&json!({ "Refused": { "step": "check", "reason": "no" } })), "exit 0", "no"),
    ];
    for (says, then, part) in cases {
        let folder = TempDir::new().expect("a temporary folder");
        let program = script(&folder, &[says], then);
        let fixture = Fixture::with(708, Repository::default(), program, |_| ()).await;
        let answer = fixture.tenant().put("m", "1", negation().file()).await;
        assert_eq!(answer.status, 422, "{}", answer.error());
        assert!(answer.error().contains(part), "{part}: {}", answer.error());
        fixture.until(0).await;
    }
    let folder = TempDir::new().expect("a temporary folder");
    let program = script(&folder, &[], "exec sleep 1000");
    let fixture = Fixture::with(709, Repository::default(), program, |settings| {
        settings.limits.worker_time = Some("500ms".parse().expect("a time"));
    })
    .await;
    let answer = fixture.tenant().put("m", "1", negation().file()).await;
    told(&answer, 503, "cannot_load_now");
    assert!(answer.error().contains("longer than the 500ms"), "{}", answer.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_started_ends_with_it() {
    let left = || {
        let processes = fs::read_dir("/proc").expect("Linux").filter_map(Result::ok);
        let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        lines.filter(|line| line.starts_with(b"sleep\098765432\0")).count()
    };
    let good = || answered(&json!([output("y", "FP32", &json!([1]), 128, 4)]));
    for (says, then, status) in [
        // It ends by itself, is killed at the deadline, or goes with its gateway.
        (vec![loaded()], "sleep 98765432 & exit 0", 503),
        (vec![loaded()], "sleep 98765432 & exec sleep 98765432", 504),
        (vec![loaded(), good()], "sleep 98765432 & exec sleep 98765432", 200),
    ] {
        let (answer, _) = called(&says, then).await;
        assert_eq!(answer.status, status, "{then}");
        let begun = Instant::now();
        while left() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{then}: {} are left", left());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
