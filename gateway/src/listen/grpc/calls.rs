//! The calls that have one small message each way.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use hyper::{HeaderMap, Response, body::Incoming};
use prost::Message;

use crate::{
    admit::Reservation,
    authenticate::Principal,
    decode,
    error::Problem,
    infer::{self, Gateway},
    name::ModelName,
    proto::{
        health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus},
        inference::{
            ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
            ModelRepositoryParameter, RepositoryIndexRequest, RepositoryIndexResponse,
            RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
            RepositoryModelUnloadResponse, ServerLiveResponse, ServerMetadataResponse, ServerReadyResponse,
            model_metadata_response::TensorMetadata, model_repository_parameter::ParameterChoice,
            repository_index_response::ModelIndex,
        },
        wire::Fields,
    },
    route::{self, GrpcRoute},
    tensor::TensorSpec,
};

use super::{described, framed, status};
use crate::listen::{
    body::ReplyBody,
    control::{self, Described},
    messages::{MessageError, Messages},
    rest::MAX_CONTROL_BYTES,
    uploads::{LoadRequest, Value},
};

/// Fields of a message that becomes a generated type: few, because each takes more in memory than on the wire.
const MAX_FIELDS: usize = 4096;

/// Bytes of a message that comes without a key.
const MAX_SHORT_BYTES: usize = 256;

pub(super) async fn answer(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    route: GrpcRoute,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Response<ReplyBody>, Problem> {
    let call = Received { gateway, principal, headers, body };
    match route {
        // These say nothing, and are not read.
        GrpcRoute::ServerLive => reply(&ServerLiveResponse { live: true }),
        GrpcRoute::ServerReady => reply(&ServerReadyResponse { ready: gateway.ready().is_ok() }),
        GrpcRoute::ServerMetadata => reply(&ServerMetadataResponse {
            name: control::NAME.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: control::EXTENSIONS.map(str::to_owned).to_vec(),
        }),
        GrpcRoute::HealthCheck => health(gateway, &call.short::<HealthCheckRequest>().await?.service),
        GrpcRoute::ModelReady => model_ready(gateway, principal, &call.message().await?.0),
        GrpcRoute::ModelMetadata => model_metadata(gateway, principal, &call.message().await?.0),
        GrpcRoute::RepositoryIndex => index(gateway, principal, &call.message().await?.0),
        GrpcRoute::RepositoryLoad => load(call).await,
        GrpcRoute::RepositoryUnload => {
            let (request, _) = call.message::<RepositoryModelUnloadRequest>().await?;
            let model = model(&request.repository_name, &request.model_name)?;
            control::unload(gateway, principal, &model).await?;
            reply(&RepositoryModelUnloadResponse { model_name: model.to_string(), is_unloaded: true })
        }
        GrpcRoute::SharedMemory => Err(Problem::no_shared_memory()),
        GrpcRoute::ModelConfig => reply(&described::config(gateway, principal, &call.message().await?.0)?),
        GrpcRoute::ModelStatistics => {
            let statistics = described::statistics(gateway, principal, &call.message().await?.0)?;
            counted(gateway, principal, &statistics)
        }
        GrpcRoute::LogSettings => reply(&described::log_settings(principal, &call.message().await?.0)?),
        GrpcRoute::TraceSetting => {
            reply(&described::trace_settings(gateway, principal, &call.message().await?.0)?)
        }
        GrpcRoute::HealthWatch => Err(Problem::not_implemented("ask with Check as often as need be")),
        GrpcRoute::ModelInfer | GrpcRoute::ModelStreamInfer | GrpcRoute::Reflection => {
            Err(Problem::unknown_call())
        }
    }
}

/// A call that was let in, and what it is about to say.
struct Received<'a> {
    gateway: &'a Arc<Gateway>,
    principal: &'a Principal,
    headers: &'a HeaderMap,
    body: Incoming,
}

impl Received<'_> {
    /// Its message, and what that holds in memory.
    async fn message<M: Message + Default>(self) -> Result<(M, Reservation), Problem> {
        self.message_within(MAX_CONTROL_BYTES).await
    }

    /// The message of one who has no key: in nobody's count, and so short that it needs none.
    async fn short<M: Message + Default>(self) -> Result<M, Problem> {
        let listen = &self.gateway.limits.listen;
        let mut messages = Messages::new(self.body, self.headers, listen, true);
        if !messages.begins(listen.body_idle_timeout).await? {
            return Err(MessageError::None.into());
        }
        let bytes = messages.read(MAX_SHORT_BYTES, |_| Ok::<_, Problem>(())).await?;
        match messages.encoding() {
            None => decoded(bytes),
            Some(_) => Err(Problem::not_implemented("this message is taken without compression only")),
        }
    }

    async fn message_within<M: Message + Default>(self, limit: usize) -> Result<(M, Reservation), Problem> {
        let listen = &self.gateway.limits.listen;
        let mut messages = Messages::new(self.body, self.headers, listen, true);
        if !messages.begins(listen.body_idle_timeout).await? {
            return Err(MessageError::None.into());
        }
        let mut reservation = self.gateway.reservation(&self.principal.tenant);
        let message = read(&mut messages, limit, &mut reservation).await?;
        Ok((message, reservation))
    }
}

