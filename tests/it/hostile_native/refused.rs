//! What an uploaded ONNX file has to keep within; what is refused here never reaches the engine.

use airlock_tests::onnx::{external, graph, int, ints, node, tensor, value};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn files_beyond_the_bounds_are_refused_by_name() {
    let fixture = Fixture::new(706, |_| ()).await;
    let with = |nodes| Graph { nodes, ..onnx::unary("Neg", onnx::FLOAT, &["N"]) };
    let constant = |message| Graph {
        nodes: vec![node("Add", &["x", "w"], &["y"], &[])],
        initializers: vec![message],
        ..onnx::unary("Neg", onnx::FLOAT, &["N"])
    };
    let name = |index: usize| match index {
        0 => "x".to_owned(),
        10_001 => "y".to_owned(),
        _ => format!("n{index}"),
    };
    let chain = (0..10_001).map(|index| node("Neg", &[&name(index)], &[&name(index + 1)], &[])).collect();
    let mut nested = Graph { inputs: vec![], ..onnx::unary("Neg", onnx::FLOAT, &["1"]) };
    for _ in 0..5 {
        nested =
            Graph { nodes: vec![node("If", &["c"], &["y"], &[graph("then_branch", &nested)])], ..nested };
    }
    nested.inputs = vec![value("c", onnx::BOOL, &[]), value("x", onnx::FLOAT, &["1"])];
    let rank: Vec<&str> = vec!["1"; 17];
    let cases = [
        (with(vec![node("RandomNormalLike", &["x"], &["y"], &[])]), "RandomNormalLike"),
        (with(vec![node("Dance", &["x"], &["y"], &[])]), "'Dance'"),
        (with(chain), "10001 nodes"),
        (nested, "graphs within each other"),
        // Constants beside them make inputs no fewer.
        (
            Graph {
                inputs: (0..300).map(|index| value(&name(index), onnx::FLOAT, &["1"])).collect(),
                initializers: (0..300)
                    .map(|index| tensor(&format!("w{index}"), onnx::FLOAT, &[1], &[0; 4]))
                    .collect(),
                ..onnx::unary("Neg", onnx::FLOAT, &["1"])
            },
            "301 inputs and outputs",
        ),
        (onnx::unary("Neg", onnx::FLOAT, &rank), "17 dimensions"),
        (onnx::unary("Neg", onnx::FLOAT, &["4000000000", "4000000000", "4000000000"]), "more elements"),
        (constant(tensor("w", onnx::FLOAT, &[1 << 40], &[0; 4])), "more elements"),
        (constant(tensor("w", onnx::FLOAT, &[u64::MAX], &[0; 4])), "negative dimension"),
        (
            constant(external("w", onnx::FLOAT, &[1], &[("location", "../../etc/passwd"), ("length", "4")])),
            "do not hold",
        ),
        (constant(external("w", onnx::FLOAT, &[1], &[("location", "/etc/passwd")])), "not a file beside"),
        (with(vec![node(&"n".repeat(2000), &["x"], &["y"], &[])]), "has 2000 bytes"),
        (with(vec![node("Neg", &["y"], &["y"], &[])]), "Loop detected"),
        (
            Graph {
                nodes: vec![node(
                    "AveragePool",
                    &["x"],
                    &["y"],
                    &[ints("kernel_shape", &[1, 1]), ints("strides", &[0, 0])],
                )],
                inputs: vec![value("x", onnx::FLOAT, &["1", "1", "2", "2"])],
                outputs: vec![value("y", onnx::FLOAT, &["1", "1", "2", "2"])],
                initializers: vec![],
            },
            "cannot",
        ),
        (with(vec![node("Cast", &["x"], &["y"], &[int("to", 99)])]), ""),
    ];
    for (index, (graph, part)) in cases.iter().enumerate() {
        let answer = fixture.tenant().put("m", "1", graph.file()).await;
        told(&answer, 422, "model_rejected");
        assert!(answer.error().contains(part), "{index}: {}", answer.error());
    }
    for bytes in [vec![0xff; 100], [graph("x", &negation()), vec![0xff; 9]].concat()] {
        let answer = fixture.tenant().put("m", "1", bytes).await;
        assert_eq!(answer.status, 422, "{}", answer.error());
    }
    // What was refused left no worker behind.
    fixture.until(0).await;
    fixture.put("m", &negation()).await;
    assert_eq!(ok(&fixture.infer("m", &one(5.0)).await), json!([-5.0]));
}

