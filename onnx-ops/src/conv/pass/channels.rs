//! What moves channels and points, and what changes nothing.

use tract_onnx::tract_core::{
    internal::*,
    ops::{
        array::{self, Slice},
        identity::Identity,
    },
};

use super::{Pass, Value};
use crate::{
    conv::{
        channels::{Join, Part, Repeat},
        dense::{After, Place},
        op::{Convolution, Shuffle},
        pad::{Mode, Pad},
    },
    kernel::Own,
};

impl Pass<'_> {
    pub(super) fn concat(&mut self, node: &TypedNode) -> TractResult<bool> {
        let mut any = false;
        for input in &node.inputs {
            let Some(shape) = self.shape(*input)? else { return Ok(false) };
            any |= self.is_last(*input);
            if !(3..=4).contains(&shape.len()) {
                return Ok(false);
            }
        }
        if !any {
            return Ok(false);
        }
        if let Some(last) = self.concat_in_place(node)? {
            return Ok(self.set_last(node, last));
        }
        let inputs = node.inputs.iter().map(|input| self.last(*input)).collect::<TractResult<TVec<_>>>()?;
        let last = self.wire(&node.name, Join, &inputs)?;
        Ok(self.set_last(node, last))
    }

    /// Has convolutions that nothing else reads write their results next to each other: each into what the one before gives.
    fn concat_in_place(&mut self, node: &TypedNode) -> TractResult<Option<OutletId>> {
        let mut parts: Vec<(OutletId, Convolution)> = vec![];
        for input in &node.inputs {
            let Some((outlet, own)) = self.ours(*input, &[node.id]) else { return Ok(None) };
            let seen = self.values.get(input).is_some_and(|value| value.last == Some(outlet));
            let Some(conv) = own.as_kernel::<Convolution>() else { return Ok(None) };
            let twice = parts.iter().any(|(other, _)| *other == outlet);
            if !seen || twice || conv.rows || conv.residual || conv.after.map.is_some() {
                return Ok(None);
            }
            parts.push((outlet, conv.clone()));
        }
        let channels = parts.iter().map(|(_, conv)| conv.dense.outputs()).sum();
        let (mut offset, mut before) = (0, None);
        for (outlet, conv) in parts {
            let place = Some(Place { offset, channels });
            offset += conv.dense.outputs();
            let mut shape = self.target.outlet_fact(outlet)?.shape.as_concrete().context("a shape")?.to_vec();
            *shape.last_mut().context("a scalar")? = channels;
            let after = After { place, ..conv.after };
            self.target.node_mut(outlet.node).op = Box::new(Own::new(Convolution { after, ..conv }));
            self.target.set_outlet_fact(outlet, f32::fact(&shape))?;
            if let Some(before) = before {
                self.target.add_edge(before, InletId::new(outlet.node, 1))?;
            }
            before = Some(outlet);
        }
        Ok(before)
    }

    pub(super) fn pad(&mut self, node: &TypedNode, pad: &array::Pad) -> TractResult<bool> {
        let input = node.inputs[0];
        let (Some(shape), Some(mode)) = (self.shape(input)?, Mode::of(&pad.mode)) else { return Ok(false) };
        if shape.contains(&0) || pad.pads.len() != shape.len() || shape.is_empty() {
            return Ok(false);
        }
        let from = self.first(input)?;
        let first = self.wire(&node.name, Pad { pads: pad.pads.clone(), mode }, &[from])?;
        self.values.insert(node.id.into(), Value { first: Some(first), last: None });
        Ok(true)
    }

    pub(super) fn slice(&mut self, node: &TypedNode, slice: &Slice) -> TractResult<bool> {
        let input = node.inputs[0];
        let (Ok(start), Ok(end)) = (slice.start.to_usize(), slice.end.to_usize()) else { return Ok(false) };
        if !self.is_last(input) || start >= end {
            return Ok(false);
        }
        let from = self.last(input)?;
        let last = self.wire(&node.name, Part { start, end }, &[from])?;
        Ok(self.set_last(node, last))
    }

    /// Images to a whole multiple of their size, each point repeated.
    pub(super) fn resize(&mut self, node: &TypedNode) -> TractResult<bool> {
        let input = node.inputs[0];
        let (Some(from), Some(to)) = (self.shape(input)?, self.shape(node.id.into())?) else {
            return Ok(false);
        };
        let (&[_, _, height, width], &[_, _, tall, wide]) = (&from[..], &to[..]) else { return Ok(false) };
        if !self.is_last(input) || from[..2] != to[..2] || from.contains(&0) || to.contains(&0) {
            return Ok(false);
        }
        let times = [tall / height, wide / width];
        if [height * times[0], width * times[1]] != [tall, wide]
            || !self.repeats(node, [height, width], times)?
        {
            return Ok(false);
        }
        let from = self.last(input)?;
        let last = self.wire(&node.name, Repeat { times }, &[from])?;
        Ok(self.set_last(node, last))
    }

    /// Whether an operator only repeats points, going by what it makes of an image of one channel: its many attributes that
    /// could have it do something else are the engine's own.
    pub(super) fn repeats(
        &self,
        node: &TypedNode,
        [height, width]: [usize; 2],
        times: [usize; 2],
    ) -> TractResult<bool> {
        // No line or curve goes through these.
        let value = |point: usize| (point * point % 8191) as f32;
        let image =
            Tensor::from_shape(&[1, 1, height, width], &(0..height * width).map(value).collect::<Vec<_>>())?;
        let mut inputs = tvec!(image.into_tvalue());
        for input in &node.inputs[1..] {
            let Some(constant) = self.constant(*input) else { return Ok(false) };
            inputs.push(constant.into_tvalue());
        }
        let Ok(Some(outputs)) = node.op.eval_out_of_plan(inputs) else { return Ok(false) };
        let [output] = &outputs[..] else { return Ok(false) };
        if output.shape() != [1, 1, height * times[0], width * times[1]] {
            return Ok(false);
        }
        let view = output.to_plain_array_view::<f32>()?;
        Ok(view.indexed_iter().all(|(at, x)| *x == value(at[2] / times[0] * width + at[3] / times[1])))
    }

    /// The last of the three operators that shuffle channels: into groups, groups past channels, and back.
    pub(super) fn shuffle(&mut self, node: &TypedNode, last: &AxisOp) -> TractResult<bool> {
        let before = |node: &TypedNode| self.source.node(node.inputs[0].node);
        let moved = before(node);
        let AxisOp::Reshape(1, _, to) = last else { return Ok(false) };
        let Some(AxisOp::Move(1, 2) | AxisOp::Move(2, 1)) = moved.op_as() else { return Ok(false) };
        let first = before(moved);
        let Some(AxisOp::Reshape(1, from, split)) = first.op_as() else { return Ok(false) };
        let (input, [groups, _]) = (first.inputs[0], &split[..]) else { return Ok(false) };
        let Ok(groups) = groups.to_usize() else { return Ok(false) };
        let images = self.shape(input)?.is_some_and(|shape| shape.len() == 4 && !shape.contains(&0));
        if from != to || from.len() != 1 || groups == 0 || !images || !self.is_last(input) {
            return Ok(false);
        }
        let from = self.last(input)?;
        let last = self.wire(&node.name, Shuffle { groups }, &[from])?;
        Ok(self.set_last(node, last))
    }

    /// Axes that come, go or move where that moves nothing in memory.
    pub(super) fn axes(&mut self, node: &TypedNode, op: &AxisOp) -> TractResult<bool> {
        let input = node.inputs[0];
        let (Some(shape), Some(result)) = (self.shape(input)?, self.shape(node.id.into())?) else {
            return Ok(false);
        };
        let (rank, images) = (shape.len(), 3..=4);
        if !images.contains(&rank) || !images.contains(&result.len()) || shape.contains(&0) {
            return Ok(false);
        }
        let last = self.is_last(input);
        let view = match *op {
            AxisOp::Rm(axis) if last && axis > 1 => AxisOp::Rm(axis - 1),
            AxisOp::Add(axis) if last && axis > 1 => AxisOp::Add(axis - 1),
            AxisOp::Move(from, to) => {
                // Where the channels come from, if they become such: to move by one is to change places.
                let channels = match (from, to) {
                    (from, 1) if from > 1 => from,
                    (1, 2) => 2,
                    _ => 0,
                };
                // In memory they are last, but for axes of one point.
                if !last && channels > 0 && shape[channels + 1..].iter().all(|size| *size == 1) {
                    let dims = |axes: &[usize]| axes.iter().map(|size| size.to_dim()).collect::<TVec<_>>();
                    let mut ones_first = shape[channels..].to_vec();
                    ones_first.rotate_left(1);
                    let view = AxisOp::Reshape(channels, dims(&shape[channels..]), dims(&ones_first));
                    let from = self.first(input)?;
                    let last = self.target.wire_node(&*node.name, view, &[from])?[0];
                    return Ok(self.set_last(node, last));
                }
                let back = (from, to) == (1, rank - 1) || (from, to, rank) == (2, 1, 3);
                if last && back {
                    let from = self.last(input)?;
                    let first = self.target.wire_node(&*node.name, Identity, &[from])?[0];
                    self.values.insert(node.id.into(), Value { first: Some(first), last: None });
                    return Ok(true);
                }
                return Ok(false);
            }
            _ => return Ok(false),
        };
        let from = self.last(input)?;
        let outlet = self.target.wire_node(&*node.name, view, &[from])?[0];
        if self.readers(input).is_some_and(|readers| readers == [node.id]) {
            self.views.insert(outlet, from);
        }
        Ok(self.set_last(node, outlet))
    }

    /// What changes nothing.
    pub(super) fn alias(&mut self, node: &TypedNode) -> bool {
        let input = node.inputs[0];
        let only = node.inputs.len() == 1 && self.readers(input).is_some_and(|readers| readers == [node.id]);
        let unread = |slot: usize| {
            self.readers(OutletId::new(node.id, slot)).is_some_and(|readers| readers.is_empty())
        };
        let leaves = self.source.outputs.contains(&node.id.into());
        let Some(value) = self.values.get(&input).copied() else { return false };
        if !only || leaves || !(1..node.outputs.len()).all(unread) {
            return false;
        }
        self.values.insert(node.id.into(), value);
        true
    }
}
