//! Convolutions of each channel for itself, and pooling: sixteen channels at a time, in images `[N, H, W, C]`.
#![expect(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "the inner loops work on raw addresses, whose bounds are checked before"
)]
#![expect(clippy::needless_range_loop, reason = "registers and addresses are counted by the same number")]

use std::ops::Range;

use tract_onnx::tract_core::internal::*;

use super::geometry::Geometry;
use crate::gemm::{
    Isa,
    aligned::Aligned,
    lanes::{LANES, Lanes, Portable},
};

/// What is made of a window's values.
#[derive(Clone, Debug, PartialEq)]
pub enum Window {
    /// The sum of products with each point's factors, `[H, W, C]` with `C` padded to whole vectors, plus a bias for each
    /// channel, likewise padded; clamped.
    Weighted {
        factors: Aligned,
        bias: Aligned,
        low: f32,
        high: f32,
    },
    Largest,
    Sum,
    /// The mean of the values inside of the image.
    Mean,
    /// The mean of the window's values, zeros outside of the image among them.
    MeanWithPadding,
}

/// Windows over each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct ByChannel {
    pub geometry: Geometry,
    pub channels: usize,
    pub window: Window,
}

/// Images that together have more values than this are in memory, or at best in the last cache, when they are needed.
const FAR: usize = 128 * 1024;

/// How many neighbouring outputs are worked on at once.
const POINTS: usize = 8;
/// How many where there are not so many left.
const FEWER: usize = 3;

impl ByChannel {
    /// Pads each of the `[rows, channels]` values' rows to whole vectors; `value(row, channel)` gives them.
    pub fn pad(rows: usize, channels: usize, value: impl Fn(usize, usize) -> f32) -> TractResult<Aligned> {
        let padded = channels.checked_next_multiple_of(LANES).context("too many channels")?;
        let mut all = Aligned::zeros(padded.checked_mul(rows).context("too many values")?);
        for (row, to) in all.chunks_exact_mut(padded).enumerate() {
            for (channel, to) in to[..channels].iter_mut().enumerate() {
                *to = value(row, channel);
            }
        }
        Ok(all)
    }

    pub fn run(&self, isa: Isa, images: usize, from: &[f32], to: &mut [f32]) -> TractResult<()> {
        let wide = Self { geometry: self.geometry.wide(), ..self.clone() };
        wide.run_wide(isa, images, from, to)
    }

