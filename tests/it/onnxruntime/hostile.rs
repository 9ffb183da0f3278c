//! What a tenant's model does to ONNX Runtime ends a worker and the call that it ran.

use std::{
    collections::HashMap,
    process::Command,
    time::{Duration, Instant},
};

use airlock_tests::{
    gateway::binary,
    store::{Caller, Store},
};

use super::*;
use crate::{
    hostile_native::{
        deaths::{at, feature, gather, lasting, outer, processor_nanos, sides, unending},
        told, workers_of,
    },
    onnx_sandbox::network,
};

const CONFIG: &str = "onnx_engine = \"onnxruntime\"\n";
/// By which the workers of the first test are told from others'.
const MEGABYTES: u64 = 719;
/// The same for the one whose matrices take more.
const ROOMY: u64 = 1777;

async fn for_tenants(store: &Store, megabytes: u64) -> Option<Gateway> {
    let settings = with_library()?;
    let repository = Repository::default();
    let mut settings = Settings {
        model_repository: Some(repository.path().into()),
        store: Some(store.location()),
        tenant_onnxruntime: Some(true),
        ..settings
    };
    settings.limits.native_memory = Some(format!("{megabytes}MiB").parse().expect("a size"));
    Some(Gateway::serve_with_worker(repository, settings, binary()).await)
}

fn workers() -> Vec<u32> {
    workers_of(std::process::id(), Some(MEGABYTES << 20))
}

fn kill(signal: &str) {
    for worker in workers() {
        let _ = Command::new("kill").args(["-s", signal, &worker.to_string()]).output();
    }
}

