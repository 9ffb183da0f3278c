//! Python environments of the project's own, below the target folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::shell;

/// The Python of the virtual environment `target/venv/<name>`, made anew when it is missing or when the text of a
/// requirements file or the version of `python3` has changed.
pub fn venv(name: &str, requirements: &[&Path]) -> Result<PathBuf> {
    let folder = folder(name);
    if let Some(python) = ready(name, requirements) {
        return Ok(python);
    }
    let python = folder.join("bin/python");
    shell::run(
        &format!("making the Python environment {}", folder.display()),
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder),
    )
    .context("it needs python3 with its venv module (Debian: apt-get install python3-venv)")?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]);
    for file in requirements {
        pip.arg("--requirement").arg(file);
    }
    shell::run("installing its packages from PyPI", &mut pip)?;
    // Last, so that an interrupted installation is not taken for a finished one.
    let stamp = folder.join(STAMP);
    fs::write(&stamp, made_from(requirements)?)
        .with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(python)
}

/// The same Python, if nothing has to be made for it.
pub fn ready(name: &str, requirements: &[&Path]) -> Option<PathBuf> {
    let python = folder(name).join("bin/python");
    let made = fs::read_to_string(folder(name).join(STAMP)).ok()?;
    (python.is_file() && made == made_from(requirements).ok()?).then_some(python)
}

fn folder(name: &str) -> PathBuf {
    shell::target().join("venv").join(name)
}

/// Of an environment: what it was made from.
const STAMP: &str = "made-from.txt";

/// What an environment depends on, as the text that is left in it.
fn made_from(requirements: &[&Path]) -> Result<String> {
    let version = Command::new("python3")
        .arg("--version")
        .output()
        .context("cannot start python3: install Python 3.11 or later")?;
    let mut text = String::from_utf8_lossy(&version.stdout).into_owned();
    for file in requirements {
        text += &fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(text)
}
