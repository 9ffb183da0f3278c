//! What the operator's commands work on: a store, whether a gateway runs or not, or the admin port of one that does. Both give
//! the same answers, in the form of the admin port.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;
use reqwest::{
    Method,
    header::{CONTENT_TYPE, ETAG, IF_MATCH},
};
use serde_json::{Map, Value, json};

use super::{
    client::{self, Client, is_refusal},
    connection::{ADMIN_URL, Access},
};
use crate::{
    admin::{AdminError, NewKey, Tenants},
    authenticate::{KeyId, now},
    config::S3Options,
    limits::TenantLimits,
    name::TenantName,
    repository::artifacts::Location,
    secret::Purpose,
    store::{Store, StorePlace},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// How often a change is tried again because somebody else was faster.
const TRIES: usize = 8;

/// Where a command does its work; every gateway on the store sees it within five seconds.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Store or admin port")]
pub(super) struct OperatorArguments {
    /// The gateway's store: a folder, or s3://BUCKET/PREFIX
    #[arg(long, value_name = "STORE", env = "AIRLOCK_STORE", global = true)]
    store: Option<Location>,

    /// The gateway's own folder [default: `local` in the store's folder]
    #[arg(long, value_name = "DIR", env = "AIRLOCK_STATE", global = true)]
    state: Option<PathBuf>,

    /// The gateway's secret; made if there is none [default: `secret` in that folder]
    #[arg(long, value_name = "FILE", env = "AIRLOCK_SECRET_FILE", global = true)]
    secret_file: Option<PathBuf>,

    /// Work on a running gateway instead, at its admin port (http://127.0.0.1:8003), with a key of scope `admin`
    #[arg(long, value_name = "URL", global = true)]
    url: Option<String>,

    #[command(flatten)]
    s3: S3Options,

    #[command(flatten)]
    access: Access,
}

/// What does the work.
pub(super) enum Operator {
    Store(Tenants),
    Port(Client),
}

impl OperatorArguments {
    /// Opens the store, or turns to the admin port, and does something there.
    pub(super) fn with<T, F: Future<Output = Result<T>>>(
        self,
        work: impl FnOnce(Operator) -> F,
    ) -> Result<T> {
        client::block_on(async { work(self.operator().await?).await })
    }

    async fn operator(self) -> Result<Operator> {
        let store = match (self.url, self.store) {
            (Some(url), _) => {
                return Ok(Operator::Port(self.access.client(Some(&url), ADMIN_URL, PATIENCE)?));
            }
            (None, Some(store)) => store,
            (None, None) => bail!(
                "say which gateway's store to work on: --store DIR; or its admin port: --url http://127.0.0.1:8003"
            ),
        };
        let place = StorePlace::new(&store, self.state, self.secret_file)?.with_s3(self.s3.into());
        let Store { artifacts, secret, .. } = place.open()?;
        // A record that is made with another secret would be of no use to any gateway.
        artifacts.self_test().await?;
        Ok(Operator::Store(Tenants::new(artifacts, secret.key(Purpose::ApiKey))))
    }
}

impl Operator {
    pub(super) async fn create(&self, tenant: &TenantName, limits: TenantLimits) -> Result<Value> {
        match self {
            Self::Store(tenants) => {
                let (record, new) = tenants.create_with(tenant, limits, now()).await?;
                let mut shown = record.shown(tenant);
                shown["new"] = json!(new);
                Ok(shown)
            }
            Self::Port(client) => {
                client.put(&format!("/v2/admin/tenants/{tenant}"), &serde_json::to_value(limits)?).await
            }
        }
    }

    pub(super) async fn tenants(&self) -> Result<Vec<Value>> {
        match self {
            Self::Store(tenants) => {
                let found = tenants.list().await?;
                Ok(found.iter().map(|(name, record)| record.shown(name)).collect())
            }
            Self::Port(client) => listed(client.get("/v2/admin/tenants").await?, "tenants"),
        }
    }

    /// A tenant; the admin port also tells what it may use and what it keeps.
    pub(super) async fn tenant(&self, tenant: &TenantName) -> Result<Value> {
        match self {
            Self::Store(tenants) => Ok(tenants.tenant(tenant).await?.1.shown(tenant)),
            Self::Port(client) => client.get(&format!("/v2/admin/tenants/{tenant}")).await,
        }
    }

    pub(super) async fn remove(&self, tenant: &TenantName) -> Result<Value> {
        match self {
            Self::Store(tenants) => {
                let revoked = tenants.remove(tenant, now()).await?;
                Ok(json!({ "tenant": tenant, "removed": true, "revoked_keys": revoked }))
            }
            Self::Port(client) => {
                client.json(client.request(Method::DELETE, &format!("/v2/admin/tenants/{tenant}"))).await
            }
        }
    }

    /// Sets some of a tenant's limits and leaves others to the gateway; nobody else's change is lost.
    pub(super) async fn change_limits(
        &self,
        tenant: &TenantName,
        set: TenantLimits,
        unset: &[String],
    ) -> Result<Value> {
        match self {
            Self::Store(tenants) => {
                let change = |own: TenantLimits| {
                    let mut limits = set.or(own);
                    for name in unset {
                        limits.unset(name).map_err(AdminError::Limits)?;
                    }
                    Ok(limits)
                };
                let (_, record) = tenants.change_limits(tenant, None, change).await?;
                Ok(serde_json::to_value(record.limits)?)
            }
            Self::Port(client) => {
                let set = serde_json::to_value(set)?;
                let change = |limits: &mut Map<String, Value>| {
                    limits.extend(set.as_object().cloned().unwrap_or_default());
                    limits.retain(|name, _| !unset.contains(name));
                };
                change_seen(client, &format!("/v2/admin/tenants/{tenant}/limits"), change).await
            }
        }
    }

    pub(super) async fn create_key(&self, tenant: &TenantName, new: NewKey) -> Result<Value> {
        let now = now();
        match self {
            Self::Store(tenants) => {
                let (key, of) = tenants.create_key(tenant, new, now).await?;
                let mut told = of.shown(now);
                told["key"] = json!(*key.reveal());
                Ok(told)
            }
            Self::Port(client) => {
                let expires_in = new.expires.map(|expires| expires.saturating_sub(now));
                let body = json!({ "scopes": new.scopes, "label": new.label, "expires_in": expires_in });
                let request = client.request(Method::POST, &format!("/v2/admin/tenants/{tenant}/keys"));
                client.json(request.header(CONTENT_TYPE, "application/json").body(body.to_string())).await
            }
        }
    }

    pub(super) async fn keys(&self, of: Option<&TenantName>) -> Result<Vec<Value>> {
        match (self, of) {
            (Self::Store(tenants), _) => {
                let (keys, now) = (tenants.keys(of).await?, now());
                Ok(keys.iter().map(|key| key.shown(now)).collect())
            }
            (Self::Port(client), Some(tenant)) => {
                listed(client.get(&format!("/v2/admin/tenants/{tenant}/keys")).await?, "keys")
            }
            (Self::Port(client), None) => listed(client.get("/v2/admin/keys").await?, "keys"),
        }
    }

    pub(super) async fn revoke(&self, id: KeyId) -> Result<Value> {
        match self {
            Self::Store(tenants) => Ok(tenants.revoke(None, id, now()).await?.shown(now())),
            Self::Port(client) => {
                client.json(client.request(Method::DELETE, &format!("/v2/admin/keys/{id}"))).await
            }
        }
    }
}

fn listed(mut answer: Value, name: &str) -> Result<Vec<Value>> {
    match answer[name].take() {
        Value::Array(list) => Ok(list),
        _ => bail!("the answer has no {name}: is this the admin port of an Airlock gateway?"),
    }
}

/// Reads what lies at a path, changes it and writes it back; what this program does not know of stays as it is. If somebody
/// else changes it meanwhile, their change is read and kept.
pub(super) async fn change_seen(
    client: &Client,
    path: &str,
    change: impl Fn(&mut Map<String, Value>),
) -> Result<Value> {
    for tries in 1.. {
        let response = client.send(client.request(Method::GET, path)).await?;
        let etag = response.headers().get(ETAG).cloned();
        let mut there: Map<String, Value> = serde_json::from_slice(&client.bytes(response).await?)
            .with_context(|| format!("what lies at {path} is no JSON object"))?;
        change(&mut there);
        let mut request = client.request(Method::PUT, path).header(CONTENT_TYPE, "application/json");
        if let Some(etag) = etag {
            request = request.header(IF_MATCH, etag);
        }
        match client.json(request.body(Value::Object(there).to_string())).await {
            Err(error) if is_refusal(&error, "changed_meanwhile") && tries < TRIES => {}
            done => return done,
        }
    }
    bail!("{path} changes all the time")
}