async fn put(tenant: &Caller<'_>, model: &str, graph: &Graph) {
    let answer = tenant.put_with(model, "1", graph.file(), &[("config", CONFIG)]).await;
    assert_eq!(answer.status, 200, "{model}: {}", answer.error());
    let metadata = tenant.get(&format!("/v2/models/{model}")).await.json();
    assert_eq!(metadata["platform"], "onnxruntime_onnx");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_has_its_answer_and_the_next_call_succeeds() {
    let store = Store::default();
    let Some(gateway) = for_tenants(&store, MEGABYTES).await else { return };
    let tenant = Caller::anybody(&gateway);
    put(&tenant, "unending", &unending()).await;
    put(&tenant, "outer", &outer()).await;
    put(&tenant, "gather", &gather()).await;
    for worker in workers() {
        // As root, whom no bound keeps from starting threads: the library starts none, not even to report to its makers.
        let threads = fs::read_dir(format!("/proc/{worker}/task")).map(Iterator::count);
        assert_eq!(threads.unwrap_or(1), 1, "worker {worker} has threads");
        let environment = fs::read(format!("/proc/{worker}/environ")).unwrap_or_default();
        assert_eq!(environment, b"ORT_DISABLE_TELEMETRY=1\0");
    }
    let mut endless = feature(0.75);
    endless["parameters"] = json!({ "timeout": 300_000 });
    for (model, bad, status, code, good, expected) in [
        ("unending", endless, 504, "deadline_exceeded", feature(0.25), json!([0.25, 0.75])),
        ("outer", sides(40_000), 502, "model_memory", sides(3), json!([6.0])),
        ("gather", at(1_000_000), 502, "model_failed", at(1), json!([4.0])),
    ] {
        let path = format!("/v2/models/{model}/infer");
        for _ in 0..2 {
            told(&tenant.post(&path, &bad).await, status, code);
            let answer = tenant.post(&path, &good).await;
            assert_eq!(answer.status, 200, "{model}: {}", answer.error());
            assert_eq!(ok(&answer), expected, "{model}");
        }
    }
    // Killed in the middle of a call.
    kill("KILL");
    assert_eq!(ok(&tenant.post("/v2/models/unending/infer", &feature(0.25)).await), json!([0.25, 0.75]));
    let path = "/v2/models/unending/infer";
    let call = feature(0.75);
    let mut running = std::pin::pin!(tenant.post(path, &call));
    // The standard library takes the first one for a fault that will come again.
    let answer = loop {
        tokio::select! {
            answer = &mut running => break answer,
            () = tokio::time::sleep(Duration::from_millis(300)) => kill("SEGV"),
        }
    };
    told(&answer, 502, "model_failed");
    assert_eq!(ok(&tenant.post("/v2/models/unending/infer", &feature(0.25)).await), json!([0.25, 0.75]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_uploads_passes_the_same_door_as_for_tract() {
    let store = Store::default();
    let Some(gateway) = for_tenants(&store, MEGABYTES + 1).await else { return };
    let tenant = Caller::anybody(&gateway);
    put(&tenant, "good", &network()).await;
    let with =
        |op| Graph { nodes: vec![node(op, &["x"], &["y"], &[])], ..onnx::unary("Neg", onnx::FLOAT, &["1"]) };
    let outside = |location: &str| Graph {
        nodes: vec![node("Add", &["x", "w"], &["y"], &[])],
        initializers: vec![onnx::external(
            "w",
            onnx::FLOAT,
            &[1],
            &[("location", location), ("length", "4")],
        )],
        ..onnx::unary("Neg", onnx::FLOAT, &["1"])
    };
    let huge = Graph {
        nodes: vec![node("ConstantOfShape", &["n"], &["c"], &[]), node("Add", &["x", "c"], &["y"], &[])],
        initializers: vec![tensor("n", onnx::INT64, &[1], &(1u64 << 40).to_le_bytes())],
        ..onnx::unary("Neg", onnx::FLOAT, &["1"])
    };
    let sparse = Graph {
        nodes: vec![
            node("Constant", &[], &["c"], &[onnx::sparse("sparse_value", "/proc/self/environ")]),
            node("Add", &["x", "c"], &["y"], &[]),
        ],
        ..onnx::unary("Neg", onnx::FLOAT, &["1"])
    };
    // What takes more memory than there is may be found out in a call only.
    put(&tenant, "huge", &huge).await;
    let one = json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1], "data": [1.0] }] });
    told(&tenant.post("/v2/models/huge/infer", &one).await, 502, "model_memory");
    // Written anew with its producer's name, it would begin as a file of ONNX Runtime's own format, which may hold another graph
    // than the one that was checked.
    let disguised = [onnx::unary("Neg", onnx::FLOAT, &["1"]).file(), onnx::text(2, "ORTM")].concat();
    let answer = tenant.put_with("disguised", "1", &disguised, &[("config", CONFIG)]).await;
    assert_eq!(answer.status, 200, "{}", answer.error());
    assert_eq!(ok(&tenant.post("/v2/models/disguised/infer", &one).await), json!([-1.0]));
    for (what, file) in [
        ("not a file", vec![0x08, 0xff]),
        ("random", with("RandomNormalLike").file()),
        ("unknown", with("Dance").file()),
        // ONNX Runtime has it, tract has not.
        ("unlisted", with("Det").file()),
        ("a file of the machine", outside("/etc/passwd").file()),
        ("a file above", outside("../../etc/passwd").file()),
        ("an address in memory", outside("*/_ORT_MEM_ADDR_/*").file()),
        ("a file by a sparse constant", sparse.file()),
    ] {
        let answer = tenant.put_with("bad", "1", &file, &[("config", CONFIG)]).await;
        assert_eq!(answer.status, 422, "{what}");
        told(&answer, 422, "model_rejected");
        let body = json!({ "inputs": [
            { "name": "x", "datatype": "FP32", "shape": [1, 1, 16, 16], "data": vec![0.5; 256] }
        ] });
        assert_eq!(tenant.post("/v2/models/good/infer", &body).await.status, 200, "after {what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_leave_a_shared_model_hold_nobody_up() {
    let Some(settings) = with_library() else { return };
    let repository = Repository::default()
        .with("lasting", "1", "model.onnx", lasting(8000).file())
        .with_config("lasting", "model.toml", CONFIG);
    let mut settings = Settings { model_repository: Some(repository.path().into()), ..settings };
    settings.limits.native_memory = Some(format!("{ROOMY}MiB").parse().expect("a size"));
    let gateway = Gateway::serve_with_worker(repository, settings, binary()).await;
    let workers = || workers_of(std::process::id(), Some(ROOMY << 20));
    for _ in 0..3 {
        let before: HashMap<u32, u64> = workers().into_iter().map(|id| (id, processor_nanos(id))).collect();
        let callers: Vec<_> = (0..16)
            .map(|_| {
                let address = gateway.address();
                let call = async move {
                    client::post(address, "/v2/models/lasting/infer", &feature(0.75)).await;
                };
                tokio::spawn(call)
            })
            .collect();
        // Far more than loading takes, and far less than a run.
        let is_busy = |id: &u32| processor_nanos(*id) > before.get(id).unwrap_or(&0) + 500_000_000;
        eventually("a worker runs", || workers().iter().any(is_busy)).await;
        let busy = workers().into_iter().find(is_busy).expect("one that runs");
        for caller in &callers {
            caller.abort();
        }
        let good = feature(0.25);
        assert_eq!(ok(&infer(&gateway, "lasting", &good).await), json!([0.25, 0.75]));
        // A worker that came to the end of its run would be kept.
        eventually("who runs for nobody ends", || !workers().contains(&busy)).await;
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
