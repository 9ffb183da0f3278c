//! Nodes as files have them, and files that mean no good.

use proptest::prelude::*;
use tract_onnx::{pb::NodeProto, tract_core::internal::Approximation};

use super::{super::op::Kind, Build, image, unsigned};
use crate::{
    quantised::formulas::{Product, Sum},
    testing::{body, floats, info, int, node, plan, run},
};

fn kinds() -> Vec<Kind> {
    let range = [-3.0, 252.0];
    vec![
        Kind::Quantise { divisor: 0.1, range },
        Kind::Requantise { factors: vec![0.1, 0.2], range },
        Kind::Dequantise { factor: 0.4 },
        Kind::Table { first: -3.0, values: (0..256).map(|x| x as f32).collect() },
        Kind::Normalise { factor: 0.1, scale: vec![1.0; 3], offset: vec![2.0; 3], divisor: 0.3, range },
        Kind::Sum(Sum::new(unsigned(0.1, 1), unsigned(0.2, 2), unsigned(0.3, 3))),
        Kind::Product(Product::new(unsigned(0.1, 1), unsigned(0.2, 2), unsigned(0.3, 3))),
        Kind::OfNumbers { sum: true, factors: [0.1, 0.2], divisor: 0.3, range },
        Kind::Mean { factor: 0.1, divisor: 0.3, range },
        Kind::MeanOfNumbers { factor: 0.1, divisor: 0.3, range },
        Kind::Softmax { scale: 0.1, levels: 255.0, range, axis: Some(-1) },
    ]
}

#[test]
fn operators_are_read_as_they_were_written() {
    for kind in kinds() {
        let inputs = vec!["x".to_owned(); kind.inputs()];
        assert_eq!(Kind::read(&kind.node(&inputs, "y".into())).expect("it is read"), kind);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Of any numbers a node is read or refused, and what is read runs or is refused.
    #[test]
    fn any_numbers_are_read_or_refused(
        which in 0usize..11,
        numbers in prop::collection::vec(any::<f32>(), 0..9),
        first in prop_oneof![
            prop::collection::vec(-3f32..3.0, 0..4),
            prop::collection::vec((0u8..9).prop_map(f32::from), 256),
            prop::collection::vec(any::<f32>(), 256),
        ],
        second in prop::collection::vec(any::<f32>(), 0..4),
        axis in any::<i64>(),
    ) {
        let name = kinds()[which].node(&[], String::new()).op_type;
        let lists = [("numbers", numbers), ("first", first), ("second", second)];
        let mut attributes: Vec<_> = lists.map(|(name, list)| floats(name, list)).to_vec();
        attributes.push(int("axis", axis));
        for inputs in [&["x"][..], &["x", "x"]] {
            let graph = body(
                vec![node(&name, inputs, &["y"], attributes.clone())],
                vec![info("x", tract_onnx::pb::tensor_proto::DataType::Float, &[None; 4])],
                &["y"],
            );
            let x: Vec<f32> = (0..2 * 3 * 4).map(|at| at as f32 - 7.5).collect();
            let _ = run(graph, vec![image(&[2, 3, 2, 2], &x)]);
        }
    }

    /// A quantised graph whose nodes and constants were mixed up is rewritten to something, and planned or refused.
    #[test]
    fn graphs_that_are_mixed_up_are_rewritten_or_left(
        swaps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..4),
        renamed in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..3),
        dims in prop::collection::vec((any::<prop::sample::Index>(), -1i64..9), 0..3),
    ) {
        let mut graph = convnet();
        for (a, b) in swaps {
            let (a, b) = (a.index(graph.node.len()), b.index(graph.node.len()));
            graph.node.swap(a, b);
        }
        let values: Vec<String> = graph.node.iter().flat_map(|node| node.output.clone()).collect();
        for (node, value) in renamed {
            let node: &mut NodeProto = &mut graph.node[node.index(values.len())];
            node.input[0] = value.get(&values).clone();
        }
        for (tensor, dim) in dims {
            let index = tensor.index(graph.initializer.len());
            graph.initializer[index].dims = vec![dim];
        }
        let x: Vec<f32> = (0..3 * 36).map(|at| at as f32 * 0.1 - 3.0).collect();
        let planned = plan(graph.clone(), &[image(&[1, 3, 6, 6], &x)]);
        super::super::rewrite(&mut graph);
        drop(planned);
    }
}

