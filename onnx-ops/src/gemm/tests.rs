#![expect(clippy::cast_possible_truncation, reason = "what is compared is rounded once")]
use proptest::prelude::*;

use super::{
    Isa, Line, Packed, Plan,
    map::{Gate, Map},
    multiply,
};

/// Numbers that look random, between -1 and 1.
pub fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_769).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).expect("sixteen bits")) / 32_768.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Asserts that both are as near as sums of `terms` products of numbers up to 1 are.
pub fn assert_near(found: &[f32], expected: &[f32], terms: usize) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let allowed = 1e-5 * (1.0 + terms as f32).sqrt() + 1e-5 * expected.abs();
        assert!((found - expected).abs() <= allowed, "{found} is not {expected}, at {index}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rows of segments anywhere in the left side, lines anywhere in the result.
    #[test]
    fn products_are_sums(
        rows in prop::collection::vec(1usize..40, 1..4),
        (segments, run) in prop_oneof![(1usize..6, 1usize..40), (1usize..3, 300usize..900)],
        columns in 1usize..140,
        (step_more, gap, room) in (0usize..5, 0usize..5, 0usize..5),
        (with_bias, with_residual, clamped) in any::<(bool, bool, bool)>(),
        seed in any::<u32>(),
    ) {
        let (step, result_step) = (run + step_more, columns + room);
        let places: Vec<usize> = (0..segments).map(|segment| segment * (run + gap)).collect();
        let reach = segments * (run + gap);
        let mut lines = vec![];
        let (mut from, mut to) = (0, 0);
        for rows in rows {
            lines.push(Line { from, to, rows });
            from += rows * step + reach;
            to += rows * result_step;
        }
        let depth = segments * run;
        let left = numbers(from, seed);
        let right = numbers(depth * columns, seed ^ 1);
        let bias = numbers(columns, seed ^ 2);
        let residual = numbers(to, seed ^ 3);
        let packed = Packed::new(depth, columns, |row, column| right[row * columns + column], with_bias.then_some(&bias))
            .expect("factors");
        let (low, high) = if clamped { (-0.5, 2.0) } else { (f32::NEG_INFINITY, f32::INFINITY) };
        // What no line reaches stays.
        let mut expected = vec![7.0; to];
        for line in &lines {
            for row in 0..line.rows {
                for column in 0..columns {
                    let at = line.to + row * result_step + column;
                    let mut sum = if with_bias { f64::from(bias[column]) } else { 0.0 };
                    for k in 0..depth {
                        let left = left[line.from + row * step + places[k / run] + k % run];
                        sum += f64::from(left) * f64::from(right[k * columns + column]);
                    }
                    sum += if with_residual { f64::from(residual[at]) } else { 0.0 };
                    expected[at] = (sum as f32).clamp(low, high);
                }
            }
        }
        for isa in Isa::all() {
            let plan = Plan { isa, step, segments: &places, run, result_step, low, high, far: clamped };
            let mut found = vec![7.0; to];
            multiply(&plan, &lines, &left, &packed, with_residual.then_some(&residual), &mut found);
            assert_near(&found, &expected, depth);
        }
    }

    #[test]
    fn maps_are_their_functions(
        count in 1usize..50,
        seed in any::<u32>(),
        (factor, term, times_x) in (-2f32..2.0, -1f32..1.0, any::<bool>()),
        range in prop_oneof![Just(1f32), Just(12f32), Just(200f32)],
    ) {
        let values: Vec<f32> = numbers(count, seed).iter().map(|x| x * range).collect();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        for gate in [
            Gate::Sigmoid,
            Gate::Clamp { scale: 0.25, offset: 0.5, low: 0.0, high: 1.0 },
            Gate::Whole { scale: 3.0, low: -128.0, high: 127.0 },
            Gate::Quotient { divisor: 0.3, low: -128.0, high: 127.0 },
            Gate::OnePlusErf,
            Gate::Cubic { scale: 1.595_769, cube: 0.071_354_8 },
        ] {
            let f = |x: f64| match gate {
                Gate::Sigmoid => sigmoid(x),
                Gate::Clamp { scale, offset, low, high } => {
                    (x * f64::from(scale) + f64::from(offset)).clamp(f64::from(low), f64::from(high))
                }
                Gate::Whole { scale, low, high } => {
                    let scaled = f64::from(x as f32 * scale);
                    scaled.clamp(f64::from(low), f64::from(high)).round_ties_even()
                }
                Gate::Quotient { divisor, low, high } => {
                    f64::from((x as f32 / divisor).clamp(low, high).round_ties_even())
                }
                Gate::OnePlusErf => 1.0 + erf(x / std::f64::consts::SQRT_2),
                Gate::Cubic { scale, cube } => sigmoid(x * f64::from(scale) + x * x * x * f64::from(cube)),
            };
            let map = Map { gate, times_x, factor, term };
            for isa in Isa::all() {
                let mut found = values.clone();
                map.apply(isa, &mut found);
                for (found, x) in found.iter().zip(&values) {
                    let x = f64::from(*x);
                    let y = if times_x { x * f(x) } else { f(x) };
                    let expected = y * f64::from(factor) + f64::from(term);
                    let near = (f64::from(*found) - expected).abs() <= 2e-6 * (1.0 + x.abs() + expected.abs());
                    prop_assert!(near, "{:?} {:?} of {} is {}, not {}", isa, map, x, found, expected);
                }
            }
        }
    }
}

