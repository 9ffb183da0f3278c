//! Verify, promotion that asks for it, trial calls and the limits of one model, through the real listener.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use airlock::{
    admin::{NewKey, Tenants},
    authenticate::{Scope, now},
    repository::artifacts::Location,
    secret::Purpose,
    store::StorePlace,
};
use airlock_tests::{
    client::{Answer, call, get, post},
    gateway::{Gateway, Repository},
    guest::{self, hostile},
    onnx::{self, Graph},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Echoes, with something added to the first element.
fn shifted(by: f32) -> Vec<u8> {
    fixture(&format!(
        r#"
;; replaces: infer
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (local $first i32)
  (local.set $first (i32.load offset=28 (local.get $input)))
  (f32.store (local.get $first) (f32.add (f32.load (local.get $first)) (f32.const {by})))
  (call $ok (call $echo (local.get $input)) (i32.const 1)))
"#
    ))
}

fn fixture(text: &str) -> Vec<u8> {
    guest::module(text).expect("a valid fixture")
}

/// What the echo is as an ONNX model; the name of its output may be another.
fn identity(output: &str) -> Vec<u8> {
    let graph = Graph {
        nodes: vec![onnx::node("Identity", &["INPUT0"], &[output], &[])],
        inputs: vec![onnx::value("INPUT0", onnx::FLOAT, &["n"])],
        outputs: vec![onnx::value(output, onnx::FLOAT, &["n"])],
        initializers: vec![],
    };
    graph.file()
}

/// A request for two elements, which asks to be compared with that.
fn against(other: &str) -> Value {
    let mut body = request();
    body["parameters"] = json!({ "against": other });
    body
}

fn request() -> Value {
    json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [2], "data": [1.0, -2.0] }] })
}

fn path(model: &str, version: &str) -> String {
    format!("/v2/repository/models/{model}/versions/{version}")
}

async fn verify(at: SocketAddr, model: &str, version: &str, body: &Value) -> Answer {
    post(at, &format!("{}/verify", path(model, version)), body).await
}

fn location(folder: &Path) -> Location {
    folder.to_str().expect("UTF-8").parse().expect("a location")
}

/// A gateway that takes uploads, and where it keeps them.
async fn with_uploads() -> (Gateway, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    (on_store(folder.path()).await, folder)
}

async fn on_store(folder: &Path) -> Gateway {
    Gateway::serve_with(Repository::default(), |settings| settings.store = Some(location(folder))).await
}

async fn put(at: SocketAddr, path: &str, body: impl Into<bytes::Bytes>) -> Answer {
    call(at, "PUT", path, &[], body).await
}

async fn upload(at: SocketAddr, model: &str, version: &str, artifact: Vec<u8>) {
    let answer = put(at, &path(model, version), artifact).await;
    assert_eq!(answer.status, 200, "{}", answer.error());
}

