mod hostile;
mod load;
pub mod onnx;
mod run;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::runtime::Runtime;

use crate::{
    deadline::Deadline,
    execute::{
        BoxFuture, Call, ExecuteError, Executor, LoadError, Models, NestedError, Source, native::Engine,
    },
    limits::NativeLimits,
    tensor::{Datatype, InferRequest, InferResponse, Tensor},
};

use self::onnx::Graph;

struct NoModels;

impl Models for NoModels {
    fn infer<'a>(
        &'a self,
        _: &'a str,
        _: Option<&'a str>,
        _: Vec<Tensor>,
        _: &'a Call,
    ) -> BoxFuture<'a, Result<Vec<Tensor>, NestedError>> {
        Box::pin(async { Err(NestedError::Failed("there are no other models".into())) })
    }
}

pub fn call(deadline: Duration) -> Call {
    Call {
        deadline: Deadline::after(deadline).into(),
        depth: 0,
        consumed: Arc::default(),
        share: Arc::default(),
        log: Arc::default(),
        models: Arc::new(NoModels),
        responses: None,
    }
}

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
