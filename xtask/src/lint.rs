//! `cargo xtask lint`: formatting, clippy, and what may be depended on.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::shell;

/// Both in `deny.toml`'s terms and in what is installed.
const DENY_VERSION: &str = "0.20.2";
/// Time for the fetch of the advisory database.
const FETCH_PATIENCE: Duration = Duration::from_secs(60);

pub fn run() -> Result<()> {
    let root = shell::root();
    shell::run("formatting", cargo(&root).args(["fmt", "--all", "--check"]))?;
    for folder in ["examples/guests", "onnx-plugin"] {
        shell::run(
            &format!("formatting of {folder}"),
            cargo(&root.join(folder)).args(["fmt", "--all", "--check"]),
        )?;
    }
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    shell::run("clippy", cargo(&root).args(clippy))?;
    let deny = cargo_deny()?;
    let check = ["check", "bans", "licenses", "sources"];
    shell::run("dependencies", Command::new(&deny).args(check).current_dir(&root))?;
    advisories(&deny, &root)
}

fn cargo(folder: &Path) -> Command {
    let mut command = shell::command("cargo");
    command.current_dir(folder);
    command
}

/// The pinned cargo-deny: the one on the PATH if it is that version, else one that is built below the target folder.
fn cargo_deny() -> Result<PathBuf> {
    let folder = shell::target().join("tools");
    let built = folder.join("bin/cargo-deny");
    for candidate in [Path::new("cargo-deny"), &built] {
        if is_pinned(candidate) {
            return Ok(candidate.to_owned());
        }
    }
    let mut install = cargo(&shell::root());
    // Unoptimised: it runs for two seconds, and takes four times as long to build otherwise.
    install
        .args(["install", "cargo-deny", "--locked", "--force", "--profile", "dev", "--version", DENY_VERSION])
        .arg("--root")
        .arg(&folder)
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    shell::run(&format!("installing cargo-deny {DENY_VERSION} (once, one to two minutes)"), &mut install)?;
    Ok(built)
}

fn is_pinned(cargo_deny: &Path) -> bool {
    let output = Command::new(cargo_deny).arg("--version").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == format!("cargo-deny {DENY_VERSION}").as_bytes())
}

/// Known vulnerabilities, where their database can be reached: a closed network must not fail the build.
fn advisories(deny: &Path, root: &Path) -> Result<()> {
    let mut fetch = Command::new(deny)
        .args(["fetch", "db"])
        .current_dir(root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start cargo-deny")?;
    let started = Instant::now();
    let fetched = loop {
        if let Some(status) = fetch.try_wait()? {
            break status.success();
        }
        if started.elapsed() > FETCH_PATIENCE {
            fetch.kill()?;
            fetch.wait()?;
            break false;
        }
        thread::sleep(Duration::from_millis(50));
    };
    if !fetched {
        eprintln!("    advisories: not checked (database not reachable)");
        return Ok(());
    }
    shell::run("advisories", Command::new(deny).args(["check", "advisories"]).current_dir(root))
}
