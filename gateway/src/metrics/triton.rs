//! The same calls under Triton's names, for dashboards that know those.
//!
//! Of a shared model the calls of all tenants are added up, and the labels are Triton's; of a tenant's own there is the label
//! `tenant` beside them.

use std::collections::BTreeMap;

use prometheus::proto::MetricFamily;

use crate::{
    infer::Gateway,
    meter::{Failure, Statistics},
    repository::namespaces::Namespace,
};

use super::{
    family::{counter, gauge},
    labels::Seen,
};

const LABELS: [&str; 3] = ["tenant", "model", "version"];

pub(super) fn families(gateway: &Gateway, seen: &mut Seen) -> Vec<MetricFamily> {
    let mut calls: BTreeMap<[String; 3], Statistics> = BTreeMap::new();
    let mut pending: BTreeMap<[String; 3], usize> = BTreeMap::new();
    for model in gateway.models.all_served() {
        let owner = match &model.namespace {
            Namespace::Shared => None,
            Namespace::Tenant(tenant) => Some(tenant),
        };
        let labels = seen.served(owner, &model.name, &model.version);
        calls.entry(labels.clone()).or_default();
        *pending.entry(labels).or_default() += model.queue.length();
    }
    for tenant in gateway.meter.tenants() {
        for (served, statistics) in gateway.meter.counted(&tenant).1 {
            let owner = (!served.shared).then_some(&tenant);
            calls.entry(seen.served(owner, &served.model, &served.version)).or_default().add(&statistics);
        }
    }
    let counts = |name: &str, help: &str, figure: fn(&Statistics) -> u64| {
        counter(name, help, &LABELS, calls.iter().map(|(labels, calls)| (labels, figure(calls) as f64)))
    };
    // Whole microseconds, as in Triton.
    let times = |name: &str, what: &str, nanos: fn(&Statistics) -> u64| {
        let help = format!("Cumulative {what} duration in microseconds");
        let samples = calls.iter().map(|(labels, calls)| (labels, (nanos(calls) / 1000) as f64));
        counter(name, &help, &LABELS, samples)
    };
    let failures = calls.iter().flat_map(|([tenant, model, version], calls)| {
        Failure::ALL.map(|failure| {
            let labels = [tenant.clone(), model.clone(), version.clone(), failure.word().to_owned()];
            (labels, calls.failures[failure as usize].count as f64)
        })
    });
    vec![
        counts(
            "nv_inference_request_success",
            "Number of successful inference requests, all batch sizes",
            |calls| calls.success.count,
        ),
        counter(
            "nv_inference_request_failure",
            "Number of failed inference requests, all batch sizes",
            &["tenant", "model", "version", "reason"],
            failures,
        ),
        counts("nv_inference_count", "Number of inferences performed", |calls| calls.inferences),
        counts("nv_inference_exec_count", "Number of model executions performed", |calls| calls.executions),
        counts("nv_cache_num_hits_per_model", "Number of cache hits per model", |calls| {
            calls.cache_hit.count
        }),
        counts("nv_cache_num_misses_per_model", "Number of cache misses per model", |calls| {
            calls.cache_miss.count
        }),
        times("nv_cache_hit_duration_per_model", "cache hit", |calls| calls.cache_hit.nanos),
        times("nv_cache_miss_duration_per_model", "cache miss", |calls| calls.cache_miss.nanos),
        times("nv_inference_request_duration_us", "inference request", |calls| calls.success.nanos),
        times("nv_inference_queue_duration_us", "inference queuing", |calls| calls.spent.wait),
        times("nv_inference_compute_input_duration_us", "compute input", |calls| calls.spent.decode),
        times("nv_inference_compute_infer_duration_us", "compute inference", |calls| calls.spent.run),
        times("nv_inference_compute_output_duration_us", "inference compute output", |calls| {
            calls.spent.encode
        }),
        gauge(
            "nv_inference_pending_request_count",
            "Instantaneous number of pending requests awaiting execution per model",
            &LABELS,
            pending.iter().map(|(labels, pending)| (labels, *pending as f64)),
        ),
    ]
}
