//! Models that use what the gateway does for others: its predictions, its bill, its turns, its caches, its routing.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use airlock::authenticate::Scope;
use airlock_tests::{
    client::Answer,
    gateway::{Gateway, Repository},
    guest,
    store::{Caller, Store},
};
use serde_json::{Value, json};

/// Time for a call that is to be answered, however busy the machine is.
const LONG: Duration = Duration::from_secs(20);

const SCOPES: [Scope; 2] = [Scope::Infer, Scope::Repository];

/// A gateway with one compute thread, where nothing but turns holds the two tenants back, and their keys.
async fn serve(store: &Store, compiled_cache: &str) -> (Gateway, [String; 2]) {
    let keys = [store.key("attacker", &SCOPES).await, store.key("victim", &SCOPES).await];
    for tenant in ["attacker", "victim"] {
        store.limit(tenant, &[("rate", "0"), ("running", "0"), ("models", "200"), ("uploads", "8")]).await;
    }
    let gateway = Gateway::serve_with(Repository::default(), |settings| {
        settings.store = Some(store.location());
        settings.limits.guest_threads = Some(1);
        settings.limits.deadline = Some("20s".parse().expect("a time"));
        settings.limits.compiled_cache = Some(compiled_cache.parse().expect("a size"));
    });
    (gateway.await, keys)
}

async fn publish(tenant: &Caller<'_>, model: &str, version: &str, fixture: &str) {
    let answer = tenant.put(model, version, guest::module(fixture).expect("a valid fixture")).await;
    assert_eq!(answer.status, 200, "{}", answer.error());
}

/// A call of a model that works for each unit of `value`, given up after so long.
async fn work(tenant: &Caller<'_>, value: f32, timeout: Duration) -> Answer {
    let request = json!({
        "parameters": { "timeout": timeout.as_micros() },
        "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [value] }]
    });
    tenant.post("/v2/models/m/infer", &request).await
}

async fn total(tenant: &Caller<'_>) -> Value {
    tenant.get("/v2/usage").await.json()["total"].clone()
}

async fn cpu_ms(tenant: &Caller<'_>) -> f64 {
    total(tenant).await["cpu_ns"].as_f64().expect("a number") / 1e6
}

/// Units of work that take so long on this machine, when nobody else works on it.
async fn units_for(tenant: &Caller<'_>, time: Duration) -> f32 {
    const PROBE: u16 = 50;
    let before = cpu_ms(tenant).await;
    assert_eq!(work(tenant, f32::from(PROBE), LONG).await.status, 200);
    let each = (cpu_ms(tenant).await - before) / f64::from(PROBE);
    let units = time.as_secs_f64() * 1e3 / each;
    (1..=u16::MAX).find(|count| f64::from(*count) >= units).map(f32::from).expect("not that much work")
}

