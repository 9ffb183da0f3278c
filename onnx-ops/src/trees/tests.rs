mod property;

use tract_onnx::{pb::AttributeProto, tract_hir::internal::*};

use crate::testing::{doubles, fault, floats, int, ints, rows, run_node, text, texts, values};

/// A node: of which tree, which of it, its mode, the feature, the threshold, and where it leads.
type Row = (i64, i64, &'static str, i64, f32, i64, i64);

/// A weight: of which tree and node, for which target.
type Weight = (i64, i64, i64, f32);

/// One tree: x[0] <= 0.5 ? (x[1] <= -1 ? leaf 3 : leaf 4) : leaf 2.
const STUMP: &[Row] = &[
    (0, 0, "BRANCH_LEQ", 0, 0.5, 1, 2),
    (0, 1, "BRANCH_LEQ", 1, -1.0, 3, 4),
    (0, 2, "LEAF", 0, 0.0, 0, 0),
    (0, 3, "LEAF", 0, 0.0, 0, 0),
    (0, 4, "LEAF", 0, 0.0, 0, 0),
];

fn nodes(rows: &[Row]) -> Vec<AttributeProto> {
    vec![
        ints("nodes_treeids", rows.iter().map(|row| row.0)),
        ints("nodes_nodeids", rows.iter().map(|row| row.1)),
        texts("nodes_modes", rows.iter().map(|row| row.2)),
        ints("nodes_featureids", rows.iter().map(|row| row.3)),
        floats("nodes_values", rows.iter().map(|row| row.4)),
        ints("nodes_truenodeids", rows.iter().map(|row| row.5)),
        ints("nodes_falsenodeids", rows.iter().map(|row| row.6)),
    ]
}

fn weights(prefix: &str, weights: &[Weight]) -> Vec<AttributeProto> {
    vec![
        ints(&format!("{prefix}_treeids"), weights.iter().map(|weight| weight.0)),
        ints(&format!("{prefix}_nodeids"), weights.iter().map(|weight| weight.1)),
        ints(&format!("{prefix}_ids"), weights.iter().map(|weight| weight.2)),
        floats(&format!("{prefix}_weights"), weights.iter().map(|weight| weight.3)),
    ]
}

fn regress(rows: &[Row], given: &[Weight], more: Vec<AttributeProto>, x: Tensor) -> TractResult<Vec<f32>> {
    let attributes = [nodes(rows), weights("target", given), more].concat();
    let outputs = run_node("TreeEnsembleRegressor", &["y"], attributes, x)?;
    Ok(values(&outputs[0]))
}

fn classify(
    rows: &[Row],
    given: &[Weight],
    more: Vec<AttributeProto>,
    x: Tensor,
) -> TractResult<(Vec<i64>, Vec<f32>)> {
    let attributes = [nodes(rows), weights("class", given), more].concat();
    let outputs = run_node("TreeEnsembleClassifier", &["label", "scores"], attributes, x)?;
    Ok((values(&outputs[0]), values(&outputs[1])))
}

const LEAVES: &[Weight] = &[(0, 2, 0, 20.0), (0, 3, 0, 30.0), (0, 4, 0, 40.0)];

/// Left of both thresholds, on them, right of the second, right of the first.
fn four_rows() -> Tensor {
    rows(4, &[0.0, -2.0, 0.5, -1.0, 0.5, 0.0, 0.75, -5.0])
}

#[test]
fn a_row_comes_to_the_leaf_that_its_features_lead_to() {
    assert_eq!(regress(STUMP, LEAVES, vec![], four_rows()).expect("it runs"), [30.0, 30.0, 40.0, 20.0]);
    // The order of the lists means nothing.
    let mut turned = STUMP.to_vec();
    turned.reverse();
    assert_eq!(regress(&turned, LEAVES, vec![], four_rows()).expect("it runs"), [30.0, 30.0, 40.0, 20.0]);
    // More features than the trees look at, and rows by the hundred.
    let wide = rows(200, &[0.0, -2.0, 7.0, 0.75, 0.0, 7.0].repeat(100));
    assert_eq!(regress(STUMP, LEAVES, vec![], wide).expect("it runs"), [30.0, 20.0].repeat(100));
}

#[test]
fn every_mode_compares_as_it_says_and_what_is_no_number_goes_where_it_is_told() {
    let x = || rows(4, &[0.0, 1.0, 2.0, f32::NAN]);
    // What the weights of the true leaf, 1, and the false leaf, 0, make of a value below 1, of 1, above it, and of none.
    for (mode, expected) in [
        ("BRANCH_LEQ", [1.0, 1.0, 0.0]),
        ("BRANCH_LT", [1.0, 0.0, 0.0]),
        ("BRANCH_GTE", [0.0, 1.0, 1.0]),
        ("BRANCH_GT", [0.0, 0.0, 1.0]),
        ("BRANCH_EQ", [0.0, 1.0, 0.0]),
        ("BRANCH_NEQ", [1.0, 0.0, 1.0]),
    ] {
        let rows = [(0, 0, mode, 0, 1.0, 1, 2), (0, 1, "LEAF", 0, 0.0, 0, 0), (0, 2, "LEAF", 0, 0.0, 0, 0)];
        for tracks in [0, 1] {
            let missing = if tracks == 1 || mode == "BRANCH_NEQ" { 1.0 } else { 0.0 };
            let more = vec![ints("nodes_missing_value_tracks_true", [tracks, 0, 0])];
            let given = regress(&rows, &[(0, 1, 0, 1.0)], more, x()).expect("it runs");
            assert_eq!(given, [&expected[..], &[missing]].concat(), "{mode}, missing tracks true: {tracks}");
        }
    }
}

#[test]
fn trees_are_aggregated_over_targets_and_base_values_added() {
    // A second tree that is a leaf alone.
    let rows = [STUMP, &[(1, 0, "LEAF", 0, 0.0, 0, 0)]].concat();
    let given = [LEAVES, &[(1, 0, 0, 6.0), (1, 0, 1, -8.0)]].concat();
    let x = || crate::testing::rows(1, &[9.0, 9.0]);
    for (aggregate, expected) in
        [("SUM", [27.0, -8.5]), ("AVERAGE", [14.0, -4.5]), ("MIN", [7.0, -8.5]), ("MAX", [21.0, -8.5])]
    {
        let more = vec![
            int("n_targets", 2),
            text("aggregate_function", aggregate),
            floats("base_values", [1.0, -0.5]),
        ];
        assert_eq!(regress(&rows, &given, more, x()).expect("it runs"), expected, "{aggregate}");
    }
    // Softmax over two targets, and of a single target nothing but probit.
    let more = |transform| vec![int("n_targets", 2), text("post_transform", transform)];
    let soft = regress(STUMP, &[(0, 2, 0, 1.0), (0, 2, 1, 1.0)], more("SOFTMAX"), x());
    assert_eq!(soft.expect("it runs"), [0.5, 0.5]);
    let single = regress(STUMP, LEAVES, vec![text("post_transform", "LOGISTIC")], x());
    assert_eq!(single.expect("it runs"), [20.0]);
    let probit = regress(STUMP, &[(0, 2, 0, 0.5)], vec![text("post_transform", "PROBIT")], x());
    assert_eq!(probit.expect("it runs"), [0.0]);
}

#[test]
fn the_class_is_the_one_with_the_highest_score() {
    let labels = || ints("classlabels_int64s", [10, 20, 30]);
    let given = [(0, 2, 1, 0.75), (0, 2, 2, 0.25), (0, 3, 0, 1.0), (0, 4, 2, -1.0)];
    let (classes, scores) = classify(STUMP, &given, vec![labels()], four_rows()).expect("it runs");
    // In the third row only the last class has a score at all.
    assert_eq!(classes, [10, 10, 30, 20]);
    assert_eq!(scores, [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.75, 0.25]);
    let more = vec![labels(), floats("base_values", [0.0, 0.5, 2.0])];
    let (classes, scores) = classify(STUMP, &given, more, four_rows()).expect("it runs");
    assert_eq!(classes, [30, 30, 30, 30]);
    assert_eq!(scores[..3], [1.0, 0.5, 2.0]);
}

#[test]
fn labels_may_be_texts() {
    let attributes = [
        nodes(STUMP),
        weights("class", &[(0, 2, 0, 1.0), (0, 3, 1, 1.0), (0, 4, 2, 1.0)]),
        vec![texts("classlabels_strings", ["no", "yes", "possibly"])],
    ];
    let outputs = run_node("TreeEnsembleClassifier", &["label", "scores"], attributes.concat(), four_rows());
    assert_eq!(values::<String>(&outputs.expect("it runs")[0]), ["yes", "yes", "possibly", "no"]);
}

#[test]
fn of_two_classes_one_score_is_enough() {
    let labels = || ints("classlabels_int64s", [4, 5]);
    let x = || rows(2, &[0.0, -2.0, 9.0, 9.0]);
    // Nowhere negative: a probability.
    let given = [(0, 2, 0, 0.25), (0, 3, 0, 0.75), (0, 4, 0, 0.0)];
    let (classes, scores) = classify(STUMP, &given, vec![labels()], x()).expect("it runs");
    assert_eq!((classes, scores), (vec![5, 4], vec![0.25, 0.75, 0.75, 0.25]));
    // Of the second class by its own name: the first has none.
    let named = given.map(|(tree, node, _, weight)| (tree, node, 1, weight));
    let (classes, scores) = classify(STUMP, &named, vec![labels()], x()).expect("it runs");
    assert_eq!((classes, scores), (vec![5, 4], vec![0.0, 0.75, 0.0, 0.25]));
    // A score around zero.
    let given = [(0, 2, 0, -2.0), (0, 3, 0, 2.0), (0, 4, 0, 0.0)];
    let more = vec![labels(), text("post_transform", "LOGISTIC")];
    let (classes, scores) = classify(STUMP, &given, more, x()).expect("it runs");
    assert_eq!(classes, [5, 4]);
    let expected = [0.119_203, 0.880_797, 0.880_797, 0.119_203];
    assert!(
        scores.iter().zip(expected).all(|(score, expected)| (score - expected).abs() < 1e-6),
        "{scores:?}"
    );
    let (_, scores) = classify(STUMP, &given, vec![labels()], x()).expect("it runs");
    assert_eq!(scores, [-2.0, 2.0, 2.0, -2.0]);
    // The only base value moves it.
    let more = vec![labels(), text("post_transform", "LOGISTIC"), floats("base_values", [2.0])];
    let (classes, scores) = classify(STUMP, &given, more, x()).expect("it runs");
    assert_eq!(classes, [5, 4]);
    assert_eq!(scores[2..], [0.5, 0.5]);
}

#[test]
fn numbers_of_twice_the_precision_are_compared_as_such() {
    let x = |values: &[f64]| tensor1(values).into_shape(&[values.len(), 1]).expect("rows");
    let rows =
        [(0, 0, "BRANCH_LEQ", 0, 0.5, 1, 2), (0, 1, "LEAF", 0, 0.0, 0, 0), (0, 2, "LEAF", 0, 0.0, 0, 0)];
    let given = [(0, 1, 0, 1.0), (0, 2, 0, 2.0)];
    // As FP32 both values are the threshold.
    let near = [0.5, 0.5 + 1e-12];
    assert_eq!(regress(&rows, &given, vec![], x(&near)).expect("it runs"), [1.0, 2.0]);
    // And thresholds that FP32 does not have, of ai.onnx.ml 3.
    let mut attributes = [nodes(&rows), weights("target", &given)].concat();
    attributes.retain(|attribute| attribute.name != "nodes_values");
    attributes.push(doubles("nodes_values_as_tensor", &[0.5 + 1e-12, 0.0, 0.0]));
    let outputs = run_node("TreeEnsembleRegressor", &["y"], attributes, x(&[0.5 + 1e-12, 0.5 + 2e-12]));
    assert_eq!(values::<f32>(&outputs.expect("it runs")[0]), [1.0, 2.0]);
    // Whole numbers are numbers too.
    let whole = tensor1(&[0i64, 1]).into_shape(&[2, 1]).expect("rows");
    assert_eq!(regress(&rows, &given, vec![], whole).expect("it runs"), [1.0, 2.0]);
}

#[test]
fn the_ensemble_of_the_newest_version_has_leaves_of_their_own() {
    // The tree of STUMP, and a second one that ends in the same leaves.
    let attributes = vec![
        int("n_targets", 2),
        ints("tree_roots", [0, 2]),
        ints("nodes_featureids", [0, 1, 0]),
        doubles("nodes_splits", &[0.5, -1.0, 0.0]),
        doubles("nodes_modes", &[0.0, 0.0, 1.0]),
        ints("nodes_truenodeids", [1, 1, 0]),
        ints("nodes_trueleafs", [0, 1, 1]),
        ints("nodes_falsenodeids", [0, 2, 2]),
        ints("nodes_falseleafs", [1, 1, 1]),
        ints("leaf_targetids", [0, 1, 0]),
        doubles("leaf_weights", &[20.0, 30.0, 40.0]),
    ];
    let outputs = run_node("TreeEnsemble", &["y"], attributes, four_rows()).expect("it runs");
    let expected = [40.0, 30.0, 40.0, 30.0, 80.0, 0.0, 60.0, 0.0];
    assert_eq!(values::<f32>(&outputs[0]), expected);
}

#[test]
fn what_is_no_ensemble_of_trees_is_refused_with_a_reason() {
    let with = |change: fn(&mut Vec<Row>)| {
        let mut rows = STUMP.to_vec();
        change(&mut rows);
        fault(regress(&rows, LEAVES, vec![], four_rows()))
    };
    for (change, reason) in [
        ((|rows: &mut Vec<Row>| rows[1].5 = 0) as fn(&mut Vec<Row>), "no root leads to its node 0"),
        (|rows| rows[4] = (0, 4, "BRANCH_LEQ", 0, 0.0, 0, 3), "every node of tree 0 is another one's child"),
        (|rows| rows[1].5 = 1, "lead to its node 1, or a cycle of them"),
        (|rows| rows[1].6 = 3, "lead to its node 3, or a cycle of them"),
        (|rows| rows[1].6 = 77, "tree 0 has no node 77, to which its node 1 leads"),
        (|rows| rows[1].6 = -1, "tree 0 has no node -1"),
        (|rows| rows[1].3 = -1, "there is no feature -1"),
        (|rows| rows[1].3 = 1_000_000_000, "its feature 1000000000 is beyond those that can be counted"),
        (|rows| rows[1].3 = 2, "a row has 2 features, the trees look at 3"),
        (|rows| rows[1].1 = 2, "tree 0 has two nodes 2"),
        (|rows| rows[1].2 = "BRANCH_XOR", "it has a node of mode BRANCH_XOR"),
        (|rows| rows.clear(), "nodes_modes has 0 values"),
    ] {
        let given = with(change);
        assert!(given.contains(reason), "{given}");
    }
    let more = |attribute| fault(regress(STUMP, LEAVES, vec![attribute], four_rows()));
    for (attribute, reason) in [
        (int("n_targets", 1 << 40), "it has 1099511627776 targets, where 1 to 65536 can be"),
        (int("n_targets", -1), "it has -1 targets"),
        (floats("base_values", [1.0, 2.0]), "it has 2 base_values where 1 can be"),
        (text("aggregate_function", "MEDIAN"), "it has an aggregate_function MEDIAN"),
        (text("post_transform", "TANH"), "it has a post_transform TANH"),
        (ints("nodes_missing_value_tracks_true", [0]), "has 1 values where there are 5"),
    ] {
        let given = more(attribute);
        assert!(given.contains(reason), "{given}");
    }
    let weight = |weight| fault(regress(STUMP, &[weight], vec![], four_rows()));
    assert!(weight((0, 9, 0, 1.0)).contains("a weight is for node 9 of tree 0, which has none"));
    assert!(weight((0, 2, 1, 1.0)).contains("a weight is for target 1 of 1"), "{}", weight((0, 2, 1, 1.0)));
    assert!(weight((0, 2, -1, 1.0)).contains("a weight is for target -1"));
    // Of two classes of which the leaves name the first there is one score.
    let two = vec![ints("classlabels_int64s", [0, 1]), floats("base_values", [1.0, 2.0])];
    let base = fault(classify(STUMP, LEAVES, two, four_rows()));
    assert!(base.contains("it has 2 base_values where 1 can be"), "{base}");
    let none = fault(classify(STUMP, LEAVES, vec![], four_rows()));
    assert!(none.contains("neither classlabels_int64s nor classlabels_strings"), "{none}");
}
