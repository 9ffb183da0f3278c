//! Reads what a file says of an ensemble. Nothing of it is believed: every list has its length, every child is there.

use std::collections::HashMap;

use tract_onnx::{
    data_resolver,
    pb::TensorProto,
    prelude::{TractResult, tract_itertools::izip},
    tract_core::internal::{TractErrorContext, bail, ensure},
};

use crate::attributes::Attributes;

/// Most targets of a regressor: the file gives only their number.
pub const MAX_TARGETS: usize = 1 << 16;

/// How a value is compared with a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    AtMost,
    Below,
    AtLeast,
    Above,
    Equal,
    Unequal,
}

/// What the weights of all leaves that a row comes to are made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aggregate {
    Sum,
    Average,
    Min,
    Max,
}

#[derive(Clone, Copy, Debug)]
pub enum Node {
    /// With the leaf's number.
    Leaf(u32),
    Split {
        feature: u32,
        mode: Mode,
        threshold: f64,
        missing_is_true: bool,
        if_true: u32,
        if_false: u32,
    },
}

/// An ensemble as a file has it. Children are in range; that they make trees is not yet known.
#[derive(Debug, Default)]
pub struct Ensemble {
    pub nodes: Vec<Node>,
    pub roots: Vec<u32>,
    pub targets: usize,
    /// One for each leaf and one more: where its weights begin.
    pub starts: Vec<u32>,
    /// The target of each weight.
    pub ids: Vec<u32>,
    pub weights: Vec<f64>,
}

