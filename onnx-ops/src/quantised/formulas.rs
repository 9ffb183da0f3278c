//! Scales, zero points and roundings, one value at a time: what ONNX Runtime's kernels of an x86 processor do.

/// How a tensor is quantised: `(q - zero) * scale`, with `q` a byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    pub scale: f32,
    pub zero: i32,
    /// Whether the file has signed bytes.
    pub signed: bool,
}

/// How many numbers a byte can be.
pub const LEVELS: usize = 256;

impl Grid {
    fn bytes(&self) -> [i32; 2] {
        if self.signed { [-128, 127] } else { [0, 255] }
    }

    /// The least and the largest byte, less the zero point.
    pub fn range(&self) -> [f32; 2] {
        self.bytes().map(|byte| whole(byte - self.zero))
    }

    /// All bytes, less the zero point.
    pub fn all(&self) -> impl Iterator<Item = f32> {
        let [low, high] = self.bytes();
        let zero = self.zero;
        (low..=high).map(move |byte| whole(byte - zero))
    }

    pub fn zero_point(&self) -> f32 {
        whole(self.zero)
    }

    /// What `QuantizeLinear` makes of a number, less the zero point.
    pub fn nearest(&self, x: f32) -> f32 {
        nearest(x / self.scale, self.range())
    }
}

/// Of some hundreds.
#[expect(clippy::cast_precision_loss, reason = "some hundreds")]
fn whole(number: i32) -> f32 {
    number as f32
}

/// Into the range, then to the nearest whole number, the even one of two; what is not a number is the least.
pub fn nearest(x: f32, [low, high]: [f32; 2]) -> f32 {
    // Not -0.
    x.max(low).min(high).round_ties_even() + 0.0
}

/// The sum of two quantised tensors (`QLinearAdd`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sum {
    pub ratios: [f32; 2],
    pub zeros: [f32; 2],
    /// What does not depend on the values.
    pub fixed: f32,
    /// The result's zero point, and its range less that.
    pub zero: f32,
    pub range: [f32; 2],
}

impl Sum {
    pub fn new(a: Grid, b: Grid, result: Grid) -> Self {
        let ratios = [a.scale / result.scale, b.scale / result.scale];
        Self::of_ratios(ratios, [a.zero_point(), b.zero_point()], result.zero_point(), result.range())
    }

    fn of_ratios(ratios: [f32; 2], zeros: [f32; 2], zero: f32, range: [f32; 2]) -> Self {
        let fixed = zero - ratios[0].mul_add(zeros[0], ratios[1] * zeros[1]);
        Self { ratios, zeros, fixed, zero, range }
    }

    pub fn of(&self, a: f32, b: f32) -> f32 {
        let sum = (b + self.zeros[1]).mul_add(self.ratios[1], self.fixed);
        self.rounded((a + self.zeros[0]).mul_add(self.ratios[0], sum))
    }

    fn rounded(&self, sum: f32) -> f32 {
        nearest(sum, self.range.map(|bound| bound + self.zero)) - self.zero
    }

    /// With its operands in the other order, which other roundings come of.
    pub fn swapped(self) -> Self {
        let ([a, b], [zero_a, zero_b]) = (self.ratios, self.zeros);
        Self::of_ratios([b, a], [zero_b, zero_a], self.zero, self.range)
    }
}

/// The product of two quantised tensors (`QLinearMul`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    pub ratio: f32,
    /// The result's zero point, and its range less that.
    pub zero: f32,
    pub range: [f32; 2],
}

impl Product {
    pub fn new(a: Grid, b: Grid, result: Grid) -> Self {
        Self { ratio: a.scale * b.scale / result.scale, zero: result.zero_point(), range: result.range() }
    }

    pub fn of(&self, a: f32, b: f32) -> f32 {
        nearest(a * b * self.ratio + self.zero, self.range.map(|bound| bound + self.zero)) - self.zero
    }
}

/// The factor by which sums of products become bytes of the result.
pub fn requantised(a: f32, b: f32, result: f32) -> f32 {
    a * b / result
}

/// `e^x` for `x` from 255 steps below the largest to the largest, all of them times the same: the sum of `count` of them is a
/// number (`QLinearSoftmax`).
pub fn exponentials(scale: f32, count: usize) -> Vec<f32> {
    #[expect(clippy::cast_precision_loss, reason = "as ONNX Runtime has it")]
    let most = f64::from((f32::MAX / count as f32).ln());
    let scale = f64::from(scale);
    let shift = (most - 5.0).max(0.0) / scale;
    #[expect(clippy::cast_possible_truncation, reason = "rounded to single precision")]
    let exponential = |step: i32| ((f64::from(step) - 255.0 + shift) * scale).exp() as f32;
    (0..=255).map(exponential).collect()
}