/// Every tile that there is: each number of rows beside each number of panels, the last of them whole or not, at once and in several
/// passes over the depth, with what is added and without.
#[test]
fn tiles_of_all_sizes_are_sums() {
    for (rows, panels) in (1..=30).flat_map(|rows| (1..=9).map(move |panels| (rows, panels))) {
        let run = if rows % 7 == panels % 7 { 1000 } else { 7 };
        let (segments, step, columns) = ([0, run + 2], run + 3, panels * 16 - rows % 2 * 5);
        let lines = [0, rows * step].map(|from| Line { from, to: from / step * columns, rows });
        let left = numbers(2 * rows * step + 2 * run, 1);
        let right = numbers(2 * run * columns, 2);
        let bias = numbers(columns, 3);
        let residual = (rows % 3 > 0).then(|| numbers(2 * rows * columns, 4));
        let packed = Packed::new(2 * run, columns, |row, column| right[row * columns + column], Some(&bias));
        let packed = packed.expect("factors");
        let expected: Vec<f32> = (0..2 * rows * columns)
            .map(|at| {
                let (row, column) = (at / columns, at % columns);
                let product = |k: usize| {
                    let left = left[row * step + segments[k / run] + k % run];
                    f64::from(left) * f64::from(right[k * columns + column])
                };
                let sum: f64 = (0..2 * run).map(product).sum();
                let added = residual.as_ref().map_or(0.0, |residual| f64::from(residual[at]));
                (sum + f64::from(bias[column]) + added) as f32
            })
            .collect();
        for isa in Isa::all() {
            let (low, high) = (f32::NEG_INFINITY, f32::INFINITY);
            let plan = Plan {
                isa,
                step,
                segments: &segments,
                run,
                result_step: columns,
                low,
                high,
                far: panels % 2 == 0,
            };
            let mut found = vec![0.0; expected.len()];
            multiply(&plan, &lines, &left, &packed, residual.as_deref(), &mut found);
            assert_near(&found, &expected, 2 * run);
        }
    }
}

/// Values whose last one is followed by a page that nobody may touch.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "pages come from the system as addresses")]
fn before_a_guard(values: &[f32]) -> &'static mut [f32] {
    const PAGE: usize = 4096;
    let bytes = size_of_val(values).next_multiple_of(PAGE);
    // SAFETY: fresh pages, all but the last of them for reading and writing, which are never given back.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let all =
            libc::mmap(std::ptr::null_mut(), bytes + PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(all, libc::MAP_FAILED);
        let end = all.cast::<u8>().add(bytes);
        assert_eq!(libc::mprotect(end.cast(), PAGE, libc::PROT_NONE), 0);
        let first = end.cast::<f32>().sub(values.len());
        let guarded = std::slice::from_raw_parts_mut(first, values.len());
        guarded.copy_from_slice(values);
        guarded
    }
}

#[test]
#[cfg(target_os = "linux")]
fn nothing_beyond_the_rows_is_read_or_written() {
    for (rows, columns) in
        (1..=16).flat_map(|rows| [1, 16, 30, 33, 48, 64, 127].map(move |columns| (rows, columns)))
    {
        let depth = 5;
        let left = before_a_guard(&numbers(rows * depth, 1));
        let to = before_a_guard(&vec![0.0; rows * columns]);
        let packed = Packed::new(depth, columns, |_, _| 1.0, None).expect("factors");
        for isa in Isa::all() {
            let (low, high) = (f32::NEG_INFINITY, f32::INFINITY);
            let plan = Plan {
                isa,
                step: depth,
                segments: &[0],
                run: depth,
                result_step: columns,
                low,
                high,
                far: true,
            };
            multiply(&plan, &[Line { from: 0, to: 0, rows }], left, &packed, None, to);
            let sum = |row: usize| left[row * depth..][..depth].iter().sum::<f32>();
            let expected: Vec<f32> = (0..rows * columns).map(|at| sum(at / columns)).collect();
            assert_near(to, &expected, depth);
        }
    }
}

/// The error function by its Taylor series, or 1 where that has long been reached.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

#[test]
fn what_is_no_number_stays_so() {
    let packed = Packed::new(1, 1, |_, _| 1.0, None).expect("a factor");
    for isa in Isa::all() {
        let plan =
            Plan { isa, step: 1, segments: &[0], run: 1, result_step: 1, low: 0.0, high: 6.0, far: false };
        let mut to = [0.0];
        multiply(&plan, &[Line { from: 0, to: 0, rows: 1 }], &[f32::NAN], &packed, None, &mut to);
        assert!(to[0].is_nan(), "{isa:?}");
        let mut values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        Map::new(Gate::Sigmoid, false).apply(isa, &mut values);
        assert!(values[0].is_nan(), "{isa:?}");
        assert!((values[1] - 1.0).abs() < 1e-6 && values[2].abs() < 1e-6, "{isa:?}: {values:?}");
    }
}

#[test]
#[should_panic(expected = "a row outside of the left side")]
fn a_line_outside_is_refused() {
    let packed = Packed::new(2, 1, |_, _| 1.0, None).expect("factors");
    let plan = Plan {
        isa: Isa::best(),
        step: 2,
        segments: &[0],
        run: 2,
        result_step: 1,
        low: 0.0,
        high: 1.0,
        far: false,
    };
    multiply(&plan, &[Line { from: 0, to: 0, rows: 2 }], &[0.0; 3], &packed, None, &mut [0.0; 2]);
}
