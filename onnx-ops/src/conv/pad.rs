//! Values around a tensor: a constant, the outermost ones again, or those inside in reverse.

use tract_onnx::tract_core::{internal::*, ops::array::PadMode};

use crate::kernel::Kernel;

#[derive(Clone, Debug)]
pub struct Pad {
    /// Before and after, along each axis.
    pub pads: Vec<(usize, usize)>,
    pub mode: Mode,
}

#[derive(Clone, Copy, Debug)]
pub enum Mode {
    Constant(f32),
    Reflect,
    Edge,
}

impl Mode {
    pub fn of(mode: &PadMode) -> Option<Self> {
        Some(match mode {
            PadMode::Constant(constant) => Self::Constant(constant.cast_to_scalar::<f32>().ok()?),
            PadMode::Reflect => Self::Reflect,
            PadMode::Edge => Self::Edge,
        })
    }

    /// Which of `size` values is at a place, counted from the first of them; `None` for the constant.
    fn source(self, place: isize, size: usize) -> Option<usize> {
        let last = size.cast_signed() - 1;
        if (0..=last).contains(&place) {
            return Some(place.unsigned_abs());
        }
        match self {
            Self::Constant(_) => None,
            Self::Edge => Some(place.clamp(0, last).unsigned_abs()),
            Self::Reflect => {
                let place = place.rem_euclid((2 * last).max(1));
                Some(place.min(2 * last - place).max(0).unsigned_abs())
            }
        }
    }
}

impl Kernel for Pad {
    fn name(&self) -> &'static str {
        "AirlockPad"
    }

    fn shape(&self, inputs: &[&[usize]]) -> TractResult<TVec<usize>> {
        let [input] = inputs else { bail!("values around {} tensors", inputs.len()) };
        ensure!(input.len() == self.pads.len() && !input.contains(&0), "a tensor of another shape");
        let size = |(size, (before, after)): (&usize, &(usize, usize))| {
            size.checked_add(*before)?.checked_add(*after)
        };
        input.iter().zip(&self.pads).map(size).collect::<Option<_>>().context("too large a result")
    }

    fn run(&self, inputs: &[(&[usize], &[f32])], to: &mut [f32]) -> TractResult<()> {
        let (shape, from) = inputs[0];
        let constant = if let Mode::Constant(constant) = self.mode { constant } else { 0.0 };
        let sources: Vec<Vec<Option<usize>>> = shape
            .iter()
            .zip(&self.pads)
            .map(|(size, (before, after))| {
                let places = -before.cast_signed()..(size + after).cast_signed();
                places.map(|place| self.mode.source(place, *size)).collect()
            })
            .collect();
        let (line, outer) = sources.split_last().context("a scalar")?;
        let (width, before) = (shape[outer.len()], self.pads[outer.len()].0);
        for (number, to) in to.chunks_exact_mut(line.len()).enumerate() {
            // Where the line comes from: the axes from the last one to the first.
            let (mut rest, mut step, mut start) = (number, width, Some(0));
            for (sources, size) in outer.iter().zip(shape).rev() {
                start = start.zip(sources[rest % sources.len()]).map(|(start, source)| start + source * step);
                rest /= sources.len();
                step *= size;
            }
            let Some(start) = start else {
                to.fill(constant);
                continue;
            };
            let from = &from[start..][..width];
            let (left, others) = to.split_at_mut(before);
            let (middle, right) = others.split_at_mut(width);
            middle.copy_from_slice(from);
            let around = left.iter_mut().zip(line).chain(right.iter_mut().zip(&line[before + width..]));
            for (to, source) in around {
                *to = source.map_or(constant, |source| from[source]);
            }
        }
        Ok(())
    }
}
