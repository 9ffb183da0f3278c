//! Sums and largest values along axes that lie side by side.
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
    },
    kernel::Kernel,
};

/// What is made of the values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Of {
    Sum,
    Largest,
}

/// A sum or the largest value along `axes` axes from `first` on, whose sizes become 1.
#[derive(Clone, Copy, Debug)]
pub struct Fold {
    pub of: Of,
    pub first: usize,
    pub axes: usize,
}

/// Vectors at a time: one waits for the one before.
const AT_ONCE: usize = 4;

impl Fold {
    #[inline(always)]
    unsafe fn start<L: Lanes>(self) -> L::V {
        unsafe { L::splat(if self.of == Of::Sum { 0.0 } else { f32::NEG_INFINITY }) }
    }

    #[inline(always)]
    unsafe fn with<L: Lanes>(self, a: L::V, b: L::V) -> L::V {
        unsafe { if self.of == Of::Sum { L::add(a, b) } else { L::max(a, b) } }
    }

    /// Of values side by side.
    #[inline(always)]
    unsafe fn row<L: Lanes>(self, from: &[f32]) -> f32 {
        let (whole, rest) = from.as_chunks::<LANES>();
        let (many, few) = whole.as_chunks::<AT_ONCE>();
        unsafe {
            let mut all = [self.start::<L>(); AT_ONCE];
            for values in many {
                for (all, values) in all.iter_mut().zip(values) {
                    *all = self.with::<L>(*all, L::load(values.as_ptr()));
                }
            }
            for (all, values) in all.iter_mut().zip(few) {
                *all = self.with::<L>(*all, L::load(values.as_ptr()));
            }
            let [a, b, c, d] = all;
            let all = self.with::<L>(self.with::<L>(a, b), self.with::<L>(c, d));
            match self.of {
                Of::Sum => L::sum(all) + rest.iter().sum::<f32>(),
                Of::Largest => rest.iter().fold(L::largest(all), |most, x| most.max(*x)),
            }
        }
    }

    /// Of values a line of `to.len()` apart, for each place of a line.
    #[inline(always)]
    unsafe fn columns<L: Lanes>(self, from: &[f32], to: &mut [f32]) {
        let step = to.len();
        for first in (0..step).step_by(AT_ONCE * LANES) {
            let counts: [usize; AT_ONCE] =
                std::array::from_fn(|n| step.saturating_sub(first + n * LANES).min(LANES));
            unsafe {
                let mut all = [self.start::<L>(); AT_ONCE];
                for line in from.chunks_exact(step) {
                    for n in 0..AT_ONCE {
                        let at = line.as_ptr().wrapping_add(first + n * LANES);
                        let values =
                            if counts[n] == LANES { L::load(at) } else { L::load_first(at, counts[n]) };
                        all[n] = self.with::<L>(all[n], values);
                    }
                }
                for n in 0..AT_ONCE {
                    L::store_first(to.as_mut_ptr().wrapping_add(first + n * LANES), all[n], counts[n]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn all<L: Lanes>(self, size: usize, step: usize, from: &[f32], to: &mut [f32]) {
        for (from, to) in from.chunks_exact(size * step).zip(to.chunks_exact_mut(step)) {
            unsafe { if step == 1 { to[0] = self.row::<L>(from) } else { self.columns::<L>(from, to) } }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512(self, size: usize, step: usize, from: &[f32], to: &mut [f32]) {
        unsafe { self.all::<crate::gemm::lanes::Avx512>(size, step, from, to) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(self, size: usize, step: usize, from: &[f32], to: &mut [f32]) {
        unsafe { self.all::<crate::gemm::lanes::Avx2>(size, step, from, to) }
    }

    pub fn apply(self, isa: Isa, size: usize, step: usize, from: &[f32], to: &mut [f32]) {
        assert!(size > 0 && step > 0 && from.len() == to.len() * size, "what there is to fold");
        // SAFETY: the sizes fit; the instruction set was found on this CPU.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => self.avx512(size, step, from, to),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => self.avx2(size, step, from, to),
                Isa::Portable => self.all::<Portable>(size, step, from, to),
            }
        }
    }
}

impl Kernel for Fold {
    fn name(&self) -> &'static str {
        "AirlockFold"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [input] = inputs else { bail!("a sum over {} tensors", inputs.len()) };
        let mut shape: TVec<usize> = (*input).into();
        let axes = shape.get_mut(self.first..self.first + self.axes).context("axes that there are not")?;
        ensure!(!axes.contains(&0), "a sum of nothing");
        axes.fill(1);
        Ok(shape)
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        let (shape, from) = inputs[0];
        let (axes, after) = shape[self.first..].split_at(self.axes);
        if !from.is_empty() {
            self.apply(Isa::best(), axes.iter().product(), after.iter().product(), from, to);
        }
        Ok(())
    }
}
