//! ONNX Runtime as the engine of ONNX models: the library that `AIRLOCK_TEST_ONNXRUNTIME` names.
//!
//! `cargo xtask test` sets the variable to the library in the Python package. Without it these tests do nothing, and say so.

mod fastest;
mod hostile;

use std::{env, fs, io::Write};

use airlock::config::Settings;
use airlock_tests::{
    client::{self, Answer},
    gateway::{Gateway, Repository},
    onnx::{self, Graph, floats, node, tensor, value},
};
use serde_json::{Value, json};

use crate::hostile_native::ok;

const LIBRARY: &str = "AIRLOCK_TEST_ONNXRUNTIME";

/// Settings with the library, of which the rest is to be chosen; `None` if there is no library.
fn with_library() -> Option<Settings> {
    let Some(library) = env::var_os(LIBRARY) else {
        // Past the test harness, which hides what tests print that succeed.
        let _ =
            writeln!(std::io::stderr(), "NOT TESTED: ONNX Runtime as the engine, as {LIBRARY} is not set");
        return None;
    };
    let mut settings = Settings { onnxruntime: Some(library.into()), ..Settings::default() };
    settings.limits.deadline = Some("20s".parse().expect("a time"));
    Some(settings)
}

/// A gateway over that repository; `None` without the library.
async fn serve(repository: Repository) -> Option<Gateway> {
    let settings = with_library()?;
    let serve = Gateway::serve_with(repository, |chosen| {
        *chosen = Settings { model_repository: chosen.model_repository.take(), ..settings };
    });
    Some(Box::pin(serve).await)
}

/// The model under its name on tract and, as `NAME_ort`, on ONNX Runtime.
fn twice(repository: Repository, name: &str, graph: &Graph) -> Repository {
    let other = format!("{name}_ort");
    repository
        .with(name, "1", "model.onnx", graph.file())
        .with(&other, "1", "model.onnx", graph.file())
        .with_config(&other, "model.toml", "onnx_engine = \"onnxruntime\"\n")
}

async fn infer(gateway: &Gateway, model: &str, body: &Value) -> Answer {
    client::post(gateway.address(), &format!("/v2/models/{model}/infer"), body).await
}

async fn platform(gateway: &Gateway, model: &str) -> Value {
    client::get(gateway.address(), &format!("/v2/models/{model}")).await.json()["platform"].clone()
}

/// Asserts that both forms of a model take and give the same.
async fn same_metadata(gateway: &Gateway, model: &str) {
    let mut metadata = Vec::new();
    for name in [model.to_owned(), format!("{model}_ort")] {
        metadata.push(client::get(gateway.address(), &format!("/v2/models/{name}")).await.json());
    }
    assert_eq!(metadata[0]["inputs"], metadata[1]["inputs"], "{model}");
    assert_eq!(metadata[0]["outputs"], metadata[1]["outputs"], "{model}");
    assert_eq!(metadata[0]["platform"], "onnx_onnxv1");
    assert_eq!(metadata[1]["platform"], "onnxruntime_onnx");
}