/// What both used of the processor, in milliseconds, while the victim had one long run after the other, and the attacker
/// twelve sequences of calls at a time, each for the next of these times.
async fn beside(times: &[Duration], timeout: Duration) -> (f64, f64) {
    let store = Store::default();
    let (gateway, keys) = serve(&store, "1GiB").await;
    let (attacker, victim) = (Caller::new(&gateway, &keys[0]), Caller::new(&gateway, &keys[1]));
    publish(&attacker, "m", "1", guest::WORK).await;
    publish(&victim, "m", "1", guest::WORK).await;
    publish(&victim, "small", "1", guest::ECHO).await;
    let mut units = Vec::new();
    for time in times {
        units.push(units_for(&attacker, *time).await);
    }
    let long = units_for(&victim, Duration::from_millis(300)).await;
    let before = [cpu_ms(&attacker).await, cpu_ms(&victim).await];
    let done = AtomicBool::new(false);
    let goes_on = || !done.load(Ordering::Relaxed);
    let attack = (0..12).map(|_| async {
        for units in units.iter().cycle().take_while(|_| goes_on()) {
            let answer = work(&attacker, *units, timeout).await;
            // In time, out of time, or refused because it would be.
            assert!(matches!(answer.status, 200 | 503 | 504), "{}", answer.error());
        }
    });
    let long = async {
        while goes_on() {
            let answer = work(&victim, long, Duration::from_secs(2)).await;
            assert!(matches!(answer.status, 200 | 504), "{}", answer.error());
        }
    };
    let small = async {
        let mut calls = 0;
        while goes_on() {
            let answer = victim.infer("small", 4.5).await;
            assert_eq!(answer.status, 200, "{}", answer.error());
            calls += 1;
        }
        calls
    };
    // By what it used and not by the clock: on a busy machine that takes longer.
    let until = async {
        while cpu_ms(&attacker).await - before[0] < 400.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    let all = async { tokio::join!(futures_util::future::join_all(attack), long, small, until) };
    let (_, (), calls, ()) =
        tokio::time::timeout(Duration::from_secs(120), all).await.expect("the attacker runs");
    assert!(calls > 3, "{calls} small calls of the victim in all that time");
    (cpu_ms(&attacker).await - before[0], cpu_ms(&victim).await - before[1])
}

#[tokio::test(flavor = "multi_thread")]
async fn who_alternates_between_short_and_long_calls_gets_no_more_turns() {
    let times = [1, 1, 1, 60].map(|millis| Duration::from_micros(millis * 1000 / 2));
    let (attacker, victim) = beside(&times, Duration::from_secs(2)).await;
    assert!(victim > attacker / 2.0, "{victim} ms beside {attacker} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_always_takes_nearly_all_of_its_time_gets_no_more_turns() {
    let (attacker, victim) = beside(&[Duration::from_millis(396)], Duration::from_millis(400)).await;
    assert!(victim > attacker / 2.0, "{victim} ms beside {attacker} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_burnt_before_a_trap_is_billed() {
    let store = Store::default();
    let (gateway, keys) = serve(&store, "1GiB").await;
    let caller = Caller::new(&gateway, &keys[0]);
    publish(&caller, "m", "1", guest::WORK).await;
    let units = units_for(&caller, Duration::from_millis(100)).await;
    let mut billed = Vec::new();
    for (sign, status) in [(1.0, 200), (-1.0, 502)] {
        let before = cpu_ms(&caller).await;
        for _ in 0..4 {
            let answer = work(&caller, sign * units, LONG).await;
            assert_eq!(answer.status, status, "{}", answer.error());
        }
        billed.push(cpu_ms(&caller).await - before);
    }
    // The same work, but for the trap.
    assert!(billed[1] > billed[0] / 2.0 && billed[0] > 100.0, "{billed:?} ms");
    assert_eq!(total(&caller).await["outcomes"]["model_failed"], json!(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_models_that_are_called_once_cost_the_other_tenant_no_answer() {
    let models: usize = std::env::var("AIRLOCK_MODELS").map_or(12, |count| count.parse().expect("a number"));
    let store = Store::default();
    // Room for the code of about one of them.
    let (gateway, keys) = serve(&store, "64KiB").await;
    let (attacker, victim) = (Caller::new(&gateway, &keys[0]), Caller::new(&gateway, &keys[1]));
    publish(&victim, "m", "1", guest::ECHO).await;
    let churn = async {
        for model in 0..models {
            // Each with content of its own, so that none is found compiled.
            let own = format!("(data (i32.const 2048) \"{model}\")");
            let name = format!("m{model}");
            publish(&attacker, &name, "1", &format!("{}{own}", guest::ECHO)).await;
            let answer = attacker.infer(&name, 2.5).await;
            assert_eq!(answer.json()["outputs"][0]["data"], json!([2.5]), "{name}");
        }
    };
    let done = AtomicBool::new(false);
    let calls = async {
        let mut calls = 0;
        while !done.load(Ordering::Relaxed) {
            let answer = victim.infer("m", 4.5).await;
            assert_eq!(answer.status, 200, "{}", answer.error());
            calls += 1;
        }
        calls
    };
    let churn = async {
        churn.await;
        done.store(true, Ordering::Relaxed);
    };
    let (calls, ()) = tokio::join!(calls, churn);
    assert!(calls >= models, "{calls} calls beside {models} models");
    // Those that came first are still what they were.
    assert_eq!(attacker.infer("m0", 3.5).await.json()["outputs"][0]["data"], json!([3.5]));
    let total = total(&victim).await;
    assert_eq!(total["calls"], total["outcomes"]["ok"], "{total}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_while_the_version_changes_are_all_answered_by_one_of_the_two() {
    const FLIPS: usize = 40;
    let store = Store::default();
    let (gateway, keys) = serve(&store, "1GiB").await;
    let caller = Caller::new(&gateway, &keys[0]);
    publish(&caller, "m", "1", guest::ECHO).await;
    // It answers with how often this very instance was called: always 1.
    publish(&caller, "m", "2", guest::COUNTER).await;
    let flips = async {
        for flip in 0..FLIPS {
            let version = if flip % 2 == 0 { "1" } else { "2" };
            let settings = json!({ "default_version": version }).to_string();
            let path = "/v2/repository/models/m/settings";
            let answer = caller.send("PUT", path, &[], settings).await;
            assert_eq!(answer.status, 200, "{}", answer.error());
            // From then on it is that one.
            assert_eq!(caller.infer("m", 4.5).await.json()["model_version"], json!(version));
        }
    };
    let done = AtomicBool::new(false);
    let calls = (0..4).map(|_| async {
        let mut answered = [0, 0];
        while !done.load(Ordering::Relaxed) {
            let answer = caller.infer("m", 4.5).await;
            assert_eq!(answer.status, 200, "{}", answer.error());
            let (version, data) = (&answer.json()["model_version"], &answer.json()["outputs"][0]["data"]);
            match version.as_str() {
                Some("1") => assert_eq!(*data, json!([4.5])),
                Some("2") => assert_eq!(*data, json!([1.0])),
                _ => panic!("{version}"),
            }
            answered[usize::from(*version == "2")] += 1;
        }
        answered
    });
    let flips = async {
        flips.await;
        done.store(true, Ordering::Relaxed);
    };
    let (answered, ()) = tokio::join!(futures_util::future::join_all(calls), flips);
    let sum = answered.iter().fold([0, 0], |sum, one| [sum[0] + one[0], sum[1] + one[1]]);
    assert!(sum.iter().all(|count| *count > 0), "{sum:?}");
    let total = total(&caller).await;
    assert_eq!(total["calls"], json!(sum[0] + sum[1] + FLIPS), "{total}");
    assert_eq!(total["calls"], total["outcomes"]["ok"], "{total}");
}
