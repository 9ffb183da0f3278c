//! The road of one infer request, top to bottom; the only file that knows the order of the stations.
//!
//! REST hands over a principal, a target and a body; gRPC a principal and a message, of which the target is a part: so it is read
//! before the model is found. From there on both are one road. Authorisation, limits and metering are below the doors.
//!
//! Two stretches are in files of their own: `received`, on which a body becomes a request that fits its model, and `stream`, which
//! takes the place of `answer` where a request may get several responses.

mod neighbours;
mod received;
mod stream;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{HeaderMap, body::Incoming};
use tokio::sync::watch;

use crate::{
    admin::Tenants,
    admit::{Admission, Permit, Reservation, Seat},
    authenticate::{Authenticator, Principal},
    consumption::Consumption,
    deadline::{Deadline, RunDeadline},
    decode::{self, DecodeError, Decoded, Head},
    encode::{self, EncodeError, Encoded, Generated, grpc::Call},
    error::Problem,
    execute::{self, ExecuteError, Responses, Share, wasm::Sandbox},
    limits::{DecodeLimits, Limits, Quota, Quotas},
    listen::{Profiles, Traffic, body, messages::Messages},
    log_allowance::LogAllowance,
    memory_watch::MemoryWatch,
    meter::{self, Meter, Station, Usage},
    metrics::Metrics,
    name::TenantName,
    quarantine::Quarantine,
    reply::{NonFinite, Reply},
    repository::{
        FindError, Model, Repository,
        namespaces::{Namespaces, Wanted},
        uploads::Uploads,
    },
    response_cache::{self, ResponseCache},
    route::{self, Target},
    tensor::{Datatype, InferRequest, InferResponse, Signature, Tensor},
};

use neighbours::Neighbours;
use received::{MAX_INLINE_BYTES, decoded, single};
pub(crate) use received::{Received, decode_body, decode_limits, follow, head, off_the_sockets, receive};
pub use stream::Answers;
use stream::Form;

/// Everything that a request may need; built once, by `server.rs`.
#[derive(Debug)]
pub struct Gateway {
    pub limits: Limits,
    /// What each tenant may use of that.
    pub quotas: Arc<Quotas>,
    pub authenticator: Arc<Authenticator>,
    pub non_finite: NonFinite,
    /// How the listeners answer where other servers differ.
    pub profiles: Profiles,
    pub quarantine: Arc<Quarantine>,
    pub admission: Arc<Admission>,
    /// Responses of models that may be answered without a run.
    pub responses: ResponseCache,
    /// The operator's models on disk.
    pub repository: Arc<Repository>,
    /// What tenants uploaded; `None` without a store to keep it in.
    pub uploads: Option<Arc<Uploads>>,
    /// Everything that is served.
    pub models: Arc<Namespaces>,
    pub meter: Arc<Meter>,
    /// How many connections and answers its ports have.
    pub traffic: Traffic,
    /// What the metrics port tells.
    pub metrics: Metrics,
    /// Where guests run; for the metrics.
    pub sandbox: Arc<Sandbox>,
    /// What each tenant's models may say in the log.
    pub log: Arc<LogAllowance>,
    /// For the admin port; `None` without a store.
    pub tenants: Option<Tenants>,
    /// The folder of the ledger, if there is one.
    pub ledger: Option<PathBuf>,
    /// The first load of the repository has ended.
    pub started: AtomicBool,
    /// The gateway is stopping.
    pub draining: AtomicBool,
    /// The grace period is nearly over.
    pub interrupt: watch::Sender<bool>,
    pub memory: Arc<MemoryWatch>,
}

impl Gateway {
    /// Whether new requests should be sent here. A model that cannot be loaded does not change that.
    pub fn ready(&self) -> Result<(), Problem> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Problem::draining());
        }
        if self.memory.no_calls() {
            return Err(Problem::short_of_memory());
        }
        if self.started.load(Ordering::Relaxed) { Ok(()) } else { Err(Problem::starting()) }
    }

    /// An empty reservation for what a tenant sends beside infer requests.
    pub fn reservation(&self, tenant: &TenantName) -> Reservation {
        self.admission.reservation(tenant, &self.quotas.of(tenant))
    }

    pub fn is_interrupted(&self) -> bool {
        self.draining.load(Ordering::Relaxed) && *self.interrupt.borrow()
    }

    /// Returns when what still runs must be answered for, because the gateway is about to end.
    pub async fn interrupted(&self) {
        // It is never dropped before the last request is.
        let _ = self.interrupt.subscribe().wait_for(|told| *told).await;
    }
}

