//! The REST front door: hyper's requests in, V2's answers out. Everything of substance is on the road behind it.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Instant,
};

use bytes::Bytes;
use hyper::{
    Request, Response, StatusCode, Version,
    body::{Body as _, Incoming},
    header::{self, HeaderValue},
    http::request::Parts,
};
use serde::Serialize;
use serde_json::json;

use crate::{
    admit::TooMany,
    authenticate::Principal,
    error::Problem,
    infer::{self, Gateway, Wire},
    meter::OK,
    name::TenantName,
    route::{Route, Target},
    tensor::TensorSpec,
    verify,
};

use super::{
    Door,
    access::{self, REQUEST_ID},
    authorise::authorise,
    body::{self, ReplyBody},
    control::{self, Described, Needs, until_interrupted},
    etag::tagged,
    events, extensions, head,
    places::Visitor,
    uploads::{self, LoadRequest},
};

/// Body bytes of the repository calls, whose parameters are few.
pub(super) const MAX_CONTROL_BYTES: usize = 64 << 10;

/// Answers a request, whatever happens on the way: a panic costs this request a 500 and nobody else anything.
pub(super) async fn handle(
    gateway: &Arc<Gateway>,
    visitor: &Visitor,
    request: Request<Incoming>,
) -> Response<ReplyBody> {
    let (mut head, body) = request.into_parts();
    let id = access::settle_id(&mut head.headers, gateway.limits.listen.max_headers);
    let mut response = answered(pin!(answer(gateway, visitor, &head, body))).await;
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// What becomes of an answer that may be a problem or a panic.
pub(super) async fn answered(
    answer: Pin<&mut impl Future<Output = Result<Response<ReplyBody>, Problem>>>,
) -> Response<ReplyBody> {
    caught(answer).await.unwrap_or_else(|problem| {
        problem.log();
        refuse(&problem)
    })
}

/// Makes a problem of a panic.
pub(super) async fn caught<T>(
    mut answer: Pin<&mut impl Future<Output = Result<T, Problem>>>,
) -> Result<T, Problem> {
    std::future::poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context))) {
        Ok(poll) => poll,
        Err(panic) => Poll::Ready(Err(Problem::internal(panic_message(&*panic)))),
    })
    .await
}

async fn answer(
    gateway: &Arc<Gateway>,
    visitor: &Visitor,
    head: &Parts,
    body: Incoming,
) -> Result<Response<ReplyBody>, Problem> {
    let (mut course, begun) = (Course::default(), Instant::now());
    let answer = asked(gateway, visitor, head, body, &mut course).await;
    if !course.metered {
        let came_to = match &answer {
            Ok(answer) => (answer.status().as_u16(), OK),
            Err(problem) => (problem.status.as_u16(), problem.code),
        };
        access::log(Door::Data, visitor, head, came_to, begun);
    }
    let unpaid = answer.as_ref().map_or_else(Problem::is_unpaid, |_| !course.ran);
    if unpaid {
        keep_pace(gateway, visitor, head.version).await;
    }
    answer
}

/// Returns when an answer may be told for which no model ran. Who comes without a key has the gateway for itself; and at its end
/// nothing is held back.
pub(super) async fn keep_pace(gateway: &Gateway, visitor: &Visitor, version: Version) {
    let Some(tenant) = visitor.tenant() else { return };
    if gateway.draining.load(Ordering::Relaxed) {
        return;
    }
    if let Err(TooMany { wait }) = gateway.admission.keep_pace(tenant).await {
        if version < Version::HTTP_2 {
            return visitor.cut();
        }
        // The connection may carry others' requests as well. It has few streams.
        tokio::time::sleep(wait).await;
    }
}

/// What becomes of a request on its way.
#[derive(Default)]
struct Course {
    /// A model is to run for it, or bytes to be kept: what has other bounds than the pace.
    ran: bool,
    /// The meter follows it, and tells of it.
    metered: bool,
}

