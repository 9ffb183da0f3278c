//! Any bytes as an ONNX model: loaded or refused.
#![no_main]

use std::sync::{Arc, LazyLock};

use airlock::{
    execute::{Source, native::Engine},
    limits::NativeLimits,
};
use libfuzzer_sys::fuzz_target;

static ENGINE: LazyLock<Arc<Engine>> =
    LazyLock::new(|| Engine::new(NativeLimits::default()).expect("the engine starts"));

fuzz_target!(|artifact: &[u8]| {
    let source = Source { label: "fuzz/1".into(), artifact: artifact.to_vec(), ..Source::default() };
    let _ = ENGINE.load(source);
});
