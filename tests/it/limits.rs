//! The limits of tenants, through the real listener: each binds the tenant that has it, and no other feels it.

use std::time::{Duration, Instant};

use airlock::authenticate::Scope;
use airlock_tests::{
    client::{Answer, call},
    gateway::{Gateway, Repository},
    guest::{self, hostile},
    store::{Caller, Store},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// Changes in the store are in force within this time.
const FOLLOWED: Duration = Duration::from_secs(5);

/// A gateway with shared models and two tenants, of which `acme` has limits of its own.
struct Two {
    store: Store,
    gateway: Gateway,
    acme: String,
    other: String,
}

impl Two {
    async fn serve(limits: &[(&str, &str)]) -> Self {
        let store = Store::default();
        let scopes = [Scope::Infer, Scope::Repository];
        let (acme, other) = (store.key("acme", &scopes).await, store.key("other", &scopes).await);
        store.limit("acme", limits).await;
        let looping = guest::module(hostile::LOOP_IN_INFER).expect("a valid fixture");
        let repository = Repository::default().with("good", "1", "model.wasm", guest::good()).with(
            "loop",
            "1",
            "model.wasm",
            looping,
        );
        let gateway = Gateway::serve_with(repository, |settings| {
            settings.store = Some(store.location());
            settings.limits.deadline = Some("1m".parse().expect("a time"));
        })
        .await;
        Self { store, gateway, acme, other }
    }

    fn acme(&self) -> Caller<'_> {
        Caller::new(&self.gateway, &self.acme)
    }

    fn other(&self) -> Caller<'_> {
        Caller::new(&self.gateway, &self.other)
    }
}

fn ok(answer: &Answer) {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
}

fn refused(answer: &Answer, status: u16, code: &str, told: &str) {
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{text}");
    assert!(answer.error().contains(told), "{text}");
}

fn retry_after(answer: &Answer) -> u32 {
    answer.header("retry-after").and_then(|seconds| seconds.parse().ok()).expect("whole seconds")
}

