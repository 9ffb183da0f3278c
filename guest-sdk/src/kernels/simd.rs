//! Four and eight `f32` at a time: registers of 128 bits in a guest, arrays elsewhere.
//!
//! The functions that use them name the features themselves, so that a guest has them whatever its build flags are.

#[cfg(not(target_arch = "wasm32"))]
pub(super) use portable::{F32x4, F32x8};
#[cfg(target_arch = "wasm32")]
pub(super) use wasm::{F32x4, F32x8};

#[cfg(target_arch = "wasm32")]
mod wasm {
    use std::arch::wasm32::{f32x4_relaxed_madd, f32x4_splat, i32x4_shuffle, v128, v128_load, v128_store};

    #[derive(Clone, Copy)]
    pub struct F32x4(v128);

    #[derive(Clone, Copy)]
    pub struct F32x8(v128, v128);

    impl F32x4 {
        #[inline]
        #[target_feature(enable = "simd128,relaxed-simd")]
        #[allow(unsafe_code, reason = "a register is loaded from a pointer")]
        pub fn load(from: &[f32; 4]) -> Self {
            // SAFETY: the array is 16 readable bytes, and the load asks for no alignment.
            Self(unsafe { v128_load(from.as_ptr().cast()) })
        }

        /// One element, eight times.
        #[inline]
        #[target_feature(enable = "simd128,relaxed-simd")]
        pub fn lane<const LANE: usize>(self) -> F32x8 {
            let register = i32x4_shuffle::<LANE, LANE, LANE, LANE>(self.0, self.0);
            F32x8(register, register)
        }
    }

    impl F32x8 {
        #[inline]
        #[target_feature(enable = "simd128,relaxed-simd")]
        pub fn splat(value: f32) -> Self {
            let register = f32x4_splat(value);
            Self(register, register)
        }

        #[inline]
        #[target_feature(enable = "simd128,relaxed-simd")]
        #[allow(unsafe_code, reason = "a register is loaded from a pointer")]
        pub fn load(from: &[f32; 8]) -> Self {
            let from = from.as_ptr().cast::<v128>();
            // SAFETY: the array is 32 readable bytes, and the loads ask for no alignment.
            unsafe { Self(v128_load(from), v128_load(from.add(1))) }
        }

        #[inline]
        #[target_feature(enable = "simd128,relaxed-simd")]
        #[allow(unsafe_code, reason = "a register is stored to a pointer")]
        pub fn store(self, to: &mut [f32; 8]) {
            let to = to.as_mut_ptr().cast::<v128>();
            // SAFETY: the array is 32 writable bytes, and the stores ask for no alignment.
            unsafe {
                v128_store(to, self.0);
                v128_store(to.add(1), self.1);
            }
        }

        /// `self * factor + sum`. Airlock's form of the relaxed instruction rounds once, on every host.
        #[inline]
        #[target_feature(enable = "simd128,relaxed-simd")]
        pub fn multiply_add(self, factor: Self, sum: Self) -> Self {
            Self(f32x4_relaxed_madd(self.0, factor.0, sum.0), f32x4_relaxed_madd(self.1, factor.1, sum.1))
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod portable {
    #[derive(Clone, Copy)]
    pub struct F32x4([f32; 4]);

    #[derive(Clone, Copy)]
    pub struct F32x8([f32; 8]);

    impl F32x4 {
        pub fn load(from: &[f32; 4]) -> Self {
            Self(*from)
        }

        /// One element, eight times.
        pub fn lane<const LANE: usize>(self) -> F32x8 {
            F32x8::splat(self.0[LANE])
        }
    }

    impl F32x8 {
        pub fn splat(value: f32) -> Self {
            Self([value; 8])
        }

        pub fn load(from: &[f32; 8]) -> Self {
            Self(*from)
        }

        pub fn store(self, to: &mut [f32; 8]) {
            *to = self.0;
        }

        /// `self * factor + sum`, rounded twice: without an instruction for it, rounding once is a slow call.
        pub fn multiply_add(self, factor: Self, sum: Self) -> Self {
            Self(std::array::from_fn(|lane| self.0[lane] * factor.0[lane] + sum.0[lane]))
        }
    }
}
