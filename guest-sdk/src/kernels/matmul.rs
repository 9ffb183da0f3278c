//! The product of two matrices.

use std::ops::Range;

use super::{
    check, product,
    tile::{COLUMNS, ROWS},
    vector::add_scaled,
};
use crate::Result;

/// The product of two matrices: `out = a · b`, or `a · b + bias`.
///
/// `shape` is `[m, k, n]`; all matrices are row-major: `a` is `[m,k]`, `b` is `[k,n]`, `bias` is `[n]` and is added to
/// every row, and `out`, which is overwritten, is `[m,n]`. The elements of a sum are added up in the order of `k`, in
/// parts of 256.
///
/// It takes memory for parts of the matrices, 200 KiB at most.
///
/// # Errors
/// If a slice has another number of elements than its shape.
pub fn matmul(
    a: &[f32],
    b: &[f32],
    bias: Option<&[f32]>,
    [m, k, n]: [usize; 3],
    out: &mut [f32],
) -> Result<()> {
    check("a", a.len(), &[m, k])?;
    check("b", b.len(), &[k, n])?;
    check("out", out.len(), &[m, n])?;
    if let Some(bias) = bias {
        check("bias", bias.len(), &[n])?;
    }
    if out.is_empty() {
        return Ok(());
    }
    match bias {
        Some(bias) => out.chunks_exact_mut(n).for_each(|row| row.copy_from_slice(bias)),
        None => out.fill(0.0),
    }
    if k == 0 {
        return Ok(());
    }
    if m < ROWS {
        for (a, out) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
            add_row(a, b, n, out);
        }
    } else {
        product::add(a, &Matrix { elements: b, n }, [m, k, n], out);
    }
    Ok(())
}

/// Adds to `out` the product of one row and a matrix, whose elements are read once, in their order.
fn add_row(a: &[f32], b: &[f32], n: usize, out: &mut [f32]) {
    let (fours, rest) = a.as_chunks::<4>();
    let mut rows = b.chunks_exact(4 * n);
    for (factors, rows) in fours.iter().zip(&mut rows) {
        let mut row = rows.chunks_exact(n);
        add_scaled(*factors, std::array::from_fn(|_| row.next().unwrap_or_default()), out);
    }
    for (factor, row) in rest.iter().zip(rows.remainder().chunks_exact(n)) {
        add_scaled([*factor], [row], out);
    }
}

/// A matrix in row-major order.
struct Matrix<'a> {
    elements: &'a [f32],
    n: usize,
}

impl product::Columns for Matrix<'_> {
    fn lay_out(&self, steps: Range<usize>, first: usize, panel: &mut [[f32; COLUMNS]]) {
        for (line, row) in panel.iter_mut().zip(self.elements.chunks_exact(self.n).skip(steps.start)) {
            let row = &row[first..];
            match row.first_chunk() {
                Some(whole) => *line = *whole,
                None => line[..row.len()].copy_from_slice(row),
            }
        }
    }
}
