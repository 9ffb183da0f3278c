//! Compiled code becomes runnable here, and nowhere else.
#![allow(unsafe_code, reason = "running compiled machine code cannot be checked by the compiler")]

use wasmtime::{Engine, component::Component};

use crate::execute::{LoadError, Step};

use super::prepare::Prepared;

/// Maps the machine code of a prepared component. The engine checks that version, settings and processor features are
/// its own; the code itself is trusted.
pub(super) fn map(engine: &Engine, prepared: &Prepared) -> Result<Component, LoadError> {
    // SAFETY: `deserialize` runs whatever machine code it is given, so the bytes must come from this engine's compiler
    // unaltered. `Prepared` has no other source than `prepare`, which compiles in this process, and its code is neither
    // read from a file nor accepted from anyone.
    let component = unsafe { Component::deserialize(engine, prepared.compiled()) };
    component.map_err(|error| LoadError::new(Step::Compile, format_args!("{error:#}")))
}
