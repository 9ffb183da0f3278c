//! `cargo xtask test`: everything, from lints to stock clients; the last line is `N passed, M failed`.

mod clients;

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use clients::Clients;

use crate::{
    bench, guests, lint, onnx_plugin, python,
    server::{Server, free_address},
    shell,
};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only the Rust tests (with the S3 server that they need) and the conformance suite: no lints, no Python clients, no benchmark.
    #[arg(long)]
    quick: bool,
}

/// What was run, from all sources together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Says it as the last line, and fails unless all is well.
    fn finish(self) -> Result<()> {
        println!("{} passed, {} failed", self.passed, self.failed);
        ensure!(self.failed == 0 && self.passed > 0, "{} checks failed", self.failed);
        Ok(())
    }
}

/// Numbers the steps and says how long each took.
struct Steps {
    done: usize,
    all: usize,
}

impl Steps {
    fn run<T>(&mut self, title: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        self.done += 1;
        eprintln!("\n[{}/{}] {title}", self.done, self.all);
        let started = Instant::now();
        let outcome = step().with_context(|| title.to_owned())?;
        eprintln!("[{}/{}] {title}: {:.1} s", self.done, self.all, started.elapsed().as_secs_f64());
        Ok(outcome)
    }
}

pub fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let mut count = Count::default();
    let mut steps = Steps { done: 0, all: if options.quick { 7 } else { 14 } };
    if !options.quick {
        steps.run("lints", lint::run)?;
    }
    steps.run("example models", guests::run)?;
    steps.run("plugin for ONNX models", onnx_plugin::build)?;
    steps.run("build", || build(&["--workspace", "--bins"]))?;
    let s3 = steps.run("Python environment of the S3 server", s3_server)?;
    count.add(steps.run("Rust tests", || cargo_test(&["--workspace"], &[("AIRLOCK_TEST_S3", &s3)]))?);
    let plugins = shell::root().join("examples/guests/Cargo.toml");
    let folder = shell::target().join("guests");
    let plugins = [OsStr::new("--manifest-path"), plugins.as_ref(), "--target-dir".as_ref(), folder.as_ref()];
    count.add(steps.run("tests of the example plugins", || cargo_test(&plugins, &[]))?);
    count.add(steps.run("conformance", conforms)?);
    if !options.quick {
        let clients = steps.run("Python environments of the clients", Clients::prepare)?;
        count.add(steps.run("stock clients", || clients.conformance())?);
        count.add(steps.run("perf_analyzer", || clients.perf_analyzer())?);
        count.add(steps.run("parity with onnxruntime", || clients.parity())?);
        count.add(steps.run("onnxruntime as the engine", || clients.onnxruntime())?);
        steps.run("benchmark, answers only", || bench::smoke(&[]))?;
    }
    eprintln!("\nall steps: {:.1} s", started.elapsed().as_secs_f64());
    count.finish()
}

/// `cargo xtask clients`: the steps of the test that run clients of others, against what is built already.
pub fn clients() -> Result<()> {
    let mut count = Count::default();
    let mut steps = Steps { done: 0, all: 3 };
    let clients = steps.run("Python environments of the clients", Clients::prepare)?;
    count.add(steps.run("stock clients", || clients.conformance())?);
    count.add(steps.run("perf_analyzer", || clients.perf_analyzer())?);
    count.finish()
}

/// Builds with the development profile, as the tests do: the two share all dependencies.
fn build(arguments: &[&str]) -> Result<()> {
    shell::run("cargo build", shell::command("cargo").arg("build").args(arguments).current_dir(shell::root()))
}

/// Runs `cargo test`, shows its output as it comes, and counts what it says.
fn cargo_test(arguments: &[impl AsRef<OsStr>], environment: &[(&str, &Path)]) -> Result<Count> {
    let mut command = shell::command("cargo");
    command.arg("test").arg("--no-fail-fast").args(arguments).current_dir(shell::root());
    command.envs(environment.iter().copied());
    let (count, success) = counted(&mut command, parse_test_result)?;
    // A build that fails and a test process that dies count nothing.
    ensure!(success || count.failed > 0, "cargo test failed without a failed test");
    Ok(count)
}

