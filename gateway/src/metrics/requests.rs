//! Infer requests by tenant and model, as the meter has them.

use std::collections::BTreeMap;

use prometheus::proto::MetricFamily;

use crate::{infer::Gateway, meter::BUCKETS};

use super::{
    family::{counter, histogram},
    labels::Seen,
};

/// What is added up for one tenant's calls of one model.
#[derive(Default)]
struct Sum {
    received: u64,
    sent: u64,
    cpu_nanos: u64,
}

pub(super) fn families(gateway: &Gateway, seen: &mut Seen) -> Vec<MetricFamily> {
    let mut calls: BTreeMap<[String; 3], u64> = BTreeMap::new();
    let mut sums: BTreeMap<[String; 2], Sum> = BTreeMap::new();
    let mut durations: BTreeMap<[String; 3], ([u64; BUCKETS.len() + 1], f64)> = BTreeMap::new();
    for tenant in gateway.meter.tenants() {
        let (models, versions) = gateway.meter.counted(&tenant);
        for (model, outcomes) in &models {
            let [tenant, model] = seen.model(&tenant, model.as_ref());
            for (outcome, figures) in outcomes {
                let labels = [tenant.clone(), model.clone(), outcome.to_string()];
                *calls.entry(labels).or_default() += figures.calls;
                let sum = sums.entry([tenant.clone(), model.clone()]).or_default();
                sum.received += figures.bytes_in;
                sum.sent += figures.bytes_out;
                sum.cpu_nanos += figures.cpu_nanos;
            }
        }
        for (served, statistics) in &versions {
            let labels = seen.version(&tenant, &served.model, &served.version);
            let (counts, seconds) = durations.entry(labels).or_default();
            for (own, count) in counts.iter_mut().zip(statistics.durations) {
                *own += count;
            }
            *seconds += (statistics.success.nanos + statistics.failed().nanos) as f64 / 1e9;
        }
    }
    let labels = ["tenant", "model"];
    let of = |figure: fn(&Sum) -> f64| sums.iter().map(move |(labels, sum)| (labels, figure(sum)));
    vec![
        counter(
            "airlock_requests_total",
            "Infer requests that have ended, by outcome: ok, client_gone, or the code of the error",
            &["tenant", "model", "outcome"],
            calls.iter().map(|(labels, calls)| (labels, *calls as f64)),
        ),
        counter(
            "airlock_request_bytes_total",
            "Bytes of the bodies of infer requests, as they were sent",
            &labels,
            of(|sum| sum.received as f64),
        ),
        counter(
            "airlock_answer_bytes_total",
            "Bytes of answers to infer requests; error texts are not counted",
            &labels,
            of(|sum| sum.sent as f64),
        ),
        counter(
            "airlock_cpu_seconds_total",
            "Processor time of models",
            &labels,
            of(|sum| sum.cpu_nanos as f64 / 1e9),
        ),
        histogram(
            "airlock_request_duration_seconds",
            "Time from a whole infer request to its answer or refusal",
            &["tenant", "model", "version"],
            durations,
        ),
    ]
}
