//! Triton's and KServe's extensions that tell something and change nothing: list, configuration, statistics, logs, traces.

use hyper::{Response, StatusCode};
use serde_json::json;

use crate::{
    describe, error::Problem, infer::Gateway, name::TenantName, repository::namespaces::Wanted,
    route::Extension,
};

use super::{body::ReplyBody, rest::json_reply};

/// Answers what the room [`describe`] knows, and says of the rest why it is not offered.
pub(super) fn answer(
    gateway: &Gateway,
    tenant: &TenantName,
    extension: &Extension,
) -> Result<Response<ReplyBody>, Problem> {
    let models = &gateway.models;
    let statistics = |of| -> Result<_, Problem> {
        let statistics = describe::statistics(models, &gateway.meter, tenant, of)?;
        Ok(json_reply(StatusCode::OK, &json!({ "model_stats": statistics })))
    };
    match extension {
        Extension::Models => {
            let names = describe::list(models, tenant);
            Ok(json_reply(StatusCode::OK, &json!({ "models": names })))
        }
        Extension::Config(target) => {
            let config = describe::config(models, tenant, &target.model, target.version.as_ref())?;
            Ok(json_reply(StatusCode::OK, &config))
        }
        Extension::AllStatistics => statistics(None),
        Extension::Statistics(target) => statistics(Some((&target.model, target.version.as_ref()))),
        Extension::Logging => Ok(json_reply(StatusCode::OK, &describe::log_settings())),
        Extension::Trace(model) => {
            if let Some(model) = model {
                models.find(tenant, model, &Wanted::default())?;
            }
            Ok(json_reply(StatusCode::OK, &describe::trace_settings()))
        }
        Extension::SetLogging => Err(Problem::log_is_fixed()),
        Extension::SetTrace => Err(Problem::traces_are_fixed()),
        Extension::SharedMemory => Err(Problem::no_shared_memory()),
    }
}
