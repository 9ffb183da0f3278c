//! Kernels on bytes that are kept as `f32`, less their zero point: see [`crate::quantised`]. Channels are last.
#![expect(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "vector instructions work on raw addresses, whose bounds their callers have checked"
)]

use tract_onnx::tract_core::internal::*;

use crate::{
    gemm::{
        Isa,
        aligned::Aligned,
        divide::Divide,
        lanes::{LANES, Lanes, Portable},
    },
    kernel::Kernel,
};

/// For each channel `x * factor * scale + offset`, then `/ divisor` to whole numbers of a range. Each step is rounded.
#[derive(Clone, Debug)]
pub struct Normalise {
    factor: f32,
    channels: usize,
    /// Like `offset`, one for each channel, and again until they are whole vectors.
    scale: Aligned,
    offset: Aligned,
    divisor: f32,
    range: [f32; 2],
}

impl Normalise {
    /// With a scale and an offset for each channel.
    pub fn new(
        factor: f32,
        [scale, offset]: [&[f32]; 2],
        divisor: f32,
        range: [f32; 2],
    ) -> TractResult<Self> {
        let channels = scale.len();
        ensure!(channels > 0 && offset.len() == channels, "other lists");
        let times = (1..=LANES).find(|times| (channels * times).is_multiple_of(LANES)).unwrap_or(LANES);
        let [scale, offset] = [scale, offset].map(|values| Aligned::from(&*values.repeat(times)));
        Ok(Self { factor, channels, scale, offset, divisor, range })
    }

    pub fn channels(&self) -> usize {
        self.channels
    }

    #[inline(always)]
    unsafe fn all<L: Lanes>(&self, from: &[f32], to: &mut [f32]) {
        let width = self.scale.len();
        unsafe {
            let (factor, divide) = (L::splat(self.factor), Divide::<L>::new(self.divisor, self.range));
            for (from, to) in from.chunks(width).zip(to.chunks_mut(width)) {
                for at in (0..from.len()).step_by(LANES) {
                    let count = LANES.min(from.len() - at);
                    let (from, to) = (from.as_ptr().add(at), to.as_mut_ptr().add(at));
                    let [scale, offset] =
                        [&self.scale, &self.offset].map(|values| L::load(values.as_ptr().add(at)));
                    let x = if count == LANES { L::load(from) } else { L::load_first(from, count) };
                    let x = divide.nearest(L::add(L::mul(L::mul(x, factor), scale), offset));
                    if count == LANES { L::store(to, x) } else { L::store_first(to, x, count) }
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512(&self, from: &[f32], to: &mut [f32]) {
        unsafe { self.all::<crate::gemm::lanes::Avx512>(from, to) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(&self, from: &[f32], to: &mut [f32]) {
        unsafe { self.all::<crate::gemm::lanes::Avx2>(from, to) }
    }

    pub fn apply(&self, isa: Isa, from: &[f32], to: &mut [f32]) {
        assert_eq!(from.len(), to.len(), "as many results as values");
        // SAFETY: whole vectors of scales and offsets; the instruction set was found on this CPU.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => self.avx512(from, to),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => self.avx2(from, to),
                Isa::Portable => self.all::<Portable>(from, to),
            }
        }
    }
}

impl Kernel for Normalise {
    fn name(&self) -> &'static str {
        "AirlockNormalise"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [input] = inputs else { bail!("numbers of {} tensors", inputs.len()) };
        ensure!(input.last() == Some(&self.channels), "another number of channels");
        Ok((*input).into())
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        self.apply(Isa::best(), inputs[0].1, to);
        Ok(())
    }
}

/// The mean of each channel's `x * factor`, then `/ divisor` to whole numbers of a range. It is added up as ONNX Runtime does: in
/// four sums, of every fourth point each, and then the points that are left.
#[derive(Clone, Debug)]
pub struct Mean {
    pub factor: f32,
    pub divisor: f32,
    pub range: [f32; 2],
}

/// Sums that are kept apart.
const SUMS: usize = 4;

impl Mean {
    fn image(&self, channels: usize, from: &[f32], to: &mut [f32]) {
        let points = from.len() / channels;
        let whole = points - points % SUMS;
        #[expect(clippy::cast_precision_loss, reason = "as ONNX Runtime has it")]
        let count = points as f32;
        let mut sums = vec![0.0; SUMS * channels];
        for (point, values) in from.chunks_exact(channels).enumerate().take(whole) {
            let sums = &mut sums[point % SUMS * channels..][..channels];
            for (sum, x) in sums.iter_mut().zip(values) {
                *sum += x * self.factor;
            }
        }
        let (front, back) = sums.split_at_mut(2 * channels);
        for (a, b) in front.iter_mut().zip(back) {
            *a += *b;
        }
        let (first, second) = front.split_at_mut(channels);
        for (a, b) in first.iter_mut().zip(second) {
            *a += *b;
        }
        for values in from.chunks_exact(channels).skip(whole) {
            for (sum, x) in first.iter_mut().zip(values) {
                *sum += x * self.factor;
            }
        }
        let [low, high] = self.range;
        for (to, sum) in to.iter_mut().zip(first) {
            *to = (*sum / count / self.divisor).max(low).min(high).round_ties_even();
        }
    }
}

impl Kernel for Mean {
    fn name(&self) -> &'static str {
        "AirlockMean"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [input] = inputs else { bail!("a mean of {} tensors", inputs.len()) };
        ensure!((3..=4).contains(&input.len()) && !input.contains(&0), "a mean of shape {input:?}");
        let points = 1..input.len() - 1;
        let one = |(axis, size): (usize, &usize)| if points.contains(&axis) { 1 } else { *size };
        Ok(input.iter().enumerate().map(one).collect())
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        let (shape, from) = inputs[0];
        let channels = shape[shape.len() - 1];
        let images = from.chunks_exact(from.len() / shape[0]);
        for (from, to) in images.zip(to.chunks_exact_mut(channels)) {
            self.image(channels, from, to);
        }
        Ok(())
    }
}

/// Softmax of bytes: each value's share, in steps of one `levels`th.
#[derive(Clone, Debug)]
pub struct Softmax {
    /// How many values are shares of one whole, and how far apart they lie.
    pub size: usize,
    pub step: usize,
    /// `e^x` by how far below the largest value `x` is: 255 steps first, none last.
    pub exponentials: Vec<f32>,
    pub levels: f32,
    /// The largest byte, less the zero point.
    pub most: f32,
}

impl Softmax {
    fn shares(&self, first: usize, from: &[f32], to: &mut [f32]) {
        let places = || (0..self.size).map(|index| first + index * self.step);
        let most = places().fold(f32::NEG_INFINITY, |most, place| most.max(from[place]));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 255 below")]
        let of = |x: f32| self.exponentials[255 - usize::from((most - x) as u8)];
        let sum = places().fold(0.0, |sum, place| sum + of(from[place]));
        for place in places() {
            to[place] = (of(from[place]) * self.levels / sum).round_ties_even().min(self.most);
        }
    }
}

impl Kernel for Softmax {
    fn name(&self) -> &'static str {
        "AirlockQuantisedSoftmax"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [input] = inputs else { bail!("softmax of {} tensors", inputs.len()) };
        Ok((*input).into())
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        let block = self.size * self.step;
        for (from, to) in inputs[0].1.chunks_exact(block).zip(to.chunks_exact_mut(block)) {
            (0..self.step).for_each(|first| self.shares(first, from, to));
        }
        Ok(())
    }
}
