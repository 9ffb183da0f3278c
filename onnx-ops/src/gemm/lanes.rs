//! Sixteen `f32` at a time: the one vector width that the kernels are written for, in the registers that a CPU has for it.
//!
//! A kernel is a generic function over [`Lanes`], inlined into one function for each instruction set; but for the inner loop of the
//! largest tiles, which has a form of its own in [`super::avx512`].
#![expect(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "vector instructions work on raw addresses, whose bounds their callers have checked"
)]

/// How many `f32` a vector holds.
pub const LANES: usize = 16;

/// Instruction sets that kernels are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Isa {
    /// The best that this CPU runs.
    pub fn best() -> Self {
        *Self::all().first().unwrap_or(&Self::Portable)
    }

    /// All that this CPU runs, the best first.
    pub fn all() -> Vec<Self> {
        let mut all = vec![];
        #[cfg(target_arch = "x86_64")]
        {
            let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if fma && is_x86_feature_detected!("avx512f") {
                all.push(Self::Avx512);
            }
            if fma {
                all.push(Self::Avx2);
            }
        }
        all.push(Self::Portable);
        all
    }
}

/// A vector of [`LANES`] `f32`.
///
/// # Safety
/// Each method runs only on a CPU with the implementation's instruction set; those that take an address read or write
/// `LANES` values there, or the first `count` of them (`count` at most `LANES`).
pub unsafe trait Lanes {
    type V: Copy;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    /// Zero in the lanes from `count` on.
    unsafe fn load_first(from: *const f32, count: usize) -> Self::V;
    unsafe fn store_first(to: *mut f32, v: Self::V, count: usize);
    /// Has what is there, if anything is, brought nearer: factors that are read again and again.
    #[inline(always)]
    unsafe fn prefetch(_: *const f32) {}
    /// The same for values that are read once.
    #[inline(always)]
    unsafe fn prefetch_once(_: *const f32) {}
    /// The same for what is written.
    #[inline(always)]
    unsafe fn prefetch_write(_: *const f32) {}
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The same, rounded once whatever the processor.
    #[inline(always)]
    unsafe fn fused(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { Self::mul_add(a, b, c) }
    }
    /// The larger; `b` where either is not a number.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is not a number.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest whole number.
    unsafe fn round(a: Self::V) -> Self::V;
    /// 2 to the power of `n`, a whole number from -126 to 127.
    unsafe fn power_of_two(n: Self::V) -> Self::V;
    unsafe fn abs(a: Self::V) -> Self::V;
    /// `magnitude` (not negative) with the sign of `sign`.
    unsafe fn copy_sign(magnitude: Self::V, sign: Self::V) -> Self::V;
    /// The lanes' sum.
    unsafe fn sum(a: Self::V) -> f32;
    /// The largest lane.
    unsafe fn largest(a: Self::V) -> f32;
    /// Whether any lane is above a bound.
    unsafe fn any_above(a: Self::V, bound: f32) -> bool;
}

/// Plain Rust, for the compiler to make of it what the target has: SSE2, wasm's `simd128`, NEON.
pub struct Portable;