impl Ensemble {
    /// Whether FP32 has all of its numbers.
    pub fn is_single(&self) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "this is what is looked for")]
        let single = |value: f64| value.is_nan() || f64::from(value as f32) == value;
        let thresholds = self.nodes.iter().all(|node| match node {
            Node::Split { threshold, .. } => single(*threshold),
            Node::Leaf(_) => true,
        });
        thresholds && self.weights.iter().all(|weight| single(*weight))
    }

    /// Reads the attributes of `TreeEnsembleClassifier` (`prefix` "class") and `TreeEnsembleRegressor` ("target") of
    /// ai.onnx.ml 1 and 3.
    pub fn by_ids(attributes: Attributes<'_>, prefix: &str, targets: usize) -> TractResult<Self> {
        let modes = attributes.strings("nodes_modes");
        let count = modes.len();
        ensure!(count > 0 && u32::try_from(count).is_ok(), "nodes_modes has {count} values");
        let given =
            |name: &str| attributes.ints_for(name, count)?.with_context(|| format!("it has no {name}"));
        let (trees, ids) = (given("nodes_treeids")?, given("nodes_nodeids")?);
        let (features, if_true, if_false) =
            (given("nodes_featureids")?, given("nodes_truenodeids")?, given("nodes_falsenodeids")?);
        let thresholds = numbers(attributes, "nodes_values", count)?;
        let missing = attributes.ints_for("nodes_missing_value_tracks_true", count)?;

        let mut places = HashMap::with_capacity(count);
        for (place, key) in (0u32..).zip(trees.iter().copied().zip(ids.iter().copied())) {
            ensure!(places.insert(key, place).is_none(), "tree {} has two nodes {}", key.0, key.1);
        }
        let mut ensemble = Self { targets, ..Self::default() };
        let mut is_child = vec![false; count];
        let mut leaves = 0u32;
        for (index, (mode, tree)) in modes.iter().zip(trees).enumerate() {
            let id = ids[index];
            let node = if mode == b"LEAF" {
                leaves += 1;
                Node::Leaf(leaves - 1)
            } else {
                let mode = mode_of(mode)?;
                let child = |child: i64| -> TractResult<_> {
                    places.get(&(*tree, child)).copied().with_context(|| {
                        format!("tree {tree} has no node {child}, to which its node {id} leads")
                    })
                };
                let (if_true, if_false) = (child(if_true[index])?, child(if_false[index])?);
                is_child[if_true as usize] = true;
                is_child[if_false as usize] = true;
                Node::Split {
                    feature: feature_of(features[index])?,
                    mode,
                    threshold: thresholds[index],
                    missing_is_true: missing.is_some_and(|missing| missing[index] != 0),
                    if_true,
                    if_false,
                }
            };
            ensemble.nodes.push(node);
        }
        ensemble.find_roots(trees, &is_child)?;
        ensemble.read_weights(attributes, prefix, &places, leaves as usize)?;
        Ok(ensemble)
    }

    /// Reads the attributes of `TreeEnsemble` of ai.onnx.ml 5, where nodes and leaves are named by their places.
    pub fn by_places(attributes: Attributes<'_>, targets: usize) -> TractResult<Self> {
        let features = attributes.ints("nodes_featureids");
        let count = features.len();
        let ids = attributes.ints("leaf_targetids");
        let all = u32::try_from(count).ok().zip(u32::try_from(ids.len()).ok());
        let Some((splits, leaves)) =
            all.filter(|(splits, leaves)| *splits > 0 && splits.checked_add(*leaves).is_some())
        else {
            bail!("it has {count} nodes and {} leaves", ids.len());
        };
        let given =
            |name: &str| attributes.ints_for(name, count)?.with_context(|| format!("it has no {name}"));
        let tensor = |name: &str, count: usize| -> TractResult<_> {
            let numbers = attributes.tensor(name).map(tensor_numbers).transpose()?.unwrap_or_default();
            ensure!(numbers.len() == count, "{name} has {} values where there are {count}", numbers.len());
            Ok(numbers)
        };
        let thresholds = tensor("nodes_splits", count)?;
        let modes = tensor("nodes_modes", count)?;
        let missing = attributes.ints_for("nodes_missing_value_tracks_true", count)?;
        let (true_leaves, false_leaves) = (given("nodes_trueleafs")?, given("nodes_falseleafs")?);
        let (if_true, if_false) = (given("nodes_truenodeids")?, given("nodes_falsenodeids")?);
        // Leaves come behind the other nodes, each as often as nodes lead to it: the same one may end several branches.
        let mut ensemble = Self { targets, ..Self::default() };
        let mut ends = Vec::new();
        let mut child = |place: i64, leaf: i64| -> TractResult<u32> {
            let range = if leaf == 0 { splits } else { leaves };
            let place = u32::try_from(place).ok().filter(|place| *place < range);
            let place = place.context("a node leads to one that is not there")?;
            if leaf == 0 {
                return Ok(place);
            }
            ends.push(Node::Leaf(place));
            Ok(splits + u32::try_from(ends.len() - 1)?)
        };
        for index in 0..count {
            ensemble.nodes.push(Node::Split {
                feature: feature_of(features[index])?,
                mode: numbered_mode(modes[index])?,
                threshold: thresholds[index],
                missing_is_true: missing.is_some_and(|missing| missing[index] != 0),
                if_true: child(if_true[index], true_leaves[index])?,
                if_false: child(if_false[index], false_leaves[index])?,
            });
        }
        ensemble.nodes.extend(ends);
        for root in attributes.ints("tree_roots") {
            let root = u32::try_from(*root).ok().filter(|root| *root < splits);
            ensemble.roots.push(root.context("a tree begins at a node that is not there")?);
        }
        ensemble.weights = tensor("leaf_weights", ids.len())?;
        for id in ids {
            let id = u32::try_from(*id).ok().filter(|id| (*id as usize) < targets);
            ensemble.ids.push(id.with_context(|| format!("a leaf is for a target beyond the {targets}"))?);
        }
        ensemble.starts = (0..=leaves).collect();
        Ok(ensemble)
    }

    /// The first node of each tree to which no other leads.
    fn find_roots(&mut self, trees: &[i64], is_child: &[bool]) -> TractResult<()> {
        let mut roots: HashMap<i64, Option<usize>> = HashMap::new();
        let mut order = Vec::new();
        for (place, (tree, is_child)) in trees.iter().zip(is_child).enumerate() {
            let root = roots.entry(*tree).or_insert_with(|| {
                order.push(*tree);
                None
            });
            if !is_child {
                root.get_or_insert(place);
            }
        }
        for tree in order {
            let root = roots.get(&tree).copied().flatten();
            let root = root.with_context(|| format!("every node of tree {tree} is another one's child"))?;
            self.roots.push(u32::try_from(root)?);
        }
        Ok(())
    }

    /// The weights of the leaves, in the order of the leaves. Weights of other nodes mean nothing.
    fn read_weights(
        &mut self,
        attributes: Attributes<'_>,
        prefix: &str,
        places: &HashMap<(i64, i64), u32>,
        leaves: usize,
    ) -> TractResult<()> {
        let targets = attributes.ints(&format!("{prefix}_ids"));
        let count = targets.len();
        let given = |name: &str| -> TractResult<_> {
            let name = format!("{prefix}_{name}");
            attributes.ints_for(&name, count).map(Option::unwrap_or_default)
        };
        let (trees, nodes) = (given("treeids")?, given("nodeids")?);
        let weights = numbers(attributes, &format!("{prefix}_weights"), count)?;
        let mut found = Vec::with_capacity(count);
        for (tree, node, target, weight) in izip!(trees, nodes, targets, weights) {
            let place = places.get(&(*tree, *node));
            let place = place
                .with_context(|| format!("a weight is for node {node} of tree {tree}, which has none"))?;
            let Node::Leaf(leaf) = self.nodes[*place as usize] else { continue };
            let known = u32::try_from(*target).ok().filter(|target| (*target as usize) < self.targets);
            let target =
                known.with_context(|| format!("a weight is for {prefix} {target} of {}", self.targets))?;
            found.push((leaf, target, weight));
        }
        found.sort_by_key(|(leaf, target, _)| (*leaf, *target));
        let mut found = found.into_iter().peekable();
        for leaf in 0..=leaves {
            self.starts.push(u32::try_from(self.ids.len())?);
            while let Some((_, target, weight)) = found.next_if(|(of, ..)| *of as usize == leaf) {
                self.ids.push(target);
                self.weights.push(weight);
            }
        }
        Ok(())
    }
}

