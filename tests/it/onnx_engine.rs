//! Which engine runs an ONNX model, where the operator has no ONNX Runtime or names something else. With the library itself:
//! `onnxruntime`.

use std::{fs, path::PathBuf};

use airlock::{
    config::{Config, ConfigError, Settings},
    execute::OnnxEngine,
    server::{self, StartError},
};
use airlock_tests::{
    client,
    gateway::{Gateway, Repository, binary},
    onnx,
    store::{Caller, Store},
};
use serde_json::json;
use tempfile::TempDir;

use crate::hostile_native::{ok, told};

fn negation() -> Vec<u8> {
    onnx::unary("Neg", onnx::FLOAT, &["N"]).file()
}

fn with_engine(model: &str, engine: &str) -> Repository {
    let text = format!("onnx_engine = \"{engine}\"\n");
    Repository::default().with(model, "1", "model.onnx", negation()).with_config(model, "model.toml", &text)
}

fn settings(repository: &Repository) -> Settings {
    Settings {
        model_repository: Some(repository.path().into()),
        http: Some(([127, 0, 0, 1], 0).into()),
        ..Settings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_library_a_model_that_wants_it_says_what_to_do() {
    let gateway = Gateway::serve(with_engine("m", "onnxruntime")).await;
    let body = json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1], "data": [2.0] }] });
    let answer = client::post(gateway.address(), "/v2/models/m/infer", &body).await;
    assert_eq!(answer.status, 503);
    assert!(
        answer.error().contains("starts it with --onnxruntime FILE, or write tract"),
        "{}",
        answer.error()
    );

    // Whichever is faster is what there is.
    let gateway = Gateway::serve(with_engine("m", "fastest")).await;
    assert_eq!(ok(&client::post(gateway.address(), "/v2/models/m/infer", &body).await), json!([-2.0]));
    let metadata = client::get(gateway.address(), "/v2/models/m").await.json();
    assert_eq!(metadata["platform"], "onnx_onnxv1");

    let gateway = Gateway::serve(with_engine("m", "moon")).await;
    let answer = client::post(gateway.address(), "/v2/models/m/infer", &body).await;
    assert!(
        answer.error().contains("onnx_engine: write tract, onnxruntime or fastest"),
        "{}",
        answer.error()
    );
}

#[test]
fn what_wants_the_library_is_refused_before_anything_starts() {
    let repository = Repository::default();
    for (settings, option) in [
        (Settings { onnx_engine: Some(OnnxEngine::OnnxRuntime), ..settings(&repository) }, "onnx-engine"),
        (Settings { onnx_engine: Some(OnnxEngine::Fastest), ..settings(&repository) }, "onnx-engine"),
        (Settings { tenant_onnxruntime: Some(true), ..settings(&repository) }, "tenant-onnxruntime"),
    ] {
        let error = Config::try_from(settings).expect_err("there is no library");
        assert!(matches!(&error, ConfigError::NoOnnxRuntime(named) if *named == option), "{error}");
    }
}

/// A library that is there and is not ONNX Runtime's: the one that every process has.
fn c_library() -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").expect("Linux");
    let path =
        maps.lines().find_map(|line| line.split_whitespace().nth(5).filter(|path| path.contains("/libc.so")));
    path.expect("the C library is linked dynamically").into()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_library_is_found_out_at_start_by_a_worker() {
    let folder = TempDir::new().expect("a temporary folder");
    let text = folder.path().join("text.so");
    fs::write(&text, "not a library\n").expect("a writable folder");
    // The head of a library and nothing behind it.
    let torn = folder.path().join("torn.so");
    fs::write(&torn, &fs::read(c_library()).expect("readable")[..4096]).expect("a writable folder");
    for (path, part) in [
        (folder.path().join("none.so"), "No such file"),
        (folder.path().into(), "it is not a file"),
        (text, "it cannot be loaded: "),
        // What is missing of it is found out by a signal.
        (torn, "ended by signal"),
        (c_library(), "it is another library than ONNX Runtime's"),
    ] {
        let repository = Repository::default();
        let mut config =
            Config::try_from(Settings { onnxruntime: Some(path.clone()), ..settings(&repository) })
                .expect("a configuration");
        config.worker_program = Some(binary());
        match server::start(config).await {
            Err(StartError::OnnxRuntime { path: named, reason }) => {
                assert_eq!(named, path);
                assert!(reason.contains(part), "{}: {reason}", path.display());
            }
            other => panic!("{}: {other:?}", path.display()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_names_no_library_and_chooses_only_what_it_may() {
    let store = Store::default();
    let gateway = store.serve().await;
    let tenant = Caller::anybody(&gateway);
    for (config, part) in [
        ("onnxruntime = \"/lib/libonnxruntime.so\"", "unknown field `onnxruntime`"),
        ("onnx_engine = \"/lib/libonnxruntime.so\"", "write tract, onnxruntime or fastest"),
        ("onnx_engine = { path = \"x.so\" }", "expected a string"),
        ("onnx_engine = \"onnxruntime\"", "uploaded models run on tract: write tract, or leave it out"),
    ] {
        let answer = tenant.put_with("m", "1", negation(), &[("config", config)]).await;
        assert_eq!(answer.status, 422, "{config}: {}", answer.error());
        assert!(answer.error().contains(part), "{config}: {}", answer.error());
    }
    told(&tenant.get("/v2/models/m").await, 404, "model_not_found");
    let answer = tenant.put_with("m", "1", negation(), &[("config", "onnx_engine = \"fastest\"")]).await;
    assert_eq!(answer.status, 200, "{}", answer.error());
    assert_eq!(tenant.get("/v2/models/m").await.json()["platform"], "onnx_onnxv1");
}
