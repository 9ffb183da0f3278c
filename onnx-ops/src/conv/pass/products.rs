//! Products of matrices, lookups and softmax.

use tract_onnx::tract_core::{
    internal::*,
    ops::{
        cast::{Cast, cast},
        einsum::EinSum,
        nn::{Softmax, SoftmaxKind},
    },
};

use super::{Pass, Value};
use crate::{
    conv::{
        dense::Dense,
        geometry::Geometry,
        op::Convolution,
        product::{Lookup, Products},
        softmax,
    },
    gemm::Packed,
};

impl Pass<'_> {
    /// A product of rows with a constant matrix.
    pub(super) fn product(&mut self, node: &TypedNode, einsum: &EinSum) -> TractResult<bool> {
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
        let dense = Dense { geometry, channels: depth, kernels, tiled: false, channels_first: false };
        let from = self.first(rows)?;
        let first = self.wire(&node.name, Convolution::new(dense, true), &[from])?;
        self.values.insert(node.id.into(), Value { first: Some(first), last: None });
        Ok(true)
    }

    /// Products of as many matrices as there are in both of two stacks.
    pub(super) fn products(
        &mut self,
        node: &TypedNode,
        einsum: &EinSum,
        a: &[usize],
        b: &[usize],
    ) -> TractResult<bool> {
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
    pub(super) fn lookup(&mut self, node: &TypedNode, einsum: &EinSum) -> TractResult<bool> {
        let &[rows, matrix] = &node.inputs[..] else { return Ok(false) };
        let converted = self.source.node(rows.node);
        let &[hot] = &converted.inputs[..] else { return Ok(false) };
        let equal = self.source.node(hot.node);
        if !converted.op_is::<Cast>() || equal.op.name() != "Eq" {
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
        let numbers =
            self.target.wire_node(format!("{}.numbers", node.name), cast(f32::datum_type()), &[from])?[0];
        let first = self.wire(&node.name, Lookup::new(width, &table), &[numbers])?;
        self.values.insert(node.id.into(), Value { first: Some(first), last: None });
        Ok(true)
    }

    pub(super) fn softmax(&mut self, node: &TypedNode, softmax: &Softmax) -> TractResult<bool> {
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
}
