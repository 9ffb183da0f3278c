//! The state of the gateway itself, whose series are few whatever tenants do.

use std::sync::atomic::Ordering;

use prometheus::proto::MetricFamily;

use crate::{infer::Gateway, listen::Door};

use super::family::{counter, gauge, single};

pub(super) fn families(gateway: &Gateway) -> Vec<MetricFamily> {
    let taken = gateway.admission.taken();
    let (responses, response_bytes) = gateway.responses.taken();
    let (instances, most) = gateway.sandbox.instances();
    let connections =
        Door::ALL.map(|door| ([door.word().to_owned()], count(gateway.traffic.connections(door))));
    let answers = Door::ALL.into_iter().flat_map(|door| {
        let answers = gateway.traffic.answers(door);
        answers.map(move |(status, answers)| ([door.word().to_owned(), status.to_string()], answers as f64))
    });
    let marks = gateway.memory.marks().map(|(mark, passed)| ([mark.to_owned()], flag(passed)));
    vec![
        gauge(
            "airlock_build_info",
            "The version that runs; always 1",
            &["version"],
            [([env!("CARGO_PKG_VERSION").to_owned()], 1.0)],
        ),
        single(
            "airlock_start_time_seconds",
            "When the gateway started, in seconds since 1970",
            gateway.meter.since_ms() as f64 / 1e3,
        ),
        single("airlock_ready", "Whether new requests should be sent here", flag(gateway.ready().is_ok())),
        single(
            "airlock_draining",
            "Whether the gateway is stopping",
            flag(gateway.draining.load(Ordering::Relaxed)),
        ),
        gauge("airlock_connections", "Open connections of each port", &["port"], connections),
        counter("airlock_answers_total", "Answers of each port by HTTP status", &["port", "status"], answers),
        single("airlock_requests_open", "Infer requests that are under way", count(gateway.meter.open())),
        single("airlock_requests_running", "Infer requests that run", count(taken.running)),
        single("airlock_requests_waiting", "Infer requests that wait for their turn", count(taken.waiting)),
        single("airlock_buffered_bytes", "Bytes of requests and answers in memory", count(taken.bytes)),
        single("airlock_response_cache_entries", "Responses that are kept", count(responses)),
        single("airlock_response_cache_bytes", "Bytes of responses that are kept", count(response_bytes)),
        single("airlock_instances", "Wasm instances that are alive", count(instances)),
        single("airlock_instances_limit", "Wasm instances that may be alive", count(most)),
        single(
            "airlock_models_ready",
            "Versions of models that can be called",
            count(gateway.models.ready()),
        ),
        single(
            "airlock_quarantined",
            "Pairs of a tenant and a model's content that are in quarantine",
            count(gateway.quarantine.held()),
        ),
        single(
            "airlock_memory_ratio",
            "The share of its memory that is taken, as the memory watch sees it",
            gateway.memory.percent() as f64 / 100.0,
        ),
        gauge(
            "airlock_memory_short",
            "Whether memory is so short that loads, waiting or calls are refused",
            &["refused"],
            marks,
        ),
    ]
}

fn count(number: usize) -> f64 {
    number as f64
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}
