//! A model that fails again and again is not run for a while, for whom it failed.

use std::time::{Duration, Instant};

use airlock::authenticate::Scope;
use airlock_tests::{
    client::{Answer, call, post},
    gateway::{Gateway, Repository},
    guest::{self, hostile},
    store::Store,
};
use serde_json::{Value, json};

use super::{fixture, infer, request};

/// Traps if its first input is below zero, else echoes.
const TRAPS_BELOW_ZERO: &str = r#"
;; replaces: infer
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (if (f32.lt (f32.load (i32.load offset=28 (local.get $input))) (f32.const 0)) (then (unreachable)))
  (call $ok (call $echo (local.get $input)) (i32.const 1)))
"#;

fn below_zero() -> Value {
    json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [-1.0] }] })
}

fn is(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.error());
}

/// Whole seconds of the refusal of a model in quarantine.
fn seconds(answer: &Answer) -> u64 {
    is(answer, 503, "model_quarantined");
    assert!(answer.error().contains("is in quarantine"), "{}", answer.error());
    answer.header("retry-after").and_then(|seconds| seconds.parse().ok()).expect("whole seconds")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_begins_after_twenty_faults_lifts_by_itself_doubles_and_ends_with_a_good_answer() {
    let repository = Repository::default()
        .with("picky", "1", "model.wasm", fixture(TRAPS_BELOW_ZERO))
        .with("picky", "2", "model.wasm", guest::good())
        .with("twin", "1", "model.wasm", fixture(TRAPS_BELOW_ZERO));
    let repository =
        repository.with_config("picky", "config.pbtxt", "version_policy: { all: {} }\nmax_batch_size: 0");
    let gateway = Gateway::serve_with(repository, |settings| {
        settings.limits.quarantine_window = Some("10m".parse().expect("a time"));
        settings.limits.quarantine_time = Some("2s".parse().expect("a time"));
    })
    .await;
    let at = gateway.address();
    let picky = async |body: &Value| post(at, "/v2/models/picky/versions/1/infer", body).await;
    let faults = async |count: usize| {
        for _ in 0..count {
            is(&picky(&below_zero()).await, 502, "model_failed");
        }
    };
    // A good answer between them: they do not count together.
    faults(19).await;
    assert_eq!(picky(&request()).await.status, 200);
    faults(20).await;

    let refused = picky(&request()).await;
    assert!((1..=2).contains(&seconds(&refused)), "{:?}", refused.headers);
    // The same content is the same model under any name; another version is another model.
    is(&post(at, "/v2/models/twin/infer", &request()).await, 503, "model_quarantined");
    assert_eq!(infer(at, "picky").await.status, 200);
    let lifted = async |within: u64| {
        let begun = Instant::now();
        loop {
            let answer = picky(&below_zero()).await;
            if answer.status == 502 {
                return begun.elapsed();
            }
            seconds(&answer);
            assert!(begun.elapsed() < Duration::from_secs(within), "not lifted within {within} s");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    lifted(20).await;
    // That was the first of twenty again.
    faults(19).await;
    assert!((3..=4).contains(&seconds(&picky(&request()).await)), "twice as long");
    lifted(20).await;
    assert_eq!(picky(&request()).await.status, 200);
    faults(20).await;
    assert!((1..=2).contains(&seconds(&picky(&request()).await)), "a good answer forgives");

    let usage = call(at, "GET", "/v2/usage", &[], "").await.json();
    let outcomes = &usage["total"]["outcomes"];
    assert!(outcomes["model_quarantined"].as_u64().is_some_and(|refused| refused >= 4), "{usage}");
    assert_eq!(outcomes["model_failed"], 19 + 20 + 20 + 1 + 20, "{usage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_client_s_own_doing_nor_another_tenant_s_counts() {
    let store = Store::default();
    let (acme, other) = (store.key("acme", &[Scope::Infer]).await, store.key("other", &[Scope::Infer]).await);
    for tenant in ["acme", "other"] {
        store.limit(tenant, &[("rate", "0")]).await;
    }
    let repository = Repository::default()
        .with("trap", "1", "model.wasm", fixture(hostile::UNREACHABLE))
        .with("invalid", "1", "model.wasm", fixture(hostile::INVALID_INPUT))
        .with("fails", "1", "model.wasm", fixture(hostile::ERROR_TEXT))
        .with("pipeline", "1", "model.wasm", fixture(guest::PIPELINE))
        .with("next", "1", "model.wasm", fixture(hostile::UNREACHABLE))
        .with("loop", "1", "model.wasm", fixture(hostile::LOOP_IN_INFER));
    let gateway = Gateway::serve_with(repository, |settings| settings.store = Some(store.location())).await;
    let at = gateway.address();
    let send = async |key: &str, model: &str, body: &Value| {
        let bearer = format!("Bearer {key}");
        let path = format!("/v2/models/{model}/infer");
        call(at, "POST", &path, &[("authorization", &bearer)], body.to_string()).await
    };
    let mut short = request();
    short["parameters"] = json!({ "timeout": 5000 });
    let mut wrong = request();
    wrong["inputs"][0]["datatype"] = json!("INT8");
    for _ in 0..30 {
        is(&send(&acme, "invalid", &request()).await, 400, "invalid_input");
        is(&send(&acme, "fails", &request()).await, 502, "model_failed");
        is(&send(&acme, "loop", &short).await, 504, "deadline_exceeded");
        assert_eq!(send(&acme, "trap", &wrong).await.status, 400);
    }
    for _ in 0..20 {
        is(&send(&acme, "trap", &request()).await, 502, "model_failed");
    }
    seconds(&send(&acme, "trap", &request()).await);
    is(&send(&other, "trap", &request()).await, 502, "model_failed");
    // What a model calls is in quarantine with the same content; the caller is told, and is not to blame.
    for _ in 0..30 {
        let answer = send(&acme, "pipeline", &request()).await;
        is(&answer, 502, "model_failed");
        assert!(answer.error().contains("model 'next' is in quarantine"), "{}", answer.error());
    }
    let answer = send(&other, "pipeline", &request()).await;
    assert!(!answer.error().contains("quarantine"), "{}", answer.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_computes_until_its_time_is_over_is_put_there_too() {
    let repository = Repository::default()
        .with("loop", "1", "model.wasm", fixture(hostile::LOOP_IN_INFER))
        .with_config("loop", "model.toml", "[limits]\ndeadline = \"100ms\"\n");
    let gateway = Gateway::serve_with(repository, |settings| {
        settings.limits.quarantine_faults = Some(5);
        settings.limits.quarantine_window = Some("10m".parse().expect("a time"));
    })
    .await;
    // On a busy machine some of them get too little of the processor to be blamed.
    for call in 0.. {
        let answer = infer(gateway.address(), "loop").await;
        if answer.status == 503 {
            assert!(call >= 5);
            assert!((1..=30).contains(&seconds(&answer)));
            break;
        }
        is(&answer, 504, "deadline_exceeded");
        assert!(call < 200, "never put into quarantine");
    }
}

/// What a trap storm costs: refused calls are far cheaper than failing ones, and lines in the log are few.
#[tokio::test(flavor = "multi_thread")]
async fn a_trap_storm_is_refused_without_an_instance() {
    let repository = Repository::default().with("trap", "1", "model.wasm", fixture(hostile::UNREACHABLE));
    let gateway = Gateway::serve(repository).await;
    for _ in 0..1000 {
        let answer = infer(gateway.address(), "trap").await;
        assert!([502, 503].contains(&answer.status), "{}", answer.error());
    }
    let usage = call(gateway.address(), "GET", "/v2/usage", &[], "").await.json();
    let outcomes = &usage["total"]["outcomes"];
    assert_eq!(
        (&outcomes["model_failed"], &outcomes["model_quarantined"]),
        (&json!(20), &json!(980)),
        "{usage}"
    );
}
