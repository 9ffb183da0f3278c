//! The types of `wit/inference.wit` as the engine lowers and lifts them, and their way from and to the gateway's own.
//!
//! Tensor bytes move: a request's bytes are copied once into the guest's memory, and an answer's once out of it.

use std::collections::HashSet;

use bytes::Bytes;
use wasmtime::component::{Component, ComponentExportIndex, ComponentType, Lift, Lower};

use crate::{
    execute::NestedError,
    tensor::{self, InferRequest, InferResponse, Shape},
};

/// The package's interfaces, with the version that this gateway implements. wasmtime links any `0.1.x` to it.
pub(super) const LOG: &str = "airlock:inference/log@0.1.1";
pub(super) const MODELS: &str = "airlock:inference/models@0.1.1";
pub(super) const RESPONSES: &str = "airlock:inference/responses@0.1.1";
pub(super) const PLUGIN: &str = "airlock:inference/plugin@0.1.1";

/// Whether an import is the one of [`RESPONSES`], whatever patch version it names.
pub(super) fn is_responses(import: &str) -> bool {
    import.split_once('@').is_some_and(|(name, _)| RESPONSES.split('@').next() == Some(name))
}

#[derive(ComponentType, Lift, Lower, Clone, Copy, Debug)]
#[component(enum)]
#[repr(u8)]
pub(super) enum Datatype {
    #[component(name = "bool")]
    Bool,
    #[component(name = "uint8")]
    Uint8,
    #[component(name = "uint16")]
    Uint16,
    #[component(name = "uint32")]
    Uint32,
    #[component(name = "uint64")]
    Uint64,
    #[component(name = "int8")]
    Int8,
    #[component(name = "int16")]
    Int16,
    #[component(name = "int32")]
    Int32,
    #[component(name = "int64")]
    Int64,
    #[component(name = "fp16")]
    Fp16,
    #[component(name = "bf16")]
    Bf16,
    #[component(name = "fp32")]
    Fp32,
    #[component(name = "fp64")]
    Fp64,
    #[component(name = "bytes")]
    Bytes,
}

#[derive(ComponentType, Lift, Lower, Clone, Debug)]
#[component(variant)]
pub(super) enum Parameter {
    #[component(name = "boolean")]
    Boolean(bool),
    #[component(name = "int64")]
    Int64(i64),
    #[component(name = "uint64")]
    Uint64(u64),
    #[component(name = "double")]
    Double(f64),
    #[component(name = "text")]
    Text(String),
    #[component(name = "json")]
    Json(String),
}

#[derive(ComponentType, Lift, Lower, Clone, Debug)]
#[component(record)]
pub(super) struct Tensor {
    name: String,
    datatype: Datatype,
    shape: Vec<u64>,
    parameters: Vec<(String, Parameter)>,
    data: Bytes,
}

#[derive(ComponentType, Lift, Lower, Clone, Debug)]
#[component(record)]
pub(super) struct TensorSpec {
    name: String,
    datatype: Datatype,
    shape: Vec<i64>,
}

#[derive(ComponentType, Lift, Lower, Clone, Debug)]
#[component(record)]
pub(super) struct Signature {
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
}

#[derive(ComponentType, Lift, Lower, Clone, Debug)]
#[component(variant)]
pub(super) enum GuestError {
    #[component(name = "invalid-input")]
    InvalidInput(String),
    #[component(name = "failed")]
    Failed(String),
}

#[derive(ComponentType, Lift, Lower, Clone, Debug)]
#[component(record)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) data: Bytes,
}

#[derive(ComponentType, Lift, Lower, Clone, Debug)]
#[component(record)]
pub(super) struct Request {
    id: Option<String>,
    parameters: Vec<(String, Parameter)>,
    inputs: Vec<Tensor>,
    outputs: Vec<String>,
}

#[derive(ComponentType, Lift, Lower, Clone, Debug)]
#[component(record)]
pub(super) struct Response {
    parameters: Vec<(String, Parameter)>,
    outputs: Vec<Tensor>,
}

#[derive(ComponentType, Lift, Lower, Clone, Copy, Debug)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "guests make them, by their discriminants")]
pub(super) enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

pub(super) type LoadParams = (Vec<(String, String)>, Vec<File>);
pub(super) type LoadResult = (Result<(), GuestError>,);
pub(super) type InferResult = (Result<Response, GuestError>,);

macro_rules! same_variants {
    ($($variant:ident)*) => {
        impl From<tensor::Datatype> for Datatype {
            fn from(datatype: tensor::Datatype) -> Self {
                match datatype { $(tensor::Datatype::$variant => Self::$variant,)* }
            }
        }

        impl From<Datatype> for tensor::Datatype {
            fn from(datatype: Datatype) -> Self {
                match datatype { $(Datatype::$variant => Self::$variant,)* }
            }
        }
    };
}
same_variants!(Bool Uint8 Uint16 Uint32 Uint64 Int8 Int16 Int32 Int64 Fp16 Bf16 Fp32 Fp64 Bytes);

impl From<tensor::Parameter> for Parameter {
    fn from(parameter: tensor::Parameter) -> Self {
        match parameter {
            tensor::Parameter::Boolean(value) => Self::Boolean(value),
            tensor::Parameter::Int64(value) => Self::Int64(value),
            tensor::Parameter::Uint64(value) => Self::Uint64(value),
            tensor::Parameter::Double(value) => Self::Double(value),
            tensor::Parameter::Text(value) => Self::Text(value),
            tensor::Parameter::Json(value) => Self::Json(value),
        }
    }
}