/// A small quantised network.
fn convnet() -> tract_onnx::pb::GraphProto {
    let (x, y) = (unsigned(0.05, 120), unsigned(0.1, 40));
    let mut build = Build::default();
    let bytes = build.quantise("x", x);
    let back = build.take_back(&bytes, x);
    let weights = build.weights(super::signed(0.02, 0), &[4, 3, 3, 3], &vec![1; 108]);
    let bias = build.bias(&[0.001], &[5; 4]);
    let sums = build.node("Conv", &[&back, &weights, &bias], vec![]);
    let bytes = build.quantise(&sums, y);
    let back = build.take_back(&bytes, y);
    let gate = build.node("HardSigmoid", &[&back], vec![]);
    let bytes = build.quantise(&gate, y);
    let gate = build.take_back(&bytes, y);
    let product = build.node("Mul", &[&back, &gate], vec![]);
    let bytes = build.quantise(&product, y);
    let back = build.take_back(&bytes, y);
    let mean = build.node("GlobalAveragePool", &[&back], vec![]);
    let bytes = build.quantise(&mean, y);
    let result = build.take_back(&bytes, y);
    build.graph(4, &[&result])
}

#[test]
fn nodes_that_are_not_in_order_are_left_to_the_engine() {
    let mut graph = convnet();
    let x: Vec<f32> = (0..3 * 36).map(|at| at as f32 * 0.1 - 3.0).collect();
    let expected = run(graph.clone(), vec![image(&[1, 3, 6, 6], &x)]).expect("an answer");
    graph.node.reverse();
    let mut rewritten = graph.clone();
    super::super::rewrite(&mut rewritten);
    assert_eq!(rewritten, graph);
    let found = run(graph, vec![image(&[1, 3, 6, 6], &x)]).expect("an answer");
    found[0].close_enough(&expected[0], Approximation::Approximate).expect("nearly the same");
}

/// Names are made for each of them: that takes no longer for the last ones than for the first.
#[test]
fn many_nodes_may_share_a_constant() {
    let (x, y) = (unsigned(0.05, 120), unsigned(0.1, 40));
    let mut build = Build::default();
    let bytes = build.quantise("x", x);
    let from = build.take_back(&bytes, x);
    let weights = build.weights(super::signed(0.02, 0), &[1, 1, 1, 1], &[3]);
    let results: Vec<String> = (0..5000)
        .map(|_| {
            let sums = build.node("Conv", &[&from, &weights], vec![]);
            build.quantise(&sums, y)
        })
        .collect();
    let results: Vec<&str> = results.iter().map(String::as_str).collect();
    let mut graph = build.graph(4, &results[..1]);
    super::super::rewrite(&mut graph);
    let made = graph.initializer.iter().filter(|tensor| tensor.name.contains("/whole"));
    let names: std::collections::HashSet<&str> = made.clone().map(|tensor| tensor.name.as_str()).collect();
    // The first one leaves the graph as bytes, and is left as it is.
    assert_eq!((made.count(), names.len()), (4999, 4999));
}

/// What a file says of sizes that it has no numbers for counts for nothing.
#[test]
fn sizes_without_numbers_let_nothing_more_be_read() {
    let (x, y) = (unsigned(0.05, 120), unsigned(0.1, 40));
    let mut build = Build::default();
    let weights = build.bytes(true, &[256, 256, 8, 8], &vec![1; 256 * 256 * 64]);
    let bytes = build.quantise("x", x);
    let from = build.take_back(&bytes, x);
    let mut results = vec![];
    for _ in 0..16 {
        let factors = build.take_back(&weights, super::signed(0.02, 0));
        let sums = build.node("Conv", &[&from, &factors], vec![]);
        let bytes = build.quantise(&sums, y);
        results.push(build.take_back(&bytes, y));
    }
    for _ in 0..50 {
        build.constant(tract_onnx::pb::tensor_proto::DataType::Float, &[1 << 24], vec![]);
    }
    let results: Vec<&str> = results.iter().map(String::as_str).collect();
    let mut graph = build.graph(4, &results);
    super::super::rewrite(&mut graph);
    let copies = graph.initializer.iter().filter(|tensor| tensor.name.contains("/whole")).count();
    assert!((1..=2).contains(&copies), "{copies} copies");
}

#[test]
fn one_large_constant_is_not_read_for_each_node_that_names_it() {
    let (x, y) = (unsigned(0.05, 120), unsigned(0.1, 40));
    let mut build = Build::default();
    let weights = build.bytes(true, &[256, 256, 8, 8], &vec![1; 256 * 256 * 64]);
    let mut results = vec![];
    for _ in 0..8 {
        let bytes = build.quantise("x", x);
        let from = build.take_back(&bytes, x);
        let factors = build.take_back(&weights, super::signed(0.02, 0));
        let sums = build.node("Conv", &[&from, &factors], vec![]);
        let bytes = build.quantise(&sums, y);
        results.push(build.take_back(&bytes, y));
    }
    let results: Vec<&str> = results.iter().map(String::as_str).collect();
    let mut graph = build.graph(4, &results);
    super::super::rewrite(&mut graph);
    let copies = graph.initializer.iter().filter(|tensor| tensor.name.contains("/whole")).count();
    assert!((1..=2).contains(&copies), "{copies} copies");
}
