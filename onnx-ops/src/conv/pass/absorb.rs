//! What becomes part of a convolution or product: arithmetic with constants, clamps, and the sum with another value.

use tract_onnx::tract_core::internal::*;

use super::{
    Pass, Value,
    linear::{clamped, follow, linear, linear_of, scaled},
};
use crate::{
    conv::{
        arithmetic::Arithmetic,
        channels::Pointwise,
        dense::After,
        depthwise::{ByChannel, Window},
        op::{Convolution, Windows},
        product::{Lookup, Products},
        spread::Spread,
    },
    kernel::Own,
};

impl Pass<'_> {
    /// The node of ours that makes this value, if nothing else but `readers` reads it.
    pub(super) fn ours(&self, outlet: OutletId, readers: &[usize]) -> Option<(OutletId, Own)> {
        let value = self.values.get(&outlet)?;
        let place = match value {
            Value { last: Some(last), first: None } => *last,
            Value { last: None, first: Some(first) } => *first,
            _ => return None,
        };
        let place = self.views.get(&place).copied().unwrap_or(place);
        let own = self.target.node(place.node).op_as::<Own>()?.clone();
        // What has its place in a larger result cannot take what happens to all of that.
        let placed = own.as_kernel::<Convolution>().is_some_and(|conv| conv.after.place.is_some());
        if placed {
            return None;
        }
        self.readers(outlet)?.iter().all(|reader| readers.contains(reader)).then_some((place, own))
    }

    pub(super) fn replace(&mut self, node: &TypedNode, old: OutletId, place: OutletId, own: Own) -> bool {
        self.target.node_mut(place.node).op = Box::new(own);
        let value = self.values[&old];
        self.values.insert(node.id.into(), value);
        true
    }

    /// Makes arithmetic with a constant, or a sum with another value, part of what makes `x`.
    pub(super) fn absorb(
        &mut self,
        node: &TypedNode,
        x: OutletId,
        other: OutletId,
        arithmetic: Arithmetic,
        swapped: bool,
    ) -> TractResult<bool> {
        let Some((place, own)) = self.ours(x, &[node.id]) else { return Ok(false) };
        let scalar = self.scalar(other);
        if let Some(products) = own.as_kernel::<Products>() {
            let linear = scalar.and_then(|scalar| linear_of(arithmetic, swapped, scalar));
            let Some((factor, 0.0)) = linear else { return Ok(false) };
            let factor = products.factor * factor;
            return Ok(self.replace(node, x, place, Own::new(Products { factor })));
        }
        if let Some(pointwise) = own.as_kernel::<Pointwise>() {
            let Some((factor, term)) = scalar.and_then(|scalar| linear_of(arithmetic, swapped, scalar))
            else {
                return Ok(false);
            };
            let map = scaled(&pointwise.0, factor, term);
            return Ok(self.replace(node, x, place, Own::new(Pointwise(map))));
        }
        let rows = own.as_kernel::<Convolution>().is_some_and(|conv| conv.rows)
            || own.as_kernel::<Lookup>().is_some();
        let constant = self.by_channel(other, rows)?;
        let linear = constant.and_then(|values| linear(arithmetic, swapped, values));
        if let Some(conv) = own.as_kernel::<Convolution>() {
            if let Some(after) = follow(&conv.after, conv.residual, arithmetic, swapped, scalar) {
                return Ok(self.replace(node, x, place, Own::new(Convolution { after, ..conv.clone() })));
            }
            if conv.residual || conv.after.map.is_some() || conv.after.clamp != After::NOTHING.clamp {
                return Ok(false);
            }
            if let Some((scale, offset)) = linear {
                let dense = Arc::new(conv.dense.scaled(&scale, &offset));
                return Ok(self.replace(node, x, place, Own::new(Convolution { dense, ..conv.clone() })));
            }
            let seen_otherwise = self.views.values().any(|seen| *seen == place);
            if arithmetic != Arithmetic::Add
                || self.shape(x)? != self.shape(other)?
                || x == other
                || seen_otherwise
            {
                return Ok(false);
            }
            let residual = if conv.rows { self.first(other)? } else { self.last(other)? };
            let own = Own::new(Convolution { residual: true, ..conv.clone() });
            self.target.add_edge(residual, InletId::new(place.node, 1))?;
            return Ok(self.replace(node, x, place, own));
        }
        if let Some(lookup) = own.as_kernel::<Lookup>() {
            let Some((scale, offset)) = linear else { return Ok(false) };
            let of = |values: &[f32], column: usize| values[if values.len() == 1 { 0 } else { column }];
            let lookup = lookup.with(|row| {
                for (column, x) in row.iter_mut().enumerate() {
                    *x = *x * of(&scale, column) + of(&offset, column);
                }
            });
            return Ok(self.replace(node, x, place, Own::new(lookup)));
        }
        if let Some(spread) = own.as_kernel::<Spread>() {
            if let Some(after) = follow(&spread.after, false, arithmetic, swapped, scalar) {
                return Ok(self.replace(node, x, place, Own::new(Spread { after, ..spread.clone() })));
            }
            let open = spread.after.map.is_none() && spread.after.clamp == After::NOTHING.clamp;
            let Some((scale, offset)) = linear.filter(|_| open) else { return Ok(false) };
            return Ok(self.replace(node, x, place, Own::new(spread.scaled(&scale, &offset))));
        }
        let Some(windows) = own.as_kernel::<Windows>() else { return Ok(false) };
        let Window::Weighted { factors, bias, low, high } = &windows.by_channel.window else {
            return Ok(false);
        };
        let window = if let Some(map) = &windows.map {
            let Some((factor, term)) = scalar.and_then(|scalar| linear_of(arithmetic, swapped, scalar))
            else {
                return Ok(false);
            };
            let map = Some(scaled(map, factor, term));
            return Ok(self.replace(node, x, place, Own::new(Windows { map, ..windows.clone() })));
        } else if let Some((low, high)) = scalar.and_then(|scalar| clamped((*low, *high), arithmetic, scalar))
        {
            Window::Weighted { factors: factors.clone(), bias: bias.clone(), low, high }
        } else if (*low, *high) == (f32::NEG_INFINITY, f32::INFINITY)
            && let Some((scale, offset)) = linear
        {
            let of = |values: &[f32], channel: usize| {
                values.get(if values.len() == 1 { 0 } else { channel }).copied().unwrap_or(0.0)
            };
            let padded = bias.len();
            let factors =
                factors.iter().enumerate().map(|(at, factor)| factor * of(&scale, at % padded)).collect();
            let bias =
                bias.iter().enumerate().map(|(at, bias)| bias * of(&scale, at) + of(&offset, at)).collect();
            Window::Weighted { factors, bias, low: *low, high: *high }
        } else {
            return Ok(false);
        };
        let by_channel = ByChannel { window, ..windows.by_channel.clone() };
        Ok(self.replace(node, x, place, Own::new(Windows { by_channel, map: None })))
    }

    /// A constant that has one value for each channel (each column, for rows), or one for all.
    pub(super) fn by_channel(&self, outlet: OutletId, rows: bool) -> TractResult<Option<Vec<f32>>> {
        let (Some(values), Some(shape)) = (self.floats(outlet), self.shape(outlet)?) else { return Ok(None) };
        let axis = if rows { shape.len().saturating_sub(1) } else { 1 };
        let only = values.len() == 1 || shape.get(axis) == Some(&values.len());
        Ok(only.then_some(values))
    }
}
