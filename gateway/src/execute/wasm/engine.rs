//! Engines and their settings: one that serves, and for loading one that needs no address space to speak of.

use std::{num::NonZeroUsize, thread, time::Duration};

use serde::{Deserialize, Serialize};
use tracing::warn;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, RegallocAlgorithm,
};

use crate::{
    execute::{LoadError, Step},
    limits::SandboxLimits,
};

/// How often running guests are interrupted: they are checked against their deadline and, unless they have only just begun, yield to
/// the next guest. A looping guest is noticed within one tick of getting a turn.
pub(super) const TICK: Duration = Duration::from_millis(2);

/// Core modules of one component: what the componentizer makes of one module (it, a shim, a fixup and the call of its
/// initialiser).
pub(super) const MAX_CORE_MODULES: u32 = 4;

/// Tables of one component: the module's own and the shim's, twice over.
pub(super) const MAX_TABLES: u32 = 4;

/// What host functions may use of a fiber's stack beyond what the guest itself may use.
const HOST_STACK: usize = 512 << 10;

/// Address space that a 32-bit memory can reach: with all of it reserved, no access needs a bounds check.
const FULL_RESERVATION: u64 = 4 << 30;
const GUARD: u64 = 32 << 20;

/// Where the instances of an engine live. Compiled code fits the mode that it was compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Memories {
    /// Slots that are reserved once, 4 GiB of address space each, and reset after each request.
    Pooled,
    /// Mapped for each instance and only as large as needed: instances cost several times more and code runs with bounds
    /// checks, but no address space is reserved.
    OnDemand,
}

/// The engine that serves requests, and the mode it got.
pub(super) fn serving(limits: &SandboxLimits) -> Result<(Engine, Memories), LoadError> {
    let mut config = code_config(limits, Memories::Pooled);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(limits)));
    match Engine::new(&config) {
        Ok(engine) => Ok((engine, Memories::Pooled)),
        Err(error) => {
            warn!(
                "no instance pool, requests will be slower: {error:#}; each of the {} instances takes 4 GiB of \
                 address space (ulimit -v, vm.overcommit_memory)",
                limits.max_instances
            );
            Ok((compiling(limits, Memories::OnDemand)?, Memories::OnDemand))
        }
    }
}

/// An engine whose compiled code a serving engine of that mode accepts. It reserves nothing, and in the on-demand mode
/// it can also run what it compiles.
pub(super) fn compiling(limits: &SandboxLimits, memories: Memories) -> Result<Engine, LoadError> {
    Engine::new(&code_config(limits, memories))
        .map_err(|error| LoadError::new(Step::Compile, format_args!("no engine: {error:#}")))
}

/// An engine for code that runs once: compiling it takes less time, running it more.
pub(super) fn compiling_quickly(limits: &SandboxLimits) -> Result<Engine, LoadError> {
    let mut config = code_config(limits, Memories::OnDemand);
    config.cranelift_opt_level(OptLevel::None).cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass);
    Engine::new(&config).map_err(|error| LoadError::new(Step::Compile, format_args!("no engine: {error:#}")))
}

/// Everything that the compiled code depends on.
fn code_config(limits: &SandboxLimits, memories: Memories) -> Config {
    let mut config = Config::new();
    match memories {
        Memories::Pooled => {
            config.memory_reservation(FULL_RESERVATION).memory_guard_size(GUARD).memory_may_move(false);
        }
        Memories::OnDemand => {
            config.memory_reservation(0).memory_reservation_for_growth(16 << 20).memory_may_move(true);
        }
    }
    config
        .guard_before_linear_memory(true)
        .memory_init_cow(true)
        // Larger sparse images would fall back to copying, so every image that fits the cap counts as dense enough.
        .memory_guaranteed_dense_image_size(limits.memory_bytes as u64)
        .epoch_interruption(true)
        .consume_fuel(false)
        .max_wasm_stack(limits.stack_bytes)
        .async_stack_size(limits.stack_bytes.saturating_add(HOST_STACK))
        .wasm_backtrace_max_frames(NonZeroUsize::new(8))
        .generate_address_map(false)
        .native_unwind_info(false);
    // On: what compilers emit for kernels. The deterministic form gives the same bits on every host.
    config.wasm_simd(true).wasm_relaxed_simd(true).relaxed_simd_deterministic(true);
    // Off: what an inference guest does not need and most advisories are about. Threads, exceptions and function
    // references have no switch here, they are not even compiled in.
    config
        .wasm_gc(false)
        .gc_support(false)
        .shared_memory(false)
        .concurrency_support(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_tail_call(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false);
    config
}

fn pool(limits: &SandboxLimits) -> PoolingAllocationConfig {
    let instances = limits.max_instances;
    // With the page-map scan (Linux 6.7) only the pages that a request wrote are reset. Without it, whatever stays resident
    // is zeroed after every request, so little should.
    let resident: usize =
        if PoolingAllocationConfig::is_pagemap_scan_available() { 1 << 20 } else { 64 << 10 };
    let warm = if limits.warm_bytes == 0 { SandboxLimits::warm_of(None) } else { limits.warm_bytes };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(MAX_CORE_MODULES))
        .total_memories(instances)
        .total_tables(instances.saturating_mul(MAX_TABLES))
        .total_stacks(instances)
        .max_memory_size(limits.memory_bytes.min(usize::try_from(FULL_RESERVATION).unwrap_or(usize::MAX)))
        .table_elements(limits.table_elements)
        .max_core_instances_per_component(MAX_CORE_MODULES)
        .max_memories_per_component(1)
        .max_tables_per_component(MAX_TABLES)
        .max_memories_per_module(1)
        .max_tables_per_module(MAX_TABLES)
        // The plugin for ONNX models has three times the functions of what tenants may bring.
        .max_core_instance_size(1 << 20)
        .max_component_instance_size(512 << 10)
        .pagemap_scan(Enabled::Auto)
        .linear_memory_keep_resident(resident)
        .table_keep_resident(64 << 10)
        // A slot goes back to the model that it was used for last: a call that finds none of its model's has to map another
        // image first, which costs several times as much.
        .max_unused_warm_slots(u32::try_from(warm / resident).unwrap_or(u32::MAX).min(instances));
    pool
}

/// Starts the thread that advances the engine's epoch and then does `at_tick`; it ends when the engine is dropped.
pub(super) fn start_ticker(engine: &Engine, at_tick: impl Fn() + Send + 'static) -> Result<(), LoadError> {
    let engine = engine.weak();
    let ticker = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            at_tick();
            thread::sleep(TICK);
        }
    };
    thread::Builder::new()
        .name("epoch-ticker".into())
        .spawn(ticker)
        .map(drop)
        .map_err(|error| LoadError::new(Step::Load, format_args!("no epoch ticker: {error}")))
}
