//! Operators on bytes that are kept as `f32`: see [`crate::quantised`].

use tract_onnx::tract_core::internal::*;

use super::{Pass, Value, linear::scaled};
use crate::{
    conv::{
        arithmetic::{Arithmetic, Binary},
        channels::Pointwise,
        dense::After,
        fold::{Fold, Of},
        op::{Convolution, Windows},
        quantised::{Mean, Normalise, Softmax},
        table::Table,
    },
    gemm::map::{Gate, Map},
    kernel::{Kernel, Own},
    quantised::{
        formulas::exponentials,
        op::{Kind, Quantised, Range},
    },
};

/// How many bytes add up to no more than `f32` has whole numbers for.
const MOST_POINTS: usize = 1 << 16;

/// Whether it is the shape of images or signals, whose channels may come last.
fn is_image(shape: &[usize]) -> bool {
    (3..=4).contains(&shape.len())
}

/// Whether the first of two tensors of one rank is the one that is spread over the other's innermost axis: ONNX Runtime has it second
/// then.
fn is_spread(a: &[usize], b: &[usize]) -> bool {
    let inner = a.iter().zip(b).rev().find(|(a, b)| (**a, **b) != (1, 1));
    inner.is_some_and(|(a, b)| *a == 1 && *b != 1)
}

