//! `cargo xtask fuzz`: the targets of `fuzz/` under libFuzzer, one after the other, without cargo-fuzz and without a nightly
//! compiler.
//!
//! What is found lies in `target/fuzz/found`, what was learned in `target/fuzz/corpus`; `--keep` leaves a small part of that
//! in `fuzz/corpus`, which the ordinary tests replay.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{shell, toolchain};

/// What makes code tell libFuzzer where it has been. Without a sanitizer of addresses: there is next to no unsafe code of
/// ours, and the compiler on hand can do it.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0";

/// Of what is kept of a corpus.
const MAX_FILES: usize = 96;
const MAX_BYTES: u64 = 190_000;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The target to run; all of them if none is named
    target: Option<String>,
    /// Time for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Keep a small part of what was learned in fuzz/corpus
    #[arg(long)]
    keep: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let targets = targets()?;
    let chosen: Vec<&String> = match &options.target {
        None => targets.iter().collect(),
        Some(name) => targets.iter().filter(|target| *target == name).collect(),
    };
    ensure!(!chosen.is_empty(), "there is no such target; there are {}", targets.join(", "));
    let binaries = build()?;
    let mut found = Vec::new();
    for (index, target) in chosen.iter().enumerate() {
        eprintln!("\n[{}/{}] {target}, {} s", index + 1, chosen.len(), options.seconds);
        let target = Target::new(&binaries, target)?;
        if target.run(options.seconds).is_err() {
            found.push(format!("{} ({})", target.name, target.found().display()));
        }
        if options.keep {
            target.keep()?;
        }
    }
    ensure!(found.is_empty(), "inputs that break a promise were found: {}", found.join(", "));
    Ok(())
}

/// The names of the targets.
fn targets() -> Result<Vec<String>> {
    let files = fs::read_dir(shell::root().join("fuzz/fuzz_targets"))?;
    let names =
        files.map(|file| Ok(file?.path().file_stem().context("a name")?.to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<String>>>()?;
    names.sort();
    Ok(names)
}

/// Builds all targets, and says where they are. They have a target folder of their own: everything is built anew for this.
fn build() -> Result<PathBuf> {
    let host = toolchain::host()?;
    let folder = shell::target().join("fuzz");
    let mut cargo = shell::command("cargo");
    // With a target that is named, the flags are not for build scripts.
    cargo.args(["build", "--release", "--bins", "--target", &host, "--target-dir"]).arg(&folder);
    cargo.current_dir(shell::root().join("fuzz")).env("RUSTFLAGS", RUSTFLAGS);
    shell::run("building the fuzz targets (the first time, 15 minutes on two cores)", &mut cargo)?;
    Ok(folder.join(host).join("release"))
}

struct Target<'a> {
    name: &'a str,
    program: PathBuf,
    /// What was learned here.
    learned: PathBuf,
    /// What is in the checkout.
    kept: PathBuf,
}

impl<'a> Target<'a> {
    fn new(binaries: &Path, name: &'a str) -> Result<Self> {
        let target = Self {
            name,
            program: binaries.join(name),
            learned: shell::target().join("fuzz/corpus").join(name),
            kept: shell::root().join("fuzz/corpus").join(name),
        };
        for folder in [&target.learned, &target.kept, &target.found()] {
            fs::create_dir_all(folder)?;
        }
        Ok(target)
    }

    fn found(&self) -> PathBuf {
        shell::target().join("fuzz/found").join(self.name)
    }

    fn run(&self, seconds: u32) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args([&self.learned, &self.kept]);
        // An input that takes ten seconds or two gigabytes is a finding as well.
        command.args(["-timeout=10", "-rss_limit_mb=2048", "-max_len=16384", "-print_final_stats=1"]);
        command.arg(format!("-max_total_time={seconds}"));
        command.arg(format!("-artifact_prefix={}/", self.found().display()));
        shell::run(self.name, &mut command)
    }

    /// Replaces what is kept by as little as covers most of what was learned.
    fn keep(&self) -> Result<()> {
        let merged = shell::target().join("fuzz/merged").join(self.name);
        if merged.exists() {
            fs::remove_dir_all(&merged)?;
        }
        fs::create_dir_all(&merged)?;
        let mut merge = Command::new(&self.program);
        // Counters tell how often a branch was taken: for that there would be ten times as many files.
        merge.args(["-merge=1", "-use_counters=0", "-timeout=10", "-rss_limit_mb=2048"]);
        merge.arg(&merged).args([&self.learned, &self.kept]);
        shell::run("minimising", &mut merge)?;
        let mut files = Vec::new();
        for file in fs::read_dir(&merged)? {
            let file = file?;
            files.push((file.metadata()?.len(), file.path()));
        }
        files.sort();
        fs::remove_dir_all(&self.kept)?;
        fs::create_dir_all(&self.kept)?;
        for (_, file) in bounded(files, |(size, _)| *size) {
            fs::copy(&file, self.kept.join(file.file_name().context("a name")?))?;
        }
        Ok(())
    }
}

/// Of files in the order of their size as many, of all sizes, as may be kept.
fn bounded<T>(files: Vec<T>, size: impl Fn(&T) -> u64) -> Vec<T> {
    let mut files = files;
    while files.len() > MAX_FILES || files.iter().map(&size).sum::<u64>() > MAX_BYTES {
        // The largest first; too many small ones, evenly.
        if files.iter().map(&size).sum::<u64>() > MAX_BYTES {
            files.pop();
        } else {
            let step = files.len().div_ceil(files.len() - MAX_FILES).max(2);
            let mut index = 0;
            files.retain(|_| {
                index += 1;
                index % step != 0
            });
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_of_all_sizes() {
        let kept = bounded((0..1000u64).collect(), |size| *size);
        assert!(kept.len() <= MAX_FILES && kept.len() > MAX_FILES / 2, "{}", kept.len());
        assert!(kept.iter().sum::<u64>() <= MAX_BYTES);
        assert!(
            kept.first().is_some_and(|size| *size < 50) && kept.last().is_some_and(|size| *size > 400),
            "{kept:?}"
        );
        assert_eq!(bounded(vec![1, 2, 3], |size| *size), [1, 2, 3]);
        assert_eq!(bounded(vec![1, MAX_BYTES], |size| *size), [1]);
    }

    #[test]
    fn each_target_is_a_program() {
        let manifest = fs::read_to_string(shell::root().join("fuzz/Cargo.toml")).expect("a manifest");
        for target in targets().expect("targets") {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not in fuzz/Cargo.toml");
        }
    }
}
