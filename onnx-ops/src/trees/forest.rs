//! Decision trees laid out for walking: one array of nodes for all trees, both children of a node side by side.

use std::fmt::Debug;

use tract_onnx::{
    prelude::TractResult,
    tract_core::internal::{bail, ensure},
};

use super::parse::{Ensemble, Mode, Node as Parsed};

/// What thresholds and weights are computed in.
pub trait Number: Copy + PartialOrd + Debug + Default + Send + Sync + 'static {
    const LEAST: Self;

    fn from_f64(value: f64) -> Self;

    fn to_f64(self) -> f64;

    fn to_f32(self) -> f32;

    /// A number that is no NaN and not below zero, and that [`to_leaf`](Self::to_leaf) makes the leaf of again.
    fn from_leaf(leaf: u32) -> Self;

    fn to_leaf(self) -> u32;

    fn plus(self, other: Self) -> Self;
}

macro_rules! number {
    ($float:ident, $bits:ident) => {
        impl Number for $float {
            const LEAST: Self = $float::NEG_INFINITY;

            #[expect(clippy::allow_attributes, reason = "only one of the types is narrower")]
            #[allow(clippy::cast_possible_truncation, reason = "narrower only where nothing is lost")]
            fn from_f64(value: f64) -> Self {
                value as $float
            }

            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            #[expect(clippy::allow_attributes, reason = "only one of the types is wider")]
            #[allow(clippy::cast_possible_truncation, reason = "FP32 is what goes out")]
            fn to_f32(self) -> f32 {
                self as f32
            }

            fn from_leaf(leaf: u32) -> Self {
                $float::from_bits($bits::from(leaf))
            }

            #[expect(clippy::allow_attributes, reason = "only one of the types is wider")]
            #[allow(clippy::cast_possible_truncation, reason = "it was made of 32 bits")]
            fn to_leaf(self) -> u32 {
                self.to_bits() as u32
            }

            fn plus(self, other: Self) -> Self {
                self + other
            }
        }
    };
}

number!(f32, u32);
number!(f64, u64);

/// Where a value below the threshold goes, one equal to it, and one that is not a number: to the first child if the flag is
/// set, else to the second.
pub const BELOW: u32 = 1 << 31;
pub const EQUAL: u32 = 1 << 30;
pub const MISSING: u32 = 1 << 29;

/// The bits of [`Node::feature`] that are the feature.
pub const FEATURE: u32 = MISSING - 1;

/// Leaves and nodes are counted in 31 bits: the number of a leaf, read as FP32, is then not above the largest finite number.
const MAX_NODES: usize = 0x7f7f_ffff;

/// A node. Of a leaf both the child and the node are the same, and the feature is the one beyond the last, whose value is
/// below every threshold: whoever has arrived at a leaf and walks on stays there.
#[derive(Clone, Copy, Debug)]
pub struct Node<T> {
    /// Of a leaf: its number, see [`Number::from_leaf`].
    pub threshold: T,
    /// With flags.
    pub feature: u32,
    /// The first child; the second one is the next node.
    pub child: u32,
}

/// How all nodes compare, where that is the same for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// To the first child if the value is at most the threshold.
    AtMost,
    /// As before, but a value that is not a number follows the node's flag.
    AtMostOrMissing,
    BelowOrMissing,
    /// As each node's flags say.
    Any,
}

/// What the leaves say of the targets.
#[derive(Debug)]
pub struct Leaves<T> {
    pub targets: usize,
    /// One for each leaf and one more: where its weights begin. `None` where each leaf has a weight for each target, in
    /// their order.
    pub starts: Option<Vec<u32>>,
    /// The target of each weight, where leaves have not all of them.
    pub ids: Vec<u32>,
    pub weights: Vec<T>,
}

/// Trees that were checked: every child is in range, and each walk ends at a leaf.
#[derive(Debug)]
pub struct Forest<T> {
    pub nodes: Vec<Node<T>>,
    pub roots: Vec<u32>,
    pub leaves: Leaves<T>,
    pub comparison: Comparison,
    /// Least number of features that a row must have.
    pub features: usize,
}

impl<T: Number> Forest<T> {
    /// Lays out an ensemble.
    ///
    /// # Errors
    /// A node to which two others lead, as in a cycle, or that no root leads to; more nodes than can be counted.
    pub fn new(ensemble: &Ensemble) -> TractResult<Self> {
        ensure!(ensemble.nodes.len() <= MAX_NODES / 2, "it has more nodes than can be counted");
        let mut layout = Layout {
            ensemble,
            nodes: Vec::with_capacity(ensemble.nodes.len()),
            reached: vec![false; ensemble.nodes.len()],
            features: 0,
        };
        let roots = ensemble.roots.iter().map(|root| layout.tree(*root)).collect::<TractResult<Vec<_>>>()?;
        let Layout { mut nodes, features, reached, .. } = layout;
        if let Some(lost) = reached.iter().position(|reached| !reached) {
            bail!("no root leads to its node {lost}");
        }
        let constant = u32::try_from(features)?;
        for node in nodes.iter_mut().filter(|node| node.feature & FEATURE == FEATURE) {
            node.feature = node.feature & !FEATURE | constant;
        }
        let comparison = comparison(nodes.iter().filter(|node| node.feature & FEATURE != constant));
        let leaves = Leaves::new(ensemble);
        Ok(Self { nodes, roots, leaves, comparison, features })
    }
}

