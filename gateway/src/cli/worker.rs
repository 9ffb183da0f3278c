//! `airlock worker`: what the gateway starts to compile, check or run one model. Not for people.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use tracing_subscriber::EnvFilter;

use crate::execute::{
    native,
    worker::{Bounds, WorkError, work},
};

/// Compile, check or run one model for a gateway
#[derive(Args, Debug)]
#[command(hide = true)]
pub(super) struct Worker {
    /// Seconds of processor time
    #[arg(long, required_unless_present = "serve")]
    cpu: Option<u64>,
    /// Run a model until the gateway closes stdin
    #[arg(long, conflicts_with = "cpu")]
    serve: bool,
    /// Run it on ONNX Runtime, which is this library
    #[arg(long, requires = "serve")]
    onnxruntime: Option<PathBuf>,
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
        let Self { cpu, memory, file, parent, serve, onnxruntime } = self;
        let bounds = Bounds { cpu, memory, file, parent };
        if serve {
            // It has nothing to log: what there is to say is in its answers.
            return exit(native::serve(bounds, onnxruntime.as_deref()));
        }
        // Whoever started it writes these lines into its own log.
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new("warn,airlock=debug,guest=trace"))
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .without_time()
            .init();
        exit(work(bounds))
    }
}

fn exit(done: Result<(), WorkError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("airlock worker: {error}");
            ExitCode::FAILURE
        }
    }
}
