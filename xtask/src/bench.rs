//! `cargo xtask bench`: the gateway beside a bare hyper server and beside other servers of the same protocol. Whatever is compared
//! is measured in turn, round by round, in one run.

mod bars;
mod batching;
mod engines;
mod figures;
mod footprint;
mod instance;
mod kernels;
mod lab;
mod load;
mod models;
mod peers;
mod report;
mod road;
mod sizes;
mod uploads;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::{guests, pgo, promises, shell};
use bars::Bar;
use lab::Lab;
use peers::Peer;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Rounds; each measures every server once in every case. The report gives medians.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each single measurement.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Other servers to measure beside the gateway: triton, mlserver; all or none of them. They are installed from PyPI.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    peers: Vec<PeerChoice>,
    /// Measure only these sections, print them, and write nothing. `--only help` names them.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Measure builds that are optimised by a profile, the gateway's and the bare server's: see `cargo xtask pgo`.
    #[arg(long, conflicts_with = "quick")]
    pgo: bool,
    /// One short round with the development profile and no other servers, answers checked, nothing written.
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum PeerChoice {
    None,
    Triton,
    Mlserver,
    All,
}

/// What is measured and what measures, as arguments for cargo. One build after the other: built together, their features unite, and
/// the demo's build of the gateway could not be used.
pub const PROGRAMS: [&[&str]; 2] =
    [&["-p", "airlock"], &["-p", "airlock-bench", "-p", "airlock-onnx", "--bins", "--example", "measure"]];

/// Of these, what [`train`] needs. The others take twice as long to link where they are to count as what they measure is worth: they
/// run the same code as the gateway.
pub const TRAINED: [&[&str]; 2] = [
    PROGRAMS[0],
    &[
        "-p",
        "airlock-bench",
        "-p",
        "airlock-onnx",
        "--bin",
        "airlock-load",
        "--bin",
        "airlock-ceiling",
        "--example",
        "measure",
    ],
];

/// What one part of the run gives the report.
#[derive(Debug, Default)]
struct Section {
    /// Markdown, with its heading.
    text: String,
    bars: Vec<Bar>,
}

type Measure = fn(&Lab) -> Result<Section>;

/// All parts, in the order of the report.
const SECTIONS: [(&str, Measure); 12] = [
    ("json4", |lab| road::measure(lab, "json4")),
    ("json150528", |lab| road::measure(lab, "json150528")),
    ("binary150528", |lab| road::measure(lab, "binary150528")),
    ("grpc16", |lab| road::measure(lab, "grpc16")),
    ("instance", instance::measure),
    ("kernels", kernels::measure),
    ("engines", engines::measure),
    ("batching", batching::measure),
    ("footprint", footprint::measure),
    ("sizes", sizes::measure),
    ("models", models::measure),
    ("uploads", uploads::measure),
];

/// What the report says of the builds that were measured.
const PLAIN: &str = "Release builds, as `cargo build --release` makes them.";
const PROFILED: &str = "\
Release builds that were optimised by a profile of these very loads (`cargo xtask pgo`): the gateway, the bare server and the ONNX
engine each by its own, what is measured in the process by the gateway's. Triton and MLServer are as their makers built them.";

/// What trains: all that is served often.
const TRAINING: [&str; 7] =
    ["json4", "json150528", "binary150528", "grpc16", "engines", "batching", "uploads"];

pub fn run(options: &Options) -> Result<()> {
    let names = SECTIONS.map(|(name, _)| name);
    for name in &options.only {
        ensure!(names.contains(&name.as_str()), "no section '{name}'; there are {}", names.join(", "));
    }
    guests::run()?;
    if options.quick {
        return smoke(&options.only);
    }
    // Before anything is measured, so that nothing is installed while it is.
    let peers = peers::install(&options.peers());
    let built = if options.pgo {
        (pgo::build(&PROGRAMS)?, PROFILED)
    } else {
        for program in PROGRAMS {
            build(&[&["--release"], program].concat())?;
        }
        (shell::target().join("release"), PLAIN)
    };
    let lab = Lab::full(built, options.rounds, options.seconds, peers);
    let load_before = report::load_average();
    let sections = measure(&lab, &options.only)?;
    let text = report::render(&lab, &sections, &command(options), &load_before, &promises::commit()?);
    println!("{text}");
    if !options.only.is_empty() {
        return Ok(());
    }
    let path = shell::root().join("docs/benchmarks.md");
    fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("written to docs/benchmarks.md");
    Ok(())
}

/// Installs what [`train`] needs.
pub fn prepare_training() -> Result<()> {
    // An engine that never ran would be optimised for its size.
    engines::prepare().map(drop).context("ONNX Runtime and models to run beside it")
}

/// Has programs that count what they do do what is measured: once, and its figures mean nothing.
pub fn train(binaries: PathBuf) -> Result<()> {
    let lab = Lab::full((binaries, PROFILED), 1, 1.0, Vec::new());
    measure(&lab, &TRAINING.map(str::to_owned)).map(drop)
}

/// Runs every measurement for a moment, to see that all servers give right answers. Its figures mean nothing.
pub fn smoke(only: &[String]) -> Result<()> {
    build(&["--workspace", "--bins", "--example", "measure"])?;
    let lab = Lab::smoke()?;
    let sections = measure(&lab, only)?;
    // The report is written as well, and thrown away.
    let text = report::render(&lab, &sections, "cargo xtask bench --quick", "", "");
    if only.is_empty() && sections.len() != SECTIONS.len() {
        bail!("a section is missing: {text}");
    }
    Ok(())
}

fn measure(lab: &Lab, only: &[String]) -> Result<Vec<Section>> {
    let mut sections = Vec::new();
    for (name, measure) in SECTIONS {
        if only.is_empty() || only.iter().any(|wanted| wanted == name) {
            eprintln!("\n[{name}]");
            sections.push(measure(lab).with_context(|| format!("measuring {name}"))?);
        }
    }
    Ok(sections)
}

fn build(arguments: &[&str]) -> Result<()> {
    shell::run("cargo build", shell::command("cargo").arg("build").args(arguments).current_dir(shell::root()))
}

impl Options {
    fn peers(&self) -> Vec<Peer> {
        let chosen = |choice| self.peers.contains(&choice) || self.peers.contains(&PeerChoice::All);
        let mut peers = Vec::new();
        peers.extend(chosen(PeerChoice::Triton).then_some(Peer::Triton));
        peers.extend(chosen(PeerChoice::Mlserver).then_some(Peer::Mlserver));
        peers
    }
}

/// As it would be typed again.
fn command(options: &Options) -> String {
    let mut text = format!("cargo xtask bench --rounds {} --seconds {}", options.rounds, options.seconds);
    if options.pgo {
        text += " --pgo";
    }
    let peers = options.peers();
    if peers.len() < Peer::ALL.len() {
        let names: Vec<_> = peers.iter().map(|peer| peer.name().to_lowercase()).collect();
        text += &format!(" --peers {}", if names.is_empty() { "none".into() } else { names.join(",") });
    }
    if !options.only.is_empty() {
        text += &format!(" --only {}", options.only.join(","));
    }
    text
}
