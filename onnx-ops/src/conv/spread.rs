//! Transposed convolutions whose windows do not overlap: each point becomes a window of points.

use tract_onnx::tract_core::internal::*;

use super::dense::After;
use crate::{
    gemm::{Isa, Line, Packed, Plan, multiply},
    kernel::Kernel,
};

/// From images `[N, H, W, I]` to `[N, H * kernel height, W * kernel width, O]`.
#[derive(Clone)]
pub struct Spread {
    pub input: [usize; 2],
    pub kernel: [usize; 2],
    pub channels: usize,
    pub outputs: usize,
    /// For each line of the window: for each of its points, each output channel's factors.
    pub lines: Vec<Packed>,
    pub after: After,
}

impl std::fmt::Debug for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { input, kernel, channels, outputs, after, .. } = self;
        write!(f, "{input:?} by {kernel:?} {channels} -> {outputs} {after:?}")
    }
}

impl Spread {
    /// Packs kernels `[O, I, H, W]`.
    pub fn pack(shape: [usize; 4], kernels: &[f32], bias: &[f32]) -> TractResult<Vec<Packed>> {
        let [outputs, inputs, height, width] = shape;
        ensure!(shape.iter().product::<usize>() == kernels.len(), "kernels of another shape");
        ensure!(bias.len() == outputs, "a bias of another length");
        let repeated: Vec<f32> = std::iter::repeat_n(bias, width).flatten().copied().collect();
        let line = |y: usize| {
            let factor = |row: usize, column: usize| {
                let (x, output) = (column / outputs, column % outputs);
                kernels[((output * inputs + row) * height + y) * width + x]
            };
            Packed::new(inputs, width * outputs, factor, Some(&repeated))
        };
        (0..height).map(line).collect()
    }

    /// With each output channel times `scale` plus `offset`, which hold one value for each, or one for all.
    pub fn scaled(&self, scale: &[f32], offset: &[f32]) -> Self {
        let of = |values: &[f32]| {
            if values.len() == 1 { values.to_vec() } else { values.repeat(self.kernel[1]) }
        };
        let lines = self.lines.iter().map(|packed| packed.scaled(&of(scale), &of(offset))).collect();
        Self { lines, ..self.clone() }
    }
}

impl Kernel for Spread {
    fn name(&self) -> &'static str {
        "AirlockSpread"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let &[&[images, height, width, channels]] = inputs else { bail!("not one tensor of images") };
        ensure!([height, width] == self.input && channels == self.channels, "images of another shape");
        Ok(tvec!(images, height * self.kernel[0], width * self.kernel[1], self.outputs))
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        let (shape, from) = inputs[0];
        let [height, width] = self.input;
        let isa = Isa::best();
        let line = width * self.kernel[1] * self.outputs;
        for image_line in 0..shape[0] * height {
            let from = &from[image_line * width * self.channels..][..width * self.channels];
            let to = &mut to[image_line * self.kernel[0] * line..][..self.kernel[0] * line];
            for (packed, to) in self.lines.iter().zip(to.chunks_exact_mut(line)) {
                let (low, high) = self.after.clamp;
                let plan = Plan {
                    isa,
                    step: self.channels,
                    segments: &[0],
                    run: self.channels,
                    result_step: packed.columns(),
                    low,
                    high,
                    far: false,
                };
                multiply(&plan, &[Line { from: 0, to: 0, rows: width }], from, packed, None, to);
                if let Some(map) = &self.after.map {
                    map.apply(isa, to);
                }
            }
        }
        Ok(())
    }
}
