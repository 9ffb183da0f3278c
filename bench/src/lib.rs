//! What is measured: the requests, and what a right answer to each looks like.
//!
//! Two binaries use it. `airlock-ceiling` is a bare hyper server that reads and writes the same JSON and binary tensors
//! and does nothing else; `airlock-load` is a closed-loop load generator. `cargo xtask bench` runs both.

pub mod case;
pub mod client;
pub mod process;