/// Reads a small message that has begun.
pub(super) async fn read<M: Message + Default>(
    messages: &mut Messages,
    limit: usize,
    reservation: &mut Reservation,
) -> Result<M, Problem> {
    let bytes = messages.read(limit, |bytes| reservation.grow(bytes).map_err(Problem::from)).await?;
    let bytes = match messages.encoding() {
        None => bytes,
        Some(encoding) if limit <= MAX_CONTROL_BYTES => decode::grpc::decompress(bytes, encoding, limit)?,
        Some(_) => {
            return Err(Problem::not_implemented("this message is taken without compression only"));
        }
    };
    // Texts are copied.
    reservation.resize(2 * bytes.len())?;
    infer::off_the_sockets(bytes.len(), || decoded(bytes))
}

fn decoded<M: Message + Default>(bytes: Bytes) -> Result<M, Problem> {
    if Fields(&bytes).take(MAX_FIELDS + 1).count() > MAX_FIELDS {
        return Err(Problem::bad_request(format!("the message has more than {MAX_FIELDS} fields")));
    }
    M::decode(bytes).map_err(|error| Problem::bad_request(format!("the message is malformed: {error}")))
}

/// An answer whose length grows with what the tenant has: it counts until it is sent.
fn counted(
    gateway: &Gateway,
    principal: &Principal,
    message: &impl Message,
) -> Result<Response<ReplyBody>, Problem> {
    let mut reservation = gateway.reservation(&principal.tenant);
    reservation.grow(message.encoded_len())?;
    Ok(reply(message)?.map(|body| body.holding(reservation)))
}

fn reply(message: &impl Message) -> Result<Response<ReplyBody>, Problem> {
    Ok(Response::new(ReplyBody::new([framed(message)?]).ended_by(status::ok())))
}

fn health(gateway: &Gateway, service: &str) -> Result<Response<ReplyBody>, Problem> {
    if !matches!(service, "" | "inference.GRPCInferenceService" | "grpc.health.v1.Health") {
        return Err(Problem::not_found());
    }
    let status = if gateway.ready().is_ok() { ServingStatus::Serving } else { ServingStatus::NotServing };
    reply(&HealthCheckResponse { status: status.into() })
}

fn model_ready(
    gateway: &Gateway,
    principal: &Principal,
    request: &ModelReadyRequest,
) -> Result<Response<ReplyBody>, Problem> {
    // Clients take an error for a fault of the call: what is not there is not ready.
    let ready = match route::named(&request.name, &request.version) {
        Ok(target) => matches!(control::model_ready(gateway, &principal.tenant, &target), Ok(Ok(()))),
        Err(_) => false,
    };
    reply(&ModelReadyResponse { ready })
}

fn model_metadata(
    gateway: &Gateway,
    principal: &Principal,
    request: &ModelMetadataRequest,
) -> Result<Response<ReplyBody>, Problem> {
    let target = route::named(&request.name, &request.version)?;
    let Described { model, versions } = control::describe(gateway, &principal.tenant, &target)?;
    let signature = model.executor.signature();
    let tensor = |spec: &TensorSpec| TensorMetadata {
        name: spec.name.clone(),
        datatype: spec.datatype.name().to_owned(),
        shape: spec.shape.0.clone(),
    };
    reply(&ModelMetadataResponse {
        name: model.name.to_string(),
        versions,
        platform: model.executor.platform().to_owned(),
        inputs: signature.inputs.iter().map(tensor).collect(),
        outputs: signature.outputs.iter().map(tensor).collect(),
    })
}

fn index(
    gateway: &Gateway,
    principal: &Principal,
    request: &RepositoryIndexRequest,
) -> Result<Response<ReplyBody>, Problem> {
    let entries = control::index(gateway, &principal.tenant, request.ready).into_iter();
    let models = entries.map(|entry| ModelIndex {
        name: entry.name.to_string(),
        version: entry.version.map(|version| version.to_string()).unwrap_or_default(),
        state: entry.state.name().to_owned(),
        reason: entry.reason.unwrap_or_default(),
    });
    counted(gateway, principal, &RepositoryIndexResponse { models: models.collect() })
}

async fn load(call: Received<'_>) -> Result<Response<ReplyBody>, Problem> {
    let (gateway, principal) = (call.gateway, call.principal);
    let load = async {
        let limit = gateway.limits.decode.max_body_bytes;
        let (request, reservation) = call.message_within::<RepositoryModelLoadRequest>(limit).await?;
        let model = model(&request.repository_name, &request.model_name)?;
        let parameters = load_parameters(request.parameters)?;
        control::load(gateway, principal, &model, LoadRequest::new(parameters, reservation)).await?;
        reply(&RepositoryModelLoadResponse { model_name: model.to_string(), is_loaded: true })
    };
    control::until_interrupted(gateway, load).await
}

/// Texts as they are, and files as bytes; a text that is a file is base64, as over REST.
fn load_parameters(
    parameters: BTreeMap<String, ModelRepositoryParameter>,
) -> Result<BTreeMap<String, Value>, Problem> {
    let parameter = |(name, parameter): (String, ModelRepositoryParameter)| {
        let value = match parameter.parameter_choice {
            Some(ParameterChoice::StringParam(text)) => Value::Text(text),
            Some(ParameterChoice::BytesParam(bytes)) => Value::Bytes(bytes),
            _ => {
                let name: String = name.chars().take(64).collect();
                return Err(Problem::bad_request(format!("parameter {name:?} must be a text or bytes")));
            }
        };
        Ok((name, value))
    };
    parameters.into_iter().map(parameter).collect()
}

/// The model's name: Triton's clients have it in one field, KServe's in the other.
fn model(repository: &str, model: &str) -> Result<ModelName, Problem> {
    let name = if model.is_empty() { repository } else { model };
    Ok(route::named(name, "")?.model)
}
