//! Describe: what a tenant is told of the models that it can call, as structs that every door writes in its own way.
//!
//! A model that is not the tenant's to see is one that is not there.

mod config;
mod openapi;
mod settings;
mod statistics;

use crate::{
    name::{ModelName, TenantName},
    repository::namespaces::Namespaces,
};

pub use config::{ModelConfig, TensorConfig, TransactionPolicy, VersionChoice, config};
pub use openapi::{model_openapi, openapi};
pub use settings::{LogSettings, TraceSettings, log_settings, trace_settings};
pub use statistics::{BatchStatistics, InferStatistics, ModelStatistics, StatisticDuration, statistics};

/// The names of the models that a tenant can call, each once.
pub fn list(models: &Namespaces, tenant: &TenantName) -> Vec<ModelName> {
    let mut names: Vec<ModelName> = models.served(tenant).iter().map(|model| model.name.clone()).collect();
    names.dedup();
    names
}
