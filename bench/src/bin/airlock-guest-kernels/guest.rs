//! The plugin `matmul` in an instance of its own, which serves all calls.

use std::{thread, time::Duration};

use anyhow::{Context, Result, anyhow};
use wasmtime::{
    Config, Engine, Store, UpdateDeadline,
    component::{Component, Linker},
};
use wit_component::ComponentEncoder;

#[expect(clippy::error_impl_error, reason = "it is what the interface calls it")]
mod bindings {
    wasmtime::component::bindgen!({ path: "../wit", world: "model" });
}

use bindings::{
    Model,
    airlock::inference::types::{Datatype, Parameter, Request, Tensor},
};

/// How often the gateway interrupts a guest.
const TICK: Duration = Duration::from_millis(2);

pub struct Guest {
    store: Store<()>,
    model: Model,
}

impl Guest {
    /// Compiles the plugin for the gateway's instance pool, or the same without interruption, and loads it.
    pub fn new(plugin: &[u8], interruptible: bool) -> Result<Self> {
        let component = ComponentEncoder::default().module(plugin)?.encode()?;
        let engine = Engine::new(&config(interruptible)).map_err(|error| anyhow!("{error:#}"))?;
        let load = || {
            let component = Component::new(&engine, component)?;
            let mut linker = Linker::new(&engine);
            // This plugin calls nothing.
            linker.define_unknown_imports_as_traps(&component)?;
            let mut store = Store::new(&engine, ());
            if interruptible {
                store.set_epoch_deadline(1);
                store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Continue(1)));
                start_ticker(&engine);
            }
            let model = Model::instantiate(&mut store, &component, &linker)?;
            let loaded = model.airlock_inference_plugin().call_load(&mut store, &[], &[])?;
            Ok::<_, wasmtime::Error>((store, model, loaded))
        };
        let (store, model, loaded) =
            load().map_err(|error| anyhow!("the plugin does not start: {error:#}"))?;
        loaded.map_err(|error| anyhow!("the plugin does not load: {error:?}"))?;
        Ok(Self { store, model })
    }

    /// The bytes of the product that is asked for.
    pub fn product(&mut self, request: &Request) -> Result<Vec<u8>> {
        let plugin = self.model.airlock_inference_plugin();
        let response = plugin
            .call_infer(&mut self.store, request)
            .map_err(|error| anyhow!("the plugin trapped: {error:#}"))?
            .map_err(|error| anyhow!("the plugin answered an error: {error:?}"))?;
        Ok(response.outputs.into_iter().next().context("the plugin answered nothing")?.data)
    }
}

/// Asks for the product of two square matrices, made as often as told.
pub fn request(a: &[f32], b: &[f32], size: usize, repetitions: u32) -> Request {
    let tensor = |name: &str, values: &[f32]| Tensor {
        name: name.into(),
        datatype: Datatype::Fp32,
        shape: vec![size as u64; 2],
        parameters: vec![],
        data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    Request {
        id: None,
        parameters: vec![("repetitions".into(), Parameter::Int64(repetitions.into()))],
        inputs: vec![tensor("A", a), tensor("B", b)],
        outputs: vec![],
    }
}

/// What of the gateway's settings the compiled code depends on.
fn config(interruptible: bool) -> Config {
    let mut config = Config::new();
    config
        .memory_reservation(4 << 30)
        .memory_guard_size(32 << 20)
        .memory_may_move(false)
        .guard_before_linear_memory(true)
        .epoch_interruption(interruptible)
        .consume_fuel(false)
        .generate_address_map(false)
        .native_unwind_info(false)
        .wasm_simd(true)
        .wasm_relaxed_simd(true)
        .relaxed_simd_deterministic(true)
        .concurrency_support(false);
    config
}

/// Advances the engine's epoch until the engine is dropped.
fn start_ticker(engine: &Engine) {
    let engine = engine.weak();
    thread::spawn(move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            thread::sleep(TICK);
        }
    });
}
