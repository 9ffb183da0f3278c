//! Profiles: what differs from server to server, row by row of docs/v2.md, on the listener that is told so and not on the other.

use airlock::{
    listen::Profile,
    proto::inference::{ModelInferResponse, ModelReadyRequest, ModelReadyResponse},
};
use airlock_tests::{
    client::{Answer, call, get, post},
    gateway::{Gateway, Repository},
    grpc::{Client, fp32},
    guest,
};
use serde_json::{Value, json};

const ALL: [Profile; 4] = [Profile::Airlock, Profile::Triton, Profile::Kserve, Profile::Mlserver];

async fn gateway(http: Option<Profile>, grpc: Option<Profile>) -> Gateway {
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good()).with(
        "broken",
        "1",
        "model.wasm",
        "not wasm",
    );
    Gateway::serve_with(repository, |settings| {
        (settings.http_profile, settings.grpc_profile) = (http, grpc);
        settings.model_control_mode = Some(airlock::config::ControlModeName::Explicit);
        settings.load_model = Some(vec!["*".into()]);
    })
    .await
}

/// Status and body; `None` where there is no body, and then no type of one either.
fn told(answer: &Answer) -> (u16, Option<Value>) {
    if answer.body.is_empty() {
        assert_eq!(answer.header("content-type"), None);
        return (answer.status, None);
    }
    assert_eq!(answer.header("content-type"), Some("application/json"));
    (answer.status, Some(answer.json()))
}

fn request(id: Option<&str>) -> Value {
    let mut request =
        json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1] }] });
    if let Some(id) = id {
        request["id"] = id.into();
    }
    request
}

fn is_uuid(id: &str) -> bool {
    id.len() == 36 && id.split('-').map(str::len).eq([8, 4, 4, 4, 12])
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_find_the_bodies_and_statuses_of_their_server() {
    assert_eq!(Profile::default(), Profile::Airlock);
    for profile in ALL {
        let gateway = gateway(Some(profile), None).await;
        let at = gateway.address();
        let bodies = matches!(profile, Profile::Airlock | Profile::Kserve);
        for (path, body) in [
            ("/v2/health/live", json!({ "live": true })),
            ("/v2/health/ready", json!({ "ready": true })),
            ("/v2/models/good/ready", json!({ "name": "good", "ready": true })),
            ("/v2/models/good/versions/1/ready", json!({ "name": "good", "ready": true })),
        ] {
            assert_eq!(told(&get(at, path).await), (200, bodies.then_some(body)), "{profile:?} {path}");
        }
        for (word, body) in [
            ("unload", json!({ "name": "good", "unload": true })),
            ("load", json!({ "name": "good", "load": true })),
        ] {
            let answer = post(at, &format!("/v2/repository/models/good/{word}"), &json!({})).await;
            assert_eq!(told(&answer), (200, bodies.then_some(body)), "{profile:?} {word}");
        }

        let not_ready = if bodies { 503 } else { 400 };
        let answer = get(at, "/v2/models/broken/ready").await;
        assert_eq!((answer.status, answer.code().as_str()), (not_ready, "model_not_ready"), "{profile:?}");
        assert_eq!(answer.json()["ready"], false);
        let missing = if profile == Profile::Triton { 400 } else { 404 };
        for path in ["/v2/models/missing/ready", "/v2/models/good/versions/9/ready"] {
            let answer = get(at, path).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (missing, "model_not_found"),
                "{profile:?} {path}"
            );
        }
        // Readiness alone: what calls a model hears the same everywhere.
        assert_eq!(post(at, "/v2/models/broken/infer", &request(None)).await.status, 503);
        assert_eq!(post(at, "/v2/models/missing/infer", &request(None)).await.status, 404);
        assert_eq!(get(at, "/v2/models/missing").await.status, 404);

        let root = get(at, "/").await;
        if profile == Profile::Kserve {
            assert_eq!(told(&root), (200, Some(json!({ "status": "alive" }))));
            assert_eq!(call(at, "GET", "/", &[("host", "evil.example")], "").await.status, 403);
            assert_eq!(post(at, "/", &json!({})).await.status, 404);
        } else {
            assert_eq!(root.status, 404, "{profile:?}");
        }
        gateway.drain();
        let answer = get(at, "/v2/health/ready").await;
        assert_eq!((answer.status, answer.code().as_str()), (not_ready, "draining"), "{profile:?}");
        assert_eq!(told(&get(at, "/v2/health/live").await).0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_ids_that_their_clients_rely_on() {
    for profile in ALL {
        let makes = matches!(profile, Profile::Kserve | Profile::Mlserver);
        for (http, grpc) in [(Some(profile), None), (None, Some(profile))] {
            let gateway = gateway(http, grpc).await;
            let at = gateway.address();
            let id = |answer: &Answer| answer.json()["id"].as_str().map(str::to_owned);
            let (first, second) = (
                id(&post(at, "/v2/models/good/infer", &request(None)).await),
                id(&post(at, "/v2/models/good/generate", &json!({ "INPUT0": 1 })).await),
            );
            let made = makes && http.is_some();
            assert_eq!(first.as_deref().map(is_uuid), made.then_some(true), "{profile:?}: {first:?}");
            assert_eq!(second.as_deref().map(is_uuid), made.then_some(true), "{profile:?}: {second:?}");
            assert!(!made || first != second);
            let named = id(&post(at, "/v2/models/good/infer", &request(Some("7"))).await);
            assert_eq!(named.as_deref(), Some("7"));
            let empty = id(&post(at, "/v2/models/good/infer", &request(Some(""))).await).expect("an id");
            assert_eq!(is_uuid(&empty), made, "{empty}");

            let client = Client::connect(gateway.grpc_address()).await;
            let infer = "/inference.GRPCInferenceService/ModelInfer";
            let answer: ModelInferResponse =
                client.ask(infer, fp32("good", &[1.0])).await.expect("an answer");
            assert_eq!(is_uuid(&answer.id), makes && grpc.is_some(), "{profile:?}: {}", answer.id);
            let mut named = fp32("good", &[1.0]);
            named.id = "7".into();
            let answer: ModelInferResponse = client.ask(infer, named).await.expect("an answer");
            assert_eq!(answer.id, "7");
            let asked = ModelReadyRequest { name: "missing".into(), ..ModelReadyRequest::default() };
            let ready: ModelReadyResponse =
                client.ask("/inference.GRPCInferenceService/ModelReady", asked).await.expect("an answer");
            assert!(!ready.ready);
        }
    }
}
