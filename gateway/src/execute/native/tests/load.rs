//! What a graph's signature is, what is mended on the way, and what is refused with which words.

use super::{
    onnx::{self, Graph, binary, node, unary, value},
    *,
};
use crate::tensor::{Shape, TensorSpec};

fn shapes(specs: &[TensorSpec]) -> Vec<String> {
    specs.iter().map(|spec| format!("{} {} {}", spec.name, spec.datatype, spec.shape)).collect()
}

fn declared(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: Shape(shape.to_vec()) }
}

fn load_declared(graph: &Graph, declared_inputs: Vec<TensorSpec>) -> Result<Arc<dyn Executor>, LoadError> {
    load_with(limits(), Source { artifact: graph.file(), declared_inputs, ..Default::default() })
}

#[test]
fn the_signature_has_the_graphs_names_and_minus_one_for_symbols() {
    let weights: Vec<u8> = [1f32; 12].iter().flat_map(|v| v.to_le_bytes()).collect();
    let model = load(&Graph {
        nodes: vec![node("MatMul", &["x", "w"], &["scores"], &[]), node("Shape", &["x"], &["shape"], &[])],
        inputs: vec![value("x", onnx::FLOAT, &["N", "4"]), value("w", onnx::FLOAT, &["4", "3"])],
        outputs: vec![value("scores", onnx::FLOAT, &["N", "3"]), value("shape", onnx::INT64, &["2"])],
        initializers: vec![onnx::tensor("w", onnx::FLOAT, &[4, 3], &weights)],
    });
    assert_eq!(shapes(&model.signature().inputs), ["x FP32 [-1,4]"]);
    assert_eq!(shapes(&model.signature().outputs), ["scores FP32 [-1,3]", "shape INT64 [2]"]);
    assert_eq!(model.platform(), "onnx_onnxv1");
}

#[test]
fn stale_output_shapes_and_types_do_not_count() {
    let mut graph = unary("Relu", onnx::FLOAT, &["N", "4"]);
    graph.outputs = vec![value("y", onnx::FLOAT, &["1", "9"])];
    assert_eq!(shapes(&load(&graph).signature().outputs), ["y FP32 [-1,4]"]);
}

#[test]
fn nameless_and_unreadable_dimensions_vary_on_their_own() {
    let model = load(&unary("Relu", onnx::FLOAT, &["", "batch size!", "?", "2"]));
    assert_eq!(shapes(&model.signature().inputs), ["x FP32 [-1,-1,-1,2]"]);
    assert_eq!(output(&model, vec![fp32("x", &[1, 2, 1, 2], &[1.0, -1.0, 2.0, -2.0])]).shape, [1, 2, 1, 2]);
    // Long enough to overflow the stack of a parser that recurses.
    let deep = "(".repeat(1 << 20);
    let model = load(&unary("Relu", onnx::FLOAT, &[&deep, "2"]));
    assert_eq!(shapes(&model.signature().inputs), ["x FP32 [-1,2]"]);
}

#[test]
fn symbols_that_clash_give_way_to_concrete_shapes() {
    // Two inputs that the exporter gave different symbols, though they are added.
    let mut graph = binary("Add", onnx::FLOAT, &["N", "2"]);
    graph.inputs[1] = value("b", onnx::FLOAT, &["M", "2"]);
    graph.nodes.push(node("Concat", &["y", "c"], &["z"], &[onnx::int("axis", 1)]));
    graph.inputs.push(value("c", onnx::FLOAT, &["K", "1"]));
    graph.outputs = vec![value("z", onnx::FLOAT, &["N", "3"])];
    let model = load(&graph);
    assert_eq!(shapes(&model.signature().outputs), ["z FP32 [-1,3]"]);
    let [a, b] = ["a", "b"].map(|name| fp32(name, &[2, 2], &[1.0, 2.0, 3.0, 4.0]));
    let z = output(&model, vec![a, b, fp32("c", &[2, 1], &[9.0, 9.0])]);
    assert_eq!(floats(&z), [2.0, 4.0, 9.0, 6.0, 8.0, 9.0]);
}

#[test]
fn a_symbol_has_one_size_wherever_it_occurs() {
    // The concatenation makes symbols clash; the product works only if N is the same in both inputs.
    let model = load(&Graph {
        nodes: vec![
            node("MatMul", &["a", "b"], &["y"], &[]),
            node("Concat", &["c", "d"], &["z"], &[onnx::int("axis", 1)]),
        ],
        inputs: vec![
            value("a", onnx::FLOAT, &["2", "N"]),
            value("b", onnx::FLOAT, &["N", "2"]),
            value("c", onnx::FLOAT, &["K", "2"]),
            value("d", onnx::FLOAT, &["L", "2"]),
        ],
        outputs: vec![value("y", onnx::FLOAT, &["2", "2"]), value("z", onnx::FLOAT, &["K", "4"])],
        initializers: vec![],
    });
    assert_eq!(shapes(&model.signature().outputs), ["y FP32 [2,2]", "z FP32 [-1,4]"]);
}

