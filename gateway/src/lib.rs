//! Airlock: a WebAssembly-sandboxed, multi-tenant inference gateway that speaks the V2 (Open Inference) Protocol.

pub mod admit;
pub mod authenticate;
pub mod deadline;
pub mod decode;
pub mod encode;
pub mod execute;
pub mod limits;
pub mod meter;
pub mod name;
pub mod reply;
pub mod tensor;
