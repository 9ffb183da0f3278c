//! Convolutions and pooling on channels-last data, and the pass that puts them into a graph.

pub mod arithmetic;
pub mod channels;
pub mod dense;
pub mod depthwise;
pub mod fold;
pub mod geometry;
pub mod layout;
pub mod op;
pub mod pad;
mod pass;
mod product;
pub mod quantised;
pub mod softmax;
pub mod spread;
pub mod table;
#[cfg(test)]
mod tests;
pub mod winograd;

pub use pass::rewrite;
