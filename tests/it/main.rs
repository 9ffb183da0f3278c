//! Integration tests, in one binary: they drive the real listeners over loopback.

mod abuse;
mod admin;
mod architecture;
mod cli;
mod fairness;
mod fuzz_corpus;
mod hostile_guest;
mod hostile_http;
mod hostile_native;
mod keys;
mod leak;
mod leaving;
mod lifecycle;
mod limits;
mod memory;
mod metering;
mod onnx_sandbox;
mod road;
mod s3;
mod sandbox;
mod storage_faults;
mod tenants;
mod tls;
mod uploads;
mod verify;
mod worker;
