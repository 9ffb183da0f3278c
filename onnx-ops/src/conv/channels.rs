//! What else happens to channels-last data: arithmetic, joining and splitting of channels, repeating of points.
#![expect(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "vector instructions work on raw addresses, whose bounds their callers have checked"
)]

use tract_onnx::tract_core::internal::*;

use crate::{
    gemm::{
        Isa,
        lanes::{LANES, Lanes, Portable},
        map::Map,
    },
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

/// Arithmetic of two operands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
}

/// Arithmetic of a tensor with one of its shape, with one for each channel (the last axis), maybe of each image (the first), or
/// with a single value.
#[derive(Clone, Copy, Debug)]
pub struct Binary {
    pub arithmetic: Arithmetic,
    /// Whether the first operand is the smaller one.
    pub swapped: bool,
}

/// How the smaller operand lies along the other.
enum Along {
    Same,
    Channels { images: usize },
    Single,
}

impl Binary {
    fn along(large: &[usize], small: &[usize]) -> Option<Along> {
        if large == small {
            return Some(Along::Same);
        }
        if small.iter().all(|size| *size == 1) {
            return Some(Along::Single);
        }
        let (first, last) = (small.first()?, small.last()?);
        let middle = small.get(1..small.len() - 1)?.iter().all(|size| *size == 1);
        let fits = small.len() == large.len() && last == large.last()? && middle;
        (fits && (*first == 1 || *first == large[0])).then_some(Along::Channels { images: *first })
    }

    /// For operands of these shapes, if there is one.
    pub fn of(arithmetic: Arithmetic, a: &[usize], b: &[usize]) -> Option<Self> {
        if a.len() != b.len() {
            return None;
        }
        let swapped = Self::along(a, b).is_none();
        let fits = !swapped || Self::along(b, a).is_some();
        fits.then_some(Self { arithmetic, swapped })
    }

    #[inline(always)]
    unsafe fn rows<L: Lanes>(&self, large: &[f32], small: &[f32], to: &mut [f32]) {
        macro_rules! each {
            ($f:ident) => {
                for at in (0..to.len()).step_by(LANES) {
                    let count = LANES.min(to.len() - at);
                    unsafe {
                        let a = if count == LANES {
                            L::load(large.as_ptr().add(at))
                        } else {
                            L::load_first(large.as_ptr().add(at), count)
                        };
                        let b = if small.len() == 1 {
                            L::splat(small[0])
                        } else if count == LANES {
                            L::load(small.as_ptr().add(at))
                        } else {
                            L::load_first(small.as_ptr().add(at), count)
                        };
                        let result = if self.swapped { L::$f(b, a) } else { L::$f(a, b) };
                        if count == LANES {
                            L::store(to.as_mut_ptr().add(at), result);
                        } else {
                            L::store_first(to.as_mut_ptr().add(at), result, count);
                        }
                    }
                }
            };
        }
        match self.arithmetic {
            Arithmetic::Add => each!(add),
            Arithmetic::Sub => each!(sub),
            Arithmetic::Mul => each!(mul),
            Arithmetic::Div => each!(div),
            Arithmetic::Max => each!(max),
            Arithmetic::Min => each!(min),
        }
    }

    #[inline(always)]
    unsafe fn all<L: Lanes>(&self, along: &Along, large: (&[usize], &[f32]), small: &[f32], to: &mut [f32]) {
        let (shape, large) = large;
        // SAFETY: as the caller says.
        unsafe {
            match along {
                Along::Same | Along::Single => self.rows::<L>(large, small, to),
                Along::Channels { images } => {
                    let channels = shape[shape.len() - 1];
                    let per_image = to.len() / shape[0];
                    let pairs = to.chunks_exact_mut(channels).zip(large.chunks_exact(channels));
                    for (row, (to, large)) in pairs.enumerate() {
                        let image = if *images == 1 { 0 } else { row * channels / per_image };
                        self.rows::<L>(large, &small[image * channels..][..channels], to);
                    }
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512(&self, along: &Along, large: (&[usize], &[f32]), small: &[f32], to: &mut [f32]) {
        unsafe { self.all::<crate::gemm::lanes::Avx512>(along, large, small, to) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(&self, along: &Along, large: (&[usize], &[f32]), small: &[f32], to: &mut [f32]) {
        unsafe { self.all::<crate::gemm::lanes::Avx2>(along, large, small, to) }
    }
}

impl Kernel for Binary {
    fn name(&self) -> &'static str {
        "AirlockBinary"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [a, b] = inputs else { bail!("arithmetic of {} tensors", inputs.len()) };
        let (large, small) = if self.swapped { (b, a) } else { (a, b) };
        ensure!(Self::along(large, small).is_some(), "operands of shapes {a:?} and {b:?}");
        Ok((*large).into())
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        let (large, small) = if self.swapped { (inputs[1], inputs[0]) } else { (inputs[0], inputs[1]) };
        let along = Self::along(large.0, small.0).context("operands that do not fit")?;
        if to.is_empty() {
            return Ok(());
        }
        ensure!(to.len() == large.1.len(), "a result of another size");
        // SAFETY: the sizes are as the shapes say; the instruction set was found on this CPU.
        unsafe {
            match Isa::best() {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => self.avx512(&along, large, small.1, to),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => self.avx2(&along, large, small.1, to),
                Isa::Portable => self.all::<Portable>(&along, large, small.1, to),
            }
        }
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