async fn asked(
    gateway: &Arc<Gateway>,
    visitor: &Visitor,
    head: &Parts,
    body: Incoming,
    course: &mut Course,
) -> Result<Response<ReplyBody>, Problem> {
    head::check(head, &gateway.limits.listen)?;
    if let Some(answer) = gateway.profiles.http.at_the_root(head) {
        gateway.authenticator.visitor(&head.uri, &head.headers)?;
        return Ok(answer);
    }
    let (route, principal) = authorise(&gateway.authenticator, visitor, head)?;
    let metered = matches!(
        route,
        Route::Infer(_)
            | Route::InferStream(_)
            | Route::Generate(_)
            | Route::GenerateStream(_)
            | Route::Verify(_)
    );
    course.ran = metered || matches!(route, Route::Upload(..));
    control::enough_memory(gateway, needs(&route))?;
    course.metered = metered;
    routed(gateway, &principal, route, head, body).await
}

async fn routed(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    route: Route,
    head: &Parts,
    body: Incoming,
) -> Result<Response<ReplyBody>, Problem> {
    let (tenant, profile) = (&principal.tenant, gateway.profiles.http);
    // A request for inference may stay for long: what is rarer and larger than that is in boxes, so that it holds no room for it.
    match route {
        Route::Infer(target) => {
            infer::infer(gateway, principal, &target, Wire::Infer, &head.headers, body).await.map(inferred)
        }
        Route::Generate(target) => {
            let generate = infer::infer(gateway, principal, &target, Wire::Generate, &head.headers, body);
            Box::pin(generate).await.map(inferred)
        }
        Route::GenerateStream(target) => {
            Box::pin(events::answer(gateway, principal, &target, Wire::Generate, head, body)).await
        }
        Route::InferStream(target) => {
            Box::pin(events::answer(gateway, principal, &target, Wire::Infer, head, body)).await
        }
        Route::Verify(target) => {
            let verify = verify::verify(gateway, principal, &target, &head.headers, body);
            Box::pin(verify).await.map(verified)
        }
        Route::Live => Ok(profile.done(&json!({ "live": true }))),
        Route::Ready => Ok(server_ready(gateway)),
        Route::ServerMetadata => Ok(json_reply(
            StatusCode::OK,
            &ServerMetadata {
                name: control::NAME,
                version: env!("CARGO_PKG_VERSION"),
                extensions: control::EXTENSIONS,
            },
        )),
        Route::ModelMetadata(target) => model_metadata(gateway, tenant, &target),
        Route::ModelReady(target) => model_ready(gateway, tenant, &target),
        Route::Extension(extension) => extensions::answer(gateway, tenant, &extension),
        Route::Usage => Ok(json_reply(StatusCode::OK, &gateway.meter.usage(tenant))),
        Route::RepositoryIndex => repository_index(gateway, tenant, body).await,
        Route::RepositoryLoad(model) => {
            let load = Box::pin(async {
                let request = LoadRequest::read(gateway, tenant, body).await?;
                control::load(gateway, principal, &model, request).await
            });
            until_interrupted(gateway, load).await?;
            Ok(profile.done(&json!({ "name": model.as_str(), "load": true })))
        }
        Route::RepositoryUnload(model) => {
            control_body(gateway, tenant, body).await?;
            Box::pin(control::unload(gateway, principal, &model)).await?;
            Ok(profile.done(&json!({ "name": model.as_str(), "unload": true })))
        }
        Route::OwnModels => {
            let models = uploads::uploads(gateway)?.models(tenant);
            Ok(json_reply(StatusCode::OK, &json!({ "models": models })))
        }
        Route::OwnModel(model) => {
            Ok(json_reply(StatusCode::OK, &uploads::uploads(gateway)?.model(tenant, &model)?))
        }
        Route::Settings(model) => {
            let (revision, settings) = uploads::uploads(gateway)?.settings(tenant, &model)?;
            Ok(tagged(json_reply(StatusCode::OK, &settings), revision))
        }
        Route::SetSettings(model) => {
            Box::pin(uploads::set_settings(gateway, tenant, &model, &head.headers, body)).await
        }
        Route::OwnVersion(model, version) => {
            Ok(json_reply(StatusCode::OK, &uploads::uploads(gateway)?.version(tenant, &model, &version)?))
        }
        Route::Upload(model, version) => {
            let upload = uploads::upload(gateway, tenant, (&model, &version), &head.headers, body);
            until_interrupted(gateway, Box::pin(upload)).await
        }
        Route::RemoveModel(model) => {
            Box::pin(uploads::uploads(gateway)?.remove_model(tenant, &model)).await?;
            Ok(json_reply(StatusCode::OK, &json!({ "name": model, "removed": true })))
        }
        Route::RemoveVersion(model, version) => {
            Box::pin(uploads::uploads(gateway)?.remove_version(tenant, &model, &version)).await?;
            Ok(json_reply(StatusCode::OK, &json!({ "name": model, "version": version, "removed": true })))
        }
    }
}