impl Pass<'_> {
    pub(super) fn quantised(&mut self, node: &TypedNode, op: &Quantised) -> TractResult<bool> {
        let input = node.inputs[0];
        for input in &node.inputs {
            if self.shape(*input)?.is_none() {
                // The operator does this again when it runs.
                return Ok(false);
            }
        }
        let shape = self.shape(input)?.context("a shape that is not concrete")?;
        let whole = |scale: f32, [low, high]: Range| Map::new(Gate::Whole { scale, low, high }, false);
        match &*op.kind {
            Kind::Quantise { divisor, range: [low, high] } => {
                let gate = Gate::Quotient { divisor: *divisor, low: *low, high: *high };
                self.mapped(node, Map::new(gate, false))
            }
            Kind::Requantise { factors, range } if factors.len() == 1 => {
                self.mapped(node, whole(factors[0], *range))
            }
            Kind::Requantise { factors, range } => {
                let offset = vec![0.0; factors.len()];
                self.by_channels(node, &shape, Normalise::new(1.0, [factors, &offset], 1.0, *range)?)
            }
            Kind::Dequantise { factor } => self.dequantised(node, *factor),
            Kind::Table { first, values } => self.anywhere(node, Table::new(*first, values)?),
            Kind::Normalise { factor, scale, offset, divisor, range } => {
                let each = Normalise::new(*factor, [scale, offset], *divisor, *range)?;
                self.by_channels(node, &shape, each)
            }
            Kind::Sum(sum) => {
                let [a, b] = &node.inputs[..] else { bail!("a sum of {}", node.inputs.len()) };
                let other = self.shape(*b)?.context("a shape that is not concrete")?;
                if is_spread(&shape, &other) {
                    self.of_two(node, &[*b, *a], Arithmetic::QuantisedSum(sum.swapped()))
                } else {
                    self.of_two(node, &[*a, *b], Arithmetic::QuantisedSum(*sum))
                }
            }
            Kind::Product(product) => self.of_two(node, &node.inputs, Arithmetic::QuantisedProduct(*product)),
            Kind::OfNumbers { sum, factors, divisor, range } => {
                let (factors, divisor) = (*factors, *divisor);
                {
                    let arithmetic = Arithmetic::OfNumbers { sum: *sum, factors, divisor, range: *range };
                    self.of_two(node, &node.inputs, arithmetic)
                }
            }
            Kind::MeanOfNumbers { factor, divisor, range } if is_image(&shape) => {
                let from = self.last(input)?;
                let mean = Mean { factor: *factor, divisor: *divisor, range: *range };
                let to = self.wire(&node.name, mean, &[from])?;
                Ok(self.set(node, to, true))
            }
            // Of other shapes a mean of numbers may be off by one where it lies half way between two bytes.
            Kind::Mean { factor, divisor, range } | Kind::MeanOfNumbers { factor, divisor, range } => {
                ensure!(shape.len() >= 3 && !shape.contains(&0), "a mean of shape {shape:?}");
                let points: usize = shape[2..].iter().product();
                // Channels last, one sum takes all points, and would not be exact any more.
                let is_last = self.is_last(input) && is_image(&shape) && points <= MOST_POINTS;
                let fold = Fold { of: Of::Sum, first: if is_last { 1 } else { 2 }, axes: shape.len() - 2 };
                let from = if is_last { self.last(input)? } else { self.first(input)? };
                let sums = self.wire(&format!("{}.sums", node.name), fold, &[from])?;
                #[expect(clippy::cast_precision_loss, reason = "as ONNX Runtime has it")]
                let scale = factor / (divisor * points as f32);
                let to = self.wire(&node.name, Pointwise(whole(scale, *range)), &[sums])?;
                Ok(self.set(node, to, is_last))
            }
            Kind::Softmax { scale, levels, range, axis } => {
                self.shares(node, &shape, op.one_axis, *axis, *scale, (*levels, range[1]))
            }
        }
    }

    /// Whether a node gives sums of products of bytes, which are exact if nothing else is added up on the way.
    pub(super) fn is_of_bytes(&self, node: &TypedNode) -> bool {
        let requantises = |reader: &usize| {
            let op = self.source.node(*reader).op_as::<Quantised>();
            op.is_some_and(|op| matches!(&*op.kind, Kind::Requantise { .. }))
        };
        self.readers(node.id.into()).is_some_and(|readers| readers.iter().any(requantises))
    }

    fn set(&mut self, node: &TypedNode, to: OutletId, last: bool) -> bool {
        let value =
            if last { Value { first: None, last: Some(to) } } else { Value { first: Some(to), last: None } };
        self.values.insert(node.id.into(), value);
        true
    }

    /// A function of single values, within what makes them or by itself.
    fn mapped(&mut self, node: &TypedNode, map: Map) -> TractResult<bool> {
        Ok(self.map(node, node.inputs[0], &[], map)? || self.anywhere(node, Pointwise(map))?)
    }

    /// A kernel that keeps the shape, wherever the channels are.
    fn anywhere(&mut self, node: &TypedNode, kernel: impl Kernel) -> TractResult<bool> {
        let input = node.inputs[0];
        let last = self.is_last(input);
        let from = if last { self.last(input)? } else { self.first(input)? };
        let to = self.wire(&node.name, kernel, &[from])?;
        Ok(self.set(node, to, last))
    }

    /// A function of the values of each channel, axis 1.
    fn by_channels(&mut self, node: &TypedNode, shape: &[usize], each: Normalise) -> TractResult<bool> {
        let input = node.inputs[0];
        ensure!(shape.get(1) == Some(&each.channels()), "another number of channels");
        let last = shape.len() > 2;
        let from = if last { self.last(input)? } else { self.first(input)? };
        let to = self.wire(&node.name, each, &[from])?;
        Ok(self.set(node, to, last))
    }

    fn of_two(&mut self, node: &TypedNode, inputs: &[OutletId], arithmetic: Arithmetic) -> TractResult<bool> {
        let rank = self.shape(node.id.into())?.context("a shape that is not concrete")?.len();
        let last = (3..=4).contains(&rank) && inputs.iter().any(|input| self.is_last(*input));
        let inputs = inputs.iter().map(|input| if last { self.last(*input) } else { self.first(*input) });
        let inputs = inputs.collect::<TractResult<TVec<_>>>()?;
        let to = self.wire(&node.name, Binary(arithmetic), &inputs)?;
        Ok(self.set(node, to, last))
    }

    /// A factor, within the function of single values that gives them or by itself.
    fn dequantised(&mut self, node: &TypedNode, factor: f32) -> TractResult<bool> {
        let input = node.inputs[0];
        let exact = |map: &Map| (map.factor, map.term, map.times_x) == (1.0, 0.0, false);
        if let Some((place, own)) = self.ours(input, &[node.id]) {
            if let Some(conv) = own.as_kernel::<Convolution>()
                && let Some(map) = conv.after.map.filter(exact)
            {
                let after = After { map: Some(scaled(&map, factor, 0.0)), ..conv.after };
                return Ok(self.replace(node, input, place, Own::new(Convolution { after, ..conv.clone() })));
            }
            if let Some(windows) = own.as_kernel::<Windows>()
                && let Some(map) = windows.map.filter(exact)
            {
                let map = Some(scaled(&map, factor, 0.0));
                return Ok(self.replace(node, input, place, Own::new(Windows { map, ..windows.clone() })));
            }
        }
        let infinite = f32::INFINITY;
        let clamp = Gate::Clamp { scale: 1.0, offset: 0.0, low: -infinite, high: infinite };
        self.anywhere(node, Pointwise(Map { factor, ..Map::new(clamp, false) }))
    }

    fn shares(
        &mut self,
        node: &TypedNode,
        shape: &[usize],
        one_axis: bool,
        axis: Option<i64>,
        scale: f32,
        (levels, most): (f32, f32),
    ) -> TractResult<bool> {
        let rank = shape.len();
        let axis = axis.unwrap_or(if one_axis { -1 } else { 1 });
        let axis = if axis < 0 { axis + i64::try_from(rank)? } else { axis };
        let axis =
            usize::try_from(axis).ok().filter(|axis| *axis < rank).context("an axis that there is not")?;
        let (own, after) = shape[axis..].split_at(if one_axis { 1 } else { rank - axis });
        let [size, step] = [own, after].map(|sizes| sizes.iter().product::<usize>());
        ensure!(size > 0 && step > 0, "softmax of nothing");
        let from = self.first(node.inputs[0])?;
        let softmax = Softmax { size, step, exponentials: exponentials(scale, size), levels, most };
        let to = self.wire(&node.name, softmax, &[from])?;
        Ok(self.set(node, to, false))
    }
}
