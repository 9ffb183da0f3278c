//! The metrics port: what the gateway counts, as Prometheus asks for it.
//!
//! It is an operator's port. From this machine no key is needed, but a request made under a name that is not loopback's is
//! refused, as is one from a web page; from anywhere else a key with the scope `admin` is.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use hyper::{
    Request, Response,
    body::Incoming,
    header::{self, HeaderValue},
    http::request::Parts,
};

use super::{body::ReplyBody, head, places::Visitor, rest::answered};
use crate::{error::Problem, infer::Gateway, metrics, route};

pub(super) async fn handle(
    gateway: &Arc<Gateway>,
    visitor: &Visitor,
    request: Request<Incoming>,
) -> Response<ReplyBody> {
    // Whatever comes behind the head is not read.
    let (head, _) = request.into_parts();
    answered(pin!(answer(gateway, visitor, &head))).await
}

async fn answer(gateway: &Gateway, visitor: &Visitor, head: &Parts) -> Result<Response<ReplyBody>, Problem> {
    head::check(head, &gateway.limits.listen)?;
    gateway.authenticator.operator(visitor.address, &head.uri, &head.headers)?;
    route::metrics(&head.method, head.uri.path())?;
    let mut response = Response::new(ReplyBody::new([Bytes::from(metrics::text(gateway).await?)]));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
    Ok(response)
}
