//! Functions of single elements or rows, in place.

use crate::{Error, Result};

/// The softmax of each row of `width` elements: positive numbers that add up to 1, in the proportions of the elements'
/// exponentials. The largest element is taken off first, so that no exponential overflows.
///
/// An element that is −∞ becomes 0. A row with a NaN or +∞, and one of nothing but −∞, becomes NaN. Results
/// below 10⁻³⁷ may be 0; what rows of some thousand elements become is otherwise right to about 10⁻⁶ of itself.
///
/// # Errors
/// If the rows do not fill `values`.
pub fn softmax(values: &mut [f32], width: usize) -> Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    if width == 0 || !values.len().is_multiple_of(width) {
        let given = values.len();
        return Err(Error::failed(format_args!("softmax: {given} elements are no rows of {width}")));
    }
    for row in values.chunks_exact_mut(width) {
        softmax_row(row);
    }
    Ok(())
}

#[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
fn softmax_row(row: &mut [f32]) {
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (maximum, value) in maxima.iter_mut().zip(chunk) {
            *maximum = larger(*maximum, *value);
        }
    }
    let largest = rest.iter().chain(&maxima).copied().fold(f32::NEG_INFINITY, larger);

    let mut sums = [0.0; LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (value, sum) in chunk.iter_mut().zip(&mut sums) {
            *value = exp(*value - largest);
            *sum += *value;
        }
    }
    for (value, sum) in rest.iter_mut().zip(&mut sums) {
        *value = exp(*value - largest);
        *sum += *value;
    }

    let scale = 1.0 / sums.iter().sum::<f32>();
    row.iter_mut().for_each(|value| *value *= scale);
}

/// `max(x, 0)` of each element; NaN stays NaN.
#[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
pub fn relu(values: &mut [f32]) {
    for value in values {
        *value = positive(*value);
    }
}

/// `x · Φ(x)` of each element, with the standard normal distribution Φ, as ONNX defines `Gelu` without approximation.
/// The absolute error is below 10⁻⁶, for `x` beyond ±10 a relative one.
#[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
pub fn gelu(values: &mut [f32]) {
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for value in chunk {
            *value = gelu_of(*value);
        }
    }
    for value in rest {
        *value = gelu_of(*value);
    }
}

/// Elements that are worked on together, so that there are few ends of loops.
const LANES: usize = 8;

/// The larger one, or NaN if there is one.
#[inline]
fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

#[inline]
fn positive(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// The complementary error function is formula 7.1.26 of Abramowitz and Stegun, whose error is below 1.5 · 10⁻⁷.
#[inline]
fn gelu_of(x: f32) -> f32 {
    // From there on the exponential is 0.
    let z = (x.abs() * std::f32::consts::FRAC_1_SQRT_2).min(10.0);
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let polynomial =
        ((((1.061_405_4 * t - 1.453_152) * t + 1.421_413_7) * t - 0.284_496_74) * t + 0.254_829_6) * t;
    let complementary = polynomial * exp(-z * z);
    // Of an infinite x the second part would be ∞ · 0.
    positive(x) - x.abs().min(f32::MAX) * 0.5 * complementary
}

/// `e^x` for `x <= 0`, 0 below -87; NaN for NaN. Free of branches, so that compilers make vector code of it.
///
/// `x` is `n ln 2 + r` with a whole `n`; a polynomial gives `e^r`, and `n` is added to the exponent of that.
#[inline]
fn exp(x: f32) -> f32 {
    // Added to a number below 2^22, it leaves the nearest whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with so few digits that its multiples are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    // The first terms of the exponential series: |r| is at most ln 2 / 2, and the next term below 6e-9.
    let mut power = 1.0 / 5040.0;
    for term in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        power = power * r + term;
    }
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()));
    if x < -87.0 { 0.0 } else { power * scale }
}