#[test]
fn inputs_and_constants_may_be_outputs() {
    let mut graph = unary("Neg", onnx::FLOAT, &["N"]);
    graph.outputs.extend([value("x", onnx::FLOAT, &["N"]), value("c", onnx::INT64, &["1"])]);
    graph.initializers = vec![onnx::tensor("c", onnx::INT64, &[1], &7i64.to_le_bytes())];
    let model = load(&graph);
    assert_eq!(shapes(&model.signature().inputs), ["x FP32 [-1]"]);
    let outputs = run(&model, vec![fp32("x", &[1], &[1.0])]).expect("runs").outputs;
    assert_eq!(outputs, [fp32("y", &[1], &[-1.0]), fp32("x", &[1], &[1.0]), int64("c", &[1], &[7])]);
}

#[test]
fn the_configuration_fills_in_what_the_graph_leaves_open() {
    let mut graph = binary("Add", onnx::FLOAT, &["N", "M"]);
    let model = load_declared(&graph, vec![declared("a", Datatype::Fp32, &[-1, 3])]).expect("loads");
    assert_eq!(shapes(&model.signature().inputs), ["a FP32 [-1,3]", "b FP32 [-1,3]"]);

    graph.inputs = vec![onnx::unranked("a", onnx::FLOAT), onnx::unranked("b", onnx::FLOAT)];
    assert!(refusal(&graph).contains("input 'a' has no shape in the graph: declare its dims"));
    let both = ["a", "b"].map(|name| declared(name, Datatype::Fp32, &[2])).to_vec();
    let model = load_declared(&graph, both).expect("loads");
    assert_eq!(shapes(&model.signature().outputs), ["y FP32 [2]"]);
}

#[test]
fn a_configuration_that_contradicts_the_graph_is_refused() {
    let graph = unary("Relu", onnx::FLOAT, &["N", "4"]);
    let told = |spec| load_declared(&graph, vec![spec]).expect_err("refused").reason;
    let fixed = told(declared("x", Datatype::Fp32, &[-1, 5]));
    assert!(fixed.ends_with("shape [-1,5], but the graph fixes 4 where it says 5"), "{fixed}");
    assert!(told(declared("x", Datatype::Fp32, &[4])).ends_with("in the graph it has 2 dimensions"));
    assert!(told(declared("x", Datatype::Fp64, &[-1, 4])).ends_with("as FP64, in the graph it is FP32"));
    assert!(told(declared("z", Datatype::Fp32, &[1])).contains("input 'z', which the graph does not have"));
}

#[test]
fn all_unsupported_operators_are_named_in_subgraphs_too() {
    let inner = Graph {
        nodes: vec![node("Unheard", &[], &["t"], &[])],
        outputs: vec![value("t", onnx::FLOAT, &["2"])],
        ..Default::default()
    };
    let mut graph = unary("Relu", onnx::FLOAT, &["2"]);
    graph.nodes.extend([
        node("Foo", &["x"], &["f"], &[]),
        node("com.acme.Relu", &["x"], &["r"], &[]),
        node("If", &["c"], &["i"], &[onnx::graph("then_branch", &inner), onnx::graph("else_branch", &inner)]),
    ]);
    let told = refusal(&graph);
    for expected in ["'Foo' of node 'foo'", "'com.acme.Relu' of node 'relu'", "'Unheard' of node 'unheard'"] {
        assert!(told.contains(expected), "{told}");
    }
    assert!(told.contains("not supported by the native engine"), "{told}");
}

#[test]
fn what_v2_or_the_engine_has_no_type_for_is_refused_by_name() {
    assert!(refusal(&unary("Relu", onnx::BFLOAT16, &["2"])).contains("input 'x' has datatype BFLOAT16"));
    let mut graph = unary("Relu", onnx::FLOAT, &["2"]);
    graph.outputs = vec![onnx::sequence("y")];
    assert!(refusal(&graph).contains("output 'y' is not a tensor"));
}

#[test]
fn a_shape_that_an_operator_cannot_take_is_refused_with_its_node() {
    let mut graph = binary("MatMul", onnx::FLOAT, &["2", "3"]);
    graph.outputs = vec![value("y", onnx::FLOAT, &["2", "3"])];
    let told = refusal(&graph);
    assert!(told.starts_with("compile: ") && told.contains("\"matmul\""), "{told}");
}

