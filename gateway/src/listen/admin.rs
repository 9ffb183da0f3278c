//! The admin port: tenants and their keys over HTTP, for keys with the scope `admin` only.
//!
//! Here nobody is let in without a key, not even over loopback: the first one is made on the store itself.

use std::{net::IpAddr, sync::Arc};

use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    http::request::Parts,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    authorise::authorise_admin,
    body::ReplyBody,
    rest::{answered, control_body, json_reply},
};
use crate::{
    admin::{NewKey, Tenants},
    authenticate::{KeyId, Scopes, now},
    error::Problem,
    infer::Gateway,
    route::AdminRoute,
};

/// Seconds that a key may live: a century, and no date that nobody can write.
const MAX_LIFE: u64 = 100 * 365 * 24 * 3600;

/// The body of a request for a new key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRequest {
    scopes: Scopes,
    label: Option<String>,
    /// Seconds from now.
    expires_in: Option<u64>,
}

pub(super) async fn handle(
    gateway: &Arc<Gateway>,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Response<ReplyBody> {
    let (head, body) = request.into_parts();
    answered(answer(gateway, peer, &head, body)).await
}

async fn answer(
    gateway: &Gateway,
    peer: IpAddr,
    head: &Parts,
    body: Incoming,
) -> Result<Response<ReplyBody>, Problem> {
    let route = authorise_admin(&gateway.authenticator, peer, head)?;
    let tenants = gateway.tenants.as_ref().ok_or_else(Problem::not_found)?;
    let body = control_body(gateway, body).await?;
    let mut answer = json_reply(StatusCode::OK, &act(tenants, route, body).await?);
    // One of the answers is a key.
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

async fn act(tenants: &Tenants, route: AdminRoute, body: Value) -> Result<Value, Problem> {
    let now = now();
    Ok(match route {
        AdminRoute::Tenants => {
            let found = tenants.list().await?;
            let shown = found
                .iter()
                .map(|(name, record)| json!({ "tenant": name, "created": record.created }))
                .collect::<Vec<_>>();
            json!({ "tenants": shown })
        }
        AdminRoute::CreateTenant(name) => {
            let (record, new) = tenants.create(&name, now).await?;
            json!({ "tenant": name, "created": record.created, "new": new })
        }
        AdminRoute::RemoveTenant(name) => {
            let revoked = tenants.remove(&name, now).await?;
            json!({ "tenant": name, "removed": true, "revoked_keys": revoked })
        }
        AdminRoute::Keys(name) => {
            let keys = tenants.keys(Some(&name)).await?;
            json!({ "keys": keys.iter().map(|key| key.shown(now)).collect::<Vec<_>>() })
        }
        AdminRoute::CreateKey(name) => {
            let asked: KeyRequest = serde_json::from_value(body).map_err(|error| {
                let form = r#"{"scopes": ["infer"], "label": "optional", "expires_in": seconds}"#;
                Problem::bad_request(format!("the body is not {form}: {error}"))
            })?;
            let expires = asked.expires_in.map(|seconds| now.saturating_add(seconds.min(MAX_LIFE)));
            let new = NewKey { scopes: asked.scopes, label: asked.label, expires };
            let (key, of) = tenants.create_key(&name, new, now).await?;
            let mut shown = of.shown(now);
            shown["key"] = json!(*key.reveal());
            shown
        }
        AdminRoute::RevokeKey(name, id) => {
            let id: KeyId = id.parse().map_err(|_| Problem::not_found())?;
            tenants.revoke(Some(&name), id, now).await?.shown(now)
        }
    })
}
