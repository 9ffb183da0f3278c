//! Products of many rows with a packed right side, tile by tile.
#![expect(unsafe_code, reason = "tiles are given to the kernel as raw addresses")]

use std::cmp::Reverse;

use super::{
    lanes::{Isa, LANES},
    pack::Packed,
    tile::{Shape, Tile, shapes},
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
    /// Whether the rows and their results are in memory, or at best in the last cache.
    pub far: bool,
}

/// How many factors are gone through for each tile: a part of what a core's second level cache holds. The first level would hold
/// fewer, but then results are read and written once more for each part.
const NEAR: usize = 40 * 1024;

/// Whether a pass over a part of the depth is the first one, and the last one.
struct Pass {
    begin: bool,
    end: bool,
}

/// A part of the depth: all of some segments, or a part of one.
struct Piece {
    segments: std::ops::Range<usize>,
    skip: usize,
    run: usize,
}

impl Piece {
    fn depth(&self) -> usize {
        self.segments.len() * self.run
    }
}

/// The depth in pieces of at most about `near`.
fn pieces(segments: usize, run: usize, near: usize) -> Vec<Piece> {
    if run <= near {
        let many = (near / run).max(1);
        let piece = |first| Piece { segments: first..segments.min(first + many), skip: 0, run };
        return (0..segments).step_by(many).map(piece).collect();
    }
    let length = run.div_ceil(run.div_ceil(near));
    let parts = (0..run).step_by(length).map(|skip| (skip, length.min(run - skip)));
    let all = |(skip, run)| Piece { segments: 0..1, skip, run };
    let parts: Vec<_> = parts.map(all).collect();
    let of = |segment: usize, part: &Piece| Piece {
        segments: segment..segment + 1,
        skip: part.skip,
        run: part.run,
    };
    (0..segments).flat_map(|segment| parts.iter().map(move |part| of(segment, part))).collect()
}

/// The tile for lines of so many rows, of which so many panels are left: the one that adds up the most at once.
fn shape_for(isa: Isa, rows: usize, left: usize) -> &'static Shape {
    let tiles = |shape: &Shape| rows.div_ceil(shape.rows).max(1);
    let fits = |shape: &&Shape| {
        let panels = shape.panels;
        // Tiles of more panels read too many factors for each value where they do not hold all rows.
        let holds = tiles(shape) == 1 || panels <= 3;
        // One panel alone costs nearly as much as two.
        panels <= left && holds && !(left - panels == 1 && (3..=4).contains(&panels))
    };
    let rank = |shape: &&Shape| {
        let (tiles, panels) = (tiles(shape), shape.panels);
        (rows * panels * 64 / tiles, panels > 1, Reverse(tiles))
    };
    let Some(shape) = shapes(isa).iter().filter(fits).max_by_key(rank) else {
        unreachable!("a tile of one panel fits")
    };
    shape
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
    let (columns, far) = (packed.columns(), plan.far);
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
    // Left sides that follow each other are prefetched.
    let ahead = far && plan.segments.len() == 1 && plan.step == plan.run;
    let all: usize = lines.iter().map(|line| line.rows).sum();
    let mut panel = 0;
    while panel < packed.panels() {
        let shape = shape_for(plan.isa, most, packed.panels() - panel);
        let (factors, bias) = packed.panel(panel);
        let last = LANES.min(columns - (panel + shape.panels - 1) * LANES);
        // Few rows need each factor once; for more, as many as stay near go at a time.
        let near = if all <= shape.rows { usize::MAX } else { NEAR / (shape.panels * LANES) };
        let mut depth = 0;
        for piece in pieces(plan.segments.len(), plan.run, near) {
            let begin = piece.skip;
            let pass = Pass { begin: depth == 0, end: depth + piece.depth() == packed.depth() };
            for line in lines {
                let tiles = line.rows.div_ceil(shape.rows);
                let mut row = 0;
                for tile in 0..tiles {
                    // As even as can be.
                    let rows = (line.rows - row).div_ceil(tiles - tile);
                    let at = line.to + row * plan.result_step + panel * LANES;
                    // SAFETY: the assertions above hold for each of the line's rows, whose first `columns` results include
                    // these panels'; `panel` is followed by `shape.panels - 1` more; the piece is a part of the depth, and not
                    // empty. The instruction set was found on this CPU.
                    unsafe {
                        shape.kernel(rows)(&Tile {
                            a: from.as_ptr().add(line.from + row * plan.step + begin),
                            a_step: plan.step,
                            segments: &plan.segments[piece.segments.clone()],
                            run: piece.run,
                            b: factors.as_ptr().add(depth * LANES),
                            b_step: packed.depth() * LANES,
                            ahead: if pass.end {
                                shape.panels * packed.depth() * LANES - depth * LANES
                            } else {
                                piece.depth() * LANES
                            },
                            next: from.as_ptr().wrapping_add(line.from + (row + rows) * plan.step + begin),
                            next_step: if ahead && panel == 0 { LANES } else { 0 },
                            far,
                            c: to.as_mut_ptr().add(at),
                            c_step: plan.result_step,
                            last,
                            bias: if pass.begin { bias.as_ptr() } else { std::ptr::null() },
                            residual: residual
                                .filter(|_| pass.end)
                                .map_or(std::ptr::null(), |residual| residual.as_ptr().add(at)),
                            low: if pass.end { plan.low } else { f32::NEG_INFINITY },
                            high: if pass.end { plan.high } else { f32::INFINITY },
                        });
                    }
                    row += rows;
                }
            }
            depth += piece.depth();
        }
        panel += shape.panels;
    }
}
