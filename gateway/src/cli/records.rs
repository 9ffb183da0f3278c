//! What the commands on tenants and keys have in common: the store they work on, and how they answer.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::{
    admin::Tenants,
    config::S3Options,
    repository::artifacts::Location,
    secret::Purpose,
    store::{Store, StorePlace},
};

/// Which store a command works on; a gateway need not be running, and one that is sees the change within five seconds.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Store")]
pub(super) struct StoreArguments {
    /// The gateway's store: a folder, or s3://BUCKET/PREFIX
    #[arg(long, value_name = "STORE", env = "AIRLOCK_STORE", global = true)]
    store: Option<Location>,

    /// The gateway's own folder [default: `local` in the store's folder]
    #[arg(long, value_name = "DIR", env = "AIRLOCK_STATE", global = true)]
    state: Option<PathBuf>,

    /// The gateway's secret; made if there is none [default: `secret` in that folder]
    #[arg(long, value_name = "FILE", env = "AIRLOCK_SECRET_FILE", global = true)]
    secret_file: Option<PathBuf>,

    #[command(flatten)]
    s3: S3Options,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    #[default]
    Text,
    Json,
}

impl StoreArguments {
    /// Opens the store and does something with its tenants.
    pub(super) fn with<T, F: Future<Output = Result<T>>>(self, work: impl FnOnce(Tenants) -> F) -> Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start a runtime")?;
        runtime.block_on(async {
            let store = self.store.context("say which gateway's store to work on: --store DIR")?;
            let place = StorePlace::new(&store, self.state, self.secret_file)?.with_s3(self.s3.into());
            let Store { artifacts, secret, .. } = place.open()?;
            // A record that is made with another secret would be of no use to any gateway.
            artifacts.self_test().await?;
            work(Tenants::new(artifacts, secret.key(Purpose::ApiKey))).await
        })
    }
}

/// A moment, as `2026-11-25T08:00:00Z`.
pub(super) fn moment(seconds: u64) -> String {
    let moment = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(moment).to_string()
}

/// Rows under their headings, each column as wide as its widest cell.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let headings = headings.iter().map(ToString::to_string).collect::<Vec<_>>();
    let lines: Vec<&Vec<String>> = std::iter::once(&headings).chain(rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |line: &&Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a".to_owned(), "x".to_owned()], vec!["longer".to_owned(), String::new()]];
        assert_eq!(table(&["ID", "NAME"], &rows), "ID      NAME\na       x\nlonger");
    }

    #[test]
    fn moments_are_written_in_utc() {
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
    }
}
