//! Quantised graphs: `QuantizeLinear` and `DequantizeLinear` around what is computed, as quantising tools write them.
//!
//! A file's graph is rewritten so that it answers what ONNX Runtime answers for it, number by number. ONNX Runtime makes
//! operators on bytes of some groups of nodes and leaves others as they are; both have definite roundings, and these are taken
//! over ([`groups`]). Bytes are kept as `f32`, less their zero point: whole numbers of at most 255, whose products and sums are
//! exact as long as they stay below 2^24, in whatever order and on whatever processor. So a convolution of bytes is one of the
//! kernels for `f32`, and what only shifts or joins values needs nothing of its own. Where the factors could add up to more than
//! 2^24 (259 products of 255 with 255, or 515 with 128), a sum that gets there loses a last bit with each further product.
//!
//! A function of a single quantised value, however many nodes it has, is a table of its 256 results.

mod constants;
pub mod formulas;
mod functions;
mod groups;
pub mod op;
mod rewrite;
#[cfg(test)]
mod tests;

pub use op::register;
pub use rewrite::rewrite;
