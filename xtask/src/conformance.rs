//! `cargo xtask conformance`: which parts of the V2 protocol a server keeps; see `conformance/`.

use std::ffi::OsString;

use anyhow::{Context, Result};

use crate::shell;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// What the suite is told: --url, --grpc-url, --model, --only, --all, --report; --help explains them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
    arguments: Vec<OsString>,
}

/// Ends as the suite does.
pub fn run(options: &Options) -> Result<std::process::ExitCode> {
    let mut suite = shell::command("cargo");
    suite.args(["run", "--quiet", "--package", "airlock-conformance", "--"]).current_dir(shell::root());
    let status = suite.args(&options.arguments).status().context("cannot start cargo")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(std::process::ExitCode::from(code.unwrap_or(2)))
}
