//! Convolutions whose outputs depend on many input channels: products of the packed kernel with windows of the image where
//! they lie, without a matrix of them (Zhang, Franchetti, Low: "High performance zero-memory overhead direct convolutions",
//! 2018, on channels-last data).

use tract_onnx::tract_core::internal::*;

use super::{
    geometry::Geometry,
    layout::interleave,
    winograd::{self, Winograd},
};
use crate::gemm::{
    Isa, Line, Packed, Plan,
    map::{Gate, Map},
    multiply,
};

/// What of an image is worked on at once: a part of what a core's second level cache holds.
const BLOCK: usize = 64 * 1024;

/// Images and results that together have more values than this are in memory, or at best in the last cache, when they are needed.
const FAR: usize = 256 * 1024;

/// A part of the channels of a larger result, which others write the rest of.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The part's first channel.
    pub offset: usize,
    /// Channels of the larger result.
    pub channels: usize,
}

/// What happens to results while they are near, and where they go.
#[derive(Clone, Copy, Debug)]
pub struct After {
    pub clamp: (f32, f32),
    pub map: Option<Map>,
    /// Not with a map.
    pub place: Option<Place>,
}

impl After {
    pub const NOTHING: Self = Self { clamp: (f32::NEG_INFINITY, f32::INFINITY), map: None, place: None };

    /// With a linear function after it, if there can be one: it is made part of the map.
    pub fn scaled(&self, factor: f32, term: f32) -> Self {
        let (low, high) = self.clamp;
        let clamp = Map::new(Gate::Clamp { scale: 1.0, offset: 0.0, low, high }, false);
        let (clamp, map) = match self.map {
            Some(map) => (self.clamp, map),
            None => (Self::NOTHING.clamp, clamp),
        };
        let map = Map { factor: map.factor * factor, term: map.term * factor + term, ..map };
        Self { clamp, map: Some(map), place: self.place }
    }
}

/// A convolution of images `[N, H, W, C]` with constant kernels.
#[derive(Clone)]
pub struct Dense {
    pub geometry: Geometry,
    /// Of the input, in all groups.
    pub channels: usize,
    /// For each group, its kernels: for each output channel the window's points in order, each with its channels. Or those of
    /// [`winograd::pack`].
    pub kernels: Vec<Packed>,
    /// Whether it is the latter.
    pub tiled: bool,
    /// Whether the input is `[N, C, H, W]`.
    pub channels_first: bool,
}

impl Dense {
    /// Packs kernels `[O, I / groups, H, W]`.
    pub fn pack(
        groups: usize,
        shape: [usize; 4],
        kernels: &[f32],
        bias: Option<&[f32]>,
    ) -> TractResult<Vec<Packed>> {
        let [outputs, channels, height, width] = shape;
        ensure!(groups > 0 && outputs % groups == 0, "{outputs} output channels in {groups} groups");
        ensure!(shape.iter().product::<usize>() == kernels.len(), "kernels of another shape");
        let outputs = outputs / groups;
        let taps = height * width;
        let group = |group: usize| {
            let first = group * outputs;
            let factor = |row: usize, column: usize| {
                let (tap, channel) = (row / channels, row % channels);
                kernels[((first + column) * channels + channel) * taps + tap]
            };
            Packed::new(taps * channels, outputs, factor, bias.map(|bias| &bias[first..first + outputs]))
        };
        (0..groups).map(group).collect()
    }

    /// With each output channel times `scale` plus `offset`, which hold one value for each, or one for all.
    pub fn scaled(&self, scale: &[f32], offset: &[f32]) -> Self {
        if self.tiled {
            let part = |(product, packed): (usize, &Packed)| {
                packed.scaled(scale, if product == winograd::CENTRE { offset } else { &[0.0] })
            };
            return Self { kernels: self.kernels.iter().enumerate().map(part).collect(), ..self.clone() };
        }
        let mut first = 0;
        let mut part = |packed: &Packed| {
            let channels = first..first + packed.columns();
            first = channels.end;
            let of = |values: &[f32]| {
                if values.len() == 1 { values.to_vec() } else { values[channels.clone()].to_vec() }
            };
            packed.scaled(&of(scale), &of(offset))
        };
        let kernels = self.kernels.iter().map(&mut part).collect();
        Self { kernels, ..self.clone() }
    }

    /// Output channels.
    pub fn outputs(&self) -> usize {
        let kernels = if self.tiled { &self.kernels[..1] } else { &self.kernels };
        kernels.iter().map(Packed::columns).sum()
    }

