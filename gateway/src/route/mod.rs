//! Route: (method, path) → what is asked for. Percent-decoding and name checks happen here, once.
//!
//! Simplifying rules, all enforced: a path is split at `/` before it is decoded, so an encoded slash never makes a new
//! segment; the query is ignored (stock clients may add one); a trailing slash is another path, except on `/v2/`.

use hyper::Method;
use percent_encoding::percent_decode_str;

use crate::name::{ModelName, Version};

mod admin;
mod docs;
mod extension;
mod grpc;

pub use admin::{AdminRoute, admin};
pub use extension::Extension;
pub use grpc::{GrpcRoute, grpc};

/// A model, and the version of it if the path names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub model: ModelName,
    pub version: Option<Version>,
}

/// Everything that the V2 port answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Live,
    Ready,
    ServerMetadata,
    ModelMetadata(Target),
    ModelReady(Target),
    Infer(Target),
    /// The same in the form of Triton's `generate`.
    Generate(Target),
    GenerateStream(Target),
    /// An infer request whose responses come as events.
    InferStream(Target),
    /// What other servers answer beyond V2.
    Extension(Extension),
    /// What the tenant used.
    Usage,
    RepositoryIndex,
    RepositoryLoad(ModelName),
    RepositoryUnload(ModelName),
    /// The calling tenant's own models.
    OwnModels,
    OwnModel(ModelName),
    RemoveModel(ModelName),
    Settings(ModelName),
    SetSettings(ModelName),
    OwnVersion(ModelName, Version),
    Upload(ModelName, Version),
    RemoveVersion(ModelName, Version),
    /// The same inputs through that version and another one.
    Verify(Target),
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("there is nothing at this path; models are at /v2/models/NAME[/versions/VERSION]")]
    UnknownPath,
    /// A text that no model or version can have: to a client it is a model that is not there.
    #[error("Request for unknown model: '{0}' is not found")]
    UnknownModel(String),
    #[error("this port answers GET /metrics")]
    NoMetrics,
    #[error("this path answers {allow} only")]
    Method { allow: &'static str },
}

/// Finds the route of a request, or says what the path or method should have been.
pub fn route(method: &Method, path: &str) -> Result<Route, RouteError> {
    let segments = segments(path)?;
    if let Some(extension) = extension::extension(method, &segments) {
        return extension.map(Route::Extension);
    }
    if let ["repository", "models", own @ ..] = segments.as_slice()
        && let Some(route) = own_models(method, own)
    {
        return route;
    }
    let (route, allow) = match segments.as_slice() {
        [] => (Route::ServerMetadata, "GET"),
        ["health", "live"] => (Route::Live, "GET"),
        ["health", "ready"] => (Route::Ready, "GET"),
        ["usage"] => (Route::Usage, "GET"),
        ["repository", "index"] => (Route::RepositoryIndex, "POST"),
        ["repository", "models", model, "load"] => (Route::RepositoryLoad(name(model)?), "POST"),
        ["repository", "models", model, "unload"] => (Route::RepositoryUnload(name(model)?), "POST"),
        ["repository", "models", model, "versions", version, "verify"] => {
            (Route::Verify(target(model, Some(version))?), "POST")
        }
        ["models", model] => (Route::ModelMetadata(target(model, None)?), "GET"),
        ["models", model, "ready"] => (Route::ModelReady(target(model, None)?), "GET"),
        ["models", model, "infer"] => (Route::Infer(target(model, None)?), "POST"),
        ["models", model, "infer_stream"] => (Route::InferStream(target(model, None)?), "POST"),
        ["models", model, "generate"] => (Route::Generate(target(model, None)?), "POST"),
        ["models", model, "generate_stream"] => (Route::GenerateStream(target(model, None)?), "POST"),
        ["models", model, "versions", version] => {
            (Route::ModelMetadata(target(model, Some(version))?), "GET")
        }
        ["models", model, "versions", version, "ready"] => {
            (Route::ModelReady(target(model, Some(version))?), "GET")
        }
        ["models", model, "versions", version, "infer"] => {
            (Route::Infer(target(model, Some(version))?), "POST")
        }
        ["models", model, "versions", version, "infer_stream"] => {
            (Route::InferStream(target(model, Some(version))?), "POST")
        }
        ["models", model, "versions", version, "generate"] => {
            (Route::Generate(target(model, Some(version))?), "POST")
        }
        ["models", model, "versions", version, "generate_stream"] => {
            (Route::GenerateStream(target(model, Some(version))?), "POST")
        }
        _ => return Err(RouteError::UnknownPath),
    };
    if method.as_str() == allow { Ok(route) } else { Err(RouteError::Method { allow }) }
}

