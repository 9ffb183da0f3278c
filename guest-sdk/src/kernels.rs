//! What a model that computes by itself spends its time in: products of matrices, convolutions, and the functions
//! around them, for `f32` in row-major order.
//!
//! They are written for guests, whose loops the gateway interrupts: there they use 128-bit SIMD with fused
//! multiply-add, whatever the crate's build flags are, and the interruption costs them next to nothing. Built for
//! another target they are plain Rust, for a plugin's tests; the last bits of their results differ.
//!
//! ```
//! use airlock_guest::kernels;
//!
//! # fn main() -> airlock_guest::Result<()> {
//! let (features, weights, bias) = ([1.0, 2.0], [1.0, 0.0, -1.0, 0.5, 0.5, 0.5], [0.0, 0.0, 1.0]);
//! let mut scores = [0.0; 3];
//! kernels::matmul(&features, &weights, Some(&bias), [1, 2, 3], &mut scores)?;
//! assert_eq!(scores, [2.0, 1.0, 1.0]);
//! kernels::softmax(&mut scores, 3)?;
//! # Ok(())
//! # }
//! ```

mod activation;
mod conv2d;
mod matmul;
mod product;
mod simd;
mod tile;
mod vector;

pub use activation::{gelu, relu, softmax};
pub use conv2d::Conv2d;
pub use matmul::matmul;

use crate::{Error, Result};

/// Whether a slice fills its shape.
fn check(name: &str, given: usize, shape: &[usize]) -> Result<()> {
    if shape.iter().try_fold(1usize, |product, side| product.checked_mul(*side)) == Some(given) {
        return Ok(());
    }
    Err(Error::failed(format_args!("{name}: {given} elements do not fill shape {shape:?}")))
}

#[cfg(test)]
mod tests;
