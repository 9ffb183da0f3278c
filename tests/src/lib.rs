//! Support for the integration tests.

pub mod client;
pub mod gateway;
pub mod grpc;
pub mod guest;
pub mod load;
pub mod process;
pub mod rounds;
pub mod store;
pub mod tls;

/// Small ONNX files, as the native engine's own tests write them.
#[path = "../../gateway/src/execute/native/tests/onnx.rs"]
pub mod onnx;
