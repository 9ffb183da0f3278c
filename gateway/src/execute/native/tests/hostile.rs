//! Files and values meant to do harm: refused or failed, never a panic out of the engine.

use proptest::prelude::*;

use super::{
    onnx::{self, Graph, binary, node, unary, value},
    *,
};

fn sound() -> Graph {
    let weights: Vec<u8> = [0.5f32; 8].iter().flat_map(|v| v.to_le_bytes()).collect();
    Graph {
        nodes: vec![
            node("MatMul", &["x", "w"], &["a"], &[]),
            node("Relu", &["a"], &["b"], &[]),
            node("Transpose", &["b"], &["c"], &[onnx::ints("perm", &[1, 0])]),
            node("Softmax", &["c"], &["y"], &[onnx::int("axis", 1)]),
        ],
        inputs: vec![value("x", onnx::FLOAT, &["N", "4"])],
        outputs: vec![value("y", onnx::FLOAT, &["2", "N"])],
        initializers: vec![onnx::tensor("w", onnx::FLOAT, &[4, 2], &weights)],
    }
}

#[test]
fn what_is_not_an_onnx_file_is_refused() {
    let refused = |bytes: &[u8]| load_bytes(bytes.to_vec()).expect_err("refused").to_string();
    assert_eq!(refused(b""), "check: the ONNX file holds no graph");
    assert!(refused(b"\xff\xff\xff\xff garbage").starts_with("check: not an ONNX file: "));
    let whole = sound().file();
    load_bytes(whole.clone()).expect("the whole file loads");
    for length in 0..whole.len() {
        refused(&whole[..length]);
    }
}

#[test]
fn broken_graphs_are_refused() {
    let with = |nodes| Graph { nodes, ..sound() };
    let cycle = with(vec![node("Relu", &["y"], &["b"], &[]), node("Relu", &["b"], &["y"], &[])]);
    assert!(refusal(&cycle).contains("Loop detected"));
    let dangling = with(vec![node("Add", &["x", "nowhere"], &["y"], &[])]);
    assert!(refusal(&dangling).contains("'nowhere', which nothing in the graph gives"));
    refusal(&with(vec![node("Relu", &["x"], &["not y"], &[])]));
    refusal(&Graph { outputs: vec![], ..sound() });
    let twice =
        Graph { inputs: vec![value("x", onnx::FLOAT, &["4"]), value("x", onnx::FLOAT, &["4"])], ..sound() };
    assert!(refusal(&twice).contains("two inputs called 'x'"));
}

#[test]
fn constants_that_lie_about_their_size_are_refused() {
    let with = |dims: &[u64], raw: &[u8]| {
        refusal(&Graph { initializers: vec![onnx::tensor("w", onnx::FLOAT, dims, raw)], ..sound() })
    };
    assert!(with(&[4, 2], &[0; 12]).contains("does not match shape"));
    assert!(with(&[1 << 31, 1 << 31], &[0; 12]).contains("is too large"));
    assert!(with(&[1 << 40, 1 << 40], &[0; 12]).contains("overflows"));
    assert!(with(&[u64::MAX, 2], &[0; 32]).contains("Negative dimension"));
}

#[test]
fn sparse_constants_of_tenants_are_refused() {
    let mut graph = sound();
    graph.nodes.push(node("Constant", &[], &["more"], &[onnx::sparse("sparse_value", "/etc/passwd")]));
    let source = Source { artifact: graph.file(), untrusted: true, ..Default::default() };
    let error = load_with(limits(), source).expect_err("refused").to_string();
    assert_eq!(error, "check: the model has sparse constants: export it with dense ones");
}

#[test]
fn constants_too_large_to_make_are_refused() {
    let graph = Graph {
        nodes: vec![
            node("ConstantOfShape", &["s"], &["a"], &[]),
            node("ReduceMax", &["a"], &["b"], &[]),
            node("Add", &["x", "b"], &["y"], &[]),
        ],
        inputs: vec![value("x", onnx::FLOAT, &["1"])],
        outputs: vec![value("y", onnx::FLOAT, &["1"])],
        initializers: vec![onnx::tensor(
            "s",
            onnx::INT64,
            &[2],
            &[255, 255, 255, 255, 255, 255, 3, 0].repeat(2),
        )],
    };
    refusal(&graph);
}

/// A forest of one tree, x[0] <= 0 ? 1 : 2 as its file says it, whose root has another feature or leads elsewhere.
fn forest(feature: u64, if_true: u64, targets: u64) -> Graph {
    let attributes = [
        onnx::int("n_targets", targets),
        onnx::ints("nodes_treeids", &[0, 0, 0]),
        onnx::ints("nodes_nodeids", &[0, 1, 2]),
        onnx::strings("nodes_modes", &["BRANCH_LEQ", "LEAF", "LEAF"]),
        onnx::ints("nodes_featureids", &[feature, 0, 0]),
        onnx::floats("nodes_values", &[0.0, 0.0, 0.0]),
        onnx::ints("nodes_truenodeids", &[if_true, 0, 0]),
        onnx::ints("nodes_falsenodeids", &[2, 0, 0]),
        onnx::ints("target_treeids", &[0, 0]),
        onnx::ints("target_nodeids", &[1, 2]),
        onnx::ints("target_ids", &[0, 0]),
        onnx::floats("target_weights", &[10.0, 20.0]),
    ];
    Graph {
        nodes: vec![node("ai.onnx.ml.TreeEnsembleRegressor", &["x"], &["y"], &attributes)],
        inputs: vec![value("x", onnx::FLOAT, &["N", "2"])],
        outputs: vec![value("y", onnx::FLOAT, &["N", "1"])],
        ..Default::default()
    }
}

