//! Where the windows of a convolution or pooling lie.

use tract_onnx::tract_core::{
    internal::*,
    ops::{cnn::PoolSpec, nn::DataFormat},
};

/// Windows over images `[N, H, W, C]`; a signal of one dimension is an image one line high.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// Lines, then points of a line; as all pairs here.
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub strides: [usize; 2],
    pub dilations: [usize; 2],
    /// Points before the first one.
    pub pads: [usize; 2],
}

impl Geometry {
    /// Of a convolution or pooling over NCHW (or NCW) data of a concrete shape; `None` for others.
    pub fn of(pool: &PoolSpec, input: &[usize]) -> TractResult<Option<Self>> {
        if pool.data_format != DataFormat::NCHW
            || input.len() != pool.rank() + 2
            || !(1..=2).contains(&pool.rank())
        {
            return Ok(None);
        }
        let padding = pool.computed_padding(&input[2..]);
        let axes = 2 - pool.rank();
        let pair = |one: &dyn Fn(usize) -> usize, absent: usize| {
            [if axes == 1 { absent } else { one(0) }, one(1 - axes)]
        };
        let geometry = Self {
            input: pair(&|axis| input[2 + axis], 1),
            output: pair(&|axis| padding[axis].convoluted, 1),
            kernel: pair(&|axis| pool.kernel_shape[axis], 1),
            strides: pair(&|axis| pool.stride(axis), 1),
            dilations: pair(&|axis| pool.dilation(axis), 1),
            pads: pair(&|axis| padding[axis].pad_before, 0),
        };
        let empty = [geometry.input, geometry.output, geometry.kernel, geometry.strides, geometry.dilations]
            .iter()
            .any(|pair| pair.contains(&0));
        // Sums of these are to need no further checks.
        let large = [
            geometry.input,
            geometry.output,
            geometry.kernel,
            geometry.strides,
            geometry.dilations,
            geometry.pads,
        ]
        .iter()
        .any(|pair| pair.iter().any(|size| *size > 1 << 15));
        Ok((!empty && !large).then_some(geometry))
    }

    /// A window of one point at each point.
    pub fn pointwise(input: [usize; 2]) -> Self {
        Self { input, output: input, kernel: [1; 2], strides: [1; 2], dilations: [1; 2], pads: [0; 2] }
    }

    /// The same windows with the axes swapped where a line has but one point: in memory, that is one line of all points.
    pub fn wide(&self) -> Self {
        let narrow = [self.input[1], self.output[1], self.kernel[1]] == [1; 3] && self.pads[1] == 0;
        let turn = |[height, width]: [usize; 2]| if narrow { [width, height] } else { [height, width] };
        Self {
            input: turn(self.input),
            output: turn(self.output),
            kernel: turn(self.kernel),
            strides: turn(self.strides),
            dilations: turn(self.dilations),
            pads: turn(self.pads),
        }
    }

    pub fn is_pointwise(&self) -> bool {
        *self == Self::pointwise(self.input)
    }

    /// Whether each window lies inside of the image.
    pub fn is_inside(&self) -> bool {
        self.pads == [0; 2] && (0..2).all(|axis| self.span(axis, self.output[axis]) <= self.input[axis])
    }

    /// How many points of the padded input `outputs` windows in a row reach over.
    pub fn span(&self, axis: usize, outputs: usize) -> usize {
        (outputs - 1) * self.strides[axis] + (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }

    /// The taps of the window for this output that lie inside of the image, and where the first of all its taps would lie.
    pub fn taps(&self, axis: usize, output: usize) -> (std::ops::Range<usize>, isize) {
        let first = (output * self.strides[axis]).cast_signed() - self.pads[axis].cast_signed();
        let dilation = self.dilations[axis];
        let skipped = if first < 0 { first.unsigned_abs().div_ceil(dilation) } else { 0 };
        let room = (self.input[axis].cast_signed() - first).max(0).unsigned_abs();
        let end = room.div_ceil(dilation).min(self.kernel[axis]);
        (skipped.min(end)..end, first)
    }
}