/// An initialiser of INT64.
fn numbers(name: &str, values: &[i64]) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, onnx::INT64, &[values.len() as u64], &bytes)
}

/// A graph that makes much of constants alone: the engine does so while it loads.
fn bomb(op: &str, inputs: &[&str], initializers: Vec<Vec<u8>>) -> Graph {
    Graph {
        nodes: vec![node(op, inputs, &["m"], &[]), node("Add", &["x", "m"], &["y"], &[])],
        inputs: vec![value("x", onnx::FLOAT, &["1"])],
        outputs: vec![value("y", onnx::FLOAT, &["N"])],
        initializers,
    }
}

/// A field of a message, after its number.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut length = content.len();
    let mut bytes = vec![number << 3 | 2];
    while length >= 0x80 {
        bytes.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).expect("seven bits"));
    [bytes, content.to_vec()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn loading_that_takes_too_much_of_the_processor_is_ended() {
    let fixture = Fixture::new(716, |settings| {
        settings.limits.worker_cpu = Some("1s".parse().expect("a time"));
        settings.limits.worker_time = Some("5m".parse().expect("a time"));
    })
    .await;
    // Each undoes the one before, and the engine looks at all of them again for each of those.
    let names: Vec<String> = (0..=10_000).map(|number| format!("n{number}")).collect();
    let swap = |pair: &[String]| node("Transpose", &[&pair[0]], &[&pair[1]], &[ints("perm", &[1, 0])]);
    let chain = Graph {
        nodes: names.windows(2).map(swap).collect(),
        inputs: vec![value("n0", onnx::FLOAT, &["3", "3"])],
        outputs: vec![value("n10000", onnx::FLOAT, &["3", "3"])],
        initializers: Vec::new(),
    };
    let answer = fixture.tenant().put("m", "1", chain.file()).await;
    told(&answer, 422, "model_rejected");
    assert!(answer.error().contains("more than the 1s of processor time"), "{}", answer.error());
    fixture.until(0).await;
    // Calls are not bounded by it: those of one worker may take more than that together.
    fixture.put("good", &negation()).await;
    let worker = fixture.worker();
    let limits = std::fs::read_to_string(format!("/proc/{worker}/limits")).expect("a worker that lives");
    let cpu = limits.lines().find(|line| line.starts_with("Max cpu time")).expect("a limit");
    assert!(cpu.contains("unlimited"), "{cpu}");
    assert_eq!(ok(&fixture.infer("good", &one(5.0)).await), json!([-5.0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_takes_counts_as_loaded() {
    let (fixture, [one, _]) = Fixture::of_two(717, Repository::default(), binary(), |_| ()).await;
    let tenant = Caller::new(&fixture.gateway, &one);
    fixture.store.limit("one", &[("loaded", "64KiB")]).await;
    let publish = async || tenant.put("m", "1", negation().file()).await;
    let begun = Instant::now();
    let mut answer = publish().await;
    // The limit is in force within seconds; a file of some hundred bytes would fit.
    while answer.status == 200 && begun.elapsed() < Duration::from_secs(10) {
        tenant.send("DELETE", "/v2/repository/models/m", &[], "").await;
        answer = publish().await;
    }
    told(&answer, 429, "quota_exceeded");
    assert!(answer.error().contains("bytes of loaded models"), "{}", answer.error());
    fixture.until(0).await;
}

/// Bytes, graphs and tensors that are not what they say, and graphs that make much of little.
#[tokio::test(flavor = "multi_thread")]
async fn bombs_end_at_most_the_worker_that_loads_them() {
    let fixture = Fixture::new(715, |settings| {
        settings.limits.worker_time = Some("20s".parse().expect("a time"));
    })
    .await;
    let constant = |elem_type, dims: &[u64], raw: &[u8]| Graph {
        nodes: vec![node("Add", &["x", "w"], &["y"], &[])],
        initializers: vec![tensor("w", elem_type, dims, raw)],
        ..onnx::unary("Neg", onnx::FLOAT, &["N"])
    };
    let huge = 1_000_000_000_000_000;
    let scalar = |name: &str, value: i64| tensor(name, onnx::INT64, &[], &value.to_le_bytes());
    // Ten thousand graphs, each in an attribute of a node of the one before.
    let mut deep = onnx::unary("Neg", onnx::FLOAT, &["1"]).encode();
    for _ in 0..10_000 {
        let attribute = [field(1, b"then_branch"), field(6, &deep)].concat();
        deep = field(1, &[field(4, b"If"), field(5, &attribute)].concat());
    }
    let nodes = field(1, &node("Neg", &["x"], &["y"], &[])).repeat(1_000_000);
    let step = onnx::unary("Neg", onnx::FLOAT, &["1"]);
    let over = |op: &str| Graph {
        nodes: vec![node(op, &["x"], &["y"], &[graph("body", &step), int("num_scan_inputs", 1)])],
        ..onnx::unary("Neg", onnx::FLOAT, &["N"])
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("too few bytes", constant(onnx::FLOAT, &[2, 3], &[0; 8]).file(), "does not match shape"),
        ("too many bytes", constant(onnx::FLOAT, &[1], &[0; 8]).file(), "does not match shape"),
        ("text as raw bytes", constant(onnx::STRING, &[1], &[0; 4]).file(), ""),
        ("a type that there is not", constant(99, &[1], &[0; 4]).file(), ""),
        ("ConstantOfShape", bomb("ConstantOfShape", &["s"], vec![numbers("s", &[huge])]).file(), ""),
        (
            "ConstantOfShape to overflow",
            bomb("ConstantOfShape", &["s"], vec![numbers("s", &[1 << 30; 4])]).file(),
            "the native engine cannot run this graph",
        ),
        ("ConstantOfShape below zero", bomb("ConstantOfShape", &["s"], vec![numbers("s", &[-5])]).file(), ""),
        (
            "Tile",
            bomb("Tile", &["c", "n"], vec![tensor("c", onnx::FLOAT, &[1], &[0; 4]), numbers("n", &[huge])])
                .file(),
            "",
        ),
        (
            "Expand",
            bomb("Expand", &["c", "n"], vec![tensor("c", onnx::FLOAT, &[1], &[0; 4]), numbers("n", &[huge])])
                .file(),
            "",
        ),
        (
            "Range",
            Graph {
                nodes: vec![
                    node("Range", &["a", "b", "c"], &["r"], &[]),
                    node("Cast", &["r"], &["m"], &[int("to", onnx::FLOAT)]),
                    node("Add", &["x", "m"], &["y"], &[]),
                ],
                ..bomb("", &[], vec![scalar("a", 0), scalar("b", huge), scalar("c", 1)])
            }
            .file(),
            "",
        ),
        ("Loop", over("Loop").file(), "operator 'Loop'"),
        ("Scan", over("Scan").file(), "operator 'Scan'"),
        (
            "a circle",
            Graph {
                nodes: vec![node("Add", &["x", "b"], &["a"], &[]), node("Neg", &["a"], &["b"], &[])],
                outputs: vec![value("b", onnx::FLOAT, &["N"])],
                ..onnx::unary("Neg", onnx::FLOAT, &["N"])
            }
            .file(),
            "Loop detected",
        ),
        ("a million nodes", field(7, &nodes), "1000000 nodes"),
        ("ten thousand graphs deep", field(7, &deep), "not an ONNX file"),
    ];
    for (name, file, part) in cases {
        let answer = fixture.tenant().put("bomb", "1", file).await;
        assert!(matches!(answer.status, 422 | 504), "{name}: {} {}", answer.status, answer.error());
        eprintln!("{name}: {}", answer.error());
        assert!(answer.error().contains(part), "{name}: {}", answer.error());
        assert!(
            !answer.error().contains(" /") && !answer.error().contains(".rs:"),
            "{name}: {}",
            answer.error()
        );
        // Nobody else notices, and the same tenant's next one is served.
        fixture.put("good", &negation()).await;
        assert_eq!(ok(&fixture.infer("good", &one(5.0)).await), json!([-5.0]), "after {name}");
        fixture.until(1).await;
    }
}
