//! The kernel of all matrix products and dense convolutions: a tile of the result that stays in registers.
#![expect(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "the inner loops work on raw addresses, whose bounds their callers have checked"
)]
#![expect(clippy::needless_range_loop, reason = "registers and addresses are counted by the same number")]

use std::mem::MaybeUninit;

use super::lanes::{Isa, LANES, Lanes, Portable};

/// A tile of the result: some rows (of a matrix; points of an image) by some panels of [`LANES`] columns.
///
/// A row of the left side is made of segments of `run` values: one for a matrix, one a kernel's row for an image. The right
/// side is packed: for each panel, for each value of a left row in order, that value's `LANES` factors.
#[derive(Clone, Copy, Debug)]
pub struct Tile<'a> {
    /// The first row's first value, and the distance between rows.
    pub a: *const f32,
    pub a_step: usize,
    /// Where a row's segments begin, from its first value.
    pub segments: &'a [usize],
    /// At least 1.
    pub run: usize,
    /// The first panel, and the distance between panels.
    pub b: *const f32,
    pub b_step: usize,
    /// How far from the factors are those that are needed next.
    pub ahead: usize,
    /// Where the next tile's left side begins, and how far to go from there for each value of a row: 0 if it is near already.
    pub next: *const f32,
    pub next_step: usize,
    /// Whether the place of the result, and what is added to it, are far.
    pub far: bool,
    pub c: *mut f32,
    pub c_step: usize,
    /// Columns of the result in the last panel, at most `LANES`.
    pub last: usize,
    /// What the result starts from, `LANES` values a panel; or null, for what is in the result already.
    pub bias: *const f32,
    /// What is added to the result: as `c`, or null.
    pub residual: *const f32,
    /// Between what the result is clamped; infinite where it is not.
    pub low: f32,
    pub high: f32,
}

/// Computes a tile.
///
/// # Safety
/// The addresses reach what the tile names of them for the kernel's rows and panels, `run` is not 0, and the CPU has the kernel's
/// instruction set.
pub type Kernel = unsafe fn(&Tile);

/// The largest tiles that an instruction set's registers hold.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub rows: usize,
    pub panels: usize,
    kernels: &'static [Kernel],
}

impl Shape {
    /// The kernel for `rows` rows, at least 1 and at most `self.rows`.
    pub fn kernel(&self, rows: usize) -> Kernel {
        self.kernels[rows - 1]
    }
}

/// A tile's sums, row by row: room for those of any tile.
type Sums = [[f32; LANES]; 64];

/// Where a tile's sums start from, and how far one row's is from the next one's: the bias, the result, or `sums`, which then is a copy of
/// a part of the result.
#[inline(always)]
unsafe fn start<L: Lanes, const ROWS: usize, const PANELS: usize>(
    t: &Tile,
    sums: *mut f32,
) -> (*const f32, usize) {
    if !t.bias.is_null() {
        return (t.bias, 0);
    }
    if t.last == LANES {
        return (t.c.cast_const(), t.c_step);
    }
    for p in 0..ROWS {
        for v in 0..PANELS {
            let count = if v + 1 == PANELS { t.last } else { LANES };
            unsafe {
                let value = L::load_first(t.c.add(p * t.c_step + v * LANES), count);
                L::store(sums.add((p * PANELS + v) * LANES), value);
            }
        }
    }
    (sums.cast_const(), PANELS * LANES)
}

/// While the products are computed, what they are for comes nearer.
#[inline(always)]
unsafe fn fetch_result<L: Lanes, const ROWS: usize, const PANELS: usize>(t: &Tile) {
    for p in 0..if t.far { ROWS } else { 0 } {
        for v in 0..PANELS {
            let at = p * t.c_step + v * LANES;
            unsafe {
                if !t.bias.is_null() {
                    L::prefetch_write(t.c.wrapping_add(at));
                }
                if !t.residual.is_null() {
                    L::prefetch_once(t.residual.wrapping_add(at));
                }
            }
        }
    }
}

