//! Triton's and KServe's extensions that tell something and change nothing: list, configuration, statistics, logs, traces.

use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::{
    describe::{self, ModelStatistics},
    error::Problem,
    infer::Gateway,
    name::TenantName,
    repository::namespaces::Wanted,
    route::Extension,
};

use super::{
    body::ReplyBody,
    docs,
    rest::{counted_reply, json_reply},
};

#[derive(Serialize)]
struct Told {
    model_stats: Vec<ModelStatistics>,
}

/// Answers what the room [`describe`] knows, and says of the rest why it is not offered.
pub(super) fn answer(
    gateway: &Gateway,
    tenant: &TenantName,
    extension: &Extension,
) -> Result<Response<ReplyBody>, Problem> {
    let models = &gateway.models;
    let statistics = |of| -> Result<_, Problem> {
        let model_stats = describe::statistics(models, &gateway.meter, tenant, of)?;
        counted_reply(gateway, tenant, &Told { model_stats })
    };
    match extension {
        Extension::Models => {
            let names = describe::list(models, tenant);
            counted_reply(gateway, tenant, &json!({ "models": names }))
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
        Extension::Docs(of) | Extension::Document(of) => docs::document(gateway, tenant, of.as_ref()),
        Extension::Page => Ok(docs::page()),
        Extension::SetLogging => Err(Problem::log_is_fixed()),
        Extension::SetTrace => Err(Problem::traces_are_fixed()),
        Extension::SharedMemory => Err(Problem::no_shared_memory()),
    }
}
