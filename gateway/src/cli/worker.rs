//! `airlock worker`: what the gateway starts to compile or check one model. Not for people.

use std::process::ExitCode;

use clap::Args;
use tracing_subscriber::EnvFilter;

use crate::execute::worker::{Bounds, work};

/// Compile or check one model for a gateway
#[derive(Args, Debug)]
#[command(hide = true)]
pub(super) struct Worker {
    /// Seconds of processor time
    #[arg(long)]
    cpu: u64,
    /// Bytes of address space
    #[arg(long)]
    memory: u64,
    /// Bytes of a file
    #[arg(long)]
    file: u64,
    /// Number of the process that started it
    #[arg(long)]
    parent: u32,
}

impl Worker {
    pub(super) fn run(self) -> ExitCode {
        // Whoever started it writes these lines into its own log.
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new("warn,airlock=debug,guest=trace"))
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .without_time()
            .init();
        let Self { cpu, memory, file, parent } = self;
        match work(Bounds { cpu, memory, file, parent }) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("airlock worker: {error}");
                ExitCode::FAILURE
            }
        }
    }
}