    fn run_wide(&self, isa: Isa, images: usize, from: &[f32], to: &mut [f32]) -> TractResult<()> {
        let Geometry { input, output, kernel, .. } = self.geometry;
        ensure!(from.len() == images * input[0] * input[1] * self.channels, "an input of another size");
        ensure!(to.len() == images * output[0] * output[1] * self.channels, "an output of another size");
        if let Window::Weighted { factors, bias, .. } = &self.window {
            let padded = self.channels.next_multiple_of(LANES);
            ensure!(factors.len() == kernel[0] * kernel[1] * padded, "factors of another size");
            ensure!(bias.len() == padded, "a bias of another size");
        }
        let image = input[0] * input[1] * self.channels;
        let line = output[1] * self.channels;
        let far = from.len() > FAR;
        // Outputs whose whole window is inside, along a line.
        let whole = |x: &usize| self.geometry.taps(1, *x).0 == (0..kernel[1]);
        let first = (0..output[1]).find(whole).unwrap_or(output[1]);
        let whole = first..(first..output[1]).find(|x| !whole(x)).unwrap_or(output[1]);
        for (number, to) in to.chunks_exact_mut(output[0] * line).enumerate() {
            let from = &from[number * image..][..image];
            for (y, to) in to.chunks_exact_mut(line).enumerate() {
                // SAFETY: the sizes are checked above; the instruction set was found on this CPU.
                unsafe {
                    match isa {
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx512 => self.line_avx512(y, &whole, far, from, to),
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx2 => self.line_avx2(y, &whole, far, from, to),
                        Isa::Portable => self.line::<Portable>(y, &whole, far, from, to),
                    }
                }
            }
        }
        Ok(())
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn line_avx512(&self, y: usize, whole: &Range<usize>, far: bool, from: &[f32], to: &mut [f32]) {
        unsafe { self.line::<crate::gemm::lanes::Avx512>(y, whole, far, from, to) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn line_avx2(&self, y: usize, whole: &Range<usize>, far: bool, from: &[f32], to: &mut [f32]) {
        unsafe { self.line::<crate::gemm::lanes::Avx2>(y, whole, far, from, to) }
    }

    /// The lines of the input that the next line of the output is the first to need.
    fn next_lines(&self, y: usize) -> Range<usize> {
        let Geometry { input, kernel, strides, dilations, pads, .. } = self.geometry;
        let seen = (y * strides[0] + (kernel[0] - 1) * dilations[0] + 1).saturating_sub(pads[0]);
        seen.min(input[0])..(seen + strides[0]).min(input[0])
    }

    /// One line of the output. Meanwhile what the next one needs is brought nearer, if that is `far`.
    #[inline(always)]
    unsafe fn line<L: Lanes>(&self, y: usize, whole: &Range<usize>, far: bool, from: &[f32], to: &mut [f32]) {
        let Geometry { input, output, strides, .. } = self.geometry;
        let next = if far { self.next_lines(y) } else { 0..0 };
        let (rows, top) = self.geometry.taps(0, y);
        let mut x = 0;
        while x < output[1] {
            let points = match whole.end.saturating_sub(x) {
                _ if x < whole.start => 1,
                POINTS.. => POINTS,
                FEWER.. => FEWER,
                _ => 1,
            };
            let (columns, left) = self.geometry.taps(1, x);
            let corner = (top * input[1].cast_signed() + left) * self.channels.cast_signed();
            let taps = Taps { rows: rows.clone(), columns, corner };
            for channel in (0..self.channels).step_by(LANES) {
                // SAFETY: as the caller says; the window's taps and channels are inside of the image.
                unsafe {
                    let from = from.as_ptr().add(channel);
                    for line in next.clone() {
                        for point in x * strides[1]..(x + points) * strides[1] {
                            L::prefetch(from.wrapping_add((line * input[1] + point) * self.channels));
                        }
                    }
                    let to = to.as_mut_ptr().add(x * self.channels + channel);
                    match points {
                        POINTS => self.windows::<L, POINTS>(&taps, channel, from, to),
                        FEWER => self.windows::<L, FEWER>(&taps, channel, from, to),
                        _ => self.windows::<L, 1>(&taps, channel, from, to),
                    }
                }
            }
            x += points;
        }
    }

    /// `N` neighbouring outputs for the vector of channels from `channel` on; all of them have the same taps.
    #[inline(always)]
    unsafe fn windows<L: Lanes, const N: usize>(
        &self,
        taps: &Taps,
        channel: usize,
        from: *const f32,
        to: *mut f32,
    ) {
        let Geometry { input, kernel, strides, dilations, .. } = self.geometry;
        let Taps { rows, columns, corner } = taps;
        let count = LANES.min(self.channels - channel);
        let padded = self.channels.next_multiple_of(LANES);
        let step = strides[1] * self.channels;
        let (line, point) = (dilations[0] * input[1] * self.channels, dilations[1] * self.channels);
        // The first tap of all may be outside; those that are looked at are not.
        let from = from.wrapping_offset(*corner);
        unsafe {
            let start = match &self.window {
                Window::Weighted { bias, .. } => L::load(bias.as_ptr().add(channel)),
                Window::Largest => L::splat(f32::NEG_INFINITY),
                _ => L::splat(0.0),
            };
            let mut acc = [start; N];
            macro_rules! each_tap {
                (|$tap:ident| $factor:expr, |$x:ident, $n:ident, $f:ident| $value:expr) => {
                    for row in rows.clone() {
                        let at = from.wrapping_add(row * line);
                        for column in columns.clone() {
                            let at = at.wrapping_add(column * point);
                            let $tap = row * kernel[1] + column;
                            let $f = $factor;
                            for $n in 0..N {
                                let $x = load::<L>(at.add($n * step), count);
                                acc[$n] = $value;
                            }
                        }
                    }
                };
            }
            match &self.window {
                Window::Weighted { factors, .. } => {
                    let factors = factors.as_ptr().add(channel);
                    each_tap!(|tap| L::load(factors.add(tap * padded)), |x, n, f| L::mul_add(x, f, acc[n]));
                }
                Window::Largest => each_tap!(|_tap| (), |x, n, _f| L::max(x, acc[n])),
                _ => each_tap!(|_tap| (), |x, n, _f| L::add(x, acc[n])),
            }
            let inside = rows.len() * columns.len();
            for n in 0..N {
                let value = match &self.window {
                    Window::Weighted { low, high, .. } => {
                        L::min(L::splat(*high), L::max(L::splat(*low), acc[n]))
                    }
                    Window::Largest | Window::Sum => acc[n],
                    Window::Mean => L::div(acc[n], L::splat(inside as f32)),
                    Window::MeanWithPadding => L::div(acc[n], L::splat((kernel[0] * kernel[1]) as f32)),
                };
                let to = to.add(n * self.channels);
                if count == LANES { L::store(to, value) } else { L::store_first(to, value, count) }
            }
        }
    }
}

/// The taps of a window that are inside of the image, and where its first one is, in values from the image's.
struct Taps {
    rows: Range<usize>,
    columns: Range<usize>,
    corner: isize,
}

#[inline(always)]
unsafe fn load<L: Lanes>(from: *const f32, count: usize) -> L::V {
    unsafe { if count == LANES { L::load(from) } else { L::load_first(from, count) } }
}
