//! When memory is short: each mark by itself, with a limit that any gateway has passed before it loads anything.

use std::time::Duration;

use airlock_tests::{
    client::{Answer, call, get, post},
    gateway::Repository,
    guest::{self, hostile},
    onnx::{self, Graph},
    process::Process,
    store::Store,
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::hostile_native::workers_of;

/// No process is that small.
const PASSED: [&str; 2] = ["--memory-limit", "1MiB"];

fn repository() -> Repository {
    let loops = guest::module(hostile::LOOP_IN_INFER).expect("a valid fixture");
    Repository::default().with("good", "1", "model.wasm", guest::good()).with(
        "loop",
        "1",
        "model.wasm",
        loops,
    )
}

fn serve(repository: &Repository, arguments: &[&str]) -> Process {
    let folder = repository.path().to_str().expect("UTF-8");
    Process::serve(&[&["--model-repository", folder, "--drain-delay", "0s"], &PASSED[..], arguments].concat())
}

fn request() -> Value {
    json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1.5] }] })
}

fn overloaded(answer: &Answer) {
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded"), "{text}");
    assert!(answer.error().contains("short of memory"), "{text}");
    assert!(answer.header("retry-after").is_some(), "{text}");
}

/// The log of a gateway that is told to stop.
fn log(process: Process) -> String {
    process.signal("TERM");
    let (code, _, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_first_mark_nothing_is_loaded() {
    let (repository, store) = (repository(), Store::default());
    let folder = store.path().to_str().expect("UTF-8");
    let only = ["--memory-no-queue", "0", "--memory-no-calls", "0"];
    let explicit = ["--model-control-mode", "explicit", "--load-model", "good", "--store", folder];
    let process = serve(&repository, &[&only[..], &explicit].concat());
    let at = process.address;
    // Put off, and not given up.
    let index = post(at, "/v2/repository/index", &json!({})).await.json();
    let reasons: Vec<_> =
        index.as_array().expect("a list").iter().map(|entry| entry["reason"].to_string()).collect();
    assert!(reasons.iter().any(|reason| reason.contains("memory; it is tried again in")), "{index}");
    overloaded(&post(at, "/v2/repository/models/loop/load", &json!({})).await);
    overloaded(&call(at, "PUT", "/v2/repository/models/own/versions/1", &[], guest::good()).await);
    // All else goes on.
    let answer = get(at, "/v2").await;
    assert_eq!((answer.status, answer.header("connection")), (200, None));
    assert_eq!(get(at, "/v2/health/ready").await.status, 200);
    assert_eq!(post(at, "/v2/repository/models/good/unload", &json!({})).await.status, 200);
    let log = log(process);
    assert_eq!(log.matches("memory is short: nothing is loaded").count(), 1, "{log}");
    assert_eq!(log.matches("memory is short").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_second_mark_nothing_waits_and_no_connection_is_kept() {
    let repository = repository();
    let only = ["--memory-no-loads", "0", "--memory-no-calls", "0"];
    let process = serve(&repository, &[&only[..], &["--max-running", "1", "--deadline", "20s"]].concat());
    let at = process.address;
    let good = async || post(at, "/v2/models/good/infer", &request()).await;
    let answer = good().await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    let timed = json!({ "inputs": request()["inputs"], "parameters": { "timeout": 5_000_000 } });
    let long = || {
        let timed = timed.clone();
        tokio::spawn(async move { post(at, "/v2/models/loop/infer", &timed).await })
    };
    let mut runs = long();
    // The one place is free until then, and as soon as that call has ended. Either of the two may find it taken.
    let mut refused = good().await;
    while refused.status == 200 {
        if runs.is_finished() {
            overloaded(&runs.await.expect("no panic"));
            runs = long();
        }
        refused = good().await;
    }
    overloaded(&refused);
    assert_eq!(runs.await.expect("no panic").status, 504);
    assert_eq!(good().await.status, 200);
    let log = log(process);
    assert_eq!(log.matches("memory is short").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_last_mark_only_health_is_answered() {
    let repository = repository();
    let process = serve(&repository, &[]);
    let at = process.address;
    for _ in 0..3 {
        assert_eq!(get(at, "/v2/health/live").await.status, 200);
        let ready = get(at, "/v2/health/ready").await;
        assert_eq!((ready.status, ready.json()["ready"].clone()), (503, json!(false)));
        overloaded(&post(at, "/v2/models/good/infer", &request()).await);
        overloaded(&get(at, "/v2/models/good").await);
        overloaded(&get(at, "/v2/usage").await);
        overloaded(&post(at, "/v2/repository/index", &json!({})).await);
    }
    let log = log(process);
    assert_eq!(log.matches("memory is short").count(), 3, "{log}");
}

/// MiB that a process has to itself.
fn own(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it lives");
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<usize>().ok()).expect("a number") / 1024
}

/// A gateway that reaches that mark with 120 MiB more than it takes after its first call of `model`.
async fn below(mark: &str, model: &str, arguments: &[&str]) -> Process {
    let start = async |more: &[&str]| {
        let common = ["--drain-delay", "0s", "--body-idle-timeout", "60s"];
        let process = Process::serve(&[&common[..], arguments, more].concat());
        assert_eq!(post(process.address, &format!("/v2/models/{model}/infer"), &request()).await.status, 200);
        process
    };
    let idle = own(&start(&[]).await);
    let limit = format!("{}MiB", 2 * (idle + 120));
    start(&["--memory-limit", &limit, mark, "50"]).await
}

/// Requests of 240 MiB, each without its last byte.
async fn held(process: &Process) -> Vec<TcpStream> {
    const BODY: usize = 60 << 20;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(process.address).await.expect("the gateway listens");
        let head = format!(
            "POST /v2/models/good/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("an open connection");
        // One that comes too late is refused in the middle of it.
        let _ = stream.write_all(&vec![b' '; BODY - 1]).await;
        held.push(stream);
    }
    held
}

/// The first answer of a model with that status, within half a minute.
async fn until(process: &Process, model: &str, status: u16) -> Answer {
    for _ in 0..600 {
        let answer = post(process.address, &format!("/v2/models/{model}/infer"), &request()).await;
        if answer.status == status {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not {status} within 30 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_while_memory_is_taken_is_answered_when_it_is_back() {
    let repository = repository();
    let folder = repository.path().to_str().expect("UTF-8");
    let process = below("--memory-no-calls", "good", &["--model-repository", folder]).await;
    let held = held(&process).await;
    overloaded(&until(&process, "good", 503).await);
    assert_eq!(get(process.address, "/v2/health/live").await.status, 200);
    drop(held);
    until(&process, "good", 200).await;
    let log = log(process);
    assert!(
        log.contains("memory is short: nothing is answered") && log.contains("memory is there again"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_idle_go_while_memory_is_taken_and_none_begins() {
    let graph = Graph {
        nodes: vec![onnx::node("Neg", &["INPUT0"], &["y"], &[])],
        inputs: vec![onnx::value("INPUT0", onnx::FLOAT, &["N"])],
        outputs: vec![onnx::value("y", onnx::FLOAT, &["N"])],
        initializers: vec![],
    };
    let repository = repository().with("negation", "1", "model.onnx", graph.file());
    let folder = repository.path().to_str().expect("UTF-8");
    let onnx = ["--model-repository", folder, "--onnx-isolation", "process"];
    let only = ["--memory-no-queue", "0", "--memory-no-calls", "0"];
    let process = below("--memory-no-loads", "negation", &[onnx, only].concat()).await;
    let workers = || workers_of(process.id(), None).len();
    assert_eq!(workers(), 1);
    let held = held(&process).await;
    for _ in 0..600 {
        if workers() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(workers(), 0, "still there after 30 s");
    let answer = post(process.address, "/v2/models/negation/infer", &request()).await;
    assert_eq!((answer.status, workers()), (503, 0), "{}", answer.error());
    assert_eq!(post(process.address, "/v2/models/good/infer", &request()).await.status, 200);
    drop(held);
    until(&process, "negation", 200).await;
}
