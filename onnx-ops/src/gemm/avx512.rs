//! The inner loop of tiles of two and three panels for AVX-512, in assembly: compilers spill its sums, or spend an instruction on an
//! address for each value. See `docs/decisions/0028-products-in-assembly.md`.
#![expect(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "the inner loops work on raw addresses, whose bounds their callers have checked"
)]

use std::arch::{asm, x86_64::*};

use super::{lanes::LANES, tile::Tile};

/// For each number of rows, the loop for the first so many of a list.
macro_rules! first_rows {
    ($context:tt $panels:tt [$($before:tt)*]) => {};
    ($context:tt $panels:tt [$($before:tt)*] $row:tt $($after:tt)*) => {
        rows! { $context $panels $($before)* $row }
        first_rows! { $context $panels [$($before)* $row] $($after)* }
    };
}

/// The loop, if it is for `ROWS` rows. Three rows share an address, which x86 adds one or two steps to for nothing; with that it needs 12
/// general registers and at most 31 vectors, and there are no more than 14 (15 without a frame pointer) and 32.
///
/// A panel is its factors, where they are, and where those that are needed next are; a row is its number, where its value is, and for
/// each panel its sum, the panel's number and its factors.
macro_rules! rows {
    (
        ($tile:ident $start:ident $to:ident)
        [$(($factors:ident $from:literal $ahead:literal))*]
        $(($row:literal $value:literal $($sum:ident $panel:literal $by:literal)*))*
    ) => {
        if ROWS == [$($row),*].len() {
            let ((start, step), Tile { a_step, b_step, ahead, next_step, run, .. }) = ($start, *$tile);
            $($(let mut $sum = _mm512_loadu_ps(start.add($row * step + $panel * LANES));)*)*
            let (mut b, mut next) = ($tile.b, $tile.next);
            for segment in $tile.segments {
                let a = $tile.a.add(*segment);
                asm!(
                    "2:",
                    $(
                        concat!("vmovups {", stringify!($factors), "}, zmmword ptr [", $from, "]"),
                        concat!("prefetcht1 byte ptr [", $ahead, "]"),
                    )*
                    "prefetcht0 byte ptr [{next}]",
                    $(
                        concat!("vbroadcastss {x}, dword ptr [", $value, "]"),
                        $(concat!("vfmadd231ps {", stringify!($sum), "}, {x}, ", $by),)*
                    )*
                    "add {a0}, 4",
                    "add {a3}, 4",
                    "add {a6}, 4",
                    "add {a9}, 4",
                    "add {a12}, 4",
                    "add {b}, 64",
                    "add {ahead}, 64",
                    "add {next}, {next_step}",
                    "dec {run}",
                    "jnz 2b",
                    // One row needs no step.
                    "/* {a_step} */",
                    $($($sum = inout(zmm_reg) $sum,)*)*
                    $($factors = out(zmm_reg) _,)*
                    x = out(zmm_reg) _,
                    a0 = inout(reg) a => _,
                    a3 = inout(reg) a.wrapping_add(3 * a_step) => _,
                    a6 = inout(reg) a.wrapping_add(6 * a_step) => _,
                    a9 = inout(reg) a.wrapping_add(9 * a_step) => _,
                    a12 = inout(reg) a.wrapping_add(12 * a_step) => _,
                    a_step = in(reg) a_step * size_of::<f32>(),
                    b = inout(reg) b,
                    b_step = in(reg) b_step * size_of::<f32>(),
                    ahead = inout(reg) b.wrapping_add(ahead) => _,
                    next = inout(reg) next,
                    next_step = in(reg) next_step * size_of::<f32>(),
                    run = inout(reg) run => _,
                    options(nostack, readonly),
                );
            }
            $($(_mm512_storeu_ps($to.add(($row * PANELS + $panel) * LANES), $sum);)*)*
        }
    };
}

