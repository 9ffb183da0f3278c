//! `airlock completions`: what a shell needs to complete commands and flags.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::{Cli, say::say};

/// Print completions for a shell
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  airlock completions bash > ~/.local/share/bash-completion/completions/airlock
  airlock completions zsh > \"${fpath[1]}/_airlock\"
  airlock completions fish > ~/.config/fish/completions/airlock.fish")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<()> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "airlock", &mut script);
        say(String::from_utf8(script)?.trim_end())
    }
}
