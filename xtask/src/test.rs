//! `cargo xtask test`: everything, from lints to stock clients; the last line is `N passed, M failed`.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use crate::{
    bench, conformance, guests, lint, onnx_plugin, python,
    server::{Server, free_address},
    shell,
};

/// Both below `tests/clients`.
const REQUIREMENTS: [&str; 2] = ["requirements.txt", "requirements-parity.txt"];

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
    let mut steps = Steps { done: 0, all: if options.quick { 7 } else { 12 } };
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
        count.add(steps.run("parity with onnxruntime", || clients.parity())?);
        steps.run("benchmark, answers only", bench::smoke)?;
    }
    eprintln!("\nall steps: {:.1} s", started.elapsed().as_secs_f64());
    println!("{} passed, {} failed", count.passed, count.failed);
    ensure!(count.failed == 0 && count.passed > 0, "{} checks failed", count.failed);
    Ok(())
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

/// The scripts of `tests/clients`, and the Python that has what they need.
struct Clients {
    folder: PathBuf,
    python: PathBuf,
    /// The one that has what the examples' own clients need.
    python_of_examples: PathBuf,
    /// The one that has MLServer's codecs, which want other versions of much else.
    python_of_codecs: PathBuf,
    /// The one that has a validator of OpenAPI documents.
    python_of_openapi: PathBuf,
}

impl Clients {
    fn prepare() -> Result<Self> {
        let folder = shell::root().join("tests/clients");
        let requirements = REQUIREMENTS.map(|name| folder.join(name));
        let python = python::venv("clients", &requirements.each_ref().map(PathBuf::as_path))?;
        let of_examples = shell::root().join("examples/requirements.txt");
        let python_of_examples = python::venv("examples", &[&of_examples])?;
        let python_of_codecs = python::venv("codecs", &[&folder.join("requirements-codecs.txt")])?;
        let python_of_openapi = python::venv("openapi", &[&folder.join("requirements-openapi.txt")])?;
        Ok(Self { folder, python, python_of_examples, python_of_codecs, python_of_openapi })
    }

    fn command(&self, python: &Path, script: &str) -> Command {
        let mut command = Command::new(python);
        command.arg(self.folder.join(script));
        command
    }

    /// The stock client, and what it cannot send, against the example models.
    fn conformance(&self) -> Result<Count> {
        let grpc = free_address()?.to_string();
        let server = gateway("models", &["--grpc", &grpc])?;
        let http = server.address.to_string();
        let mut total = Count::default();
        for (script, python, url) in [
            ("conformance.py", &self.python, &http),
            ("grpc_client.py", &self.python, &grpc),
            ("streaming.py", &self.python, &grpc),
            ("raw_http.py", &self.python, &http),
            ("examples.py", &self.python_of_examples, &http),
            ("codecs.py", &self.python_of_codecs, &http),
            ("openapi.py", &self.python_of_openapi, &http),
        ] {
            total.add(checked(self.command(python, script).args(["--url", url]))?);
        }
        server.stop()?;
        // As the servers were started whose answers it knows.
        let server = gateway("models", &["--model-control-mode", "explicit", "--load-model", "*"])?;
        total.add(checked(
            self.command(&self.python, "wire.py").args(["--url", &server.address.to_string()]),
        )?);
        server.stop()?;
        total.add(self.uploads()?);
        Ok(total)
    }

    /// The stock client as two tenants that upload models of their own.
    fn uploads(&self) -> Result<Count> {
        let store = shell::target().join("store-of-clients");
        if store.exists() {
            fs::remove_dir_all(&store)?;
        }
        let folder = store.to_str().context("the path of the store is not UTF-8")?;
        let key = |tenant: &str, scopes: &str| -> Result<String> {
            let airlock = |arguments: &[&str]| {
                let output = Command::new(shell::target().join("debug/airlock"))
                    .args(arguments)
                    .args(["--store", folder])
                    .stderr(Stdio::inherit())
                    .output()
                    .context("cannot start airlock")?;
                ensure!(output.status.success(), "airlock {} failed", arguments.join(" "));
                Ok::<_, anyhow::Error>(String::from_utf8(output.stdout)?.trim().to_owned())
            };
            airlock(&["tenant", "create", tenant])?;
            airlock(&["key", "create", "--tenant", tenant, "--scope", scopes])
        };
        let mut client = self.command(&self.python, "uploads.py");
        client
            .env("AIRLOCK_TEST_MODELS", shell::target().join("models"))
            .env("AIRLOCK_TEST_KEY_ACME", key("acme", "infer,repository")?)
            .env("AIRLOCK_TEST_KEY_UMBRELLA", key("umbrella", "infer,repository")?)
            .env("AIRLOCK_TEST_KEY_READER", key("acme", "infer")?);
        let server = gateway("models", &["--store", folder])?;
        let count = checked(client.args(["--url", &server.address.to_string()]))?;
        server.stop()?;
        Ok(count)
    }

    /// Real ONNX models: the gateway's answers beside onnxruntime's.
    fn parity(&self) -> Result<Count> {
        let models = shell::target().join("parity");
        shell::run("models from packages", self.command(&self.python, "models.py").arg(&models))?;
        // The first request of each shape includes the engine's optimisation for it.
        let server = gateway("parity", &["--deadline", "60s"])?;
        let mut compare = self.command(&self.python, "onnx_parity.py");
        let count = checked(compare.arg(server.address.to_string()).arg(&models))?;
        server.stop()?;
        Ok(count)
    }
}

/// The conformance suite against this gateway, with models of different kinds.
fn conforms() -> Result<Count> {
    let server = gateway("models", &[])?;
    let url = format!("http://{}", server.address);
    let mut total = Count::default();
    for model in ["identity", "add", "two_io", "iris", "id_uint8", "id_bytes"] {
        total
            .add(counted(conformance::suite().args(["--url", &url, "--model", model]), parse_conformance)?.0);
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
