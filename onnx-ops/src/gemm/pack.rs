//! A constant right side of a matrix product, laid out once for the kernel.

use tract_onnx::tract_core::internal::*;

use super::{aligned::Aligned, lanes::LANES};

/// The factors of a product with `depth` rows and `columns` columns, in panels of [`LANES`] columns, and what is added.
#[derive(Clone)]
pub struct Packed {
    factors: Aligned,
    bias: Aligned,
    depth: usize,
    columns: usize,
}

impl Packed {
    /// `factor(row, column)` gives the factors; without `bias`, nothing is added.
    pub fn new(
        depth: usize,
        columns: usize,
        factor: impl Fn(usize, usize) -> f32,
        bias: Option<&[f32]>,
    ) -> TractResult<Self> {
        ensure!(depth > 0 && columns > 0, "an empty product");
        ensure!(bias.is_none_or(|bias| bias.len() == columns), "a bias of another length");
        let padded = columns.checked_next_multiple_of(LANES).context("too many columns")?;
        let mut factors = Aligned::zeros(padded.checked_mul(depth).context("too many factors")?);
        for (panel, factors) in factors.chunks_exact_mut(depth * LANES).enumerate() {
            let first = panel * LANES;
            let lanes = LANES.min(columns - first);
            for (row, factors) in factors.chunks_exact_mut(LANES).enumerate() {
                for (lane, to) in factors[..lanes].iter_mut().enumerate() {
                    *to = factor(row, first + lane);
                }
            }
        }
        let mut padded_bias = Aligned::zeros(padded);
        if let Some(bias) = bias {
            padded_bias[..columns].copy_from_slice(bias);
        }
        Ok(Self { factors, bias: padded_bias, depth, columns })
    }

    /// Of the rows of a matrix, each value times `factor`, with nothing added.
    pub fn of_rows(depth: usize, columns: usize, matrix: &[f32], factor: f32) -> TractResult<Self> {
        ensure!(depth > 0 && columns > 0 && matrix.len() == depth * columns, "a matrix of another size");
        let padded = columns.checked_next_multiple_of(LANES).context("too many columns")?;
        let mut factors = Aligned::zeros(padded.checked_mul(depth).context("too many factors")?);
        for (panel, factors) in factors.chunks_exact_mut(depth * LANES).enumerate() {
            let first = panel * LANES;
            let lanes = LANES.min(columns - first);
            for (to, from) in factors.chunks_exact_mut(LANES).zip(matrix.chunks_exact(columns)) {
                for (to, from) in to.iter_mut().zip(&from[first..first + lanes]) {
                    *to = from * factor;
                }
            }
        }
        Ok(Self { factors, bias: Aligned::zeros(padded), depth, columns })
    }

    /// Each column times `scale` plus `offset`, which hold one value for each column, or one for all.
    pub fn scaled(&self, scale: &[f32], offset: &[f32]) -> Self {
        let of = |values: &[f32], column: usize| {
            let index = if values.len() == 1 { 0 } else { column };
            if column < self.columns { values[index] } else { 0.0 }
        };
        let mut factors = self.factors.clone();
        for (panel, factors) in factors.chunks_exact_mut(self.depth * LANES).enumerate() {
            for factors in factors.chunks_exact_mut(LANES) {
                for (lane, factor) in factors.iter_mut().enumerate() {
                    *factor *= of(scale, panel * LANES + lane);
                }
            }
        }
        let bias = self.bias.iter().enumerate();
        let bias = bias.map(|(column, bias)| bias * of(scale, column) + of(offset, column)).collect();
        Self { factors, bias, ..*self }
    }

    pub fn depth(&self) -> usize {
        self.depth
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn panels(&self) -> usize {
        self.bias.len() / LANES
    }

    pub(super) fn panel(&self, panel: usize) -> (&[f32], &[f32]) {
        (&self.factors[panel * self.depth * LANES..], &self.bias[panel * LANES..])
    }
}
