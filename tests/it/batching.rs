//! Dynamic batching through the door: right answers, fewer runs than requests, and each call in the statistics.

use airlock_tests::{
    client::{get, post},
    gateway::{Gateway, Repository},
};
use serde_json::{Value, json};

use crate::onnx_sandbox::network;

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_run_together_and_each_gets_its_own_answer() {
    let config = "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 20000 }";
    let repository = Repository::default()
        .with("batched", "1", "model.onnx", network().file())
        .with_config("batched", "config.pbtxt", config)
        .with("alone", "1", "model.onnx", network().file());
    let gateway = Gateway::serve(repository).await;
    let at = gateway.address();
    let request = |rows: u64, first: u64| {
        let data: Vec<f64> = (0..rows * 256).map(|index| ((index * 7 + first) % 11) as f64 / 11.0).collect();
        json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [rows, 1, 16, 16], "data": data }] })
    };
    let values = |answer: &Value| -> Vec<f64> {
        let data = answer["outputs"][0]["data"].as_array().expect("data");
        data.iter().map(|value| value.as_f64().expect("a number")).collect()
    };
    let requests: Vec<Value> = (0..24).map(|number| request(1 + number % 3, number)).collect();
    let mut alone = Vec::new();
    for request in &requests {
        alone.push(values(&post(at, "/v2/models/alone/infer", request).await.json()));
    }
    let calls: Vec<_> = requests
        .iter()
        .map(|request| {
            let request = request.clone();
            tokio::spawn(async move { post(at, "/v2/models/batched/infer", &request).await })
        })
        .collect();
    for (call, alone) in calls.into_iter().zip(&alone) {
        let answer = call.await.expect("no panic");
        assert_eq!(answer.status, 200, "{}", answer.error());
        let batched = values(&answer.json());
        assert_eq!(batched.len(), alone.len());
        assert!(batched.iter().zip(alone).all(|(a, b)| (a - b).abs() <= 1e-5), "{batched:?} {alone:?}");
    }
    let stats = get(at, "/v2/models/batched/stats").await.json()["model_stats"][0].clone();
    assert_eq!(stats["inference_stats"]["success"]["count"], 24);
    assert_eq!(stats["inference_count"], 48);
    let executions = stats["execution_count"].as_u64().expect("a count");
    assert!((6..24).contains(&executions), "{executions}");
    let batches = stats["batch_stats"].as_array().expect("a list");
    let sum: u64 =
        batches.iter().map(|batch| batch["compute_infer"]["count"].as_u64().expect("a count")).sum();
    assert_eq!(sum, executions);
    assert!(batches.iter().all(|batch| batch["batch_size"].as_u64().is_some_and(|size| size <= 8)));
}
