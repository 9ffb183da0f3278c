//! Measures whether the time of an answer tells what its text must not: `keys`, whether a key's id exists; `models`, whether
//! another tenant has a model of that name.
//!
//! The two kinds of request are interleaved at random, and Welch's t of their times is printed, as dudect does it. |t| < 4.5 shows
//! no difference. Nothing asserts that: a busy machine is noisy, and `--control` shows what it gives by itself. Run it optimised:
//! `cargo build --release --workspace --bins`, then `target/release/airlock-timing keys`. Quicker, where the development profile
//! is built already: `cargo build --workspace --bins --config profile.dev.package.airlock.opt-level=2`.

mod keys;
mod models;
mod welch;

use anyhow::Result;
use clap::Parser;

#[derive(Debug, Parser)]
#[command(about = "Measure whether answers tell by their time what they must not tell")]
enum Cli {
    Keys(keys::Keys),
    Models(models::Models),
}

fn main() -> Result<()> {
    match Cli::parse() {
        Cli::Keys(keys) => keys.run(),
        Cli::Models(models) => models.run(),
    }
}
