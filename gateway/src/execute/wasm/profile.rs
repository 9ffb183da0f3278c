//! The admissible-component profile: what a guest may consist of, checked before any of it is compiled.
//!
//! It keeps out what an inference guest does not need (most of what engines had advisories about), what compiling would
//! take too long over, and what a snapshot cannot keep. It does not bound the time that compiling takes: a component within all
//! these bounds can still keep the compiler busy for seconds.

mod body;
mod structure;
mod world;

use std::fmt::Display;

use wasmparser::{Validator, WasmFeatures};

use crate::{
    execute::{LoadError, Step},
    limits::SandboxLimits,
};

use super::text::shown;
pub(super) use world::plugin_patch;

/// What kind of artifact was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Component,
    /// A core module that carries its component type, as a linker makes it for `wasm32-unknown-unknown`.
    CoreModule,
}

/// The features that compilers use by default and kernels need; everything else is refused.
const FEATURES: WasmFeatures = WasmFeatures::WASM2
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::BULK_MEMORY_OPT)
    .union(WasmFeatures::CALL_INDIRECT_OVERLONG)
    .union(WasmFeatures::COMPONENT_MODEL);

/// Functions of the plugin for ONNX models.
const MAX_OWN_FUNCTIONS: u64 = 100_000;

/// Checks an artifact against the profile.
///
/// # Errors
/// A [`LoadError`] of the step `check`, whose reason names the offending import, feature or bound and what to do.
pub fn check(artifact: &[u8], limits: &SandboxLimits) -> Result<Form, LoadError> {
    admit(artifact, limits, structure::MAX_FUNCTIONS)
}

/// Checks the gateway's own plugin for ONNX models, which carries a whole engine: it may be larger than what others make, and is
/// held to everything else.
pub(super) fn check_own(artifact: &[u8], limits: &SandboxLimits) -> Result<Form, LoadError> {
    let limits = SandboxLimits { max_artifact_bytes: usize::MAX, ..limits.clone() };
    admit(artifact, &limits, MAX_OWN_FUNCTIONS)
}

fn admit(artifact: &[u8], limits: &SandboxLimits, max_functions: u64) -> Result<Form, LoadError> {
    if artifact.len() > limits.max_artifact_bytes {
        return Err(refuse(format_args!(
            "it is {} bytes long, at most {} are admitted",
            artifact.len(),
            limits.max_artifact_bytes
        )));
    }
    let form = form(artifact)?;
    let outline = structure::check(artifact, form, limits, max_functions)?;
    let types =
        Validator::new_with_features(FEATURES).validate_all(artifact).map_err(|error| invalid(&error))?;
    match form {
        Form::Component => world::check(types.as_ref(), &outline)?,
        Form::CoreModule => world::check_core_imports(&outline)?,
    }
    Ok(form)
}

fn form(artifact: &[u8]) -> Result<Form, LoadError> {
    const MODULE: &[u8] = b"\0asm\x01\0\0\0";
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
    if artifact.starts_with(COMPONENT) {
        return Ok(Form::Component);
    }
    if artifact.starts_with(MODULE) {
        return Ok(Form::CoreModule);
    }
    let text = artifact.trim_ascii_start();
    Err(refuse(if artifact.is_empty() {
        "it is empty"
    } else if artifact.starts_with(b"\x7fELF") {
        "it is precompiled machine code (ELF), which is never accepted: give the WebAssembly component it was made from"
    } else if text.starts_with(b"(") || text.starts_with(b";;") {
        "it is WebAssembly text: convert it to the binary format (wasm-tools parse)"
    } else if artifact.starts_with(b"\0asm") {
        "it is WebAssembly of an unknown version: build a component or a core module of version 1"
    } else {
        "it is not WebAssembly: it does not begin with \\0asm"
    }))
}

fn refuse(reason: impl Display) -> LoadError {
    LoadError::new(Step::Check, reason)
}

/// wasmparser names what is wrong and where, and for a proposal that is not admitted its name.
fn invalid(error: &wasmparser::BinaryReaderError) -> LoadError {
    refuse(format_args!("it is not valid: {}", shown(&error.to_string(), 300)))
}
