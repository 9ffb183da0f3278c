//! Functions of single values.
#![expect(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "vector instructions work on raw addresses, whose bounds their callers have checked"
)]

use super::{
    divide::Divide,
    lanes::{Isa, LANES, Lanes, Portable},
};

/// What a value is multiplied with, as a function of the value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gate {
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// `min(max(x * scale + offset, low), high)`
    Clamp { scale: f32, offset: f32, low: f32, high: f32 },
    /// `min(max(x * scale, low), high)`, to the nearest whole number
    Whole { scale: f32, low: f32, high: f32 },
    /// `x / divisor` to the nearest whole number of a range of some hundreds: see [`Divide`]
    Quotient { divisor: f32, low: f32, high: f32 },
    /// `1 + erf(x / sqrt(2))`
    OnePlusErf,
    /// 1 / (1 + e^-(x * scale + x^3 * cube)), which is `(1 + tanh(y)) / 2` where the exponent is `-2 y`.
    Cubic { scale: f32, cube: f32 },
}

/// A function that is applied to each value of a tensor: `x * gate(x) * factor + term`, or without `x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Map {
    pub gate: Gate,
    pub times_x: bool,
    pub factor: f32,
    pub term: f32,
}

impl Map {
    pub fn new(gate: Gate, times_x: bool) -> Self {
        Self { gate, times_x, factor: 1.0, term: 0.0 }
    }

    pub fn apply(&self, isa: Isa, values: &mut [f32]) {
        // SAFETY: the instruction set was found on this CPU.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => self.avx512(values),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => self.avx2(values),
                Isa::Portable => self.all::<Portable>(values),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512(&self, values: &mut [f32]) {
        unsafe { self.all::<super::lanes::Avx512>(values) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(&self, values: &mut [f32]) {
        unsafe { self.all::<super::lanes::Avx2>(values) }
    }

    #[inline(always)]
    unsafe fn all<L: Lanes>(&self, values: &mut [f32]) {
        // SAFETY: as the caller says.
        let (factor, term) = unsafe { (L::splat(self.factor), L::splat(self.term)) };
        macro_rules! each {
            ($x:ident => $gate:expr) => {{
                let (whole, rest) = values.as_chunks_mut::<LANES>();
                for values in whole {
                    let $x = L::load(values.as_ptr());
                    let gate = $gate;
                    let y = if self.times_x { L::mul($x, gate) } else { gate };
                    L::store(values.as_mut_ptr(), L::mul_add(y, factor, term));
                }
                let $x = L::load_first(rest.as_ptr(), rest.len());
                let gate = $gate;
                let y = if self.times_x { L::mul($x, gate) } else { gate };
                L::store_first(rest.as_mut_ptr(), L::mul_add(y, factor, term), rest.len());
            }};
        }
        // SAFETY: as the caller says; the addresses are of whole vectors, or of the rest.
        unsafe {
            let (zero, one) = (L::splat(0.0), L::splat(1.0));
            match self.gate {
                Gate::Sigmoid => each!(x => L::div(one, L::add(one, exp::<L>(L::sub(zero, x))))),
                Gate::Clamp { scale, offset, low, high } => each!(x => {
                    let gate = L::mul_add(x, L::splat(scale), L::splat(offset));
                    L::min(L::splat(high), L::max(L::splat(low), gate))
                }),
                Gate::Whole { scale, low, high } => each!(x => {
                    L::round(L::min(L::splat(high), L::max(L::splat(low), L::mul(x, L::splat(scale)))))
                }),
                Gate::Quotient { divisor, low, high } => {
                    let divide = Divide::<L>::new(divisor, [low, high]);
                    each!(x => divide.nearest(x))
                }
                Gate::OnePlusErf => {
                    each!(x => L::add(one, erf::<L>(L::mul(x, L::splat(std::f32::consts::FRAC_1_SQRT_2)))))
                }
                Gate::Cubic { scale, cube } => each!(x => {
                    let y = L::mul(x, L::mul_add(L::mul(x, x), L::splat(cube), L::splat(scale)));
                    L::div(one, L::add(one, exp::<L>(L::sub(zero, y))))
                }),
            }
        }
    }
}

/// e^x, by 2^n with the rest of the exponent between -ln(2)/2 and ln(2)/2 and a polynomial of degree 6 for it (its Taylor
/// series, whose next term is below 2e-7 there).
#[inline(always)]
pub unsafe fn exp<L: Lanes>(x: L::V) -> L::V {
    // SAFETY: as the caller says.
    unsafe {
        // Beyond these, results are infinite or not normal.
        let x = L::min(L::splat(88.0), L::max(L::splat(-87.0), x));
        let n = L::round(L::mul(x, L::splat(std::f32::consts::LOG2_E)));
        // ln(2) in two parts, for the product to be exact.
        let r = L::mul_add(n, L::splat(-0.693_359_4), x);
        let r = L::mul_add(n, L::splat(2.121_944_4e-4), r);
        let mut y = L::splat(1.0 / 720.0);
        for term in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            y = L::mul_add(y, r, L::splat(term));
        }
        L::mul(y, L::power_of_two(n))
    }
}

/// The error function, to 1.5e-7 (Abramowitz and Stegun, "Handbook of Mathematical Functions", 7.1.26).
#[inline(always)]
unsafe fn erf<L: Lanes>(x: L::V) -> L::V {
    // SAFETY: as the caller says.
    unsafe {
        let one = L::splat(1.0);
        let z = L::abs(x);
        let t = L::div(one, L::mul_add(z, L::splat(0.327_591_1), one));
        let mut y = L::splat(1.061_405_4);
        for term in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
            y = L::mul_add(y, t, L::splat(term));
        }
        let tail = L::mul(L::mul(y, t), exp::<L>(L::sub(L::splat(0.0), L::mul(z, z))));
        L::copy_sign(L::sub(one, tail), x)
    }
}
