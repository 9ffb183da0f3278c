//! What is measured: the requests, and what a right answer to each looks like.
//!
//! `airlock-ceiling` is a bare hyper server that reads and writes the same JSON, binary tensors and gRPC messages and does nothing
//! else; `airlock-load` is a closed-loop load generator; `airlock-instance` measures instances without a server. `cargo xtask
//! bench` runs all of them.

use std::time::Duration;

pub mod awake;
pub mod case;
mod frame;
pub mod grpc;
pub mod http;
pub mod process;

/// An answer that takes longer ends the measurement.
const PATIENCE: Duration = Duration::from_secs(60);
