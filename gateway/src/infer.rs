//! The road of one infer request, top to bottom; the only file that knows the order of the stations.
//!
//! REST (and every later front door) hands over a principal, a target and a body; authorisation, limits and metering
//! are below it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use hyper::{HeaderMap, body::Incoming};

use crate::{
    admit::{Admission, Permit, Reservation},
    authenticate::{Principal, Trust},
    deadline::Deadline,
    decode::{self, Head},
    encode::{self, Encoded},
    error::Problem,
    execute::{BoxFuture, Call, ExecuteError, Models, NestedError},
    limits::Limits,
    listen::body,
    meter::{self, Usage},
    reply::NonFinite,
    repository::Repository,
    route::Target,
    tensor::{InferRequest, Tensor},
};

/// Everything that a request may need; built once, by `server.rs`.
#[derive(Debug)]
pub struct Gateway {
    pub limits: Limits,
    pub trust: Trust,
    pub non_finite: NonFinite,
    pub admission: Arc<Admission>,
    pub repository: Arc<Repository>,
    /// The first load of the repository has ended.
    pub started: AtomicBool,
    /// The gateway is stopping.
    pub draining: AtomicBool,
}

impl Gateway {
    /// Whether new requests should be sent here. A model that cannot be loaded does not change that.
    pub fn ready(&self) -> Result<(), Problem> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Problem::draining());
        }
        if self.started.load(Ordering::Relaxed) { Ok(()) } else { Err(Problem::starting()) }
    }
}

/// A result on its way out, and what it holds until it is sent.
#[derive(Debug)]
pub struct Answer {
    pub encoded: Encoded,
    pub held: (Permit, Reservation, Usage),
}

/// Runs one request on the model that `target` names.
pub async fn infer(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    target: &Target,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Answer, Problem> {
    let mut usage = meter::start(principal.tenant, &target.model);
    match travel(gateway, target, headers, body, &mut usage).await {
        Ok((encoded, permit, reservation)) => {
            usage.succeeded(encoded.parts.iter().map(bytes::Bytes::len).sum());
            Ok(Answer { encoded, held: (permit, reservation, usage) })
        }
        Err(problem) => {
            usage.failed(problem.code);
            Err(problem)
        }
    }
}

async fn travel(
    gateway: &Arc<Gateway>,
    target: &Target,
    headers: &HeaderMap,
    body: Incoming,
    usage: &mut Usage,
) -> Result<(Encoded, Permit, Reservation), Problem> {
    let limits = &gateway.limits;
    let head = Head {
        inference_header_content_length: single(headers, "inference-header-content-length")?,
        content_encoding: single(headers, "content-encoding")?,
    };

    // Route: which version answers.
    let model = gateway.repository.catalog().find(&target.model, target.version.as_ref())?;
    usage.answered_by(&model.version);

    // Reserve, then read: nothing is held in memory that was not asked for.
    let mut reservation = gateway.admission.reservation();
    let body = body::read(body, limits.decode.max_body_bytes, &limits.listen, |bytes| {
        reservation.grow(bytes).map_err(Problem::from)
    })
    .await?;
    usage.received(body.len());

    let signature = model.executor.signature();
    let weight = if head.content_encoding.is_some() { usize::MAX } else { body.len() };
    let decoded = off_the_sockets(weight, || decode::infer(&head, body, signature, &limits.decode))?;
    model.check_batch(&decoded.request).map_err(ExecuteError::InvalidInput)?;

    let time = decoded.timeout.map_or(limits.admit.deadline, |timeout| timeout.min(limits.admit.deadline));
    let deadline = Deadline::after(time);
    let permit = gateway.admission.enter(deadline).await?;

    let call = Call { deadline, depth: 0, models: Arc::clone(gateway) as Arc<dyn Models> };
    let run = model.executor.infer(decoded.request, call);
    // The executor keeps the deadline too; this holds even where it cannot stop the work at once.
    let response = tokio::time::timeout_at(deadline.instant().into(), run)
        .await
        .unwrap_or(Err(ExecuteError::Deadline))?;

    let weight = response.outputs.iter().map(|output| output.bytes.len()).sum();
    let encoded = off_the_sockets(weight, || {
        let accept_encoding = headers.get("accept-encoding").map(hyper::header::HeaderValue::as_bytes);
        let (name, version) = (model.name.as_str(), model.version.as_str());
        encode::infer(name, version, &response, &decoded.reply, accept_encoding, gateway.non_finite)
    })?;
    Ok((encoded, permit, reservation))
}

/// `models.infer`: the part of the road that a guest's own calls take. Same deadline, and the caller's permit.
impl Models for Gateway {
    fn infer<'a>(
        &'a self,
        model: &'a str,
        version: Option<&'a str>,
        inputs: Vec<Tensor>,
        caller: &'a Call,
    ) -> BoxFuture<'a, Result<Vec<Tensor>, NestedError>> {
        Box::pin(async move {
            let failed =
                |error: &dyn std::fmt::Display| NestedError::Failed(format!("model '{model}': {error}"));
            let name = model.parse().map_err(|error| failed(&error))?;
            let version = version.map(str::parse).transpose().map_err(|error| failed(&error))?;
            let found =
                self.repository.catalog().find(&name, version.as_ref()).map_err(|error| failed(&error))?;
            let invalid = |error: &dyn std::fmt::Display| {
                NestedError::InvalidInput(format!("model '{model}': {error}"))
            };
            decode::check(found.executor.signature(), &inputs, &[]).map_err(|error| invalid(&error))?;
            let request = InferRequest { inputs, ..InferRequest::default() };
            found.check_batch(&request).map_err(|error| invalid(&error))?;
            let call = Call { depth: caller.depth + 1, ..caller.clone() };
            match found.executor.infer(request, call).await {
                Ok(response) => Ok(response.outputs),
                Err(ExecuteError::InvalidInput(text)) => Err(invalid(&text)),
                Err(error) => Err(failed(&error)),
            }
        })
    }
}

/// Bytes from which decoding or encoding would hold up the other connections of a serving thread for too long.
const MAX_INLINE_BYTES: usize = 256 << 10;

/// Does work whose time grows with `bytes`; a large one gives up its place among the serving threads first.
fn off_the_sockets<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > MAX_INLINE_BYTES { tokio::task::block_in_place(work) } else { work() }
}

fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a [u8]>, Problem> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map(hyper::header::HeaderValue::as_bytes);
    if values.next().is_some() { Err(Problem::repeated_header(name)) } else { Ok(value) }
}
