//! The second start compiles nothing, and believes nothing that it did not write itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

use airlock::config::Settings;
use airlock_tests::{
    client::{Answer, get, post},
    gateway::{Gateway, Repository, binary},
    guest,
};
use serde_json::json;
use tempfile::TempDir;

fn repository() -> Repository {
    Repository::default().with("count", "1", "model.wasm", guest::module(guest::COUNTER).expect("a fixture"))
}

async fn serve(state: &Path, program: impl Into<PathBuf>) -> Gateway {
    let repository = repository();
    let settings = Settings {
        model_repository: Some(repository.path().into()),
        state: Some(state.into()),
        ..Settings::default()
    };
    Gateway::serve_with_worker(repository, settings, program.into()).await
}

async fn infer(gateway: &Gateway) -> Answer {
    let request =
        json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [0.0] }] });
    post(gateway.address(), "/v2/models/count/infer", &request).await
}

async fn assert_serves(gateway: &Gateway) {
    let answer = infer(gateway).await;
    assert_eq!((answer.status, &answer.json()["outputs"][0]["data"]), (200, &json!([1.0])));
}

async fn assert_failed(gateway: &Gateway) {
    let answer = get(gateway.address(), "/v2/models/count/ready").await;
    assert_eq!(answer.status, 503);
    assert!(answer.error().contains("exit code 1 and without an answer"), "{}", answer.error());
}

/// Without workers, nothing but the cache can make a model ready.
const NO_WORKER: &str = "/bin/false";

fn entries(state: &Path) -> Vec<PathBuf> {
    fs::read_dir(state.join("cache")).expect("a cache").map(|entry| entry.expect("an entry").path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_compiles_nothing() {
    let folder = TempDir::new().expect("a temporary folder");
    let state = folder.path().join("state");
    assert_failed(&serve(&state, NO_WORKER).await).await;
    assert_serves(&serve(&state, binary()).await).await;
    assert_eq!(entries(&state).len(), 1);
    assert_serves(&serve(&state, NO_WORKER).await).await;
    let left = fs::read_dir(state.join("workers")).expect("the workers' folder").count();
    assert_eq!(left, 0, "a worker's folder is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_code_is_compiled_again_and_never_run() {
    let folder = TempDir::new().expect("a temporary folder");
    let state = folder.path().join("state");
    assert_serves(&serve(&state, binary()).await).await;
    let [entry] = &entries(&state)[..] else { panic!("one model, one entry") };
    let whole = fs::read(entry).expect("the entry");
    for at in [0, 40, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(entry, bytes).expect("a writable file");
        assert_failed(&serve(&state, NO_WORKER).await).await;
        assert!(!entry.exists(), "it is removed");
    }
    assert_serves(&serve(&state, binary()).await).await;
    assert_serves(&serve(&state, NO_WORKER).await).await;

    // Another gateway's secret.
    fs::remove_file(state.join("secret")).expect("a secret");
    assert_failed(&serve(&state, NO_WORKER).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_state_folder_every_start_compiles() {
    let gateway = Gateway::serve(repository()).await;
    assert_serves(&gateway).await;
    let repository = repository();
    let settings = Settings { model_repository: Some(repository.path().into()), ..Settings::default() };
    assert_failed(&Gateway::serve_with_worker(repository, settings, NO_WORKER.into()).await).await;
}
