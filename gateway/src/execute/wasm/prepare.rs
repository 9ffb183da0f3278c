//! From an artifact's bytes to compiled code that starts from the loaded state.
//!
//! Bytes in, bytes out: nothing is shared with the serving side but the settings, because this work is done in a process of
//! its own.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wasmtime::{
    Engine, Store, UpdateDeadline,
    component::{Component, Instance, InstancePre},
};
use wasmtime_wizer::Wizer;

use crate::{
    execute::{ExecuteError, LoadError, Source, Step},
    limits::SandboxLimits,
    tensor::Signature,
};

use super::{
    bindings::{self, File, GuestError, LoadParams, LoadResult},
    componentize::componentize,
    direct::direct,
    engine::{self, Memories},
    fault,
    host::{self, Guest},
    profile::{self, Form},
    signature,
    snapshot::{self, HEADROOM},
    text::{MAX_ERROR, shown},
};

/// What a serving engine needs to run a model, and what there is to tell of it.
#[derive(Debug)]
pub(in crate::execute) struct Compiled {
    pub(in crate::execute) code: Vec<u8>,
    pub(in crate::execute) signature: Signature,
    pub(in crate::execute) form: Form,
    pub(in crate::execute) imports: Vec<String>,
}

/// Settings that the serving side and this one have to agree on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::execute) struct Settings {
    pub(in crate::execute) limits: SandboxLimits,
    pub(in crate::execute) memories: Memories,
}