/// Adds the products of a tile of 1 to 14 rows and two panels to what `start` has, and writes the sums to `to`.
///
/// # Safety
/// As for a [`super::tile::Kernel`]; `start` is where the first row's sums start from, and the distance to the next row's; `to`
/// has room for as many vectors as the tile.
#[target_feature(enable = "avx512f")]
pub unsafe fn two<const ROWS: usize, const PANELS: usize>(
    t: &Tile,
    start: (*const f32, usize),
    to: *mut f32,
) {
    const { assert!(ROWS >= 1 && ROWS <= 14 && PANELS == 2, "it is among these") };
    unsafe {
        first_rows! {
            (t start to)
            [(f0 "{b}" "{ahead}") (f1 "{b} + {b_step}" "{ahead} + {b_step}")]
            []
            (0 "{a0}" s0 0 "{f0}" t0 1 "{f1}")
            (1 "{a0} + {a_step}" s1 0 "{f0}" t1 1 "{f1}")
            (2 "{a0} + 2 * {a_step}" s2 0 "{f0}" t2 1 "{f1}")
            (3 "{a3}" s3 0 "{f0}" t3 1 "{f1}")
            (4 "{a3} + {a_step}" s4 0 "{f0}" t4 1 "{f1}")
            (5 "{a3} + 2 * {a_step}" s5 0 "{f0}" t5 1 "{f1}")
            (6 "{a6}" s6 0 "{f0}" t6 1 "{f1}")
            (7 "{a6} + {a_step}" s7 0 "{f0}" t7 1 "{f1}")
            (8 "{a6} + 2 * {a_step}" s8 0 "{f0}" t8 1 "{f1}")
            (9 "{a9}" s9 0 "{f0}" t9 1 "{f1}")
            (10 "{a9} + {a_step}" s10 0 "{f0}" t10 1 "{f1}")
            (11 "{a9} + 2 * {a_step}" s11 0 "{f0}" t11 1 "{f1}")
            (12 "{a12}" s12 0 "{f0}" t12 1 "{f1}")
            (13 "{a12} + {a_step}" s13 0 "{f0}" t13 1 "{f1}")
        }
    }
}

/// The same for 1 to 9 rows and three panels.
///
/// # Safety
/// As for [`two`].
#[target_feature(enable = "avx512f")]
pub unsafe fn three<const ROWS: usize, const PANELS: usize>(
    t: &Tile,
    start: (*const f32, usize),
    to: *mut f32,
) {
    const { assert!(ROWS >= 1 && ROWS <= 9 && PANELS == 3, "it is among these") };
    unsafe {
        first_rows! {
            (t start to)
            [
                (f0 "{b}" "{ahead}") (f1 "{b} + {b_step}" "{ahead} + {b_step}")
                (f2 "{b} + 2 * {b_step}" "{ahead} + 2 * {b_step}")
            ]
            []
            (0 "{a0}" s0 0 "{f0}" t0 1 "{f1}" u0 2 "{f2}")
            (1 "{a0} + {a_step}" s1 0 "{f0}" t1 1 "{f1}" u1 2 "{f2}")
            (2 "{a0} + 2 * {a_step}" s2 0 "{f0}" t2 1 "{f1}" u2 2 "{f2}")
            (3 "{a3}" s3 0 "{f0}" t3 1 "{f1}" u3 2 "{f2}")
            (4 "{a3} + {a_step}" s4 0 "{f0}" t4 1 "{f1}" u4 2 "{f2}")
            (5 "{a3} + 2 * {a_step}" s5 0 "{f0}" t5 1 "{f1}" u5 2 "{f2}")
            (6 "{a6}" s6 0 "{f0}" t6 1 "{f1}" u6 2 "{f2}")
            (7 "{a6} + {a_step}" s7 0 "{f0}" t7 1 "{f1}" u7 2 "{f2}")
            (8 "{a6} + 2 * {a_step}" s8 0 "{f0}" t8 1 "{f1}" u8 2 "{f2}")
        }
    }
}
