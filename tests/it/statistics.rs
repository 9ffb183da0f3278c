//! Statistics, configuration and the list of models: exact, and nobody else's business.

use airlock::authenticate::Scope;
use airlock_tests::{
    client::{Answer, call, get, post},
    gateway::{Gateway, Repository},
    guest::{self, hostile},
    store::{Caller, Store},
};
use serde_json::{Value, json};

fn request(count: usize) -> Value {
    let data = vec![1.0; count];
    json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [count], "data": data }] })
}

fn fixture(text: &str) -> Vec<u8> {
    guest::module(text).expect("a valid fixture")
}

/// The only entry of an answer.
fn one(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let json = answer.json();
    let all = json["model_stats"].as_array().expect("a list");
    assert_eq!(all.len(), 1, "{json}");
    all[0].clone()
}

fn counts(entry: &Value) -> [u64; 8] {
    let stats = &entry["inference_stats"];
    let names = ["success", "fail", "queue", "compute_input", "compute_infer", "compute_output"];
    let names = names.into_iter().chain(["cache_hit", "cache_miss"]);
    let counts: Vec<u64> = names.map(|name| stats[name]["count"].as_u64().expect(name)).collect();
    counts.try_into().expect("eight")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_in_the_statistics_once_and_time_only_grows() {
    let repository = Repository::default()
        .with("good", "1", "model.wasm", guest::good())
        .with("good", "2", "model.wasm", guest::good())
        .with("trap", "1", "model.wasm", fixture(hostile::UNREACHABLE))
        .with("invalid", "1", "model.wasm", fixture(hostile::INVALID_INPUT))
        .with("broken", "1", "model.wasm", "not wasm");
    let gateway = Gateway::serve(repository).await;
    let at = gateway.address();
    let before = one(&get(at, "/v2/models/good/versions/1/stats").await);
    assert_eq!(counts(&before), [0; 8]);
    assert_eq!((&before["last_inference"], &before["batch_stats"]), (&json!(0), &json!([])));

    for _ in 0..7 {
        assert_eq!(post(at, "/v2/models/good/versions/1/infer", &request(3)).await.status, 200);
    }
    for _ in 0..2 {
        // No version named: the highest answers.
        assert_eq!(post(at, "/v2/models/good/infer", &request(1)).await.status, 200);
    }
    for _ in 0..3 {
        assert_eq!(post(at, "/v2/models/good/versions/1/infer", &json!({ "inputs": [] })).await.status, 400);
        assert_eq!(post(at, "/v2/models/trap/infer", &request(1)).await.status, 502);
    }
    assert_eq!(post(at, "/v2/models/invalid/infer", &request(1)).await.status, 400);
    assert_eq!(post(at, "/v2/models/missing/infer", &request(1)).await.status, 404);
    assert_eq!(post(at, "/v2/models/broken/infer", &request(1)).await.status, 503);

    let first = one(&get(at, "/v2/models/good/versions/1/stats").await);
    assert_eq!(counts(&first), [7, 3, 7, 7, 7, 7, 0, 0]);
    // It takes no batches: three elements are one inference.
    assert_eq!((&first["inference_count"], &first["execution_count"]), (&json!(7), &json!(7)));
    assert_eq!((&first["name"], &first["version"]), (&json!("good"), &json!("1")));
    let stats = &first["inference_stats"];
    let ns = |name: &str| stats[name]["ns"].as_u64().expect(name);
    let parts = ["queue", "compute_input", "compute_infer", "compute_output"].map(ns);
    assert!(parts[2] > 0 && parts.iter().sum::<u64>() <= ns("success"), "{stats}");
    assert!(ns("fail") > 0);
    assert_eq!(first["batch_stats"][0]["batch_size"], 1);
    assert_eq!(first["batch_stats"][0]["compute_infer"], stats["compute_infer"]);
    assert!(first["last_inference"].as_u64() > Some(1_600_000_000_000));

    assert_eq!(counts(&one(&get(at, "/v2/models/good/versions/2/stats").await)), [2, 0, 2, 2, 2, 2, 0, 0]);
    assert_eq!(counts(&one(&get(at, "/v2/models/trap/stats").await))[..2], [0, 3]);
    assert_eq!(counts(&one(&get(at, "/v2/models/invalid/stats").await))[..2], [0, 1]);

    let listed = |answer: &Answer| {
        let json = answer.json();
        let entries = json["model_stats"].as_array().expect("a list").iter();
        entries.map(|entry| format!("{}/{}", entry["name"], entry["version"]).replace('"', "")).collect()
    };
    let all: Vec<String> = listed(&get(at, "/v2/models/stats").await);
    assert_eq!(all, ["good/1", "good/2", "invalid/1", "trap/1"], "only what is ready");
    let both: Vec<String> = listed(&get(at, "/v2/models/good/stats").await);
    assert_eq!(both, ["good/1", "good/2"]);
    for (path, status) in [("missing", 404), ("good/versions/9", 404), ("broken", 503), ("a%2fb", 404)] {
        let answer = get(at, &format!("/v2/models/{path}/stats")).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(get(at, &format!("/v2/models/{path}/config")).await.status, status, "{path}");
    }
    assert_eq!(get(at, "/v2/models").await.json(), json!({ "models": ["good", "invalid", "trap"] }));
    assert_eq!(post(at, "/v2/models/stats", &json!({})).await.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_count_as_many_inferences_and_config_and_metadata_agree() {
    let repository = Repository::default()
        .with("batched", "1", "model.wasm", guest::good())
        .with_config(
            "batched",
            "config.pbtxt",
            "max_batch_size: 8\nversion_policy { latest { num_versions: 2 } }",
        )
        .with("plain", "1", "model.wasm", guest::good())
        .with_config("plain", "config.pbtxt", "version_policy { specific { versions: [ 1 ] } }");
    let gateway = Gateway::serve(repository).await;
    let at = gateway.address();
    for batch in [2, 2, 5, 8, 1] {
        assert_eq!(post(at, "/v2/models/batched/infer", &request(batch)).await.status, 200);
    }
    assert_eq!(post(at, "/v2/models/batched/infer", &request(9)).await.status, 400);
    let entry = one(&get(at, "/v2/models/batched/stats").await);
    assert_eq!((&entry["inference_count"], &entry["execution_count"]), (&json!(18), &json!(5)));
    assert_eq!(counts(&entry)[..2], [5, 1]);
    let batches = entry["batch_stats"].as_array().expect("a list");
    let batches: Vec<_> =
        batches.iter().map(|batch| (&batch["batch_size"], &batch["compute_input"]["count"])).collect();
    let expected = [(1, 1), (2, 2), (5, 1), (8, 1)].map(|(size, count)| (json!(size), json!(count)));
    assert_eq!(batches, expected.each_ref().map(|(size, count)| (size, count)));

    let tensor = |name: &str, dims: Value| json!([{ "name": name, "data_type": "TYPE_FP32", "dims": dims }]);
    let config = get(at, "/v2/models/batched/config").await.json();
    assert_eq!(
        config,
        json!({
            "name": "batched", "platform": "wasm_component", "backend": "wasm",
            "version_policy": { "latest": { "num_versions": 2 } }, "max_batch_size": 8,
            "input": tensor("INPUT0", json!([])), "output": tensor("OUTPUT0", json!([])),
            "model_transaction_policy": { "decoupled": false },
        })
    );
    let config = get(at, "/v2/models/plain/versions/1/config").await.json();
    assert_eq!(config["max_batch_size"], 0);
    assert_eq!(config["input"], tensor("INPUT0", json!([-1])));
    assert_eq!(config["version_policy"], json!({ "specific": { "versions": [1] } }));
    for model in ["batched", "plain"] {
        // Triton's rule: what is called a batch in the one is a first dimension of -1 in the other.
        let config = get(at, &format!("/v2/models/{model}/config")).await.json();
        let mut shape = config["input"][0]["dims"].as_array().expect("dims").clone();
        if config["max_batch_size"] != 0 {
            shape.insert(0, json!(-1));
        }
        let metadata = get(at, &format!("/v2/models/{model}")).await.json();
        assert_eq!(metadata["inputs"][0]["shape"], json!(shape), "{model}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_its_own_calls_of_shared_models_and_of_foreign_models_nothing() {
    let store = Store::default();
    let keys = [
        store.key("acme", &[Scope::Infer, Scope::Repository]).await,
        store.key("umbrella", &[Scope::Infer, Scope::Repository]).await,
    ];
    let repository = Repository::default().with("shared", "1", "model.wasm", guest::good());
    let gateway = store.serve_with(repository).await;
    let [acme, umbrella] = keys.each_ref().map(|key| Caller::new(&gateway, key));
    assert_eq!(acme.put("own", "1", guest::good()).await.status, 200);
    for _ in 0..4 {
        assert_eq!(acme.infer("shared", 1.0).await.status, 200);
        assert_eq!(acme.infer("own", 1.0).await.status, 200);
    }
    assert_eq!(umbrella.infer("shared", 1.0).await.status, 200);

    assert_eq!(counts(&one(&acme.get("/v2/models/shared/stats").await))[0], 4);
    assert_eq!(counts(&one(&umbrella.get("/v2/models/shared/stats").await))[0], 1);
    assert_eq!(counts(&one(&acme.get("/v2/models/own/stats").await))[0], 4);
    assert_eq!(acme.get("/v2/models").await.json(), json!({ "models": ["own", "shared"] }));
    assert_eq!(umbrella.get("/v2/models").await.json(), json!({ "models": ["shared"] }));
    for what in ["stats", "config", "trace/setting"] {
        let foreign = umbrella.get(&format!("/v2/models/own/{what}")).await;
        let missing = umbrella.get(&format!("/v2/models/nil/{what}")).await;
        assert_eq!((foreign.status, foreign.code().as_str()), (404, "model_not_found"), "{what}");
        let other = String::from_utf8_lossy(&missing.body).replace("nil", "own");
        assert_eq!(String::from_utf8_lossy(&foreign.body), other, "{what}");
    }

    // A model of its own that hides the shared one has calls of its own.
    assert_eq!(acme.put("shared", "1", guest::good()).await.status, 200);
    assert_eq!(acme.infer("shared", 1.0).await.status, 200);
    assert_eq!(counts(&one(&acme.get("/v2/models/shared/stats").await))[0], 1);
    assert_eq!(counts(&one(&umbrella.get("/v2/models/shared/stats").await))[0], 1);
    for path in ["/v2/models", "/v2/models/stats", "/v2/models/shared/config", "/v2/logging"] {
        assert_eq!(Caller::anybody(&gateway).get(path).await.status, 401, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_traces_can_be_read_and_not_changed_and_shared_memory_is_refused() {
    let store = Store::default();
    let keys = [
        store.key("acme", &[Scope::Infer, Scope::Repository]).await,
        store.key("operator", &Scope::ALL).await,
    ];
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good());
    let gateway = store.serve_with(repository).await;
    let [acme, operator] = keys.each_ref().map(|key| Caller::new(&gateway, key));
    let logging = acme.get("/v2/logging").await.json();
    assert_eq!((&logging["log_file"], &logging["log_format"]), (&json!(""), &json!("ISO8601")));
    for path in ["/v2/trace/setting", "/v2/models/good/trace/setting"] {
        let trace = acme.get(path).await.json();
        assert_eq!((&trace["trace_level"], &trace["trace_file"]), (&json!(["OFF"]), &json!("")));
    }
    let change =
        json!({ "log_file": "/etc/passwd", "trace_file": "/etc/passwd", "trace_level": ["TIMESTAMPS"] });
    for path in ["/v2/logging", "/v2/trace/setting", "/v2/models/good/trace/setting"] {
        let refused = acme.post(path, &change).await;
        assert_eq!((refused.status, refused.code().as_str()), (403, "forbidden"), "{path}");
        let refused = operator.post(path, &change).await;
        assert_eq!((refused.status, refused.code().as_str()), (501, "not_implemented"), "{path}");
    }
    assert_eq!(acme.get("/v2/logging").await.json(), logging);
    for kind in ["system", "cuda"] {
        for path in ["status", "region/a/status", "region/a/register", "region/a/unregister", "unregister"] {
            for method in ["GET", "POST"] {
                let answer = acme.send(method, &format!("/v2/{kind}sharedmemory/{path}"), &[], "").await;
                assert_eq!((answer.status, answer.code().as_str()), (501, "not_implemented"), "{path}");
                assert!(answer.error().contains("send tensors in the request"), "{}", answer.error());
            }
        }
    }
    let mut region = request(1);
    region["inputs"][0]["parameters"] = json!({ "shared_memory_region": "a", "shared_memory_byte_size": 4 });
    let answer = acme.post("/v2/models/good/infer", &region).await;
    assert_eq!((answer.status, answer.code().as_str()), (501, "not_implemented"), "{}", answer.error());
    assert_eq!(call(gateway.address(), "POST", "/v2/systemsharedmemory/status", &[], "").await.status, 401);
}