/// Checks, componentizes, loads, snapshots and compiles a model, and says at which step it is. Blocks for as long as that
/// takes.
///
/// # Errors
/// The step that refused it, with the reason. Panics of the tools that take components apart become such errors too.
pub(in crate::execute) fn prepare(
    settings: &Settings,
    source: Source,
    step: &mut dyn FnMut(Step),
) -> Result<Compiled, LoadError> {
    catch_unwind(AssertUnwindSafe(|| run(settings, source, step))).unwrap_or_else(|panic| {
        let reason = shown(panic_text(&*panic), MAX_ERROR);
        Err(LoadError::new(Step::Snapshot, format_args!("its shape is not supported ({reason})")))
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given")
}

fn run(settings: &Settings, source: Source, step: &mut dyn FnMut(Step)) -> Result<Compiled, LoadError> {
    let limits = &settings.limits;
    step(Step::Check);
    let (form, component) = component(source.artifact, source.artifact_is_plugin, limits)?;

    // Loading runs once and must not depend on address space: on-demand memories, whatever serves.
    let loader = match source.artifact_is_plugin {
        // It is large, runs once as it is now, and is compiled again with its model.
        true => engine::compiling_quickly(limits)?,
        false => engine::compiling(limits, Memories::OnDemand)?,
    };
    // Said before the ticker is there, which shows from outside how far the worker is.
    step(Step::Snapshot);
    engine::start_ticker(&loader, || ())?;
    let (context, instrumented) =
        Wizer::new().keep_init_func(true).instrument_component(&component).map_err(|error| {
            failed(Step::Snapshot, &error.context("a snapshot cannot keep the state of its instances"))
        })?;
    step(Step::Compile);
    let instrumented =
        Component::from_binary(&loader, &instrumented).map_err(|error| failed(Step::Compile, &error))?;
    let imports = instrumented.component_type().imports(&loader).map(|(name, _)| name.to_owned()).collect();
    step(Step::Load);
    // What the model may not have later, it does not get now: its snapshot has to fit. Code does not depend on that.
    let own = source.limits.sandbox(limits);
    let mut loaded = Loaded::new(&loader, &instrumented, &own, &source.label)?;
    loaded.load(source.parameters, source.files)?;
    step(Step::Snapshot);
    let snapshot = loaded.snapshot(&context)?;
    step(Step::Signature);
    let signature = loaded.signature()?;
    drop(loaded);

    step(Step::Compile);
    let compiler = match settings.memories {
        Memories::OnDemand if !source.artifact_is_plugin => loader,
        memories => engine::compiling(limits, memories)?,
    };
    let snapshot = match form {
        Form::CoreModule => direct(&snapshot).unwrap_or(snapshot),
        // What its modules beside the main one do is not known.
        Form::Component => snapshot,
    };
    let code = compiler.precompile_component(&snapshot).map_err(|error| failed(Step::Compile, &error))?;
    Ok(Compiled { code, signature, form, imports })
}

fn failed(step: Step, error: &wasmtime::Error) -> LoadError {
    LoadError::new(step, shown(&format!("{error:#}"), MAX_ERROR))
}

/// An admissible component, the gateway's `own` or another's, made from a core module if need be.
fn component(artifact: Vec<u8>, own: bool, limits: &SandboxLimits) -> Result<(Form, Vec<u8>), LoadError> {
    let check = if own { profile::check_own } else { profile::check };
    let form = check(&artifact, limits)?;
    if form == Form::Component {
        return Ok((form, artifact));
    }
    let component = componentize(&artifact)?;
    check(&component, limits)?;
    Ok((form, component))
}

/// An instance in which `load` runs, and whose state becomes the snapshot.
struct Loaded<'a> {
    store: Store<Guest>,
    instance: Instance,
    limits: &'a SandboxLimits,
    exports: bindings::Exports,
}

impl<'a> Loaded<'a> {
    fn new(
        engine: &Engine,
        component: &Component,
        limits: &'a SandboxLimits,
        label: &str,
    ) -> Result<Self, LoadError> {
        let exports = bindings::Exports::find(component)
            .ok_or_else(|| LoadError::new(Step::Check, "it does not export airlock:inference/plugin@0.1"))?;
        let linked = |error: wasmtime::Error| failed(Step::Check, &error);
        let pre: InstancePre<Guest> =
            host::loading(engine).and_then(|linker| linker.instantiate_pre(component)).map_err(linked)?;
        let label: Arc<str> = label.into();
        let mut store = Store::new(engine, Guest::loading(&label, limits));
        store.limiter(|guest| &mut guest.limiter);
        store.set_max_component_handles(fault::MAX_HANDLES);
        store.set_hostcall_fuel(fault::hostcall_fuel(limits));
        limit_time(&mut store, limits.load_deadline);
        let instance =
            pre.instantiate(&mut store).map_err(|error| refused(Step::Load, &error, &store, limits))?;
        Ok(Self { store, instance, limits, exports })
    }

    fn load(
        &mut self,
        config: Vec<(String, String)>,
        files: Vec<(String, Vec<u8>)>,
    ) -> Result<(), LoadError> {
        let files = files.into_iter().map(|(name, data)| File { name, data: Bytes::from(data) }).collect();
        let answer = self
            .instance
            .get_typed_func::<LoadParams, LoadResult>(&mut self.store, &self.exports.load)
            .map_err(|error| failed(Step::Check, &error))?
            .call(&mut self.store, (config, files));
        match answer {
            Ok((Ok(()),)) => Ok(()),
            Ok((Err(GuestError::InvalidInput(text) | GuestError::Failed(text)),)) => {
                Err(LoadError::new(Step::Load, shown(&text, MAX_ERROR)))
            }
            Err(error) => Err(refused(Step::Load, &error, &self.store, self.limits)),
        }
    }

    /// The component with the state of this instance as its initial state.
    fn snapshot(&mut self, context: &wasmtime_wizer::ComponentContext<'_>) -> Result<Vec<u8>, LoadError> {
        self.store.data_mut().limiter.extend(HEADROOM);
        // The whole memory is handed over as one list.
        self.store.set_hostcall_fuel(usize::MAX);
        limit_time(&mut self.store, self.limits.load_deadline);
        let snapshot = snapshot::take(context, &mut self.store, self.instance);
        self.store.set_hostcall_fuel(fault::hostcall_fuel(self.limits));
        snapshot.map_err(|error| failed(Step::Snapshot, &error))
    }

    /// Asked after the snapshot was taken, so that answering leaves no trace in it.
    fn signature(&mut self) -> Result<Signature, LoadError> {
        limit_time(&mut self.store, self.limits.load_deadline);
        let answer = self
            .instance
            .get_typed_func::<(), (bindings::Signature,)>(&mut self.store, &self.exports.signature)
            .map_err(|error| failed(Step::Check, &error))?
            .call(&mut self.store, ());
        match answer {
            Ok((signature,)) => {
                signature::check(signature.into()).map_err(|error| LoadError::new(Step::Signature, error))
            }
            Err(error) => Err(refused(Step::Signature, &error, &self.store, self.limits)),
        }
    }
}

fn limit_time(store: &mut Store<Guest>, allowed: Duration) {
    let end = Instant::now() + allowed;
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        Ok(if Instant::now() < end { UpdateDeadline::Continue(1) } else { UpdateDeadline::Interrupt })
    });
}

/// A guest that trapped or was stopped while it was being loaded.
fn refused(step: Step, error: &wasmtime::Error, store: &Store<Guest>, limits: &SandboxLimits) -> LoadError {
    match fault::classify(error, &store.data().limiter, limits) {
        ExecuteError::Deadline => {
            LoadError::new(step, format_args!("it did not end within {:?}", limits.load_deadline))
        }
        ExecuteError::Trapped { .. } if store.data().limiter.starved() => LoadError::new(
            step,
            "the worker has no memory left for it; let the model take less, or raise --worker-memory",
        ),
        ExecuteError::Trapped { reason, detail } => {
            // The reason is told to clients as well; the guest's stack is the operator's to see.
            tracing::warn!(%step, detail, "{reason}");
            LoadError::new(step, reason)
        }
        other => LoadError::new(step, other),
    }
}
