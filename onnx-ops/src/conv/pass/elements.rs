//! Operators on single values, by themselves or as a part of what makes the values.

use tract_onnx::tract_core::{internal::*, ops::binary::TypedBinOp};

use super::{
    Pass, Value,
    linear::{arithmetic, linear},
};
use crate::{
    conv::{
        arithmetic::{Arithmetic, Binary},
        channels::Pointwise,
        dense::After,
        depthwise::{ByChannel, Window},
        geometry::Geometry,
        op::{Convolution, Windows},
        product::Lookup,
        spread::Spread,
    },
    gemm::{
        Isa,
        map::{Gate, Map},
    },
    kernel::Own,
};

/// Results that are worth a kernel of our own.
const MANY: usize = 4096;

impl Pass<'_> {
    pub(super) fn element_wise(&mut self, node: &TypedNode) -> TractResult<bool> {
        let input = node.inputs[0];
        let Some(shape) = self.shape(input)? else { return Ok(false) };
        let gate = match node.op.name().as_ref() {
            "Sigmoid" => Some(Gate::Sigmoid),
            _ => None,
        };
        if let Some(gate) = gate {
            return self.map(node, input, &[], Map::new(gate, false));
        }
        if !self.is_last(input) || !(3..=4).contains(&shape.len()) || self.shape(node.id.into())?.is_none() {
            return Ok(false);
        }
        let from = self.last(input)?;
        let last = self.target.wire_node(&*node.name, node.op.clone(), &[from])?[0];
        Ok(self.set_last(node, last))
    }

    pub(super) fn binary(&mut self, node: &TypedNode, binary: &TypedBinOp) -> TractResult<bool> {
        let &[a, b] = &node.inputs[..] else { return Ok(false) };
        let (Some(a_shape), Some(b_shape)) = (self.shape(a)?, self.shape(b)?) else { return Ok(false) };
        let Some(arithmetic) = arithmetic(binary) else { return Ok(false) };
        if a_shape.contains(&0) || b_shape.contains(&0) || a_shape.len() != b_shape.len() {
            return Ok(false);
        }
        for (x, other, swapped) in [(a, b, false), (b, a, true)] {
            if arithmetic == Arithmetic::Mul
                && let Some((gate, chain)) = self.gate(x, other)
                && self.map(node, x, &chain, Map::new(gate, true))?
            {
                return Ok(true);
            }
            if self.shape(node.id.into())? == self.shape(x)?
                && self.absorb(node, x, other, arithmetic, swapped)?
            {
                return Ok(true);
            }
        }
        let Some(result) = Binary::shape_of(&a_shape, &b_shape) else { return Ok(false) };
        if !(3..=4).contains(&a_shape.len()) || !(self.is_last(a) || self.is_last(b)) {
            // Few are left to the engine, which knows more that it can make of them.
            if result.iter().product::<usize>() < MANY {
                return Ok(false);
            }
            let inputs = [self.first(a)?, self.first(b)?];
            let first = self.wire(&node.name, Binary(arithmetic), &inputs)?;
            self.values.insert(node.id.into(), Value { first: Some(first), last: None });
            return Ok(true);
        }
        for (x, other, swapped) in [(a, b, false), (b, a, true)] {
            if self.is_last(x)
                && self.shape(x)?.as_ref() == Some(&result)
                && self.per_channel(node, x, other, arithmetic, swapped)?
            {
                return Ok(true);
            }
        }
        let inputs = [self.last(a)?, self.last(b)?];
        let last = self.wire(&node.name, Binary(arithmetic), &inputs)?;
        Ok(self.set_last(node, last))
    }

    /// Arithmetic with a constant for each channel: as a window of one point, of which more can become a part.
    fn per_channel(
        &mut self,
        node: &TypedNode,
        x: OutletId,
        other: OutletId,
        arithmetic: Arithmetic,
        swapped: bool,
    ) -> TractResult<bool> {
        let (Some(constant), Some(shape)) = (self.by_channel(other, false)?, self.shape(x)?) else {
            return Ok(false);
        };
        let Some((scale, offset)) = linear(arithmetic, swapped, constant) else { return Ok(false) };
        let channels = shape[1];
        let size = 1..1 << 15;
        let points = [shape.get(3).map_or(1, |_| shape[2]), shape[shape.len() - 1]];
        if channels == 0 || !points.iter().all(|points| size.contains(points)) {
            return Ok(false);
        }
        let of = |values: &[f32], channel: usize| values[if values.len() == 1 { 0 } else { channel }];
        let by_channel = ByChannel {
            geometry: Geometry::pointwise(points),
            channels,
            window: Window::Weighted {
                factors: ByChannel::pad(1, channels, |_, channel| of(&scale, channel))?,
                bias: ByChannel::pad(1, channels, |_, channel| of(&offset, channel))?,
                low: f32::NEG_INFINITY,
                high: f32::INFINITY,
            },
        };
        let from = self.last(x)?;
        let last = self.wire(&node.name, Windows { by_channel, map: None }, &[from])?;
        Ok(self.set_last(node, last))
    }

    /// Applies a map to `x`, within what makes it if that is ours and only this node and the `chain` of nodes that it stands
    /// for read it.
    pub(super) fn map(
        &mut self,
        node: &TypedNode,
        x: OutletId,
        chain: &[usize],
        map: Map,
    ) -> TractResult<bool> {
        let inner = |id: &usize| {
            let readers = self.readers((*id).into());
            readers.is_some_and(|readers| {
                readers.iter().all(|reader| *reader == node.id || chain.contains(reader))
            })
        };
        let readers: Vec<usize> = chain.iter().copied().chain([node.id]).collect();
        if chain.iter().all(inner)
            && let Some((place, own)) = self.ours(x, &readers)
        {
            if let Some(conv) = own.as_kernel::<Convolution>()
                && conv.after.map.is_none()
            {
                let after = After { map: Some(map), ..conv.after };
                return Ok(self.replace(node, x, place, Own::new(Convolution { after, ..conv.clone() })));
            }
            if let Some(lookup) = own.as_kernel::<Lookup>() {
                let lookup = lookup.with(|row| map.apply(Isa::best(), row));
                return Ok(self.replace(node, x, place, Own::new(lookup)));
            }
            if let Some(spread) = own.as_kernel::<Spread>()
                && spread.after.map.is_none()
            {
                let after = After { map: Some(map), ..spread.after };
                return Ok(self.replace(node, x, place, Own::new(Spread { after, ..spread.clone() })));
            }
            if let Some(windows) = own.as_kernel::<Windows>()
                && windows.map.is_none()
            {
                return Ok(self.replace(
                    node,
                    x,
                    place,
                    Own::new(Windows { map: Some(map), ..windows.clone() }),
                ));
            }
        }
        if self.is_last(x) {
            let from = self.last(x)?;
            let last = self.wire(&node.name, Pointwise(map), &[from])?;
            return Ok(self.set_last(node, last));
        }
        if chain.is_empty() {
            return Ok(false);
        }
        let from = self.first(x)?;
        let first = self.wire(&node.name, Pointwise(map), &[from])?;
        self.values.insert(node.id.into(), Value { first: Some(first), last: None });
        Ok(true)
    }
}
