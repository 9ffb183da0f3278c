//! Arithmetic of two tensors, of which either may be repeated along axes.
#![expect(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "vector instructions work on raw addresses, whose bounds their callers have checked"
)]

use tract_onnx::tract_core::internal::*;

use crate::{
    gemm::{
        Isa,
        divide::Divide,
        lanes::{LANES, Lanes, Portable},
    },
    kernel::Kernel,
    quantised::formulas::{self, Product, Sum},
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
    /// Of bytes that are kept as `f32`, less their zero points, like the two below: see [`crate::quantised`].
    QuantisedSum(formulas::Sum),
    QuantisedProduct(formulas::Product),
    /// The sum or the product of `a * factors[0]` and `b * factors[1]`, divided, to whole numbers of a range.
    OfNumbers {
        sum: bool,
        factors: [f32; 2],
        divisor: f32,
        range: [f32; 2],
    },
}

/// Arithmetic of two tensors of the same rank; where one's size is 1, it is repeated along the other's axis.
#[derive(Clone, Copy, Debug)]
pub struct Binary(pub Arithmetic);

/// Neighbouring axes along which each operand is one piece, or one value: their size together, and each operand's step.
#[derive(Clone, Copy, Debug)]
struct Axes {
    size: usize,
    steps: [usize; 2],
}

impl Binary {
    /// The shape of the result, if the operands fit.
    pub fn shape_of(a: &[usize], b: &[usize]) -> Option<TVec<usize>> {
        let size = |(a, b): (&usize, &usize)| match (*a, *b) {
            (a, b) if a == b || b == 1 => Some(a),
            (1, b) => Some(b),
            _ => None,
        };
        if a.len() == b.len() { a.iter().zip(b).map(size).collect() } else { None }
    }

    /// The axes in as few pieces as there can be, the last one first.
    fn axes(a: &[usize], b: &[usize]) -> Vec<Axes> {
        let mut all: Vec<Axes> = vec![];
        let mut steps = [1; 2];
        for (a, b) in a.iter().zip(b).rev() {
            let size = *a.max(b);
            let own = [*a, *b].map(|own| own == size);
            let axes =
                Axes { size, steps: std::array::from_fn(|side| if own[side] { steps[side] } else { 0 }) };
            steps = [steps[0] * a, steps[1] * b];
            match all.last_mut() {
                _ if size == 1 => {}
                Some(last) if [0, 1].map(|side| last.steps[side] > 0) == own => last.size *= size,
                _ => all.push(axes),
            }
        }
        all
    }