// SAFETY: plain Rust runs everywhere; addresses are as the trait says.
unsafe impl Lanes for Portable {
    type V = [f32; LANES];
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self::V {
        let mut v = [0.0; LANES];
        unsafe { std::ptr::copy_nonoverlapping(from, v.as_mut_ptr(), count) };
        v
    }
    #[inline(always)]
    unsafe fn store_first(to: *mut f32, v: Self::V, count: usize) {
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), to, count) }
    }
    #[inline(always)]
    unsafe fn add(mut a: Self::V, b: Self::V) -> Self::V {
        for i in 0..LANES {
            a[i] += b[i];
        }
        a
    }
    #[inline(always)]
    unsafe fn sub(mut a: Self::V, b: Self::V) -> Self::V {
        for i in 0..LANES {
            a[i] -= b[i];
        }
        a
    }
    #[inline(always)]
    unsafe fn mul(mut a: Self::V, b: Self::V) -> Self::V {
        for i in 0..LANES {
            a[i] *= b[i];
        }
        a
    }
    #[inline(always)]
    unsafe fn div(mut a: Self::V, b: Self::V) -> Self::V {
        for i in 0..LANES {
            a[i] /= b[i];
        }
        a
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, mut c: Self::V) -> Self::V {
        for i in 0..LANES {
            c[i] += a[i] * b[i];
        }
        c
    }
    #[inline(always)]
    unsafe fn fused(a: Self::V, b: Self::V, mut c: Self::V) -> Self::V {
        for i in 0..LANES {
            c[i] = a[i].mul_add(b[i], c[i]);
        }
        c
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, mut b: Self::V) -> Self::V {
        for i in 0..LANES {
            b[i] = if a[i] > b[i] { a[i] } else { b[i] };
        }
        b
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, mut b: Self::V) -> Self::V {
        for i in 0..LANES {
            b[i] = if a[i] < b[i] { a[i] } else { b[i] };
        }
        b
    }
    #[inline(always)]
    unsafe fn round(mut a: Self::V) -> Self::V {
        // Adding 1.5 * 2^23 leaves no bits for a fraction.
        const NO_FRACTION: f32 = 12_582_912.0;
        for x in &mut a {
            *x = (*x + NO_FRACTION) - NO_FRACTION;
        }
        a
    }
    #[inline(always)]
    unsafe fn power_of_two(mut n: Self::V) -> Self::V {
        // In 2^23 + n the mantissa ends in the bits of n.
        const NO_FRACTION: f32 = 12_582_912.0;
        for x in &mut n {
            *x = f32::from_bits((*x + (NO_FRACTION + 127.0)).to_bits() << 23);
        }
        n
    }
    #[inline(always)]
    unsafe fn abs(mut a: Self::V) -> Self::V {
        for x in &mut a {
            *x = x.abs();
        }
        a
    }
    #[inline(always)]
    unsafe fn copy_sign(mut magnitude: Self::V, sign: Self::V) -> Self::V {
        for i in 0..LANES {
            magnitude[i] = magnitude[i].copysign(sign[i]);
        }
        magnitude
    }
    #[inline(always)]
    unsafe fn sum(a: Self::V) -> f32 {
        a.iter().sum()
    }
    #[inline(always)]
    unsafe fn largest(a: Self::V) -> f32 {
        a.iter().fold(f32::NEG_INFINITY, |most, x| most.max(*x))
    }
    #[inline(always)]
    unsafe fn any_above(a: Self::V, bound: f32) -> bool {
        a.iter().any(|x| *x > bound)
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LANES, Lanes};

    /// AVX-512F: one register.
    pub struct Avx512;

    #[inline(always)]
    fn mask(count: usize) -> __mmask16 {
        let beyond = u32::try_from(LANES.saturating_sub(count)).unwrap_or(u32::MAX);
        u16::MAX.checked_shr(beyond).unwrap_or(0)
    }

    // SAFETY: the caller answers for the CPU and the addresses, as the trait says.
    unsafe impl Lanes for Avx512 {
        type V = __m512;
        #[inline(always)]
        unsafe fn prefetch(from: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
        }
        #[inline(always)]
        unsafe fn prefetch_once(from: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
        }
        #[inline(always)]
        unsafe fn prefetch_write(from: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(from.cast()) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m512) {
            unsafe { _mm512_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn load_first(from: *const f32, count: usize) -> __m512 {
            unsafe { _mm512_maskz_loadu_ps(mask(count), from) }
        }
        #[inline(always)]
        unsafe fn store_first(to: *mut f32, v: __m512, count: usize) {
            unsafe { _mm512_mask_storeu_ps(to, mask(count), v) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn round(a: __m512) -> __m512 {
            unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
        }
        #[inline(always)]
        unsafe fn power_of_two(n: __m512) -> __m512 {
            unsafe { _mm512_scalef_ps(_mm512_set1_ps(1.0), n) }
        }
        #[inline(always)]
        unsafe fn abs(a: __m512) -> __m512 {
            unsafe { _mm512_abs_ps(a) }
        }
        #[inline(always)]
        unsafe fn copy_sign(magnitude: __m512, sign: __m512) -> __m512 {
            unsafe {
                let bit = _mm512_set1_epi32(i32::MIN);
                let sign = _mm512_and_si512(_mm512_castps_si512(sign), bit);
                _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(magnitude), sign))
            }
        }
        #[inline(always)]
        unsafe fn sum(a: __m512) -> f32 {
            unsafe { _mm512_reduce_add_ps(a) }
        }
        #[inline(always)]
        unsafe fn largest(a: __m512) -> f32 {
            unsafe { _mm512_reduce_max_ps(a) }
        }
        #[inline(always)]
        unsafe fn any_above(a: __m512, bound: f32) -> bool {
            unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, _mm512_set1_ps(bound)) != 0 }
        }
    }

    /// AVX2 with FMA: two registers.
    pub struct Avx2;

    macro_rules! halves {
        ($f:ident $(, $x:ident)*) => {
            unsafe { ($f($($x.0),*), $f($($x.1),*)) }
        };
    }

    // SAFETY: the caller answers for the CPU and the addresses, as the trait says.
    unsafe impl Lanes for Avx2 {
        type V = (__m256, __m256);
        #[inline(always)]
        unsafe fn prefetch(from: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
        }
        #[inline(always)]
        unsafe fn prefetch_once(from: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
        }
        #[inline(always)]
        unsafe fn prefetch_write(from: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(from.cast()) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            let x = unsafe { _mm256_set1_ps(x) };
            (x, x)
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self::V {
            unsafe { (_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: Self::V) {
            unsafe {
                _mm256_storeu_ps(to, v.0);
                _mm256_storeu_ps(to.add(8), v.1);
            }
        }
        #[inline(always)]
        unsafe fn load_first(from: *const f32, count: usize) -> Self::V {
            let mut v = [0.0; LANES];
            unsafe {
                std::ptr::copy_nonoverlapping(from, v.as_mut_ptr(), count);
                Self::load(v.as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn store_first(to: *mut f32, v: Self::V, count: usize) {
            let mut all = [0.0; LANES];
            unsafe {
                Self::store(all.as_mut_ptr(), v);
                std::ptr::copy_nonoverlapping(all.as_ptr(), to, count);
            }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            halves!(_mm256_add_ps, a, b)
        }
        #[inline(always)]
        unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
            halves!(_mm256_sub_ps, a, b)
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            halves!(_mm256_mul_ps, a, b)
        }
        #[inline(always)]
        unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
            halves!(_mm256_div_ps, a, b)
        }
        #[inline(always)]
        unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            halves!(_mm256_fmadd_ps, a, b, c)
        }
        #[inline(always)]
        unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
            halves!(_mm256_max_ps, a, b)
        }
        #[inline(always)]
        unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
            halves!(_mm256_min_ps, a, b)
        }
        #[inline(always)]
        unsafe fn round(a: Self::V) -> Self::V {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            unsafe { (_mm256_round_ps::<NEAREST>(a.0), _mm256_round_ps::<NEAREST>(a.1)) }
        }
        #[inline(always)]
        unsafe fn power_of_two(n: Self::V) -> Self::V {
            #[inline(always)]
            unsafe fn half(n: __m256) -> __m256 {
                unsafe {
                    let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
                }
            }
            halves!(half, n)
        }
        #[inline(always)]
        unsafe fn abs(a: Self::V) -> Self::V {
            let sign = unsafe { _mm256_set1_ps(-0.0) };
            unsafe { (_mm256_andnot_ps(sign, a.0), _mm256_andnot_ps(sign, a.1)) }
        }
        #[inline(always)]
        unsafe fn copy_sign(magnitude: Self::V, sign: Self::V) -> Self::V {
            #[inline(always)]
            unsafe fn half(magnitude: __m256, sign: __m256) -> __m256 {
                unsafe { _mm256_or_ps(magnitude, _mm256_and_ps(sign, _mm256_set1_ps(-0.0))) }
            }
            halves!(half, magnitude, sign)
        }
        #[inline(always)]
        unsafe fn sum(a: Self::V) -> f32 {
            let mut all = [0.0; 8];
            unsafe { _mm256_storeu_ps(all.as_mut_ptr(), _mm256_add_ps(a.0, a.1)) };
            all.iter().sum()
        }
        #[inline(always)]
        unsafe fn largest(a: Self::V) -> f32 {
            let mut all = [0.0; 8];
            unsafe { _mm256_storeu_ps(all.as_mut_ptr(), _mm256_max_ps(a.0, a.1)) };
            all.iter().fold(f32::NEG_INFINITY, |most, x| most.max(*x))
        }
        #[inline(always)]
        unsafe fn any_above(a: Self::V, bound: f32) -> bool {
            unsafe {
                let above = _mm256_cmp_ps::<_CMP_GT_OQ>(_mm256_max_ps(a.0, a.1), _mm256_set1_ps(bound));
                _mm256_movemask_ps(above) != 0
            }
        }
    }
}
