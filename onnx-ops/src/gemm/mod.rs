//! Matrix products of `f32` with a constant right side, and what follows them.

pub mod aligned;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod divide;
pub mod lanes;
pub mod map;
mod pack;
mod product;
#[cfg(test)]
pub mod tests;
mod tile;

pub use lanes::Isa;
pub use pack::Packed;
pub use product::{Line, Plan, multiply};
