//! Metering is exact: whatever becomes of a request, the ledger has it once.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use airlock::meter::{CLIENT_GONE, Figures, ledger};
use airlock_tests::{
    client::{call, call_http2, get, open_http2, post},
    gateway::{Gateway, Repository},
    guest::{self, hostile},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

fn request() -> Value {
    json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0] }] })
}

fn fixture(text: &str) -> Vec<u8> {
    guest::module(text).expect("a valid fixture")
}

/// Every model under the name of what happens to its calls.
fn repository() -> Repository {
    [
        ("good", guest::ECHO),
        ("pipeline", guest::PIPELINE),
        ("next", guest::ECHO),
        ("trap", hostile::UNREACHABLE),
        ("bounds", hostile::OUT_OF_BOUNDS),
        ("memory", hostile::GROW_MEMORY),
        ("invalid", hostile::INVALID_INPUT),
        ("shape", hostile::SHAPE_AGAINST_BYTES),
        ("loop", hostile::LOOP_IN_INFER),
        ("left-sending", guest::ECHO),
        ("left-running", hostile::LOOP_IN_INFER),
        ("left-answering", guest::ECHO),
        ("drained", guest::ECHO),
        ("cut", hostile::LOOP_IN_INFER),
    ]
    .into_iter()
    .fold(Repository::default(), |repository, (model, text)| {
        repository.with(model, "1", "model.wasm", fixture(text))
    })
    .with("broken", "1", "model.wasm", "not wasm")
}

/// What the test itself knows of the requests that the gateway took on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Taken {
    calls: u64,
    bytes_in: u64,
    bytes_out: u64,
}

/// By model (none if there is no such model) and outcome; no outcome where it is a matter of time.
type Expected = BTreeMap<(Option<String>, Option<String>), Taken>;

fn expect(
    expected: &mut Expected,
    model: Option<&str>,
    outcome: Option<&str>,
    bytes_in: usize,
    bytes_out: usize,
) {
    let key = (model.map(str::to_owned), outcome.map(str::to_owned));
    let taken = expected.entry(key).or_default();
    taken.calls += 1;
    taken.bytes_in += bytes_in as u64;
    taken.bytes_out += bytes_out as u64;
}

/// A number that looks random and is the same in every run.
fn scatter(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 20
}

/// A length less than a whole one.
fn below(random: u64, length: usize) -> usize {
    usize::try_from(random % 1000).expect("a small number") % length
}

/// One call and what has to be noted of it.
async fn one(at: SocketAddr, number: u64, expected: &mut Expected) {
    let random = scatter(number);
    let good = request().to_string();
    let (model, outcome, body) = match random % 1000 {
        0..5 => return leave_answering(at, random, expected).await,
        5..60 => return leave_sending(at, random, expected).await,
        60..100 => return leave_running(at, random, expected).await,
        100..130 => ("loop", "deadline_exceeded", timed_out()),
        130..230 => ("trap", "model_failed", good),
        230..260 => ("bounds", "model_failed", good),
        260..265 => ("memory", "model_memory", good),
        265..320 => ("invalid", "invalid_input", good),
        320..350 => ("shape", "model_output_invalid", good),
        350..400 => ("good", "bad_request", good[..below(random, good.len())].to_owned()),
        400..450 => ("broken", "model_not_ready", good),
        450..500 => ("pipeline", "ok", good),
        500..550 => ("", "model_not_found", good),
        _ => ("good", "ok", good),
    };
    let name = if model.is_empty() { format!("nobody-{random}") } else { model.to_owned() };
    let path = format!("/v2/models/{name}/infer");
    let length = body.len();
    let answer = match random >> 10 & 3 {
        0 => call_http2(at, "POST", &path, &[], body).await,
        _ => call(at, "POST", &path, &[], body).await,
    };
    let code = if answer.status == 200 { "ok".to_owned() } else { answer.code() };
    assert_eq!(code, outcome, "{model}: {}", String::from_utf8_lossy(&answer.body));
    // A body is not read for a model that cannot answer.
    let taken = if matches!(outcome, "model_not_found" | "model_not_ready") { 0 } else { length };
    let sent = if outcome == "ok" { answer.body.len() } else { 0 };
    expect(expected, Some(model).filter(|model| !model.is_empty()), Some(outcome), taken, sent);
}

fn timed_out() -> String {
    let mut body = request();
    body["parameters"] = json!({ "timeout": 5000 });
    body.to_string()
}

