//! Resizing by convolution, in Pillow's arithmetic: weights of 22 fractional bits, columns first, then rows, and 8
//! bits between the two. The results equal Pillow's `Image.resize` to the last bit.

use std::{f64::consts::PI, str::FromStr};

use crate::Image;

/// How a pixel is made of its neighbours. All of them widen with the factor by which an image shrinks, so that none
/// of its pixels is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    Box,
    Bilinear,
    Bicubic,
    Lanczos,
}

impl FromStr for Interpolation {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "box" => Ok(Self::Box),
            "bilinear" => Ok(Self::Bilinear),
            "bicubic" => Ok(Self::Bicubic),
            "lanczos" => Ok(Self::Lanczos),
            _ => Err("expected box, bilinear, bicubic or lanczos"),
        }
    }
}

impl Interpolation {
    /// Half the width of the filter, in pixels of the larger image.
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    /// The filter's value at distance `x` of its centre.
    fn at(self, x: f64) -> f64 {
        let distance = x.abs();
        match self {
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear if distance < 1.0 => 1.0 - distance,
            Self::Bicubic if distance < 1.0 => ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0,
            Self::Bicubic if distance < 2.0 => (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A,
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }
}

/// The slope of the bicubic filter at distance 1.
const A: f64 = -0.5;

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

/// The fractional bits of a weight: what is left of 32 after 8 of a sample and 2 of overshoot.
const FRACTION: u32 = 32 - 8 - 2;

/// One pixel of the result: where its neighbours begin, and their weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

impl<const C: usize> Image<C> {
    /// The image in another size; neither may be 0.
    #[must_use]
    pub fn resize(self, width: usize, height: usize, interpolation: Interpolation) -> Self {
        let image = if width == self.width { self } else { self.resize_rows(width, interpolation) };
        if height == image.height { image } else { image.resize_columns(height, interpolation) }
    }

    fn resize_rows(&self, width: usize, interpolation: Interpolation) -> Self {
        let taps = taps(self.width, width, interpolation);
        let mut pixels = Vec::with_capacity(width * self.height);
        for row in self.pixels.chunks_exact(self.width) {
            pixels.extend(taps.iter().map(|taps| weighted(taps, row[taps.first..].iter())));
        }
        Self { width, height: self.height, pixels }
    }

    fn resize_columns(&self, height: usize, interpolation: Interpolation) -> Self {
        let mut pixels = Vec::with_capacity(self.width * height);
        for taps in taps(self.height, height, interpolation) {
            for x in 0..self.width {
                let column = self.pixels[taps.first * self.width + x..].iter().step_by(self.width);
                pixels.push(weighted(&taps, column));
            }
        }
        Self { width: self.width, height, pixels }
    }
}

fn weighted<'a, const C: usize>(taps: &Taps, pixels: impl Iterator<Item = &'a [u8; C]>) -> [u8; C] {
    let mut sums = [1i32 << (FRACTION - 1); C];
    for (weight, pixel) in taps.weights.iter().zip(pixels) {
        for (sum, sample) in sums.iter_mut().zip(pixel) {
            *sum += weight * i32::from(*sample);
        }
    }
    sums.map(|sum| (sum >> FRACTION).clamp(0, 255) as u8)
}

/// The taps of each of the `to` pixels that a line of `from` pixels becomes.
fn taps(from: usize, to: usize, interpolation: Interpolation) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let spread = scale.max(1.0);
    let support = interpolation.support() * spread;
    let taps_of = |pixel: usize| {
        let center = (pixel as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let weight = |at: usize| interpolation.at((at as f64 - center + 0.5) * (1.0 / spread));
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: f64| {
            let scaled = weight / sum * f64::from(1 << FRACTION);
            (scaled + 0.5f64.copysign(scaled)) as i32
        };
        Taps { first, weights: weights.into_iter().map(fixed).collect() }
    };
    (0..to).map(taps_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gray(width: usize, samples: &[u8]) -> Image<1> {
        let pixels = samples.iter().map(|sample| [*sample]).collect();
        Image { width, height: samples.len() / width, pixels }
    }

    #[test]
    fn the_same_size_is_the_same_image() {
        let image = gray(2, &[1, 2, 3, 4]);
        assert_eq!(image.clone().resize(2, 2, Interpolation::Lanczos), image);
    }

    #[test]
    fn halving_with_a_box_averages() {
        assert_eq!(gray(4, &[0, 10, 20, 40]).resize(2, 1, Interpolation::Box), gray(2, &[5, 30]));
    }

    // The expected rows are what Pillow answers.
    #[test]
    fn the_samples_are_pillows() {
        let resized = |interpolation| gray(8, &[0, 255, 3, 200, 7, 90, 255, 1]).resize(3, 1, interpolation);
        assert_eq!(resized(Interpolation::Box), gray(3, &[86, 104, 115]));
        assert_eq!(resized(Interpolation::Bilinear), gray(3, &[117, 92, 123]));
        assert_eq!(resized(Interpolation::Bicubic), gray(3, &[113, 93, 121]));
        assert_eq!(resized(Interpolation::Lanczos), gray(3, &[112, 99, 117]));
    }

    #[test]
    fn a_flat_image_stays_flat() {
        for interpolation in
            [Interpolation::Box, Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::Lanczos]
        {
            let resized =
                Image { width: 7, height: 5, pixels: vec![[9, 130, 255]; 35] }.resize(16, 2, interpolation);
            assert_eq!(resized.pixels, [[9, 130, 255]; 32], "{interpolation:?}");
        }
    }
}
