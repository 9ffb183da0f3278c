mod hostile;
mod load;
pub mod onnx;
mod run;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::runtime::Runtime;

use crate::{
    execute::{ExecuteError, Executor, LoadError, Source, native::Engine},
    limits::NativeLimits,
    tensor::{Datatype, InferRequest, InferResponse, Tensor},
};

pub use super::measure::call;

use self::onnx::Graph;

fn limits() -> NativeLimits {
    NativeLimits { threads: 2, ..Default::default() }
}

fn load_with(limits: NativeLimits, source: Source) -> Result<Arc<dyn Executor>, LoadError> {
    Engine::new(limits).expect("threads start").load(source)
}

fn load_bytes(artifact: Vec<u8>) -> Result<Arc<dyn Executor>, LoadError> {
    load_with(limits(), Source { artifact, ..Default::default() })
}

fn load(graph: &Graph) -> Arc<dyn Executor> {
    load_bytes(graph.file()).expect("the graph loads")
}

fn refusal(graph: &Graph) -> String {
    load_bytes(graph.file()).expect_err("the graph is refused").to_string()
}

fn tensor(name: &str, datatype: Datatype, shape: &[u64], bytes: impl Into<Vec<u8>>) -> Tensor {
    Tensor {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
        parameters: vec![],
        bytes: Bytes::from(bytes.into()),
    }
}

fn fp32(name: &str, shape: &[u64], values: &[f32]) -> Tensor {
    tensor(name, Datatype::Fp32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

fn int64(name: &str, shape: &[u64], values: &[i64]) -> Tensor {
    tensor(name, Datatype::Int64, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    let (values, rest) = tensor.bytes.as_chunks::<4>();
    assert_eq!(rest, b"", "whole elements");
    values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn run(model: &Arc<dyn Executor>, inputs: Vec<Tensor>) -> Result<InferResponse, ExecuteError> {
    let request = InferRequest { inputs, ..Default::default() };
    runtime().block_on(model.infer(request, call(Duration::from_secs(60))))
}

/// The only output of a run that has to succeed.
fn output(model: &Arc<dyn Executor>, inputs: Vec<Tensor>) -> Tensor {
    let mut outputs = run(model, inputs).expect("the run succeeds").outputs;
    assert_eq!(outputs.len(), 1);
    outputs.remove(0)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime starts")
}
