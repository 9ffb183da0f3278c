//! `cargo xtask onnx-plugin`: builds the plugin that runs ONNX models in the wasm sandbox.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{
    shell,
    toolchain::{TARGET, Toolchain},
};

/// Builds what has changed, and says on standard output where the plugin is.
pub fn run() -> Result<()> {
    println!("{}", build()?.display());
    Ok(())
}

/// The plugin's file, `target/onnx-plugin.wasm`. Built from nothing it takes the engine some minutes.
pub fn build() -> Result<PathBuf> {
    // Cargo is started in another folder, where a relative path would mean another place.
    let target = std::path::absolute(shell::target())?;
    let folder = target.join("onnx-plugin");
    let toolchain = Toolchain::find()?;
    shell::run(
        &format!("building the plugin for ONNX models with {}", toolchain.description()),
        // In this folder cargo finds the target's flags, `.cargo/config.toml`.
        toolchain
            .cargo_build()
            .arg("--target-dir")
            .arg(&folder)
            .current_dir(shell::root().join("onnx-plugin")),
    )?;
    let (built, plugin) =
        (folder.join(TARGET).join("release/onnx_plugin.wasm"), target.join("onnx-plugin.wasm"));
    fs::copy(&built, &plugin).with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(plugin)
}
