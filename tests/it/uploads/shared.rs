//! Whom the operator's own models serve.

use airlock::authenticate::Scope;
use airlock_tests::{
    gateway::{Gateway, Repository},
    guest,
    store::{Caller, Store},
};
use serde_json::json;

use super::{BOTH, answered, constant, ok, refused};

#[tokio::test(flavor = "multi_thread")]
async fn shared_models_can_be_kept_from_tenants() {
    let store = Store::default();
    let (acme, own) = (store.key("acme", &BOTH).await, store.key("default", &BOTH).await);
    let operator = store.key("acme", &[Scope::Infer, Scope::Repository, Scope::Admin]).await;
    let pipeline = guest::module(guest::PIPELINE).expect("a valid fixture");
    let repository = Repository::default().with("next", "1", "model.wasm", constant(100.0)).with(
        "operators",
        "1",
        "model.wasm",
        pipeline.clone(),
    );
    let gateway = Gateway::serve_with(repository, |settings| {
        settings.store = Some(store.location());
        settings.shared_models = Some(false);
        settings.model_control_mode = Some(airlock::config::ControlModeName::Explicit);
        settings.load_model = Some(vec!["*".into()]);
    })
    .await;
    let tenant = Caller::new(&gateway, &acme);
    ok(&tenant.put("pipeline", "1", pipeline.clone()).await);
    ok(&tenant.put("mine", "1", constant(1.0)).await);

    // Every door: what is said of a shared model is what is said of none.
    let input = json!({ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [0] });
    let request = json!({ "inputs": [input] }).to_string();
    let verify = json!({ "against": { "model": "mine", "version": "1" }, "request": { "inputs": [input] } });
    for (method, path, body) in [
        ("GET", "/v2/models/NAME", ""),
        ("GET", "/v2/models/NAME/versions/1", ""),
        ("GET", "/v2/models/NAME/ready", ""),
        ("GET", "/v2/models/NAME/versions/1/ready", ""),
        ("POST", "/v2/models/NAME/infer", &request),
        ("POST", "/v2/models/NAME/versions/1/infer", &request),
        ("GET", "/v2/repository/models/NAME", ""),
        ("GET", "/v2/repository/models/NAME/versions/1", ""),
        ("POST", "/v2/repository/models/NAME/load", ""),
        ("POST", "/v2/repository/models/NAME/unload", ""),
        ("POST", "/v2/repository/models/NAME/versions/1/verify", &verify.to_string()),
    ] {
        let shared = tenant.send(method, &path.replace("NAME", "next"), &[], body.to_owned()).await;
        let missing = tenant.send(method, &path.replace("NAME", "none"), &[], body.to_owned()).await;
        refused(&shared, 404, "model_not_found", "next");
        assert_eq!(missing.error().replace("none", "next"), shared.error(), "{method} {path}");
    }
    let index = ok(&tenant.post("/v2/repository/index", &json!({})).await);
    let names: Vec<_> = index.as_array().expect("a list").iter().map(|entry| entry["name"].clone()).collect();
    assert_eq!(names, ["mine", "pipeline"]);

    // Nor does a tenant's plugin reach one, until the tenant has a model of that name.
    refused(&tenant.infer("pipeline", 0.0).await, 502, "model_failed", "'next' is not found");
    ok(&tenant.put("next", "1", constant(2.0)).await);
    assert_eq!(answered(&tenant.infer("pipeline", 0.0).await), 2.0);

    // The tenant `default` has them all, its own plugins too, and the operator's reach each other.
    let default = Caller::new(&gateway, &own);
    assert_eq!(answered(&default.infer("next", 0.0).await), 100.0);
    assert_eq!(answered(&default.infer("operators", 0.0).await), 100.0);
    ok(&default.put("pipeline", "1", pipeline).await);
    assert_eq!(answered(&default.infer("pipeline", 0.0).await), 100.0);

    // An operator's key of another tenant does not see them, and still loads and unloads them.
    let operator = Caller::new(&gateway, &operator);
    assert_eq!(operator.infer("operators", 0.0).await.status, 404);
    ok(&operator.post("/v2/repository/models/operators/unload", &json!({})).await);
    assert_eq!(default.infer("operators", 0.0).await.status, 503);
    ok(&operator.post("/v2/repository/models/operators/load", &json!({})).await);
    assert_eq!(answered(&default.infer("operators", 0.0).await), 100.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_shared_models_serve_whoever_calls() {
    let repository = Repository::default().with("next", "1", "model.wasm", constant(100.0));
    let gateway = Gateway::serve_with(repository, |settings| settings.shared_models = Some(false)).await;
    assert_eq!(answered(&Caller::anybody(&gateway).infer("next", 0.0).await), 100.0);
}
