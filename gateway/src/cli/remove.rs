//! `airlock remove`: a version, or a model with all its versions, is served no longer.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use reqwest::Method;

use super::{client, connection::Connection, records::Output, say::say};
use crate::name::{ModelName, Version};

const PATIENCE: Duration = Duration::from_secs(60);

/// Remove one version, or a model with all of them
#[derive(Args, Debug)]
pub(super) struct Remove {
    /// The model's name
    model: ModelName,
    /// Only this version [default: all of them, and the model's settings]
    #[arg(long, value_name = "VERSION")]
    version: Option<Version>,
    #[command(flatten)]
    answer: super::Answer,
    #[command(flatten)]
    connection: Connection,
}

impl Remove {
    pub(super) fn run(self) -> Result<()> {
        let client = self.connection.client(PATIENCE)?;
        let mut path = format!("/v2/repository/models/{}", self.model);
        let mut text = format!("{} is removed", self.model);
        if let Some(version) = &self.version {
            path.push_str(&format!("/versions/{version}"));
            text = format!("{} version {version} is removed", self.model);
        }
        let removed = client::block_on(client.json(client.request(Method::DELETE, &path)))?;
        match self.answer.output {
            Output::Json => say(removed),
            Output::Text => say(text),
        }
    }
}