/// An upload with further parts, each a name, a file name and a text.
async fn upload_parts(at: SocketAddr, path: &str, artifact: &[u8], parts: &[(&str, &str, &str)]) -> Answer {
    let mut body = Vec::new();
    let mut part = |name: &str, file: &str, bytes: &[u8]| {
        let head = format!(
            "--frontier\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    };
    part("artifact", "model", artifact);
    parts.iter().for_each(|(name, file, text)| part(name, file, text.as_bytes()));
    body.extend_from_slice(b"--frontier--\r\n");
    call(at, "PUT", path, &[("content-type", "multipart/form-data; boundary=frontier")], body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_are_compared_with_numbers_and_a_verdict() {
    let repository = Repository::default()
        .with("m", "1", "model.wasm", guest::good())
        .with("m", "2", "model.wasm", shifted(0.25))
        .with("m", "3", "model.wasm", fixture(guest::COUNTER))
        .with("form", "1", "model.onnx", identity("OUTPUT0"))
        .with("other", "1", "model.onnx", identity("Y"));
    let gateway = Gateway::serve(repository).await;
    let at = gateway.address();

    let report = verify(at, "m", "1", &against("form/1")).await.json();
    assert_eq!((&report["pass"], &report["version"]), (&json!(true), &json!("1")), "{report}");
    assert_eq!(report["against"], json!({ "model": "form", "version": "1" }));
    assert_eq!((&report["rtol"], &report["atol"]), (&json!(1e-3), &json!(1e-4)));
    assert_eq!(
        report["outputs"],
        json!([{ "name": "OUTPUT0", "datatype": "FP32", "shape": [2], "pass": true, "max_abs": 0.0,
            "max_rel": 0.0, "mismatches": 0 }])
    );
    assert_eq!(report["elapsed_us"].as_array().map(Vec::len), Some(2));

    let answer = verify(at, "m", "2", &against("1")).await;
    assert_eq!(answer.status, 200, "a difference is an answer");
    let report = answer.json();
    assert_eq!(
        (&report["pass"], &report["outputs"]),
        (
            &json!(false),
            &json!([{ "name": "OUTPUT0", "datatype": "FP32", "shape": [2], "pass": false, "max_abs": 0.25,
                "max_rel": 0.25, "mismatches": 1,
                "first_mismatch": { "index": [0], "value": 1.25, "against": 1.0 } }])
        )
    );
    let mut loose = against("1");
    loose["parameters"]["atol"] = json!(0.25);
    loose["parameters"]["rtol"] = json!(0);
    let report = verify(at, "m", "2", &loose).await.json();
    assert_eq!(
        (&report["pass"], &report["rtol"], &report["atol"]),
        (&json!(true), &json!(0.0), &json!(0.25))
    );

    // Without a word it is compared with what answers where no version is named.
    let report = verify(at, "m", "1", &request()).await.json();
    assert_eq!(report["against"]["version"], "3");
    let output = &report["outputs"][0];
    assert_eq!((&report["pass"], &output["reason"]), (&json!(false), &json!("shape [2] against [1]")));

    let report = verify(at, "m", "1", &against("other/1")).await.json();
    let told: Vec<(&Value, &Value)> = report["outputs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|output| (&output["name"], &output["reason"]))
        .collect();
    assert_eq!(
        told,
        [
            (&json!("OUTPUT0"), &json!("the version that it is compared with does not answer it")),
            (&json!("Y"), &json!("only the version that it is compared with answers it")),
        ]
    );
    let mut asked = against("other/1");
    asked["outputs"] = json!([{ "name": "OUTPUT0" }]);
    let report = verify(at, "m", "1", &asked).await.json();
    assert_eq!((&report["pass"], report["outputs"].as_array().map(Vec::len)), (&json!(false), Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verify_has_the_bounds_of_an_infer_and_counts_as_a_call_of_each() {
    let repository = Repository::default()
        .with("m", "1", "model.wasm", guest::good())
        .with("m", "2", "model.wasm", fixture(hostile::UNREACHABLE))
        .with("m", "3", "model.wasm", fixture(hostile::LOOP_IN_INFER))
        .with_config("batched", "model.toml", "max_batch_size = 1")
        .with("batched", "1", "model.wasm", guest::good())
        .with("scalar", "1", "model.onnx", onnx::unary("Abs", onnx::FLOAT, &["n"]).file());
    let gateway = Gateway::serve_with(repository, |settings| {
        settings.limits.max_body = Some("4KiB".parse().expect("a size"))
    })
    .await;
    let at = gateway.address();
    let mut slow = against("3");
    slow["parameters"]["timeout"] = json!(50_000);
    let mut nothing = against("1");
    nothing["parameters"]["against"] = json!(["1"]);
    let mut negative = against("1");
    negative["parameters"]["rtol"] = json!(-1);
    let mut long = against("1");
    long["parameters"]["note"] = json!("x".repeat(5000));
    for (version, body, status, code, part) in [
        ("1", &against("2"), 502, "model_failed", "aborted"),
        ("2", &against("1"), 502, "model_failed", "aborted"),
        ("1", &slow, 504, "deadline_exceeded", "deadline"),
        ("1", &against("9"), 404, "model_not_found", "'m' version 9"),
        ("9", &against("1"), 404, "model_not_found", "'m' version 9"),
        ("1", &against("nobody/1"), 404, "model_not_found", "'nobody'"),
        ("1", &against("batched/1"), 400, "bad_request", "against 'batched' version 1: "),
        ("1", &against("scalar/1"), 400, "bad_request", "against 'scalar' version 1: "),
        ("1", &against("../../2"), 400, "bad_request", "'against'"),
        ("1", &nothing, 400, "bad_request", "'against'"),
        ("1", &negative, 400, "bad_request", "'rtol'"),
        ("1", &long, 413, "too_large", "max_body"),
        ("1", &json!({}), 400, "bad_request", "'inputs'"),
        ("1", &json!([]), 400, "bad_request", ""),
        ("1", &json!({ "inputs": [], "parameters": { "against": "2" } }), 400, "bad_request", "INPUT0"),
    ] {
        let answer = verify(at, "m", version, body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}: {}", answer.error());
        assert!(answer.error().contains(part), "{}", answer.error());
    }
    let cut = call(at, "POST", &format!("{}/verify", path("m", "1")), &[], "{\"inputs\": [").await;
    assert_eq!(cut.status, 400);
    let method = get(at, &format!("{}/verify", path("m", "1"))).await;
    assert_eq!((method.status, method.header("allow")), (405, Some("POST")));

    let before = get(at, "/v2/usage").await.json();
    let ok = |usage: &Value, model: &str| {
        let models = usage["models"].as_array().expect("a list");
        let of_model = models.iter().find(|entry| entry["model"] == model);
        of_model.map_or(0, |entry| entry["outcomes"]["ok"].as_u64().unwrap_or(0))
    };
    let report = verify(at, "m", "1", &against("1")).await;
    assert_eq!(report.json()["pass"], true);
    let usage = get(at, "/v2/usage").await.json();
    assert_eq!(ok(&usage, "m") - ok(&before, "m"), 2, "{usage}");
    let bytes = |usage: &Value| usage["total"]["bytes_out"].as_u64().expect("a number");
    assert_eq!(bytes(&usage) - bytes(&before), report.body.len() as u64);
    let outcomes = &usage["total"]["outcomes"];
    assert_eq!((&outcomes["client_gone"], &outcomes["internal"]), (&Value::Null, &Value::Null), "{outcomes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_answers_count_against_the_budget_of_bytes() {
    let repository = Repository::default().with("m", "1", "model.wasm", guest::good()).with(
        "m",
        "2",
        "model.wasm",
        fixture(guest::COUNTER),
    );
    let gateway = Gateway::serve_with(repository, |settings| {
        settings.limits.max_buffered = Some("10KB".parse().expect("a size"));
        settings.limits.max_body = Some("8KB".parse().expect("a size"));
    })
    .await;
    let at = gateway.address();
    // 4 kB as inputs, and 4 kB as each answer of version 1.
    let mut body = against("2");
    body["inputs"][0]["shape"] = json!([1000]);
    body["inputs"][0]["data"] = json!(vec![0; 1000]);
    assert_eq!(post(at, "/v2/models/m/versions/1/infer", &body).await.status, 200);
    let report = verify(at, "m", "1", &body).await;
    assert_eq!((report.status, &report.json()["pass"]), (200, &json!(false)));
    body["parameters"]["against"] = json!("1");
    let refused = verify(at, "m", "1", &body).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"), "{}", refused.error());
    body["parameters"]["against"] = json!("2");
    assert_eq!(verify(at, "m", "1", &body).await.status, 200, "what was held is given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_model_is_not_there() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = StorePlace::new(&location(folder.path()), None, None).and_then(|place| place.open());
    let store = store.expect("a store");
    let tenants = Tenants::new(store.artifacts, store.secret.key(Purpose::ApiKey));
    let mut keys = Vec::new();
    for (tenant, scope) in
        [("acme", Scope::Repository), ("umbrella", Scope::Repository), ("umbrella", Scope::Infer)]
    {
        let tenant = tenant.parse().expect("a name");
        tenants.create(&tenant, now()).await.expect("a tenant");
        let wanted = NewKey { scopes: [scope].into_iter().collect(), label: None, expires: None };
        let (key, _) = tenants.create_key(&tenant, wanted, now()).await.expect("a key");
        keys.push(format!("Bearer {}", *key.reveal()));
    }
    let gateway = on_store(folder.path()).await;
    let at = gateway.address();
    let send = async |key: usize, method: &str, path: String, body: Vec<u8>| {
        call(at, method, &path, &[("authorization", keys[key].as_str())], body).await
    };
    for (key, model) in [(0, "secret"), (1, "mine")] {
        let answer = send(key, "PUT", path(model, "1"), guest::good()).await;
        assert_eq!(answer.status, 200, "{}", answer.error());
    }
    let text = |body: Value| body.to_string().into_bytes();
    let mine = format!("{}/verify", path("mine", "1"));
    let foreign = send(1, "POST", mine.clone(), text(against("secret/1"))).await;
    let missing = send(1, "POST", mine.clone(), text(against("nobody/1"))).await;
    assert_eq!((foreign.status, missing.status), (404, 404));
    assert_eq!(foreign.error(), missing.error().replace("nobody", "secret"));
    let theirs = send(1, "POST", format!("{}/verify", path("secret", "1")), text(against("1"))).await;
    assert_eq!((theirs.status, theirs.code().as_str()), (404, "model_not_found"));
    let own = send(1, "POST", mine.clone(), text(against("1"))).await;
    assert_eq!((own.status, &own.json()["pass"]), (200, &json!(true)));
    assert_eq!(send(2, "POST", mine, text(against("1"))).await.status, 403, "it takes the scope repository");
}

#[tokio::test(flavor = "multi_thread")]
async fn promotion_may_ask_for_a_verify_that_every_gateway_remembers() {
    let (gateway, folder) = with_uploads().await;
    let at = gateway.address();
    for (version, artifact) in [("1", guest::good()), ("2", identity("OUTPUT0")), ("3", shifted(0.5))] {
        upload(at, "m", version, artifact).await;
    }
    let settings = "/v2/repository/models/m/settings";
    let set = async |at: SocketAddr, body: Value| put(at, settings, body.to_string()).await;
    let refused = |answer: &Answer, version: &str| {
        assert_eq!((answer.status, answer.code().as_str()), (409, "not_verified"), "{}", answer.error());
        assert!(
            answer.error().contains(&format!("models/m/versions/{version}/verify")),
            "{}",
            answer.error()
        );
    };
    let unpinned = set(at, json!({ "require_verify": true })).await;
    assert!(unpinned.status == 400 && unpinned.error().contains("default_version"), "{}", unpinned.error());
    assert_eq!(set(at, json!({ "default_version": "2" })).await.status, 200, "nothing asks for it yet");
    let on = |default: &str| json!({ "require_verify": true, "default_version": default });
    refused(&set(at, on("1")).await, "1");
    assert_eq!(set(at, json!({ "default_version": "1" })).await.status, 200);
    assert_eq!(set(at, on("1")).await.status, 200);

    refused(&set(at, on("2")).await, "2");
    let mut canary = on("1");
    canary["aliases"] = json!({ "canary": { "1": 90, "2": 10 } });
    refused(&set(at, canary.clone()).await, "2");
    canary["aliases"]["canary"]["2"] = json!(0);
    assert_eq!(set(at, canary.clone()).await.status, 200, "a share of nothing promotes nothing");
    canary["aliases"]["canary"]["2"] = json!(10);
    refused(&set(at, canary.clone()).await, "2");
    refused(&set(at, json!({ "default_version": "2" })).await, "2");
    // A client's own word for it does not count, nor does another version, nor one that differs.
    let mut forged = on("2");
    forged["verified"] = json!({ "2": { "generation": 1, "against": "1", "against_generation": 1 } });
    refused(&set(at, forged).await, "2");
    assert_eq!(verify(at, "m", "2", &against("2")).await.json()["pass"], true);
    refused(&set(at, on("2")).await, "2");
    assert_eq!(verify(at, "m", "3", &against("1")).await.json()["pass"], false);
    refused(&set(at, on("3")).await, "3");

    assert_eq!(verify(at, "m", "2", &against("1")).await.json()["pass"], true);
    // What is compared with another version says nothing against it.
    assert_eq!(verify(at, "m", "2", &against("2")).await.json()["pass"], true);
    let kept = get(at, settings).await.json();
    assert_eq!(kept["verified"]["2"]["against"], "1", "{kept}");
    assert_eq!(set(at, canary.clone()).await.status, 200);
    let aliased = verify(at, "m", "2", &against("canary")).await.json();
    assert!(["1", "2"].iter().any(|version| aliased["against"]["version"] == *version), "{aliased}");

    // It is in the store: another gateway knows, and the first one follows what is done there.
    let (first, second) = (gateway, on_store(folder.path()).await);
    let at = second.address();
    assert_eq!(set(at, on("2")).await.status, 200);
    let answers = async |at| post(at, "/v2/models/m/infer", &request()).await.json()["model_version"].clone();
    assert_eq!(answers(at).await, "2");
    let changed = Instant::now();
    while answers(first.address()).await != "2" {
        assert!(changed.elapsed() < Duration::from_secs(5), "the promotion is not followed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    first.stop(Duration::ZERO).await;

    // What was verified is that publication of the version, not its name, and against the default of then.
    refused(&set(at, on("1")).await, "1");
    assert_eq!(verify(at, "m", "1", &against("2")).await.json()["pass"], true);
    assert_eq!(call(at, "DELETE", &path("m", "1"), &[], "").await.status, 200);
    upload(at, "m", "1", shifted(0.5)).await;
    refused(&set(at, on("1")).await, "1");
    // A default that is gone keeps nobody from going on.
    assert_eq!(call(at, "DELETE", &path("m", "2"), &[], "").await.status, 200);
    assert_eq!(set(at, on("3")).await.status, 200);
    assert_eq!(set(at, json!({ "default_version": "3" })).await.status, 200, "and it can be turned off");
    assert_eq!(set(at, json!({ "default_version": "1" })).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_is_tried_before_anybody_can_call_the_version() {
    let (gateway, _folder) = with_uploads().await;
    let at = gateway.address();
    let sample = request().to_string();
    let try_with = async |version: &str, artifact: Vec<u8>, sample: &str| {
        upload_parts(at, &path("m", version), &artifact, &[("sample", "sample.json", sample)]).await
    };
    let mut timed = request();
    timed["parameters"] = json!({ "timeout": 20_000 });
    for (artifact, sample, part) in [
        (fixture(hostile::UNREACHABLE), &sample, "aborted"),
        (fixture(hostile::INVALID_INPUT), &sample, "too few elements"),
        (fixture(hostile::MISSING_OUTPUT), &sample, "OUTPUT0"),
        (fixture(hostile::LOOP_IN_INFER), &timed.to_string(), "deadline"),
        (fixture(hostile::EMIT_FOR_EVER), &timed.to_string(), "deadline"),
        (fixture(hostile::EMIT_NOTHING), &sample, "OUTPUT0"),
        (guest::good(), &"{".to_owned(), "JSON"),
        (guest::good(), &json!({ "inputs": [] }).to_string(), "INPUT0"),
    ] {
        let answer = try_with("1", artifact, sample).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, "model_rejected"), "{}", answer.error());
        assert_eq!(answer.json()["step"], "trial");
        assert!(answer.error().contains("trial: ") && answer.error().contains(part), "{}", answer.error());
        assert_eq!(get(at, &path("m", "1")).await.status, 404, "nothing is published");
    }
    let long = try_with("1", guest::good(), &" ".repeat((1 << 20) + 1)).await;
    assert_eq!((long.status, long.code().as_str()), (413, "too_large"));
    for artifact in [guest::good(), identity("OUTPUT0")] {
        let version = if artifact.starts_with(b"\0asm") { "1" } else { "2" };
        let answer = try_with(version, artifact, &sample).await;
        assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("READY")), "{}", answer.error());
    }
    // A trial takes any number of responses.
    let answer = try_with("3", fixture(guest::STREAM), &sample.replace("1.0", "3.0")).await;
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("READY")), "{}", answer.error());
    let small =
        [("config", "model.toml", "[limits]\nmax_body = 10"), ("sample", "sample.json", sample.as_str())];
    let small = upload_parts(at, &path("small", "1"), &guest::good(), &small).await;
    assert_eq!((small.status, &small.json()["step"]), (422, &json!("trial")));
    assert!(small.error().contains("10 bytes"), "{}", small.error());
    let usage = get(at, "/v2/usage").await.json();
    assert_eq!(usage["total"]["calls"], 12, "a trial is billed as a call: {usage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_busy_does_not_blame_the_version() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gateway = Gateway::serve_with(Repository::default(), |settings| {
        settings.store = Some(location(folder.path()));
        settings.limits.max_buffered = Some("1KiB".parse().expect("a size"));
        settings.limits.max_body = Some("1KiB".parse().expect("a size"));
    })
    .await;
    let at = gateway.address();
    // Less than a body may have; its tensor is more than may be held.
    let elements = 300;
    let sample = json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [elements],
        "data": vec![0; elements] }] });
    let sample = sample.to_string();
    let parts = [("sample", "sample.json", sample.as_str())];
    let answer = upload_parts(at, &path("m", "1"), &guest::good(), &parts).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded"), "{}", answer.error());
    assert!(matches!(answer.header("retry-after"), Some("1" | "2")));
    assert_eq!(get(at, &path("m", "1")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_may_have_less_than_the_gateway_allows() {
    let (gateway, _folder) = with_uploads().await;
    let at = gateway.address();
    let upload = async |model: &str, artifact: Vec<u8>, config: &str| {
        upload_parts(at, &path(model, "1"), &artifact, &[("config", "model.toml", config)]).await
    };
    for (model, artifact, config) in [
        ("slow", fixture(hostile::LOOP_IN_INFER), "[limits]\ndeadline = \"50ms\""),
        ("large", fixture(hostile::GIANT_OUTPUT), "[limits]\noutput = \"1MiB\""),
        ("short", guest::good(), "[limits]\nmax_body = 64"),
        ("greedy", fixture(hostile::GROW_MEMORY), "[limits]\nmemory = \"1MiB\""),
        ("native", identity("OUTPUT0"), "[limits]\noutput = 4"),
    ] {
        let answer = upload(model, artifact, config).await;
        assert_eq!(answer.status, 200, "{model}: {}", answer.error());
    }
    let infer = async |model: &str| post(at, &format!("/v2/models/{model}/infer"), &request()).await;
    let begun = Instant::now();
    assert_eq!(infer("slow").await.code(), "deadline_exceeded");
    assert!(begun.elapsed() < Duration::from_secs(1), "the gateway's own is 2 s");
    for (model, code, part) in [
        ("large", "model_output_invalid", "1048576"),
        ("short", "too_large", "64 bytes"),
        ("greedy", "model_memory", "1048576"),
        ("native", "model_output_invalid", "4 bytes"),
    ] {
        let answer = infer(model).await;
        assert_eq!(answer.code(), code, "{}", answer.error());
        assert!(answer.error().contains(part), "{}", answer.error());
    }
    for (artifact, config, part) in [
        (guest::good(), "[limits]\ndeadline = \"3s\"", "deadline is 3s, above the 2s that"),
        (guest::good(), "[limits]\nmemory = \"257MiB\"", "memory is"),
        (guest::good(), "[limits]\noutput = \"65MiB\"", "output is"),
        (guest::good(), "[limits]\nmax_body = \"1GiB\"", "max_body is"),
        (guest::good(), "[limits]\nmemory = \"64KiB\"", "65536 bytes of memory"),
        (identity("OUTPUT0"), "[limits]\nmemory = \"64MiB\"", "ONNX"),
        (guest::good(), "[limits]\ndeadline = \"0s\"", "deadline"),
        (guest::good(), "[limits]\nspeed = 1", "speed"),
    ] {
        let answer = upload("refused", artifact, config).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, "model_rejected"), "{config}");
        assert!(answer.error().contains(part), "{}", answer.error());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_models_have_their_limits_too() {
    let repository = Repository::default()
        .with_config("slow", "model.toml", "[limits]\ndeadline = \"50ms\"")
        .with("slow", "1", "model.wasm", fixture(hostile::LOOP_IN_INFER))
        .with_config("next", "model.toml", "[limits]\ndeadline = \"50ms\"")
        .with("next", "1", "model.wasm", fixture(hostile::LOOP_IN_INFER))
        .with("pipeline", "1", "model.wasm", fixture(guest::PIPELINE))
        .with_config("above", "model.toml", "[limits]\ndeadline = \"1h\"")
        .with("above", "1", "model.wasm", guest::good());
    let gateway = Gateway::serve(repository).await;
    let at = gateway.address();
    let slow = post(at, "/v2/models/slow/infer", &request()).await;
    assert_eq!(slow.code(), "deadline_exceeded");
    // The caller has its own time left, and says what became of the model that it called.
    let nested = post(at, "/v2/models/pipeline/infer", &request()).await;
    assert_eq!(nested.status, 502);
    assert!(nested.error().contains("'next'") && nested.error().contains("deadline"), "{}", nested.error());
    let above = post(at, "/v2/models/above/infer", &request()).await;
    assert_eq!(above.status, 503);
    assert!(above.error().contains("above the gateway's own 2s"), "{}", above.error());
}