#[test]
fn external_tensors_come_from_the_files_beside_the_model_only() {
    let with = |entries: &[(&str, &str)]| Graph {
        initializers: vec![onnx::external("b", onnx::FLOAT, &[2], entries)],
        inputs: vec![value("a", onnx::FLOAT, &["2"])],
        ..binary("Add", onnx::FLOAT, &["2"])
    };
    let files =
        vec![("weights.bin".to_owned(), [0f32, 10.0, 20.0].iter().flat_map(|v| v.to_le_bytes()).collect())];
    let load = |entries: &[(&str, &str)]| {
        load_with(
            limits(),
            Source { artifact: with(entries).file(), files: files.clone(), ..Default::default() },
        )
    };
    let model = load(&[("location", "weights.bin"), ("offset", "4"), ("length", "8")]).expect("loads");
    assert_eq!(floats(&output(&model, vec![fp32("a", &[2], &[1.0, 2.0])])), [11.0, 22.0]);

    let told = |entries: &[(&str, &str)]| load(entries).expect_err("refused").reason;
    for location in ["/etc/passwd", "../weights.bin", "../../../etc/passwd", "weights.bin/", ""] {
        let told = told(&[("location", location)]);
        assert!(told.contains("tensor 'b'") && told.contains("is not a file beside the model"), "{told}");
    }
    assert!(told(&[]).contains("it has no location"));
    assert!(told(&[("location", "weights.bin"), ("offset", "13")]).contains("offset 13 is beyond the end"));
    assert!(told(&[("location", "weights.bin"), ("length", "13")]).contains("length 13 is beyond the end"));
    assert!(told(&[("location", "weights.bin"), ("offset", "-1")]).contains("offset \"-1\" is not a number"));
    assert!(told(&[("location", "weights.bin"), ("length", "4")]).contains("does not match shape"));
}

#[test]
fn a_scaler_takes_numbers_of_any_type() {
    let model = load(&Graph {
        nodes: vec![node(
            "ai.onnx.ml.Scaler",
            &["x"],
            &["y"],
            &[onnx::floats("offset", &[1.0, 2.0]), onnx::floats("scale", &[10.0, 0.5])],
        )],
        inputs: vec![value("x", onnx::INT64, &["N", "2"])],
        outputs: vec![value("y", onnx::FLOAT, &["N", "2"])],
        ..Default::default()
    });
    let y = output(&model, vec![int64("x", &[2, 2], &[1, 2, 3, 4])]);
    assert_eq!(floats(&y), [0.0, 0.0, 20.0, 1.0]);
}

/// One tree that asks whether the first feature is at most 0.5, whose leaves score one class of two.
fn stump(weights: [f32; 2], post_transform: &str, base: &[f32]) -> Graph {
    let mut attributes = vec![
        onnx::ints("classlabels_int64s", &[10, 20]),
        onnx::ints("class_ids", &[0, 0]),
        onnx::ints("class_nodeids", &[1, 2]),
        onnx::ints("class_treeids", &[0, 0]),
        onnx::floats("class_weights", &weights),
        onnx::ints("nodes_featureids", &[0, 0, 0]),
        onnx::ints("nodes_nodeids", &[0, 1, 2]),
        onnx::ints("nodes_treeids", &[0, 0, 0]),
        onnx::ints("nodes_truenodeids", &[1, 0, 0]),
        onnx::ints("nodes_falsenodeids", &[2, 0, 0]),
        onnx::floats("nodes_values", &[0.5, 0.0, 0.0]),
        onnx::strings("nodes_modes", &["BRANCH_LEQ", "LEAF", "LEAF"]),
        onnx::string("post_transform", post_transform),
    ];
    if !base.is_empty() {
        attributes.push(onnx::floats("base_values", base));
    }
    Graph {
        nodes: vec![node("ai.onnx.ml.TreeEnsembleClassifier", &["x"], &["label", "scores"], &attributes)],
        inputs: vec![value("x", onnx::FLOAT, &["N", "1"])],
        outputs: vec![value("label", onnx::INT64, &["N"]), value("scores", onnx::FLOAT, &["N", "2"])],
        ..Default::default()
    }
}

fn classified(graph: &Graph) -> (Vec<u8>, Vec<f32>) {
    let outputs = run(&load(graph), vec![fp32("x", &[2, 1], &[0.0, 1.0])]).expect("runs").outputs;
    let labels = outputs[0].bytes.chunks_exact(8).map(|label| label[0]).collect();
    (labels, floats(&outputs[1]).iter().map(|score| (score * 1000.0).round() / 1000.0).collect())
}

#[test]
fn a_forest_that_scores_one_of_two_classes_labels_like_onnxruntime() {
    assert_eq!(classified(&stump([0.25, 0.75], "NONE", &[])), (vec![10, 20], vec![0.75, 0.25, 0.25, 0.75]));
    let scored = classified(&stump([-1.0, 1.0], "LOGISTIC", &[]));
    assert_eq!(scored, (vec![10, 20], vec![0.731, 0.269, 0.269, 0.731]));
    let shifted = classified(&stump([-1.0, 1.0], "LOGISTIC", &[2.0]));
    assert_eq!(shifted, (vec![20, 20], vec![0.269, 0.731, 0.047, 0.953]));
}