/// A linear classifier whose probabilities are zipped into maps.
fn classifier() -> Graph {
    Graph {
        nodes: vec![
            node(
                "ai.onnx.ml.LinearClassifier",
                &["x"],
                &["label", "scores"],
                &[
                    floats("coefficients", &[1.0, -0.5, -1.0, 0.5]),
                    floats("intercepts", &[0.1, -0.1]),
                    onnx::ints("classlabels_ints", &[10, 20]),
                    onnx::string("post_transform", "SOFTMAX"),
                ],
            ),
            node("ai.onnx.ml.ZipMap", &["scores"], &["maps"], &[onnx::ints("classlabels_int64s", &[10, 20])]),
        ],
        inputs: vec![value("x", onnx::FLOAT, &["N", "2"])],
        outputs: vec![value("label", onnx::INT64, &["N"]), onnx::sequence("maps")],
        initializers: vec![],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_takes_and_gives_what_it_does_on_tract() {
    let network = crate::onnx_sandbox::network();
    let handed_through = Graph {
        outputs: vec![value("y", onnx::FLOAT, &["N"]), value("x", onnx::FLOAT, &["N"])],
        ..onnx::unary("Neg", onnx::FLOAT, &["N"])
    };
    let mut repository = Repository::default();
    for (name, graph) in [("network", &network), ("classifier", &classifier()), ("through", &handed_through)]
    {
        repository = twice(repository, name, graph);
    }
    let Some(gateway) = serve(repository).await else { return };
    let image: Vec<f32> = (0..3 * 256).map(|index| (index % 13) as f32 / 13.0).collect();
    let rows = [0.5, 1.0, -2.0, 0.25, 3.0, 3.0];
    for (model, shape, data) in [
        ("network", json!([3, 1, 16, 16]), json!(image)),
        ("network", json!([1, 1, 16, 16]), json!(image[..256])),
        ("classifier", json!([3, 2]), json!(rows)),
        ("through", json!([2]), json!([1.0, -2.0])),
        ("through", json!([0]), json!([])),
    ] {
        same_metadata(&gateway, model).await;
        let body = json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": shape, "data": data }] });
        let (one, other) =
            (infer(&gateway, model, &body).await, infer(&gateway, &format!("{model}_ort"), &body).await);
        assert_eq!((one.status, other.status), (200, 200), "{}{}", one.error(), other.error());
        let (one, other) = (one.json(), other.json());
        let (outputs, others) = (&one["outputs"], &other["outputs"]);
        for (output, other) in
            outputs.as_array().into_iter().flatten().zip(others.as_array().into_iter().flatten())
        {
            assert_eq!((&output["name"], &output["shape"]), (&other["name"], &other["shape"]), "{model}");
            let numbers = |output: &Value| -> Vec<f64> {
                output["data"].as_array().expect("a list").iter().filter_map(Value::as_f64).collect()
            };
            for (number, other) in numbers(output).into_iter().zip(numbers(other)) {
                assert!((number - other).abs() <= 1e-4 + 1e-3 * other.abs(), "{model}: {output} {other}");
            }
        }
        assert_eq!(outputs.as_array().map(Vec::len), others.as_array().map(Vec::len), "{model}");
    }
    // One of them only is asked for.
    let body = json!({
        "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1], "data": [4.0] }],
        "outputs": [{ "name": "x" }],
    });
    assert_eq!(ok(&infer(&gateway, "through_ort", &body).await), json!([4.0]));
    // Whatever runs it: the library is in no process but the workers.
    let maps = fs::read_to_string("/proc/self/maps").expect("Linux");
    assert!(!maps.contains("onnxruntime.so"), "the gateway has the library loaded");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_datatype_comes_back_as_it_went() {
    let types = [
        ("BOOL", onnx::BOOL, json!([true, false])),
        ("UINT8", onnx::UINT8, json!([0, 255])),
        ("INT8", onnx::INT8, json!([-128, 127])),
        ("UINT16", onnx::UINT16, json!([0, 65535])),
        ("INT16", onnx::INT16, json!([-32768, 32767])),
        ("UINT32", onnx::UINT32, json!([0, u32::MAX])),
        ("INT32", onnx::INT32, json!([i32::MIN, i32::MAX])),
        ("UINT64", onnx::UINT64, json!([0, u64::MAX])),
        ("INT64", onnx::INT64, json!([i64::MIN, i64::MAX])),
        ("FP16", onnx::FLOAT16, json!([0.5, -2.0])),
        ("FP32", onnx::FLOAT, json!([0.25, -2.0])),
        ("FP64", onnx::DOUBLE, json!([0.1, -2.0])),
        ("BYTES", onnx::STRING, json!(["", "größer"])),
    ];
    let mut repository = Repository::default();
    for (name, elem_type, _) in &types {
        repository = twice(repository, name, &onnx::unary("Identity", *elem_type, &["N"]));
    }
    let scalar = onnx::unary("Neg", onnx::FLOAT, &[]);
    let Some(gateway) = serve(twice(repository, "scalar", &scalar)).await else { return };
    for (name, _, data) in types {
        same_metadata(&gateway, name).await;
        let body = json!({ "inputs": [{ "name": "x", "datatype": name, "shape": [2], "data": data }] });
        assert_eq!(ok(&infer(&gateway, &format!("{name}_ort"), &body).await), data, "{name}");
        let body = json!({ "inputs": [{ "name": "x", "datatype": name, "shape": [0], "data": [] }] });
        assert_eq!(ok(&infer(&gateway, &format!("{name}_ort"), &body).await), json!([]), "{name}");
    }
    let body = json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [], "data": [3.0] }] });
    same_metadata(&gateway, "scalar").await;
    assert_eq!(ok(&infer(&gateway, "scalar_ort", &body).await), json!([-3.0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tract_does_not_have_runs_and_what_nobody_has_is_refused() {
    let determinant =
        Graph { outputs: vec![value("y", onnx::FLOAT, &[])], ..onnx::unary("Det", onnx::FLOAT, &["2", "2"]) };
    let dance = onnx::unary("Dance", onnx::FLOAT, &["N"]);
    let repository = twice(twice(Repository::default(), "det", &determinant), "dance", &dance);
    let Some(gateway) = serve(repository).await else { return };
    let matrix = json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 2.0, 3.0, 4.0] }] });
    let determinant = ok(&infer(&gateway, "det_ort", &matrix).await)[0].as_f64().expect("a number");
    assert!((determinant + 2.0).abs() < 1e-5, "{determinant}");
    assert_eq!(infer(&gateway, "det", &matrix).await.status, 503, "tract has no determinant");
    let answer = infer(&gateway, "dance_ort", &matrix).await;
    assert!(answer.status == 503 && answer.error().contains("Dance"), "{}", answer.error());
}

/// Weights of FP64, with which tract has no fast product.
fn slow_on_tract() -> Graph {
    let weights: Vec<u8> =
        (0..160 * 160).flat_map(|index| (f64::from(index % 101) / 50.0 - 1.0).to_le_bytes()).collect();
    Graph {
        nodes: vec![
            node("MatMul", &["x", "w"], &["a"], &[]),
            node("MatMul", &["a", "w"], &["b"], &[]),
            node("ReduceMean", &["b"], &["y"], &[]),
        ],
        inputs: vec![value("x", onnx::DOUBLE, &["N", "160", "160"])],
        outputs: vec![value("y", onnx::DOUBLE, &["1", "1", "1"])],
        initializers: vec![tensor("w", onnx::DOUBLE, &[160, 160], &weights)],
    }
}
