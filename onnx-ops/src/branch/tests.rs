use tract_onnx::{
    pb::{AttributeProto, GraphProto, NodeProto, tensor_proto::DataType},
    tract_hir::internal::*,
};

use crate::testing::{body, fault, graph, info, int, ints, node, plan, run, values};

/// `If` on `condition`, between a branch of these nodes for true and for false, each of which gives `t` or `e`.
fn choice(then: Vec<NodeProto>, otherwise: Vec<NodeProto>) -> NodeProto {
    let branches: Vec<AttributeProto> = vec![
        graph("then_branch", body(then, vec![], &["t"])),
        graph("else_branch", body(otherwise, vec![], &["e"])),
    ];
    node("If", &["condition"], &["y"], branches)
}

/// A choice by an input, over `x` of two dimensions.
fn by_input(then: Vec<NodeProto>, otherwise: Vec<NodeProto>) -> GraphProto {
    let inputs = vec![info("condition", DataType::Bool, &[]), info("x", DataType::Float, &[None, None])];
    body(vec![choice(then, otherwise)], inputs, &["y"])
}

fn x(shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0u8..).map(f32::from).take(count).collect();
    tensor1(&values).into_shape(shape).expect("as many values")
}

fn one(op: &str, output: &str, attributes: Vec<AttributeProto>) -> Vec<NodeProto> {
    vec![node(op, &["x"], &[output], attributes)]
}

#[test]
fn a_condition_that_is_known_when_it_runs_chooses_then() {
    let negate = || by_input(one("Neg", "t", vec![]), one("Identity", "e", vec![]));
    for (condition, expected) in [(true, [0.0, -1.0]), (false, [0.0, 1.0])] {
        let outputs = run(negate(), vec![tensor0(condition), x(&[1, 2])]).expect("it runs");
        assert_eq!(values::<f32>(&outputs[0]), expected, "{condition}");
    }
    // One plan serves both, over and over.
    let plan = plan(negate(), &[tensor0(true), x(&[1, 2])]).expect("it is planned");
    for condition in [true, false, true] {
        let inputs = tvec![tensor0(condition).into_tvalue(), x(&[1, 2]).into_tvalue()];
        let outputs = plan.run(inputs).expect("it runs");
        assert_eq!(values::<f32>(&outputs[0])[1], if condition { -1.0 } else { 1.0 });
    }
}

#[test]
fn branches_of_different_shape_are_refused_where_the_condition_is_an_input() {
    let squeeze = by_input(one("Flatten", "t", vec![int("axis", 0)]), one("Identity", "e", vec![]));
    let refused = fault(plan(squeeze, &[tensor0(true), x(&[2, 3])]));
    assert!(refused.contains("which one is taken is known only when it runs"), "{refused}");
}

/// `x` without its first dimension if that is 1, as exporters write it, then its sum over the last one.
fn squeezed_sum() -> GraphProto {
    let first = vec![
        node("Shape", &["x"], &["shape"], vec![]),
        node("Gather", &["shape", "zero"], &["first"], vec![]),
    ];
    let nodes = [
        vec![constant("zero", 0), constant("one", 1)],
        first,
        vec![
            node("Equal", &["first", "one"], &["condition"], vec![]),
            choice(
                vec![node("Squeeze", &["x", "axes"], &["t"], vec![])],
                vec![node("Identity", &["x"], &["e"], vec![])],
            ),
            node("ReduceMax", &["y"], &["sum"], vec![ints("axes", [-1]), int("keepdims", 0)]),
        ],
    ];
    let mut graph = body(nodes.concat(), vec![info("x", DataType::Float, &[None, None])], &["sum"]);
    graph.initializer.push(tract_onnx::pb::TensorProto {
        name: "axes".into(),
        dims: vec![1],
        data_type: DataType::Int64 as i32,
        int64_data: vec![0],
        ..Default::default()
    });
    graph
}

fn constant(name: &str, value: i64) -> NodeProto {
    node("Constant", &[], &[name], vec![int("value_int", value)])
}

#[test]
fn a_condition_that_the_shapes_decide_needs_no_branches_alike() {
    let outputs = run(squeezed_sum(), vec![x(&[1, 3])]).expect("it runs");
    assert_eq!((outputs[0].shape(), values::<f32>(&outputs[0])), (&[][..], vec![2.0]));
    let outputs = run(squeezed_sum(), vec![x(&[2, 3])]).expect("it runs");
    assert_eq!((outputs[0].shape(), values::<f32>(&outputs[0])), (&[2][..], vec![2.0, 5.0]));
}

#[test]
fn a_branch_that_cannot_run_is_in_nobodys_way_until_it_is_taken() {
    // A product with a vector of 3 in one branch, of 2 in the other.
    let weights = |name: &str, count: usize| {
        let mut weights = tract_onnx::pb::TensorProto { name: name.into(), ..Default::default() };
        weights.dims = vec![i64::try_from(count).expect("few"), 1];
        weights.data_type = DataType::Float as i32;
        weights.float_data = vec![1.0; count];
        weights
    };
    let product = |weights: &str, output: &str| vec![node("MatMul", &["x", weights], &[output], vec![])];
    let mut graph = by_input(product("three", "t"), product("two", "e"));
    graph.initializer = vec![weights("three", 3), weights("two", 2)];
    let run = |condition: bool, width| run(graph.clone(), vec![tensor0(condition), x(&[1, width])]);
    assert_eq!(values::<f32>(&run(true, 3).expect("it runs")[0]), [3.0]);
    assert_eq!(values::<f32>(&run(false, 2).expect("it runs")[0]), [1.0]);
    let refused = fault(run(false, 3));
    assert!(refused.contains("the branch for this condition cannot run inputs of these shapes"), "{refused}");
    let refused = fault(run(true, 4));
    assert!(refused.contains("no branch can run"), "{refused}");
}

#[test]
fn what_is_no_choice_is_refused() {
    let mut graph = by_input(one("Neg", "t", vec![]), one("Neg", "e", vec![]));
    graph.node[0].attribute.truncate(1);
    let refused = fault(plan(graph, &[tensor0(true), x(&[1, 1])]));
    assert!(refused.contains("it has no else_branch"), "{refused}");
}
