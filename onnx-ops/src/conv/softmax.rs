//! Softmax along any axis.
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
        map::exp,
    },
    kernel::Kernel,
};

/// `e^(x - m) / sum(e^(x - m))` along an axis, where `m` is the largest `x`.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    pub axis: usize,
}

impl Softmax {
    /// Rows that lie in a piece.
    #[inline(always)]
    unsafe fn rows<L: Lanes>(size: usize, from: &[f32], to: &mut [f32]) {
        for (from, to) in from.chunks_exact(size).zip(to.chunks_exact_mut(size)) {
            let whole = size - size % LANES;
            let rest = size - whole;
            // SAFETY: vectors up to `whole`, then the rest.
            unsafe {
                let (from, to) = (from.as_ptr(), to.as_mut_ptr());
                let mut most = L::splat(f32::NEG_INFINITY);
                for at in (0..whole).step_by(LANES) {
                    most = L::max(most, L::load(from.add(at)));
                }
                let mut largest = L::largest(most);
                for at in whole..size {
                    largest = largest.max(*from.add(at));
                }
                let largest = L::splat(largest);
                let mut sum = L::splat(0.0);
                for at in (0..whole).step_by(LANES) {
                    let e = exp::<L>(L::sub(L::load(from.add(at)), largest));
                    L::store(to.add(at), e);
                    sum = L::add(sum, e);
                }
                let mut total = L::sum(sum);
                if rest > 0 {
                    let e = exp::<L>(L::sub(L::load_first(from.add(whole), rest), largest));
                    L::store_first(to.add(whole), e, rest);
                    for at in whole..size {
                        total += *to.add(at);
                    }
                }
                let factor = total.recip();
                for at in (0..whole).step_by(LANES) {
                    L::store(to.add(at), L::mul(L::load(to.add(at)), L::splat(factor)));
                }
                for at in whole..size {
                    *to.add(at) *= factor;
                }
            }
        }
    }

    /// Rows whose values lie `step` apart, as many side by side.
    #[inline(always)]
    unsafe fn columns<L: Lanes>(size: usize, step: usize, from: &[f32], to: &mut [f32]) {
        let block = size * step;
        for (from, to) in from.chunks_exact(block).zip(to.chunks_exact_mut(block)) {
            for first in (0..step).step_by(LANES) {
                let count = LANES.min(step - first);
                // SAFETY: `count` values of each of the block's `size` lines.
                unsafe {
                    let (from, to) = (from.as_ptr().add(first), to.as_mut_ptr().add(first));
                    let mut most = L::load_first(from, count);
                    for at in 1..size {
                        most = L::max(most, L::load_first(from.add(at * step), count));
                    }
                    let mut sum = L::splat(0.0);
                    for at in 0..size {
                        let e = exp::<L>(L::sub(L::load_first(from.add(at * step), count), most));
                        L::store_first(to.add(at * step), e, count);
                        sum = L::add(sum, e);
                    }
                    let factor = L::div(L::splat(1.0), sum);
                    for at in 0..size {
                        let to = to.add(at * step);
                        L::store_first(to, L::mul(L::load_first(to, count), factor), count);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn all<L: Lanes>(size: usize, step: usize, from: &[f32], to: &mut [f32]) {
        // SAFETY: as the caller says.
        unsafe {
            if step == 1 { Self::rows::<L>(size, from, to) } else { Self::columns::<L>(size, step, from, to) }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512(size: usize, step: usize, from: &[f32], to: &mut [f32]) {
        unsafe { Self::all::<crate::gemm::lanes::Avx512>(size, step, from, to) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(size: usize, step: usize, from: &[f32], to: &mut [f32]) {
        unsafe { Self::all::<crate::gemm::lanes::Avx2>(size, step, from, to) }
    }

    pub fn apply(isa: Isa, size: usize, step: usize, from: &[f32], to: &mut [f32]) {
        assert!(from.len() == to.len() && size > 0 && step > 0, "what there is to divide");
        // SAFETY: both have the same size; the instruction set was found on this CPU.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => Self::avx512(size, step, from, to),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => Self::avx2(size, step, from, to),
                Isa::Portable => Self::all::<Portable>(size, step, from, to),
            }
        }
    }
}

impl Kernel for Softmax {
    fn name(&self) -> &'static str {
        "AirlockSoftmax"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [input] = inputs else { bail!("a softmax of {} tensors", inputs.len()) };
        ensure!(self.axis < input.len(), "an axis that there is not");
        Ok((*input).into())
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        let (shape, from) = inputs[0];
        if !from.is_empty() {
            let step = shape[self.axis + 1..].iter().product();
            Self::apply(Isa::best(), shape[self.axis], step, from, to);
        }
        Ok(())
    }
}