/// What a route needs beside a socket.
fn needs(route: &Route) -> Needs {
    match route {
        Route::Live | Route::Ready => Needs::Nothing,
        Route::Upload(..) | Route::RepositoryLoad(_) => Needs::Load,
        _ => Needs::Memory,
    }
}

fn inferred(answer: infer::Answer) -> Response<ReplyBody> {
    let encoded = answer.encoded;
    let body = ReplyBody::new(encoded.parts).metered(answer.usage).holding(answer.held);
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(encoded.content_type));
    if let Some(length) = encoded.inference_header_content_length {
        headers.insert("inference-header-content-length", HeaderValue::from(length));
    }
    if let Some(encoding) = encoded.content_encoding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    response
}

fn verified(answer: verify::Answer) -> Response<ReplyBody> {
    let body = ReplyBody::new([answer.report]).metered(answer.usage);
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn server_ready(gateway: &Gateway) -> Response<ReplyBody> {
    let profile = gateway.profiles.http;
    match gateway.ready() {
        Ok(()) => profile.done(&json!({ "ready": true })),
        Err(problem) => profile
            .not_ready(&problem, &json!({ "ready": false, "error": problem.text, "code": problem.code })),
    }
}

#[derive(Serialize)]
struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; control::EXTENSIONS.len()],
}

#[derive(Serialize)]
struct ModelMetadata<'a> {
    name: &'a str,
    versions: Vec<String>,
    platform: &'a str,
    inputs: Vec<TensorMetadata<'a>>,
    outputs: Vec<TensorMetadata<'a>>,
    properties: Properties,
}

/// What V2 leaves to servers to say of a model.
#[derive(Serialize)]
struct Properties {
    /// `tenant`: the caller's own model answers; `shared`: the operator's.
    namespace: String,
}

#[derive(Serialize)]
struct TensorMetadata<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: &'a [i64],
}

impl<'a> From<&'a TensorSpec> for TensorMetadata<'a> {
    fn from(spec: &'a TensorSpec) -> Self {
        Self { name: &spec.name, datatype: spec.datatype.name(), shape: &spec.shape.0 }
    }
}

fn model_metadata(
    gateway: &Gateway,
    tenant: &TenantName,
    target: &Target,
) -> Result<Response<ReplyBody>, Problem> {
    let Described { model, versions } = control::describe(gateway, tenant, target)?;
    let signature = model.executor.signature();
    let metadata = ModelMetadata {
        name: model.name.as_str(),
        versions,
        platform: model.executor.platform(),
        inputs: signature.inputs.iter().map(Into::into).collect(),
        outputs: signature.outputs.iter().map(Into::into).collect(),
        properties: Properties { namespace: model.namespace.to_string() },
    };
    Ok(json_reply(StatusCode::OK, &metadata))
}

fn model_ready(
    gateway: &Gateway,
    tenant: &TenantName,
    target: &Target,
) -> Result<Response<ReplyBody>, Problem> {
    let (name, profile) = (target.model.as_str(), gateway.profiles.http);
    let problem = match control::model_ready(gateway, tenant, target) {
        Ok(Ok(())) => return Ok(profile.done(&json!({ "name": name, "ready": true }))),
        Err(missing) if !profile.missing_is_not_ready() => return Err(missing),
        Ok(Err(problem)) | Err(problem) => problem,
    };
    let body = json!({ "name": name, "ready": false, "error": problem.text, "code": problem.code });
    Ok(profile.not_ready(&problem, &body))
}

