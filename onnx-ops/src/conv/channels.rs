//! What else happens to channels-last data: functions of single values, joining and splitting of channels, repeating of points.
use tract_onnx::tract_core::internal::*;

use crate::{
    gemm::{Isa, map::Map},
    kernel::Kernel,
};

/// A function of single values.
#[derive(Clone, Copy, Debug)]
pub struct Pointwise(pub Map);

impl Kernel for Pointwise {
    fn name(&self) -> &'static str {
        "AirlockPointwise"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [input] = inputs else { bail!("a function of {} tensors", inputs.len()) };
        Ok((*input).into())
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        to.copy_from_slice(inputs[0].1);
        self.0.apply(Isa::best(), to);
        Ok(())
    }
}

/// Joins the channels of tensors that agree in everything else.
#[derive(Clone, Copy, Debug)]
pub struct Join;

impl Kernel for Join {
    fn name(&self) -> &'static str {
        "AirlockJoin"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let (_, points) = inputs.first().and_then(|first| first.split_last()).context("nothing to join")?;
        let mut channels = 0usize;
        for input in inputs {
            let (last, rest) = input.split_last().context("a scalar")?;
            ensure!(rest == points, "tensors of different points");
            channels = channels.checked_add(*last).context("too many channels")?;
        }
        let mut shape: TVec<usize> = points.into();
        shape.push(channels);
        Ok(shape)
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        let channels: usize = inputs.iter().map(|(shape, _)| shape[shape.len() - 1]).sum();
        if to.is_empty() {
            return Ok(());
        }
        let mut first = 0;
        for (shape, from) in inputs {
            let own = shape[shape.len() - 1];
            if own > 0 {
                for (to, from) in to.chunks_exact_mut(channels).zip(from.chunks_exact(own)) {
                    to[first..first + own].copy_from_slice(from);
                }
            }
            first += own;
        }
        Ok(())
    }
}

/// Some of the channels.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub start: usize,
    pub end: usize,
}

impl Kernel for Part {
    fn name(&self) -> &'static str {
        "AirlockPart"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [input] = inputs else { bail!("a part of {} tensors", inputs.len()) };
        let mut shape: TVec<usize> = (*input).into();
        let channels = shape.last_mut().context("a scalar")?;
        ensure!(self.start < self.end && self.end <= *channels, "channels that there are not");
        *channels = self.end - self.start;
        Ok(shape)
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        let (shape, from) = inputs[0];
        let rows = from.chunks_exact(shape[shape.len() - 1]);
        for (to, from) in to.chunks_exact_mut(self.end - self.start).zip(rows) {
            to.copy_from_slice(&from[self.start..self.end]);
        }
        Ok(())
    }
}

/// Repeats each point of images `[N, H, W, C]` along both axes.
#[derive(Clone, Copy, Debug)]
pub struct Repeat {
    pub times: [usize; 2],
}

impl Kernel for Repeat {
    fn name(&self) -> &'static str {
        "AirlockRepeat"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let &[&[images, height, width, channels]] = inputs else { bail!("not one tensor of images") };
        let size = |size: usize, times: usize| size.checked_mul(times).context("too large an image");
        Ok(tvec!(images, size(height, self.times[0])?, size(width, self.times[1])?, channels))
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        let (shape, from) = inputs[0];
        let (width, channels) = (shape[2], shape[3]);
        let line = width * channels;
        if to.is_empty() {
            return Ok(());
        }
        let wide = line * self.times[1];
        for (to, from) in to.chunks_exact_mut(wide * self.times[0]).zip(from.chunks_exact(line)) {
            let (first, others) = to.split_at_mut(wide);
            for (to, from) in
                first.chunks_exact_mut(channels * self.times[1]).zip(from.chunks_exact(channels))
            {
                for to in to.chunks_exact_mut(channels) {
                    to.copy_from_slice(from);
                }
            }
            for other in others.chunks_exact_mut(wide) {
                other.copy_from_slice(first);
            }
        }
        Ok(())
    }
}
