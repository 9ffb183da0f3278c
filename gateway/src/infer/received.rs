//! The part of the road on which a request is read, and comes to fit its model.

use std::time::Instant;

use bytes::Bytes;
use hyper::{HeaderMap, body::Incoming};

use crate::{
    admit::Reservation,
    deadline::Deadline,
    decode::{self, DecodeError, Decoded, Head},
    error::Problem,
    limits::{DecodeLimits, Quota},
    listen::body,
    meter::{Station, Usage},
    repository::Model,
    tensor::Signature,
};

use super::{Gateway, Wire, tensor_bytes};

/// A request that was read and fits its model, what it holds in memory, and by when it wants its answer.
pub(crate) struct Received {
    pub(crate) decoded: Decoded,
    pub(crate) reservation: Reservation,
    pub(crate) deadline: Deadline,
}

/// Reads and decodes a body for a model.
pub(crate) async fn receive(
    gateway: &Gateway,
    model: &Model,
    quota: &Quota,
    wire: Wire,
    head: &Head<'_>,
    body: Incoming,
    usage: &mut Usage,
) -> Result<Received, Problem> {
    let max_bytes = decode_limits(gateway, model, quota).max_body_bytes;
    // Reserve, then read: nothing is held in memory that was not asked for.
    let mut reservation = gateway.admission.reservation(usage.tenant(), quota);
    let body = body::read(body, max_bytes, &gateway.limits.listen, |bytes| {
        usage.received(bytes);
        reservation.grow(bytes).map_err(Problem::from)
    })
    .await?;
    usage.arrived();
    let mut received = decode_body(gateway, model, quota, wire, head, body, reservation).await?;
    gateway.profiles.http.identify(&mut received.decoded);
    usage.weighs(model.batch_of(&received.decoded.request));
    usage.passed(Station::Decode);
    Ok(received)
}

/// The least that the gateway, the caller's tenant and the model say.
pub(crate) fn decode_limits(gateway: &Gateway, model: &Model, quota: &Quota) -> DecodeLimits {
    let limits = model.limits.decode(&gateway.limits.decode);
    DecodeLimits { max_body_bytes: limits.max_body_bytes.min(quota.max_body.bytes()), ..limits }
}

/// Decodes a body that has just arrived, and that the reservation counts, for a model.
pub(crate) async fn decode_body(
    gateway: &Gateway,
    model: &Model,
    quota: &Quota,
    wire: Wire,
    head: &Head<'_>,
    body: Bytes,
    reservation: Reservation,
) -> Result<Received, Problem> {
    let bytes = body.len();
    let weight = decode::weight(head, bytes, model.executor.signature());
    let decode = |signature: &Signature, limits: &DecodeLimits| wire.decode(head, body, signature, limits);
    decoded(gateway, model, quota, Instant::now(), (bytes, weight), reservation, decode).await
}

/// Decodes a request of so many bytes, which weighs as much as so many; its time runs since it was received.
pub(super) async fn decoded(
    gateway: &Gateway,
    model: &Model,
    quota: &Quota,
    received: Instant,
    (bytes, weight): (usize, usize),
    mut reservation: Reservation,
    decode: impl FnOnce(&Signature, &DecodeLimits) -> Result<Decoded, DecodeError>,
) -> Result<Received, Problem> {
    let decode_limits = decode_limits(gateway, model, quota);
    let signature = model.executor.signature();
    let most = quota.deadline.0;
    let latest = Deadline::at(received + most);
    let turn = if weight > MAX_INLINE_BYTES { Some(gateway.admission.decode(latest).await?) } else { None };
    let decoded = off_the_sockets(weight, || decode(signature, &decode_limits))?;
    drop(turn);
    model.check_batch(&decoded.request).map_err(Problem::bad_request)?;
    // Decompressed, or parsed from JSON, a request may hold more than it sent.
    reservation.resize(bytes.max(tensor_bytes(&decoded.request.inputs)))?;

    let time = decoded.timeout.map_or(most, |timeout| timeout.min(most));
    Ok(Received { decoded, reservation, deadline: Deadline::at(received + time) })
}

/// Bytes from which decoding or encoding would hold up the other connections of a serving thread for too long.
pub(super) const MAX_INLINE_BYTES: usize = 256 << 10;

/// Does work whose time grows with `bytes`; a large one gives up its place among the serving threads first.
pub(crate) fn off_the_sockets<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > MAX_INLINE_BYTES { tokio::task::block_in_place(work) } else { work() }
}

/// Under which name and in which trace the request is followed.
pub(crate) fn follow(usage: &mut Usage, headers: &HeaderMap) {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    usage.called(text("x-request-id"));
    usage.traced(text("traceparent"));
}

/// The headers that decoding needs.
pub(crate) fn head(headers: &HeaderMap) -> Result<Head<'_>, Problem> {
    Ok(Head {
        inference_header_content_length: single(headers, "inference-header-content-length")?,
        content_encoding: single(headers, "content-encoding")?,
    })
}

pub(super) fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a [u8]>, Problem> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map(hyper::header::HeaderValue::as_bytes);
    if values.next().is_some() { Err(Problem::repeated_header(name)) } else { Ok(value) }
}
