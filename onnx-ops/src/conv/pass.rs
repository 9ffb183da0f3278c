//! Puts our kernels into a graph: images and signals become channels-last where the kernels work on them, and what follows a
//! convolution or a product becomes a part of it.

use std::collections::HashMap;

use tract_onnx::tract_core::{
    internal::*,
    ops::{
        array::{Slice, TypedConcat},
        binary::TypedBinOp,
        cast::Cast,
        cnn::{Conv, Deconv, KernelFormat, MaxPool, PaddingSpec, PoolSpec, SumPool},
        einsum::EinSum,
        element_wise::ElementWiseOp,
        konst::Const,
        nn::{DataFormat, Reduce, Reducer, Softmax, SoftmaxKind},
        source::TypedSource,
    },
};

use super::{
    channels::{Arithmetic, Binary, Join, Part, Pointwise, Repeat},
    dense::{After, Dense},
    depthwise::{ByChannel, Window},
    geometry::Geometry,
    op::{Convolution, Layout, Shuffle, Windows},
    product::{Lookup, Products},
    softmax,
    spread::Spread,
};
use crate::{
    gemm::{
        Isa, Packed,
        map::{Gate, Map},
    },
    kernel::{Kernel, Own},
};

/// Rewrites a typed graph that has not been decluttered: there, shapes are still those of the file.
pub fn rewrite(source: &TypedModel) -> TractResult<TypedModel> {
    let mut pass = Pass {
        source,
        target: TypedModel { symbols: source.symbols.clone(), ..TypedModel::default() },
        values: HashMap::new(),
        constants: HashMap::new(),
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
}

impl Pass<'_> {
    fn node(&mut self, node: &TypedNode) -> TractResult<()> {
        self.fold(node)?;
        if self.constants.contains_key(&node.id.into()) {
            return self.copy(node);
        }
        let done = if let Some(conv) = node.op_as::<Conv>() {
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
            self.shuffle(node, axis)?
        } else if ["Identity", "Dropout"].contains(&node.op.name().as_ref()) {
            self.alias(node)
        } else {
            false
        };
        if done { Ok(()) } else { self.copy(node) }
    }

    // What the old graph says.

    fn fact(&self, outlet: OutletId) -> TractResult<&TypedFact> {
        self.source.outlet_fact(outlet)
    }

    /// The concrete shape of an `f32` value.
    fn shape(&self, outlet: OutletId) -> TractResult<Option<TVec<usize>>> {
        let fact = self.fact(outlet)?;
        let plain = fact.datum_type == f32::datum_type() && !fact.is_exotic();
        Ok(fact.shape.as_concrete().filter(|_| plain).map(Into::into))
    }

    fn constant(&self, outlet: OutletId) -> Option<Arc<Tensor>> {
        self.constants.get(&outlet).cloned().or_else(|| self.fact(outlet).ok()?.konst.clone())
    }

    fn floats(&self, outlet: OutletId) -> Option<Vec<f32>> {
        let tensor = self.constant(outlet)?;
        (tensor.datum_type() == f32::datum_type()).then_some(())?;
        Some(tensor.to_plain_array_view::<f32>().ok()?.iter().copied().collect())
    }

    fn scalar(&self, outlet: OutletId) -> Option<f32> {
        let [value] = self.floats(outlet)?[..] else { return None };
        Some(value)
    }

    /// Computes what only changes a constant's type or shape.
    fn fold(&mut self, node: &TypedNode) -> TractResult<()> {
        let small = node.op_is::<Cast>() || node.op_is::<AxisOp>();
        let [input] = node.inputs[..] else { return Ok(()) };
        if small
            && let Some(constant) = self.constant(input)
            && let Some(mut outputs) = node.op.eval_out_of_plan(tvec!(constant.into_tvalue()))?
            && let Some(output) = outputs.pop()
        {
            self.constants.insert(node.id.into(), output.into_arc_tensor());
        }
        Ok(())
    }

    /// The nodes that read a value; `None` if it leaves the graph.
    fn readers(&self, outlet: OutletId) -> Option<Vec<usize>> {
        let inlets = &self.source.node(outlet.node).outputs[outlet.slot].successors;
        let leaves = self.source.outputs.contains(&outlet);
        (!leaves).then(|| inlets.iter().map(|inlet| inlet.node).collect())
    }

    // What the new graph has.

    fn is_last(&self, outlet: OutletId) -> bool {
        self.values.get(&outlet).is_some_and(|value| value.last.is_some())
    }

    fn first(&mut self, outlet: OutletId) -> TractResult<OutletId> {
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

    fn last(&mut self, outlet: OutletId) -> TractResult<OutletId> {
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

    fn wire(&mut self, name: &str, kernel: impl Kernel, inputs: &[OutletId]) -> TractResult<OutletId> {
        Ok(self.target.wire_node(name, Own::new(kernel), inputs)?[0])
    }

    fn set_last(&mut self, node: &TypedNode, last: OutletId) -> bool {
        self.values.insert(node.id.into(), Value { first: None, last: Some(last) });
        true
    }

    fn copy(&mut self, node: &TypedNode) -> TractResult<()> {
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

    // Kernels in the place of nodes.

    fn convolution(&mut self, node: &TypedNode, conv: &Conv) -> TractResult<bool> {
        let &[input, kernels, bias] = &node.inputs[..] else { return Ok(false) };
        let Some(shape) = self.shape(input)? else { return Ok(false) };
        let Some(geometry) = Geometry::of(&conv.pool_spec, &shape)? else { return Ok(false) };
        let (Some(weights), Some(weights_shape)) = (self.floats(kernels), self.shape(kernels)?) else {
            return Ok(false);
        };
        let Some(mut offsets) = self.floats(bias) else { return Ok(false) };
        let fits = conv.kernel_fmt == KernelFormat::OIHW && conv.q_params.is_none() && conv.group > 0;
        let [outputs, per_group, ref window @ ..] = weights_shape[..] else { return Ok(false) };
        if !fits
            || window != &*conv.pool_spec.kernel_shape
            || Some(shape[1]) != per_group.checked_mul(conv.group)
            || outputs % conv.group != 0
            || [outputs, per_group].contains(&0)
        {
            return Ok(false);
        }
        if offsets.len() == 1 {
            offsets = vec![offsets[0]; outputs];
        }
        if offsets.len() != outputs {
            return Ok(false);
        }
        let channels = shape[1];
        if per_group == 1 && conv.group == outputs && outputs > 1 {
            let taps = geometry.kernel[0] * geometry.kernel[1];
            let by_channel = ByChannel {
                channels,
                window: Window::Weighted {
                    factors: ByChannel::pad(taps, channels, |tap, channel| weights[channel * taps + tap])?,
                    bias: ByChannel::pad(1, channels, |_, channel| offsets[channel])?,
                    low: f32::NEG_INFINITY,
                    high: f32::INFINITY,
                },
                geometry,
            };
            let from = self.last(input)?;
            let last = self.wire(&node.name, Windows { by_channel, map: None }, &[from])?;
            return Ok(self.set_last(node, last));
        }
        let channels_first = channels <= 4 && !self.is_last(input);
        let kernel = geometry.kernel;
        let kernels =
            Dense::pack(conv.group, [outputs, per_group, kernel[0], kernel[1]], &weights, Some(&offsets))?;
        let dense = Dense { geometry, channels, kernels, channels_first };
        let from = if channels_first { self.first(input)? } else { self.last(input)? };
        let last = self.wire(&node.name, Convolution::new(dense, false), &[from])?;
        Ok(self.set_last(node, last))
    }

    /// A product of rows with a constant matrix.
    fn product(&mut self, node: &TypedNode, einsum: &EinSum) -> TractResult<bool> {
        let &[rows, matrix] = &node.inputs[..] else { return Ok(false) };
        let (Some(shape), Some(matrix_shape)) = (self.shape(rows)?, self.shape(matrix)?) else {
            return Ok(false);
        };
        if self.products(node, einsum, &shape, &matrix_shape)? || self.lookup(node, einsum)? {
            return Ok(true);
        }
        let plain = einsum.q_params.is_none() && einsum.operating_dt == f32::datum_type();
        let rank = shape.len();
        if !plain || rank == 0 || matrix_shape.len() != 2 || shape.contains(&0) || matrix_shape.contains(&0) {
            return Ok(false);
        }
        // Whether the matrix is `[depth, columns]`.
        let mut upright = None;
        for axis in einsum.axes.iter_all_axes() {
            match (&*axis.inputs[0], &*axis.inputs[1], &*axis.outputs[0]) {
                ([a], [], [c]) if a == c && *a < rank - 1 => {}
                ([a], [b], []) if *a == rank - 1 && upright.is_none_or(|upright| upright == (*b == 0)) => {
                    upright = Some(*b == 0);
                }
                ([], [b], [c]) if *c == rank - 1 && upright.is_none_or(|upright| upright == (*b == 1)) => {
                    upright = Some(*b == 1);
                }
                _ => return Ok(false),
            }
        }
        let (Some(upright), Some(factors)) = (upright, self.floats(matrix)) else { return Ok(false) };
        let (depth, columns) =
            if upright { (matrix_shape[0], matrix_shape[1]) } else { (matrix_shape[1], matrix_shape[0]) };
        let count: usize = shape[..rank - 1].iter().product();
        if shape[rank - 1] != depth || factors.len() != depth * columns {
            return Ok(false);
        }
        let factor = |row: usize, column: usize| {
            factors[if upright { row * columns + column } else { column * depth + row }]
        };
        let kernels = vec![Packed::new(depth, columns, factor, None)?];
        let geometry = Geometry::pointwise([1, count]);
        let dense = Dense { geometry, channels: depth, kernels, channels_first: false };
        let from = self.first(rows)?;
        let first = self.wire(&node.name, Convolution::new(dense, true), &[from])?;
        self.values.insert(node.id.into(), Value { first: Some(first), last: None });
        Ok(true)
    }

    /// Products of as many matrices as there are in both of two stacks.
    fn products(&mut self, node: &TypedNode, einsum: &EinSum, a: &[usize], b: &[usize]) -> TractResult<bool> {
        let rank = a.len();
        let plain = einsum.q_params.is_none() && einsum.operating_dt == f32::datum_type();
        if !plain
            || rank < 3
            || b.len() != rank
            || a[..rank - 2] != b[..rank - 2]
            || a.contains(&0)
            || b.contains(&0)
        {
            return Ok(false);
        }
        for axis in einsum.axes.iter_all_axes() {
            match (&*axis.inputs[0], &*axis.inputs[1], &*axis.outputs[0]) {
                ([a], [b], [c]) if a == b && a == c && *a < rank - 2 => {}
                ([a], [], [c]) if *a == rank - 2 && *c == rank - 2 => {}
                ([a], [b], []) if *a == rank - 1 && *b == rank - 2 => {}
                ([], [b], [c]) if *b == rank - 1 && *c == rank - 1 => {}
                _ => return Ok(false),
            }
        }
        let inputs = [self.first(node.inputs[0])?, self.first(node.inputs[1])?];
        let first = self.wire(&node.name, Products { factor: 1.0 }, &inputs)?;
        self.values.insert(node.id.into(), Value { first: Some(first), last: None });
        Ok(true)
    }

    /// A product of a constant matrix with rows that are 1 where a number is the column's, else 0: the number's row of it.
    fn lookup(&mut self, node: &TypedNode, einsum: &EinSum) -> TractResult<bool> {
        let &[rows, matrix] = &node.inputs[..] else { return Ok(false) };
        let cast = self.source.node(rows.node);
        let &[hot] = &cast.inputs[..] else { return Ok(false) };
        let equal = self.source.node(hot.node);
        if !cast.op_is::<Cast>() || equal.op.name() != "Eq" {
            return Ok(false);
        }
        let &[numbers, columns] = &equal.inputs[..] else { return Ok(false) };
        let (Some(columns), Some(table), Some(table_shape)) =
            (self.constant(columns), self.floats(matrix), self.shape(matrix)?)
        else {
            return Ok(false);
        };
        let Some(shape) = self.fact(numbers)?.shape.as_concrete().map(TVec::<usize>::from) else {
            return Ok(false);
        };
        let rank = shape.len();
        let &[depth, width] = &table_shape[..] else { return Ok(false) };
        let kind = columns.datum_type();
        if !kind.is_integer()
            || rank == 0
            || shape[rank - 1] != 1
            || columns.shape().last() != Some(&depth)
            || width == 0
        {
            return Ok(false);
        }
        // A whole number that `f32` does not hold stays far from the columns'.
        let columns = columns.cast_to::<f32>()?;
        let counted =
            columns.to_plain_array_view::<f32>()?.iter().enumerate().all(|(index, x)| *x == index as f32);
        if !counted || columns.len() != depth || depth >= 1 << 20 || self.shape(rows)?.is_none() {
            return Ok(false);
        }
        for axis in einsum.axes.iter_all_axes() {
            match (&*axis.inputs[0], &*axis.inputs[1], &*axis.outputs[0]) {
                ([a], [], [c]) if a == c => {}
                ([a], [0], []) if *a == rank - 1 => {}
                ([], [1], [c]) if *c == rank - 1 => {}
                _ => return Ok(false),
            }
        }
        let from = self.first(numbers)?;
        let numbers = self.target.wire_node(format!("{}.numbers", node.name), cast_to_f32(), &[from])?[0];
        let first = self.wire(&node.name, Lookup::new(width, &table), &[numbers])?;
        self.values.insert(node.id.into(), Value { first: Some(first), last: None });
        Ok(true)
    }

    fn pool(&mut self, node: &TypedNode, pool: &PoolSpec, window: &Window) -> TractResult<bool> {
        let input = node.inputs[0];
        let Some(shape) = self.shape(input)? else { return Ok(false) };
        let Some(geometry) = Geometry::of(pool, &shape)? else { return Ok(false) };
        if !self.is_last(input) || shape[1] == 0 {
            return Ok(false);
        }
        let by_channel = ByChannel { geometry, channels: shape[1], window: window.clone() };
        let from = self.last(input)?;
        let last = self.wire(&node.name, Windows { by_channel, map: None }, &[from])?;
        Ok(self.set_last(node, last))
    }

    /// A sum over whole images.
    fn reduce(&mut self, node: &TypedNode, reduce: &Reduce) -> TractResult<bool> {
        let input = node.inputs[0];
        let Some(shape) = self.shape(input)? else { return Ok(false) };
        let [_, channels, height, width] = shape[..] else { return Ok(false) };
        let whole = reduce.axes[..] == [2, 3] && reduce.reducer == Reducer::Sum;
        let sizes = 1..1 << 15;
        if !whole
            || !self.is_last(input)
            || channels == 0
            || !sizes.contains(&height)
            || !sizes.contains(&width)
        {
            return Ok(false);
        }
        let geometry = Geometry {
            input: [height, width],
            output: [1; 2],
            kernel: [height, width],
            strides: [1; 2],
            dilations: [1; 2],
            pads: [0; 2],
        };
        let by_channel = ByChannel { geometry, channels, window: Window::Sum };
        let from = self.last(input)?;
        let last = self.wire(&node.name, Windows { by_channel, map: None }, &[from])?;
        Ok(self.set_last(node, last))
    }

    fn concat(&mut self, node: &TypedNode) -> TractResult<bool> {
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
        let inputs = node.inputs.iter().map(|input| self.last(*input)).collect::<TractResult<TVec<_>>>()?;
        let last = self.wire(&node.name, Join, &inputs)?;
        Ok(self.set_last(node, last))
    }

    fn slice(&mut self, node: &TypedNode, slice: &Slice) -> TractResult<bool> {
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
    fn resize(&mut self, node: &TypedNode) -> TractResult<bool> {
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
    fn repeats(&self, node: &TypedNode, [height, width]: [usize; 2], times: [usize; 2]) -> TractResult<bool> {
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

    /// A transposed convolution without overlaps.
    fn deconvolution(&mut self, node: &TypedNode, deconv: &Deconv) -> TractResult<bool> {
        let &[input, kernels, bias] = &node.inputs[..] else { return Ok(false) };
        let Some(shape) = self.shape(input)? else { return Ok(false) };
        let Some(result) = self.shape(node.id.into())? else { return Ok(false) };
        let (Some(weights), Some(mut offsets)) = (self.floats(kernels), self.floats(bias)) else {
            return Ok(false);
        };
        let pool = &deconv.pool_spec;
        let (&[_, channels, height, width], &[_, outputs, tall, wide]) = (&shape[..], &result[..]) else {
            return Ok(false);
        };
        let plain = deconv.group == 1
            && deconv.kernel_format == KernelFormat::OIHW
            && pool.data_format == DataFormat::NCHW
            && pool.kernel_shape[..] == *pool.strides()
            && pool.dilations().iter().all(|dilation| *dilation == 1);
        let &[kernel_height, kernel_width] = &pool.kernel_shape[..] else { return Ok(false) };
        let kernel_shape = [outputs, channels, kernel_height, kernel_width];
        let sizes =
            Some(tall) == height.checked_mul(kernel_height) && Some(wide) == width.checked_mul(kernel_width);
        let whole = sizes && !result.contains(&0) && !shape.contains(&0);
        if !plain || !whole || self.fact(kernels)?.shape.as_concrete() != Some(&kernel_shape) {
            return Ok(false);
        }
        if offsets.len() == 1 {
            offsets = vec![offsets[0]; outputs];
        }
        if offsets.len() != outputs {
            return Ok(false);
        }
        let spread = Spread {
            input: [height, width],
            kernel: [kernel_height, kernel_width],
            channels,
            outputs,
            lines: Spread::pack(kernel_shape, &weights, &offsets)?,
            after: After::NOTHING,
        };
        let from = self.last(input)?;
        let last = self.wire(&node.name, spread, &[from])?;
        Ok(self.set_last(node, last))
    }

    fn softmax(&mut self, node: &TypedNode, softmax: &Softmax) -> TractResult<bool> {
        let input = node.inputs[0];
        let &[axis] = &softmax.axes[..] else { return Ok(false) };
        let plain = softmax.quant_output_dt.is_none() && softmax.kind == SoftmaxKind::Softmax;
        let Some(shape) = self.shape(input)?.filter(|shape| plain && !shape.contains(&0)) else {
            return Ok(false);
        };
        if axis >= shape.len() {
            return Ok(false);
        }
        let from = self.first(input)?;
        let first = self.wire(&node.name, softmax::Softmax { axis }, &[from])?;
        self.values.insert(node.id.into(), Value { first: Some(first), last: None });
        Ok(true)
    }

    /// The last of the three operators that shuffle channels: into groups, groups past channels, and back.
    fn shuffle(&mut self, node: &TypedNode, last: &AxisOp) -> TractResult<bool> {
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

    /// What changes nothing.
    fn alias(&mut self, node: &TypedNode) -> bool {
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

    fn element_wise(&mut self, node: &TypedNode) -> TractResult<bool> {
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

    fn binary(&mut self, node: &TypedNode, binary: &TypedBinOp) -> TractResult<bool> {
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
        // Such as the mask of an attention: the engine is slow at these.
        let products = |pass: &Self, x| {
            pass.ours(x, &[node.id]).is_some_and(|(_, own)| own.as_kernel::<Products>().is_some())
        };
        if let Some(binary) = Binary::of(arithmetic, &a_shape, &b_shape)
            && (products(self, a) || products(self, b))
        {
            let inputs = [self.first(a)?, self.first(b)?];
            let first = self.wire(&node.name, binary, &inputs)?;
            self.values.insert(node.id.into(), Value { first: Some(first), last: None });
            return Ok(true);
        }
        let rank = a_shape.len();
        if !(3..=4).contains(&rank) || !(self.is_last(a) || self.is_last(b)) {
            return Ok(false);
        }
        let (a_last, b_last) = (self.last(a)?, self.last(b)?);
        let turned = |mut shape: TVec<usize>| {
            shape[1..].rotate_left(1);
            shape
        };
        let last = match Binary::of(arithmetic, &turned(a_shape), &turned(b_shape)) {
            Some(binary) => self.wire(&node.name, binary, &[a_last, b_last])?,
            None => self.target.wire_node(&*node.name, node.op.clone(), &[a_last, b_last])?[0],
        };
        Ok(self.set_last(node, last))
    }

    // What becomes part of a convolution or product.

    /// The node of ours that makes this value, if nothing else but `readers` reads it.
    fn ours(&self, outlet: OutletId, readers: &[usize]) -> Option<(OutletId, Own)> {
        let value = self.values.get(&outlet)?;
        let place = match value {
            Value { last: Some(last), first: None } => *last,
            Value { last: None, first: Some(first) } => *first,
            _ => return None,
        };
        let own = self.target.node(place.node).op_as::<Own>()?.clone();
        self.readers(outlet)?.iter().all(|reader| readers.contains(reader)).then_some((place, own))
    }

    fn replace(&mut self, node: &TypedNode, old: OutletId, place: OutletId, own: Own) -> bool {
        self.target.node_mut(place.node).op = Box::new(own);
        let value = self.values[&old];
        self.values.insert(node.id.into(), value);
        true
    }

    /// Applies a map to `x`, within what makes it if that is ours and only this node and the `chain` of nodes that it stands
    /// for read it.
    fn map(&mut self, node: &TypedNode, x: OutletId, chain: &[usize], map: Map) -> TractResult<bool> {
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

    /// Makes arithmetic with a constant, or a sum with another value, part of what makes `x`.
    fn absorb(
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
            if arithmetic != Arithmetic::Add || self.shape(x)? != self.shape(other)? || x == other {
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
    fn by_channel(&self, outlet: OutletId, rows: bool) -> TractResult<Option<Vec<f32>>> {
        let (Some(values), Some(shape)) = (self.floats(outlet), self.shape(outlet)?) else { return Ok(None) };
        let axis = if rows { shape.len().saturating_sub(1) } else { 1 };
        let only = values.len() == 1 || shape.get(axis) == Some(&values.len());
        Ok(only.then_some(values))
    }

    /// What `x` is multiplied with in `x * value`, where that is a function of `x`, and the nodes that compute it.
    fn gate(&self, x: OutletId, value: OutletId) -> Option<(Gate, Vec<usize>)> {
        let mut chain = vec![];
        // From the outside in.
        let mut steps = vec![];
        let mut at = value;
        while at != x {
            let node = self.source.node(at.node);
            if chain.len() == 8 {
                return None;
            }
            chain.push(node.id);
            if let Some((arithmetic, scalar, swapped, inner)) = self.with_scalar(node) {
                steps.push(Step::Scalar(arithmetic, scalar, swapped));
                at = inner;
            } else if let [inner] = node.inputs[..]
                && node.op_is::<ElementWiseOp>()
            {
                let step = match node.op.name().as_ref() {
                    "Sigmoid" => Step::Sigmoid,
                    "Erf" => Step::Erf,
                    "Tanh" => Step::Tanh,
                    _ => return None,
                };
                steps.push(step);
                at = inner;
            } else if let Some((cube, nodes)) = self.plus_cube(x, at) {
                chain.pop();
                chain.extend(nodes);
                steps.push(Step::PlusCube(cube));
                at = x;
            } else {
                return None;
            }
        }
        let near = |a: f32, b: f32| (a - b).abs() <= 1e-5 * b.abs();
        let gate = match steps[..] {
            [Step::Sigmoid] => Gate::Sigmoid,
            [Step::Scalar(Arithmetic::Add, one, _), Step::Erf, Step::Scalar(arithmetic, scalar, false)]
                if near(one, 1.0)
                    && (arithmetic == Arithmetic::Div && near(scalar, std::f32::consts::SQRT_2)
                        || arithmetic == Arithmetic::Mul
                            && near(scalar, std::f32::consts::FRAC_1_SQRT_2)) =>
            {
                Gate::OnePlusErf
            }
            [
                Step::Scalar(Arithmetic::Mul, half, _),
                Step::Scalar(Arithmetic::Add, one, _),
                Step::Tanh,
                Step::Scalar(Arithmetic::Mul, scale, _),
                Step::PlusCube(cube),
            ] if half == 0.5 && one == 1.0 => Gate::Cubic { scale: 2.0 * scale, cube: 2.0 * scale * cube },
            _ => clamp_of(&steps)?,
        };
        Some((gate, chain))
    }

    /// Arithmetic of a value with a single constant: which, the constant, whether it comes first, and the value.
    fn with_scalar(&self, node: &TypedNode) -> Option<(Arithmetic, f32, bool, OutletId)> {
        let arithmetic = arithmetic(node.op_as()?)?;
        let &[a, b] = &node.inputs[..] else { return None };
        let (scalar, swapped, inner) = match (self.scalar(a), self.scalar(b)) {
            (None, Some(scalar)) => (scalar, false, a),
            (Some(scalar), None) => (scalar, true, b),
            _ => return None,
        };
        (self.fact(inner).ok()?.shape == node.outputs[0].fact.shape)
            .then_some((arithmetic, scalar, swapped, inner))
    }

    /// The factor in `x + x * (x * (factor * x))`, in any order, and the nodes that compute it.
    fn plus_cube(&self, x: OutletId, value: OutletId) -> Option<(f32, Vec<usize>)> {
        let with_x = |value: OutletId, wanted: Arithmetic| {
            let node = self.source.node(value.node);
            let &[a, b] = &node.inputs[..] else { return None };
            (arithmetic(node.op_as()?)? == wanted).then_some(())?;
            if a == x { Some(b) } else { (b == x).then_some(a) }
        };
        let cube = with_x(value, Arithmetic::Add)?;
        let square = with_x(cube, Arithmetic::Mul)?;
        let scaled = with_x(square, Arithmetic::Mul)?;
        let (Arithmetic::Mul, factor, _, inner) = self.with_scalar(self.source.node(scaled.node))? else {
            return None;
        };
        (inner == x).then(|| (factor, vec![value.node, cube.node, square.node, scaled.node]))
    }
}

fn cast_to_f32() -> Cast {
    tract_onnx::tract_core::ops::cast::cast(f32::datum_type())
}

/// A step from `x` to its gate.
#[derive(Clone, Copy, Debug)]
enum Step {
    Scalar(Arithmetic, f32, bool),
    Sigmoid,
    Erf,
    Tanh,
    PlusCube(f32),
}

/// A clamped linear function, from steps from the outside in.
fn clamp_of(steps: &[Step]) -> Option<Gate> {
    let (mut scale, mut offset, mut low, mut high) = (1.0, 0.0, f32::NEG_INFINITY, f32::INFINITY);
    for step in steps.iter().rev() {
        let Step::Scalar(arithmetic, scalar, swapped) = *step else { return None };
        if let Some(clamp) = clamped((low, high), arithmetic, scalar) {
            (low, high) = clamp;
            continue;
        }
        let unclamped = (low, high) == (f32::NEG_INFINITY, f32::INFINITY);
        let (factor, term) = linear(arithmetic, swapped, vec![scalar])?;
        if !unclamped {
            return None;
        }
        scale *= factor[0];
        offset = offset * factor[0] + term[0];
    }
    let clamped = low > f32::NEG_INFINITY || high < f32::INFINITY;
    clamped.then_some(Gate::Clamp { scale, offset, low, high })
}

fn arithmetic(binary: &TypedBinOp) -> Option<Arithmetic> {
    if binary.1.is_some_and(|datum_type| datum_type != f32::datum_type()) {
        return None;
    }
    Some(match binary.0.name() {
        "Add" => Arithmetic::Add,
        "Sub" => Arithmetic::Sub,
        "Mul" => Arithmetic::Mul,
        "Div" => Arithmetic::Div,
        "Max" => Arithmetic::Max,
        "Min" => Arithmetic::Min,
        _ => return None,
    })
}

/// `x * scale + offset` for arithmetic with constants.
fn linear(arithmetic: Arithmetic, swapped: bool, values: Vec<f32>) -> Option<(Vec<f32>, Vec<f32>)> {
    let each = |f: fn(f32) -> f32| values.iter().map(|value| f(*value)).collect();
    Some(match (arithmetic, swapped) {
        (Arithmetic::Add, _) => (vec![1.0], values),
        (Arithmetic::Sub, false) => (vec![1.0], each(|value| -value)),
        (Arithmetic::Sub, true) => (vec![-1.0], values),
        (Arithmetic::Mul, _) => (values, vec![0.0]),
        (Arithmetic::Div, false) => (each(f32::recip), vec![0.0]),
        _ => return None,
    })
}

/// A clamp after which comes another.
fn clamped((low, high): (f32, f32), arithmetic: Arithmetic, scalar: f32) -> Option<(f32, f32)> {
    match arithmetic {
        Arithmetic::Max => Some((low.max(scalar), high.max(scalar))),
        Arithmetic::Min => Some((low.min(scalar), high.min(scalar))),
        _ => None,
    }
}

/// `x * factor + term` for arithmetic with a single constant.
fn linear_of(arithmetic: Arithmetic, swapped: bool, scalar: f32) -> Option<(f32, f32)> {
    let (factor, term) = linear(arithmetic, swapped, vec![scalar])?;
    Some((factor[0], term[0]))
}

/// A map with a linear function after it.
fn scaled(map: &Map, factor: f32, term: f32) -> Map {
    Map { factor: map.factor * factor, term: map.term * factor + term, ..*map }
}

/// What follows a kernel's result with arithmetic with a single constant after it, if that cannot be a part of the kernel.
fn follow(
    after: &After,
    residual: bool,
    arithmetic: Arithmetic,
    swapped: bool,
    scalar: Option<f32>,
) -> Option<After> {
    let scalar = scalar?;
    if after.map.is_none()
        && let Some(clamp) = clamped(after.clamp, arithmetic, scalar)
    {
        return Some(After { clamp, map: None });
    }
    let open = after.map.is_none() && after.clamp == After::NOTHING.clamp && !residual;
    let (factor, term) = linear_of(arithmetic, swapped, scalar).filter(|_| !open)?;
    Some(after.scaled(factor, term))
}
