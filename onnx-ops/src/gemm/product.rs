//! Products of many rows with a packed right side, tile by tile.
#![expect(unsafe_code, reason = "tiles are given to the kernel as raw addresses")]

use super::{
    lanes::{Isa, LANES},
    pack::Packed,
    tile::{Tile, shapes},
};

/// Left rows that lie `step` apart: a matrix's rows, or the points of one line of an image.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Where the first row begins in the left side, and its result in the right one.
    pub from: usize,
    pub to: usize,
    pub rows: usize,
}

/// What all lines have in common.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    pub isa: Isa,
    /// The distance between two rows of a line.
    pub step: usize,
    /// Where a row's segments begin, from the row's beginning, and how long each is.
    pub segments: &'a [usize],
    pub run: usize,
    /// The distance between two rows of the result.
    pub result_step: usize,
    /// Between what the results are clamped.
    pub low: f32,
    pub high: f32,
}

/// Writes the product of each line's rows with `packed`, plus what is in the same place of `residual`, to `to`.
///
/// # Panics
/// A line that reaches outside of the slices.
pub fn multiply(
    plan: &Plan,
    lines: &[Line],
    from: &[f32],
    packed: &Packed,
    residual: Option<&[f32]>,
    to: &mut [f32],
) {
    let columns = packed.columns();
    assert_eq!(plan.segments.len() * plan.run, packed.depth(), "the depth of both sides");
    let reach = plan.segments.iter().max().map_or(0, |last| last + plan.run);
    let most = lines.iter().map(|line| line.rows).max().unwrap_or(0);
    for line in lines.iter().filter(|line| line.rows > 0) {
        let last = line.rows - 1;
        assert!(line.from + last * plan.step + reach <= from.len(), "a row outside of the left side");
        let end = line.to + last * plan.result_step + columns;
        assert!(end <= to.len(), "a row outside of the result");
        assert!(residual.is_none_or(|residual| end <= residual.len()), "a row outside of what is added");
    }
    let mut panel = 0;
    while panel < packed.panels() {
        let left = packed.panels() - panel;
        // The widest that has registers for all rows of a line; else the largest.
        let fits = |shape: &&super::tile::Shape| shape.panels <= left;
        let shape = shapes(plan.isa).iter().rev().filter(fits).find(|shape| shape.rows >= most);
        let many = || {
            shapes(plan.isa).iter().filter(|shape| shape.panels <= 2 && fits(shape)).max_by_key(|shape| shape.panels)
        };
        let Some(shape) = shape.or_else(many) else { unreachable!("a tile of one panel fits") };
        let (factors, bias) = packed.panel(panel);
        let last = LANES.min(columns - (panel + shape.panels - 1) * LANES);
        for line in lines {
            let tiles = line.rows.div_ceil(shape.rows);
            let mut row = 0;
            for tile in 0..tiles {
                // As even as can be.
                let rows = (line.rows - row).div_ceil(tiles - tile);
                let at = line.to + row * plan.result_step + panel * LANES;
                // SAFETY: the assertions above hold for each of the line's rows, whose first `columns` results include these
                // panels'; `panel` is followed by `shape.panels - 1` more. The instruction set was found on this CPU.
                unsafe {
                    shape.kernel(rows)(&Tile {
                        a: from.as_ptr().add(line.from + row * plan.step),
                        a_step: plan.step,
                        segments: plan.segments,
                        run: plan.run,
                        b: factors.as_ptr(),
                        b_step: packed.depth() * LANES,
                        c: to.as_mut_ptr().add(at),
                        c_step: plan.result_step,
                        last,
                        bias: bias.as_ptr(),
                        residual: residual.map_or(std::ptr::null(), |residual| residual.as_ptr().add(at)),
                        low: plan.low,
                        high: plan.high,
                    });
                }
                row += rows;
            }
        }
        panel += shape.panels;
    }
}
