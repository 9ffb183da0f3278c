//! The blocks of a product: which parts of its two sides are laid out when, so that the caches hold them.

use std::ops::Range;

use super::tile::{self, COLUMNS, ROWS, STEPS};

/// Steps of the sum that are laid out at once: with them a panel of the right-hand side takes 8 KiB.
const DEPTH: usize = 256;
/// Rows of the left-hand side that are laid out at once: 192 KiB.
const HEIGHT: usize = 48 * ROWS;

/// The right-hand side of a product, wherever its elements are.
pub(super) trait Columns {
    /// Lays out the columns that begin with `first`: `panel[i][j]` becomes the element in row `steps.start + i` and
    /// column `first + j`, or anything where the matrix has no such column.
    fn lay_out(&self, steps: Range<usize>, first: usize, panel: &mut [[f32; COLUMNS]]);
}

/// Adds to `out`, `[m,n]`, the product of `a`, `[m,k]`, and the columns, `[k,n]`. None of the sizes is 0.
pub(super) fn add(a: &[f32], columns: &impl Columns, [m, k, n]: [usize; 3], out: &mut [f32]) {
    let depth = k.min(DEPTH).next_multiple_of(STEPS);
    let mut panel = vec![[0.0; COLUMNS]; depth];
    let mut rows = vec![[0.0; ROWS]; m.min(HEIGHT).div_ceil(ROWS) * depth];
    for (a, out) in a.chunks(HEIGHT * k).zip(out.chunks_mut(HEIGHT * n)) {
        for start in (0..k).step_by(DEPTH) {
            let steps = start..k.min(start + DEPTH);
            lay_out_rows(a, k, &steps, rows.chunks_exact_mut(depth));
            for first in (0..n).step_by(COLUMNS) {
                columns.lay_out(steps.clone(), first, &mut panel[..steps.len()]);
                for (rows, out) in rows.chunks_exact(depth).zip(out.chunks_mut(ROWS * n)) {
                    let panels = (rows, panel.as_slice(), steps.len());
                    match out.len() / n {
                        1 => add_tile::<1>(panels, first, n, out),
                        2 => add_tile::<2>(panels, first, n, out),
                        3 => add_tile::<3>(panels, first, n, out),
                        _ => add_tile::<ROWS>(panels, first, n, out),
                    }
                }
            }
        }
    }
}

/// Lays some steps of the rows out, [`ROWS`] rows beside each other.
fn lay_out_rows<'a>(
    a: &[f32],
    k: usize,
    steps: &Range<usize>,
    panels: impl Iterator<Item = &'a mut [[f32; ROWS]]>,
) {
    for (a, panel) in a.chunks(ROWS * k).zip(panels) {
        for (row, a) in a.chunks_exact(k).enumerate() {
            for (line, element) in panel.iter_mut().zip(&a[steps.clone()]) {
                line[row] = *element;
            }
        }
    }
}

/// Adds the product of two panels, of so many steps, to the columns from `first` on of `R` rows.
fn add_tile<const R: usize>(
    (rows, columns, count): (&[[f32; ROWS]], &[[f32; COLUMNS]], usize),
    first: usize,
    n: usize,
    out: &mut [f32],
) {
    let mut tile = [[0.0; COLUMNS]; R];
    tile::multiply(rows, columns, count, &mut tile);
    for (line, out) in tile.iter().zip(out.chunks_exact_mut(n)) {
        for (sum, out) in line.iter().zip(&mut out[first..]) {
            *out += sum;
        }
    }
}
