//! The model configuration extension: Triton's form of what a model takes, gives and allows.
//!
//! It is made of the model's own signature and of what its configuration says that matters to callers. What concerns the operator
//! alone (parameters, file names, where it runs) is not in it.

use serde::Serialize;

use crate::{
    name::{ModelName, TenantName, Version},
    repository::{
        FindError, Model, VersionPolicy,
        namespaces::{Namespaces, Wanted},
    },
    tensor::{Datatype, TensorSpec},
};

/// A model as Triton's `ModelConfig` describes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelConfig {
    pub name: String,
    pub platform: &'static str,
    pub backend: &'static str,
    pub version_policy: VersionChoice,
    /// 0: the model takes no batches, and `dims` are whole shapes.
    pub max_batch_size: u64,
    pub input: Vec<TensorConfig>,
    pub output: Vec<TensorConfig>,
    pub model_transaction_policy: TransactionPolicy,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_cache: Option<ResponseCache>,
}

/// A tensor; of a model that takes batches `dims` is its shape without the first dimension.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorConfig {
    pub name: String,
    pub data_type: &'static str,
    pub dims: Vec<i64>,
}

/// Which versions are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionChoice {
    All {},
    Latest { num_versions: usize },
    Specific { versions: Vec<i64> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TransactionPolicy {
    /// A request may have several answers, or none.
    pub decoupled: bool,
}

/// Whether responses are kept; told of models that say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ResponseCache {
    pub enable: bool,
}

/// The configuration of a model, of that version or of the one that answers where none is named.
///
/// # Errors
/// If there is no such model, or it is not ready.
pub fn config(
    models: &Namespaces,
    tenant: &TenantName,
    model: &ModelName,
    version: Option<&Version>,
) -> Result<ModelConfig, FindError> {
    let model = models.find(tenant, model, &Wanted::new(version, None))?;
    let batches = model.batches();
    let signature = model.executor.signature();
    let tensors = |specs: &[TensorSpec]| specs.iter().map(|spec| tensor(spec, batches)).collect();
    let platform = model.executor.platform();
    Ok(ModelConfig {
        name: model.name.to_string(),
        platform,
        backend: if platform == "wasm_component" { "wasm" } else { "onnxruntime" },
        version_policy: choice(&model),
        max_batch_size: model.max_batch_size.filter(|_| batches).unwrap_or(0),
        input: tensors(&signature.inputs),
        output: tensors(&signature.outputs),
        model_transaction_policy: TransactionPolicy { decoupled: model.executor.streams() },
        response_cache: model.response_cache.then_some(ResponseCache { enable: true }),
    })
}

fn tensor(spec: &TensorSpec, batches: bool) -> TensorConfig {
    TensorConfig {
        name: spec.name.clone(),
        data_type: type_name(spec.datatype),
        dims: spec.shape.0.iter().skip(usize::from(batches)).copied().collect(),
    }
}

fn choice(model: &Model) -> VersionChoice {
    match &model.version_policy {
        VersionPolicy::All => VersionChoice::All {},
        VersionPolicy::Latest(count) => VersionChoice::Latest { num_versions: *count },
        // Triton's versions are numbers, and no others can be named in a policy that it reads.
        VersionPolicy::Specific(versions) => VersionChoice::Specific {
            versions: versions.iter().filter_map(|version| version.as_str().parse().ok()).collect(),
        },
    }
}

fn type_name(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "TYPE_BOOL",
        Datatype::Uint8 => "TYPE_UINT8",
        Datatype::Uint16 => "TYPE_UINT16",
        Datatype::Uint32 => "TYPE_UINT32",
        Datatype::Uint64 => "TYPE_UINT64",
        Datatype::Int8 => "TYPE_INT8",
        Datatype::Int16 => "TYPE_INT16",
        Datatype::Int32 => "TYPE_INT32",
        Datatype::Int64 => "TYPE_INT64",
        Datatype::Fp16 => "TYPE_FP16",
        Datatype::Bf16 => "TYPE_BF16",
        Datatype::Fp32 => "TYPE_FP32",
        Datatype::Fp64 => "TYPE_FP64",
        Datatype::Bytes => "TYPE_STRING",
    }
}