/// Adds the products to what `start` has, and writes the sums to `to`.
#[inline(always)]
unsafe fn products<L: Lanes, const ROWS: usize, const PANELS: usize>(
    t: &Tile,
    (start, step): (*const f32, usize),
    to: *mut f32,
) {
    unsafe {
        let mut acc = [[L::splat(0.0); PANELS]; ROWS];
        for p in 0..ROWS {
            for v in 0..PANELS {
                acc[p][v] = L::load(start.add(p * step + v * LANES));
            }
        }
        let (mut b, mut next) = (t.b, t.next);
        for segment in t.segments {
            let a = t.a.add(*segment);
            for k in 0..t.run {
                let mut factors = [L::splat(0.0); PANELS];
                for v in 0..PANELS {
                    factors[v] = L::load(b.add(v * t.b_step));
                    L::prefetch(b.wrapping_add(t.ahead + v * t.b_step));
                }
                L::prefetch_once(next);
                next = next.wrapping_add(t.next_step);
                for p in 0..ROWS {
                    let x = L::splat(*a.add(p * t.a_step + k));
                    for v in 0..PANELS {
                        acc[p][v] = L::mul_add(x, factors[v], acc[p][v]);
                    }
                }
                b = b.add(LANES);
            }
        }
        for p in 0..ROWS {
            for v in 0..PANELS {
                L::store(to.add((p * PANELS + v) * LANES), acc[p][v]);
            }
        }
    }
}

/// Writes the result: the sums, what is added to them, clamped.
#[inline(always)]
unsafe fn finish<L: Lanes, const ROWS: usize, const PANELS: usize>(t: &Tile, sums: *const f32) {
    unsafe {
        let (low, high) = (L::splat(t.low), L::splat(t.high));
        for p in 0..ROWS {
            for v in 0..PANELS {
                let at = p * t.c_step + v * LANES;
                let count = if v + 1 == PANELS { t.last } else { LANES };
                let mut x = L::load(sums.add((p * PANELS + v) * LANES));
                if !t.residual.is_null() {
                    x = L::add(x, L::load_first(t.residual.add(at), count));
                }
                x = L::min(high, L::max(low, x));
                if count == LANES {
                    L::store(t.c.add(at), x);
                } else {
                    L::store_first(t.c.add(at), x, count);
                }
            }
        }
    }
}

macro_rules! kernels {
    ($lanes:ty, [$($feature:literal)?], $panels:literal: $($rows:literal)*) => {
        kernels!($lanes, [$($feature)?], $panels: $($rows)*, products::<$lanes, ROWS, PANELS>)
    };
    ($lanes:ty, [$($feature:literal)?], $panels:literal: $($rows:literal)*, $products:expr) => {
        {
            $(#[target_feature(enable = $feature)])?
            unsafe fn tile<const ROWS: usize, const PANELS: usize>(t: &Tile) {
                const { assert!(ROWS * PANELS <= size_of::<Sums>() / size_of::<[f32; LANES]>(), "the sums have room") };
                // Registers cannot be indexed: what is done to the sums before and after is done here.
                let mut sums = MaybeUninit::<Sums>::uninit();
                let sums = sums.as_mut_ptr().cast::<f32>();
                unsafe {
                    let start = start::<$lanes, ROWS, PANELS>(t, sums);
                    fetch_result::<$lanes, ROWS, PANELS>(t);
                    $products(t, start, sums);
                    finish::<$lanes, ROWS, PANELS>(t, sums);
                }
            }
            const KERNELS: &[Kernel] = &[$(tile::<$rows, $panels>),*];
            Shape { rows: KERNELS.len(), panels: $panels, kernels: KERNELS }
        }
    };
}

/// An instruction set's tiles, from many rows by few panels to few rows by many panels.
pub fn shapes(isa: Isa) -> &'static [Shape] {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            use super::{avx512, lanes::Avx512};
            const SHAPES: &[Shape] = &[
                kernels!(Avx512, ["avx512f"], 1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16),
                kernels!(Avx512, ["avx512f"], 2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14, avx512::two::<ROWS, PANELS>),
                kernels!(Avx512, ["avx512f"], 3: 1 2 3 4 5 6 7 8 9, avx512::three::<ROWS, PANELS>),
                kernels!(Avx512, ["avx512f"], 4: 1 2 3 4 5 6),
                kernels!(Avx512, ["avx512f"], 8: 1 2),
            ];
            SHAPES
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            use super::lanes::Avx2;
            const SHAPES: &[Shape] =
                &[kernels!(Avx2, ["avx2,fma"], 1: 1 2 3 4 5 6), kernels!(Avx2, ["avx2,fma"], 4: 1)];
            SHAPES
        }
        Isa::Portable => {
            const SHAPES: &[Shape] = &[kernels!(Portable, [], 1: 1 2)];
            SHAPES
        }
    }
}
