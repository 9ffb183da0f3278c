//! Values that are quantised and taken back at once: they stay `f32`, as one of the 256 numbers that they can be.
//!
//! Kernels of ours work on `f32` at a speed that those for bytes do not reach, and sums of products are as exact as a file that
//! says them in `f32` asks for.

use tract_onnx::tract_core::{
    internal::*,
    ops::{
        element_wise::ElementWiseOp,
        quant::{DequantizeLinearF32, QuantizeLinearI8, QuantizeLinearU8},
    },
};

use super::Pass;
use crate::gemm::map::{Gate, Map};

/// The factor, the zero point and the range of a `QuantizeLinear`.
fn quantiser(node: &TypedNode) -> Option<(f32, i32, [i32; 2])> {
    let op = &node.op_as::<ElementWiseOp>()?.0;
    if let Some(op) = op.downcast_ref::<QuantizeLinearU8>() {
        return Some((op.scale, op.zero_point.into(), [0, 255]));
    }
    let op = op.downcast_ref::<QuantizeLinearI8>()?;
    Some((op.scale, op.zero_point.into(), [-128, 127]))
}

impl Pass<'_> {
    /// Whether a node is a `QuantizeLinear` whose result is only taken back: what takes it back stands for it.
    pub(super) fn only_taken_back(&self, node: &TypedNode) -> TractResult<bool> {
        let taken_back = |readers: Vec<usize>| {
            readers.iter().all(|reader| self.source.node(*reader).op_is::<DequantizeLinearF32>())
        };
        Ok(quantiser(node).is_some()
            && self.shape(node.inputs[0])?.is_some()
            && self.readers(node.id.into()).is_some_and(taken_back))
    }

    /// A `DequantizeLinear`, and the `QuantizeLinear` before it.
    pub(super) fn taken_back(&mut self, node: &TypedNode, op: &DequantizeLinearF32) -> TractResult<bool> {
        let before = self.source.node(node.inputs[0].node);
        if !self.only_taken_back(before)? {
            return Ok(false);
        }
        let Some((scale, zero, range)) = quantiser(before) else { return Ok(false) };
        #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
        let [low, high, apart] = [range[0] - zero, range[1] - zero, zero.saturating_sub(op.zero_point)]
            .map(|number| number as f32);
        let map = Map {
            gate: Gate::Whole { scale, low, high },
            times_x: false,
            factor: op.scale,
            term: apart * op.scale,
        };
        self.map(node, before.inputs[0], &[before.id], map)
    }
}
