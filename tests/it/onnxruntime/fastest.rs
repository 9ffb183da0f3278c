//! The engine that is measured to be faster, if it answers alike.

use airlock::execute::OnnxEngine;

use super::*;

/// Adds something else in each run, which no two engines agree about.
fn random() -> Graph {
    Graph {
        nodes: vec![
            node("RandomUniform", &[], &["r"], &[onnx::ints("shape", &[128, 128])]),
            node("MatMul", &["x", "r"], &["m"], &[]),
            node("Add", &["m", "r"], &["y"], &[]),
        ],
        ..onnx::unary("Neg", onnx::FLOAT, &["128", "128"])
    }
}

fn fastest(repository: Repository, name: &str, graph: &Graph, more: &str) -> Repository {
    let text = format!("onnx_engine = \"fastest\"\n{more}");
    repository.with(name, "1", "model.onnx", graph.file()).with_config(name, "model.toml", &text)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_faster_one_is_taken_if_it_answers_alike() {
    let Some(settings) = with_library() else { return };
    let small = onnx::unary("Neg", onnx::FLOAT, &["N"]);
    let det =
        Graph { outputs: vec![value("y", onnx::FLOAT, &[])], ..onnx::unary("Det", onnx::FLOAT, &["2", "2"]) };
    let mut repository = fastest(Repository::default(), "slow", &slow_on_tract(), "");
    repository = fastest(repository, "here", &slow_on_tract(), "onnx_isolation = \"none\"\n");
    repository = fastest(repository, "worker", &slow_on_tract(), "onnx_isolation = \"process\"\n");
    repository = fastest(repository, "small", &small, "");
    repository = fastest(repository, "random", &random(), "");
    repository = fastest(repository, "det", &det, "");
    let batching = "max_batch_size = 4\n[dynamic_batching]\n";
    repository = fastest(repository, "batched", &small, batching);
    // What the operator says for all models does not hold for one that says otherwise.
    repository = repository.with("default", "1", "model.onnx", slow_on_tract().file());
    repository = repository.with("own", "1", "model.onnx", slow_on_tract().file()).with_config(
        "own",
        "model.toml",
        "onnx_engine = \"tract\"\n",
    );
    let gateway = Gateway::serve_with(repository, |chosen| {
        let model_repository = chosen.model_repository.take();
        *chosen = Settings { model_repository, onnx_engine: Some(OnnxEngine::Fastest), ..settings };
    })
    .await;
    for (model, expected) in [
        ("slow", "onnxruntime_onnx"),
        ("worker", "onnxruntime_onnx"),
        ("default", "onnxruntime_onnx"),
        ("here", "onnx_onnxv1"),
        ("own", "onnx_onnxv1"),
        ("small", "onnx_onnxv1"),
        ("random", "onnx_onnxv1"),
        ("batched", "onnx_onnxv1"),
    ] {
        assert_eq!(platform(&gateway, model).await, expected, "{model}");
    }
    // Without tract there is nothing to compare with.
    let one = json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1], "data": [1.0] }] });
    let answer = infer(&gateway, "det", &one).await;
    assert!(answer.status == 503 && answer.error().contains("'Det'"), "{}", answer.error());
    assert_eq!(ok(&infer(&gateway, "small", &one).await), json!([-1.0]));
    let ones = json!({ "inputs": [
        { "name": "x", "datatype": "FP64", "shape": [1, 160, 160], "data": vec![1.0; 160 * 160] }
    ] });
    let [here, there] = [infer(&gateway, "here", &ones).await, infer(&gateway, "slow", &ones).await]
        .map(|answer| ok(&answer)[0].as_f64().expect("a number"));
    assert!((here - there).abs() <= 1e-6 * here.abs(), "{here} {there}");
}
