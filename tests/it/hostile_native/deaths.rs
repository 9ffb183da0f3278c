//! Every way in which a worker can end costs the call that it ran, and no other.

use std::{fs, process::Command, sync::Arc};

use airlock_tests::onnx::{graph, int, node, tensor, value};
use tempfile::TempDir;

use super::{
    fake::{loaded, ran, script},
    *,
};

/// Answers `scores` of an `x` above 0.5 by a product of two square matrices of that size: one node of the graph, which nothing
/// interrupts. Any other `x` has its answer at once.
pub fn long_above_a_half(size: i64) -> [Vec<u8>; 3] {
    let words = |values: &[i64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let reals = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let long = Graph {
        nodes: vec![
            node("Tile", &["x", "size"], &["matrix"], &[]),
            node("MatMul", &["matrix", "matrix"], &["product"], &[]),
            node("ReduceMax", &["product"], &["largest"], &[]),
            node("Concat", &["largest", "largest"], &["long"], &[int("axis", 1)]),
        ],
        outputs: vec![value("long", onnx::FLOAT, &["1", "2"])],
        initializers: vec![tensor("size", onnx::INT64, &[2], &words(&[size, size]))],
        ..Graph::default()
    };
    let short = Graph {
        nodes: vec![node("Identity", &["known"], &["short"], &[])],
        outputs: vec![value("short", onnx::FLOAT, &["1", "2"])],
        initializers: vec![tensor("known", onnx::FLOAT, &[1, 2], &reals(&[0.25, 0.75]))],
        ..Graph::default()
    };
    [
        node("Greater", &["x", "half"], &["above"], &[]),
        node("Reshape", &["above", "scalar"], &["is_above"], &[]),
        node("If", &["is_above"], &["scores"], &[graph("then_branch", &long), graph("else_branch", &short)]),
    ]
}

/// What it needs beside its nodes.
pub fn half() -> [Vec<u8>; 2] {
    [tensor("half", onnx::FLOAT, &[], &0.5f32.to_le_bytes()), tensor("scalar", onnx::INT64, &[0], &[])]
}

/// A model that does not end for seconds if its feature is above 0.5.
pub fn unending() -> Graph {
    lasting(5000)
}

/// The same with a product of matrices of so many rows and columns: with twice as many it takes eight times as long, and four times
/// the memory.
pub fn lasting(size: i64) -> Graph {
    Graph {
        nodes: long_above_a_half(size).into(),
        inputs: vec![value("x", onnx::FLOAT, &["1", "1"])],
        outputs: vec![value("scores", onnx::FLOAT, &["1", "2"])],
        initializers: half().into(),
    }
}

pub fn feature(value: f32) -> Value {
    json!({ "inputs": [fp32("x", &[1, 1], value)] })
}

/// A column times a row: a thousand bytes in, more than there is out.
pub fn outer() -> Graph {
    Graph {
        nodes: vec![node("MatMul", &["a", "b"], &["c"], &[]), node("ReduceMax", &["c"], &["y"], &[])],
        inputs: vec![value("a", onnx::FLOAT, &["N", "1"]), value("b", onnx::FLOAT, &["1", "M"])],
        outputs: vec![value("y", onnx::FLOAT, &["1", "1"])],
        initializers: vec![],
    }
}

pub fn sides(length: usize) -> Value {
    json!({ "inputs": [fp32("a", &[length, 1], 2.0), fp32("b", &[1, length], 3.0)] })
}

/// Panics in the engine for an index that is out of bounds.
pub fn gather() -> Graph {
    Graph {
        nodes: vec![node("Gather", &["x", "i"], &["y"], &[])],
        inputs: vec![value("x", onnx::FLOAT, &["3"]), value("i", onnx::INT64, &["1"])],
        outputs: vec![value("y", onnx::FLOAT, &["1"])],
        initializers: vec![],
    }
}

pub fn at(index: i64) -> Value {
    json!({ "inputs": [
        fp32("x", &[3], 4.0),
        { "name": "i", "datatype": "INT64", "shape": [1], "data": [index] },
    ] })
}

/// Processor time that a process has had.
pub fn processor_nanos(worker: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{worker}/schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_hostile_graph_has_its_answer_and_the_next_call_succeeds() {
    let fixture = Fixture::new(701, |_| ()).await;
    fixture.put("good", &negation()).await;
    fixture.put("unending", &unending()).await;
    fixture.put("outer", &outer()).await;
    fixture.put("gather", &gather()).await;
    let mut endless = feature(0.75);
    endless["parameters"] = json!({ "timeout": 300_000 });
    let cases = [
        ("unending", endless, 504, "deadline_exceeded", feature(0.25), json!([0.25, 0.75])),
        ("outer", sides(40_000), 502, "model_memory", sides(3), json!([6.0])),
        ("gather", at(1_000_000), 502, "model_failed", at(1), json!([4.0])),
    ];
    for (model, bad, status, code, good, expected) in cases {
        for _ in 0..2 {
            let (answer, neighbours) = tokio::join!(fixture.infer(model, &bad), async {
                let mut answers = Vec::new();
                for _ in 0..20 {
                    answers.push(ok(&fixture.infer("good", &one(1.0)).await));
                }
                answers
            });
            told(&answer, status, code);
            assert_eq!(neighbours, vec![json!([-1.0]); 20], "beside {model}");
            assert_eq!(ok(&fixture.infer(model, &good).await), expected, "{model}");
        }
    }
    // What was killed is billed for the time that it took, which nobody but the kernel could tell.
    let usage = fixture.tenant().get("/v2/usage").await.json();
    let models = usage["models"].as_array().expect("a list");
    let unending = models.iter().find(|model| model["model"] == "unending").expect("it was called");
    assert!(unending["cpu_ns"].as_u64().is_some_and(|time| time > 10_000_000), "{unending}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_costs_the_call_that_it_ran() {
    let fixture = Arc::new(Fixture::new(702, |_| ()).await);
    fixture.put("unending", &unending()).await;
    for signal in ["KILL", "SEGV", "ABRT"] {
        assert_eq!(ok(&fixture.infer("unending", &feature(0.25)).await), json!([0.25, 0.75]));
        let worker = fixture.worker();
        let before = processor_nanos(worker);
        let other = Arc::clone(&fixture);
        let running = tokio::spawn(async move { other.infer("unending", &feature(0.75)).await });
        while processor_nanos(worker) < before + 30_000_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The standard library takes the first SEGV for a fault that will come again.
        while !running.is_finished() {
            let sent = Command::new("kill").args(["-s", signal, &worker.to_string()]).output();
            sent.expect("kill runs");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let answer = running.await.expect("no panic");
        told(&answer, 502, "model_failed");
        assert!(answer.error().contains("worker process ended"), "{}", answer.error());
        let begun = Instant::now();
        assert_eq!(ok(&fixture.infer("unending", &feature(0.25)).await), json!([0.25, 0.75]), "{signal}");
        eprintln!("{signal}: the next answer after {:?}", begun.elapsed());
        assert_ne!(fixture.worker(), worker);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_while_nothing_runs_costs_nothing() {
    let fixture = Fixture::new(703, |_| ()).await;
    fixture.put("good", &negation()).await;
    for _ in 0..3 {
        let worker = fixture.worker();
        let sent = Command::new("kill").args(["-s", "KILL", &worker.to_string()]).status();
        assert!(sent.expect("kill runs").success());
        // It has ended once it is a zombie, which has no command line.
        fixture.until(0).await;
        assert_eq!(ok(&fixture.infer("good", &one(2.0)).await), json!([-2.0]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_costs_one_deadline() {
    let fixture = Fixture::new(716, |settings| settings.limits.native_threads = Some(1)).await;
    fixture.put("good", &negation()).await;
    for _ in 0..2 {
        let worker = fixture.worker();
        let sent = Command::new("kill").args(["-s", "STOP", &worker.to_string()]).status();
        assert!(sent.expect("kill runs").success());
        let mut body = one(1.0);
        body["parameters"] = json!({ "timeout": 300_000 });
        told(&fixture.infer("good", &body).await, 504, "deadline_exceeded");
        assert_eq!(ok(&fixture.infer("good", &one(1.0)).await), json!([-1.0]));
        assert_ne!(fixture.worker(), worker);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_a_node_that_never_ends_does_not_keep_its_worker() {
    let fixture = Fixture::new(717, |settings| {
        settings.limits.native_threads = Some(1);
        settings.limits.deadline = Some("10m".parse().expect("a time"));
    })
    .await;
    fixture.put("unending", &unending()).await;
    let worker = fixture.worker();
    let before = processor_nanos(worker);
    {
        let endless = feature(0.75);
        let call = fixture.infer("unending", &endless);
        let started = async {
            while processor_nanos(worker) < before + 30_000_000 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            answer = call => panic!("it ended: {}", answer.status),
            () = started => {}
        }
    }
    assert_eq!(ok(&fixture.infer("unending", &feature(0.25)).await), json!([0.25, 0.75]));
    assert_ne!(fixture.worker(), worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_frees_the_worker() {
    let fixture = Fixture::new(704, |settings| settings.limits.native_threads = Some(1)).await;
    let name = |index: usize| if index == 0 { "x".to_owned() } else { format!("y{index}") };
    // Seconds of work in nodes of milliseconds.
    let chain = Graph {
        nodes: (0..2000)
            .map(|index| node("MatMul", &[&name(index), "w"], &[&name(index + 1)], &[]))
            .collect(),
        inputs: vec![value("x", onnx::FLOAT, &["512", "512"]), value("w", onnx::FLOAT, &["512", "512"])],
        outputs: vec![value("y2000", onnx::FLOAT, &["512", "512"])],
        initializers: vec![],
    };
    fixture.put("chain", &chain).await;
    let worker = fixture.worker();
    let body = json!({ "inputs": [fp32("x", &[512, 512], 0.001), fp32("w", &[512, 512], 0.001)] });
    let before = processor_nanos(worker);
    {
        let call = fixture.infer("chain", &body);
        let started = async {
            while processor_nanos(worker) < before + 30_000_000 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            answer = call => panic!("it ended: {}", answer.status),
            () = started => {}
        }
    }
    // It stops without having to be killed: the same worker is idle again.
    let mut last = processor_nanos(worker);
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = processor_nanos(worker);
        if now == last {
            break;
        }
        last = now;
    }
    assert!(last - before < 10_000_000_000, "{last}");
    let mut short = body.clone();
    short["parameters"] = json!({ "timeout": 100_000 });
    told(&fixture.infer("chain", &short).await, 504, "deadline_exceeded");
    assert_eq!(fixture.worker(), worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_always_dies_is_not_started_without_end() {
    let folder = TempDir::new().expect("a temporary folder");
    // What it answers is not what it was asked.
    let program = script(&folder, &[loaded(), ran(99, &json!({ "Ok": [] }))], "exec sleep 1000");
    let fixture = Fixture::with(705, Repository::default(), program, |settings| {
        settings.limits.native_threads = Some(1);
    })
    .await;
    fixture.put("bad", &negation()).await;
    for _ in 0..4 {
        told(&fixture.infer("bad", &one(1.0)).await, 502, "model_failed");
    }
    // How long the pause is depends on how long its worker took to start.
    let answer = fixture.infer("bad", &one(1.0)).await;
    told(&answer, 503, "overloaded");
    assert!(answer.headers.contains_key("retry-after"));
    fixture.until(0).await;
    // The pause ends.
    let begun = Instant::now();
    while fixture.infer("bad", &one(1.0)).await.status == 503 {
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_s_own_haste_is_nobody_s_death() {
    let fixture = Fixture::new(721, |settings| settings.limits.native_threads = Some(1)).await;
    fixture.put("unending", &unending()).await;
    let mut endless = feature(0.75);
    endless["parameters"] = json!({ "timeout": 20_000 });
    for _ in 0..6 {
        told(&fixture.infer("unending", &endless).await, 504, "deadline_exceeded");
    }
    assert_eq!(ok(&fixture.infer("unending", &feature(0.25)).await), json!([0.25, 0.75]));
}