#[derive(Serialize)]
struct IndexEntry {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

async fn repository_index(
    gateway: &Gateway,
    tenant: &TenantName,
    body: Incoming,
) -> Result<Response<ReplyBody>, Problem> {
    let parameters = control_body(gateway, tenant, body).await?;
    let ready_only = parameters.get("ready").and_then(serde_json::Value::as_bool).unwrap_or(false);
    let entries: Vec<IndexEntry> = control::index(gateway, tenant, ready_only)
        .into_iter()
        .map(|entry| IndexEntry {
            name: entry.name.to_string(),
            version: entry.version.map(|version| version.to_string()),
            state: entry.state.name(),
            reason: entry.reason,
        })
        .collect();
    counted_reply(gateway, tenant, &entries)
}

/// An answer whose length grows with what the tenant has: it counts until it is sent.
pub(super) fn counted_reply(
    gateway: &Gateway,
    tenant: &TenantName,
    value: &impl Serialize,
) -> Result<Response<ReplyBody>, Problem> {
    let response = json_reply(StatusCode::OK, value);
    let mut reservation = gateway.reservation(tenant);
    let length = response.body().size_hint().exact().and_then(|length| usize::try_from(length).ok());
    reservation.grow(length.unwrap_or_default())?;
    Ok(response.map(|body| body.holding(reservation)))
}

/// The JSON object that a repository call carries; stock clients send nothing at all where there is nothing to say.
pub(super) async fn control_body(
    gateway: &Gateway,
    tenant: &TenantName,
    body: Incoming,
) -> Result<serde_json::Value, Problem> {
    let mut reservation = gateway.reservation(tenant);
    let body = body::read(body, MAX_CONTROL_BYTES, &gateway.limits.listen, |bytes| {
        reservation.grow(bytes).map_err(Problem::from)
    });
    control(&body.await?)
}

/// The same of an operator, whom no tenant keeps waiting: it is in nobody's count.
pub(super) async fn operators_body(gateway: &Gateway, body: Incoming) -> Result<serde_json::Value, Problem> {
    let body = body::read(body, MAX_CONTROL_BYTES, &gateway.limits.listen, |_| Ok::<_, Problem>(()));
    control(&body.await?)
}

fn control(body: &[u8]) -> Result<serde_json::Value, Problem> {
    if body.is_empty() {
        return Ok(serde_json::Value::Null);
    }
    serde_json::from_slice(body)
        .map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))
}

/// The error object of V2, with the code word beside the text.
#[derive(Serialize)]
pub(super) struct ErrorBody<'a> {
    error: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<String>,
}

impl<'a> From<&'a Problem> for ErrorBody<'a> {
    fn from(problem: &'a Problem) -> Self {
        let step = problem.step.map(|step| step.to_string());
        Self { error: &problem.text, code: problem.code, step }
    }
}

pub(super) fn refuse(problem: &Problem) -> Response<ReplyBody> {
    let mut response = json_reply(problem.status, &ErrorBody::from(problem));
    let headers = response.headers_mut();
    if let Some(seconds) = retry_after(problem) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if problem.close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(allow) = problem.allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if problem.status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if problem.code == "unsupported_encoding" {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
    }
    response
}

/// Seconds after which a client is told to try again.
pub(super) fn retry_after(problem: &Problem) -> Option<u32> {
    let seconds = problem.retry_after?;
    // Who was refused for the gateway's own sake should not come back all at once.
    let at_once = problem.status == StatusCode::SERVICE_UNAVAILABLE && !problem.wait_is_known;
    let later = if at_once { scatter(seconds) } else { 0 };
    Some(seconds.saturating_add(later))
}

/// A number from 0 to `most`, of which nobody has to be able to guess nothing.
fn scatter(most: u32) -> u32 {
    let any = RandomState::new().build_hasher().finish();
    u32::try_from(any % (u64::from(most) + 1)).unwrap_or(0)
}

pub(super) fn json_reply(status: StatusCode, value: &impl Serialize) -> Response<ReplyBody> {
    let mut response = Response::new(json_body(value));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn json_body(value: &impl Serialize) -> ReplyBody {
    let text = serde_json::to_vec(value).expect("names and texts are always JSON");
    ReplyBody::new([Bytes::from(text)])
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_owned())
}
