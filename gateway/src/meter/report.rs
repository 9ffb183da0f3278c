//! Usage as `GET /v2/usage` tells it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::name::{ModelName, TenantName};

use super::{Figures, totals::Models};

/// What one tenant used since the gateway started.
#[derive(Debug, Serialize)]
pub struct TenantUsage {
    pub tenant: String,
    /// When this gateway started, in milliseconds since 1970.
    pub since: u64,
    pub total: Sum,
    pub models: Vec<ModelUsage>,
}

/// What all tenants used since the gateway started, those that are removed by now included.
#[derive(Debug, Serialize)]
pub struct AllUsage {
    /// When this gateway started, in milliseconds since 1970.
    pub since: u64,
    pub tenants: Vec<TenantTotal>,
}

#[derive(Debug, Serialize)]
pub struct TenantTotal {
    pub tenant: String,
    #[serde(flatten)]
    pub sum: Sum,
}

#[derive(Debug, Serialize)]
pub struct ModelUsage {
    /// `None` stands for all names that are no model of the tenant's.
    pub model: Option<String>,
    #[serde(flatten)]
    pub sum: Sum,
}

/// Figures over several outcomes; times are null where there was no call.
#[derive(Debug, Default, Serialize)]
pub struct Sum {
    pub calls: u64,
    /// Calls by outcome.
    pub outcomes: BTreeMap<String, u64>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub cpu_ns: u64,
    pub peak_memory: u64,
    /// When something of it was first and last noted, in milliseconds since 1970.
    pub first: Option<u64>,
    pub last: Option<u64>,
}

impl TenantUsage {
    pub(super) fn new(tenant: &TenantName, since: u64, models: Option<&Models>) -> Self {
        let models = models.into_iter().flatten();
        let mut total = BTreeMap::<String, Figures>::new();
        let models = models
            .map(|(model, outcomes)| {
                let outcomes = outcomes.iter().map(|(outcome, figures)| (outcome.to_string(), figures));
                for (outcome, figures) in outcomes.clone() {
                    total.entry(outcome).or_default().add(figures);
                }
                ModelUsage { model: model.as_ref().map(ModelName::to_string), sum: Sum::of(outcomes) }
            })
            .collect();
        let total = Sum::of(total.iter().map(|(outcome, figures)| (outcome.clone(), figures)));
        Self { tenant: tenant.to_string(), since, total, models }
    }
}

impl Sum {
    fn of<'a>(outcomes: impl Iterator<Item = (String, &'a Figures)>) -> Self {
        let mut all = Figures::default();
        let mut calls = BTreeMap::new();
        for (outcome, figures) in outcomes {
            all.add(figures);
            calls.insert(outcome, figures.calls);
        }
        let some = !calls.is_empty();
        Self {
            calls: all.calls,
            outcomes: calls,
            bytes_in: all.bytes_in,
            bytes_out: all.bytes_out,
            cpu_ns: all.cpu_nanos,
            peak_memory: all.peak_memory_bytes,
            first: some.then_some(all.first_ms),
            last: some.then_some(all.last_ms),
        }
    }
}
