//! `airlock tenant`: who may have keys and models, and how much of everything.

use std::str::FromStr;

use anyhow::Result;
use bytesize::ByteSize;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    operator::{Operator, OperatorArguments},
    records::{Output, moment, table},
    say::{plain, say},
};
use crate::{limits::TenantLimits, name::TenantName};

/// Create, list, show, limit and remove tenants
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  airlock tenant create acme --limit storage=10GiB --limit rate=5
  airlock tenant show acme --url http://127.0.0.1:8003                 with what it may use and what it keeps
  airlock tenant limits acme --set running=16 --set deadline=500ms --unset storage

Without --url the command works on the store, whether a gateway runs or not; each gateway on it follows within five seconds.")]
pub(super) struct Tenant {
    #[command(subcommand)]
    action: Action,
    /// How to answer
    #[arg(long, value_name = "FORM", default_value = "text", global = true)]
    output: Output,
    #[command(flatten)]
    operator: OperatorArguments,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a tenant; one that is there already stays as it is
    Create {
        name: TenantName,
        /// A limit of its own, instead of the gateway's; may be repeated
        #[arg(long = "limit", value_name = "LIMIT=VALUE")]
        limits: Vec<Setting>,
    },
    /// List the tenants
    List,
    /// Show a tenant and its limits; at the admin port also what it may use by them, and what it keeps
    Show { name: TenantName },
    /// Show a tenant's own limits, or change them
    #[command(after_help = limits_help())]
    Limits {
        name: TenantName,
        /// Set a limit; may be repeated
        #[arg(long, value_name = "LIMIT=VALUE")]
        set: Vec<Setting>,
        /// Leave a limit to the gateway; may be repeated
        #[arg(long, value_name = "LIMIT", value_parser = known)]
        unset: Vec<String>,
    },
    /// Remove a tenant and revoke all of its keys
    Remove { name: TenantName },
}

/// One limit, as `storage=10GiB`. Names may be written as the gateway's flags are, with `-`.
#[derive(Clone, Copy, Debug)]
struct Setting(TenantLimits);

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("write LIMIT=VALUE, as storage=10GiB")?;
        let mut limits = TenantLimits::default();
        limits.set(&name.replace('-', "_"), value)?;
        Ok(Self(limits))
    }
}

fn known(name: &str) -> Result<String, String> {
    let name = name.replace('-', "_");
    TenantLimits::default().unset(&name)?;
    Ok(name)
}

/// All of them in one; of two that name the same limit the last one counts.
fn together(settings: Vec<Setting>) -> TenantLimits {
    settings.into_iter().fold(TenantLimits::default(), |all, Setting(one)| one.or(all))
}

fn limits_help() -> String {
    let rows: Vec<Vec<String>> = TenantLimits::ALL
        .iter()
        .map(|(name, flag, bounds)| vec![format!("  {name}"), (*flag).to_owned(), (*bounds).to_owned()])
        .collect();
    format!(
        "Limits, and the gateway's settings that they stand beside:\n{}",
        table(&["", "", ""], &rows).trim_start_matches('\n')
    )
}

impl Tenant {
    pub(super) fn run(self) -> Result<()> {
        let output = self.output;
        say(self.operator.with(|operator| self.action.run(operator, output))?)
    }
}

impl Action {
    async fn run(self, operator: Operator, output: Output) -> Result<String> {
        let json = output == Output::Json;
        Ok(match self {
            Self::Create { name, limits } => {
                let made = operator.create(&name, together(limits)).await?;
                match made["new"].as_bool() {
                    _ if json => made.to_string(),
                    Some(true) => format!("tenant '{name}' is created"),
                    _ => format!("tenant '{name}' is there already"),
                }
            }
            Self::List => {
                let found = operator.tenants().await?;
                if json { json!(found).to_string() } else { list(&found) }
            }
            Self::Show { name } => {
                let found = operator.tenant(&name).await?;
                if json { found.to_string() } else { show(&found) }
            }
            Self::Limits { name, set, unset } => {
                let limits = if set.is_empty() && unset.is_empty() {
                    operator.tenant(&name).await?["limits"].take()
                } else {
                    operator.change_limits(&name, together(set), &unset).await?
                };
                if json { limits.to_string() } else { own_limits(name.as_str(), &limits) }
            }
            Self::Remove { name } => {
                let removed = operator.remove(&name).await?;
                let revoked = &removed["revoked_keys"];
                if json {
                    removed.to_string()
                } else {
                    format!("tenant '{name}' is removed, and {revoked} of its keys are revoked")
                }
            }
        })
    }
}

/// Limits as people write them.
fn written(limits: &Value) -> Vec<(&'static str, String)> {
    serde_json::from_value::<TenantLimits>(limits.clone()).unwrap_or_default().written()
}

fn created(tenant: &Value) -> String {
    tenant["created"].as_u64().map_or_else(|| "-".to_owned(), moment)
}

fn list(tenants: &[Value]) -> String {
    let row = |tenant: &Value| {
        let limits: Vec<String> =
            written(&tenant["limits"]).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        vec![plain(tenant["tenant"].as_str().unwrap_or("?")), created(tenant), limits.join(" ")]
    };
    table(&["TENANT", "CREATED", "LIMITS"], &tenants.iter().map(row).collect::<Vec<_>>())
}

fn own_limits(tenant: &str, limits: &Value) -> String {
    let limits = written(limits);
    if limits.is_empty() {
        return format!("tenant '{tenant}' has no limits of its own: it has the gateway's");
    }
    let rows = limits.into_iter().map(|(name, value)| vec![name.to_owned(), value]);
    table(&["LIMIT", "VALUE"], &rows.collect::<Vec<_>>())
}

fn show(tenant: &Value) -> String {
    let name = plain(tenant["tenant"].as_str().unwrap_or("?"));
    let head = format!("{name}, created {}", created(tenant));
    // The store does not know what a gateway makes of it.
    if tenant["quota"].is_null() {
        return format!("{head}\n{}", own_limits(&name, &tenant["limits"]));
    }
    let (own, quota) = (written(&tenant["limits"]), written(&tenant["quota"]));
    let of = |limits: &[(&str, String)], name: &str| {
        let found = limits.iter().find(|(limit, _)| *limit == name);
        found.map_or_else(|| "-".to_owned(), |(_, value)| value.clone())
    };
    let kept = |name: &str| match (name, tenant["kept"][name].as_u64()) {
        (_, None) => "-".to_owned(),
        ("storage" | "loaded", Some(bytes)) => ByteSize(bytes).to_string(),
        (_, Some(count)) => count.to_string(),
    };
    let row = |(name, ..): &(&str, &str, &str)| {
        vec![(*name).to_owned(), of(&own, name), of(&quota, name), kept(name)]
    };
    let rows: Vec<Vec<String>> = TenantLimits::ALL.iter().map(row).collect();
    format!("{head}\n{}", table(&["LIMIT", "OWN", "IN FORCE", "KEPT"], &rows))
}
