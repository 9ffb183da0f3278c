//! Sums of scaled vectors, which read every element once: what there is too little work on to lay it out.

use super::simd::F32x8;

/// Adds to `out` each of the rows, which are at least as long, times its factor.
#[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128,relaxed-simd"))]
pub(super) fn add_scaled<const N: usize>(factors: [f32; N], rows: [&[f32]; N], out: &mut [f32]) {
    let rows = rows.map(|row| &row[..out.len()]);
    let mut rests = rows;
    for (row, rest) in rows.iter().zip(&mut rests) {
        *rest = row.as_chunks::<8>().1;
    }
    let (eights, out) = out.as_chunks_mut();
    for (at, out) in eights.iter_mut().enumerate() {
        let mut sum = F32x8::load(out);
        for (factor, row) in factors.iter().zip(&rows) {
            sum = F32x8::splat(*factor).multiply_add(F32x8::load(&row.as_chunks().0[at]), sum);
        }
        sum.store(out);
    }
    for (at, out) in out.iter_mut().enumerate() {
        for (factor, rest) in factors.iter().zip(&rests) {
            *out += factor * rest[at];
        }
    }
}
