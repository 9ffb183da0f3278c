//! ONNX models in the wasm sandbox, by the gateway's own plugin, which `cargo xtask onnx-plugin` builds.
//!
//! Each model takes the gateway some seconds to compile, so there are few of them.

use airlock::{
    config::{Config, ConfigError, Settings},
    execute::Isolation,
    server::{self, StartError},
};
use airlock_tests::{
    gateway::{Gateway, Repository, onnx_plugin},
    onnx::{self, Graph, ints, node, tensor, value},
    store::{Caller, Store},
};
use serde_json::{Value, json};

use crate::hostile_native::{
    deaths::{half, long_above_a_half},
    ok, told,
};

const SANDBOX: &str = "onnx_isolation = \"sandbox\"\n";

fn fp32s(name: &str, shape: &[usize], elements: impl Fn(usize) -> f32) -> Value {
    let count = shape.iter().product();
    let data: Vec<f32> = (0..count).map(elements).collect();
    json!({ "name": name, "datatype": "FP32", "shape": shape, "data": data })
}

/// Weights of FP32 that are not all alike.
fn weights(name: &str, dims: &[u64]) -> Vec<u8> {
    let count: u64 = dims.iter().product();
    let weight = |index: u64| ((index * 37 % 101) as f32 / 50.0 - 1.0).to_le_bytes();
    tensor(name, onnx::FLOAT, dims, &(0..count).flat_map(weight).collect::<Vec<u8>>())
}

/// A small network for images of 16 x 16: two convolutions, a pool, a product and a softmax.
pub fn network() -> Graph {
    let conv = |input: &str, weights: &str, output: &str| {
        node("Conv", &[input, weights], &[output], &[ints("kernel_shape", &[3, 3])])
    };
    Graph {
        nodes: vec![
            conv("x", "w1", "c1"),
            node("Relu", &["c1"], &["r1"], &[]),
            conv("r1", "w2", "c2"),
            node("GlobalAveragePool", &["c2"], &["p"], &[]),
            node("Flatten", &["p"], &["f"], &[]),
            node("MatMul", &["f", "w3"], &["m"], &[]),
            node("Softmax", &["m"], &["y"], &[]),
        ],
        inputs: vec![value("x", onnx::FLOAT, &["N", "1", "16", "16"])],
        outputs: vec![value("y", onnx::FLOAT, &["N", "5"])],
        initializers: vec![
            weights("w1", &[8, 1, 3, 3]),
            weights("w2", &[8, 8, 3, 3]),
            weights("w3", &[8, 5]),
        ],
    }
}

fn images(count: usize) -> Value {
    json!({ "inputs": [fp32s("x", &[count, 1, 16, 16], |index| (index % 13) as f32 / 13.0)] })
}

