//! The two-dimensional convolution.

use std::ops::Range;

use super::{check, product, tile::COLUMNS, vector::add_scaled};
use crate::{Error, Result};

/// A two-dimensional convolution of images in the order NCHW, as ONNX defines `Conv` and PyTorch `Conv2d`: what is
/// called the kernel is not turned around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// The shape of the input: `[batch, channels, height, width]`.
    pub input: [usize; 4],
    /// The shape of the weights: `[output channels, channels / groups, height, width]`.
    pub weights: [usize; 4],
    /// How far apart two neighbours of the output lie in the input, downwards and to the right; at least 1.
    pub stride: [usize; 2],
    /// Rows of zeros above and below each image, and columns on its left and on its right.
    pub padding: [usize; 2],
    /// Both kinds of channels are divided into so many groups, of which each sees itself alone. As many groups as input
    /// channels make a depthwise convolution.
    pub groups: usize,
}

impl Conv2d {
    /// The shape of the output: `[batch, output channels, height, width]`.
    ///
    /// # Errors
    /// If the groups do not divide the channels, the weights have another number of channels, a stride is 0, or the
    /// weights are empty or larger than the image with its padding.
    pub fn output_shape(&self) -> Result<[usize; 4]> {
        let ([batch, channels, ..], [out_channels, group_channels, ..]) = (self.input, self.weights);
        let groups = self.groups;
        if groups == 0 || group_channels.checked_mul(groups) != Some(channels) || out_channels % groups != 0 {
            return Err(Error::failed(format_args!("conv2d: {groups} groups do not divide {self:?}")));
        }
        let side = |axis: usize| {
            let padded = self.padding[axis].checked_mul(2)?.checked_add(self.input[2 + axis])?;
            let kernel = self.weights[2 + axis];
            let last = padded.checked_sub(kernel)?.checked_div(self.stride[axis])?;
            (kernel > 0).then_some(last + 1)
        };
        let (Some(height), Some(width)) = (side(0), side(1)) else {
            return Err(Error::failed(format_args!("conv2d: the weights do not fit the image: {self:?}")));
        };
        Ok([batch, out_channels, height, width])
    }

    /// Convolves `input` with `weights`, adds `bias`, one element for each output channel, and overwrites `out`, which
    /// has the [output's shape](Self::output_shape).
    ///
    /// It takes memory for parts of the weights and the input, 200 KiB at most.
    ///
    /// # Errors
    /// Where [`Self::output_shape`] fails, and if a slice has another number of elements than its shape.
    pub fn apply(&self, input: &[f32], weights: &[f32], bias: Option<&[f32]>, out: &mut [f32]) -> Result<()> {
        let shape @ [_, out_channels, out_height, out_width] = self.output_shape()?;
        check("input", input.len(), &self.input)?;
        check("weights", weights.len(), &self.weights)?;
        check("out", out.len(), &shape)?;
        if let Some(bias) = bias {
            check("bias", bias.len(), &[out_channels])?;
        }
        if out.is_empty() {
            return Ok(());
        }
        let plane = out_height * out_width;
        for image in out.chunks_exact_mut(out_channels * plane) {
            for (channel, plane) in image.chunks_exact_mut(plane).enumerate() {
                plane.fill(bias.map_or(0.0, |bias| bias[channel]));
            }
        }
        if weights.is_empty() {
            return Ok(());
        }

        let [_, group_channels, height, width] = self.input;
        let group_channels = group_channels / self.groups;
        let rows = out_channels / self.groups;
        let depth = weights.len() / out_channels;
        let inputs = input.chunks_exact(group_channels * height * width);
        for (group, (input, out)) in inputs.zip(out.chunks_exact_mut(rows * plane)).enumerate() {
            let weights = &weights[group % self.groups * rows * depth..][..rows * depth];
            if group_channels == 1 {
                for (weights, out) in weights.chunks_exact(depth).zip(out.chunks_exact_mut(plane)) {
                    self.add_plane(input, weights, out_width, out);
                }
            } else {
                let patches = Patches { image: input, of: self, out_width, columns: plane };
                product::add(weights, &patches, [rows, depth, plane], out);
            }
        }
        Ok(())
    }

