//! `cargo xtask pgo`: release builds that are optimised by a profile of themselves at work (profile-guided optimisation).
//!
//! The programs are built so that they count what they do, do what the benchmark measures, and are built once more with those
//! counts: what is called often is inlined and lies together, what never ran is moved out of its way.

use std::{
    env, fs,
    hash::{DefaultHasher, Hasher},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, bail, ensure};

use crate::{bench, demo, guests, server::free_address, shell, toolchain};

/// The oldest that can read what is counted: the format of rustc's LLVM 22 began with it.
const OLDEST: u32 = 19;
/// Programs that merge what was counted.
const TOOLS: [&str; 5] =
    ["llvm-profdata-22", "llvm-profdata-21", "llvm-profdata-20", "llvm-profdata-19", "llvm-profdata"];

/// Where they come from, if there is none.
const COMPONENT: &str = "llvm-tools";
const DEBIAN_PACKAGE: &str = "llvm-19";

pub fn run() -> Result<()> {
    guests::run()?;
    let binaries = build(&bench::PROGRAMS[..1])?;
    // Other optimisations, other mistakes: what was built has to answer.
    demo::check(&binaries, free_address()?)?;
    let gateway = shell::target().join("pgo/airlock");
    fs::copy(binaries.join("airlock"), &gateway)?;
    eprintln!("==> the gateway: {}", gateway.display());
    Ok(())
}

/// Builds the packages that the arguments for cargo name, each with a build of its own, and says where they are.
///
/// # Errors
/// Before anything is built, if no program that merges profiles or no ONNX models can be had.
pub fn build(programs: &[&[&str]]) -> Result<PathBuf> {
    ensure!(env::var_os("LLVM_PROFILE_FILE").is_none(), "LLVM_PROFILE_FILE is set: counts would go there");
    let (host, tools) = (toolchain::host()?, tools()?);
    bench::prepare_training()?;
    let folder = std::path::absolute(shell::target())?.join("pgo");
    let counts = folder.join("counts");
    let flag = format!("-Cprofile-generate={}", counts.display());
    let counting = cargo(&folder.join("counting"), &host, &flag, &bench::TRAINED)?;
    // Programs that have not changed do not count once more.
    let profile = folder.join(format!("{:016x}.profdata", fingerprint(&counting)?));
    let optimised = folder.join("optimised");
    if !profile.exists() {
        // With another profile all is built anew; what was built with the last one would only take space.
        for old in [&counts, &optimised] {
            if old.exists() {
                fs::remove_dir_all(old)?;
            }
        }
        bench::train(counting)?;
        merge(&tools, &counts, &profile)?;
    }
    // The name of the profile is what cargo knows of it.
    let flag = format!("-Cprofile-use={}", profile.display());
    cargo(&optimised, &host, &flag, programs)
}

/// Builds programs with one more flag than the caller's environment has, and says where they are. Flags in a configuration of cargo do
/// not count where there are any in the environment.
fn cargo(folder: &Path, host: &str, flag: &str, programs: &[&[&str]]) -> Result<PathBuf> {
    let encoded = env::var("CARGO_ENCODED_RUSTFLAGS").ok();
    let plain = env::var("RUSTFLAGS").unwrap_or_default().split_whitespace().collect::<Vec<_>>().join("\x1f");
    let flags = [&*encoded.unwrap_or(plain), flag].join("\x1f");
    let flags = flags.trim_start_matches('\x1f');
    for program in programs {
        let mut cargo = shell::command("cargo");
        // With a target that is named, the flags are not for build scripts.
        cargo.args(["build", "--release", "--target", host, "--target-dir"]).arg(folder).args(*program);
        cargo.current_dir(shell::root()).env("CARGO_ENCODED_RUSTFLAGS", flags);
        shell::run(&format!("cargo build {} with {flag}", program.join(" ")), &mut cargo)?;
    }
    Ok(folder.join(host).join("release"))
}

/// Of the programs that count.
fn fingerprint(binaries: &Path) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for program in ["airlock", "airlock-ceiling", "airlock-load", "examples/measure"] {
        hasher.write(&fs::read(binaries.join(program))?);
    }
    Ok(hasher.finish())
}

/// Merges all counts of a folder with the first of the tools that can read them.
fn merge(tools: &[PathBuf], counts: &Path, profile: &Path) -> Result<()> {
    // Written as a whole or not at all: what is there is not counted again.
    let unfinished = profile.with_extension("unfinished");
    let mut said = String::new();
    for tool in tools {
        let output = Command::new(tool).arg("merge").arg("-o").arg(&unfinished).arg(counts).output()?;
        if output.status.success() {
            fs::rename(&unfinished, profile)?;
            return Ok(());
        }
        said += &format!("\n{}: {}", tool.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    bail!("no program can merge what was counted in {}:{said}", counts.display())
}

/// What merges profiles; installed, if there is nothing that does.
fn tools() -> Result<Vec<PathBuf>> {
    let mut found = at_hand()?;
    if found.is_empty() && toolchain::add_with_rustup(&["component", "add", COMPONENT]) {
        found = at_hand()?;
    }
    if found.is_empty() {
        let wanted = format!("merging profiles takes `rustup component add {COMPONENT}`");
        toolchain::install_from_debian(&[DEBIAN_PACKAGE], &wanted)?;
        found = at_hand()?;
    }
    ensure!(
        !found.is_empty(),
        "neither rustup nor Debian's {DEBIAN_PACKAGE} brought a program llvm-profdata"
    );
    Ok(found)
}

/// Programs that are there: rustup's own first, then what the PATH has.
fn at_hand() -> Result<Vec<PathBuf>> {
    let libraries = Command::new("rustc").args(["--print", "target-libdir"]).output()?;
    let libraries = PathBuf::from(String::from_utf8_lossy(&libraries.stdout).trim());
    let own = libraries.with_file_name("bin").join("llvm-profdata");
    let reads = |tool: &PathBuf| {
        let said = Command::new(tool).arg("--version").stderr(Stdio::null()).output();
        said.is_ok_and(|said| version(&String::from_utf8_lossy(&said.stdout)) >= Some(OLDEST))
    };
    Ok([own].into_iter().chain(TOOLS.map(PathBuf::from)).filter(reads).collect())
}

/// The version of LLVM that a program of it says it is of.
fn version(said: &str) -> Option<u32> {
    let (_, version) = said.split_once("LLVM version ")?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_tool_is_known_by_its_version() {
        assert_eq!(version("LLVM (http://llvm.org/):\n  LLVM version 22.1.2-rust-1.95.0-stable\n"), Some(22));
        assert_eq!(version("Debian LLVM version 14.0.6\n"), Some(14));
        assert!(version("no such thing") < Some(OLDEST));
    }

    #[test]
    fn the_first_tool_that_can_merge_is_taken_and_none_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let profile = folder.path().join("a.profdata");
        let tools = ["false", "true"].map(PathBuf::from);
        let error = merge(&tools[..1], folder.path(), &profile).expect_err("it cannot").to_string();
        assert!(error.contains("false: "), "{error}");
        assert!(!profile.exists());
        // `true` writes nothing: what it was to write is put there.
        fs::write(profile.with_extension("unfinished"), "counts").expect("a file");
        merge(&tools, folder.path(), &profile).expect("the second one can");
        assert_eq!(fs::read_to_string(&profile).expect("the profile"), "counts");
    }
}
