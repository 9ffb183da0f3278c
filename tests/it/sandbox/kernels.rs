//! The guest SDK's kernels in a real guest, the example plugin `matmul`.

use std::{fs, sync::Arc, time::Duration};

use airlock::{
    execute::{ExecuteError, Executor},
    tensor::{InferRequest, InferResponse, Parameter, Tensor},
};
use airlock_tests::gateway::examples;
use tokio::time::timeout;

use super::{PATIENCE, call, fp32, load_into, source, values};

async fn matmul() -> Arc<dyn Executor> {
    let path = examples().join("matmul/1/model.wasm");
    let artifact = fs::read(path).expect("the example models are missing: run `cargo xtask guests`");
    load_into(super::sandbox(), source(artifact)).await.expect("it loads")
}

/// `[rows,columns]` of multiples of 1/8 whose products have exact sums.
fn matrix(name: &str, rows: usize, columns: usize) -> Tensor {
    let elements: Vec<f32> = (0..rows * columns).map(|at| (at * 37 % 31) as f32 / 8.0 - 2.0).collect();
    Tensor { name: name.into(), shape: vec![rows as u64, columns as u64], ..fp32(&elements) }
}

async fn product(
    model: &Arc<dyn Executor>,
    [m, k, n]: [usize; 3],
    repetitions: i64,
    time: Duration,
) -> Result<InferResponse, ExecuteError> {
    let request = InferRequest {
        parameters: vec![("repetitions".into(), Parameter::Int64(repetitions))],
        inputs: vec![matrix("A", m, k), matrix("B", k, n)],
        ..InferRequest::default()
    };
    model.infer(request, call(time)).await
}

fn elements(tensor: &Tensor) -> Vec<f32> {
    tensor.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn naive([m, k, n]: [usize; 3]) -> Vec<f32> {
    let (a, b) = (elements(&matrix("A", m, k)), elements(&matrix("B", k, n)));
    let cells = (0..m).flat_map(|row| (0..n).map(move |column| (row, column)));
    cells.map(|(row, column)| (0..k).map(|step| a[row * k + step] * b[step * n + column]).sum()).collect()
}

#[tokio::test]
async fn a_product_in_a_guest_is_the_naive_one() {
    let model = matmul().await;
    // Rows that fill a tile and that do not, one to three rows, whole and broken blocks of steps, more than are laid out
    // at once, columns that fill registers and that do not, and nothing at all.
    for m in [0, 1, 2, 3, 4, 5, 6, 7, 200] {
        for (k, n) in [(0, 3), (1, 1), (4, 8), (15, 9), (16, 16), (17, 23), (300, 13)] {
            let shape = [m, k, n];
            let response = product(&model, shape, 2, PATIENCE).await.expect("it answers");
            assert_eq!(response.outputs[0].shape, [m as u64, n as u64]);
            assert_eq!(values(&response), naive(shape), "{shape:?}");
        }
    }
}

#[tokio::test]
async fn products_without_end_stop_at_their_deadline() {
    let model = matmul().await;
    for shape in [[64, 64, 64], [1, 500, 500]] {
        let endless = product(&model, shape, i64::MAX, Duration::from_millis(200));
        let error = timeout(PATIENCE, endless).await.expect("it is interrupted").expect_err("it never ends");
        assert!(matches!(error, ExecuteError::Deadline), "{error:?}");
        product(&model, shape, 1, PATIENCE).await.expect("the next one answers");
    }
}
