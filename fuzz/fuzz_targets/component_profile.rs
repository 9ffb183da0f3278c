//! Any bytes as an uploaded component or core module: admitted or refused, never a panic.
#![no_main]

use airlock::{execute::wasm::profile, limits::SandboxLimits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|artifact: &[u8]| {
    let _ = profile::check(artifact, &SandboxLimits::default());
});