#[test]
fn forests_that_are_none_are_refused_when_they_are_loaded() {
    let y = output(&load(&forest(1, 1, 1)), vec![fp32("x", &[2, 2], &[5.0, -5.0, -5.0, 5.0])]);
    assert_eq!(floats(&y), [10.0, 20.0]);
    for (graph, reason) in [
        (forest(1, 0, 1), "no root leads to its node 0"),
        (forest(1, 2, 1), "two nodes lead to its node 2"),
        (forest(1, 7, 1), "tree 0 has no node 7"),
        (forest(1, u64::MAX, 1), "tree 0 has no node -1"),
        (forest(2, 1, 1), "a row has 2 features, the trees look at 3"),
        (forest(1 << 40, 1, 1), "there is no feature 1099511627776"),
        (forest(u64::MAX, 1, 1), "there is no feature -1"),
        (forest(1, 1, 1 << 40), "it has 1099511627776 targets"),
    ] {
        let told = refusal(&graph);
        assert!(told.contains(reason), "{told}");
    }
}

#[test]
fn graphs_within_graphs_do_not_end_the_process() {
    let mut graph = unary("Relu", onnx::FLOAT, &["1"]);
    graph.outputs = vec![value("y", onnx::FLOAT, &["1"])];
    for _ in 0..200 {
        let branch = Graph { inputs: vec![], ..graph };
        let branches = [onnx::graph("then_branch", &branch), onnx::graph("else_branch", &branch)];
        graph = Graph {
            nodes: vec![node("If", &["c"], &["y"], &branches[..1])],
            inputs: vec![value("x", onnx::FLOAT, &["1"]), value("c", onnx::BOOL, &[])],
            outputs: vec![value("y", onnx::FLOAT, &["1"])],
            initializers: vec![],
        };
        let _ = load_bytes(graph.file());
    }
}

#[test]
fn an_output_that_grows_with_its_input_is_bounded() {
    // Ranges up to what the caller says: the memory for it is asked for at run time.
    let graph = Graph {
        nodes: vec![node("ConstantOfShape", &["x"], &["y"], &[])],
        inputs: vec![value("x", onnx::INT64, &["2"])],
        outputs: vec![value("y", onnx::FLOAT, &["A", "B"])],
        initializers: vec![],
    };
    if let Ok(model) = load_bytes(graph.file()) {
        assert!(run(&model, vec![int64("x", &[2], &[1 << 40, 1 << 40])]).is_err());
    }
}

#[test]
fn hostile_dimensions_in_a_request_are_errors() {
    let model = load(&binary("MatMul", onnx::FLOAT, &["N", "M"]));
    for shape in [[0, u64::MAX], [u64::MAX, 0], [0, 1 << 40], [1 << 62, 0]] {
        let inputs = vec![fp32("a", &shape, &[]), fp32("b", &shape, &[])];
        if let Ok(response) = run(&model, inputs) {
            assert!(response.outputs.iter().all(|output| output.bytes.is_empty()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn random_bytes_never_panic_out_of_load(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = load_bytes(bytes);
    }

    #[test]
    fn a_mutated_file_loads_or_is_refused(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = sound().file();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Ok(model) = load_bytes(bytes) {
            // What still loads must also still answer or fail in an orderly way.
            let inputs = model.signature().inputs.iter().map(|spec| {
                let shape: Vec<u64> = spec.shape.0.iter().map(|dim| u64::try_from(*dim).unwrap_or(1)).collect();
                let count = shape.iter().try_fold(1usize, |n, dim| n.checked_mul(usize::try_from(*dim).ok()?));
                let size = count.unwrap_or(0).min(1 << 16) * spec.datatype.element_size().unwrap_or(0);
                tensor(&spec.name, spec.datatype, &shape, vec![0; size])
            });
            let _ = run(&model, inputs.collect());
        }
    }

    #[test]
    fn a_tensor_of_any_bytes_is_taken_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        shape in prop::collection::vec(0u64..5, 0..4),
        datatype in prop::sample::select(Datatype::ALL.to_vec()),
    ) {
        let tensor = tensor("x", datatype, &shape, bytes);
        match super::super::convert::to_native(&tensor) {
            Ok(native) => {
                let back = super::super::convert::from_native("x", native.into()).expect("comes back");
                prop_assert_eq!(back, tensor);
            }
            Err(error) => prop_assert!(error.to_string().starts_with("input 'x': ")),
        }
    }
}
