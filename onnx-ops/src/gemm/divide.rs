//! Quotients to whole numbers, mostly without dividing.
#![expect(unsafe_code, reason = "vector instructions")]

use super::lanes::Lanes;

/// How near to the middle between two whole numbers a quotient may be by its reciprocal: nearer, the other rounding might show. In
/// a range of some hundreds the two quotients are a twenty thousandth apart at most.
const CERTAIN: f32 = 0.499;

/// `x / divisor` into a range of some hundreds, then to the nearest whole number, the even one of two; the least for what is not a
/// number.
pub struct Divide<L: Lanes> {
    divisor: L::V,
    reciprocal: L::V,
    low: L::V,
    high: L::V,
}

impl<L: Lanes> Divide<L> {
    /// # Safety
    /// The CPU has the instruction set; likewise below.
    #[inline(always)]
    pub unsafe fn new(divisor: f32, [low, high]: [f32; 2]) -> Self {
        // SAFETY: as the caller says.
        unsafe {
            let [divisor, reciprocal, low, high] = [divisor, divisor.recip(), low, high].map(|x| L::splat(x));
            Self { divisor, reciprocal, low, high }
        }
    }

    #[inline(always)]
    pub unsafe fn nearest(&self, x: L::V) -> L::V {
        // SAFETY: as the caller says.
        unsafe {
            let near = self.within(L::mul(x, self.reciprocal));
            let whole = L::round(near);
            if L::any_above(L::abs(L::sub(near, whole)), CERTAIN) {
                return L::round(self.within(L::div(x, self.divisor)));
            }
            whole
        }
    }

    #[inline(always)]
    unsafe fn within(&self, x: L::V) -> L::V {
        // SAFETY: as the caller says.
        unsafe { L::min(L::max(x, self.low), self.high) }
    }
}
