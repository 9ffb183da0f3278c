//! Convolutions, transposed convolutions and pooling.

use tract_onnx::tract_core::{
    internal::*,
    ops::{
        cnn::{Conv, Deconv, KernelFormat, PoolSpec},
        nn::{DataFormat, Reduce, Reducer},
    },
};

use super::{Pass, Value};
use crate::conv::{
    dense::{After, Dense},
    depthwise::{ByChannel, Window},
    fold::{Fold, Of},
    geometry::Geometry,
    op::{Convolution, Windows},
    spread::Spread,
    winograd,
};

impl Pass<'_> {
    pub(super) fn convolution(&mut self, node: &TypedNode, conv: &Conv) -> TractResult<bool> {
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
        let [height, width] = geometry.kernel;
        let tiled = conv.group == 1
            && !channels_first
            && !self.is_of_bytes(node)
            && winograd::fits(&geometry, shape[0], channels, outputs);
        let kernels = if tiled {
            winograd::pack([outputs, channels], &weights, Some(&offsets))?
        } else {
            Dense::pack(conv.group, [outputs, per_group, height, width], &weights, Some(&offsets))?
        };
        let dense = Dense { geometry, channels, kernels, tiled, channels_first };
        let from = if channels_first { self.first(input)? } else { self.last(input)? };
        let last = self.wire(&node.name, Convolution::new(dense, false), &[from])?;
        Ok(self.set_last(node, last))
    }

    pub(super) fn pool(&mut self, node: &TypedNode, pool: &PoolSpec, window: &Window) -> TractResult<bool> {
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

    /// A sum or the largest value along neighbouring axes.
    pub(super) fn reduce(&mut self, node: &TypedNode, reduce: &Reduce) -> TractResult<bool> {
        let input = node.inputs[0];
        let of = match reduce.reducer {
            Reducer::Sum => Of::Sum,
            Reducer::Max => Of::Largest,
            _ => return Ok(false),
        };
        let Some(shape) = self.shape(input)? else { return Ok(false) };
        let mut axes = reduce.axes.clone();
        axes.sort_unstable();
        let last = self.is_last(input) && (3..=4).contains(&shape.len());
        if last {
            let moved = |axis: usize| match axis {
                0 => 0,
                1 => shape.len() - 1,
                axis => axis - 1,
            };
            axes.iter_mut().for_each(|axis| *axis = moved(*axis));
            axes.sort_unstable();
        }
        let neighbours = axes.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        let (Some(first), true) = (axes.first().copied(), neighbours && !shape.contains(&0)) else {
            return Ok(false);
        };
        let fold = Fold { of, first, axes: axes.len() };
        if last {
            let from = self.last(input)?;
            let last = self.wire(&node.name, fold, &[from])?;
            return Ok(self.set_last(node, last));
        }
        let from = self.first(input)?;
        let first = self.wire(&node.name, fold, &[from])?;
        self.values.insert(node.id.into(), Value { first: Some(first), last: None });
        Ok(true)
    }

    /// A transposed convolution without overlaps.
    pub(super) fn deconvolution(&mut self, node: &TypedNode, deconv: &Deconv) -> TractResult<bool> {
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
}
