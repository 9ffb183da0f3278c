//! The same product in native code: AVX2 and FMA, with the right-hand side laid out in panels as the guest does.

use anyhow::Result;

/// A product of two square matrices, made as often as told, in tiles of 4 rows and `V` registers of 8 columns. The size is
/// a multiple of 4 and of the tile's width.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "the instructions have to be there, and vectors are loaded from pointers")]
pub fn product<const V: usize>(a: &[f32], b: &[f32], size: usize, repetitions: u32) -> Result<Vec<f32>> {
    use std::arch::x86_64::{
        _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };

    const ROWS: usize = 4;
    const DEPTH: usize = 256;

    #[target_feature(enable = "avx2,fma")]
    fn tile<const V: usize>(a: [&[f32]; ROWS], panel: &[[[f32; 8]; V]], mut out: [&mut [[f32; 8]]; ROWS]) {
        let mut sums = [[_mm256_setzero_ps(); V]; ROWS];
        let [first, second, third, fourth] = a;
        let steps = first.iter().zip(second).zip(third.iter().zip(fourth));
        for (((first, second), (third, fourth)), line) in steps.zip(panel) {
            for (element, sums) in [first, second, third, fourth].into_iter().zip(&mut sums) {
                let element = _mm256_set1_ps(*element);
                for (sum, columns) in sums.iter_mut().zip(line) {
                    // SAFETY: the array is 32 readable bytes, and the load asks for no alignment.
                    let columns = unsafe { _mm256_loadu_ps(columns.as_ptr()) };
                    *sum = _mm256_fmadd_ps(element, columns, *sum);
                }
            }
        }
        for (sums, out) in sums.iter().zip(&mut out) {
            for (sum, out) in sums.iter().zip(out.iter_mut()) {
                // SAFETY: the array is 32 readable and writable bytes; neither access asks for an alignment.
                unsafe {
                    _mm256_storeu_ps(out.as_mut_ptr(), _mm256_add_ps(_mm256_loadu_ps(out.as_ptr()), *sum));
                }
            }
        }
    }

    anyhow::ensure!(
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        "the processor has no AVX2 and FMA to compare with"
    );
    let mut product = vec![0.0; size * size];
    let mut panel = [[[0.0; 8]; V]; DEPTH];
    for _ in 0..repetitions {
        product.fill(0.0);
        for start in (0..size).step_by(DEPTH) {
            let steps = start..size.min(start + DEPTH);
            let panel = &mut panel[..steps.len()];
            for first in (0..size).step_by(8 * V) {
                for (line, row) in panel.iter_mut().zip(b[start * size..].chunks_exact(size)) {
                    line.as_flattened_mut().copy_from_slice(&row[first..first + 8 * V]);
                }
                for (a, out) in a.chunks_exact(ROWS * size).zip(product.chunks_exact_mut(ROWS * size)) {
                    let mut rows = a.chunks_exact(size);
                    let a = [(); ROWS].map(|()| &rows.next().unwrap_or_default()[steps.clone()]);
                    let mut rows = out.chunks_exact_mut(size);
                    let out = [(); ROWS]
                        .map(|()| rows.next().unwrap_or_default()[first..first + 8 * V].as_chunks_mut().0);
                    // SAFETY: the processor has both features, as was checked above.
                    unsafe { tile::<V>(a, panel, out) };
                }
            }
        }
    }
    Ok(product)
}

#[cfg(not(target_arch = "x86_64"))]
pub fn product<const V: usize>(_: &[f32], _: &[f32], _: usize, _: u32) -> Result<Vec<f32>> {
    anyhow::bail!("there is no native product for this processor to compare with")
}
