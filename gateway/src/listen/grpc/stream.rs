//! Calls with a message for each message: inference, and reflection.
//!
//! Nothing runs beside the connection: the answer's body is what reads the next request, when the peer has taken the last answer. A
//! peer that does not read keeps no more than one answer in memory, and one that goes away ends what runs for it.

use std::{
    net::IpAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering},
};

use hyper::http::request::Parts;

use crate::{
    admit::TooMany,
    authenticate::Principal,
    deadline::Deadline,
    error::Problem,
    infer::{self, Answer, Answers, Gateway, MessageHead, Refusal},
    proto::{
        inference::{ModelInferResponse, ModelStreamInferResponse},
        reflection::ServerReflectionRequest,
    },
    route::GrpcRoute,
};

use super::{calls, framed, reflection, status};
use crate::listen::{
    Stop,
    authorise::authorise_again,
    body::{Message, Part, Source},
    control::{self, Needs},
    messages::Messages,
    rest,
};

/// One call, between two messages.
pub(super) struct Stream {
    pub(super) gateway: Arc<Gateway>,
    pub(super) address: IpAddr,
    pub(super) head: Parts,
    pub(super) route: GrpcRoute,
    pub(super) messages: Messages,
    pub(super) latest: Option<Deadline>,
    pub(super) stop: Stop,
    /// It had a message.
    pub(super) spoke: bool,
    /// The responses to the last message, which may not be over.
    pub(super) answers: Option<(Answers, Arc<Principal>)>,
}

/// Why there is no answer, and whether there can be further ones.
enum Refused {
    Message(Refusal),
    Call(Problem),
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Call(problem)
    }
}

impl Stream {
    /// The messages of its answer.
    pub(super) fn source(self) -> Source {
        Box::pin(futures_util::stream::unfold(Some(self), |stream| async {
            let mut stream = stream?;
            let next = rest::caught(pin!(stream.next())).await;
            let next = next.unwrap_or_else(|problem| {
                problem.log();
                Part::Trailers(status::of(&problem))
            });
            let stream = matches!(next, Part::Message(_)).then_some(stream);
            Some((next, stream))
        }))
    }

    async fn next(&mut self) -> Result<Part, Problem> {
        loop {
            if self.answers.is_none() && !self.begins().await? {
                if !self.spoke {
                    // What no model ran for, as any other call.
                    let authenticator = &self.gateway.authenticator;
                    let principal = authorise_again(authenticator, self.address, &self.head, self.route)?;
                    keep_pace(&self.gateway, &principal).await;
                }
                return Ok(Part::Trailers(status::ok()));
            }
            self.spoke = true;
            match self.answer().await {
                Ok(Some(message)) => return Ok(Part::Message(Box::new(message))),
                // The next message is of the next request.
                Ok(None) => {}
                Err(Refused::Call(problem)) => return Err(problem),
                Err(Refused::Message(refusal)) => return self.told(refusal).await,
            }
        }
    }

    /// The error of one request, after which there may be others.
    async fn told(&mut self, Refusal { problem, id }: Refusal) -> Result<Part, Problem> {
        // Who cannot be told where the next message begins gets no other one.
        if self.errors_end_it() || !self.messages.skip().await? {
            return Err(problem);
        }
        problem.log();
        // Triton's clients find the request by its id.
        let response = ModelInferResponse { id, ..ModelInferResponse::default() };
        let told = ModelStreamInferResponse { error_message: problem.text, infer_response: Some(response) };
        Ok(Part::Message(Box::new(Message { parts: vec![framed(&told)?], ..Message::default() })))
    }

    /// Waits for the next message, and no longer than is worth it.
    async fn begins(&mut self) -> Result<bool, Problem> {
        let patience = self.gateway.limits.listen.stream_idle_timeout;
        let latest = async {
            match self.latest {
                Some(latest) => tokio::time::sleep_until(latest.instant().into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // Requests that run are answered; none begins that the client may as well send to another gateway.
            _ = self.stop.wait_for(Option::is_some) => Err(Problem::draining()),
            begins = self.messages.begins(patience) => Ok(begins?),
            () = latest => Err(Problem::call_took_too_long()),
        }
    }

    /// The next message of the answer; none if the last request has had all of its own.
    async fn answer(&mut self) -> Result<Option<Message>, Refused> {
        let gateway = &self.gateway;
        if let Some((answers, principal)) = &mut self.answers {
            return match answers.next().await {
                Some(Ok(Answer { encoded, held, usage })) => {
                    Ok(Some(Message { parts: encoded.parts, held: Some(held), usage }))
                }
                Some(Err(problem)) => {
                    if problem.is_unpaid() {
                        keep_pace(gateway, principal).await;
                    }
                    let id = answers.id().to_owned();
                    self.answers = None;
                    Err(Refused::Message(Refusal { problem, id }))
                }
                None => {
                    self.answers = None;
                    Ok(None)
                }
            };
        }
        let principal = authorise_again(&gateway.authenticator, self.address, &self.head, self.route)?;
        if self.route == GrpcRoute::Reflection {
            let mut reservation = gateway.reservation(&principal.tenant);
            let limit = rest::MAX_CONTROL_BYTES;
            let request: ServerReflectionRequest =
                calls::read(&mut self.messages, limit, &mut reservation).await?;
            keep_pace(gateway, &principal).await;
            let message = framed(&reflection::answer(request))?;
            return Ok(Some(Message { parts: vec![message], ..Message::default() }));
        }
        let head = MessageHead { headers: &self.head.headers, latest: self.latest };
        let begun = match control::enough_memory(gateway, Needs::Memory) {
            Ok(()) => infer::infer_message_stream(gateway, &principal, &mut self.messages, &head).await,
            Err(problem) => Err(Refusal { problem, id: String::new() }),
        };
        match begun {
            Ok(answers) => {
                self.answers = Some((answers, principal));
                Ok(None)
            }
            Err(refusal) => {
                if refusal.problem.is_unpaid() {
                    keep_pace(gateway, &principal).await;
                }
                Err(Refused::Message(refusal))
            }
        }
    }

    /// Whether the client wants the first error as the call's status.
    fn errors_end_it(&self) -> bool {
        self.head.headers.get("triton_grpc_error").is_some_and(|value| value == "true")
    }
}

/// As for every other answer for which no model ran.
async fn keep_pace(gateway: &Gateway, principal: &Principal) {
    // At the gateway's end nothing is held back.
    if principal.key.is_some()
        && !gateway.draining.load(Ordering::Relaxed)
        && let Err(TooMany { wait }) = gateway.admission.keep_pace(&principal.tenant).await
    {
        tokio::time::sleep(wait).await;
    }
}
