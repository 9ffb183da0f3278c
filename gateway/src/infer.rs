//! The road of one infer request, top to bottom; the only file that knows the order of the stations.
//!
//! REST hands over a principal, a target and a body; gRPC a principal and a message, of which the target is a part: so it is read
//! before the model is found. From there on both are one road. Authorisation, limits and metering are below the doors.

mod neighbours;

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
    deadline::Deadline,
    decode::{self, DecodeError, Decoded, Head},
    encode::{self, EncodeError, Encoded, Generated},
    error::Problem,
    execute::{Call, ExecuteError, Share, wasm::Sandbox},
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
    route::{self, Target},
    tensor::{InferRequest, InferResponse, Signature, Tensor},
};

use neighbours::Neighbours;

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

/// What a request and its answer are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Infer,
    Generate,
    /// The answer is a stream of events.
    GenerateStream,
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
            Self::Generate | Self::GenerateStream => decode::generate(head, body, signature, limits),
        }
    }

    fn encode(
        self,
        model: &Model,
        response: &InferResponse,
        reply: &Reply,
        accept_encoding: Option<&[u8]>,
        non_finite: NonFinite,
    ) -> Result<Encoded, EncodeError> {
        let (name, version) = (model.name.as_str(), model.version.as_str());
        let generated = match self {
            Self::Infer => {
                return encode::infer(name, version, response, reply, accept_encoding, non_finite);
            }
            Self::Generate => Generated::Text { accept_encoding },
            Self::GenerateStream => Generated::Event,
        };
        encode::generate(name, version, response, reply, generated, non_finite)
    }
}

/// A result on its way out, and what it holds until it is sent.
#[derive(Debug)]
pub struct Answer {
    pub encoded: Encoded,
    pub held: (Reservation, Option<Seat>),
    pub usage: Usage,
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
    let travelled = travel(gateway, principal, target, wire, headers, body, &mut usage).await;
    noted(gateway, travelled, usage)
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
            Ok(Answer { encoded, held, usage })
        }
        Err(problem) => {
            usage.failed(problem.code);
            usage.status(problem.status.as_u16());
            Err(problem.told_within(&gateway.log, usage.tenant()))
        }
    }
}

/// An answer, and what it holds until it is sent.
type Travelled = (Encoded, (Reservation, Option<Seat>));

async fn travel(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    target: &Target,
    wire: Wire,
    headers: &HeaderMap,
    body: Incoming,
    usage: &mut Usage,
) -> Result<Travelled, Problem> {
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
    let accept_encoding = headers.get("accept-encoding").map(hyper::header::HeaderValue::as_bytes);
    let encode = |response: &InferResponse, reply: &Reply| {
        wire.encode(&model, response, reply, accept_encoding, gateway.non_finite)
    };
    let (encoded, reservation) = arrived(gateway, &model, &quota, received, usage, encode).await?;
    Ok((encoded, (reservation, seat)))
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
    let travelled = travel_message(gateway, principal, messages, head, &mut usage, &mut id).await;
    noted(gateway, travelled, usage).map_err(|problem| Refusal { problem, id })
}

/// What is said of a message outside of it.
#[derive(Clone, Copy, Debug)]
pub struct MessageHead<'a> {
    pub headers: &'a HeaderMap,
    /// By when the client wants its answer; it has no more time than it would have without.
    pub latest: Option<Deadline>,
    pub call: encode::grpc::Call,
}

