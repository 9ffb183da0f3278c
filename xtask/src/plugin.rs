//! `cargo xtask plugin FOLDER`: builds a plugin of your own, with whatever on this machine can build one.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{
    shell,
    toolchain::{TARGET, Toolchain},
};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The folder of the plugin's crate
    folder: PathBuf,
}

/// Builds the crate and says where its modules are, one a line on standard output.
pub fn run(options: &Options) -> Result<()> {
    let folder = fs::canonicalize(&options.folder)
        .with_context(|| format!("there is no folder {}", options.folder.display()))?;
    let toolchain = Toolchain::find()?;
    shell::run(
        &format!("building {} with {}", options.folder.display(), toolchain.description()),
        toolchain.cargo_build().current_dir(&folder),
    )?;
    let release = folder.join("target").join(TARGET).join("release");
    let built =
        fs::read_dir(&release).with_context(|| format!("nothing was built in {}", release.display()))?;
    let mut modules: Vec<PathBuf> = built.flatten().map(|entry| entry.path()).collect();
    modules.retain(|path| path.extension().is_some_and(|extension| extension == "wasm"));
    modules.sort();
    if modules.is_empty() {
        anyhow::bail!("the crate is no plugin: its Cargo.toml needs [lib] crate-type = [\"cdylib\"]");
    }
    for module in modules {
        println!("{}", module.display());
    }
    Ok(())
}
