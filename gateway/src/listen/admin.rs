//! The admin port: tenants, their keys, limits and usage over HTTP, for keys with the scope `admin` only.
//!
//! Here nobody is let in without a key, not even over loopback: the first one is made on the store itself.

use std::{pin::pin, sync::Arc, time::Instant};

use bytes::Bytes;
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    http::request::Parts,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Door,
    access::{self, REQUEST_ID},
    authorise::authorise_admin,
    body::ReplyBody,
    etag::{if_match, tagged},
    head,
    places::Visitor,
    rest::{answered, json_reply, operators_body},
};
use crate::{
    admin::{AdminError, NewKey, Tenants},
    authenticate::{KeyId, Scopes, now},
    error::Problem,
    infer::Gateway,
    limits::TenantLimits,
    meter::{
        OK,
        ledger::{Selection, newest},
    },
    name::TenantName,
    route::AdminRoute,
};

/// Seconds that a key may live: a century, and no date that nobody can write.
const MAX_LIFE: u64 = 100 * 365 * 24 * 3600;

/// Lines of the ledger in one answer: without a word of the client's, and at most. They are in memory as a whole.
const LINES: usize = 1000;
const MAX_LINES: usize = 10_000;

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
    visitor: &Visitor,
    request: Request<Incoming>,
) -> Response<ReplyBody> {
    let (mut head, body) = request.into_parts();
    let id = access::settle_id(&mut head.headers, gateway.limits.listen.max_headers);
    let mut response = answered(pin!(told(gateway, visitor, &head, body))).await;
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The answer, with its line in the access log.
async fn told(
    gateway: &Gateway,
    visitor: &Visitor,
    head: &Parts,
    body: Incoming,
) -> Result<Response<ReplyBody>, Problem> {
    let begun = Instant::now();
    let answer = answer(gateway, visitor, head, body).await;
    let came_to = match &answer {
        Ok(answer) => (answer.status().as_u16(), OK),
        Err(problem) => (problem.status.as_u16(), problem.code),
    };
    access::log(Door::Admin, visitor, head, came_to, begun);
    answer
}

async fn answer(
    gateway: &Gateway,
    visitor: &Visitor,
    head: &Parts,
    body: Incoming,
) -> Result<Response<ReplyBody>, Problem> {
    head::check(head, &gateway.limits.listen)?;
    let route = authorise_admin(&gateway.authenticator, visitor, head)?;
    let tenants = gateway.tenants.as_ref().ok_or_else(Problem::not_found)?;
    let body = operators_body(gateway, body).await?;
    let mut answer = act(gateway, tenants, route, head, body).await?;
    // One of the answers is a key.
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// A tenant: its own limits, what it may use by them and the gateway's, and what it keeps.
async fn tenant(
    gateway: &Gateway,
    tenants: &Tenants,
    name: &TenantName,
) -> Result<Response<ReplyBody>, Problem> {
    let (generation, record) = tenants.tenant(name).await?;
    let kept = gateway.uploads.as_ref().map(|uploads| uploads.kept(name)).unwrap_or_default();
    let shown = json!({
        "tenant": name, "created": record.created, "limits": record.limits,
        // Not what is in force here yet, if it was changed elsewhere a moment ago.
        "quota": gateway.quotas.with(name, &record.limits),
        "kept": kept,
    });
    Ok(tagged(json_reply(StatusCode::OK, &shown), generation.into()))
}

/// Lines of the ledger: the newest that the query asks for, the oldest of them first.
async fn ledger(gateway: &Gateway, query: &str) -> Result<Response<ReplyBody>, Problem> {
    let wanted = selection(query).map_err(Problem::bad_request)?;
    let folder = gateway.ledger.clone().ok_or_else(Problem::not_found)?;
    let read = tokio::task::spawn_blocking(move || newest(&folder, &wanted)).await;
    let internal = |error: &dyn std::fmt::Display| Problem::internal(error.to_string());
    let lines = read.map_err(|error| internal(&error))?.map_err(|error| internal(&error))?;
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    let mut response = Response::new(ReplyBody::new([Bytes::from(text)]));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

fn selection(query: &str) -> Result<Selection, String> {
    let mut selection = Selection { tenant: None, since: 0, until: u64::MAX, limit: LINES };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let number = || value.parse::<u64>().map_err(|_| format!("{name}: a whole number is expected"));
        match name {
            "tenant" => {
                selection.tenant = Some(value.parse().map_err(|error| format!("tenant: {error}"))?);
            }
            "since" => selection.since = number()?,
            "until" => selection.until = number()?,
            "limit" => {
                let limit = usize::try_from(number()?).ok().filter(|limit| (1..=MAX_LINES).contains(limit));
                selection.limit = limit.ok_or_else(|| format!("limit: 1 to {MAX_LINES}"))?;
            }
            _ => return Err("the query takes tenant, since, until and limit".into()),
        }
    }
    Ok(selection)
}

async fn act(
    gateway: &Gateway,
    tenants: &Tenants,
    route: AdminRoute,
    head: &Parts,
    body: Value,
) -> Result<Response<ReplyBody>, Problem> {
    let now = now();
    let ok = |value: Value| json_reply(StatusCode::OK, &value);
    Ok(match route {
        AdminRoute::Tenants => {
            let found = tenants.list().await?;
            let shown = found.iter().map(|(name, record)| record.shown(name)).collect::<Vec<_>>();
            ok(json!({ "tenants": shown }))
        }
        AdminRoute::CreateTenant(name) => {
            let limits = match body {
                Value::Null => TenantLimits::default(),
                body => limits(gateway, body)?,
            };
            let (record, new) = tenants.create_with(&name, limits, now).await?;
            let mut shown = record.shown(&name);
            shown["new"] = json!(new);
            ok(shown)
        }
        AdminRoute::Tenant(name) => tenant(gateway, tenants, &name).await?,
        AdminRoute::RemoveTenant(name) => {
            let revoked = tenants.remove(&name, now).await?;
            ok(json!({ "tenant": name, "removed": true, "revoked_keys": revoked }))
        }
        AdminRoute::Limits(name) => {
            let (generation, record) = tenants.tenant(&name).await?;
            tagged(json_reply(StatusCode::OK, &record.limits), generation.into())
        }
        AdminRoute::SetLimits(name) => {
            let (limits, expected) = (limits(gateway, body)?, if_match(&head.headers)?);
            let (generation, record) = tenants.change_limits(&name, expected, |_| Ok(limits)).await?;
            tagged(json_reply(StatusCode::OK, &record.limits), generation.into())
        }
        AdminRoute::Keys(name) => {
            let keys = tenants.keys(Some(&name)).await?;
            ok(json!({ "keys": keys.iter().map(|key| key.shown(now)).collect::<Vec<_>>() }))
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
            ok(shown)
        }
        AdminRoute::RevokeKey(name, id) => {
            let id: KeyId = id.parse().map_err(|_| Problem::not_found())?;
            ok(tenants.revoke(Some(&name), id, now).await?.shown(now))
        }
        AdminRoute::AllKeys => {
            let keys = tenants.keys(None).await?;
            ok(json!({ "keys": keys.iter().map(|key| key.shown(now)).collect::<Vec<_>>() }))
        }
        AdminRoute::RevokeAnyKey(id) => {
            let id: KeyId = id.parse().map_err(|_| Problem::not_found())?;
            ok(tenants.revoke(None, id, now).await?.shown(now))
        }
        AdminRoute::Usage => json_reply(StatusCode::OK, &gateway.meter.all()),
        AdminRoute::Ledger => ledger(gateway, head.uri.query().unwrap_or_default()).await?,
    })
}

/// The limits that a client wants for a tenant, none above this gateway's ceilings.
fn limits(gateway: &Gateway, body: Value) -> Result<TenantLimits, Problem> {
    let limits = TenantLimits::from_json(body)
        .and_then(|limits| limits.check(&gateway.limits).map(|()| limits))
        .map_err(AdminError::Limits)?;
    Ok(limits)
}