async fn travel_message(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    messages: &mut Messages,
    head: &MessageHead<'_>,
    usage: &mut Usage,
    id: &mut String,
) -> Result<Travelled, Problem> {
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
    let (bytes, weight) = (message.len(), message.len());
    let decode =
        |signature: &Signature, limits: &DecodeLimits| decode::grpc::infer(&message, signature, limits);
    let size = (bytes, weight);
    let mut received = decoded(gateway, &model, &quota, arrived_at, size, reservation, decode).await?;
    usage.weighs(model.batch_of(&received.decoded.request));
    usage.passed(Station::Decode);
    received.deadline = head.latest.map_or(received.deadline, |latest| latest.min(received.deadline));
    gateway.profiles.grpc.identify(&mut received.decoded);
    drop(message);

    let encode = |response: &InferResponse, reply: &Reply| {
        encode::grpc::infer(model.name.as_str(), model.version.as_str(), response, reply, head.call)
    };
    let (encoded, reservation) = arrived(gateway, &model, &quota, received, usage, encode).await?;
    Ok((encoded, (reservation, seat)))
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

/// The rest of the road of a request that is in memory as a whole: its turn, its run and its answer.
async fn arrived(
    gateway: &Arc<Gateway>,
    model: &Model,
    quota: &Quota,
    received: Received,
    usage: &mut Usage,
    encode: impl FnOnce(&InferResponse, &Reply) -> Result<Encoded, EncodeError>,
) -> Result<(Encoded, Reservation), Problem> {
    let Received { decoded, mut reservation, deadline } = received;
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
    let ran = run(gateway, model, quota, decoded.request, deadline, usage, &permit).await;
    usage.passed(Station::Run);
    let mut response = ran?;

    // What lists of classes take is known when they are there.
    let lists = decoded.reply.outputs.iter().any(|output| output.classification.is_some());
    let weight = if lists { usize::MAX } else { tensor_bytes(&response.outputs) };
    let encoded = off_the_sockets(weight, || {
        encode::as_asked(&mut response, &decoded.reply, &model.classes, quota.output.bytes())?;
        encode(&response, &decoded.reply)
    })?;
    usage.passed(Station::Encode);
    drop((response, permit));
    // Until the last of it is sent, the answer takes the request's place in the budget.
    reservation.resize(encoded.length())?;
    Ok((encoded, reservation))
}

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
    let weight = if head.content_encoding.is_some() { usize::MAX } else { bytes };
    let decode = |signature: &Signature, limits: &DecodeLimits| wire.decode(head, body, signature, limits);
    decoded(gateway, model, quota, Instant::now(), (bytes, weight), reservation, decode).await
}

/// Decodes a request of so many bytes, which weighs as much as so many; its time runs since it was received.
async fn decoded(
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

/// Runs a request, which has its place among the running, on a model.
pub(crate) async fn run(
    gateway: &Arc<Gateway>,
    model: &Model,
    quota: &Quota,
    request: InferRequest,
    deadline: Deadline,
    usage: &Usage,
    permit: &Permit,
) -> Result<InferResponse, Problem> {
    let deadline = model.limits.within(deadline);
    let consumed = usage.consumed();
    let before = consumed.cpu_nanos();
    let allowed = allowed(model, quota);
    let pair = (usage.tenant(), &model.name, &model.content);
    let visit = gateway.quarantine.enter(pair, Arc::clone(&consumed), deadline, allowed)?;
    let models =
        Neighbours { gateway: Arc::clone(gateway), namespace: model.namespace.clone(), waits: visit.waits() };
    let weight = u32::try_from(quota.weight).unwrap_or(u32::MAX);
    let share = Share { tenant: usage.tenant().clone(), weight };
    let call = Call {
        deadline,
        depth: 0,
        consumed,
        share: Arc::new(share),
        log: Arc::clone(&gateway.log),
        models: Arc::new(models),
    };
    let run = model.executor.infer(request, call);
    // The executor keeps the deadline too; this holds even where it cannot stop the work at once.
    let ran = tokio::select! {
        biased;
        ran = tokio::time::timeout_at(deadline.instant().into(), run) => ran.unwrap_or(Err(ExecuteError::Deadline)),
        // Its answer has to be on its way before the connections are cut.
        () = gateway.interrupted() => Err(ExecuteError::Deadline),
    };
    visit.ended(&ran);
    if matches!(ran, Ok(_) | Err(ExecuteError::Deadline)) {
        permit.took(Duration::from_nanos(usage.consumed().cpu_nanos().saturating_sub(before)));
    }
    let response = ran?;
    // The model's own limit is kept where it runs; the caller's tenant may have a lower one.
    let bytes = tensor_bytes(&response.outputs);
    if bytes > quota.output.bytes() {
        let reason = format!("it has {bytes} bytes, and this tenant may get {}", quota.output.0);
        return Err(ExecuteError::Output(reason).into());
    }
    Ok(response)
}

/// The time that a run could have, if its request came with none of it spent.
fn allowed(model: &Model, quota: &Quota) -> Duration {
    model.limits.deadline.map_or(quota.deadline.0, |own| own.min(quota.deadline.0))
}

pub(crate) fn tensor_bytes(tensors: &[Tensor]) -> usize {
    tensors.iter().map(|tensor| tensor.bytes.len()).sum()
}

/// Bytes from which decoding or encoding would hold up the other connections of a serving thread for too long.
const MAX_INLINE_BYTES: usize = 256 << 10;

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

fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a [u8]>, Problem> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map(hyper::header::HeaderValue::as_bytes);
    if values.next().is_some() { Err(Problem::repeated_header(name)) } else { Ok(value) }
}
