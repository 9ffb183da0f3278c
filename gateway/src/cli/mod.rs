//! The command line: `airlock serve`, `airlock check`, the commands on what a gateway keeps, and what workers are started as.

mod check;
mod key;
mod records;
mod serve;
mod tenant;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A WebAssembly-sandboxed inference gateway that speaks the V2 (Open Inference) Protocol.
#[derive(Debug, Parser)]
#[command(name = "airlock", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Serve>),
    Tenant(tenant::Tenant),
    Key(key::Key),
    Check(Box<check::Check>),
    Worker(worker::Worker),
}

/// Parses the command line, runs the command and says what went wrong, if anything did.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Check(check) => check.run(),
        Command::Worker(worker) => worker.run(),
        Command::Tenant(tenant) => told(tenant.run()),
        Command::Key(key) => told(key.run()),
    }
}

fn told(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("airlock: {error:#}");
            ExitCode::FAILURE
        }
    }
}