impl From<Parameter> for tensor::Parameter {
    fn from(parameter: Parameter) -> Self {
        match parameter {
            Parameter::Boolean(value) => Self::Boolean(value),
            Parameter::Int64(value) => Self::Int64(value),
            Parameter::Uint64(value) => Self::Uint64(value),
            Parameter::Double(value) => Self::Double(value),
            Parameter::Text(value) => Self::Text(value),
            Parameter::Json(value) => Self::Json(value),
        }
    }
}

fn parameters_in(parameters: tensor::Parameters) -> Vec<(String, Parameter)> {
    parameters.into_iter().map(|(name, value)| (name, value.into())).collect()
}

/// A guest's parameters. Their names have to be unique and `json` has to be JSON: both are written out as they are.
fn parameters_out(parameters: Vec<(String, Parameter)>) -> Result<tensor::Parameters, Invalid> {
    let mut names = HashSet::with_capacity(parameters.len());
    for (name, value) in &parameters {
        if !names.insert(name.as_str()) {
            return Err(Invalid::Twice(name.chars().take(64).collect()));
        }
        if let Parameter::Json(text) = value
            && serde_json::from_str::<serde::de::IgnoredAny>(text).is_err()
        {
            return Err(Invalid::Json(name.chars().take(64).collect()));
        }
    }
    Ok(parameters.into_iter().map(|(name, value)| (name, value.into())).collect())
}

/// Why a guest's parameters cannot be passed on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Invalid {
    #[error("parameter {0:?} is given twice")]
    Twice(String),
    #[error("parameter {0:?} is not valid JSON")]
    Json(String),
}

impl From<tensor::Tensor> for Tensor {
    fn from(tensor: tensor::Tensor) -> Self {
        Self {
            name: tensor.name,
            datatype: tensor.datatype.into(),
            shape: tensor.shape,
            parameters: parameters_in(tensor.parameters),
            data: tensor.bytes,
        }
    }
}

impl TryFrom<Tensor> for tensor::Tensor {
    type Error = Invalid;

    fn try_from(tensor: Tensor) -> Result<Self, Invalid> {
        Ok(Self {
            name: tensor.name,
            datatype: tensor.datatype.into(),
            shape: tensor.shape,
            parameters: parameters_out(tensor.parameters)?,
            bytes: tensor.data,
        })
    }
}

impl From<InferRequest> for Request {
    fn from(request: InferRequest) -> Self {
        Self {
            id: request.id,
            parameters: parameters_in(request.parameters),
            inputs: request.inputs.into_iter().map(Tensor::from).collect(),
            outputs: request.outputs,
        }
    }
}

impl TryFrom<Response> for InferResponse {
    type Error = Invalid;

    fn try_from(response: Response) -> Result<Self, Invalid> {
        Ok(Self {
            parameters: parameters_out(response.parameters)?,
            outputs: response.outputs.into_iter().map(tensor::Tensor::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl Response {
    pub(super) fn has_no_outputs(&self) -> bool {
        self.outputs.is_empty()
    }

    /// Bytes of all tensors, names, shapes and parameters.
    pub(super) fn bytes(&self) -> usize {
        let parameters = |parameters: &[(String, Parameter)]| -> usize {
            parameters.iter().map(|(name, value)| name.len() + value.bytes()).sum()
        };
        let outputs = self.outputs.iter().map(|output| {
            output.data.len() + output.name.len() + output.shape.len() * 8 + parameters(&output.parameters)
        });
        parameters(&self.parameters) + outputs.sum::<usize>()
    }
}

impl Parameter {
    fn bytes(&self) -> usize {
        match self {
            Self::Boolean(_) => 1,
            Self::Int64(_) | Self::Uint64(_) | Self::Double(_) => 8,
            Self::Text(text) | Self::Json(text) => text.len(),
        }
    }
}

impl From<TensorSpec> for tensor::TensorSpec {
    fn from(spec: TensorSpec) -> Self {
        Self { name: spec.name, datatype: spec.datatype.into(), shape: Shape(spec.shape) }
    }
}

impl From<Signature> for tensor::Signature {
    fn from(signature: Signature) -> Self {
        Self {
            inputs: signature.inputs.into_iter().map(tensor::TensorSpec::from).collect(),
            outputs: signature.outputs.into_iter().map(tensor::TensorSpec::from).collect(),
        }
    }
}

impl From<NestedError> for GuestError {
    fn from(error: NestedError) -> Self {
        match error {
            NestedError::InvalidInput(text) => Self::InvalidInput(text),
            NestedError::Failed(text) => Self::Failed(text),
        }
    }
}

/// Where a component's functions are, found once and used for every instance.
pub(super) struct Exports {
    pub(super) load: ComponentExportIndex,
    pub(super) signature: ComponentExportIndex,
    pub(super) infer: ComponentExportIndex,
}

impl Exports {
    pub(super) fn find(component: &Component) -> Option<Self> {
        let plugin = component.get_export_index(None, PLUGIN)?;
        let function = |name: &str| component.get_export_index(Some(&plugin), name);
        Some(Self { load: function("load")?, signature: function("signature")?, infer: function("infer")? })
    }
}
