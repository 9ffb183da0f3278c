//! `generate` and `generate_stream` over the real listener, with Triton's bodies and MLServer's.

use airlock_tests::{
    client::{Answer, call, get, post},
    gateway::{Gateway, Repository},
    guest,
};
use serde_json::{Value, json};

/// `mirror` (BYTES [-1], answers with all parameters that it is given), `good` (FP32 [-1]) and `failing`.
async fn gateway() -> Gateway {
    let fixture = |text| guest::module(text).expect("a valid fixture");
    let repository = Repository::default()
        .with("mirror", "1", "model.wasm", fixture(guest::MIRROR))
        .with("good", "1", "model.wasm", guest::good())
        .with("trap", "1", "model.wasm", fixture(guest::hostile::UNREACHABLE));
    Gateway::serve(repository).await
}

/// The JSON of the one event that a stream is.
fn event(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.error());
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let text = std::str::from_utf8(&answer.body).expect("UTF-8");
    let json = text.strip_prefix("data: ").and_then(|text| text.strip_suffix("\n\n")).expect("an event");
    assert!(!json.contains('\n'));
    serde_json::from_str(json).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn tritons_bodies_give_one_object_or_one_event() {
    let gateway = gateway().await;
    let at = gateway.address();
    // What Triton answered to that body, apart from the names.
    let request = json!({ "INPUT0": 1.0 });
    let expected = json!({ "OUTPUT0": 1.0, "model_name": "good", "model_version": "1" });
    for path in ["/v2/models/good", "/v2/models/good/versions/1"] {
        let answer = post(at, &format!("{path}/generate"), &request).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        assert_eq!(answer.json(), expected);
        assert_eq!(event(&post(at, &format!("{path}/generate_stream"), &request).await), expected);
    }
    let many = post(at, "/v2/models/good/generate", &json!({ "INPUT0": [1, 2.5] })).await.json();
    assert_eq!(many["OUTPUT0"], json!([1.0, 2.5]));

    let request = json!({
        "id": "7", "INPUT0": "a\n\ndata: b", "stream": false, "parameters": { "temperature": 0.5, "stop": ["x\n"] },
    });
    let expected = json!({
        "id": "7", "model_name": "mirror", "model_version": "1", "OUTPUT0": "a\n\ndata: b",
        "stream": false, "temperature": 0.5, "stop": ["x\n"],
    });
    assert_eq!(post(at, "/v2/models/mirror/generate", &request).await.json(), expected);
    assert_eq!(event(&post(at, "/v2/models/mirror/generate_stream", &request).await), expected);

    let base64 = json!({ "INPUT0": "/wA=", "content_type": "base64" });
    let answer = post(at, "/v2/models/mirror/generate", &base64).await.json();
    assert_eq!(answer["OUTPUT0"], "/wA=");
}

#[tokio::test(flavor = "multi_thread")]
async fn mlservers_bodies_are_ordinary_requests() {
    let gateway = gateway().await;
    let at = gateway.address();
    let request = json!({
        "id": "7", "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0] }],
        "outputs": [{ "name": "OUTPUT0", "parameters": { "binary_data": true } }],
    });
    let expected = json!({
        "id": "7", "model_name": "good", "model_version": "1",
        "outputs": [{ "name": "OUTPUT0", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0] }],
    });
    assert_eq!(post(at, "/v2/models/good/generate", &request).await.json(), expected);
    assert_eq!(event(&post(at, "/v2/models/good/generate_stream", &request).await), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_an_ordinary_error_and_is_counted() {
    let gateway = gateway().await;
    let at = gateway.address();
    for last in ["generate", "generate_stream"] {
        let told = async |model: &str, body: Value| {
            let answer = post(at, &format!("/v2/models/{model}/{last}"), &body).await;
            assert_eq!(answer.header("content-type"), Some("application/json"));
            (answer.status, answer.code(), answer.error())
        };
        let (status, code, _) = told("none", json!({ "INPUT0": 1 })).await;
        assert_eq!((status, code.as_str()), (404, "model_not_found"));
        let (status, code, text) = told("good", json!({ "text_input": "a" })).await;
        assert_eq!((status, code.as_str()), (400, "bad_request"));
        assert!(text.starts_with("input 'INPUT0': is missing"), "{text}");
        let (status, _, text) = told("good", json!({ "INPUT0": "a" })).await;
        assert_eq!(status, 400);
        assert!(text.starts_with("input 'INPUT0': element 0 of 'data' is a string"), "{text}");
        assert_eq!(told("good", json!([])).await.0, 400);
        assert_eq!(told("trap", json!({ "INPUT0": 1 })).await.1, "model_failed");
        let path = format!("/v2/models/good/{last}");
        assert_eq!(call(at, "POST", &path, &[], "{\"INPUT0\":").await.status, 400);
        assert_eq!(get(at, &path).await.code(), "method_not_allowed");
    }
    let usage = get(at, "/v2/usage").await.json();
    let of = |name: &str| {
        let models = usage["models"].as_array().expect("models");
        models.iter().find(|model| model["model"] == name).expect("the model")["outcomes"].clone()
    };
    assert_eq!(of("trap"), json!({ "model_failed": 2 }));
    assert_eq!(of("good"), json!({ "bad_request": 8 }));
}