fn mode_of(mode: &[u8]) -> TractResult<Mode> {
    Ok(match mode {
        b"BRANCH_LEQ" => Mode::AtMost,
        b"BRANCH_LT" => Mode::Below,
        b"BRANCH_GTE" => Mode::AtLeast,
        b"BRANCH_GT" => Mode::Above,
        b"BRANCH_EQ" => Mode::Equal,
        b"BRANCH_NEQ" => Mode::Unequal,
        other => bail!("it has a node of mode {:.32}", String::from_utf8_lossy(other)),
    })
}

fn numbered_mode(mode: f64) -> TractResult<Mode> {
    let known = [Mode::AtMost, Mode::Below, Mode::AtLeast, Mode::Above, Mode::Equal, Mode::Unequal];
    let known = known.into_iter().zip(0u8..).find(|(_, number)| f64::from(*number) == mode);
    let (mode, _) = known.with_context(|| match mode {
        6.0 => "nodes of mode BRANCH_MEMBER are not supported".to_owned(),
        _ => format!("it has a node of mode {mode}"),
    })?;
    Ok(mode)
}

fn feature_of(id: i64) -> TractResult<u32> {
    u32::try_from(id).with_context(|| format!("there is no feature {id}"))
}

/// A list of FP32, or the tensor of the same name with `_as_tensor` behind it that ai.onnx.ml 3 has for FP64.
pub fn numbers(attributes: Attributes<'_>, name: &str, count: usize) -> TractResult<Vec<f64>> {
    let floats = attributes.floats(name);
    let numbers: Vec<f64> = match attributes.tensor(&format!("{name}_as_tensor")) {
        Some(tensor) => tensor_numbers(tensor)?,
        None => floats.iter().copied().map(f64::from).collect(),
    };
    ensure!(numbers.len() == count, "{name} has {} values where there are {count}", numbers.len());
    Ok(numbers)
}

/// A tensor of numbers as FP64.
pub fn tensor_numbers(tensor: &TensorProto) -> TractResult<Vec<f64>> {
    let tensor = tract_onnx::tensor::load_tensor(&*data_resolver::default(), tensor, None)?;
    let tensor = tensor.cast_to::<f64>()?;
    Ok(tensor.try_as_plain_ram()?.as_slice::<f64>()?.to_vec())
}
