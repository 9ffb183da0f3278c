//! The ONNX engine as Airlock uses it, tract with operators of our own: those that it lacks, and those that we have better.
//!
//! The gateway runs it natively, and in the wasm sandbox as part of its plugin for ONNX models: both forms of a model are to
//! answer the same.

mod attributes;
mod branch;
mod conv;
pub mod file;
mod gemm;
mod kernel;
mod linear;
mod operator;
mod quantised;
mod rows;
pub mod spare;
#[cfg(test)]
mod testing;
mod transform;
mod trees;

use tract_onnx::{
    Onnx,
    prelude::{TractResult, TypedModel},
};

/// The engine with our operators, and with the settings under which it parses every file.
pub fn engine() -> Onnx {
    let mut onnx = tract_onnx::onnx()
        // Exporters leave stale shapes behind; what the operators say is the truth.
        .with_ignore_output_shapes(true)
        .with_ignore_output_types(true)
        .with_ignore_value_info(true);
    register(&mut onnx);
    onnx
}

/// Adds our operators to the engine's, in place of its own where both have one.
pub fn register(onnx: &mut Onnx) {
    branch::register(onnx);
    linear::register(onnx);
    quantised::register(onnx);
    rows::register(onnx);
    trees::register(onnx);
}

/// Optimises a graph of concrete shapes: by our rules, then by the engine's.
pub fn optimise(typed: TypedModel) -> TractResult<TypedModel> {
    conv::rewrite(&typed)?.into_optimized()
}
