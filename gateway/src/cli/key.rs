//! `airlock key`: what tenants prove with who they are.

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    operator::{Operator, OperatorArguments},
    records::{Output, moment, table},
    say::{note, plain, say},
};
use crate::{
    admin::NewKey,
    authenticate::{KeyId, Scope, now},
    config::Span,
    name::TenantName,
};

/// Create, list and revoke API keys
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  KEY=$(airlock key create --tenant acme --scope infer,repository)     a key for a tenant's own work
  airlock key create --tenant ops --scope admin --expires 90d          one for the admin port
  airlock key list --url http://127.0.0.1:8003                         over the admin port, with a key of scope admin
  curl -H \"Authorization: Bearer $KEY\" localhost:8000/v2

Whoever has a key is its tenant. To replace one: create a second, use it, revoke the first.")]
pub(super) struct Key {
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
    /// Make a key and print it; it cannot be shown again
    Create {
        /// Whose key it is
        #[arg(long, value_name = "TENANT", env = "AIRLOCK_TENANT")]
        tenant: TenantName,
        /// What it allows: infer, repository, admin; may be repeated
        #[arg(long, value_name = "SCOPE", value_delimiter = ',', default_value = "infer")]
        scope: Vec<Scope>,
        /// What it is for, to be told from others in lists
        #[arg(long, value_name = "TEXT")]
        label: Option<String>,
        /// How long it is valid, as `90d` or `12h` [default: until it is revoked]
        #[arg(long, value_name = "TIME")]
        expires: Option<Span>,
    },
    /// List keys, revoked and expired ones included
    List {
        /// Only those of this tenant
        #[arg(long, value_name = "TENANT")]
        tenant: Option<TenantName>,
    },
    /// End a key; every gateway on the store refuses it within five seconds
    Revoke {
        /// The 16 digits behind `ak_`
        id: KeyId,
    },
}

impl Key {
    pub(super) fn run(self) -> Result<()> {
        let output = self.output;
        self.operator.with(|operator| self.action.run(operator, output))
    }
}

impl Action {
    async fn run(self, operator: Operator, output: Output) -> Result<()> {
        match self {
            Self::Create { tenant, scope, label, expires } => {
                let now = now();
                let expires = match expires {
                    None => None,
                    Some(span) => {
                        Some(now.checked_add(span.0.as_secs()).context("--expires is too far away")?)
                    }
                };
                let new = NewKey { scopes: scope.into_iter().collect(), label, expires };
                let scopes = new.scopes;
                let told = operator.create_key(&tenant, new).await?;
                // The key alone on stdout, so that a script can keep it without looking for it.
                match output {
                    Output::Text => {
                        let (key, id) = (word(&told, "key"), word(&told, "id"));
                        say(key)?;
                        note(format!(
                            "key {id} of tenant '{tenant}' for {scopes}: keep it, it is not shown again"
                        ));
                    }
                    Output::Json => say(told)?,
                }
            }
            Self::List { tenant } => {
                let keys = operator.keys(tenant.as_ref()).await?;
                match output {
                    Output::Json => say(json!(keys))?,
                    Output::Text => {
                        let rows: Vec<_> = keys.iter().map(row).collect();
                        let headings = ["ID", "TENANT", "SCOPES", "STATE", "CREATED", "EXPIRES", "LABEL"];
                        say(table(&headings, &rows))?;
                    }
                }
            }
            Self::Revoke { id } => {
                let key = operator.revoke(id).await?;
                match output {
                    Output::Text => say(format!("key {id} of tenant '{}' is revoked", word(&key, "tenant")))?,
                    Output::Json => say(key)?,
                }
            }
        }
        Ok(())
    }
}

fn word(key: &Value, field: &str) -> String {
    plain(key[field].as_str().unwrap_or_default())
}

fn row(key: &Value) -> Vec<String> {
    let scopes = key["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let time = |field: &str| key[field].as_u64().map(moment);
    vec![
        word(key, "id"),
        word(key, "tenant"),
        plain(&scopes.collect::<Vec<_>>().join(",")),
        word(key, "state"),
        time("created").unwrap_or_default(),
        time("expires").unwrap_or_else(|| "never".to_owned()),
        word(key, "label"),
    ]
}
