//! Random ensembles against the definition of a decision tree, followed node by node.

use proptest::prelude::*;
use tract_onnx::pb::AttributeProto;

use crate::testing::{floats, int, ints, rows, run_node, texts, values};

const FEATURES: usize = 3;
const TARGETS: usize = 2;

#[derive(Clone, Debug)]
enum Tree {
    Leaf(Vec<(usize, f32)>),
    Split {
        feature: usize,
        mode: usize,
        threshold: f32,
        missing: bool,
        if_true: Box<Tree>,
        if_false: Box<Tree>,
    },
}

const MODES: [&str; 6] = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];

impl Tree {
    fn follow(&self, row: &[f32]) -> &[(usize, f32)] {
        match self {
            Self::Leaf(weights) => weights,
            Self::Split { feature, mode, threshold, missing, if_true, if_false } => {
                let x = row[*feature];
                let holds = match MODES[*mode] {
                    "BRANCH_LEQ" => x <= *threshold,
                    "BRANCH_LT" => x < *threshold,
                    "BRANCH_GTE" => x >= *threshold,
                    "BRANCH_GT" => x > *threshold,
                    "BRANCH_EQ" => x == *threshold,
                    _ => x != *threshold,
                };
                if holds || (x.is_nan() && *missing) { if_true.follow(row) } else { if_false.follow(row) }
            }
        }
    }
}

/// The lists of the operator's attributes.
#[derive(Default)]
struct Lists {
    trees: Vec<i64>,
    ids: Vec<i64>,
    modes: Vec<&'static str>,
    features: Vec<i64>,
    thresholds: Vec<f32>,
    missing: Vec<i64>,
    if_true: Vec<i64>,
    if_false: Vec<i64>,
    weights: Vec<(i64, i64, i64, f32)>,
}

fn whole(number: usize) -> i64 {
    i64::try_from(number).expect("a small number")
}

impl Lists {
    /// Appends a tree's nodes, children before their parents; returns the number of its root.
    fn add(&mut self, number: i64, tree: &Tree, next: &mut i64) -> i64 {
        let (mode, feature, threshold, missing, if_true, if_false) = match tree {
            Tree::Leaf(_) => ("LEAF", 0, 0.0, false, 0, 0),
            Tree::Split { feature, mode, threshold, missing, if_true, if_false } => {
                let if_true = self.add(number, if_true, next);
                let if_false = self.add(number, if_false, next);
                (MODES[*mode], *feature, *threshold, *missing, if_true, if_false)
            }
        };
        let id = *next;
        *next += 1;
        if let Tree::Leaf(weights) = tree {
            self.weights.extend(weights.iter().map(|(target, weight)| (number, id, whole(*target), *weight)));
        }
        self.trees.push(number);
        self.ids.push(id);
        self.modes.push(mode);
        self.features.push(whole(feature));
        self.thresholds.push(threshold);
        self.missing.push(i64::from(missing));
        self.if_true.push(if_true);
        self.if_false.push(if_false);
        id
    }

    fn attributes(self) -> Vec<AttributeProto> {
        vec![
            int("n_targets", whole(TARGETS)),
            ints("nodes_treeids", self.trees),
            ints("nodes_nodeids", self.ids),
            texts("nodes_modes", self.modes),
            ints("nodes_featureids", self.features),
            floats("nodes_values", self.thresholds),
            ints("nodes_missing_value_tracks_true", self.missing),
            ints("nodes_truenodeids", self.if_true),
            ints("nodes_falsenodeids", self.if_false),
            ints("target_treeids", self.weights.iter().map(|weight| weight.0)),
            ints("target_nodeids", self.weights.iter().map(|weight| weight.1)),
            ints("target_ids", self.weights.iter().map(|weight| weight.2)),
            floats("target_weights", self.weights.iter().map(|weight| weight.3)),
        ]
    }
}

/// Few values, so that thresholds are often met, all of them sums that FP32 holds.
fn number() -> impl Strategy<Value = f32> + Clone {
    (-4i8..=4).prop_map(|value| f32::from(value) / 4.0)
}

fn value() -> impl Strategy<Value = f32> {
    prop_oneof![8 => number(), 1 => Just(f32::NAN), 1 => Just(f32::INFINITY), 1 => Just(f32::NEG_INFINITY)]
}

/// Trees of which all nodes compare by some of the modes only: uniform ones are walked by other code.
fn tree(modes: Vec<usize>, may_miss: bool) -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        3 => prop::collection::vec(number(), TARGETS)
            .prop_map(|weights| Tree::Leaf(weights.into_iter().enumerate().collect())),
        1 => prop::option::of((0..TARGETS, number())).prop_map(|weight| Tree::Leaf(weight.into_iter().collect())),
    ];
    leaf.prop_recursive(6, 40, 2, move |inner| {
        let missing = if may_miss { any::<bool>().boxed() } else { Just(false).boxed() };
        (0..FEATURES, prop::sample::select(modes.clone()), number(), missing, inner.clone(), inner).prop_map(
            |(feature, mode, threshold, missing, if_true, if_false)| Tree::Split {
                feature,
                mode,
                threshold,
                missing,
                if_true: Box::new(if_true),
                if_false: Box::new(if_false),
            },
        )
    })
}

fn forest() -> impl Strategy<Value = Vec<Tree>> {
    let modes = prop_oneof![Just(vec![0]), Just(vec![1]), Just(vec![0, 2]), Just((0..6).collect::<Vec<_>>())];
    (modes, any::<bool>())
        .prop_flat_map(|(modes, may_miss)| prop::collection::vec(tree(modes, may_miss), 1..20))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_forest_gives_what_its_trees_give_one_by_one(
        forest in forest(),
        values_of_rows in prop::collection::vec(prop::collection::vec(value(), FEATURES), 1..80),
    ) {
        let mut lists = Lists::default();
        for (number, tree) in forest.iter().enumerate() {
            lists.add(whole(number), tree, &mut 0);
        }
        let mut expected = Vec::new();
        for row in &values_of_rows {
            let mut sums = [0f32; TARGETS];
            for (target, weight) in forest.iter().flat_map(|tree| tree.follow(row)) {
                sums[*target] += weight;
            }
            expected.extend(sums);
        }
        let x = rows(values_of_rows.len(), &values_of_rows.concat());
        // A row has features for which no tree asks, too.
        let outputs = run_node("TreeEnsembleRegressor", &["y"], lists.attributes(), x).expect("it runs");
        prop_assert_eq!(values::<f32>(&outputs[0]), expected);
    }
}
