//! The metrics port: what it tells, and whom.

use std::collections::BTreeMap;

use airlock::authenticate::Scope;
use airlock_tests::{
    client::{call, get, post},
    gateway::{Gateway, Repository},
    guest::{self, hostile},
    store::{Caller, Store},
};
use serde_json::{Value, json};

fn request() -> Value {
    json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1.0] }] })
}

/// Every sample of a text, by its name with its labels; the test fails where the text is not what Prometheus reads.
fn parsed(text: &str) -> BTreeMap<String, f64> {
    let mut families = BTreeMap::new();
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect(line);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} comes twice");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect(line);
        let name = series.split('{').next().expect(line);
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let known = families.contains_key(name) || base.is_some_and(|base| families.contains_key(base));
        assert!(known, "{line} has no type");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
        let value = value.parse().expect(line);
        assert!(samples.insert(series.to_owned(), value).is_none(), "{series} comes twice");
    }
    samples
}

async fn scraped(gateway: &Gateway) -> BTreeMap<String, f64> {
    let answer = get(gateway.metrics_address(), "/metrics").await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    parsed(str::from_utf8(&answer.body).expect("UTF-8"))
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_counted_under_both_names() {
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good()).with(
        "trap",
        "1",
        "model.wasm",
        guest::module(hostile::UNREACHABLE).expect("a valid fixture"),
    );
    let gateway = Gateway::serve(repository).await;
    let at = gateway.address();
    let before = scraped(&gateway).await;
    assert_eq!(before[r#"nv_inference_request_success{tenant="",model="good",version="1"}"#], 0.0);
    for _ in 0..5 {
        assert_eq!(post(at, "/v2/models/good/infer", &request()).await.status, 200);
    }
    for _ in 0..3 {
        assert_eq!(post(at, "/v2/models/trap/infer", &request()).await.status, 502);
    }
    // Names that are no model's make no series, whatever is in them.
    for name in ["nobody", "a%22%7D%0Ab", "%C3%A9", "-", "x.y"] {
        assert_eq!(post(at, &format!("/v2/models/{name}/infer"), &request()).await.status, 404);
    }
    let samples = scraped(&gateway).await;
    for (series, value) in [
        (r#"airlock_requests_total{tenant="default",model="good",outcome="ok"}"#, 5.0),
        (r#"airlock_requests_total{tenant="default",model="trap",outcome="model_failed"}"#, 3.0),
        (r#"airlock_requests_total{tenant="default",model="",outcome="model_not_found"}"#, 2.0),
        (r#"airlock_request_duration_seconds_count{tenant="default",model="good",version="1"}"#, 5.0),
        (
            r#"airlock_request_duration_seconds_bucket{tenant="default",model="good",version="1",le="+Inf"}"#,
            5.0,
        ),
        (r#"airlock_answers_total{port="http",status="200"}"#, 5.0),
        (r#"airlock_answers_total{port="http",status="404"}"#, 5.0),
        (r#"airlock_requests_open"#, 0.0),
        (r#"airlock_requests_running"#, 0.0),
        (r#"airlock_instances"#, 0.0),
        (r#"airlock_models_ready"#, 2.0),
        (r#"airlock_ready"#, 1.0),
        (r#"airlock_quarantined"#, 0.0),
        (r#"airlock_memory_short{refused="calls"}"#, 0.0),
        (r#"nv_inference_request_success{tenant="",model="good",version="1"}"#, 5.0),
        (r#"nv_inference_request_failure{tenant="",model="trap",version="1",reason="BACKEND"}"#, 3.0),
        (r#"nv_inference_request_failure{tenant="",model="trap",version="1",reason="OTHER"}"#, 0.0),
        (r#"nv_inference_count{tenant="",model="good",version="1"}"#, 5.0),
        (r#"nv_inference_exec_count{tenant="",model="good",version="1"}"#, 5.0),
        (r#"nv_inference_pending_request_count{tenant="",model="good",version="1"}"#, 0.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series} in {samples:#?}");
    }
    for name in [
        "nv_inference_request_duration_us",
        "nv_inference_queue_duration_us",
        "nv_inference_compute_input_duration_us",
        "nv_inference_compute_infer_duration_us",
        "nv_inference_compute_output_duration_us",
    ] {
        assert!(samples.contains_key(&format!(r#"{name}{{tenant="",model="good",version="1"}}"#)), "{name}");
    }
    assert!(samples[r#"airlock_connections{port="metrics"}"#] >= 1.0);
    assert!(samples[r#"airlock_cpu_seconds_total{tenant="default",model="good"}"#] > 0.0);
    let buckets =
        samples.iter().filter(|(series, _)| series.starts_with("airlock_request_duration_seconds_bucket"));
    let buckets = buckets.filter(|(series, _)| series.contains(r#"model="good""#)).count();
    assert_eq!(buckets, 15);
    assert!(before.keys().all(|series| samples.contains_key(series)), "a series has vanished");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_an_operators_port() {
    let store = Store::default();
    let infer = store.key("acme", &[Scope::Infer, Scope::Repository]).await;
    let admin = store.key("operator", &[Scope::Admin]).await;
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good());
    let gateway = store.serve_with(repository).await;
    let acme = Caller::new(&gateway, &infer);
    assert_eq!(acme.put("own", "1", guest::good()).await.status, 200);
    assert_eq!(acme.infer("own", 1.0).await.status, 200);
    let samples = scraped(&gateway).await;
    let own = r#"nv_inference_request_success{tenant="acme",model="own",version="1"}"#;
    assert_eq!(samples.get(own), Some(&1.0), "{samples:#?}");

    let at = gateway.metrics_address();
    let bearer = |key: &str| format!("Bearer {key}");
    for (what, header, value, status) in [
        ("a page under a name of its own", "host", "evil.example", 403),
        ("a page from elsewhere", "origin", "https://evil.example", 403),
        ("a page without an origin", "origin", "null", 403),
        ("a key for less", "authorization", &bearer(&infer), 403),
        ("no key at all", "authorization", "Bearer nonsense", 401),
        ("an operator's key", "authorization", &bearer(&admin), 200),
        ("a local name", "host", "localhost:8002", 200),
    ] {
        let answer = call(at, "GET", "/metrics", &[(header, value)], "").await;
        assert_eq!(answer.status, status, "{what}");
        assert_eq!(answer.status == 200, String::from_utf8_lossy(&answer.body).contains("acme"), "{what}");
    }
    for (method, path, status) in
        [("POST", "/metrics", 405), ("GET", "/", 404), ("GET", "/v2/models", 404), ("GET", "/metrics/", 404)]
    {
        assert_eq!(call(at, method, path, &[], "").await.status, status, "{method} {path}");
    }
    for other in [gateway.address(), gateway.admin_address()] {
        assert_ne!(get(other, "/metrics").await.status, 200);
    }
}
