//! The routes that Triton and KServe have beyond V2.

use hyper::Method;

use super::{RouteError, Target, docs::docs, name, target};
use crate::name::ModelName;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extension {
    /// The models that the tenant can call.
    Models,
    Config(Target),
    /// Of all models that the tenant can call.
    AllStatistics,
    Statistics(Target),
    /// What is logged, and an attempt to change it.
    Logging,
    SetLogging,
    /// What is traced of a model, or at all, and an attempt to change it.
    Trace(Option<ModelName>),
    SetTrace,
    /// Tensors in memory that client and server share, which is not offered.
    SharedMemory,
    /// The OpenAPI document of everything, or of a model; for a browser the page.
    Docs(Option<Target>),
    Document(Option<Target>),
    /// The page to try calls: the same everywhere.
    Page,
}

/// The extension at that path, if there is one.
pub(super) fn extension(method: &Method, segments: &[&str]) -> Option<Result<Extension, RouteError>> {
    if let Some(docs) = docs(method, segments) {
        return Some(docs);
    }
    let allow = match segments {
        ["models"] | ["models", "stats"] | ["models", _, "stats" | "config"] => "GET",
        ["models", _, "versions", _, "stats" | "config"] => "GET",
        ["logging"] | ["trace", "setting"] | ["models", _, "trace", "setting"] => "GET, POST",
        // Any method leads to what is not offered at all.
        ["systemsharedmemory" | "cudasharedmemory", ..] => return Some(Ok(Extension::SharedMemory)),
        _ => return None,
    };
    let route = || {
        Ok(match (method.as_str(), segments) {
            ("GET", ["models"]) => Extension::Models,
            // Rather than a model of that name, as in Triton; its versions have paths of their own.
            ("GET", ["models", "stats"]) => Extension::AllStatistics,
            ("GET", ["models", model, "stats"]) => Extension::Statistics(target(model, None)?),
            ("GET", ["models", model, "config"]) => Extension::Config(target(model, None)?),
            ("GET", ["models", model, _, version, "stats"]) => {
                Extension::Statistics(target(model, Some(version))?)
            }
            ("GET", ["models", model, _, version, "config"]) => {
                Extension::Config(target(model, Some(version))?)
            }
            ("GET", ["logging"]) => Extension::Logging,
            ("POST", ["logging"]) => Extension::SetLogging,
            ("GET", ["trace", _]) => Extension::Trace(None),
            ("GET", ["models", model, "trace", _]) => Extension::Trace(Some(name(model)?)),
            ("POST", ["trace", _] | ["models", _, "trace", _]) => Extension::SetTrace,
            _ => return Err(RouteError::Method { allow }),
        })
    };
    Some(route())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Route, route},
        *,
    };

    fn extension(method: &Method, path: &str) -> Result<Extension, RouteError> {
        match route(method, path)? {
            Route::Extension(extension) => Ok(extension),
            other => panic!("{path} is {other:?}"),
        }
    }

    fn get(path: &str) -> Result<Extension, RouteError> {
        extension(&Method::GET, path)
    }

    fn post(path: &str) -> Result<Extension, RouteError> {
        extension(&Method::POST, path)
    }

    fn at(model: &str, version: Option<&str>) -> Target {
        target(model, version).expect("names")
    }

    #[test]
    fn what_a_tenant_can_call_and_how_that_went() {
        assert_eq!(get("/v2/models"), Ok(Extension::Models));
        assert_eq!(get("/v2/models/stats"), Ok(Extension::AllStatistics));
        assert_eq!(get("/v2/models/iris/stats"), Ok(Extension::Statistics(at("iris", None))));
        let third = at("iris", Some("3"));
        assert_eq!(get("/v2/models/iris/versions/3/stats"), Ok(Extension::Statistics(third.clone())));
        assert_eq!(get("/v2/models/iris/config"), Ok(Extension::Config(at("iris", None))));
        assert_eq!(get("/v2/models/iris/versions/3/config"), Ok(Extension::Config(third)));
        assert_eq!(post("/v2/models"), Err(RouteError::Method { allow: "GET" }));
        assert!(matches!(get("/v2/models/..%2f/stats"), Err(RouteError::UnknownModel(_))));
    }

    #[test]
    fn a_model_that_is_called_stats_is_hidden_on_one_path_only() {
        assert_eq!(get("/v2/models/stats/stats"), Ok(Extension::Statistics(at("stats", None))));
        for (path, expected) in [
            ("/v2/models/stats/versions/1", Route::ModelMetadata(at("stats", Some("1")))),
            ("/v2/models/stats/ready", Route::ModelReady(at("stats", None))),
        ] {
            assert_eq!(route(&Method::GET, path), Ok(expected));
        }
    }

    #[test]
    fn logs_traces_and_shared_memory() {
        assert_eq!(get("/v2/logging"), Ok(Extension::Logging));
        assert_eq!(post("/v2/logging"), Ok(Extension::SetLogging));
        assert_eq!(get("/v2/trace/setting"), Ok(Extension::Trace(None)));
        assert_eq!(get("/v2/models/iris/trace/setting"), Ok(Extension::Trace(Some(at("iris", None).model))));
        assert_eq!(post("/v2/models/iris/trace/setting"), Ok(Extension::SetTrace));
        let wrong = extension(&Method::PUT, "/v2/logging");
        assert_eq!(wrong, Err(RouteError::Method { allow: "GET, POST" }));
        for path in ["/v2/systemsharedmemory/status", "/v2/cudasharedmemory/region/a/register"] {
            assert_eq!((get(path), post(path)), (Ok(Extension::SharedMemory), Ok(Extension::SharedMemory)));
        }
    }
}
