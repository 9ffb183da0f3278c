//! Hostile models over HTTP: each gets its documented answer, and nobody else notices.

mod log;
mod memory;
mod quarantine;
mod residue;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use airlock_tests::{
    client::{Answer, get, post},
    gateway::{Gateway, Repository},
    guest::{self, hostile},
    rounds,
};
use serde_json::{Value, json};

fn request() -> Value {
    json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0] }] })
}

async fn infer(address: SocketAddr, model: &str) -> Answer {
    post(address, &format!("/v2/models/{model}/infer"), &request()).await
}

fn fixture(text: &str) -> Vec<u8> {
    guest::module(text).expect("a valid fixture")
}

/// (model, fixture, status, code)
const CASES: [(&str, &str, u16, &str); 12] = [
    ("loop", hostile::LOOP_IN_INFER, 504, "deadline_exceeded"),
    ("realloc", hostile::LOOP_IN_REALLOC, 504, "deadline_exceeded"),
    ("memory", hostile::GROW_MEMORY, 502, "model_memory"),
    ("stack", hostile::STACK_OVERFLOW, 502, "model_failed"),
    ("trap", hostile::UNREACHABLE, 502, "model_failed"),
    ("bounds", hostile::OUT_OF_BOUNDS, 502, "model_failed"),
    ("shape", hostile::SHAPE_AGAINST_BYTES, 502, "model_output_invalid"),
    ("datatype", hostile::WRONG_DATATYPE, 502, "model_output_invalid"),
    ("missing", hostile::MISSING_OUTPUT, 502, "model_output_invalid"),
    ("pointer", hostile::POINTER_OUT_OF_MEMORY, 502, "model_failed"),
    ("giant", hostile::GIANT_OUTPUT, 502, "model_output_invalid"),
    ("invalid", hostile::INVALID_INPUT, 400, "invalid_input"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_has_its_answer_and_a_hundred_good_requests_around_it_succeed() {
    let mut repository = Repository::default().with("good", "1", "model.wasm", guest::good());
    for (model, text, ..) in CASES {
        repository = repository.with(model, "1", "model.wasm", fixture(text));
    }
    let gateway = Gateway::serve_with(repository, |settings| {
        settings.limits.deadline = Some("500ms".parse().expect("a time"));
        settings.limits.guest_memory = Some("64MiB".parse().expect("a size"));
        settings.limits.guest_output = Some("1MiB".parse().expect("a size"));
    })
    .await;
    let at = gateway.address();
    for (model, _, status, code) in CASES.repeat(rounds::wanted()) {
        let neighbours = tokio::spawn(async move {
            for _ in 0..100 {
                let answer = infer(at, "good").await;
                assert_eq!(answer.status, 200, "{}", answer.error());
                assert_eq!(answer.json()["outputs"][0]["data"], json!([1.0, 2.0]));
            }
        });
        let answer = infer(at, model).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{model}: {}", answer.error());
        assert!(!answer.error().contains(" /") && !answer.error().contains("0x"), "{}", answer.error());
        neighbours.await.unwrap_or_else(|error| panic!("a good request beside {model} failed: {error}"));
    }
    eprintln!("over HTTP, {} cases: {} rounds", CASES.len(), CASES.len() * rounds::wanted());
    assert_eq!(get(at, "/v2/health/ready").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_looping_model_is_stopped_at_its_deadline_or_at_the_request_s_own() {
    let repository = Repository::default().with("loop", "1", "model.wasm", fixture(hostile::LOOP_IN_INFER));
    let gateway = Gateway::serve(repository).await;
    let at = gateway.address();
    let timed = async |body: Value, deadline: Duration| {
        let started = Instant::now();
        let answer = post(at, "/v2/models/loop/infer", &body).await;
        let took = started.elapsed();
        assert_eq!((answer.status, answer.code().as_str()), (504, "deadline_exceeded"));
        let allowed = deadline..=deadline + Duration::from_millis(50);
        assert!(allowed.contains(&took), "{took:?} for a deadline of {deadline:?}");
    };
    timed(request(), Duration::from_secs(2)).await;
    let mut shorter = request();
    shorter["parameters"] = json!({ "timeout": 300_000 });
    timed(shorter, Duration::from_millis(300)).await;
    let mut longer = request();
    longer["parameters"] = json!({ "timeout": 60_000_000 });
    timed(longer, Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_admissible_is_refused_at_load_by_name() {
    let cases = [
        ("wasi", hostile::WASI_IMPORT, "wasi:"),
        ("version", hostile::OTHER_VERSION_IMPORT, "airlock:inference/"),
        ("memories", hostile::TWO_MEMORIES, "memor"),
        ("fails", hostile::LOAD_FAILS, "load: "),
        ("traps", hostile::LOAD_TRAPS, "load: "),
    ];
    let mut repository = Repository::default().with("good", "1", "model.wasm", guest::good());
    for (model, text, _) in cases {
        repository = repository.with(model, "1", "model.wasm", fixture(text));
    }
    let gateway = Gateway::serve(repository).await;
    let at = gateway.address();
    for (model, _, part) in cases {
        let answer = get(at, &format!("/v2/models/{model}/ready")).await;
        assert_eq!(answer.status, 503);
        assert!(answer.error().contains(part), "{model}: {}", answer.error());
    }
    assert_eq!(infer(at, "good").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_four_deep_do_not_block_each_other() {
    // a → next → … would need a chain of names; here `next` calls itself until the depth ends, so every call of the
    // 32 holds five instances at its deepest.
    let repository = Repository::default().with("next", "1", "model.wasm", fixture(guest::PIPELINE));
    let gateway = Gateway::serve_with(repository, |settings| {
        settings.limits.max_running = Some(32);
        settings.limits.guest_threads = Some(2);
    })
    .await;
    let at = gateway.address();
    let calls: Vec<_> = (0..32).map(|_| tokio::spawn(infer(at, "next"))).collect();
    for call in calls {
        let answer = call.await.expect("no panic");
        assert_eq!((answer.status, answer.code().as_str()), (502, "model_failed"), "{}", answer.error());
        assert!(answer.error().contains("at most 4 deep"), "{}", answer.error());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_s_answer_and_errors_are_passed_on() {
    let pipeline = fixture(guest::PIPELINE);
    let served = async |next: Option<&str>| {
        let mut repository = Repository::default().with("pipeline", "1", "model.wasm", &pipeline);
        if let Some(next) = next {
            repository = repository.with("next", "1", "model.wasm", fixture(next));
        }
        let gateway = Gateway::serve_with(repository, |settings| {
            settings.limits.deadline = Some("500ms".parse().expect("a time"));
        })
        .await;
        let answer = infer(gateway.address(), "pipeline").await;
        (answer.status, answer.code(), answer.error(), answer)
    };
    let (status, _, _, answer) = served(Some(guest::ECHO)).await;
    assert_eq!((status, &answer.json()["outputs"][0]["data"]), (200, &json!([1.0, 2.0])));
    for (next, status, code, part) in [
        (Some(hostile::INVALID_INPUT), 400, "invalid_input", "'next'"),
        (Some(hostile::UNREACHABLE), 502, "model_failed", "'next'"),
        (Some(hostile::LOOP_IN_INFER), 504, "deadline_exceeded", "deadline"),
        (None, 502, "model_failed", "'next'"),
    ] {
        let (given_status, given_code, text, _) = served(next).await;
        assert_eq!((given_status, given_code.as_str()), (status, code), "{text}");
        assert!(text.contains(part), "{text}");
    }
}