/// A gateway with the plugin that takes uploads.
async fn with_plugin(store: &Store) -> Gateway {
    Gateway::serve_with(Repository::default(), |settings| {
        settings.store = Some(store.location());
        settings.onnx_plugin = Some(onnx_plugin());
        settings.limits.deadline = Some("20s".parse().expect("a time"));
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_may_ask_for_more_walls_and_not_for_fewer() {
    let store = Store::default();
    let gateway = Gateway::serve_with(Repository::default(), |settings| {
        settings.store = Some(store.location());
        settings.onnx_plugin = Some(onnx_plugin());
        settings.tenant_onnx_isolation = Some(Isolation::Sandbox);
    });
    let gateway = gateway.await;
    let tenant = Caller::anybody(&gateway);
    for isolation in ["process", "none"] {
        let config = format!("onnx_isolation = \"{isolation}\"\n");
        let answer = tenant.put_with("m", "1", &network().file(), &[("config", &config)]).await;
        told(&answer, 422, "model_rejected");
        assert!(answer.error().contains("write sandbox, or leave it out"), "{}", answer.error());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_answers_alike_in_a_worker_and_in_the_sandbox() {
    let store = Store::default();
    let gateway = with_plugin(&store).await;
    let tenant = Caller::anybody(&gateway);
    let file = network().file();
    assert_eq!(tenant.put("m", "1", file.clone()).await.status, 200);
    // A bound on memory, which no worker process would take.
    let config = format!("{SANDBOX}[limits]\nmemory = \"64MiB\"\n");
    let answer = tenant.put_with("m", "2", &file, &[("config", &config)]).await;
    assert_eq!(answer.status, 200, "{}", answer.error());

    let [one, other] = ["1", "2"].map(|version| format!("/v2/models/m/versions/{version}"));
    let (mut one, mut other) = (tenant.get(&one).await.json(), tenant.get(&other).await.json());
    assert_eq!(other["platform"], "onnx_onnxv1");
    for metadata in [&mut one, &mut other] {
        metadata.as_object_mut().expect("an object").remove("versions");
    }
    assert_eq!(one["inputs"], other["inputs"]);
    assert_eq!(one["outputs"], other["outputs"]);

    // A single item is what the snapshot has a plan for, others are planned in the call.
    for count in [1, 3] {
        let mut body = images(count);
        body["parameters"] = json!({ "against": "1", "rtol": 1e-3, "atol": 1e-4 });
        let report = tenant.post("/v2/repository/models/m/versions/2/verify", &body).await.json();
        assert_eq!(report["pass"], true, "{report}");
        assert_eq!(report["outputs"][0]["shape"], json!([count, 5]));
    }
    // The comparison sees differences: in another request's answers there are some.
    let single = ok(&tenant.post("/v2/models/m/versions/2/infer", &images(1)).await);
    let three = ok(&tenant.post("/v2/models/m/versions/2/infer", &images(3)).await);
    assert_ne!(single.as_array().map(|all| &all[..5]), three.as_array().map(|all| &all[5..10]));
}

/// What fails in one run only: an index that is out of bounds panics, a feature above 0.5 makes a product of large matrices, and a
/// column times a row may be larger than memory.
fn fragile() -> Graph {
    let mut nodes = vec![node("Gather", &["v", "i"], &["picked"], &[])];
    nodes.extend(long_above_a_half(2000));
    nodes.extend([
        node("MatMul", &["a", "b"], &["product"], &[]),
        node("ReduceMax", &["product"], &["largest"], &[]),
    ]);
    Graph {
        nodes,
        inputs: vec![
            value("v", onnx::FLOAT, &["3"]),
            value("i", onnx::INT64, &["1"]),
            value("x", onnx::FLOAT, &["1", "1"]),
            value("a", onnx::FLOAT, &["N", "1"]),
            value("b", onnx::FLOAT, &["1", "M"]),
        ],
        outputs: vec![
            value("picked", onnx::FLOAT, &["1"]),
            value("scores", onnx::FLOAT, &["1", "2"]),
            value("largest", onnx::FLOAT, &["1", "1"]),
            // Handed through, which the engine needs a node for.
            value("v", onnx::FLOAT, &["3"]),
        ],
        initializers: half().into(),
    }
}

fn fragile_call(index: i64, feature: f32, length: usize) -> Value {
    json!({ "inputs": [
        fp32s("v", &[3], |index| index as f32),
        { "name": "i", "datatype": "INT64", "shape": [1], "data": [index] },
        fp32s("x", &[1, 1], |_| feature),
        fp32s("a", &[length, 1], |_| 2.0),
        fp32s("b", &[1, length], |_| 3.0),
    ] })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_in_the_sandbox_has_its_answer_and_the_next_call_succeeds() {
    let store = Store::default();
    let gateway = with_plugin(&store).await;
    let tenant = Caller::anybody(&gateway);
    let answer = tenant.put_with("fragile", "1", fragile().file(), &[("config", SANDBOX)]).await;
    assert_eq!(answer.status, 200, "{}", answer.error());
    let path = "/v2/models/fragile/infer";
    let mut endless = fragile_call(1, 0.75, 3);
    endless["parameters"] = json!({ "timeout": 500_000 });
    for (bad, status, code) in [
        (fragile_call(1_000_000, 0.25, 3), 502, "model_failed"),
        (endless, 504, "deadline_exceeded"),
        (fragile_call(1, 0.25, 10_000), 502, "model_memory"),
        (fragile_call(1, 0.25, 40_000), 400, "invalid_input"),
    ] {
        for _ in 0..2 {
            told(&tenant.post(path, &bad).await, status, code);
            let answer = tenant.post(path, &fragile_call(1, 0.25, 3)).await;
            assert_eq!(ok(&answer), json!([1.0]));
            assert_eq!(answer.json()["outputs"][1]["data"], json!([0.25, 0.75]));
            assert_eq!(answer.json()["outputs"][2]["data"], json!([6.0]));
            let handed_through =
                json!({ "name": "v", "datatype": "FP32", "shape": [3], "data": [0.0, 1.0, 2.0] });
            assert_eq!(answer.json()["outputs"][3], handed_through);
        }
    }

    // What cannot be loaded is refused with its reason, by the checks that come before the sandbox or in it.
    let with =
        |op| Graph { nodes: vec![node(op, &["x"], &["y"], &[])], ..onnx::unary("Neg", onnx::FLOAT, &["N"]) };
    let size = (1u64 << 27).to_le_bytes();
    let huge = Graph {
        nodes: vec![node("ConstantOfShape", &["n"], &["c"], &[]), node("Add", &["x", "c"], &["y"], &[])],
        initializers: vec![tensor("n", onnx::INT64, &[1], &size)],
        ..onnx::unary("Neg", onnx::FLOAT, &["1"])
    };
    for (file, part) in [
        (vec![0x08, 0xff], "not an ONNX file"),
        (with("RandomNormalLike").file(), "RandomNormalLike"),
        (with("Dance").file(), "'Dance'"),
        (huge.file(), "; load: "),
    ] {
        let answer = tenant.put_with("m", "1", &file, &[("config", SANDBOX)]).await;
        told(&answer, 422, "model_rejected");
        assert!(answer.error().contains(part), "{part}: {}", answer.error());
    }
    assert_eq!(ok(&tenant.post(path, &fragile_call(2, 0.25, 3)).await), json!([2.0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_the_plugin_says_so() {
    let repository = Repository::default().with("own", "1", "model.onnx", network().file()).with_config(
        "own",
        "model.toml",
        SANDBOX,
    );
    let path = repository.path().to_owned();
    let store = Store::default();
    let gateway = store.serve_with(repository).await;
    let tenant = Caller::anybody(&gateway);
    let answer = tenant.post("/v2/models/own/infer", &images(1)).await;
    assert!(answer.status == 503 && answer.error().contains("--onnx-plugin"), "{}", answer.error());
    let answer = tenant.put_with("m", "1", network().file(), &[("config", SANDBOX)]).await;
    told(&answer, 422, "model_rejected");
    assert!(answer.error().contains("--onnx-plugin"), "{}", answer.error());

    // Said for all models, it is told before anything starts.
    let settings = || Settings {
        model_repository: Some(path.clone()),
        http: Some(([127, 0, 0, 1], 0).into()),
        ..Settings::default()
    };
    let sandbox = Some(Isolation::Sandbox);
    for settings in [
        Settings { onnx_isolation: sandbox, ..settings() },
        Settings { tenant_onnx_isolation: sandbox, ..settings() },
    ] {
        assert!(matches!(Config::try_from(settings), Err(ConfigError::NoOnnxPlugin)));
    }
    let none = Settings { tenant_onnx_isolation: Some(Isolation::None), ..settings() };
    assert!(matches!(Config::try_from(none), Err(ConfigError::TenantOnnxInProcess)));
    for plugin in [path.join("none.wasm"), path.join("own/model.toml")] {
        let settings = Settings { onnx_plugin: Some(plugin), ..settings() };
        let config = Config::try_from(settings).expect("a configuration");
        assert!(matches!(server::start(config).await, Err(StartError::OnnxPlugin { .. })));
    }
}
