//! `cargo xtask bench`: the gateway's identity models against a bare hyper server, in one interleaved run.

mod report;
mod uploads;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    guests, promises,
    server::{Server, free_address},
    shell,
};

/// The bare server has nothing to load.
const BARE_PATIENCE: Duration = Duration::from_secs(10);
const CONCURRENCY: [usize; 2] = [1, 8];
/// As `airlock-load --case` names them, and as the report does.
const CASES: [(&str, &str); 3] = [
    ("json4", "FP32 `[1,4]`, JSON"),
    ("json150528", "FP32 `[1,150528]`, JSON"),
    ("binary150528", "FP32 `[1,150528]`, binary"),
];
/// What is measured; the first is what the others are compared with.
const TARGETS: [&str; 3] = ["bare hyper server", "`identity` (wasm)", "`identity_onnx` (native)"];

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Rounds; each measures every server once in every case. The report gives medians.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each single measurement.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// One short round with the development profile, answers checked, nothing written.
    #[arg(long)]
    quick: bool,
}

/// One measurement, as the load generator prints it.
#[derive(Clone, Copy, Debug)]
struct Sample {
    requests_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
    generator_busy: f64,
}

/// All rounds of one server in one case.
#[derive(Debug)]
struct Row {
    case: usize,
    target: usize,
    concurrency: usize,
    samples: Vec<Sample>,
}

pub fn run(options: &Options) -> Result<()> {
    guests::run()?;
    if options.quick {
        return smoke();
    }
    // One after the other: built together, their features unite, and the demo's build of the gateway could not be used.
    build(&["--release", "-p", "airlock"])?;
    build(&["--release", "-p", "airlock-bench"])?;
    let load_before = report::load_average();
    let rows = measure(&shell::target().join("release"), options.rounds, options.seconds, 0.3)?;
    let uploads = uploads::measure(&shell::target().join("release"), 2 * options.rounds)?;
    let commit = promises::commit()?;
    let text = report::render(&rows, &uploads, options.rounds, options.seconds, &load_before, &commit);
    let path = shell::root().join("docs/benchmarks.md");
    fs::create_dir_all(shell::root().join("docs"))?;
    fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{text}");
    eprintln!("written to docs/benchmarks.md");
    Ok(())
}

/// Runs every measurement for a moment, to see that all servers give right answers. Its figures mean nothing.
pub fn smoke() -> Result<()> {
    build(&["--workspace", "--bins"])?;
    let rows = measure(&shell::target().join("debug"), 1, 0.1, 0.0)?;
    uploads::measure(&shell::target().join("debug"), 1)?;
    ensure!(rows.len() == CASES.len() * CONCURRENCY.len() * TARGETS.len(), "a measurement is missing");
    Ok(())
}

fn build(arguments: &[&str]) -> Result<()> {
    shell::run("cargo build", shell::command("cargo").arg("build").args(arguments).current_dir(shell::root()))
}

/// Measures everything with the binaries of that folder. Server and generator have a processor core each.
fn measure(binaries: &Path, rounds: usize, seconds: f64, warm_up: f64) -> Result<Vec<Row>> {
    let (server_core, load_core) = if pins() { (Some(0), Some(1)) } else { (None, None) };
    let models = shell::target().join("models");
    let gateway = Server::gateway(binaries, &models, free_address()?, server_core, &["--log", "warn"])?;
    let http = free_address()?;
    let arguments = ["--http", &http.to_string()];
    let bare =
        Server::start(&binaries.join("airlock-ceiling"), &arguments, server_core, http, BARE_PATIENCE)?;
    let servers = [(&bare, "identity"), (&gateway, "identity"), (&gateway, "identity_onnx")];

    let mut rows: Vec<Row> = Vec::new();
    for case in 0..CASES.len() {
        for concurrency in CONCURRENCY {
            rows.extend((0..TARGETS.len()).map(|target| Row {
                case,
                target,
                concurrency,
                samples: Vec::new(),
            }));
        }
    }
    for round in 0..rounds {
        eprintln!("==> round {} of {rounds}", round + 1);
        for group in rows.chunks_mut(TARGETS.len()) {
            // Another server begins in each round, so that none always follows the same one.
            group.rotate_left(round % TARGETS.len());
            for row in group.iter_mut() {
                let (server, model) = servers[row.target];
                let mut command = load(binaries, load_core);
                command
                    .args(["--address", &server.address.to_string(), "--pid", &server.pid.to_string()])
                    .args(["--model", model, "--case", CASES[row.case].0])
                    .args(["--concurrency", &row.concurrency.to_string()])
                    .args(["--seconds", &seconds.to_string(), "--warm-up", &warm_up.to_string()]);
                let sample = sample(&mut command)
                    .with_context(|| format!("{}, {}", TARGETS[row.target], CASES[row.case].1))?;
                row.samples.push(sample);
            }
            group.sort_by_key(|row| row.target);
        }
    }
    bare.stop()?;
    gateway.stop()?;
    Ok(rows)
}

/// Whether server and generator can be kept on a core each.
fn pins() -> bool {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let taskset =
        Command::new("taskset").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    cores > 1 && taskset.is_ok_and(|status| status.success())
}

fn load(binaries: &Path, core: Option<usize>) -> Command {
    let program: PathBuf = binaries.join("airlock-load");
    let Some(core) = core else {
        return Command::new(program);
    };
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

fn sample(command: &mut Command) -> Result<Sample> {
    let output = command.stderr(Stdio::inherit()).output().context("cannot start the load generator")?;
    ensure!(output.status.success(), "the load generator ended with {}", output.status);
    let line: Value = serde_json::from_slice(&output.stdout).context("the load generator printed no JSON")?;
    let figure = |name: &str| line[name].as_f64().with_context(|| format!("{name} is missing"));
    Ok(Sample {
        requests_per_second: figure("requests_per_second")?,
        p50_ms: figure("p50_ms")?,
        p99_ms: figure("p99_ms")?,
        cpu_us: figure("cpu_us_per_request")?,
        generator_busy: figure("generator_busy")?,
    })
}
