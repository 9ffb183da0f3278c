//! Tenants share the processor: by the time that they take of it, not by the number of their requests.

use std::time::{Duration, Instant};

use airlock::authenticate::Scope;
use airlock_tests::{
    gateway::{Gateway, Repository},
    guest::{self, hostile},
    store::{Caller, Store},
};
use serde_json::{Value, json};

const SCOPES: [Scope; 2] = [Scope::Infer, Scope::Repository];

/// A gateway with one compute thread, so that any two runs compete, and the keys of two tenants with these limits.
async fn serve(store: &Store, greedy: &[(&str, &str)], modest: &[(&str, &str)]) -> (Gateway, [String; 2]) {
    let keys = [store.key("greedy", &SCOPES).await, store.key("modest", &SCOPES).await];
    for (tenant, limits) in [("greedy", greedy), ("modest", modest)] {
        // Nothing but the turns is to hold them back.
        store.limit(tenant, &[("rate", "0"), ("running", "0")]).await;
        store.limit(tenant, limits).await;
    }
    let gateway = Gateway::serve_with(Repository::default(), |settings| {
        settings.store = Some(store.location());
        settings.limits.guest_threads = Some(1);
    });
    (gateway.await, keys)
}

/// A request that is given up after so many microseconds.
fn request(timeout_us: u32) -> Value {
    json!({
        "parameters": { "timeout": timeout_us },
        "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [4.5] }]
    })
}

async fn publish(tenant: &Caller<'_>, fixture: &str) {
    let answer = tenant.put("m", "1", guest::module(fixture).expect("a valid fixture")).await;
    assert_eq!(answer.status, 200, "{}", answer.error());
}

/// Keeps that many endless runs going until `end`.
async fn spin(tenant: &Caller<'_>, runs: usize, end: Instant) {
    let spinning = (0..runs).map(|_| async {
        while Instant::now() < end {
            let answer = tenant.post("/v2/models/m/infer", &request(400_000)).await;
            // Where the runs of other tests slow all down, it may be told that one more would be late.
            let refused = answer.status == 503 && answer.error().contains("take too long for another one");
            assert!(answer.status == 504 || refused, "{}: {}", answer.status, answer.error());
        }
    });
    futures_util::future::join_all(spinning).await;
}

async fn cpu_ms(tenant: &Caller<'_>) -> f64 {
    let usage = tenant.get("/v2/usage").await.json();
    usage["total"]["cpu_ns"].as_f64().expect("a number") / 1e6
}

/// What each of the two used of the processor, in milliseconds, while both wanted all of it: the one with twelve runs, the
/// other with one.
async fn shares(greedy: &[(&str, &str)], modest: &[(&str, &str)]) -> (f64, f64) {
    let store = Store::default();
    let (gateway, [greedy, modest]) = serve(&store, greedy, modest).await;
    let (greedy, modest) = (Caller::new(&gateway, &greedy), Caller::new(&gateway, &modest));
    publish(&greedy, hostile::LOOP_IN_INFER).await;
    publish(&modest, hostile::LOOP_IN_INFER).await;
    let end = Instant::now() + Duration::from_secs(2);
    tokio::join!(spin(&greedy, 12, end), spin(&modest, 1, end));
    (cpu_ms(&greedy).await, cpu_ms(&modest).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_twelve_times_the_requests_gets_no_more_of_the_processor() {
    let (greedy, modest) = shares(&[], &[]).await;
    assert!(greedy > 200.0, "it ran: {greedy} ms");
    // By requests it would be one thirteenth.
    assert!(modest > greedy / 2.0, "{modest} ms beside {greedy} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_a_greater_weight_gets_more_of_the_processor() {
    let (light, heavy) = shares(&[], &[("weight", "500")]).await;
    assert!(light > 50.0, "it ran: {light} ms");
    // Five times as much, less what passes between the heavy one's runs, one after the other.
    assert!(heavy > light * 2.0, "{heavy} ms beside {light} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_endless_runs_of_another_tenant_every_call_is_answered() {
    let store = Store::default();
    let (gateway, [greedy, modest]) = serve(&store, &[], &[]).await;
    let (greedy, modest) = (Caller::new(&gateway, &greedy), Caller::new(&gateway, &modest));
    publish(&greedy, hostile::LOOP_IN_INFER).await;
    publish(&modest, guest::ECHO).await;
    let end = Instant::now() + Duration::from_secs(2);
    let calls = async {
        let mut calls = 0;
        while Instant::now() < end {
            let answer = modest.infer("m", 4.5).await;
            assert_eq!(answer.status, 200, "{}", answer.error());
            calls += 1;
        }
        calls
    };
    let ((), calls) = tokio::join!(spin(&greedy, 32, end), calls);
    // One after the other, each waiting for every run of the other tenant, there would be about thirty.
    assert!(calls > 100, "{calls} calls");
}