/// The paths of a tenant's own models, each of which answers several methods.
fn own_models(method: &Method, segments: &[&str]) -> Option<Result<Route, RouteError>> {
    let allow = match segments {
        [] => "GET",
        [_] => "GET, DELETE",
        [_, "settings"] => "GET, PUT",
        [_, "versions", _] => "GET, PUT, DELETE",
        _ => return None,
    };
    let route = || {
        Ok(match (method.as_str(), segments) {
            ("GET", []) => Route::OwnModels,
            ("GET", [model]) => Route::OwnModel(name(model)?),
            ("DELETE", [model]) => Route::RemoveModel(name(model)?),
            ("GET", [model, "settings"]) => Route::Settings(name(model)?),
            ("PUT", [model, "settings"]) => Route::SetSettings(name(model)?),
            ("GET", [model, "versions", version]) => Route::OwnVersion(name(model)?, name(version)?),
            ("PUT", [model, "versions", version]) => Route::Upload(name(model)?, name(version)?),
            ("DELETE", [model, "versions", version]) => Route::RemoveVersion(name(model)?, name(version)?),
            _ => return Err(RouteError::Method { allow }),
        })
    };
    Some(route())
}

/// The only route of the metrics port.
pub fn metrics(method: &Method, path: &str) -> Result<(), RouteError> {
    match (method.as_str(), path) {
        ("GET", "/metrics") => Ok(()),
        (_, "/metrics") => Err(RouteError::Method { allow: "GET" }),
        _ => Err(RouteError::NoMetrics),
    }
}

/// The target of a message that names a model and, unless that text is empty, a version.
pub fn named(model: &str, version: &str) -> Result<Target, RouteError> {
    let unknown = |text: &str| RouteError::UnknownModel(text.chars().take(crate::name::MAX_LENGTH).collect());
    let version = (!version.is_empty()).then(|| version.parse().map_err(|_| unknown(version))).transpose()?;
    Ok(Target { model: model.parse().map_err(|_| unknown(model))?, version })
}

fn target(model: &str, version: Option<&str>) -> Result<Target, RouteError> {
    Ok(Target { model: name(model)?, version: version.map(name).transpose()? })
}

/// The segments of a path behind `/v2`, not decoded yet.
fn segments(path: &str) -> Result<Vec<&str>, RouteError> {
    let path = path.strip_prefix("/v2").ok_or(RouteError::UnknownPath)?;
    match path {
        "" | "/" => Ok(Vec::new()),
        _ => Ok(path.strip_prefix('/').ok_or(RouteError::UnknownPath)?.split('/').collect()),
    }
}

fn decoded(segment: &str) -> Option<String> {
    percent_decode_str(segment).decode_utf8().ok().map(Into::into)
}

fn name<T: std::str::FromStr>(segment: &str) -> Result<T, RouteError> {
    let unknown = || RouteError::UnknownModel(segment.chars().take(crate::name::MAX_LENGTH).collect());
    decoded(segment).ok_or_else(unknown)?.parse().map_err(|_| unknown())
}

#[cfg(test)]
mod tests;
