//! What the front doors answer about the server, its models and their repository: found out here, put into words by each of them.

use std::sync::Arc;

use crate::{
    authenticate::{Principal, Scope},
    error::Problem,
    infer::Gateway,
    name::{ModelName, TenantName},
    repository::{
        FindError, IndexEntry, Model, State,
        namespaces::Wanted,
        uploads::{UploadError, Uploads},
    },
    route::Target,
};

use super::uploads::{self, LoadRequest};

/// The server's name, as it tells it to clients.
pub(super) const NAME: &str = "airlock";

/// The protocol's extensions that this server offers, as its metadata announces them.
pub(super) const EXTENSIONS: [&str; 6] = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
];

/// What a request needs beside a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing: who asks whether the gateway lives gets an answer.
    Nothing,
    Memory,
    /// A model is loaded or compiled.
    Load,
}

/// What is not done while memory is short.
pub(super) fn enough_memory(gateway: &Gateway, needs: Needs) -> Result<(), Problem> {
    let too_much = match needs {
        Needs::Nothing => false,
        Needs::Memory => gateway.memory.no_calls(),
        Needs::Load => gateway.memory.no_loads() || gateway.memory.no_calls(),
    };
    if too_much { Err(Problem::short_of_memory()) } else { Ok(()) }
}

/// A model, and its versions that a client may name.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) model: Arc<Model>,
    pub(super) versions: Vec<String>,
}

pub(super) fn describe(
    gateway: &Gateway,
    tenant: &TenantName,
    target: &Target,
) -> Result<Described, Problem> {
    let wanted = Wanted::new(target.version.as_ref(), None);
    let model = gateway.models.find(tenant, &target.model, &wanted)?;
    let versions = match &target.version {
        Some(version) => vec![version.to_string()],
        None => gateway.models.versions(tenant, &target.model).iter().map(ToString::to_string).collect(),
    };
    Ok(Described { model, versions })
}

/// Whether a model is ready, and if not, why.
///
/// # Errors
/// If there is no such model.
pub(super) fn model_ready(
    gateway: &Gateway,
    tenant: &TenantName,
    target: &Target,
) -> Result<Result<(), Problem>, Problem> {
    match gateway.models.find(tenant, &target.model, &Wanted::new(target.version.as_ref(), None)) {
        Ok(_) => Ok(Ok(())),
        Err(error @ FindError::NotReady { .. }) => Ok(Err(error.into())),
        Err(error) => Err(error.into()),
    }
}

/// Every model that a tenant can see, or those of them that are ready.
pub(super) fn index(gateway: &Gateway, tenant: &TenantName, ready_only: bool) -> Vec<IndexEntry> {
    let mut entries = gateway.models.index(tenant);
    entries.retain(|entry| !ready_only || entry.state == State::Ready);
    entries
}

/// `load`, with the files of a model of the tenant's own or without any.
pub(super) async fn load(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    model: &ModelName,
    request: LoadRequest,
) -> Result<(), Problem> {
    let tenant = &principal.tenant;
    if !request.is_empty() {
        return uploads::load_files(gateway, tenant, model, request).await;
    }
    if let Some(uploads) = owner(gateway, tenant, model) {
        return Ok(uploads.set_loaded(tenant, model, true).await?);
    }
    shared_model(principal, model)?;
    Ok(gateway.repository.load(model).await?)
}

pub(super) async fn unload(
    gateway: &Gateway,
    principal: &Principal,
    model: &ModelName,
) -> Result<(), Problem> {
    let tenant = &principal.tenant;
    if let Some(uploads) = owner(gateway, tenant, model) {
        return Ok(uploads.set_loaded(tenant, model, false).await?);
    }
    shared_model(principal, model)?;
    Ok(gateway.repository.unload(model).await?)
}

/// Who keeps that model for the tenant, if it is one of its own.
fn owner<'a>(gateway: &'a Gateway, tenant: &TenantName, model: &ModelName) -> Option<&'a Arc<Uploads>> {
    gateway.uploads.as_ref().filter(|uploads| uploads.has(tenant, model))
}

/// The operator's models serve everybody: only an operator loads and unloads them. To others they are not there to be
/// changed, which is what they hear of any model that is not theirs.
fn shared_model(principal: &Principal, model: &ModelName) -> Result<(), Problem> {
    principal.require(Scope::Admin).map_err(|_| UploadError::UnknownModel(model.clone()).into())
}

/// Gives up on a model that is not loaded or published by the time at which the gateway stops. What was not acknowledged may be
/// published all the same, whole, if its record was being written just then.
pub(super) async fn until_interrupted<T>(
    gateway: &Gateway,
    publishes: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    tokio::select! {
        biased;
        published = publishes => published,
        () = gateway.interrupted() => Err(Problem::draining()),
    }
}
