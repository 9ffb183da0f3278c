//! Compiled code becomes runnable here, and nowhere else.
#![allow(unsafe_code, reason = "running compiled machine code cannot be checked by the compiler")]

use wasmtime::{Engine, component::Component};

use crate::execute::{LoadError, Report, Step};

/// A component's machine code, and what was found when it was made.
#[derive(Debug)]
pub(in crate::execute) struct Prepared {
    pub(in crate::execute) report: Report,
    code: Vec<u8>,
}

impl Prepared {
    /// For code that our own compiler wrote, and for no other: the answer of a worker, which is this very program, or an entry
    /// of the cache whose tag was found valid.
    pub(in crate::execute) fn trusted(report: Report, code: Vec<u8>) -> Self {
        Self { report, code }
    }

    pub(super) fn code(&self) -> &[u8] {
        &self.code
    }
}

/// Maps the machine code of a prepared component. The engine checks that version, settings and processor features are
/// its own; the code itself is trusted.
pub(super) fn map(engine: &Engine, prepared: &Prepared) -> Result<Component, LoadError> {
    // SAFETY: `deserialize` runs whatever machine code it is given, so the bytes must come from our own compiler unaltered.
    // `Prepared::trusted` has two callers: `worker`, which takes them from a process of this same program through a folder
    // that only this user can enter, with the digest that the worker announced; and `cache`, which takes them from a file
    // with a tag that only who holds the gateway's secret can make, for exactly this source and these settings. Nothing
    // else is accepted, from a client or a store least of all. Who runs as the gateway's own user can do anything anyway.
    let component = unsafe { Component::deserialize(engine, prepared.code()) };
    component.map_err(|error| LoadError::new(Step::Compile, format_args!("{error:#}")))
}