/// The Python that can run `tests/s3/serve.py`, which `tests/it/s3.rs` starts.
fn s3_server() -> Result<PathBuf> {
    python::venv("s3", &[&shell::root().join("tests/s3/requirements.txt")])
}

/// The conformance suite against this gateway, with models of different kinds.
fn conforms() -> Result<Count> {
    let grpc = free_address()?.to_string();
    let server = gateway("models", &["--grpc", &grpc])?;
    let url = format!("http://{}", server.address);
    let mut total = Count::default();
    for model in ["identity", "add", "two_io", "iris", "id_uint8", "id_bytes"] {
        // What the step before has built: alone, the suite would be built anew, with fewer features of its dependencies.
        let mut suite = shell::command(shell::target().join("debug/airlock-conformance"));
        suite.args(["--url", &url, "--grpc-url", &grpc, "--model", model]);
        total.add(counted(&mut suite, parse_conformance)?.0);
    }
    ensure!(total.passed > 0, "the conformance suite checked nothing");
    server.stop()?;
    Ok(total)
}

/// `60 kept, 0 not kept, 4 skipped`
fn parse_conformance(line: &str) -> Option<Count> {
    let mut counts = line.split(", ");
    let passed = counts.next()?.strip_suffix(" kept")?.parse().ok()?;
    let failed = counts.next()?.strip_suffix(" not kept")?.parse().ok()?;
    counts.next()?.strip_suffix(" skipped")?;
    Some(Count { passed, failed })
}

/// The gateway on a model repository below the target folder; its log shows what goes wrong only.
fn gateway(models: &str, more: &[&str]) -> Result<Server> {
    let (binaries, models) = (shell::target().join("debug"), shell::target().join(models));
    Server::gateway(&binaries, &models, free_address()?, None, &[&["--log", "warn"], more].concat())
}

/// Runs a client, which ends with `N passed, M failed`.
fn checked(command: &mut Command) -> Result<Count> {
    let (count, success) = counted(command, parse_summary)?;
    ensure!(success || count.failed > 0, "{command:?} failed without a failed case");
    Ok(count)
}

/// Runs a command, passes its standard output on, and adds up what `parse` finds in its lines.
fn counted(command: &mut Command, parse: fn(&str) -> Option<Count>) -> Result<(Count, bool)> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start it")?;
    let output = child.stdout.take().context("it has no output")?;
    let mut count = Count::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some(found) = parse(&line) {
            count.add(found);
        }
    }
    Ok((count, child.wait()?.success()))
}

/// `test result: ok. 7 passed; 0 failed; 0 ignored; …`
fn parse_test_result(line: &str) -> Option<Count> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = counts.split("; ");
    let passed = counts.next()?.strip_suffix(" passed")?.parse().ok()?;
    let failed = counts.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some(Count { passed, failed })
}

/// `7 passed, 0 failed`
fn parse_summary(line: &str) -> Option<Count> {
    let (passed, failed) = line.split_once(", ")?;
    let passed = passed.strip_suffix(" passed")?.parse().ok()?;
    let failed = failed.strip_suffix(" failed")?.parse().ok()?;
    Some(Count { passed, failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted() {
        let line = "test result: FAILED. 7 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.57s";
        assert_eq!(parse_test_result(line), Some(Count { passed: 7, failed: 2 }));
        assert_eq!(parse_test_result("test a::b ... ok"), None);
        assert_eq!(parse_summary("140 passed, 1 failed"), Some(Count { passed: 140, failed: 1 }));
        assert_eq!(parse_summary("ok   140 passed, 1 failed"), None);
        let found = parse_conformance("60 kept, 2 not kept, 4 skipped");
        assert_eq!(found, Some(Count { passed: 60, failed: 2 }));
    }

    #[test]
    fn a_command_is_counted_and_its_failure_is_seen() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo '3 passed, 1 failed'; echo other; exit 1"]);
        let (count, success) = counted(&mut command, parse_summary).expect("sh runs");
        assert_eq!((count, success), (Count { passed: 3, failed: 1 }, false));
    }
}
