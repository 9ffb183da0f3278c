//! `airlock default` and `airlock alias`: which version answers to which name.

use std::{str::FromStr, time::Duration};

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};

use super::{
    client::{self, Client},
    connection::Connection,
    operator::change_seen,
    records::Output,
    say::say,
};
use crate::name::{ModelName, Version};

const PATIENCE: Duration = Duration::from_secs(60);

/// Choose the version that answers where none is named
#[derive(Args, Debug)]
pub(super) struct SetDefault {
    /// The model's name
    model: ModelName,
    /// The version that answers
    #[arg(required_unless_present = "highest", conflicts_with = "highest")]
    version: Option<Version>,
    /// Choose none: the highest number answers
    #[arg(long)]
    highest: bool,
    #[command(flatten)]
    answer: super::Answer,
    #[command(flatten)]
    connection: Connection,
}

/// Make a name that stands for a version, or divides requests among several
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  airlock alias iris stable 3
  airlock alias iris canary 3=90 4=10        one request in ten goes to version 4
  airlock alias iris canary --remove
  airlock infer iris --version stable --input 'x=[[5.1,3.5,1.4,0.2]]'")]
pub(super) struct Alias {
    /// The model's name
    model: ModelName,
    /// The alias; it can stand wherever a version can
    name: Version,
    /// Versions with their weights
    #[arg(value_name = "VERSION[=WEIGHT]", required_unless_present = "remove", conflicts_with = "remove")]
    shares: Vec<Share>,
    /// Take the name away again
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    answer: super::Answer,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Debug)]
struct Share {
    version: Version,
    weight: u32,
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (version, weight) = text.split_once('=').unwrap_or((text, "1"));
        let version = version.parse::<Version>().map_err(|error| error.to_string())?;
        let weight =
            weight.parse().map_err(|_| format!("{weight:?} is no weight: write 3=90, a whole number"))?;
        Ok(Self { version, weight })
    }
}

impl SetDefault {
    pub(super) fn run(self) -> Result<()> {
        let client = self.connection.client(PATIENCE)?;
        let settings = client::block_on(change(&client, &self.model, |settings| match &self.version {
            Some(version) => drop(settings.insert("default_version".into(), json!(version))),
            None => drop(settings.remove("default_version")),
        }))?;
        match (self.answer.output, &self.version) {
            (Output::Json, _) => say(settings),
            (Output::Text, Some(version)) => {
                say(format!("{}: version {version} answers where none is named", self.model))
            }
            (Output::Text, None) => {
                say(format!("{}: the highest number answers where no version is named", self.model))
            }
        }
    }
}

impl Alias {
    pub(super) fn run(self) -> Result<()> {
        let client = self.connection.client(PATIENCE)?;
        let (model, name) = (&self.model, self.name.as_str());
        let settings = client::block_on(change(&client, model, |settings| {
            let aliases = settings.entry("aliases").or_insert_with(|| json!({}));
            if let Some(aliases) = aliases.as_object_mut() {
                if self.remove {
                    aliases.remove(name);
                } else {
                    let shares = self.shares.iter();
                    let shares = shares.map(|share| (share.version.to_string(), json!(share.weight)));
                    aliases.insert(name.to_owned(), Value::Object(shares.collect()));
                }
            }
        }))?;
        match self.answer.output {
            Output::Json => say(settings),
            Output::Text if self.remove => say(format!("{model}: '{name}' stands for nothing any more")),
            Output::Text => {
                let total: u64 = self.shares.iter().map(|share| u64::from(share.weight)).sum();
                let share =
                    |share: &Share| format!("version {} ({} of {total})", share.version, share.weight);
                let shares: Vec<String> = self.shares.iter().map(share).collect();
                say(format!("{model}: '{name}' stands for {}", shares.join(", ")))
            }
        }
    }
}

/// Changes a model's settings, and nothing of what others change at the same moment.
async fn change(
    client: &Client,
    model: &ModelName,
    change: impl Fn(&mut Map<String, Value>),
) -> Result<Value> {
    change_seen(client, &format!("/v2/repository/models/{model}/settings"), change).await
}
