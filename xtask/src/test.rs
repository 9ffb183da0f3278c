//! `cargo xtask test`: everything, from lints to stock clients; the last line is `N passed, M failed`.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    bench, guests, lint, python,
    server::{Server, free_address},
    shell,
};

/// Time for the gateway to load every example model: compiled by the development profile, on two cores.
const LOAD_PATIENCE: Duration = Duration::from_secs(300);

/// Python environments, each with its requirements file and the scripts that run in it, both below `tests/clients`.
/// Every script takes `--url` and ends with `N passed, M failed`.
const CLIENTS: &[(&str, &str, &[&str])] =
    &[("clients", "requirements.txt", &["conformance.py", "raw_http.py"])];

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only the Rust tests: no lints, no Python clients, no benchmark.
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
    let mut steps = Steps { done: 0, all: if options.quick { 3 } else { 6 } };
    if !options.quick {
        steps.run("lints", lint::run)?;
    }
    steps.run("example models", guests::run)?;
    steps.run("build", || build(&["--workspace", "--bins"]))?;
    count.add(steps.run("Rust tests", || cargo_test(&["--workspace"]))?);
    if !options.quick {
        count.add(steps.run("stock clients", clients)?);
        steps.run("benchmark, answers only", bench::smoke)?;
    }
    eprintln!("\nall steps: {:.1} s", started.elapsed().as_secs_f64());
    println!("{} passed, {} failed", count.passed, count.failed);
    ensure!(count.failed == 0 && count.passed > 0, "{} checks failed", count.failed);
    Ok(())
}

/// Builds with the development profile, as the tests do: the two share all dependencies.
fn build(arguments: &[&str]) -> Result<()> {
    shell::run("cargo build", Command::new("cargo").arg("build").args(arguments).current_dir(shell::root()))
}

/// Runs `cargo test`, shows its output as it comes, and counts what it says.
fn cargo_test(arguments: &[&str]) -> Result<Count> {
    let mut command = Command::new("cargo");
    command.arg("test").arg("--no-fail-fast").args(arguments).current_dir(shell::root());
    let (count, success) = counted(&mut command, parse_test_result)?;
    // A build that fails and a test process that dies count nothing.
    ensure!(success || count.failed > 0, "cargo test failed without a failed test");
    Ok(count)
}

/// Starts the gateway on the example models and runs each client against it.
fn clients() -> Result<Count> {
    let folder = shell::root().join("tests/clients");
    let mut scripts = Vec::new();
    for (environment, requirements, of_it) in CLIENTS {
        let python = python::venv(environment, &[&folder.join(requirements)])?;
        scripts.extend(of_it.iter().map(|script| (*script, python.clone())));
    }
    let address = free_address()?;
    let (program, models) = (shell::target().join("debug/airlock"), shell::target().join("models"));
    let models = models.to_str().context("the target folder's path is not UTF-8")?;
    let arguments = ["serve", "--model-repository", models, "--http", &address.to_string()];
    let server = Server::start(&program, &arguments, None, address, LOAD_PATIENCE)?;
    let mut total = Count::default();
    for (script, python) in scripts {
        eprintln!("==> {script}");
        let mut command = Command::new(python);
        command.arg(folder.join(script)).arg("--url").arg(address.to_string());
        let (count, success) = counted(&mut command, parse_summary)?;
        ensure!(success || count.failed > 0, "{script} failed without a failed case");
        total.add(count);
    }
    server.stop()?;
    Ok(total)
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
    }

    #[test]
    fn a_command_is_counted_and_its_failure_is_seen() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo '3 passed, 1 failed'; echo other; exit 1"]);
        let (count, success) = counted(&mut command, parse_summary).expect("sh runs");
        assert_eq!((count, success), (Count { passed: 3, failed: 1 }, false));
    }
}
