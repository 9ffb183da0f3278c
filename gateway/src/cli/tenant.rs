//! `airlock tenant`: who may have keys and models.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    records::{Output, StoreArguments, moment, table},
    say::say,
};
use crate::{admin::Tenants, authenticate::now, name::TenantName};

/// Create, list and remove tenants
#[derive(Args, Debug)]
pub(super) struct Tenant {
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
    /// Make a tenant; one that is there already stays as it is
    Create { name: TenantName },
    /// List the tenants
    List,
    /// Remove a tenant and revoke all of its keys
    Remove { name: TenantName },
}

impl Tenant {
    pub(super) fn run(self) -> Result<()> {
        let output = self.output;
        let text = self.store.with(|tenants| self.action.run(tenants, output))?;
        say(text)
    }
}

impl Action {
    async fn run(self, tenants: Tenants, output: Output) -> Result<String> {
        Ok(match self {
            Self::Create { name } => {
                let (record, new) = tenants.create(&name, now()).await?;
                match output {
                    Output::Json => {
                        json!({ "tenant": name.as_str(), "created": record.created, "new": new }).to_string()
                    }
                    Output::Text if new => format!("tenant '{name}' is created"),
                    Output::Text => format!("tenant '{name}' is there already"),
                }
            }
            Self::List => {
                let found = tenants.list().await?;
                match output {
                    Output::Json => {
                        let entry = |(name, record): &(TenantName, crate::admin::TenantRecord)| json!({ "tenant": name.as_str(), "created": record.created });
                        json!(found.iter().map(entry).collect::<Vec<_>>()).to_string()
                    }
                    Output::Text => {
                        let row = |(name, record): &(TenantName, crate::admin::TenantRecord)| {
                            vec![name.to_string(), moment(record.created)]
                        };
                        table(&["TENANT", "CREATED"], &found.iter().map(row).collect::<Vec<_>>())
                    }
                }
            }
            Self::Remove { name } => {
                let revoked = tenants.remove(&name, now()).await?;
                match output {
                    Output::Json => json!({ "tenant": name.as_str(), "revoked_keys": revoked }).to_string(),
                    Output::Text => {
                        format!("tenant '{name}' is removed, and {revoked} of its keys are revoked")
                    }
                }
            }
        })
    }
}
