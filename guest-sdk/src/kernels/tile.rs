//! The innermost part of a product: a tile of it that grows by up to 16 steps of the sum without a loop.
//!
//! Two habits of the gateway's compiler, Cranelift, give it its form:
//!
//! - A guest is interrupted at the end of a loop, by a call that might follow there. What is in vector registers would
//!   be lost in it, so it is spilled in every iteration. Here the sums rest in memory where a loop ends.
//! - Loads stay where they are, but arithmetic is moved down to where its result is needed: in a long run of code that
//!   is its end, when all registers are full of loaded values. The way out between two steps needs the sums.

use super::simd::{F32x4, F32x8};

/// Rows of a tile.
pub(super) const ROWS: usize = 4;
/// Columns of a tile: with two registers for each row, the sums take half of what x86-64 has.
pub(super) const COLUMNS: usize = 8;
/// Steps that a block of code holds.
pub(super) const STEPS: usize = 16;

/// Adds to the tile the product of two panels, of which the first `count` steps count:
/// `tile[row][column] += Σ a[step][row] * b[step][column]`.
pub(super) fn multiply<const R: usize>(
    a: &[[f32; ROWS]],
    b: &[[f32; COLUMNS]],
    count: usize,
    tile: &mut [[f32; COLUMNS]; R],
) {
    let mut left = count;
    for (a, b) in a.as_chunks().0.iter().zip(b.as_chunks().0) {
        block(a, b, left.min(STEPS), tile);
        left = left.saturating_sub(STEPS);
    }
}

macro_rules! block {
    ($($step:literal)+) => {
        // Inlined into the loop around it, the sums would stay in registers between blocks.
        #[inline(never)]
        #[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128,relaxed-simd"))]
        fn block<const R: usize>(
            a: &[[f32; ROWS]; STEPS],
            b: &[[f32; COLUMNS]; STEPS],
            count: usize,
            tile: &mut [[f32; COLUMNS]; R],
        ) {
            let mut sums = [F32x8::splat(0.0); R];
            for (sum, line) in sums.iter_mut().zip(tile.iter()) {
                *sum = F32x8::load(line);
            }
            'steps: {
                $(
                    if count == $step {
                        break 'steps;
                    }
                    step(&a[$step], &b[$step], &mut sums);
                )+
            }
            for (sum, line) in sums.iter().zip(tile) {
                sum.store(line);
            }
        }
    };
}

block!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);

#[inline]
#[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128,relaxed-simd"))]
fn step<const R: usize>(a: &[f32; ROWS], b: &[f32; COLUMNS], sums: &mut [F32x8; R]) {
    let (a, b) = (F32x4::load(a), F32x8::load(b));
    let elements = [a.lane::<0>(), a.lane::<1>(), a.lane::<2>(), a.lane::<3>()];
    for (element, sum) in elements.iter().zip(sums) {
        *sum = element.multiply_add(b, *sum);
    }
}
