#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| airlock_fuzz::decode_grpc(input));
