//! The project's tasks: `cargo xtask --help`.

mod bench;
mod conformance;
mod demo;
mod fuzz;
mod guests;
mod http;
mod lint;
mod onnx_plugin;
mod perf_analyzer;
mod pgo;
mod plugin;
mod promises;
mod python;
mod server;
mod shell;
mod test;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Airlock's tasks", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build everything, start the gateway with all example models, and print calls to paste
    Demo(demo::Options),
    /// Run all tests: lints, Rust tests, stock clients
    Test(test::Options),
    /// Run only the clients of others, against the gateway and the models that are built
    Clients,
    /// Build the example plugins and models into target/models
    Guests,
    /// Build the plugin that runs ONNX models in the wasm sandbox: target/onnx-plugin.wasm
    OnnxPlugin,
    /// Build a plugin of your own
    Plugin(plugin::Options),
    /// Check formatting, clippy, and the dependencies' licenses and sources
    Lint,
    /// Measure at full size what PROMISES.md says, and write the figures into it; hours, and it goes on where it was ended
    Promises(promises::Options),
    /// Run the fuzz targets, each for some time
    Fuzz(fuzz::Options),
    /// Build the gateway for production: optimised by a profile of itself at work, which takes two builds and, cold on two cores,
    /// most of an hour
    Pgo,
    /// Measure the gateway beside a bare server and other V2 servers, and write docs/benchmarks.md
    Bench(bench::Options),
    /// Check which parts of the V2 protocol a server keeps, this gateway or any other
    #[command(disable_help_flag = true)]
    Conformance(conformance::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Clients => test::clients(),
        Task::Guests => guests::run(),
        Task::OnnxPlugin => onnx_plugin::run(),
        Task::Plugin(options) => plugin::run(&options),
        Task::Lint => lint::run(),
        Task::Promises(options) => promises::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Pgo => pgo::run(),
        Task::Bench(options) => bench::run(&options),
        Task::Conformance(options) => match conformance::run(&options) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
