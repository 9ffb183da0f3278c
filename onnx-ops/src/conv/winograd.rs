//! Convolutions by windows of 3 x 3 with 4 products for 9: images and kernels are transformed so that four neighbouring outputs
//! are 16 products instead of 36 (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2015: F(2x2, 3x3)).
#![expect(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "the inner loops work on raw addresses, whose bounds are checked before"
)]
#![expect(clippy::needless_range_loop, reason = "registers and addresses are counted by the same number")]

use tract_onnx::tract_core::internal::*;

use super::{
    dense::{After, Place},
    geometry::Geometry,
};
use crate::{
    gemm::{
        Isa, Line, Packed, Plan,
        aligned::Aligned,
        lanes::{LANES, Lanes, Portable},
        multiply,
    },
    spare,
};

/// Products for a tile of 2 x 2 outputs.
const PRODUCTS: usize = 16;
/// The one of them that is a part of all four outputs, each time as it is: the bias is added to it.
pub const CENTRE: usize = 5;
/// How many tiles are worth it: fewer do not pay for kernels of 16 values instead of 9.
const FEWEST_TILES: usize = 48;
/// Tiles at a time: at least so many, as kernels are read once for all of them, and as many whole tiles of the product.
const TILES: usize = 56;
/// Values of tiles, before and after the products, that are worked on at once: a part of what a core's second level cache holds.
const BLOCK: usize = 128 * 1024;

/// Whether a convolution is to be computed like this.
pub fn fits(geometry: &Geometry, images: usize, channels: usize, outputs: usize) -> bool {
    let plain = geometry.kernel == [3; 2] && geometry.strides == [1; 2] && geometry.dilations == [1; 2];
    let [height, width] = geometry.output;
    let tiles = images * height.div_ceil(2) * width.div_ceil(2);
    plain && height > 3 && width > 3 && channels >= 2 * LANES && outputs >= LANES && tiles >= FEWEST_TILES
}

/// Transforms and packs kernels `[O, I, 3, 3]`: for each of the products, the factors of all channels.
pub fn pack(
    [outputs, channels]: [usize; 2],
    kernels: &[f32],
    bias: Option<&[f32]>,
) -> TractResult<Vec<Packed>> {
    ensure!(kernels.len() == outputs * channels * 9, "kernels of another shape");
    let spread = |[a, b, c]: [f32; 3]| [a, (a + b + c) / 2.0, (a - b + c) / 2.0, c];
    let mut factors = vec![0.0; PRODUCTS * channels * outputs];
    for (index, kernel) in kernels.as_chunks::<9>().0.iter().enumerate() {
        let (output, channel) = (index / channels, index % channels);
        let lines: [_; 3] = std::array::from_fn(|y| spread(std::array::from_fn(|x| kernel[y * 3 + x])));
        for x in 0..4 {
            for (y, factor) in spread(lines.map(|line| line[x])).into_iter().enumerate() {
                factors[((y * 4 + x) * channels + channel) * outputs + output] = factor;
            }
        }
    }
    let matrices = factors.chunks_exact(channels * outputs).enumerate();
    matrices
        .map(|(product, factors)| {
            let factor = |row, column| factors[row * outputs + column];
            Packed::new(channels, outputs, factor, bias.filter(|_| product == CENTRE))
        })
        .collect()
}

/// A convolution of images `[N, H, W, C]` by kernels that [`pack`] made.
#[derive(Clone, Copy)]
pub struct Winograd<'a> {
    pub geometry: Geometry,
    pub channels: usize,
    pub kernels: &'a [Packed],
}

/// Where the results go, and what is done to them.
struct Results<'a> {
    residual: Option<&'a [f32]>,
    clamp: (f32, f32),
    place: Place,
    to: &'a mut [f32],
}