    /// Of operands with their shapes.
    pub fn apply(&self, isa: Isa, [a, b]: [(&[usize], &[f32]); 2], to: &mut [f32]) -> TractResult<()> {
        let shape = Self::shape_of(a.0, b.0).context("operands that do not fit")?;
        ensure!(to.len() == shape.iter().product::<usize>(), "a result of another size");
        if to.is_empty() {
            return Ok(());
        }
        let mut axes = Self::axes(a.0, b.0);
        if axes.is_empty() {
            axes.push(Axes { size: 1, steps: [0; 2] });
        }
        let operands = [a.1, b.1];
        // SAFETY: the sizes are as the shapes say; the instruction set was found on this CPU.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => self.avx512(&axes, operands, to),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => self.avx2(&axes, operands, to),
                Isa::Portable => self.all::<Portable>(&axes, operands, to),
            }
        }
        Ok(())
    }

    #[inline(always)]
    unsafe fn piece<L: Lanes>(&self, a: &[f32], b: &[f32], to: &mut [f32]) {
        macro_rules! each {
            ($f:ident) => {
                each!(|a, b| L::$f(a, b))
            };
            (|$a:ident, $b:ident| $result:expr) => {
                for at in (0..to.len()).step_by(LANES) {
                    let count = LANES.min(to.len() - at);
                    unsafe {
                        let ($a, $b) = (operand::<L>(a, at, count), operand::<L>(b, at, count));
                        let result = $result;
                        if count == LANES {
                            L::store(to.as_mut_ptr().add(at), result);
                        } else {
                            L::store_first(to.as_mut_ptr().add(at), result, count);
                        }
                    }
                }
            };
        }
        match self.0 {
            Arithmetic::Add => each!(add),
            Arithmetic::Sub => each!(sub),
            Arithmetic::Mul => each!(mul),
            Arithmetic::Div => each!(div),
            Arithmetic::Max => each!(max),
            Arithmetic::Min => each!(min),
            Arithmetic::QuantisedSum(Sum { ratios, zeros, fixed, zero, range }) => {
                let splat = |x: f32| unsafe { L::splat(x) };
                let ([a_ratio, b_ratio], [a_zero, b_zero]) = (ratios.map(splat), zeros.map(splat));
                let [low, high] = range.map(|bound| splat(bound + zero));
                let (fixed, zero) = (splat(fixed), splat(zero));
                each!(|a, b| {
                    let sum = L::fused(L::add(b, b_zero), b_ratio, fixed);
                    let sum = L::fused(L::add(a, a_zero), a_ratio, sum);
                    L::sub(L::round(L::min(L::max(sum, low), high)), zero)
                });
            }
            Arithmetic::QuantisedProduct(Product { ratio, zero, range }) => {
                let splat = |x: f32| unsafe { L::splat(x) };
                let [low, high] = range.map(|bound| splat(bound + zero));
                let (ratio, zero) = (splat(ratio), splat(zero));
                each!(|a, b| {
                    let product = L::add(L::mul(L::mul(a, b), ratio), zero);
                    L::sub(L::round(L::min(L::max(product, low), high)), zero)
                });
            }
            Arithmetic::OfNumbers { sum, factors, divisor, range } => {
                let [a_factor, b_factor] = factors.map(|factor| unsafe { L::splat(factor) });
                let divide = unsafe { Divide::<L>::new(divisor, range) };
                each!(|a, b| {
                    let (a, b) = (L::mul(a, a_factor), L::mul(b, b_factor));
                    divide.nearest(if sum { L::add(a, b) } else { L::mul(a, b) })
                });
            }
        }
    }

    #[inline(always)]
    unsafe fn all<L: Lanes>(&self, axes: &[Axes], [a, b]: [&[f32]; 2], to: &mut [f32]) {
        let Some((inner, outer)) = axes.split_first() else { return };
        let mut places = vec![0; outer.len()];
        let mut at = [0; 2];
        for to in to.chunks_exact_mut(inner.size) {
            let length = inner.steps.map(|step| if step == 0 { 1 } else { inner.size });
            // SAFETY: as the caller says.
            unsafe { self.piece::<L>(&a[at[0]..][..length[0]], &b[at[1]..][..length[1]], to) };
            for (place, axes) in places.iter_mut().zip(outer) {
                *place += 1;
                if *place < axes.size {
                    at = [at[0] + axes.steps[0], at[1] + axes.steps[1]];
                    break;
                }
                // Back to the first of the axis, and on with the next one.
                *place = 0;
                at = [0, 1].map(|side| at[side] - axes.steps[side] * (axes.size - 1));
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512(&self, axes: &[Axes], operands: [&[f32]; 2], to: &mut [f32]) {
        unsafe { self.all::<crate::gemm::lanes::Avx512>(axes, operands, to) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(&self, axes: &[Axes], operands: [&[f32]; 2], to: &mut [f32]) {
        unsafe { self.all::<crate::gemm::lanes::Avx2>(axes, operands, to) }
    }
}

/// A vector of an operand, which is a piece or one value.
#[inline(always)]
unsafe fn operand<L: Lanes>(values: &[f32], at: usize, count: usize) -> L::V {
    unsafe {
        if values.len() == 1 {
            L::splat(values[0])
        } else if count == LANES {
            L::load(values.as_ptr().add(at))
        } else {
            L::load_first(values.as_ptr().add(at), count)
        }
    }
}

impl Kernel for Binary {
    fn name(&self) -> &'static str {
        "AirlockBinary"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [a, b] = inputs else { bail!("arithmetic of {} tensors", inputs.len()) };
        Self::shape_of(a, b).with_context(|| format!("operands of shapes {a:?} and {b:?}"))
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        self.apply(Isa::best(), [inputs[0], inputs[1]], to)
    }
}
