//! The `airlock` binary: its command line, its configuration and its end.

use std::{fs::OpenOptions, io::Write, net::SocketAddr, process::Command, time::Duration};

use airlock::meter::ledger;
use airlock_tests::{
    client::{call, get, open_http2, post},
    gateway::{Repository, binary, examples},
    guest,
    process::Process,
    store::Store,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn good() -> Repository {
    Repository::default().with("good", "1", "model.wasm", guest::good())
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Runs the binary to its end: exit code and what it wrote to stderr.
fn fails(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(binary()).args(arguments).output().expect("the binary starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_file_is_served_under_its_name() {
    let folder = good();
    let file = folder.path().join("my-plugin.wasm");
    std::fs::copy(folder.path().join("good/1/model.wasm"), &file).expect("a writable folder");
    let process = Process::serve(&[text(&file)]);
    assert_eq!(get(process.address, "/v2/models/my-plugin").await.json()["versions"], json!(["1"]));
    process.signal("INT");
    let (code, took, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(took < Duration::from_secs(1), "ctrl-C waits for nobody: {took:?}");
}

#[test]
fn help_teaches_and_mistakes_are_named() {
    let help = Command::new(binary()).args(["serve", "--help"]).output().expect("the binary starts");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for part in
        ["Examples:", "--model-repository", "AIRLOCK_DEADLINE", "[default: 2s]", "--model-control-mode"]
    {
        assert!(help.contains(part), "{part}");
    }
    let folder = good();
    let config = folder.path().join("airlock.toml");
    std::fs::write(&config, "htpp = '127.0.0.1:1'").expect("a writable folder");
    for (arguments, part) in [
        (vec!["serve"], "nothing to serve"),
        (vec!["serve", "nowhere.wasm"], "nowhere.wasm"),
        (vec!["serve", "--model-repository", "nowhere"], "nowhere"),
        (vec!["serve", "--http", "0.0.0.0:0", text(folder.path())], "--insecure"),
        (vec!["serve", "--metrics", "0.0.0.0:0", text(folder.path())], "--insecure"),
        (vec!["serve", "--metrics", "8002", text(folder.path())], "or off"),
        (vec!["serve", "--grpc", "0.0.0.0:0", text(folder.path())], "--insecure"),
        (vec!["serve", "--grpc", "8001", text(folder.path())], "or off"),
        (vec!["serve", "--config", text(&config)], "htpp"),
        (vec!["serve", "--deadline", "soon", "a.wasm"], "--deadline"),
        (vec!["serve", "--model-control-mode", "sometimes", "a.wasm"], "explicit"),
    ] {
        let (code, error) = fails(&arguments);
        assert!(matches!(code, Some(1 | 2)), "{arguments:?}: {code:?}");
        assert!(error.contains(part), "{arguments:?}: {error}");
        assert!(!error.contains("panicked"), "{error}");
    }
}

#[test]
fn why_it_cannot_start_is_told_once() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let (folder, state) = (good(), tempfile::tempdir().expect("a temporary folder"));
    // What lies where a folder is to be made.
    let file = state.path().join("file");
    std::fs::write(&file, "").expect("a writable folder");
    std::fs::create_dir(state.path().join("local")).expect("a writable folder");
    std::fs::write(state.path().join("local/staging"), "").expect("a writable folder");
    let (state, below) = (text(state.path()), file.join("x"));
    for (arguments, names, cause) in [
        (vec!["--http", &address], address.as_str(), "in use"),
        (vec!["--grpc", &address], address.as_str(), "in use"),
        (vec!["--store", state, "--admin", &address], &address, "in use"),
        (vec!["--metrics", &address], &address, "in use"),
        (vec!["--tls-cert", "absent", "--tls-key", "absent"], "absent", "No such file"),
        (vec!["--state", text(&below)], "file/x", "Not a directory"),
        (vec!["--store", text(&below)], "file/x", "Not a directory"),
        (vec!["--state", state, "--secret-file", text(&below)], "file/x", "Not a directory"),
        (vec!["--store", state], "local/staging", "exists"),
    ] {
        let mut serve = vec!["serve", "--log", "error", "--model-repository", text(folder.path())];
        for (port, at) in [("--http", "127.0.0.1:0"), ("--grpc", "127.0.0.1:0"), ("--metrics", "off")] {
            if !arguments.contains(&port) {
                serve.extend([port, at]);
            }
        }
        let (code, error) = fails(&[serve, arguments.clone()].concat());
        assert_eq!(code, Some(1), "{arguments:?}: {error}");
        assert!(error.contains(names), "{arguments:?}: {error}");
        assert_eq!(error.matches(cause).count(), 1, "{arguments:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_come_from_file_environment_and_flags() {
    let folder = good();
    let config = folder.path().join("airlock.toml");
    let file = format!("model_repository = {:?}\n[limits]\nmax_body = '10B'\n", folder.path());
    std::fs::write(&config, file).expect("a writable folder");
    let process = Process::serve(&["--config", text(&config)]);
    let answer = post(process.address, "/v2/models/good/infer", &json!({ "inputs": [] })).await;
    assert_eq!(answer.status, 413);
    drop(process);
    let with_flag = ["--config", text(&config), "--max-body", "1MiB"];
    for (arguments, variable, status) in
        [(&with_flag[..], "10B", 400), (&with_flag[..2], "1MiB", 400), (&with_flag[..2], "5B", 413)]
    {
        let process = Process::serve_in(arguments, &[("AIRLOCK_MAX_BODY", variable)]);
        let answer = post(process.address, "/v2/models/good/infer", &json!({ "inputs": [] })).await;
        assert_eq!(answer.status, status, "{arguments:?} {variable}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_does_not_hold_up_the_stop() {
    let folder = good();
    let process = Process::serve(&["--model-repository", text(folder.path()), "--drain-delay", "0s"]);
    let silent = tokio::net::TcpStream::connect(process.address).await.expect("the gateway listens");
    let mut half = tokio::net::TcpStream::connect(process.address).await.expect("the gateway listens");
    half.write_all(b"PRI").await.expect("an open connection");
    tokio::time::sleep(Duration::from_millis(100)).await;
    process.signal("TERM");
    let (code, took, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    drop((silent, half));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_s_log_and_its_panic_reach_the_gateway_s_log() {
    let folder = Repository::default().with("failing", "1", "model.wasm", example("failing"));
    let process = Process::serve(&["--model-repository", text(folder.path())]);
    let request = |parameters| {
        let input = json!({ "name": "INPUT0", "datatype": "FP32", "shape": [1, 1], "data": [0] });
        json!({ "inputs": [input], "parameters": parameters })
    };
    let path = "/v2/models/failing/infer";
    let failed = post(process.address, path, &request(json!({}))).await;
    assert_eq!((failed.status, failed.error().as_str()), (502, "this model always fails"));
    let panicked = post(process.address, path, &request(json!({ "panic": "out of\ncheese" }))).await;
    assert_eq!((panicked.status, panicked.code().as_str()), (502, "model_failed"));
    assert!(!panicked.error().contains("cheese"), "the message is for the log: {}", panicked.error());
    process.signal("INT");
    let (_, _, log) = process.end();
    assert!(log.contains("about to fail, as always") && log.contains("failing/1"), "{log}");
    // One line of the log, whatever the guest writes.
    let line = log.lines().find(|line| line.contains("cheese")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("panicked at") && line.contains("out of") && line.contains("lib.rs"), "{line}");
}

/// The artifact of an example model, which `cargo xtask guests` lays out.
fn example(model: &str) -> Vec<u8> {
    let file = examples().join(model).join("1/model.wasm");
    std::fs::read(file).expect("the example models are laid out: run `cargo xtask guests`")
}

/// Sends the head and half the body of a request; the rest is for later.
async fn half_a_request(address: SocketAddr) -> (tokio::net::TcpStream, &'static str) {
    let body = r#"{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"data":[1.5]}]}"#;
    let (first, rest) = body.split_at(body.len() / 2);
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("the gateway listens");
    let head = format!(
        "POST /v2/models/good/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{first}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("an open connection");
    tokio::time::sleep(Duration::from_millis(100)).await;
    (stream, rest)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_readiness_goes_first_and_running_requests_finish() {
    let folder = good();
    let process = Process::serve(&["--model-repository", text(folder.path()), "--drain-delay", "700ms"]);
    let address = process.address;
    let (mut stream, rest) = half_a_request(address).await;
    process.signal("TERM");
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Still accepting, no longer ready, alive.
    let ready = get(address, "/v2/health/ready").await;
    assert_eq!(
        (ready.status, ready.code().as_str(), ready.json()["ready"].clone()),
        (503, "draining", json!(false))
    );
    assert_eq!(get(address, "/v2/health/live").await.status, 200);
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "no longer accepting");
    stream.write_all(rest.as_bytes()).await.expect("an open connection");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer, then the end of the connection");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("[1.5]"), "{answer}");
    let (code, _, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("readiness is down") && log.contains("stopped"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grace_period_ends_what_does_not_finish() {
    let folder = good();
    let arguments =
        ["--model-repository", text(folder.path()), "--drain-delay", "0s", "--grace-period", "500ms"];
    let process = Process::serve(&arguments);
    let (stream, _) = half_a_request(process.address).await;
    process.signal("TERM");
    let (code, took, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!((Duration::from_millis(400)..Duration::from_millis(1500)).contains(&took), "{took:?}");
    assert!(log.contains("cut=1"), "{log}");
    drop(stream);
}

/// Calls in a ledger.
fn noted(state: &std::path::Path) -> u64 {
    let ledger = ledger::read(&state.join("ledger")).expect("a whole ledger");
    ledger.values().map(|figures| figures.calls).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_outlives_a_crash_and_a_stop() {
    let folder = good();
    let state = tempfile::tempdir().expect("a temporary folder");
    let arguments =
        ["--model-repository", text(folder.path()), "--state", text(state.path()), "--drain-delay", "0s"];
    let request = json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1] }] });
    let process = Process::serve(&arguments);
    for _ in 0..20 {
        assert_eq!(post(process.address, "/v2/models/good/infer", &request).await.status, 200);
    }
    until(|| async { noted(state.path()) == 20 }).await;
    process.signal("KILL");
    assert_eq!(process.end().0, None);
    // What a crash in the middle of a write leaves behind.
    let file = std::fs::read_dir(state.path().join("ledger")).expect("a folder").next().expect("a file");
    let mut file = OpenOptions::new().append(true).open(file.expect("a file").path()).expect("a file");
    file.write_all(br#"{"seq":2,"from":17"#).expect("a writable file");

    let process = Process::serve(&arguments);
    for _ in 0..5 {
        assert_eq!(post(process.address, "/v2/models/good/infer", &request).await.status, 200);
    }
    let (stream, _) = half_a_request(process.address).await;
    drop(stream);
    process.signal("TERM");
    let (code, _, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(noted(state.path()), 26, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn explicit_mode_loads_what_it_is_told() {
    let folder = good().with("other", "1", "model.wasm", guest::good());
    let arguments = ["--model-repository", text(folder.path()), "--model-control-mode", "explicit"];
    let process = Process::serve(&[&arguments[..], &["--load-model", "good"]].concat());
    let at = process.address;
    assert_eq!(get(at, "/v2/models/good/ready").await.status, 200);
    assert_ne!(get(at, "/v2/models/other/ready").await.status, 200);
    assert_eq!(post(at, "/v2/repository/models/other/load", &json!({})).await.status, 200);
    assert_eq!(get(at, "/v2/models/other/ready").await.status, 200);
    assert_eq!(post(at, "/v2/repository/models/other/unload", &json!({})).await.status, 200);
    assert_ne!(get(at, "/v2/models/other/ready").await.status, 200);
    assert_eq!(post(at, "/v2/repository/models/nope/load", &json!({})).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn poll_mode_follows_the_folder() {
    let folder = good();
    let arguments = ["--model-repository", text(folder.path()), "--model-control-mode", "poll"];
    let process = Process::serve(&[&arguments[..], &["--poll-interval", "100ms"]].concat());
    let at = process.address;
    folder.put("late", "1", "model.wasm", guest::good());
    until(|| async { get(at, "/v2/models/late/ready").await.status == 200 }).await;
    std::fs::remove_dir_all(folder.path().join("late")).expect("a writable folder");
    until(|| async { get(at, "/v2/models/late/ready").await.status != 200 }).await;
    assert_eq!(get(at, "/v2/models/good/ready").await.status, 200);
}

async fn until<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    for _ in 0..300 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within 15 s");
}

/// Calls on a connection of its own until it is told to close it or cannot connect any more: answers with 200, those
/// with 503, and requests that got no answer at all.
async fn call_until_drained(address: SocketAddr, model: &'static str) -> (u32, u32, u32) {
    let body = r#"{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"data":[1.5]}]}"#;
    let request = format!(
        "POST /v2/models/{model}/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (mut good, mut refused, mut lost) = (0, 0, 0);
    while let Ok(mut stream) = tokio::net::TcpStream::connect(address).await {
        loop {
            let mut answer = Vec::new();
            let sent = stream.write_all(request.as_bytes()).await.is_ok();
            let text = loop {
                let read = stream.read_buf(&mut answer).await;
                let text = String::from_utf8_lossy(&answer).into_owned();
                if !matches!(read, Ok(1..)) || text.ends_with('}') {
                    break text;
                }
            };
            match text.get(..12) {
                Some("HTTP/1.1 200") => good += 1,
                Some("HTTP/1.1 503") => refused += 1,
                // Closed while idle: it may be sent again elsewhere, as on any kept connection.
                _ if !sent || text.is_empty() => break,
                _ => lost += 1,
            }
            if text.contains("connection: close") {
                break;
            }
        }
    }
    (good, refused, lost)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_loses_nothing_that_could_finish() {
    let folder =
        good().with("busy", "1", "model.wasm", guest::module(guest::BUSY).expect("a valid fixture")).with(
            "loop",
            "1",
            "model.wasm",
            guest::module(guest::hostile::LOOP_IN_INFER).expect("a valid fixture"),
        );
    // Nothing, about half of what can be run, and twice as much as may run and wait at a time.
    for clients in [0, 4, 24] {
        let arguments = [
            "--model-repository",
            text(folder.path()),
            "--drain-delay",
            "200ms",
            "--grace-period",
            "8s",
            "--max-running",
            "8",
            "--max-queued",
            "4",
            "--deadline",
            "1s",
        ];
        let process = Process::serve(&arguments);
        let address = process.address;
        let (uploading, rest) = half_a_request(address).await;
        let stalled = half_a_request(address).await;
        let looping = tokio::spawn(async move {
            let request =
                json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1] }] });
            post(address, "/v2/models/loop/infer", &request).await
        });
        let mut http2 = open_http2(address).await;
        let calls: Vec<_> = (0..clients).map(|_| tokio::spawn(call_until_drained(address, "busy"))).collect();
        tokio::time::sleep(Duration::from_millis(400)).await;
        process.signal("TERM");
        let on_http2 = http2.send("GET", "/v2/models/good", &[], "").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut uploading = uploading;
        uploading.write_all(rest.as_bytes()).await.expect("an open connection");
        let mut answer = String::new();
        uploading.read_to_string(&mut answer).await.expect("an answer, then the end of the connection");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
        let looped = looping.await.expect("no panic");
        assert!(matches!(looped.status, 504 | 503), "{}", looped.error());
        let mut answered = 0;
        for call in calls {
            let (good, _, lost) = call.await.expect("no panic");
            assert_eq!(lost, 0, "{clients} clients");
            answered += good;
        }
        assert!(clients == 0 || answered > 0);
        assert_eq!(on_http2.expect("an answer").status(), 200);
        // The stalled one is told off before the grace period ends, or cut at its end.
        let (code, took, log) = process.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(took < Duration::from_secs(9), "{took:?}");
        drop((stalled, http2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlives_the_grace_period_is_told_so_and_not_cut() {
    let loops = guest::module(guest::hostile::LOOP_IN_INFER).expect("a valid fixture");
    let folder = Repository::default().with("loop", "1", "model.wasm", loops);
    let arguments = ["--model-repository", text(folder.path()), "--deadline", "30s", "--max-running", "1"];
    let stop = ["--drain-delay", "500ms", "--grace-period", "4s"];
    let process = Process::serve(&[&arguments[..], &stop].concat());
    let body = r#"{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"data":[1.5]}]}"#;
    let length = body.len();
    // One runs, and the other waits for its turn.
    let mut calls = Vec::new();
    for _ in 0..2 {
        let mut stream = tokio::net::TcpStream::connect(process.address).await.expect("the gateway listens");
        let head =
            format!("POST /v2/models/loop/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}");
        stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.expect("an open connection");
        calls.push(stream);
    }
    process.signal("TERM");
    let mut answers = Vec::new();
    for mut stream in calls {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer, then the end of the connection");
        answers.push(answer);
    }
    answers.sort();
    assert!(answers[0].starts_with("HTTP/1.1 503 ") && answers[0].contains("\"draining\""), "{answers:?}");
    assert!(
        answers[1].starts_with("HTTP/1.1 504 ") && answers[1].contains("deadline_exceeded"),
        "{answers:?}"
    );
    let (code, took, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(took < Duration::from_secs(5) && !log.contains("cut="), "{took:?}\n{log}");
}

/// The processes that one has started and that have not ended.
fn started_by(parent: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").expect("a folder of processes").flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|pid| state_of(*pid).is_some_and(|(state, by)| by == parent && state != "Z")).collect()
}

/// The state of a process, and who started it.
fn state_of(pid: u32) -> Option<(String, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned);
    Some((fields.next()?, fields.next()?.parse().ok()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_during_a_compile_ends_the_worker_and_publishes_nothing() {
    let store = Store::default();
    let folder = text(store.path()).to_owned();
    let long = ["--guest-load-deadline", "2m", "--worker-cpu", "2m", "--worker-time", "2m"];
    let stop = ["--drain-delay", "0s", "--grace-period", "3s"];
    let arguments = [&["--store", &folder][..], &long, &stop].concat();
    let process = Process::serve(&arguments);
    let path = |version| format!("/v2/repository/models/own/versions/{version}");
    let put = async |at, version, artifact: Vec<u8>| call(at, "PUT", &path(version), &[], artifact).await;
    assert_eq!(put(process.address, 1, guest::good()).await.status, 200);
    let (at, artifact) =
        (process.address, guest::module(guest::hostile::LOOP_IN_LOAD).expect("a valid fixture"));
    let second = path(2);
    let uploading = tokio::spawn(async move { call(at, "PUT", &second, &[], artifact).await });
    until(|| async { !started_by(process.id()).is_empty() }).await;
    let workers = started_by(process.id());
    process.signal("TERM");
    let told = uploading.await.expect("no panic");
    assert_eq!((told.status, told.code().as_str()), (503, "draining"), "{}", told.error());
    let (code, took, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(took < Duration::from_secs(4) && !log.contains("cut="), "{took:?}\n{log}");
    // The kernel ends it with the gateway.
    let gone = |pid: &u32| state_of(*pid).is_none_or(|(state, _)| state == "Z");
    until(|| async { workers.iter().all(gone) }).await;

    let process = Process::serve(&arguments);
    let request = json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1] }] });
    let answer = post(process.address, "/v2/models/own/infer", &request).await;
    assert_eq!((answer.status, answer.json()["model_version"].clone()), (200, json!("1")));
    assert_eq!(get(process.address, &path(2)).await.status, 404);
    let staged = std::fs::read_dir(store.path().join("local/staging")).expect("a folder");
    assert_eq!(staged.count(), 0);
    // Its name is not taken either.
    assert_eq!(put(process.address, 2, guest::good()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let folder = good();
    let process = Process::serve(&["--model-repository", text(folder.path()), "--drain-delay", "30s"]);
    let held = half_a_request(process.address).await;
    process.signal("TERM");
    until(|| async { get(process.address, "/v2/health/ready").await.status == 503 }).await;
    process.signal("TERM");
    let (code, took, log) = process.end();
    assert_eq!(code, Some(130), "{log}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    drop(held);
}