    /// Convolves `images` images, adds `residual`, clamps and maps.
    pub fn run(
        &self,
        isa: Isa,
        images: usize,
        from: &[f32],
        residual: Option<&[f32]>,
        after: After,
        to: &mut [f32],
    ) -> TractResult<()> {
        if self.tiled {
            let Self { geometry, channels, kernels, .. } = self;
            let winograd = Winograd { geometry: *geometry, channels: *channels, kernels };
            return winograd.run(isa, images, from, residual, after, to);
        }
        let After { clamp: (low, high), map, place } = after;
        let geometry = self.geometry.wide();
        let Geometry { input, output, kernel, strides, dilations, .. } = geometry;
        let (channels, outputs) = (self.channels, self.outputs());
        let place = place.unwrap_or(Place { offset: 0, channels: outputs });
        ensure!(place.offset + outputs <= place.channels, "a part that is not in the result");
        ensure!(map.is_none() || place.channels == outputs, "a map of a part of the result");
        let image = input[0] * input[1] * channels;
        ensure!(from.len() == images * image, "an input of another size");
        ensure!(to.len() == images * output[0] * output[1] * place.channels, "an output of another size");
        let per_group = channels / self.kernels.len();
        let copied = self.channels_first || !geometry.is_inside();
        // Of what is read: a copy holds just what the windows reach.
        let width = if copied { geometry.span(1, output[1]) } else { input[1] };
        let (segments, run) = if dilations[1] == 1 && self.kernels.len() == 1 {
            let lines = (0..kernel[0]).map(|y| y * dilations[0] * width * channels);
            (lines.collect::<Vec<_>>(), kernel[1] * channels)
        } else {
            let points = (0..kernel[0]).flat_map(|y| (0..kernel[1]).map(move |x| (y, x)));
            let at = |(y, x)| (y * dilations[0] * width + x * dilations[1]) * channels;
            (points.map(at).collect(), per_group)
        };
        let plan = Plan {
            isa,
            step: strides[1] * channels,
            segments: &segments,
            run,
            result_step: place.channels,
            low,
            high,
            far: from.len() + to.len() > FAR,
        };
        let multiply_all = |from: &[f32], lines: &mut Vec<Line>, to: &mut [f32]| {
            // The lines' results follow each other.
            let all = lines.first().map_or(0, |line| line.to)
                ..lines.last().map_or(0, |line| line.to + line.rows * place.channels);
            for (group, packed) in self.kernels.iter().enumerate() {
                multiply(&plan, lines, from, packed, residual, to);
                if group + 1 < self.kernels.len() {
                    for line in lines.iter_mut() {
                        line.from += per_group;
                        line.to += packed.columns();
                    }
                }
            }
            if let Some(map) = map {
                map.apply(isa, &mut to[all]);
            }
        };
        let mut lines = vec![];
        if !copied && geometry.is_pointwise() {
            let points = images * input[0] * input[1];
            // Of several groups each writes a part of every line of the result: that stays near, too.
            let width = if self.kernels.len() > 1 { channels + outputs } else { channels };
            let block = (BLOCK / width).max(64).next_multiple_of(28);
            for first in (0..points).step_by(block) {
                lines.clear();
                let rows = block.min(points - first);
                lines.push(Line { from: first * channels, to: first * place.channels + place.offset, rows });
                multiply_all(from, &mut lines, to);
            }
            return Ok(());
        }
        let height = geometry.span(0, output[0]);
        let whole = height * width * channels;
        // Many small images at once, or some lines of a large one.
        let at_once = (BLOCK / whole).clamp(1, images);
        let block = if at_once > 1 {
            output[0]
        } else {
            let line = strides[0] * width * channels;
            (BLOCK / line).clamp(1, output[0])
        };
        let held = geometry.span(0, block) * width * channels;
        let mut copy = vec![0.0; if copied { held * at_once } else { 0 }];
        for first in (0..images).step_by(at_once) {
            let many = at_once.min(images - first);
            for y in (0..output[0]).step_by(block) {
                let height = block.min(output[0] - y);
                lines.clear();
                for one in 0..many {
                    let number = first + one;
                    let base = if copied {
                        let from = &from[number * image..][..image];
                        self.copy(&geometry, from, y, height, width, &mut copy[one * held..][..held]);
                        one * held
                    } else {
                        number * image + y * strides[0] * width * channels
                    };
                    lines.extend((0..height).map(|line| Line {
                        from: base + line * strides[0] * width * channels,
                        to: (number * output[0] + y + line) * output[1] * place.channels + place.offset,
                        rows: output[1],
                    }));
                }
                multiply_all(if copied { &copy } else { from }, &mut lines, to);
            }
        }
        Ok(())
    }

    /// Copies what the windows of `lines` lines of the output, from `y` on, reach over: channels last, zeros around the image.
    fn copy(&self, geometry: &Geometry, from: &[f32], y: usize, lines: usize, width: usize, to: &mut [f32]) {
        let Geometry { input, strides, pads, .. } = *geometry;
        let channels = self.channels;
        let before = pads[1].min(width);
        let points = input[1].min(width - before);
        for (index, to) in to.chunks_exact_mut(width * channels).take(geometry.span(0, lines)).enumerate() {
            let line = y * strides[0] + index;
            let Some(line) = line.checked_sub(pads[0]).filter(|line| *line < input[0]) else {
                to.fill(0.0);
                continue;
            };
            let (left, to) = to.split_at_mut(before * channels);
            let (middle, right) = to.split_at_mut(points * channels);
            left.fill(0.0);
            right.fill(0.0);
            if points == 0 {
                continue;
            }
            if self.channels_first {
                let line = |channel: usize| &from[(channel * input[0] + line) * input[1]..][..points];
                match channels {
                    1 => middle.copy_from_slice(line(0)),
                    2 => interleave(std::array::from_fn::<_, 2, _>(line), middle),
                    3 => interleave(std::array::from_fn::<_, 3, _>(line), middle),
                    4 => interleave(std::array::from_fn::<_, 4, _>(line), middle),
                    _ => {
                        for channel in 0..channels {
                            for (to, from) in
                                middle[channel..].iter_mut().step_by(channels).zip(line(channel))
                            {
                                *to = *from;
                            }
                        }
                    }
                }
            } else {
                middle.copy_from_slice(&from[line * input[1] * channels..][..points * channels]);
            }
        }
    }
}
