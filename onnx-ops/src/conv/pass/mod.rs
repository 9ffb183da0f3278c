//! Puts our kernels into a graph: images and signals become channels-last where the kernels work on them, and what follows a
//! convolution or a product becomes a part of it.

mod absorb;
mod channels;
mod elements;
mod gates;
mod linear;
mod products;
mod quantised;
mod values;
mod windows;

use std::collections::HashMap;

use tract_onnx::tract_core::{
    internal::*,
    ops::{
        array::{Pad, Slice, TypedConcat},
        binary::TypedBinOp,
        cnn::{Conv, Deconv, MaxPool, PaddingSpec, SumPool},
        einsum::EinSum,
        element_wise::ElementWiseOp,
        nn::{Reduce, Softmax},
    },
};

use super::depthwise::Window;
use crate::quantised::op::Quantised;

/// Rewrites a typed graph that has not been decluttered: there, shapes are still those of the file.
pub fn rewrite(source: &TypedModel) -> TractResult<TypedModel> {
    let mut pass = Pass {
        source,
        target: TypedModel { symbols: source.symbols.clone(), ..TypedModel::default() },
        values: HashMap::new(),
        constants: HashMap::new(),
        views: HashMap::new(),
    };
    for id in source.eval_order()? {
        let node = source.node(id);
        pass.node(node).with_context(|| format!("rewriting {node}"))?;
    }
    for input in source.input_outlets()? {
        if !pass.values.contains_key(input) {
            pass.copy(source.node(input.node))?;
        }
    }
    let inputs =
        source.input_outlets()?.iter().map(|outlet| pass.first(*outlet)).collect::<TractResult<Vec<_>>>()?;
    let outputs =
        source.output_outlets()?.iter().map(|outlet| pass.first(*outlet)).collect::<TractResult<Vec<_>>>()?;
    pass.target.inputs = inputs;
    for (old, new) in source.output_outlets()?.iter().zip(&outputs) {
        if let Some(label) = source.outlet_label(*old) {
            pass.target.set_outlet_label(*new, label.to_string())?;
        }
    }
    pass.target.outputs = outputs;
    pass.target.properties.clone_from(&source.properties);
    Ok(pass.target)
}

/// Where the new graph has an old value: as it was, and with the channels (axis 1) last.
#[derive(Clone, Copy, Debug, Default)]
struct Value {
    first: Option<OutletId>,
    last: Option<OutletId>,
}

struct Pass<'a> {
    source: &'a TypedModel,
    target: TypedModel,
    values: HashMap<OutletId, Value>,
    /// What small operators make of constants.
    constants: HashMap<OutletId, Arc<Tensor>>,
    /// What only shows another value of the new graph, which nothing else reads, with other axes.
    views: HashMap<OutletId, OutletId>,
}

impl Pass<'_> {
    fn node(&mut self, node: &TypedNode) -> TractResult<()> {
        self.fold(node)?;
        if self.constants.contains_key(&node.id.into()) {
            return self.copy(node);
        }
        let done = if let Some(quantised) = node.op_as::<Quantised>() {
            self.quantised(node, quantised)?
        } else if let Some(conv) = node.op_as::<Conv>() {
            self.convolution(node, conv)?
        } else if let Some(pool) = node.op_as::<MaxPool>() {
            pool.with_index_outputs.is_none() && self.pool(node, &pool.pool_spec, &Window::Largest)?
        } else if let Some(pool) = node.op_as::<SumPool>() {
            let ceiled = matches!(pool.pool_spec.padding, PaddingSpec::ExplicitOnnxPool(_, _, true));
            let window = match (pool.normalize, pool.count_include_pad) {
                (false, _) => Window::Sum,
                (true, false) => Window::Mean,
                (true, true) => Window::MeanWithPadding,
            };
            // What windows beyond the padding count is the engine's to know.
            !(ceiled && window == Window::MeanWithPadding) && self.pool(node, &pool.pool_spec, &window)?
        } else if let Some(einsum) = node.op_as::<EinSum>() {
            self.product(node, einsum)?
        } else if let Some(binary) = node.op_as::<TypedBinOp>() {
            self.binary(node, binary)?
        } else if node.op_is::<ElementWiseOp>() {
            self.element_wise(node)?
        } else if let Some(concat) = node.op_as::<TypedConcat>() {
            concat.axis == 1 && self.concat(node)?
        } else if let Some(pad) = node.op_as::<Pad>() {
            self.pad(node, pad)?
        } else if let Some(slice) = node.op_as::<Slice>() {
            slice.axis == 1 && self.slice(node, slice)?
        } else if let Some(reduce) = node.op_as::<Reduce>() {
            self.reduce(node, reduce)?
        } else if node.op.name() == "Resize" {
            self.resize(node)?
        } else if let Some(deconv) = node.op_as::<Deconv>() {
            self.deconvolution(node, deconv)?
        } else if let Some(softmax) = node.op_as::<Softmax>() {
            self.softmax(node, softmax)?
        } else if let Some(axis) = node.op_as::<AxisOp>() {
            self.shuffle(node, axis)? || self.axes(node, axis)?
        } else if ["Identity", "Dropout"].contains(&node.op.name().as_ref()) {
            self.alias(node)
        } else {
            false
        };
        if done { Ok(()) } else { self.copy(node) }
    }
}
