//! What the old graph says of its values, and where the new one has them.

use tract_onnx::tract_core::{
    internal::*,
    ops::{binary::TypedBinOp, cast::Cast, konst::Const, quant::DequantizeLinearF32, source::TypedSource},
};

use super::{Pass, Value};
use crate::{
    conv::op::Layout,
    kernel::{Kernel, Own},
};

/// What the old graph says.
impl Pass<'_> {
    pub(super) fn fact(&self, outlet: OutletId) -> TractResult<&TypedFact> {
        self.source.outlet_fact(outlet)
    }

    /// The concrete shape of an `f32` value.
    pub(super) fn shape(&self, outlet: OutletId) -> TractResult<Option<TVec<usize>>> {
        let fact = self.fact(outlet)?;
        let plain = fact.datum_type == f32::datum_type() && !fact.is_exotic();
        Ok(fact.shape.as_concrete().filter(|_| plain).map(Into::into))
    }

    pub(super) fn constant(&self, outlet: OutletId) -> Option<Arc<Tensor>> {
        self.constants.get(&outlet).cloned().or_else(|| self.fact(outlet).ok()?.konst.clone())
    }

    pub(super) fn floats(&self, outlet: OutletId) -> Option<Vec<f32>> {
        let tensor = self.constant(outlet)?;
        (tensor.datum_type() == f32::datum_type()).then_some(())?;
        Some(tensor.to_plain_array_view::<f32>().ok()?.iter().copied().collect())
    }

    pub(super) fn scalar(&self, outlet: OutletId) -> Option<f32> {
        let [value] = self.floats(outlet)?[..] else { return None };
        Some(value)
    }

    /// Computes what only changes a constant's type or shape, and what makes numbers of quantised ones.
    pub(super) fn fold(&mut self, node: &TypedNode) -> TractResult<()> {
        let small = node.op_is::<Cast>()
            || node.op_is::<AxisOp>()
            || node.op_is::<DequantizeLinearF32>()
            || node.op_is::<TypedBinOp>() && node.outputs[0].fact.datum_type == f32::datum_type();
        let constants = || node.inputs.iter().map(|input| self.constant(*input)).collect::<Option<TVec<_>>>();
        if !small || node.inputs.is_empty() {
            return Ok(());
        }
        let Some(constants) = constants() else { return Ok(()) };
        // Nothing that becomes larger than what there is.
        let largest = constants.iter().map(|constant| constant.len()).max();
        let fits = node.outputs[0].fact.shape.as_concrete().map(|shape| shape.iter().product()) <= largest;
        let inputs = constants.into_iter().map(IntoTValue::into_tvalue).collect();
        if fits
            && let Some(mut outputs) = node.op.eval_out_of_plan(inputs)?
            && let Some(output) = outputs.pop()
        {
            self.constants.insert(node.id.into(), output.into_arc_tensor());
        }
        Ok(())
    }

    /// The nodes that read a value; `None` if it leaves the graph.
    pub(super) fn readers(&self, outlet: OutletId) -> Option<Vec<usize>> {
        let inlets = &self.source.node(outlet.node).outputs[outlet.slot].successors;
        let leaves = self.source.outputs.contains(&outlet);
        (!leaves).then(|| inlets.iter().map(|inlet| inlet.node).collect())
    }
}

/// What the new graph has.
impl Pass<'_> {
    pub(super) fn is_last(&self, outlet: OutletId) -> bool {
        self.values.get(&outlet).is_some_and(|value| value.last.is_some())
    }

    pub(super) fn first(&mut self, outlet: OutletId) -> TractResult<OutletId> {
        let value = self.values.get(&outlet).copied().unwrap_or_default();
        match value {
            Value { first: Some(first), .. } => Ok(first),
            Value { last: Some(last), .. } => {
                let first =
                    self.wire(&format!("{outlet:?}.channels_first"), Layout { to_last: false }, &[last])?;
                self.values.insert(outlet, Value { first: Some(first), ..value });
                Ok(first)
            }
            Value { .. } => bail!("{outlet:?} is not there yet"),
        }
    }

    pub(super) fn last(&mut self, outlet: OutletId) -> TractResult<OutletId> {
        let value = self.values.get(&outlet).copied().unwrap_or_default();
        if let Some(last) = value.last {
            return Ok(last);
        }
        let last = if let Some(constant) = self.constant(outlet) {
            let rank = constant.rank();
            let turned = constant.into_tensor().move_axis(1, rank - 1)?;
            self.target.add_const(format!("{outlet:?}.channels_last"), turned)?
        } else {
            let first = self.first(outlet)?;
            self.wire(&format!("{outlet:?}.channels_last"), Layout { to_last: true }, &[first])?
        };
        self.values.insert(outlet, Value { last: Some(last), ..value });
        Ok(last)
    }

    pub(super) fn wire(
        &mut self,
        name: &str,
        kernel: impl Kernel,
        inputs: &[OutletId],
    ) -> TractResult<OutletId> {
        Ok(self.target.wire_node(name, Own::new(kernel), inputs)?[0])
    }

    pub(super) fn set_last(&mut self, node: &TypedNode, last: OutletId) -> bool {
        self.values.insert(node.id.into(), Value { first: None, last: Some(last) });
        true
    }

    pub(super) fn copy(&mut self, node: &TypedNode) -> TractResult<()> {
        let outlets = if node.op_is::<TypedSource>() {
            tvec!(self.target.add_source(&*node.name, node.outputs[0].fact.clone())?)
        } else if let Some(constant) = node.op_as::<Const>() {
            self.target.wire_node(&*node.name, constant.clone(), &[])?
        } else {
            let inputs =
                node.inputs.iter().map(|input| self.first(*input)).collect::<TractResult<TVec<_>>>()?;
            self.target.wire_node(&*node.name, node.op.clone(), &inputs)?
        };
        for (slot, outlet) in outlets.into_iter().enumerate() {
            self.values.insert(OutletId::new(node.id, slot), Value { first: Some(outlet), last: None });
        }
        Ok(())
    }
}
