//! The two engines for ONNX models: which of them runs a model, and where.
//!
//! tract needs nothing and may run in the gateway's own process. ONNX Runtime is a library that the operator names, and runs
//! in worker processes only: no setting makes the gateway itself load it.

use std::{path::PathBuf, sync::Arc};

use prost::Message;
use tract_onnx::pb::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension::Value as Dim},
    type_proto::{Tensor, Value},
};

use crate::execute::{Executor, Isolation, LoadError, OnnxEngine, Source, Step};

use super::{
    Engine, Isolated,
    measure::{Times, measure},
    process::OF_LIBRARY,
};

/// What runs ONNX models natively.
#[derive(Debug)]
pub struct Engines {
    engine: Arc<Engine>,
    isolated: Arc<Isolated>,
    /// The library of ONNX Runtime, if the operator has it.
    library: Option<PathBuf>,
    /// The engine of the operator's models that do not say which they want.
    default: OnnxEngine,
    /// Whether models of tenants may run on ONNX Runtime.
    for_tenants: bool,
}

impl Engines {
    pub fn new(
        engine: Arc<Engine>,
        isolated: Arc<Isolated>,
        library: Option<PathBuf>,
        default: OnnxEngine,
        for_tenants: bool,
    ) -> Self {
        Self { engine, isolated, library, default, for_tenants }
    }

    /// Has a worker load the library, and with it a model of one node. Blocks for as long as that takes.
    ///
    /// # Errors
    /// What is wrong with the library; without one nothing is.
    pub fn check_library(&self) -> Result<(), LoadError> {
        if self.library.is_none() {
            return Ok(());
        }
        let source =
            Source { label: "onnxruntime".into(), artifact: one_node().encode_to_vec(), ..Source::default() };
        self.on_onnx_runtime(source).map(drop).map_err(|mut error| {
            if let Some(reason) = error.reason.strip_prefix(OF_LIBRARY) {
                error.reason = reason.to_owned();
            }
            error
        })
    }

    /// Loads an ONNX model to run natively. Blocks for as long as that takes.
    pub fn load(&self, source: Source, isolation: Isolation) -> Result<Arc<dyn Executor>, LoadError> {
        match self.choose(&source, isolation)? {
            OnnxEngine::Tract => self.on_tract(source, isolation),
            OnnxEngine::OnnxRuntime => {
                if source.batching.is_some() && isolation == Isolation::None {
                    tracing::info!(
                        model = source.label,
                        "dynamic_batching makes no difference: it is for tract"
                    );
                }
                self.on_onnx_runtime(source)
            }
            OnnxEngine::Fastest => self.fastest(source, isolation),
        }
    }

    /// The engine that the model's configuration or the operator asks for, if it may run there. `Fastest` is what may be
    /// measured: where only one of them may run the model, that is tract.
    pub fn choose(&self, source: &Source, isolation: Isolation) -> Result<OnnxEngine, LoadError> {
        let is_tenant_s = source.owner.is_some();
        let default = if is_tenant_s { OnnxEngine::Tract } else { self.default };
        let wanted = source.engine.unwrap_or(default);
        let missing = if is_tenant_s && !self.for_tenants {
            "on this gateway uploaded models run on tract: write tract, or leave it out"
        } else if self.library.is_none() {
            "this gateway has no ONNX Runtime: its operator starts it with --onnxruntime FILE, or write tract"
        } else if isolation == Isolation::Sandbox {
            "the sandbox has tract alone: write tract, or onnx_isolation = \"process\""
        } else if source.isolation == Some(Isolation::None) {
            "onnxruntime runs in worker processes only: leave onnx_isolation out, or write process"
        } else {
            return Ok(wanted);
        };
        match wanted {
            OnnxEngine::OnnxRuntime => Err(LoadError::new(Step::Read, format!("onnx_engine: {missing}"))),
            OnnxEngine::Fastest => {
                tracing::info!(
                    model = source.label,
                    reason = missing,
                    "onnx_engine: not measured, tract runs it"
                );
                Ok(OnnxEngine::Tract)
            }
            OnnxEngine::Tract => Ok(OnnxEngine::Tract),
        }
    }

    fn on_tract(&self, source: Source, isolation: Isolation) -> Result<Arc<dyn Executor>, LoadError> {
        match isolation {
            Isolation::None => self.engine.load(source),
            _ => self.isolated.load(source, None),
        }
    }

    fn on_onnx_runtime(&self, source: Source) -> Result<Arc<dyn Executor>, LoadError> {
        self.isolated.load(source, self.library.clone())
    }

    /// tract where it would run, and ONNX Runtime if it is as right and faster, by what a caller would wait.
    fn fastest(&self, source: Source, isolation: Isolation) -> Result<Arc<dyn Executor>, LoadError> {
        let label = source.label.clone();
        let stays = |reason: &str| tracing::info!(model = label, reason, "onnx_engine: tract runs it");
        let is_tenant_s = source.owner.is_some();
        let tract = self.on_tract(source.clone(), isolation).map_err(|error| {
            // Of tenants, tract has to know the operators in any case.
            if is_tenant_s || error.transient {
                return error;
            }
            let other = "on tract; ONNX Runtime may run it: onnx_engine = \"onnxruntime\"";
            LoadError { reason: format!("{} ({other})", error.reason), ..error }
        })?;
        if source.batching.is_some() && isolation == Isolation::None {
            stays("its requests run together, which they do not in a worker process");
            return Ok(tract);
        }
        let other = match self.on_onnx_runtime(source) {
            Ok(other) => other,
            Err(error) => {
                stays(&error.to_string());
                return Ok(tract);
            }
        };
        match measure(&*tract, &*other) {
            Ok(Times { tract: tract_takes, onnx_runtime: other_takes, faster }) => {
                let engine = if faster { "onnxruntime" } else { "tract" };
                tracing::info!(model = label, engine, tract = ?tract_takes, onnxruntime = ?other_takes, "onnx_engine: measured");
                Ok(if faster { other } else { tract })
            }
            Err(reason) => {
                stays(&reason);
                Ok(tract)
            }
        }
    }
}

/// An `Identity` of one number.
fn one_node() -> ModelProto {
    let shape =
        TensorShapeProto { dim: vec![Dimension { value: Some(Dim::DimValue(1)), ..Dimension::default() }] };
    let tensor = Tensor { elem_type: DataType::Float as i32, shape: Some(shape) };
    let port = |name: &str| ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto { value: Some(Value::TensorType(tensor.clone())), ..TypeProto::default() }),
        ..ValueInfoProto::default()
    };
    let node = NodeProto {
        op_type: "Identity".into(),
        input: vec!["x".into()],
        output: vec!["y".into()],
        ..NodeProto::default()
    };
    let graph = GraphProto {
        name: "one node".into(),
        node: vec![node],
        input: vec![port("x")],
        output: vec![port("y")],
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}
