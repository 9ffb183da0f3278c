//! Walks through a forest, several at a time: one step depends on the one before, and the processor waits for the memory of
//! several steps at once.

use super::{
    forest::{BELOW, Comparison, EQUAL, FEATURE, Forest, Leaves, MISSING, Node, Number},
    parse::Aggregate,
};

/// Walks at a time.
const LANES: usize = 8;

/// Rows for which one tree is walked before the next one: the tree is then in the processor's cache.
const BLOCK: usize = 64;

/// The sums, or what the aggregate says, of each row's leaves.
#[derive(Debug)]
pub struct Scores<T> {
    /// Rows × targets.
    pub values: Vec<T>,
    /// Whether any leaf said something of it. Without one a value is 0.
    pub given: Vec<bool>,
}

impl<T: Number> Forest<T> {
    /// Scores rows of the shape rows × width, where a row has [`features`](Self::features) values or more.
    pub fn score(&self, rows: &[T], shape: [usize; 2], aggregate: Aggregate) -> Scores<T> {
        match self.comparison {
            Comparison::AtMost => self.walk_all(rows, shape, aggregate, |x, node| x <= node.threshold),
            Comparison::AtMostOrMissing => self
                .walk_all(rows, shape, aggregate, |x, node| x <= node.threshold || missing(x, node, MISSING)),
            Comparison::BelowOrMissing => self
                .walk_all(rows, shape, aggregate, |x, node| x < node.threshold || missing(x, node, MISSING)),
            Comparison::Any => self.walk_all(rows, shape, aggregate, |x, node| {
                let is = |flag| node.feature & flag != 0;
                (x < node.threshold && is(BELOW))
                    || (x == node.threshold && is(EQUAL))
                    || missing(x, node, MISSING)
            }),
        }
    }

    /// `first` says whether a value goes to a node's first child.
    fn walk_all(
        &self,
        rows: &[T],
        [count, width]: [usize; 2],
        aggregate: Aggregate,
        first: impl Fn(T, &Node<T>) -> bool + Copy,
    ) -> Scores<T> {
        let (targets, stride) = (self.leaves.targets, self.features + 1);
        let mut scores =
            Scores { values: vec![T::default(); count * targets], given: vec![false; count * targets] };
        // Each row has one value more, for the leaves.
        let mut block = vec![T::LEAST; stride * count.min(BLOCK)];
        for start in (0..count).step_by(BLOCK) {
            let size = BLOCK.min(count - start);
            for (row, to) in (start..start + size).zip(block.chunks_exact_mut(stride)) {
                to[..self.features].copy_from_slice(&rows[row * width..][..self.features]);
            }
            let mut sum = |leaves: &[u32], row: usize, step: usize| {
                let mut at = (start + row) * targets;
                for leaf in leaves {
                    let (values, given) =
                        (&mut scores.values[at..at + targets], &mut scores.given[at..at + targets]);
                    self.leaves.add(*leaf, aggregate, values, given);
                    at += step * targets;
                }
            };
            let whole = size - size % LANES;
            for root in &self.roots {
                for row in (0..whole).step_by(LANES) {
                    let mut offsets = [row * stride; LANES];
                    for (lane, offset) in offsets.iter_mut().enumerate() {
                        *offset += lane * stride;
                    }
                    let leaves = walk(&self.nodes, [*root; LANES], &block, offsets, first);
                    sum(&leaves, row, 1);
                }
            }
            for row in whole..size {
                let (several, rest) = self.roots.as_chunks::<LANES>();
                for roots in several {
                    let leaves = walk(&self.nodes, *roots, &block, [row * stride; LANES], first);
                    sum(&leaves, row, 0);
                }
                for root in rest {
                    let leaf = walk(&self.nodes, [*root], &block, [row * stride], first);
                    sum(&leaf, row, 0);
                }
            }
        }
        scores
    }
}

/// Whether the value is not a number, and the node says that such go to the first child.
fn missing<T: Number>(x: T, node: &Node<T>, flag: u32) -> bool {
    x.partial_cmp(&x).is_none() && node.feature & flag != 0
}

/// Walks from each root down to a leaf, with the row that begins at the offset of the same lane. Returns the leaves.
#[inline]
fn walk<T: Number, const N: usize>(
    nodes: &[Node<T>],
    mut at: [u32; N],
    rows: &[T],
    offsets: [usize; N],
    first: impl Fn(T, &Node<T>) -> bool,
) -> [u32; N] {
    loop {
        let mut moved = 0;
        for lane in 0..N {
            let node = &nodes[at[lane] as usize];
            let x = rows[offsets[lane] + (node.feature & FEATURE) as usize];
            let next = node.child + u32::from(!first(x, node));
            moved |= next ^ at[lane];
            at[lane] = next;
        }
        if moved == 0 {
            for at in &mut at {
                *at = nodes[*at as usize].threshold.to_leaf();
            }
            return at;
        }
    }
}

impl<T: Number> Leaves<T> {
    #[inline(always)]
    fn add(&self, leaf: u32, aggregate: Aggregate, values: &mut [T], given: &mut [bool]) {
        self.each(leaf, |target, weight| {
            let (value, given) = (&mut values[target], &mut given[target]);
            *value = match aggregate {
                Aggregate::Sum | Aggregate::Average => value.plus(weight),
                Aggregate::Min if *given && *value <= weight => *value,
                Aggregate::Max if *given && *value >= weight => *value,
                Aggregate::Min | Aggregate::Max => weight,
            };
            *given = true;
        });
    }
}
