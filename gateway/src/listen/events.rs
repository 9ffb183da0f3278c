//! Answers that are a stream of events (`text/event-stream`): one for each response, and one for what ends them early.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use futures_util::stream::unfold;
use hyper::{
    Response,
    body::Incoming,
    header::{self, HeaderValue},
    http::request::Parts,
};

use crate::{
    authenticate::Principal,
    encode,
    error::Problem,
    infer::{self, Answer, Answers, Gateway, Wire},
    route::Target,
};

use super::{
    body::{Message, Part, ReplyBody, Source},
    rest::{self, ErrorBody},
};

/// Answers once the first response is there: what goes wrong before has a status of its own.
pub(super) async fn answer(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    target: &Target,
    wire: Wire,
    head: &Parts,
    body: Incoming,
) -> Result<Response<ReplyBody>, Problem> {
    let mut answers = infer::infer_stream(gateway, principal, target, wire, &head.headers, body).await?;
    let first = answers.next().await.transpose()?;
    let mut response = Response::new(ReplyBody::from_source(source(first, answers)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(encode::EVENTS));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// The first response, and those that are made when the client has taken the last.
fn source(first: Option<Answer>, answers: Answers) -> Source {
    Box::pin(unfold((first, Some(answers)), |(first, answers)| async {
        let mut answers = answers?;
        let next = match first {
            Some(first) => Ok(Some(first)),
            None => rest::caught(pin!(async { answers.next().await.transpose() })).await,
        };
        match next {
            Ok(answer) => Some((event(answer?), (None, Some(answers)))),
            Err(problem) => {
                problem.log();
                Some((failure(&problem), (None, None)))
            }
        }
    }))
}

fn event(answer: Answer) -> Part {
    Part::Message(Box::new(Message {
        parts: answer.encoded.parts,
        held: Some(answer.held),
        usage: answer.usage,
    }))
}

/// The last event of a stream that was to have others.
fn failure(problem: &Problem) -> Part {
    let text = serde_json::to_string(&ErrorBody::from(problem)).expect("names and texts are always JSON");
    let parts = vec![Bytes::from(format!("data: {text}\n\n"))];
    Part::Message(Box::new(Message { parts, ..Message::default() }))
}
