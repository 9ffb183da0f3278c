//! The statistics extension: Triton's names for what the [meter](crate::meter) counts.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    meter::{Meter, Served, Spent, Statistics, Timed},
    name::{ModelName, TenantName, Version},
    repository::{FindError, Model, namespaces::Namespaces},
};

/// The calls of one tenant that one version answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelStatistics {
    pub name: String,
    pub version: String,
    /// When a call ended last, in milliseconds since 1970.
    pub last_inference: u64,
    /// Calls that a run answered, each as many times as its batch was large.
    pub inference_count: u64,
    /// The runs that answered them.
    pub execution_count: u64,
    pub inference_stats: InferStatistics,
    /// By answer, of a model that gives several; none does.
    pub response_stats: BTreeMap<String, ()>,
    pub batch_stats: Vec<BatchStatistics>,
    /// Not measured.
    pub memory_usage: [(); 0],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct InferStatistics {
    pub success: StatisticDuration,
    pub fail: StatisticDuration,
    pub queue: StatisticDuration,
    pub compute_input: StatisticDuration,
    pub compute_infer: StatisticDuration,
    pub compute_output: StatisticDuration,
    pub cache_hit: StatisticDuration,
    pub cache_miss: StatisticDuration,
}

/// Executions with batches of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BatchStatistics {
    pub batch_size: u64,
    pub compute_input: StatisticDuration,
    pub compute_infer: StatisticDuration,
    pub compute_output: StatisticDuration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatisticDuration {
    pub count: u64,
    pub ns: u64,
}

impl From<Timed> for StatisticDuration {
    fn from(timed: Timed) -> Self {
        Self { count: timed.count, ns: timed.nanos }
    }
}

/// What became of a tenant's calls: of all versions that it can call, of one model's, or of one.
///
/// # Errors
/// If there is no such model, or none of its versions is ready.
pub fn statistics(
    models: &Namespaces,
    meter: &Meter,
    tenant: &TenantName,
    of: Option<(&ModelName, Option<&Version>)>,
) -> Result<Vec<ModelStatistics>, FindError> {
    let served = match of {
        None => models.served(tenant),
        Some((model, version)) => models.served_of(tenant, model, version)?,
    };
    let told = |model: &Model| {
        let shared = model.is_shared();
        let served = Served { model: model.name.clone(), version: model.version.clone(), shared };
        let statistics = meter.statistics(tenant, &served);
        ModelStatistics::new(served, &statistics)
    };
    Ok(served.iter().map(|model| told(model)).collect())
}

impl ModelStatistics {
    fn new(served: Served, statistics: &Statistics) -> Self {
        let Statistics { success, spent, .. } = statistics;
        let count = statistics.ran();
        let took = |ns| StatisticDuration { count, ns };
        let batches = statistics.batches.iter().map(|(size, batches)| {
            let (count, Spent { decode, run, encode, .. }) = (batches.count, batches.spent);
            let took = |ns| StatisticDuration { count, ns };
            BatchStatistics {
                batch_size: *size,
                compute_input: took(decode),
                compute_infer: took(run),
                compute_output: took(encode),
            }
        });
        Self {
            name: served.model.to_string(),
            version: served.version.to_string(),
            last_inference: statistics.last_ms,
            inference_count: statistics.inferences,
            execution_count: statistics.executions,
            inference_stats: InferStatistics {
                success: (*success).into(),
                fail: statistics.failed().into(),
                queue: took(spent.wait),
                compute_input: took(spent.decode),
                compute_infer: took(spent.run),
                compute_output: took(spent.encode),
                cache_hit: statistics.cache_hit.into(),
                cache_miss: statistics.cache_miss.into(),
            },
            response_stats: BTreeMap::new(),
            batch_stats: batches.collect(),
            memory_usage: [],
        }
    }
}
