//! The gRPC front door: framing, status codes and the small calls. Everything of substance is on the road behind it, which is REST's.
//!
//! hyper carries it, with the same limits as REST; no server of another library stands between, see decision 16.

mod calls;
mod described;
mod reflection;
mod status;
mod stream;

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, Response, Version,
    body::Incoming,
    header::{self, HeaderValue},
    http::request::Parts,
};

use crate::{
    authenticate::Principal,
    deadline::Deadline,
    error::Problem,
    infer::{self, Gateway, MessageHead},
    meter::OK,
    proto::wire,
    route::GrpcRoute,
};

use super::{
    Door, Stop,
    access::{self, REQUEST_ID},
    authorise::authorise_grpc,
    body::ReplyBody,
    control::{self, Needs},
    head,
    messages::{MessageError, Messages},
    places::Visitor,
    rest,
};

const CONTENT_TYPE: &str = "application/grpc";

/// Answers a call, whatever happens on the way: a panic costs this call an INTERNAL and nobody else anything.
pub(super) async fn handle(
    gateway: &Arc<Gateway>,
    visitor: &Visitor,
    request: Request<Incoming>,
    stop: Stop,
) -> Response<ReplyBody> {
    let (mut head, body) = request.into_parts();
    if !is_grpc(&head) {
        return rest::refuse(&Problem::not_grpc());
    }
    let id = access::settle_id(&mut head.headers, gateway.limits.listen.max_headers);
    let answered = rest::caught(pin!(answer(gateway, visitor, head, body, stop))).await;
    let mut response = answered.unwrap_or_else(|problem| {
        problem.log();
        let mut response = Response::new(ReplyBody::new([]));
        *response.headers_mut() = status::of(&problem);
        grpc(response)
    });
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn is_grpc(head: &Parts) -> bool {
    let kind = head.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let rest = kind.strip_prefix(CONTENT_TYPE.as_bytes());
    head.version == Version::HTTP_2
        && head.method == Method::POST
        && rest.is_some_and(|rest| matches!(rest, [] | [b';', ..]) || rest.starts_with(b"+proto"))
}

async fn answer(
    gateway: &Arc<Gateway>,
    visitor: &Visitor,
    head: Parts,
    body: Incoming,
    stop: Stop,
) -> Result<Response<ReplyBody>, Problem> {
    let (version, begun) = (head.version, Instant::now());
    let to_log = access::is_on().then(|| head.clone());
    let mut ran = false;
    let answer = asked(gateway, visitor, head, body, stop, &mut ran).await;
    // Of requests to models the meter tells, each message for itself.
    if let Some(head) = to_log.filter(|_| !ran) {
        let came_to =
            answer.as_ref().map_or_else(|problem| (problem.status.as_u16(), problem.code), |_| (200, OK));
        access::log(Door::Grpc, visitor, &head, came_to, begun);
    }
    let unpaid = answer.as_ref().map_or_else(Problem::is_unpaid, |_| !ran);
    if unpaid {
        rest::keep_pace(gateway, visitor, version).await;
    }
    answer.map(grpc)
}

/// Sets `ran` if a model is to run for it: what has other bounds than the pace.
async fn asked(
    gateway: &Arc<Gateway>,
    visitor: &Visitor,
    head: Parts,
    body: Incoming,
    stop: Stop,
    ran: &mut bool,
) -> Result<Response<ReplyBody>, Problem> {
    let limits = &gateway.limits.listen;
    head::check(&head, limits)?;
    let (route, principal) = authorise_grpc(&gateway.authenticator, visitor, &head)?;
    control::enough_memory(gateway, needs(route))?;
    let latest = latest(&head.headers)?;
    match route {
        GrpcRoute::ModelInfer => {
            *ran = true;
            infer(gateway, &principal, &head.headers, body, latest).await
        }
        GrpcRoute::ModelStreamInfer | GrpcRoute::Reflection => {
            *ran = route == GrpcRoute::ModelStreamInfer;
            let messages = Messages::new(body, &head.headers, limits, false);
            let address = visitor.address;
            let stream = stream::Stream {
                gateway: Arc::clone(gateway),
                address,
                head,
                route,
                messages,
                latest,
                stop,
                spoke: false,
                answers: None,
            };
            Ok(Response::new(ReplyBody::from_source(stream.source())))
        }
        _ => Box::pin(calls::answer(gateway, &principal, route, &head.headers, body)).await,
    }
}

/// What a call needs beside a socket.
fn needs(route: GrpcRoute) -> Needs {
    match route {
        GrpcRoute::ServerLive | GrpcRoute::ServerReady | GrpcRoute::HealthCheck => Needs::Nothing,
        GrpcRoute::RepositoryLoad => Needs::Load,
        _ => Needs::Memory,
    }
}

async fn infer(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    headers: &HeaderMap,
    body: Incoming,
    latest: Option<Deadline>,
) -> Result<Response<ReplyBody>, Problem> {
    let limits = &gateway.limits.listen;
    let mut messages = Messages::new(body, headers, limits, true);
    if !messages.begins(limits.body_idle_timeout).await? {
        return Err(MessageError::None.into());
    }
    let head = MessageHead { headers, latest };
    let answered = infer::infer_message(gateway, principal, &mut messages, &head).await;
    let answer = answered.map_err(|refusal| refusal.problem)?;
    let body = ReplyBody::new(answer.encoded.parts).metered(answer.usage).holding(answer.held);
    Ok(Response::new(body.ended_by(status::ok())))
}

/// One message, framed.
fn framed(message: &impl prost::Message) -> Result<Bytes, Problem> {
    let length = message.encoded_len();
    let too_long = || Problem::internal(format!("an answer of {length} bytes"));
    let mut frame = Vec::with_capacity(wire::PREFIX + length);
    frame.extend_from_slice(&wire::prefix(length).ok_or_else(too_long)?);
    message.encode(&mut frame).expect("a Vec takes what comes");
    Ok(frame.into())
}

fn grpc(mut response: Response<ReplyBody>) -> Response<ReplyBody> {
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

/// By when the client wants its answer: `grpc-timeout`, up to eight digits and a unit.
fn latest(headers: &HeaderMap) -> Result<Option<Deadline>, Problem> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let wrong = || Problem::bad_request("grpc-timeout must be 1 to 8 digits and one of H M S m u n".into());
    let (digits, unit) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_at_checked(text.len().max(1) - 1))
        .ok_or_else(wrong)?;
    let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse::<u64>().ok().filter(|_| plain).ok_or_else(wrong)?;
    let time = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return Err(wrong()),
    };
    // Further away than anything that is waited for.
    Ok(Instant::now().checked_add(time).map(Deadline::at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout(text: &str) -> Option<Duration> {
        let headers = HeaderMap::from_iter([(
            header::HeaderName::from_static("grpc-timeout"),
            HeaderValue::from_str(text).expect("a header"),
        )]);
        latest(&headers).ok().flatten().map(Deadline::remaining)
    }

    #[test]
    fn timeouts_have_digits_and_a_unit() {
        let near = |text, seconds: f64| {
            let time = timeout(text).map_or(-1.0, |time| time.as_secs_f64());
            assert!((time - seconds).abs() < 1.0, "{text}: {time}");
        };
        near("2H", 7200.0);
        near("3M", 180.0);
        near("00000005S", 5.0);
        near("99999999m", 99_999.999);
        near("1u", 0.0);
        near("1n", 0.0);
        for wrong in ["", "S", "5", "5s", "-5S", "+5S", "123456789S", "5 S", "5SS"] {
            assert_eq!(timeout(wrong), None, "{wrong:?}");
        }
    }
}
