#![no_main]

// A panic of the engine is caught and is no finding; one that is not caught ends the process.
libfuzzer_sys::fuzz_target!(init: std::panic::set_hook(Box::new(|_| ())), |input: &[u8]| airlock_fuzz::onnx_load(input));