/// What a request over REST is written as, and each response to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Infer,
    Generate,
}

impl Wire {
    fn decode(
        self,
        head: &Head<'_>,
        body: Bytes,
        signature: &Signature,
        limits: &DecodeLimits,
    ) -> Result<Decoded, DecodeError> {
        match self {
            Self::Infer => decode::infer(head, body, signature, limits),
            Self::Generate => decode::generate(head, body, signature, limits),
        }
    }
}

/// A response on its way out, and what it holds until it is sent.
#[derive(Debug)]
pub struct Answer {
    pub encoded: Encoded,
    pub held: (Reservation, Option<Seat>),
    /// Of the whole request; comes with its last response.
    pub usage: Option<Usage>,
}

/// Runs one request on the model that `target` names.
pub async fn infer(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    target: &Target,
    wire: Wire,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Answer, Problem> {
    let mut usage = meter::start(&gateway.meter, &principal.tenant, &target.model);
    follow(&mut usage, headers);
    let travelled = async {
        let arrived = arrive(gateway, principal, target, wire, headers, body, &mut usage).await?;
        let accept_encoding = headers.get("accept-encoding").map(hyper::header::HeaderValue::as_bytes);
        let encode = |model: &Model, response: &InferResponse, reply: &Reply| {
            let (name, version) = (model.name.as_str(), model.version.as_str());
            match wire {
                Wire::Infer => {
                    encode::infer(name, version, response, reply, accept_encoding, gateway.non_finite)
                }
                Wire::Generate => {
                    let form = Generated::Text { accept_encoding };
                    encode::generate(name, version, response, reply, form, gateway.non_finite)
                }
            }
        };
        let weight =
            |response: &InferResponse, reply: &Reply| encode::weight(response, reply, accept_encoding);
        answer(gateway, arrived, &mut usage, weight, encode).await
    };
    let travelled = travelled.await;
    noted(gateway, travelled, usage)
}

/// Begins to run one request on the model that `target` names, which may give any number of responses: as events.
pub async fn infer_stream(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    target: &Target,
    wire: Wire,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Answers, Problem> {
    let mut usage = meter::start(&gateway.meter, &principal.tenant, &target.model);
    follow(&mut usage, headers);
    match arrive(gateway, principal, target, wire, headers, body, &mut usage).await {
        Ok(mut arrived) => {
            // There is no place for bytes in an event.
            arrived.received.decoded.reply.no_binary();
            Answers::begin(gateway, arrived, usage, Form::Events).await
        }
        Err(problem) => Err(refused(gateway, problem, usage)),
    }
}

/// Notes what became of a request.
fn noted(
    gateway: &Gateway,
    travelled: Result<Travelled, Problem>,
    mut usage: Usage,
) -> Result<Answer, Problem> {
    match travelled {
        Ok((encoded, held)) => {
            usage.succeeded(encoded.length());
            Ok(Answer { encoded, held, usage: Some(usage) })
        }
        Err(problem) => Err(refused(gateway, problem, usage)),
    }
}

fn refused(gateway: &Gateway, problem: Problem, mut usage: Usage) -> Problem {
    usage.failed(problem.code);
    usage.status(problem.status.as_u16());
    problem.told_within(&gateway.log, usage.tenant())
}

/// An answer, and what it holds until it is sent.
type Travelled = (Encoded, (Reservation, Option<Seat>));

/// A request that is in memory as a whole, and the model that it fits.
struct Arrived {
    model: Arc<Model>,
    quota: Quota,
    received: Received,
    /// Its place among its tenant's requests.
    seat: Option<Seat>,
}

async fn arrive(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    target: &Target,
    wire: Wire,
    headers: &HeaderMap,
    body: Incoming,
    usage: &mut Usage,
) -> Result<Arrived, Problem> {
    let head = head(headers)?;
    let tenant = &principal.tenant;
    let quota = gateway.quotas.of(tenant);

    let found = find(gateway, target, single(headers, "airlock-session")?, usage);
    // A name that is no model's counts as well: asking for names costs as much as asking for answers.
    let seat = gateway.admission.arrive(tenant, &quota)?;
    let model = found?;
    // Before the body is read; it is asked again when the run begins.
    gateway.quarantine.check(tenant, &model.name, &model.content)?;

    let received = receive(gateway, &model, &quota, wire, &head, body, usage).await?;
    Ok(Arrived { model, quota, received, seat })
}

/// A request of a gRPC call that gets no answer.
#[derive(Debug)]
pub struct Refusal {
    pub problem: Problem,
    /// The request's own, if it was read so far.
    pub id: String,
}

/// Runs the next request of a gRPC call, of which the first byte is there.
pub async fn infer_message(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    messages: &mut Messages,
    head: &MessageHead<'_>,
) -> Result<Answer, Refusal> {
    let mut usage = meter::start_unnamed(&gateway.meter, &principal.tenant);
    follow(&mut usage, head.headers);
    let mut id = String::new();
    let travelled = async {
        let arrived = arrive_message(gateway, principal, messages, head, &mut usage, &mut id).await?;
        let encode = |model: &Model, response: &InferResponse, reply: &Reply| {
            encode::grpc::infer(model.name.as_str(), model.version.as_str(), response, reply, Call::Single)
        };
        // All tensors are passed on as they are.
        answer(gateway, arrived, &mut usage, |_, _| 0, encode).await
    };
    let travelled = travelled.await;
    noted(gateway, travelled, usage).map_err(|problem| Refusal { problem, id })
}

/// The same of a call in which each request may get any number of responses.
pub async fn infer_message_stream(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    messages: &mut Messages,
    head: &MessageHead<'_>,
) -> Result<Answers, Refusal> {
    let mut usage = meter::start_unnamed(&gateway.meter, &principal.tenant);
    follow(&mut usage, head.headers);
    let mut id = String::new();
    match arrive_message(gateway, principal, messages, head, &mut usage, &mut id).await {
        Ok(arrived) => {
            let begun = Answers::begin(gateway, arrived, usage, Form::Messages).await;
            begun.map_err(|problem| Refusal { problem, id })
        }
        Err(problem) => Err(Refusal { problem: refused(gateway, problem, usage), id }),
    }
}

/// What is said of a message outside of it.
#[derive(Clone, Copy, Debug)]
pub struct MessageHead<'a> {
    pub headers: &'a HeaderMap,
    /// By when the client wants its answer; it has no more time than it would have without.
    pub latest: Option<Deadline>,
}

async fn arrive_message(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    messages: &mut Messages,
    head: &MessageHead<'_>,
    usage: &mut Usage,
    id: &mut String,
) -> Result<Arrived, Problem> {
    let sticky = single(head.headers, "airlock-session")?;
    let tenant = &principal.tenant;
    let quota = gateway.quotas.of(tenant);
    let seat = gateway.admission.arrive(tenant, &quota)?;

    // Reserve, then read: as of a body.
    let mut reservation = gateway.admission.reservation(tenant, &quota);
    let max_bytes = gateway.limits.decode.max_body_bytes.min(quota.max_body.bytes());
    let message = messages.read(max_bytes, |bytes| {
        usage.received(bytes);
        reservation.grow(bytes).map_err(Problem::from)
    });
    let mut message = message.await?;
    usage.arrived();
    let arrived_at = Instant::now();
    if let Some(encoding) = messages.encoding() {
        let own = Deadline::at(arrived_at + quota.deadline.0);
        let turn = gateway.admission.decode(head.latest.map_or(own, |latest| latest.min(own))).await?;
        let decompress = || decode::grpc::decompress(message, encoding, max_bytes);
        message = off_the_sockets(usize::MAX, decompress)?;
        reservation.resize(message.len())?;
        drop(turn);
    }

    let named = decode::grpc::named(&message)?;
    *id = named.id;
    let target = route::named(&named.model, &named.version)?;
    usage.asks_for(&target.model);
    let model = find(gateway, &target, sticky, usage)?;
    gateway.quarantine.check(tenant, &model.name, &model.content)?;

    let limit = decode_limits(gateway, &model, &quota).max_body_bytes;
    if message.len() > limit {
        return Err(body::BodyError::TooLarge { limit }.into());
    }
    let (bytes, weight) = (message.len(), decode::grpc::weight(&message, model.executor.signature()));
    let decode =
        |signature: &Signature, limits: &DecodeLimits| decode::grpc::infer(&message, signature, limits);
    let size = (bytes, weight);
    let mut received = decoded(gateway, &model, &quota, arrived_at, size, reservation, decode).await?;
    usage.weighs(model.batch_of(&received.decoded.request));
    usage.passed(Station::Decode);
    received.deadline = head.latest.map_or(received.deadline, |latest| latest.min(received.deadline));
    gateway.profiles.grpc.identify(&mut received.decoded);
    Ok(Arrived { model, quota, received, seat })
}

/// Route: which version answers.
fn find(
    gateway: &Gateway,
    target: &Target,
    sticky: Option<&[u8]>,
    usage: &mut Usage,
) -> Result<Arc<Model>, FindError> {
    let wanted = Wanted::new(target.version.as_ref(), sticky);
    let found = gateway.models.find(usage.tenant(), &target.model, &wanted);
    if !matches!(found, Err(FindError::UnknownModel { .. })) {
        usage.model_known();
    }
    if let Ok(model) = &found {
        usage.answered_by(&model.version, model.is_shared());
    }
    found
}

/// The rest of the road of a request that gets one response: its turn, its run and its answer.
async fn answer(
    gateway: &Arc<Gateway>,
    arrived: Arrived,
    usage: &mut Usage,
    weight: impl FnOnce(&InferResponse, &Reply) -> usize,
    encode: impl FnOnce(&Model, &InferResponse, &Reply) -> Result<Encoded, EncodeError>,
) -> Result<Travelled, Problem> {
    let Arrived { model, quota, received: Received { decoded, mut reservation, deadline }, seat } = arrived;
    let (key, kept) = kept(gateway, &model, &decoded.request, deadline, usage).await?;
    let (response, permit) = match kept {
        Some(response) => {
            // The tenant may get less than when it was kept.
            within_quota(&quota, &response)?;
            (response, None)
        }
        None => {
            let permit = turn(gateway, &model, &quota, deadline, usage).await?;
            let terms = Terms::new(&quota, model.limits.within(deadline).into(), usage, &permit);
            let ran = run(gateway, &model, decoded.request, terms).await;
            usage.passed(Station::Run);
            (keep(gateway, key, ran?, usage), Some(permit))
        }
    };
    let encoded = written(&model, &quota, response, &decoded.reply, weight, |response, reply| {
        encode(&model, response, reply)
    })?;
    usage.passed(Station::Encode);
    drop(permit);
    // Until the last of it is sent, the answer takes the request's place in the budget.
    reservation.resize(encoded.length())?;
    Ok((encoded, (reservation, seat)))
}

/// The response to an equal request of the same tenant, if the model's are kept and there is one; else where to keep it.
async fn kept(
    gateway: &Gateway,
    model: &Model,
    request: &InferRequest,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<(Option<response_cache::Key>, Option<InferResponse>), Problem> {
    if !model.response_cache || !gateway.responses.is_on() {
        return Ok((None, None));
    }
    // As decoding it, reading a large request once more waits for its turn.
    let weight = tensor_bytes(&request.inputs);
    let turn = if weight > MAX_INLINE_BYTES { Some(gateway.admission.decode(deadline).await?) } else { None };
    let key = off_the_sockets(weight, || response_cache::Key::new(&model.content, request));
    drop(turn);
    let response = gateway.responses.get(usage.tenant(), &key);
    usage.looked_up(response.is_some());
    Ok((Some(key), response.map(|response| InferResponse::clone(&response))))
}

/// Keeps a response for equal requests. What another model had a part in is not kept: that one may be replaced.
fn keep(
    gateway: &Gateway,
    key: Option<response_cache::Key>,
    response: InferResponse,
    usage: &Usage,
) -> InferResponse {
    if let Some(key) = key.filter(|_| usage.consumed().is_of_one_model() && !gateway.memory.no_loads()) {
        gateway.responses.put(usage.tenant(), key, &response);
    }
    response
}

/// Admit: waits for a place among the running.
async fn turn(
    gateway: &Gateway,
    model: &Model,
    quota: &Quota,
    deadline: Deadline,
    usage: &mut Usage,
) -> Result<Permit, Problem> {
    let waits = model.queue.join();
    let permit = tokio::select! {
        biased;
        permit = gateway.admission.enter(usage.tenant(), quota, deadline) => permit?,
        () = gateway.interrupted() => return Err(Problem::draining()),
    };
    drop(waits);
    // A place that comes free because its run was ended is no place to begin in.
    if gateway.is_interrupted() {
        return Err(Problem::draining());
    }
    usage.passed(Station::Wait);
    Ok(permit)
}

/// Encode: the response as the client asked for it.
fn written(
    model: &Model,
    quota: &Quota,
    mut response: InferResponse,
    reply: &Reply,
    weight: impl FnOnce(&InferResponse, &Reply) -> usize,
    encode: impl FnOnce(&InferResponse, &Reply) -> Result<Encoded, EncodeError>,
) -> Result<Encoded, EncodeError> {
    // What lists of classes take is known when they are there.
    let lists = reply.outputs.iter().any(|output| output.classification.is_some());
    // The elements of texts may become others.
    let texts = response.outputs.iter().any(|output| output.datatype == Datatype::Bytes);
    let weight = match (lists, texts) {
        (true, _) => usize::MAX,
        (false, true) => tensor_bytes(&response.outputs),
        (false, false) => weight(&response, reply),
    };
    off_the_sockets(weight, || {
        encode::as_asked(&mut response, reply, &model.classes, quota.output.bytes())?;
        encode(&response, reply)
    })
}

/// Whom a run is for, and what bounds it.
pub(crate) struct Terms<'a> {
    pub(crate) quota: &'a Quota,
    pub(crate) deadline: RunDeadline,
    pub(crate) tenant: &'a TenantName,
    pub(crate) consumed: Arc<Consumption>,
    pub(crate) permit: &'a Permit,
    /// Who takes responses ahead of the last one.
    pub(crate) responses: Option<Arc<dyn Responses>>,
}

impl<'a> Terms<'a> {
    /// Those of a run that gives one response.
    pub(crate) fn new(quota: &'a Quota, deadline: RunDeadline, usage: &'a Usage, permit: &'a Permit) -> Self {
        Self { quota, deadline, tenant: usage.tenant(), consumed: usage.consumed(), permit, responses: None }
    }
}

/// Execute: runs a request, which has its place among the running, on a model.
pub(crate) async fn run(
    gateway: &Arc<Gateway>,
    model: &Model,
    request: InferRequest,
    terms: Terms<'_>,
) -> Result<InferResponse, Problem> {
    let Terms { quota, deadline, tenant, consumed, permit, responses } = terms;
    let before = consumed.cpu_nanos();
    let allowed = allowed(model, quota);
    let pair = (tenant, &model.name, &model.content);
    let visit = gateway.quarantine.enter(pair, Arc::clone(&consumed), deadline.clone(), allowed)?;
    let models =
        Neighbours { gateway: Arc::clone(gateway), namespace: model.namespace.clone(), waits: visit.waits() };
    let weight = u32::try_from(quota.weight).unwrap_or(u32::MAX);
    let share = Share { tenant: tenant.clone(), weight };
    let call = execute::Call {
        deadline: deadline.clone(),
        depth: 0,
        consumed: Arc::clone(&consumed),
        share: Arc::new(share),
        log: Arc::clone(&gateway.log),
        models: Arc::new(models),
        responses,
    };
    let run = model.executor.infer(request, call);
    // The executor keeps the deadline too; this holds even where it cannot stop the work at once.
    let ran = tokio::select! {
        biased;
        ran = run => ran,
        () = deadline.passed() => Err(ExecuteError::Deadline),
        // Its answer has to be on its way before the connections are cut.
        () = gateway.interrupted() => Err(ExecuteError::Deadline),
    };
    visit.ended(&ran);
    if matches!(ran, Ok(_) | Err(ExecuteError::Deadline)) {
        permit.took(Duration::from_nanos(consumed.cpu_nanos().saturating_sub(before)));
    }
    let response = ran?;
    within_quota(quota, &response)?;
    Ok(response)
}

/// The model's own limit is kept where it runs; the caller's tenant may have a lower one.
fn within_quota(quota: &Quota, response: &InferResponse) -> Result<(), ExecuteError> {
    let bytes = tensor_bytes(&response.outputs);
    if bytes > quota.output.bytes() {
        let reason = format!("it has {bytes} bytes, and this tenant may get {}", quota.output.0);
        return Err(ExecuteError::Output(reason));
    }
    Ok(())
}

/// The time that a run could have, if its request came with none of it spent.
fn allowed(model: &Model, quota: &Quota) -> Duration {
    model.limits.deadline.map_or(quota.deadline.0, |own| own.min(quota.deadline.0))
}

pub(crate) fn tensor_bytes(tensors: &[Tensor]) -> usize {
    tensors.iter().map(|tensor| tensor.bytes.len()).sum()
}
