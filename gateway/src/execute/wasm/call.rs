//! One request: a new store, a new instance, one call, and nothing of it left.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{
    Store, UpdateDeadline,
    component::{ComponentExportIndex, Instance, InstancePre, TypedFunc},
};

use crate::{
    deadline::Deadline,
    execute::{
        BoxFuture, Call, ExecuteError, Executor,
        schedule::{Habit, Lost},
    },
    limits::SandboxLimits,
    tensor::{InferRequest, InferResponse, Signature},
};

use super::{
    Sandbox,
    bindings::{GuestError, InferResult, Request, Response},
    engine::TICK,
    fault,
    host::Guest,
    responses::Outgoing,
};

/// A loaded model, ready to be instantiated.
pub(super) struct Model {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) instance: InstancePre<Guest>,
    pub(super) infer: ComponentExportIndex,
    /// Its type was found to be the one that is called.
    pub(super) infer_fits: OnceLock<()>,
    pub(super) signature: Signature,
    pub(super) label: Arc<str>,
    /// It is an ONNX model, and the component the plugin that runs it.
    pub(super) is_onnx: bool,
    /// It imports what it takes to give several responses.
    pub(super) streams: bool,
    pub(super) compiled_bytes: u64,
    /// The sandbox's, or less.
    pub(super) limits: SandboxLimits,
    pub(super) habit: Habit,
}

/// The executor of one version of a model.
pub(super) struct WasmModel(pub(super) Arc<Model>);

impl std::fmt::Debug for WasmModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WasmModel").field("label", &self.0.label).finish_non_exhaustive()
    }
}

impl Executor for WasmModel {
    fn signature(&self) -> &Signature {
        &self.0.signature
    }

    fn streams(&self) -> bool {
        self.0.streams
    }

    fn platform(&self) -> &'static str {
        if self.0.is_onnx { "onnx_onnxv1" } else { "wasm_component" }
    }

    /// The code with its image of memory, and the copy of that image which instances share.
    fn loaded_bytes(&self) -> u64 {
        self.0.compiled_bytes.saturating_mul(2)
    }

    fn infer(&self, request: InferRequest, call: Call) -> BoxFuture<'_, Result<InferResponse, ExecuteError>> {
        Box::pin(async move {
            let slots = self.0.sandbox.slots.clone();
            let slot = slots.try_acquire_owned().map_err(|_| ExecuteError::Busy)?;
            let deadline = call.deadline.clone();
            let (consumed, share) = (Arc::clone(&call.consumed), Arc::clone(&call.share));
            let nested = call.depth > 0;
            let run = run(self.0.clone(), request, call, slot);
            let run = self.0.sandbox.schedule.run(&share, &self.0.habit, nested, consumed, run);
            // The guest sees its deadline when it gets a turn; the caller's answer does not wait for that.
            tokio::select! {
                biased;
                ran = run => ran.unwrap_or_else(|Lost| Err(engine_failed())),
                () = deadline.passed() => Err(ExecuteError::Deadline),
            }
        })
    }
}

fn engine_failed() -> ExecuteError {
    ExecuteError::Trapped {
        reason: "the gateway failed to run the model".into(),
        detail: "the run panicked, or the gateway is stopping".into(),
    }
}

/// Runs as a fiber that yields at every tick.
async fn run(
    model: Arc<Model>,
    request: InferRequest,
    call: Call,
    slot: OwnedSemaphorePermit,
) -> Result<InferResponse, ExecuteError> {
    let limits = &model.limits;
    let deadline = call.deadline.clone();
    let begun = Instant::now();
    if deadline.now().passed_at(begun) {
        return Err(ExecuteError::Deadline);
    }
    let outgoing = Outgoing::new(&model, request.outputs.clone());
    let guest = Guest::serving(&model.label, limits, call, outgoing);
    let mut store = Store::new(&model.sandbox.engine, guest);
    store.limiter(|guest| &mut guest.limiter);
    store.set_hostcall_fuel(fault::hostcall_fuel(limits));
    store.set_max_component_handles(fault::MAX_HANDLES);
    // Set before instantiation: a store starts with a deadline that has passed.
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| Ok(at_tick(begun, Instant::now(), deadline.now())));
    let answer = infer(&model, &mut store, request.into()).await;
    let answer = answer.map_err(|error| fault::classify(&error, &store.data().limiter, limits));
    let outgoing = store.data_mut().outgoing.take().ok_or_else(engine_failed)?;
    drop(store);
    drop(slot);
    match answer? {
        Ok(response) => outgoing.last(response),
        Err(GuestError::InvalidInput(text)) => Err(ExecuteError::InvalidInput(fault::guest_text(&text))),
        Err(GuestError::Failed(text)) => Err(ExecuteError::Failed(fault::guest_text(&text))),
    }
}

/// A run that is younger than this goes on at a tick. Most runs take less, and moving to another thread would cost them more than all of
/// their work. A first turn takes at most a tick and this.
const YOUNG: Duration = Duration::from_micros(100);
const _: () = assert!(YOUNG.as_nanos() < TICK.as_nanos(), "at the next tick it is not young any more");

/// What becomes of a run at a tick.
fn at_tick(begun: Instant, now: Instant, deadline: Deadline) -> UpdateDeadline {
    if deadline.passed_at(now) {
        UpdateDeadline::Interrupt
    } else if now.saturating_duration_since(begun) < YOUNG {
        UpdateDeadline::Continue(1)
    } else {
        UpdateDeadline::Yield(1)
    }
}

async fn infer(
    model: &Model,
    store: &mut Store<Guest>,
    request: Request,
) -> wasmtime::Result<Result<Response, GuestError>> {
    let instance = model.instance.instantiate_async(&mut *store).await?;
    let infer = typed(model, instance, store)?;
    Ok(infer.call_async(store, (request,)).await?.0)
}

/// The function of an instance. Its type is compared once, with the first instance: for a small request that takes a tenth
/// of all that its instance costs.
fn typed(
    model: &Model,
    instance: Instance,
    store: &mut Store<Guest>,
) -> wasmtime::Result<TypedFunc<(Request,), InferResult>> {
    if model.infer_fits.get().is_none() {
        let infer = instance.get_typed_func(&mut *store, model.infer)?;
        let _ = model.infer_fits.set(());
        return Ok(infer);
    }
    let function = instance.get_func(store, model.infer);
    let function = function.ok_or_else(|| wasmtime::Error::msg("a function is missing"))?;
    #[expect(unsafe_code, reason = "the engine cannot know that this was compared")]
    // SAFETY: the type of a component's export is the component's, not the instance's. Both, and so this index, are the
    // model's own and never change; `infer_fits` was set when the same function was found to have this type.
    let infer = unsafe { TypedFunc::new_unchecked(function) };
    Ok(infer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_a_tick_the_young_go_on_the_old_give_way_and_the_late_end() {
        let begun = Instant::now();
        let at = |micros: u64, deadline: u64| {
            let after = |micros| begun + Duration::from_micros(micros);
            match at_tick(begun, after(micros), Deadline::at(after(deadline))) {
                UpdateDeadline::Continue(1) => "goes on",
                UpdateDeadline::Yield(1) => "gives way",
                UpdateDeadline::Interrupt => "ends",
                _ => "something else",
            }
        };
        assert_eq!((at(0, 1000), at(99, 1000)), ("goes on", "goes on"));
        assert_eq!((at(100, 1000), at(999, 1000)), ("gives way", "gives way"));
        assert_eq!((at(1000, 1000), at(5000, 1000)), ("ends", "ends"));
        // However young it is.
        assert_eq!(at(10, 10), "ends");
    }
}