impl Winograd<'_> {
    fn outputs(&self) -> usize {
        self.kernels[0].columns()
    }

    /// Tiles of one image, down and across.
    fn tiles(&self) -> [usize; 2] {
        self.geometry.output.map(|size| size.div_ceil(2))
    }

    pub fn run(
        &self,
        isa: Isa,
        images: usize,
        from: &[f32],
        residual: Option<&[f32]>,
        After { clamp, map, place }: After,
        to: &mut [f32],
    ) -> TractResult<()> {
        let Geometry { input, output, .. } = self.geometry;
        let (channels, outputs) = (self.channels, self.outputs());
        let place = place.unwrap_or(Place { offset: 0, channels: outputs });
        ensure!(place.offset + outputs <= place.channels, "a part that is not in the result");
        ensure!(map.is_none() || place.channels == outputs, "a map of a part of the result");
        ensure!(self.kernels.len() == PRODUCTS, "kernels that are not transformed");
        ensure!(from.len() == images * input[0] * input[1] * channels, "an input of another size");
        ensure!(to.len() == images * output[0] * output[1] * place.channels, "an output of another size");
        ensure!(residual.is_none_or(|residual| residual.len() == to.len()), "a residual of another size");
        let tiles = images * self.tiles().iter().product::<usize>();
        let block = (BLOCK / PRODUCTS / (channels + outputs)).next_multiple_of(TILES).min(tiles);
        // SAFETY: `spread_all` writes all of the first, and `multiply`, to which the kernels' biases give a start, all of the
        // second, before any of it is read.
        let [mut spread, mut products] = unsafe {
            [spare::tensor(&[PRODUCTS * block * channels])?, spare::tensor(&[PRODUCTS * block * outputs])?]
        };
        let mut spread = spread.to_plain_array_view_mut::<f32>()?;
        let mut products = products.to_plain_array_view_mut::<f32>()?;
        let (Some(spread), Some(products)) = (spread.as_slice_mut(), products.as_slice_mut()) else {
            bail!("a tensor that is not in order")
        };
        let zeros = Aligned::zeros(channels);
        let plan = Plan {
            isa,
            step: channels,
            segments: &[0],
            run: channels,
            result_step: outputs,
            low: f32::NEG_INFINITY,
            high: f32::INFINITY,
            far: false,
        };
        let mut results = Results { residual, clamp, place, to };
        for first in (0..tiles).step_by(block) {
            let count = block.min(tiles - first);
            let lines = [Line { from: 0, to: 0, rows: count }];
            let (spread, products) =
                (&mut spread[..PRODUCTS * count * channels], &mut products[..PRODUCTS * count * outputs]);
            // SAFETY: the sizes are checked above; the instruction set was found on this CPU.
            unsafe { self.spread_all(isa, first, from, &zeros, spread) };
            let pairs = spread.chunks_exact(count * channels).zip(products.chunks_exact_mut(count * outputs));
            for (packed, (spread, products)) in self.kernels.iter().zip(pairs) {
                multiply(&plan, &lines, spread, packed, None, products);
            }
            unsafe { self.gather_all(isa, first, products, &mut results) };
        }
        if let Some(map) = map {
            map.apply(isa, to);
        }
        Ok(())
    }

    /// The first output of a tile: which image, line and point.
    fn place_of(&self, tile: usize) -> [usize; 3] {
        let [down, across] = self.tiles();
        [tile / (down * across), tile / across % down * 2, tile % across * 2]
    }

    /// The values that each of some tiles depends on, transformed: for each product, for each tile, all channels.
    #[inline(always)]
    unsafe fn spread<L: Lanes>(&self, first: usize, from: &[f32], zeros: &[f32], to: &mut [f32]) {
        let Geometry { input, pads, .. } = self.geometry;
        let channels = self.channels;
        let count = to.len() / PRODUCTS / channels;
        for tile in 0..count {
            let [image, y, x] = self.place_of(first + tile);
            let points: [*const f32; PRODUCTS] = std::array::from_fn(|point| {
                let line = (y + point / 4).checked_sub(pads[0]).filter(|line| *line < input[0]);
                let column = (x + point % 4).checked_sub(pads[1]).filter(|column| *column < input[1]);
                let place =
                    line.zip(column).map(|(line, column)| (image * input[0] + line) * input[1] + column);
                place.map_or(zeros, |place| &from[place * channels..][..channels]).as_ptr()
            });
            for channel in (0..channels).step_by(LANES) {
                let lanes = LANES.min(channels - channel);
                unsafe {
                    let mut d = [[L::splat(0.0); 4]; 4];
                    for point in 0..PRODUCTS {
                        let at = points[point].add(channel);
                        d[point / 4][point % 4] =
                            if lanes == LANES { L::load(at) } else { L::load_first(at, lanes) };
                    }
                    let each =
                        |[a, b, c, d]: [L::V; 4]| [L::sub(a, c), L::add(b, c), L::sub(c, b), L::sub(b, d)];
                    let lines = [each(d[0]), each(d[1]), each(d[2]), each(d[3])];
                    for x in 0..4 {
                        let column = each([lines[0][x], lines[1][x], lines[2][x], lines[3][x]]);
                        for y in 0..4 {
                            let at = to.as_mut_ptr().add(((y * 4 + x) * count + tile) * channels + channel);
                            if lanes == LANES {
                                L::store(at, column[y])
                            } else {
                                L::store_first(at, column[y], lanes)
                            }
                        }
                    }
                }
            }
        }
    }

    /// Makes of each tile's products its four outputs, or those of them that there are.
    #[inline(always)]
    unsafe fn gather<L: Lanes>(&self, first: usize, products: &[f32], results: &mut Results) {
        let output = self.geometry.output;
        let outputs = self.outputs();
        let count = products.len() / PRODUCTS / outputs;
        for tile in 0..count {
            let [image, y, x] = self.place_of(first + tile);
            let Place { offset, channels } = results.place;
            let first = ((image * output[0] + y) * output[1] + x) * channels + offset;
            let (tall, wide) = (2.min(output[0] - y), 2.min(output[1] - x));
            for channel in (0..outputs).step_by(LANES) {
                let lanes = LANES.min(outputs - channel);
                unsafe {
                    let (low, high) = (L::splat(results.clamp.0), L::splat(results.clamp.1));
                    let mut m = [[L::splat(0.0); 4]; 4];
                    for product in 0..PRODUCTS {
                        let at = products.as_ptr().add((product * count + tile) * outputs + channel);
                        m[product / 4][product % 4] =
                            if lanes == LANES { L::load(at) } else { L::load_first(at, lanes) };
                    }
                    let each = |[a, b, c, d]: [L::V; 4]| [L::add(L::add(a, b), c), L::sub(L::sub(b, c), d)];
                    let lines = [each(m[0]), each(m[1]), each(m[2]), each(m[3])];
                    for x in 0..wide {
                        let column = each([lines[0][x], lines[1][x], lines[2][x], lines[3][x]]);
                        for y in 0..tall {
                            let at = first + (y * output[1] + x) * channels + channel;
                            let mut value = column[y];
                            if let Some(residual) = results.residual {
                                value = L::add(value, L::load_first(residual.as_ptr().add(at), lanes));
                            }
                            let value = L::min(high, L::max(low, value));
                            let to = results.to.as_mut_ptr().add(at);
                            if lanes == LANES {
                                L::store(to, value)
                            } else {
                                L::store_first(to, value, lanes)
                            }
                        }
                    }
                }
            }
        }
    }

    unsafe fn spread_all(&self, isa: Isa, first: usize, from: &[f32], zeros: &[f32], to: &mut [f32]) {
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => self.spread_avx512(first, from, zeros, to),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => self.spread_avx2(first, from, zeros, to),
                Isa::Portable => self.spread::<Portable>(first, from, zeros, to),
            }
        }
    }

    unsafe fn gather_all(&self, isa: Isa, first: usize, products: &[f32], results: &mut Results) {
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => self.gather_avx512(first, products, results),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => self.gather_avx2(first, products, results),
                Isa::Portable => self.gather::<Portable>(first, products, results),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn spread_avx512(&self, first: usize, from: &[f32], zeros: &[f32], to: &mut [f32]) {
        unsafe { self.spread::<crate::gemm::lanes::Avx512>(first, from, zeros, to) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn spread_avx2(&self, first: usize, from: &[f32], zeros: &[f32], to: &mut [f32]) {
        unsafe { self.spread::<crate::gemm::lanes::Avx2>(first, from, zeros, to) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn gather_avx512(&self, first: usize, products: &[f32], results: &mut Results) {
        unsafe { self.gather::<crate::gemm::lanes::Avx512>(first, products, results) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn gather_avx2(&self, first: usize, products: &[f32], results: &mut Results) {
        unsafe { self.gather::<crate::gemm::lanes::Avx2>(first, products, results) }
    }
}
