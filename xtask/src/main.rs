//! The project's tasks: `cargo xtask --help`.

mod guests;
mod python;
mod shell;
mod toolchain;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Airlock's tasks", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the example plugins and models into target/models
    Guests,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.task {
        Task::Guests => guests::run(),
    }
}