/// Calls until the answer has that status.
async fn until(status: u16, call: impl AsyncFn() -> Answer) {
    let begun = Instant::now();
    while call().await.status != status {
        assert!(begun.elapsed() < FOLLOWED, "not {status} within {FOLLOWED:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_keeps_is_its_own_to_be_bounded() {
    let two = Two::serve(&[("models", "1"), ("versions", "2"), ("max_upload", "100KiB")]).await;
    ok(&two.acme().put("m", "1", guest::good()).await);
    ok(&two.acme().put("m", "2", guest::good()).await);
    let large = vec![0; 101 << 10];
    refused(&two.acme().put("n", "1", guest::good()).await, 429, "quota_exceeded", "models: 1 of 1");
    refused(&two.acme().put("m", "3", guest::good()).await, 429, "quota_exceeded", "2 of 2");
    refused(&two.acme().put("m", "2", large.clone()).await, 413, "too_large", "102400");
    for (model, version) in [("m", "1"), ("n", "1"), ("n", "2"), ("n", "3")] {
        ok(&two.other().put(model, version, guest::good()).await);
    }
    // Not too large; it is just no model.
    assert_eq!(two.other().put("m", "2", large).await.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_and_changes_are_counted_for_each_tenant() {
    let size = guest::good().len().to_string();
    let two = Two::serve(&[("storage", &size), ("changes", "2"), ("uploads", "1")]).await;
    ok(&two.acme().put("m", "1", guest::good()).await);
    refused(&two.acme().put("m", "2", guest::good()).await, 429, "quota_exceeded", "bytes of storage");
    let settings = |latest: u32| json!({ "version_policy": { "latest": latest } }).to_string();
    let path = "/v2/repository/models/m/settings";
    ok(&two.acme().send("PUT", path, &[], settings(1)).await);
    let often = two.acme().send("PUT", path, &[], settings(2)).await;
    refused(&often, 429, "rate_limited", "2 changes within an hour");
    for version in ["1", "2"] {
        ok(&two.other().put("m", version, guest::good()).await);
    }
    for latest in 1..3 {
        ok(&two.other().send("PUT", path, &[], settings(latest)).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_upload_at_a_time_is_one_of_that_tenant() {
    let two = Two::serve(&[("uploads", "1")]).await;
    let head = format!(
        "PUT /v2/repository/models/m/versions/1 HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\
         content-length: 100\r\n\r\nx",
        two.acme
    );
    // An upload that has begun and does not go on. If the other one is seen first, it is this one that is refused.
    let since = Instant::now();
    let begun = loop {
        let mut begun = TcpStream::connect(two.gateway.address()).await.expect("the gateway listens");
        begun.write_all(head.as_bytes()).await.expect("a connection");
        if two.acme().put("n", "1", guest::good()).await.status == 429 {
            break begun;
        }
        assert!(since.elapsed() < FOLLOWED, "not 429 within {FOLLOWED:?}");
    };
    let busy = two.acme().put("n", "1", guest::good()).await;
    refused(&busy, 429, "uploads_busy", "1 uploads of this tenant");
    ok(&two.other().put("n", "1", guest::good()).await);
    drop(begun);
    until(200, async || two.acme().put("n", "1", guest::good()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_of_a_tenant_s_own_models_is_bounded_when_they_are_loaded() {
    let two = Two::serve(&[("guest_memory", "64KiB"), ("loaded", "1KiB")]).await;
    let refusal = two.acme().put("m", "1", guest::good()).await;
    refused(&refusal, 422, "model_rejected", "memory");
    ok(&two.other().put("m", "1", guest::good()).await);
    // Models that the operator shares are the operator's to bound.
    ok(&two.acme().infer("good", 1.0).await);
    two.store.limit("acme", &[("guest_memory", "16MiB")]).await;
    until(429, async || two.acme().put("m", "1", guest::good()).await).await;
    let refusal = two.acme().put("m", "1", guest::good()).await;
    refused(&refusal, 429, "quota_exceeded", "bytes of loaded models");
    two.store.limit("acme", &[("loaded", "16MiB")]).await;
    until(200, async || two.acme().put("m", "1", guest::good()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_s_own_limits_stay_below_its_tenant_s() {
    let two = Two::serve(&[("deadline", "100ms"), ("output", "1KiB")]).await;
    let put = async |caller: Caller<'_>, limit: &str| {
        let config = format!("[limits]\n{limit}\n");
        caller.put_with("m", "1", guest::good(), &[("config", &config)]).await
    };
    refused(&put(two.acme(), "deadline = '101ms'").await, 422, "model_rejected", "100ms that this tenant");
    refused(&put(two.acme(), "output = '1025'").await, 422, "model_rejected", "1KiB that this tenant");
    ok(&put(two.acme(), "deadline = '100ms'\noutput = '1KiB'").await);
    ok(&put(two.other(), "deadline = '101ms'").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_the_limits_of_its_caller() {
    let two = Two::serve(&[("deadline", "100ms"), ("max_body", "1KiB"), ("output", "8")]).await;
    let call = async |caller: Caller<'_>, model: &str, values: &[f32]| {
        let input = json!({ "name": "INPUT0", "datatype": "FP32", "shape": [values.len()], "data": values });
        caller.post(&format!("/v2/models/{model}/infer"), &json!({ "inputs": [input] })).await
    };
    ok(&call(two.acme(), "good", &[1.0, 2.0]).await);
    let large = call(two.acme(), "good", &[1.0, 2.0, 3.0]).await;
    refused(&large, 502, "model_output_invalid", "12 bytes");
    refused(&call(two.acme(), "good", &[0.5; 1000]).await, 413, "too_large", "1024");
    ok(&call(two.other(), "good", &[0.5; 1000]).await);
    let late = call(two.acme(), "loop", &[1.0]).await;
    refused(&late, 504, "deadline_exceeded", "deadline");
    // Others have the gateway's minute.
    let waits = tokio::time::timeout(Duration::from_millis(500), two.other().infer("loop", 1.0)).await;
    assert!(waits.is_err(), "answered although it has a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_too_often_waits_and_nobody_else() {
    let two = Two::serve(&[("rate", "0.01"), ("burst", "3")]).await;
    ok(&two.acme().infer("good", 1.0).await);
    let verify = json!({
        "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1.0] }]
    });
    assert_eq!(two.acme().infer("nobody", 1.0).await.status, 404);
    ok(&two.acme().post("/v2/repository/models/good/versions/1/verify", &verify).await);
    for model in ["good", "nobody"] {
        let often = two.acme().infer(model, 1.0).await;
        refused(&often, 429, "rate_limited", "0.01 requests a second");
        // A token takes a hundred seconds; some of them have passed.
        assert!((50..=100).contains(&retry_after(&often)), "{}", retry_after(&often));
    }
    for _ in 0..20 {
        ok(&two.other().infer("good", 1.0).await);
    }
    // Whatever is no call of a model is not counted.
    ok(&two.acme().get("/v2/models/good").await);

    // The answer comes before the body.
    let mut stream = TcpStream::connect(two.gateway.address()).await.expect("the gateway listens");
    let head = format!(
        "POST /v2/models/good/infer HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-length: 1000\r\n\r\n",
        two.acme
    );
    stream.write_all(head.as_bytes()).await.expect("a connection");
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.expect("an answer");
    assert_eq!(&start, b"HTTP/1.1 429");
    let usage = two.acme().get("/v2/usage").await.json();
    assert_eq!(usage["total"]["outcomes"]["rate_limited"], 3);
    assert_eq!(usage["models"].as_array().map(Vec::len), Some(2), "{usage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_runs_as_much_as_it_may_queues_and_then_is_refused_and_nobody_else() {
    let two = Two::serve(&[("running", "1"), ("queued", "1")]).await;
    let mut calls = JoinSet::new();
    for _ in 0..3 {
        let (at, bearer) = (two.gateway.address(), format!("Bearer {}", two.acme));
        let input = json!({ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1.0] });
        let body = json!({ "inputs": [input] }).to_string();
        calls.spawn(async move {
            call(at, "POST", "/v2/models/loop/infer", &[("authorization", &bearer)], body).await
        });
    }
    // One runs for a minute and one waits for it.
    let busy = calls.join_next().await.expect("three calls").expect("an answer");
    refused(&busy, 429, "calls_busy", "1 requests of this tenant run and 1 wait");
    assert_eq!(retry_after(&busy), 1);
    assert!(calls.try_join_next().is_none());
    // A trial is a call as well.
    let sample = json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1.0] }] });
    let trial = two.acme().put_with("m", "1", guest::good(), &[("sample", &sample.to_string())]).await;
    refused(&trial, 429, "calls_busy", "1 requests of this tenant run and 1 wait");
    assert_eq!(retry_after(&trial), 1);
    ok(&two.other().put_with("m", "1", guest::good(), &[("sample", &sample.to_string())]).await);
    for _ in 0..20 {
        ok(&two.other().infer("good", 1.0).await);
    }
    drop(calls);
    until(200, async || two.acme().infer("good", 1.0).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_changes_is_in_force_within_seconds_on_every_gateway() {
    let two = Two::serve(&[]).await;
    let second =
        two.store.serve_with(Repository::default().with("good", "1", "model.wasm", guest::good())).await;
    ok(&two.acme().infer("good", 1.0).await);
    two.store.limit("acme", &[("rate", "0.001"), ("burst", "1")]).await;
    for gateway in [&two.gateway, &second] {
        until(429, async || Caller::new(gateway, &two.acme).infer("good", 1.0).await).await;
        ok(&Caller::new(gateway, &two.other).infer("good", 1.0).await);
    }
    two.store.limit("acme", &[("rate", "0")]).await;
    for gateway in [&two.gateway, &second] {
        until(200, async || Caller::new(gateway, &two.acme).infer("good", 1.0).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_without_limits_of_their_own_have_the_gateway_s() {
    let store = Store::default();
    let key = store.key("acme", &[Scope::Infer]).await;
    let repository = || Repository::default().with("good", "1", "model.wasm", guest::good());
    let serve = async |rate: &str| {
        Gateway::serve_with(repository(), |settings| {
            settings.store = Some(store.location());
            settings.limits.tenant_rate = Some(rate.parse().expect("a rate"));
            settings.limits.tenant_burst = Some(1);
        })
        .await
    };
    let gateway = serve("0.01").await;
    let acme = Caller::new(&gateway, &key);
    ok(&acme.infer("good", 1.0).await);
    refused(&acme.infer("good", 1.0).await, 429, "rate_limited", "0.01");
    let gateway = serve("0").await;
    for _ in 0..150 {
        ok(&Caller::new(&gateway, &key).infer("good", 1.0).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_model_runs_for_is_told_at_a_pace_at_every_door() {
    let store = Store::default();
    let keys = [store.key("acme", &[Scope::Infer]).await, store.key("other", &[Scope::Infer]).await];
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good());
    let gateway = Gateway::serve_with(repository, |settings| {
        settings.store = Some(store.location());
        settings.limits.tenant_refusals = Some("1".parse().expect("a rate"));
    });
    let gateway = gateway.await;
    let [acme, other] = keys.each_ref().map(|key| Caller::new(&gateway, key));
    // A model that is not there, a scope that the key has not, a path that is none, what is known of a model, and documents.
    let doors = [
        ("models/none", 404),
        ("repository/models", 403),
        ("nothing", 404),
        ("models/good", 200),
        ("models/good/docs", 200),
        ("docs", 200),
    ];
    for (path, status) in doors {
        let begun = Instant::now();
        assert_eq!(acme.get(&format!("/v2/{path}")).await.status, status, "{path}");
        // A second, less what may come at once.
        assert!(begun.elapsed() >= Duration::from_millis(900), "{path}: {:?}", begun.elapsed());
        ok(&other.infer("good", 1.0).await);
        ok(&acme.infer("good", 1.0).await);
    }
}