    /// Adds one channel's convolution, row by row.
    fn add_plane(&self, image: &[f32], weights: &[f32], out_width: usize, out: &mut [f32]) {
        let ([.., height, width], [.., kernel_width]) = (self.input, self.weights);
        let [stride_y, stride_x] = self.stride;
        let [pad_y, pad_x] = self.padding;
        for (y, out) in out.chunks_exact_mut(out_width).enumerate() {
            for (kernel_y, weights) in weights.chunks_exact(kernel_width).enumerate() {
                let Some(y) = (y * stride_y + kernel_y).checked_sub(pad_y).filter(|y| *y < height) else {
                    continue;
                };
                let line = &image[y * width..][..width];
                for (kernel_x, weight) in weights.iter().enumerate() {
                    // Output columns whose input, `x * stride_x + kernel_x - pad_x`, is left of the image, and those
                    // from where on it is right of it.
                    let first = pad_x.saturating_sub(kernel_x).div_ceil(stride_x);
                    let end = (width + pad_x).saturating_sub(kernel_x).div_ceil(stride_x).min(out_width);
                    if first >= end {
                        continue;
                    }
                    let (line, out) = (&line[first * stride_x + kernel_x - pad_x..], &mut out[first..end]);
                    if stride_x == 1 {
                        add_scaled([*weight], [line], out);
                    } else {
                        for (out, element) in out.iter_mut().zip(line.iter().step_by(stride_x)) {
                            *out += weight * element;
                        }
                    }
                }
            }
        }
    }
}

/// The matrix that makes a product of a convolution: each column holds what the weights meet for one element of the
/// output. It is never there as a whole.
struct Patches<'a> {
    /// The channels of one group of one image.
    image: &'a [f32],
    of: &'a Conv2d,
    out_width: usize,
    columns: usize,
}

/// Neighbouring columns for elements in the same row of the output.
struct Run {
    lanes: Range<usize>,
    /// Where their patches begin, with the padding.
    top: usize,
    left: usize,
}

impl Patches<'_> {
    /// The runs of the columns that begin with `first`.
    fn runs(&self, first: usize) -> Vec<Run> {
        let [stride_y, stride_x] = self.of.stride;
        let count = COLUMNS.min(self.columns - first);
        let mut runs: Vec<Run> = Vec::with_capacity(count);
        let mut lane = 0;
        while lane < count {
            let (y, x) = ((first + lane) / self.out_width, (first + lane) % self.out_width);
            let end = count.min(lane + self.out_width - x);
            runs.push(Run { lanes: lane..end, top: y * stride_y, left: x * stride_x });
            lane = end;
        }
        runs
    }
}

impl product::Columns for Patches<'_> {
    fn lay_out(&self, steps: Range<usize>, first: usize, panel: &mut [[f32; COLUMNS]]) {
        let ([.., height, width], [.., kernel_height, kernel_width]) = (self.of.input, self.of.weights);
        let [pad_y, pad_x] = self.of.padding;
        let stride = self.of.stride[1];
        let runs = self.runs(first);
        for (step, line) in steps.zip(panel) {
            let (row, kernel_x) = (step / kernel_width, step % kernel_width);
            let (channel, kernel_y) = (row / kernel_height, row % kernel_height);
            for Run { lanes, top, left } in &runs {
                let line = &mut line[lanes.clone()];
                let Some(y) = (top + kernel_y).checked_sub(pad_y).filter(|y| *y < height) else {
                    line.fill(0.0);
                    continue;
                };
                let row = &self.image[(channel * height + y) * width..][..width];
                let left = left + kernel_x;
                let whole = left.checked_sub(pad_x).and_then(|left| row.get(left..));
                if let Some(row) = whole.filter(|row| row.len() > (line.len() - 1) * stride) {
                    for (element, value) in line.iter_mut().zip(row.iter().step_by(stride)) {
                        *element = *value;
                    }
                } else {
                    for (lane, element) in line.iter_mut().enumerate() {
                        let x = (left + lane * stride).checked_sub(pad_x);
                        *element = x.and_then(|x| row.get(x)).copied().unwrap_or_default();
                    }
                }
            }
        }
    }
}
