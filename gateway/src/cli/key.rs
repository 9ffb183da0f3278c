//! `airlock key`: what tenants prove with who they are.

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    records::{Output, StoreArguments, moment, table},
    say::{note, say},
};
use crate::{
    admin::{KeyOf, NewKey, Tenants},
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
  curl -H \"Authorization: Bearer $KEY\" localhost:8000/v2

Whoever has a key is its tenant. To replace one: create a second, use it, revoke the first.")]
pub(super) struct Key {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    store: StoreArguments,
    /// How to answer
    #[arg(long, value_name = "FORM", default_value = "text", global = true)]
    output: Output,
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
        self.store.with(|tenants| self.action.run(tenants, output))
    }
}

impl Action {
    async fn run(self, tenants: Tenants, output: Output) -> Result<()> {
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
                let (key, of) = tenants.create_key(&tenant, new, now).await?;
                let (id, scopes) = (of.record.id, of.record.scopes);
                // The key alone on stdout, so that a script can keep it without looking for it.
                match output {
                    Output::Text => {
                        say(key.reveal().as_str())?;
                        note(format!(
                            "key {id} of tenant '{tenant}' for {scopes}: keep it, it is not shown again"
                        ));
                    }
                    Output::Json => {
                        let mut told = of.shown(now);
                        told["key"] = json!(*key.reveal());
                        say(told)?;
                    }
                }
            }
            Self::List { tenant } => {
                let (keys, now) = (tenants.keys(tenant.as_ref()).await?, now());
                match output {
                    Output::Json => {
                        say(json!(keys.iter().map(|key| key.shown(now)).collect::<Vec<_>>()))?;
                    }
                    Output::Text => {
                        let rows: Vec<_> = keys.iter().map(|key| row(key, now)).collect();
                        let headings = ["ID", "TENANT", "SCOPES", "STATE", "CREATED", "EXPIRES", "LABEL"];
                        say(table(&headings, &rows))?;
                    }
                }
            }
            Self::Revoke { id } => {
                let key = tenants.revoke(None, id, now()).await?;
                match output {
                    Output::Text => say(format!("key {id} of tenant '{}' is revoked", key.tenant))?,
                    Output::Json => say(key.shown(now()))?,
                }
            }
        }
        Ok(())
    }
}

fn row(key: &KeyOf, now: u64) -> Vec<String> {
    let record = &key.record;
    vec![
        record.id.to_string(),
        key.tenant.to_string(),
        record.scopes.to_string().replace(' ', ","),
        record.state(now).to_owned(),
        moment(record.created),
        record.expires.map_or_else(|| "never".to_owned(), moment),
        record.label.clone().unwrap_or_default(),
    ]
}
