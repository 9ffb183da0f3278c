//! What went wrong in a guest, as the client may read it and as the log keeps it.

use wasmtime::{Error, PoolConcurrencyLimitError, Trap};

use crate::{execute::ExecuteError, limits::SandboxLimits};

use super::{
    limiter::Limiter,
    text::{MAX_ERROR, shown},
};

/// Resource handles that a store may hold. The interface has no resources, so a guest needs none.
pub(super) const MAX_HANDLES: usize = 64;

/// Room beside the tensors for what the engine counts of their records.
const FUEL_SLACK: usize = 64 << 10;

/// Detail kept for the log: the chain of causes and a few frames of the guest's stack.
const MAX_DETAIL: usize = 4 << 10;

/// Bytes that a guest may hand to the gateway in one call: an answer, or the arguments of an import.
pub(super) fn hostcall_fuel(limits: &SandboxLimits) -> usize {
    limits.output_bytes.saturating_add(FUEL_SLACK)
}

pub(super) fn too_large(limits: &SandboxLimits) -> ExecuteError {
    ExecuteError::Output(format!("it is larger than the {} bytes that it may have", limits.output_bytes))
}

/// Sorts the error that ended a guest.
pub(super) fn classify(error: &Error, limiter: &Limiter, limits: &SandboxLimits) -> ExecuteError {
    // What a function of ours ended the guest for.
    if let Some(error) = error.downcast_ref::<ExecuteError>() {
        return error.clone();
    }
    let trap = error.downcast_ref::<Trap>();
    if trap == Some(&Trap::Interrupt) {
        return ExecuteError::Deadline;
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        return ExecuteError::Busy;
    }
    if is_fuel(error) {
        return too_large(limits);
    }
    if limiter.refused() {
        return ExecuteError::Memory { limit_bytes: limits.memory_bytes };
    }
    let reason = match trap {
        Some(Trap::StackOverflow) => {
            format!("the model overflowed its stack of {} bytes", limits.stack_bytes)
        }
        Some(Trap::MemoryOutOfBounds) => "the model accessed memory out of bounds".into(),
        Some(Trap::UnreachableCodeReached) => "the model aborted, for instance by a panic".into(),
        Some(trap) => format!("the model trapped: {}", trap.to_string().trim_start_matches("wasm trap: ")),
        // Not the guest's instructions but what it handed over: pointers, lengths, discriminants, text encoding.
        None => format!("the model broke its interface: {}", shown(&error.root_cause().to_string(), 200)),
    };
    ExecuteError::Trapped { reason, detail: shown(&format!("{error:#}"), MAX_DETAIL) }
}

/// wasmtime keeps the type of this error to itself; its text is all there is.
fn is_fuel(error: &Error) -> bool {
    error.chain().any(|cause| cause.to_string().contains("fuel allocated for hostcalls has been exhausted"))
}

/// A guest's own error text, bounded and without control characters.
pub(super) fn guest_text(text: &str) -> String {
    shown(text, MAX_ERROR)
}