#[test]
fn maps_of_probabilities_give_way_to_the_tensor_that_they_are_made_of() {
    let mut graph = stump([0.25, 0.75], "NONE", &[]);
    graph.nodes.push(node(
        "ai.onnx.ml.ZipMap",
        &["scores"],
        &["maps"],
        &[onnx::ints("classlabels_int64s", &[10, 20])],
    ));
    graph.outputs[1] = onnx::sequence("maps");
    let model = load(&graph);
    assert_eq!(shapes(&model.signature().outputs), ["label INT64 [-1]", "maps FP32 [-1,2]"]);
    assert_eq!(classified(&graph), (vec![10, 20], vec![0.75, 0.25, 0.25, 0.75]));
    // The maps themselves are nothing that a node could get.
    graph.nodes.push(node("Identity", &["maps"], &["more"], &[]));
    let told = refusal(&graph);
    assert!(told.contains("operator 'ai.onnx.ml.ZipMap'"), "{told}");
}

#[test]
fn a_rate_that_a_request_names_chooses_a_branch() {
    let branch = |op: &str, output: &str| Graph {
        nodes: vec![node(op, &["x"], &[output], &[])],
        outputs: vec![onnx::unranked(output, onnx::FLOAT)],
        ..Default::default()
    };
    let (then, otherwise) = (branch("Neg", "t"), branch("Identity", "e"));
    let branches = [onnx::graph("then_branch", &then), onnx::graph("else_branch", &otherwise)];
    let model = load(&Graph {
        nodes: vec![
            node("Equal", &["rate", "fast"], &["is_fast"], &[]),
            node("If", &["is_fast"], &["y"], &branches),
        ],
        inputs: vec![value("x", onnx::FLOAT, &["N"]), value("rate", onnx::INT64, &[])],
        outputs: vec![value("y", onnx::FLOAT, &["N"])],
        initializers: vec![onnx::tensor("fast", onnx::INT64, &[], &16_000i64.to_le_bytes())],
    });
    assert_eq!(shapes(&model.signature().outputs), ["y FP32 [-1]"]);
    for (rate, expected) in [(16_000, [-1.0, 2.0]), (8_000, [1.0, -2.0])] {
        let y = output(&model, vec![fp32("x", &[2], &[1.0, -2.0]), int64("rate", &[], &[rate])]);
        assert_eq!(floats(&y), expected, "{rate}");
    }
}

#[test]
fn a_quantised_softmax_keeps_its_probabilities() {
    let scalar = |name: &str, elem_type, raw: &[u8]| onnx::tensor(name, elem_type, &[], raw);
    let model = load(&Graph {
        nodes: vec![
            node("QuantizeLinear", &["x", "s", "z"], &["a"], &[]),
            node("DequantizeLinear", &["a", "s", "z"], &["b"], &[]),
            node("Softmax", &["b"], &["c"], &[]),
            node("QuantizeLinear", &["c", "p", "z"], &["d"], &[]),
            node("DequantizeLinear", &["d", "p", "z"], &["y"], &[]),
        ],
        inputs: vec![value("x", onnx::FLOAT, &["N", "2"])],
        outputs: vec![value("y", onnx::FLOAT, &["N", "2"])],
        initializers: vec![
            scalar("s", onnx::FLOAT, &0.02f32.to_le_bytes()),
            scalar("p", onnx::FLOAT, &(1.0f32 / 256.0).to_le_bytes()),
            scalar("z", onnx::UINT8, &[0]),
        ],
    });
    let y = floats(&output(&model, vec![fp32("x", &[1, 2], &[0.0, 1.0])]));
    assert!((y[0] - 0.269).abs() < 0.01 && (y[1] - 0.731).abs() < 0.01, "{y:?}");
}

#[test]
fn nodes_may_share_a_name() {
    let mut graph = unary("Relu", onnx::FLOAT, &["2"]);
    graph.nodes = vec![node("Neg", &["x"], &["a"], &[]), node("Neg", &["a"], &["y"], &[])];
    assert_eq!(floats(&output(&load(&graph), vec![fp32("x", &[2], &[1.0, -2.0])])), [1.0, -2.0]);
}

#[test]
fn a_model_over_the_size_limit_is_refused() {
    let limits = NativeLimits { max_artifact_bytes: 10, ..limits() };
    let artifact = unary("Relu", onnx::FLOAT, &["2"]).file();
    let told = load_with(limits, Source { artifact, ..Default::default() }).expect_err("refused").reason;
    assert!(told.ends_with("at most 10 are accepted"), "{told}");
}
