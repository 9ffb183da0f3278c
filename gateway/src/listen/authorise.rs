//! Authorise: may this principal do that? The one place where a route meets a scope; every door leads through it.

use std::{net::IpAddr, sync::Arc};

use hyper::http::request::Parts;

use crate::{
    authenticate::{AuthenticateError, Authenticator, Principal, Scope},
    error::Problem,
    route::{self, AdminRoute, Extension, GrpcRoute, Route},
};

use super::{docs, places::Visitor};

/// What a request asks for, and who asks, who may do so. Without a valid key nobody learns which paths there are.
pub(super) fn authorise(
    authenticator: &Authenticator,
    visitor: &Visitor,
    head: &Parts,
) -> Result<(Route, Arc<Principal>), Problem> {
    let route = route::route(&head.method, head.uri.path());
    let route = route.map(|route| docs::negotiated(route, &head.headers));
    let needed = route.as_ref().map_or(Some(Scope::Infer), scope);
    authorised(authenticator, visitor, head, route.map_err(Problem::from), needed)
}

/// The same at the gRPC port.
pub(super) fn authorise_grpc(
    authenticator: &Authenticator,
    visitor: &Visitor,
    head: &Parts,
) -> Result<(GrpcRoute, Arc<Principal>), Problem> {
    let route = route::grpc(head.uri.path());
    let needed = route.map_or(Some(Scope::Infer), grpc_scope);
    authorised(authenticator, visitor, head, route.ok_or_else(Problem::unknown_call), needed)
}

/// The same for a further message of a call that has been let in: its key may be revoked by now.
pub(super) fn authorise_again(
    authenticator: &Authenticator,
    address: IpAddr,
    head: &Parts,
    route: GrpcRoute,
) -> Result<Arc<Principal>, Problem> {
    let principal = authenticator.principal(address, &head.uri, &head.headers)?;
    if let Some(needed) = grpc_scope(route) {
        principal.require(needed)?;
    }
    Ok(principal)
}

fn authorised<R>(
    authenticator: &Authenticator,
    visitor: &Visitor,
    head: &Parts,
    route: Result<R, Problem>,
    needed: Option<Scope>,
) -> Result<(R, Arc<Principal>), Problem> {
    let Some(needed) = needed else {
        let nobody = authenticator.visitor(&head.uri, &head.headers)?;
        return Ok((route?, nobody));
    };
    let principal = authenticator.principal(visitor.address, &head.uri, &head.headers)?;
    visitor.is_known(&principal);
    let route = route?;
    principal.require(needed)?;
    Ok((route, principal))
}

/// The same at the admin port, where the scope comes before the path and no request goes without a key.
pub(super) fn authorise_admin(
    authenticator: &Authenticator,
    visitor: &Visitor,
    head: &Parts,
) -> Result<AdminRoute, Problem> {
    let principal = authenticator.principal(visitor.address, &head.uri, &head.headers)?;
    if principal.key.is_none() {
        return Err(AuthenticateError::Missing.into());
    }
    visitor.is_known(&principal);
    principal.require(Scope::Admin)?;
    Ok(route::admin(&head.method, head.uri.path())?)
}

/// The scope that a route needs; `None` for what answers everybody: health, which probes ask for without a key, and the page of the
/// documents, which browsers do.
fn scope(route: &Route) -> Option<Scope> {
    match route {
        Route::Live | Route::Ready | Route::Extension(Extension::Page) => None,
        Route::ServerMetadata
        | Route::ModelMetadata(_)
        | Route::ModelReady(_)
        | Route::Usage
        | Route::Infer(_)
        | Route::Generate(_)
        | Route::GenerateStream(_)
        | Route::InferStream(_) => Some(Scope::Infer),
        // What is logged is the operator's.
        Route::Extension(Extension::SetLogging | Extension::SetTrace) => Some(Scope::Admin),
        Route::Extension(_) => Some(Scope::Infer),
        Route::RepositoryIndex
        | Route::RepositoryLoad(_)
        | Route::RepositoryUnload(_)
        | Route::OwnModels
        | Route::OwnModel(_)
        | Route::RemoveModel(_)
        | Route::Settings(_)
        | Route::SetSettings(_)
        | Route::OwnVersion(..)
        | Route::Upload(..)
        | Route::RemoveVersion(..)
        | Route::Verify(_) => Some(Scope::Repository),
    }
}

/// The same of a call of gRPC.
fn grpc_scope(route: GrpcRoute) -> Option<Scope> {
    match route {
        GrpcRoute::ServerLive | GrpcRoute::ServerReady | GrpcRoute::HealthCheck | GrpcRoute::HealthWatch => {
            None
        }
        GrpcRoute::ServerMetadata
        | GrpcRoute::ModelReady
        | GrpcRoute::ModelMetadata
        | GrpcRoute::ModelInfer
        | GrpcRoute::ModelStreamInfer
        | GrpcRoute::ModelConfig
        | GrpcRoute::ModelStatistics
        | GrpcRoute::SharedMemory
        // To read them; to change them would take more.
        | GrpcRoute::TraceSetting
        | GrpcRoute::LogSettings
        | GrpcRoute::Reflection => Some(Scope::Infer),
        GrpcRoute::RepositoryIndex | GrpcRoute::RepositoryLoad | GrpcRoute::RepositoryUnload => {
            Some(Scope::Repository)
        }
    }
}
