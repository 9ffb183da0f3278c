//! Products of two values, and those that only choose rows.

use tract_onnx::tract_core::internal::*;

use crate::{
    gemm::{Isa, Line, Packed, Plan, multiply},
    kernel::Kernel,
};

/// Products of the matrices of two stacks of as many: `[.., M, K]` and `[.., K, N]`.
#[derive(Clone, Copy, Debug)]
pub struct Products {
    /// What the products are multiplied with.
    pub factor: f32,
}

impl Kernel for Products {
    fn name(&self) -> &'static str {
        "AirlockProducts"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [a, b] = inputs else { bail!("a product of {} tensors", inputs.len()) };
        let ([stack @ .., rows, depth], [other @ .., b_depth, columns]) = (*a, *b) else {
            bail!("a product of less than matrices")
        };
        ensure!(stack == other && depth == b_depth, "stacks of matrices that do not fit");
        let mut shape: TVec<usize> = stack.into();
        shape.extend([*rows, *columns]);
        Ok(shape)
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        let ((shape, a), (other, b)) = (inputs[0], inputs[1]);
        let [.., rows, depth] = *shape else { bail!("less than a matrix") };
        let columns = other[other.len() - 1];
        if [rows, depth, columns].contains(&0) {
            to.fill(0.0);
            return Ok(());
        }
        let isa = Isa::best();
        let plan = Plan {
            isa,
            step: depth,
            segments: &[0],
            run: depth,
            result_step: columns,
            low: f32::NEG_INFINITY,
            high: f32::INFINITY,
            far: false,
        };
        let matrices = a.chunks_exact(rows * depth).zip(b.chunks_exact(depth * columns));
        for ((a, b), to) in matrices.zip(to.chunks_exact_mut(rows * columns)) {
            let packed = Packed::of_rows(depth, columns, b, self.factor)?;
            multiply(&plan, &[Line { from: 0, to: 0, rows }], a, &packed, None, to);
        }
        Ok(())
    }
}

/// For each number `[.., 1]` the row of a table that it is the index of, and another row for all other numbers.
#[derive(Clone)]
pub struct Lookup {
    width: usize,
    /// The other row comes last.
    rows: Vec<f32>,
}

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} rows of {}", self.rows.len() / self.width, self.width)
    }
}

impl Lookup {
    /// A table, and zeros for all other numbers.
    pub fn new(width: usize, table: &[f32]) -> Self {
        let mut rows = table.to_vec();
        rows.extend(std::iter::repeat_n(0.0, width));
        Self { width, rows }
    }

    /// With each row changed.
    pub fn with(&self, change: impl FnMut(&mut [f32])) -> Self {
        let mut rows = self.rows.clone();
        rows.chunks_exact_mut(self.width).for_each(change);
        Self { rows, ..*self }
    }
}

impl Kernel for Lookup {
    fn name(&self) -> &'static str {
        "AirlockLookup"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let &[&[ref numbers @ .., 1]] = inputs else { bail!("not a tensor of single numbers") };
        let mut shape: TVec<usize> = numbers.into();
        shape.push(self.width);
        Ok(shape)
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        let other = self.rows.len() / self.width - 1;
        for (to, number) in to.chunks_exact_mut(self.width).zip(inputs[0].1) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "below the number of rows"
            )]
            let row = if (0.0..other as f32).contains(number) { *number as usize } else { other };
            to.copy_from_slice(&self.rows[row * self.width..][..self.width]);
        }
        Ok(())
    }
}