/// The layout as far as it has come.
struct Layout<'e, T> {
    ensemble: &'e Ensemble,
    nodes: Vec<Node<T>>,
    /// Of the ensemble's nodes.
    reached: Vec<bool>,
    features: usize,
}

impl<T: Number> Layout<'_, T> {
    /// Lays out the tree below a node, each first child and what is below it right behind its parent. Returns where it is.
    fn tree(&mut self, root: u32) -> TractResult<u32> {
        let place = |nodes: &Vec<Node<T>>| u32::try_from(nodes.len());
        let blank = Node { threshold: T::default(), feature: 0, child: 0 };
        let start = place(&self.nodes)?;
        self.nodes.push(blank);
        let mut open = vec![(root, start)];
        while let Some((parsed, at)) = open.pop() {
            let reached = &mut self.reached[parsed as usize];
            ensure!(!*reached, "two nodes lead to its node {parsed}, or a cycle of them does");
            *reached = true;
            self.nodes[at as usize] = match self.ensemble.nodes[parsed as usize] {
                Parsed::Leaf(leaf) => {
                    Node { threshold: T::from_leaf(leaf), feature: FEATURE | BELOW | EQUAL, child: at }
                }
                Parsed::Split { feature, mode, threshold, missing_is_true, if_true, if_false } => {
                    ensure!(feature < FEATURE, "its feature {feature} is beyond those that can be counted");
                    self.features = self.features.max(feature as usize + 1);
                    let (flags, turned) = comparison_of(mode);
                    // Nothing is equal to what is not a number, nor below or above it.
                    let missing_to_true = missing_is_true || mode == Mode::Unequal;
                    let missing = if missing_to_true == turned { 0 } else { MISSING };
                    let child = place(&self.nodes)?;
                    self.nodes.extend([blank; 2]);
                    let (first, second) = if turned { (if_false, if_true) } else { (if_true, if_false) };
                    open.extend([(second, child + 1), (first, child)]);
                    Node { threshold: T::from_f64(threshold), feature: feature | flags | missing, child }
                }
            };
        }
        Ok(start)
    }
}

/// Which values go to the first child, and whether that is the one for where the comparison does not hold.
fn comparison_of(mode: Mode) -> (u32, bool) {
    match mode {
        Mode::AtMost => (BELOW | EQUAL, false),
        Mode::Below => (BELOW, false),
        Mode::AtLeast => (BELOW, true),
        Mode::Above => (BELOW | EQUAL, true),
        Mode::Equal => (EQUAL, false),
        Mode::Unequal => (EQUAL, true),
    }
}

fn comparison<'n, T: 'n>(splits: impl Iterator<Item = &'n Node<T>> + Clone) -> Comparison {
    let all = |flags: u32, of: u32| splits.clone().all(|node| node.feature & of == flags);
    if all(BELOW | EQUAL, BELOW | EQUAL | MISSING) {
        Comparison::AtMost
    } else if all(BELOW | EQUAL, BELOW | EQUAL) {
        Comparison::AtMostOrMissing
    } else if all(BELOW, BELOW | EQUAL) {
        Comparison::BelowOrMissing
    } else {
        Comparison::Any
    }
}

impl<T: Number> Leaves<T> {
    fn new(ensemble: &Ensemble) -> Self {
        let targets = ensemble.targets;
        let complete = ensemble.starts.windows(2).all(|ends| {
            let ids = &ensemble.ids[ends[0] as usize..ends[1] as usize];
            ids.len() == targets && ids.iter().enumerate().all(|(index, id)| *id as usize == index)
        });
        Self {
            targets,
            starts: (!complete).then(|| ensemble.starts.clone()),
            ids: if complete { Vec::new() } else { ensemble.ids.clone() },
            weights: ensemble.weights.iter().map(|weight| T::from_f64(*weight)).collect(),
        }
    }

    /// Calls with the target and the weight of each that a leaf has.
    #[inline(always)]
    pub fn each(&self, leaf: u32, mut visit: impl FnMut(usize, T)) {
        let leaf = leaf as usize;
        match &self.starts {
            None => {
                let weights = &self.weights[leaf * self.targets..][..self.targets];
                weights.iter().enumerate().for_each(|(target, weight)| visit(target, *weight));
            }
            Some(starts) => {
                let range = starts[leaf] as usize..starts[leaf + 1] as usize;
                let (ids, weights) = (&self.ids[range.clone()], &self.weights[range]);
                ids.iter().zip(weights).for_each(|(target, weight)| visit(*target as usize, *weight));
            }
        }
    }
}

impl Forest<f32> {
    /// The same trees for values of twice the precision.
    pub fn widened(&self) -> Forest<f64> {
        let constant = self.features;
        let node = |node: &Node<f32>| {
            let leaf = (node.feature & FEATURE) as usize == constant;
            let threshold = node.threshold;
            let threshold = if leaf { f64::from_leaf(threshold.to_leaf()) } else { threshold.to_f64() };
            Node { threshold, feature: node.feature, child: node.child }
        };
        Forest {
            nodes: self.nodes.iter().map(node).collect(),
            roots: self.roots.clone(),
            leaves: Leaves {
                targets: self.leaves.targets,
                starts: self.leaves.starts.clone(),
                ids: self.leaves.ids.clone(),
                weights: self.leaves.weights.iter().map(|weight| weight.to_f64()).collect(),
            },
            comparison: self.comparison,
            features: self.features,
        }
    }
}
