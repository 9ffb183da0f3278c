//! Convolution, pooling and change of layout as operators, on images and signals with their channels last.

use std::fmt;

use tract_onnx::tract_core::internal::*;

use super::{
    dense::{After, Dense},
    depthwise::ByChannel,
    layout::{interleave, transpose},
};
use crate::{
    gemm::{Isa, map::Map},
    kernel::Kernel,
};

/// A convolution with what follows it.
#[derive(Clone)]
pub struct Convolution {
    pub dense: Arc<Dense>,
    /// Whether the input is a matrix, or a stack of them, with a row for each point: the convolution is a product.
    pub rows: bool,
    /// Whether a second input of the output's shape is added before the result is clamped; not where the result has a place.
    pub residual: bool,
    pub after: After,
}

impl Convolution {
    /// With nothing after it.
    pub fn new(dense: Dense, rows: bool) -> Self {
        Self { dense: Arc::new(dense), rows, residual: false, after: After::NOTHING }
    }
}

impl fmt::Debug for Convolution {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { dense, residual, after, .. } = self;
        write!(
            f,
            "{:?} {} -> {} groups {} ",
            dense.geometry,
            dense.channels,
            dense.outputs(),
            dense.kernels.len()
        )?;
        write!(f, "residual {residual} {after:?}")
    }
}

fn points(geometry: [usize; 2], rank: usize) -> TVec<usize> {
    geometry[4usize.saturating_sub(rank).min(1)..].into()
}

impl Kernel for Convolution {
    fn name(&self) -> &'static str {
        if self.rows { "AirlockProduct" } else { "AirlockConv" }
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let count = 1 + usize::from(self.residual) + usize::from(self.in_place().is_some());
        ensure!(inputs.len() == count, "a convolution of {} inputs", inputs.len());
        let input = inputs[0];
        if self.rows {
            let (depth, rows) = input.split_last().context("a product with a scalar")?;
            ensure!(*depth == self.dense.channels, "rows of {depth} values, not {}", self.dense.channels);
            ensure!(rows.iter().product::<usize>() == self.dense.geometry.input[1], "another number of rows");
            let mut shape: TVec<usize> = rows.into();
            shape.push(self.dense.outputs());
            ensure!(inputs[1..].iter().all(|residual| *residual == &*shape), "a residual of another shape");
            return Ok(shape);
        }
        ensure!((3..=4).contains(&input.len()), "images of rank {}", input.len());
        let mut expected: TVec<usize> = points(self.dense.geometry.input, input.len());
        expected.insert(if self.dense.channels_first { 0 } else { expected.len() }, self.dense.channels);
        ensure!(input[1..] == *expected, "images of shape {:?}, not {expected:?}", &input[1..]);
        let mut shape: TVec<usize> = tvec!(input[0]);
        shape.extend(points(self.dense.geometry.output, input.len()));
        shape.push(self.after.place.map_or_else(|| self.dense.outputs(), |place| place.channels));
        ensure!(inputs[1..].iter().all(|residual| *residual == &*shape), "a residual of another shape");
        Ok(shape)
    }

    /// What already has other parts of the result.
    fn in_place(&self) -> Option<usize> {
        self.after.place.filter(|place| place.offset > 0).map(|_| 1)
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        let (shape, from) = inputs[0];
        let residual = inputs.get(1).map(|(_, residual)| *residual);
        let isa = Isa::best();
        let images = if self.rows { 1 } else { shape[0] };
        self.dense.run(isa, images, from, residual, self.after, to)
    }
}

/// A convolution of each channel for itself, or pooling, with what follows it.
#[derive(Clone, Debug)]
pub struct Windows {
    pub by_channel: ByChannel,
    pub map: Option<Map>,
}

impl Kernel for Windows {
    fn name(&self) -> &'static str {
        match self.by_channel.window {
            super::depthwise::Window::Weighted { .. } => "AirlockDepthwise",
            _ => "AirlockPool",
        }
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [input] = inputs else { bail!("windows over {} inputs", inputs.len()) };
        ensure!((3..=4).contains(&input.len()), "images of rank {}", input.len());
        let ByChannel { geometry, channels, .. } = &self.by_channel;
        let mut expected = points(geometry.input, input.len());
        expected.push(*channels);
        ensure!(input[1..] == *expected, "images of shape {:?}, not {expected:?}", &input[1..]);
        let mut shape: TVec<usize> = tvec!(input[0]);
        shape.extend(points(geometry.output, input.len()));
        shape.push(*channels);
        Ok(shape)
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        let (shape, from) = inputs[0];
        let isa = Isa::best();
        self.by_channel.run(isa, shape[0], from, to)?;
        if let Some(map) = &self.map {
            map.apply(isa, to);
        }
        Ok(())
    }
}

/// From channels first to channels last, or back.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub to_last: bool,
}

impl Kernel for Layout {
    fn name(&self) -> &'static str {
        "AirlockLayout"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [input] = inputs else { bail!("a layout of {} inputs", inputs.len()) };
        ensure!(input.len() > 2, "images of rank {}", input.len());
        let mut shape: TVec<usize> = (*input).into();
        if self.to_last {
            shape[1..].rotate_left(1)
        } else {
            shape[1..].rotate_right(1)
        }
        Ok(shape)
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        let (shape, from) = inputs[0];
        let points: &[usize] = if self.to_last { &shape[2..] } else { &shape[1..shape.len() - 1] };
        let points: usize = points.iter().product();
        let channels = if self.to_last { shape[1] } else { shape[shape.len() - 1] };
        let (rows, columns) = if self.to_last { (channels, points) } else { (points, channels) };
        transpose(shape[0], rows, columns, from, to);
        Ok(())
    }
}

/// Deals channels out between groups: channel `c` of group `g` becomes channel `g` of group `c` (Zhang and others,
/// "ShuffleNet", 2017).
#[derive(Clone, Copy, Debug)]
pub struct Shuffle {
    pub groups: usize,
}

impl Kernel for Shuffle {
    fn name(&self) -> &'static str {
        "AirlockShuffle"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [input] = inputs else { bail!("a shuffle of {} tensors", inputs.len()) };
        let channels = input.last().context("a scalar")?;
        ensure!(
            self.groups > 0 && channels % self.groups == 0,
            "{channels} channels in {} groups",
            self.groups
        );
        Ok((*input).into())
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        let (shape, from) = inputs[0];
        let channels = shape[shape.len() - 1];
        let per_group = channels / self.groups;
        if channels > 0 {
            match self.groups {
                2 => deal::<2>(per_group, from, to),
                3 => deal::<3>(per_group, from, to),
                4 => deal::<4>(per_group, from, to),
                8 => deal::<8>(per_group, from, to),
                groups => {
                    for (to, from) in to.chunks_exact_mut(channels).zip(from.chunks_exact(channels)) {
                        transpose(1, groups, per_group, from, to);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Shuffles the channels of `GROUPS` groups.
fn deal<const GROUPS: usize>(per_group: usize, from: &[f32], to: &mut [f32]) {
    let channels = GROUPS * per_group;
    for (to, from) in to.chunks_exact_mut(channels).zip(from.chunks_exact(channels)) {
        interleave::<GROUPS>(std::array::from_fn(|group| &from[group * per_group..][..per_group]), to);
    }
}