/// A connection with a request on it that the gateway has begun to read: it says so itself.
async fn taken(at: SocketAddr, model: &str, headers: &str, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(at).await.expect("the gateway listens");
    let head = format!(
        "POST /v2/models/{model}/infer HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n{headers}\
         content-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("an open connection");
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.expect("an answer");
    assert_eq!(String::from_utf8_lossy(&go_on), "HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

async fn leave_sending(at: SocketAddr, random: u64, expected: &mut Expected) {
    let body = request().to_string();
    let mut stream = taken(at, "left-sending", "", body.len()).await;
    let part = &body.as_bytes()[..below(random, body.len())];
    stream.write_all(part).await.expect("an open connection");
    expect(expected, Some("left-sending"), None, 0, 0);
}

async fn leave_running(at: SocketAddr, random: u64, expected: &mut Expected) {
    let body = request().to_string();
    let mut stream = taken(at, "left-running", "", body.len()).await;
    stream.write_all(body.as_bytes()).await.expect("an open connection");
    tokio::time::sleep(Duration::from_micros(random % 8000)).await;
    expect(expected, Some("left-running"), None, 0, 0);
}

/// More than the sockets between us hold, in FP32 elements: 16 MiB.
const MANY: usize = 4 << 20;

/// A request with a large binary answer: its JSON part, and the bytes of its tensor.
fn large() -> (String, Vec<u8>) {
    let header = json!({
        "parameters": { "binary_data_output": true },
        "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [MANY],
            "parameters": { "binary_data_size": 4 * MANY } }],
    });
    (header.to_string(), vec![0; 4 * MANY])
}

async fn leave_answering(at: SocketAddr, random: u64, expected: &mut Expected) {
    let (header, tensor) = large();
    expect(expected, Some("left-answering"), None, 0, 0);
    if random >> 10 & 1 == 0 {
        let headers = format!("inference-header-content-length: {}\r\n", header.len());
        let mut stream = taken(at, "left-answering", &headers, header.len() + tensor.len()).await;
        stream.write_all(header.as_bytes()).await.expect("an open connection");
        stream.write_all(&tensor).await.expect("an open connection");
        stream.readable().await.expect("an answer");
    } else {
        let length = header.len().to_string();
        let headers = [("inference-header-content-length", length.as_str())];
        let mut connection = open_http2(at).await;
        let body = [header.as_bytes(), &tensor].concat();
        let answer = connection.send("POST", "/v2/models/left-answering/infer", &headers, body).await;
        assert_eq!(answer.expect("an answer").status(), 200);
    }
}

/// Some requests that a stop finds on the road: those that finish in time, runs that do not, and bodies that never come.
async fn drain(gateway: Gateway, expected: &mut Expected) {
    const EACH: usize = 10;
    let at = gateway.address();
    let body = request().to_string();
    let mut finish = Vec::new();
    let mut cut = Vec::new();
    let mut ended = JoinSet::new();
    let connection = open_http2(at).await;
    for _ in 0..EACH {
        finish.push(taken(at, "drained", "", body.len()).await);
        cut.push(taken(at, "cut", "", body.len()).await);
        let (mut connection, body) = (connection.clone(), body.clone());
        ended.spawn(async move {
            connection.send("POST", "/v2/models/cut/infer", &[], body).await.map(|answer| answer.status())
        });
    }
    let meter = Arc::clone(gateway.meter());
    while meter.open() < 3 * EACH {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let stopped = tokio::spawn(gateway.stop(Duration::from_millis(100)));
    for stream in &mut finish {
        stream.write_all(body.as_bytes()).await.expect("an open connection");
    }
    for mut stream in finish {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer);
        let (head, json) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        expect(expected, Some("drained"), Some("ok"), body.len(), json.len());
    }
    assert_eq!(stopped.await.expect("no panic"), EACH);
    drop(cut);
    while let Some(answer) = ended.join_next().await {
        assert_eq!(answer.expect("no panic").expect("an answer"), 504);
        expect(expected, Some("cut"), Some("deadline_exceeded"), body.len(), 0);
        expect(expected, Some("cut"), Some("client_gone"), 0, 0);
    }
    assert!(meter.settled());
}

/// `AIRLOCK_METERING_CALLS` says how many calls; the full size is 100,000.
#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_has_every_request_once_whatever_became_of_it() {
    const WORKERS: u64 = 24;
    let calls = std::env::var("AIRLOCK_METERING_CALLS").map_or(2000, |text| text.parse().expect("a number"));
    let state = tempfile::tempdir().expect("a temporary folder");
    let gateway = Gateway::serve_with(repository(), |settings| {
        settings.state = Some(state.path().into());
        settings.limits.deadline = Some("20s".parse().expect("a time"));
        settings.limits.guest_memory = Some("64MiB".parse().expect("a size"));
        settings.limits.grace_period = Some("2s".parse().expect("a time"));
        // What fails here is to go on failing.
        settings.limits.quarantine_faults = Some(0);
    })
    .await;
    let at = gateway.address();
    let started = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let next = Arc::clone(&next);
        workers.spawn(async move {
            let mut expected = Expected::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= calls {
                    return expected;
                }
                one(at, number, &mut expected).await;
            }
        });
    }
    let mut expected = Expected::new();
    while let Some(part) = workers.join_next().await {
        for (key, taken) in part.expect("no worker failed") {
            let sum = expected.entry(key).or_default();
            sum.calls += taken.calls;
            sum.bytes_in += taken.bytes_in;
            sum.bytes_out += taken.bytes_out;
        }
    }
    let took = started.elapsed();
    drain(gateway, &mut expected).await;
    let sent: u64 = expected.values().map(|taken| taken.calls).sum();
    assert_eq!(sent, calls + 30);

    let ledger = ledger::read(&state.path().join("ledger")).expect("a whole ledger");
    let mut noted = Expected::new();
    let mut all = Figures::default();
    for (key, figures) in &ledger {
        assert_eq!(key.tenant.as_str(), "default");
        all.add(figures);
        let model = key.model.as_ref().map(ToString::to_string);
        let timing = model.as_ref().is_some_and(|model| model.starts_with("left-"));
        let sum = noted.entry((model, (!timing).then(|| key.outcome.to_string()))).or_default();
        sum.calls += figures.calls;
        if !timing {
            sum.bytes_in += figures.bytes_in;
            sum.bytes_out += figures.bytes_out;
        }
    }
    assert_eq!(noted, expected);
    assert_eq!(all.calls, sent, "the difference between the ledger and what was admitted");
    let gone = |model: &str| {
        let of_model = |name: &str| name == model;
        let keys =
            ledger.keys().filter(|key| key.model.as_ref().is_some_and(|model| of_model(model.as_str())));
        keys.filter(|key| key.outcome == CLIENT_GONE).count()
    };
    assert_eq!((gone("left-running"), gone("left-answering")), (1, 1), "nobody left in the middle");
    // The calls that were timed out or left took their time on a guest's thread.
    assert!(all.cpu_nanos > calls * 10_000, "{all:?}");
    assert!(all.peak_memory_bytes >= 4 * MANY as u64, "{all:?}");
    println!("{sent} calls, difference 0, in {took:?}: {all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_its_own_usage() {
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good()).with(
        "broken",
        "1",
        "model.wasm",
        "",
    );
    let gateway = Gateway::serve(repository).await;
    let at = gateway.address();
    let empty = get(at, "/v2/usage").await.json();
    assert_eq!((&empty["tenant"], &empty["total"]["calls"]), (&json!("default"), &json!(0)));
    assert_eq!(empty["models"], json!([]));
    let mut sent = 0;
    for (model, status) in
        [("good", 200), ("good", 200), ("broken", 503), ("nobody", 404), ("nobody-else", 404)]
    {
        let answer = post(at, &format!("/v2/models/{model}/infer"), &request()).await;
        assert_eq!(answer.status, status, "{}", answer.error());
        sent += if status == 200 { answer.body.len() } else { 0 };
    }
    let usage = get(at, "/v2/usage").await.json();
    let models = usage["models"].as_array().expect("a list");
    let told: Vec<(&Value, &Value)> =
        models.iter().map(|model| (&model["model"], &model["outcomes"])).collect();
    assert_eq!(
        told,
        [
            (&json!(null), &json!({ "model_not_found": 2 })),
            (&json!("broken"), &json!({ "model_not_ready": 1 })),
            (&json!("good"), &json!({ "ok": 2 })),
        ]
    );
    assert_eq!(usage["total"]["calls"], 5);
    assert_eq!(usage["total"]["outcomes"], json!({ "model_not_found": 2, "model_not_ready": 1, "ok": 2 }));
    let good = &models[2];
    assert_eq!(
        (&good["bytes_in"], &good["bytes_out"]),
        (&json!(2 * request().to_string().len()), &json!(sent))
    );
    assert!(good["cpu_ns"].as_u64().is_some_and(|nanos| nanos > 0), "{good}");
    assert!(good["peak_memory"].as_u64().is_some_and(|bytes| bytes >= 2 << 16), "{good}");
    assert!(
        good["first"].as_u64() >= usage["since"].as_u64() && good["last"].as_u64() >= good["first"].as_u64()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nested_call_is_billed_once_and_to_the_call_that_caused_it() {
    const DEADLINE: u64 = 500_000_000;
    let repository = Repository::default()
        .with("pipeline", "1", "model.wasm", fixture(guest::PIPELINE))
        .with("next", "1", "model.wasm", fixture(hostile::LOOP_IN_INFER));
    let gateway = Gateway::serve_with(repository, |settings| {
        settings.limits.deadline = Some("500ms".parse().expect("a time"));
    })
    .await;
    let at = gateway.address();
    assert_eq!(post(at, "/v2/models/pipeline/infer", &request()).await.code(), "deadline_exceeded");
    while !gateway.meter().settled() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let usage = get(at, "/v2/usage").await.json();
    let models = usage["models"].as_array().expect("a list");
    assert_eq!((models.len(), &models[0]["model"]), (1, &json!("pipeline")), "{usage}");
    let used = models[0]["cpu_ns"].as_u64().expect("a number");
    // At most one of the two guests runs at a time; on a busy machine it may run much less.
    assert!((DEADLINE / 20..DEADLINE + 50_000_000).contains(&used), "{used} ns");
}
