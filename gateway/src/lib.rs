//! Airlock: a WebAssembly-sandboxed, multi-tenant inference gateway that speaks the V2 (Open Inference) Protocol.

pub mod deadline;
pub mod execute;
pub mod limits;
pub mod name;
pub mod repository;
pub mod tensor;
