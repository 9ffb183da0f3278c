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

/// One compute thread, so that any two runs compete.
async fn serve(store: &Store) -> Gateway {
    Gateway::serve_with(Repository::default(), |settings| {
        settings.store = Some(store.location());
        settings.limits.guest_threads = Some(1);
    })
    .await
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
            assert_eq!(answer.status, 504, "{}", answer.error());
        }
    });
    futures_util::future::join_all(spinning).await;
}

async fn cpu_ms(tenant: &Caller<'_>) -> f64 {
    let usage = tenant.get("/v2/usage").await.json();
    usage["total"]["cpu_ns"].as_f64().expect("a number") / 1e6
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_twelve_times_the_requests_gets_no_more_of_the_processor() {
    let store = Store::default();
    let (greedy, modest) = (store.key("greedy", &SCOPES).await, store.key("modest", &SCOPES).await);
    // Nothing but the turns is to hold them back.
    for tenant in ["greedy", "modest"] {
        store.limit(tenant, &[("rate", "0"), ("running", "0")]).await;
    }
    let gateway = serve(&store).await;
    let (greedy, modest) = (Caller::new(&gateway, &greedy), Caller::new(&gateway, &modest));
    publish(&greedy, hostile::LOOP_IN_INFER).await;
    publish(&modest, hostile::LOOP_IN_INFER).await;
    let end = Instant::now() + Duration::from_secs(2);
    tokio::join!(spin(&greedy, 12, end), spin(&modest, 1, end));
    let (greedy, modest) = (cpu_ms(&greedy).await, cpu_ms(&modest).await);
    assert!(greedy > 200.0, "it ran: {greedy} ms");
    // By requests it would be one thirteenth.
    assert!(modest > greedy / 2.0, "{modest} ms beside {greedy} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_endless_runs_of_another_tenant_every_call_is_answered() {
    let store = Store::default();
    let (greedy, modest) = (store.key("greedy", &SCOPES).await, store.key("modest", &SCOPES).await);
    // Nothing but the turns is to hold them back.
    for tenant in ["greedy", "modest"] {
        store.limit(tenant, &[("rate", "0"), ("running", "0")]).await;
    }
    let gateway = serve(&store).await;
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
