//! Responses that are kept: the same answer without a run, for the tenant that asked and for nobody else.

use airlock::authenticate::Scope;
use airlock_tests::{
    client::{get, post},
    gateway::{Gateway, Repository},
    guest::{self, hostile},
    store::{Caller, Store},
};
use serde_json::{Value, json};

const ON: &str = "response_cache { enable: true }";

fn request(value: f32) -> Value {
    json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [value] }] })
}

/// Calls that succeeded, executions, hits and misses, as the statistics tell them.
fn counts(answer: &airlock_tests::client::Answer) -> [u64; 4] {
    let json = answer.json();
    let entry = &json["model_stats"][0];
    let stats = &entry["inference_stats"];
    [
        &stats["success"]["count"],
        &entry["execution_count"],
        &stats["cache_hit"]["count"],
        &stats["cache_miss"]["count"],
    ]
    .map(|count| count.as_u64().expect("a count"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_equal_request_is_answered_without_a_run_and_any_other_one_runs() {
    let repository = Repository::default()
        .with("kept", "1", "model.wasm", guest::good())
        .with_config("kept", "config.pbtxt", ON)
        .with("toml", "1", "model.wasm", guest::good())
        .with_config("toml", "model.toml", "response_cache = true")
        .with("off", "1", "model.wasm", guest::good())
        .with_config("off", "config.pbtxt", "response_cache { enable: false }");
    let gateway = Gateway::serve(repository).await;
    let at = gateway.address();
    let infer = async |model: &str, body: &Value| post(at, &format!("/v2/models/{model}/infer"), body).await;
    let stats = async |model: &str| counts(&get(at, &format!("/v2/models/{model}/stats")).await);

    let first = infer("kept", &request(1.0)).await;
    assert_eq!(first.status, 200);
    let second = infer("kept", &request(1.0)).await;
    assert_eq!((second.status, &second.body), (200, &first.body));
    assert_eq!(stats("kept").await, [2, 1, 1, 1]);

    // An id is the request's own, and how the answer is written is another matter than what it is.
    let mut named = request(1.0);
    named["id"] = json!("mine");
    assert_eq!(infer("kept", &named).await.json()["id"], "mine");
    named["outputs"] = json!([{ "name": "OUTPUT0", "parameters": { "binary_data": true } }]);
    let binary = infer("kept", &named).await;
    assert!(binary.body.ends_with(&1f32.to_le_bytes()), "{:?}", binary.body);
    assert_eq!(stats("kept").await, [4, 2, 2, 2], "asking for an output by its name is another request");

    let mut told = request(1.0);
    told["parameters"] = json!({ "mode": "other" });
    for other in [request(2.0), told] {
        assert_eq!(infer("kept", &other).await.status, 200);
    }
    assert_eq!(stats("kept").await, [6, 4, 2, 4]);
    assert_eq!(infer("kept", &request(2.0)).await.json()["outputs"][0]["data"], json!([2.0]));

    // The same content under another name has the same responses: here is one that nobody asked for yet.
    for model in ["toml", "off"] {
        for _ in 0..3 {
            assert_eq!(infer(model, &request(3.0)).await.status, 200);
        }
    }
    assert_eq!((stats("toml").await, stats("off").await), ([3, 1, 2, 1], [3, 3, 0, 0]));
    assert_eq!(get(at, "/v2/models/kept/config").await.json()["response_cache"], json!({ "enable": true }));
    assert_eq!(get(at, "/v2/models/off/config").await.json()["response_cache"], json!(null));

    let metrics = get(gateway.metrics_address(), "/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    for line in [
        "airlock_response_cache_entries 5",
        "nv_cache_num_hits_per_model{tenant=\"\",model=\"kept\",version=\"1\"} 3",
        "nv_cache_num_misses_per_model{tenant=\"\",model=\"kept\",version=\"1\"} 4",
        "nv_inference_exec_count{tenant=\"\",model=\"kept\",version=\"1\"} 4",
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line} is not in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_and_what_another_model_had_a_part_in_are_not_kept() {
    let fixture = |text: &str| guest::module(text).expect("a valid fixture");
    let repository = Repository::default()
        .with("invalid", "1", "model.wasm", fixture(hostile::INVALID_INPUT))
        .with_config("invalid", "config.pbtxt", ON)
        .with("pipeline", "1", "model.wasm", fixture(guest::PIPELINE))
        .with_config("pipeline", "config.pbtxt", ON)
        .with("next", "1", "model.wasm", guest::good());
    let gateway = Gateway::serve(repository).await;
    let at = gateway.address();
    for (model, status) in [("invalid", 400), ("pipeline", 200)] {
        for _ in 0..2 {
            let answer = post(at, &format!("/v2/models/{model}/infer"), &request(1.0)).await;
            assert_eq!(answer.status, status, "{model}");
        }
        let stats = counts(&get(at, &format!("/v2/models/{model}/stats")).await);
        assert_eq!(stats[2..], [0, 2], "{model}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_needs_no_turn_and_none_is_told_to_another_tenant_or_of_other_content() {
    let store = Store::default();
    let keys = [
        store.key("acme", &[Scope::Infer, Scope::Repository]).await,
        store.key("umbrella", &[Scope::Infer, Scope::Repository]).await,
    ];
    let repository = Repository::default().with("kept", "1", "model.wasm", guest::good()).with_config(
        "kept",
        "config.pbtxt",
        ON,
    );
    let gateway = store.serve_with(repository).await;
    let [acme, umbrella] = keys.each_ref().map(|key| Caller::new(&gateway, key));
    for _ in 0..2 {
        assert_eq!(acme.infer("kept", 1.0).await.status, 200);
    }
    assert_eq!(umbrella.infer("kept", 1.0).await.status, 200);
    assert_eq!(counts(&acme.get("/v2/models/kept/stats").await), [2, 1, 1, 1]);
    assert_eq!(counts(&umbrella.get("/v2/models/kept/stats").await), [1, 1, 0, 1]);

    // A newer version is other content.
    let config = [("config", "response_cache = true")];
    assert_eq!(acme.put_with("own", "1", guest::good(), &config).await.status, 200);
    for _ in 0..2 {
        assert_eq!(acme.infer("own", 3.0).await.status, 200);
    }
    assert_eq!(counts(&acme.get("/v2/models/own/versions/1/stats").await), [2, 1, 1, 1]);
    let other = guest::module(hostile::INVALID_INPUT).expect("a valid fixture");
    assert_eq!(acme.put_with("own", "2", other, &config).await.status, 200);
    assert_eq!(acme.infer("own", 3.0).await.status, 400);

    // What costs no processor time is billed none.
    let before = acme.get("/v2/usage").await.json()["total"]["cpu_ns"].clone();
    assert_eq!(acme.infer("kept", 1.0).await.status, 200);
    assert_eq!(acme.get("/v2/usage").await.json()["total"]["cpu_ns"], before);
}
