#![expect(clippy::cast_possible_truncation, reason = "what is compared is rounded once")]
mod graphs;

use proptest::prelude::*;
use tract_onnx::tract_core::{
    internal::*,
    ops::array::{self, PadMode},
};

use super::{
    arithmetic::{Arithmetic, Binary},
    channels::Repeat,
    dense::{After, Dense, Place},
    depthwise::{ByChannel, Window},
    fold::{Fold, Of},
    geometry::Geometry,
    layout::transpose,
    pad::{Mode, Pad},
    softmax, winograd,
};
use crate::{
    gemm::{
        Isa,
        tests::{assert_near, numbers},
    },
    kernel::Kernel,
};

/// Windows that fit into images of a few points, a third of them of 3 x 3 points side by side.
fn geometries() -> impl Strategy<Value = Geometry> {
    let (size, pad) = (1usize..18, 0usize..3);
    let axis = (size.clone(), 1usize..5, 1usize..4, 1usize..4, pad.clone(), pad.clone());
    let common = (size, Just(3), Just(1), Just(1), pad.clone(), pad);
    prop_oneof![2 => (axis.clone(), axis), 1 => (common.clone(), common)].prop_filter_map(
        "windows that fit",
        |(y, x)| {
            let axes = [y, x].map(|(input, kernel, stride, dilation, before, after)| {
                let reach = (kernel - 1) * dilation + 1;
                let room = (input + before + after).checked_sub(reach)?;
                Some((input, room / stride + 1, kernel, stride, dilation, before))
            });
            let [Some(y), Some(x)] = axes else { return None };
            Some(Geometry {
                input: [y.0, x.0],
                output: [y.1, x.1],
                kernel: [y.2, x.2],
                strides: [y.3, x.3],
                dilations: [y.4, x.4],
                pads: [y.5, x.5],
            })
        },
    )
}

/// Calls with each tap of the window at `output` that is inside: its number and its point's.
fn taps(geometry: &Geometry, output: [usize; 2], mut each: impl FnMut(usize, usize)) {
    let inside = |axis: usize, tap: usize| {
        let at = output[axis] * geometry.strides[axis] + tap * geometry.dilations[axis];
        at.checked_sub(geometry.pads[axis]).filter(|at| *at < geometry.input[axis])
    };
    for y in 0..geometry.kernel[0] {
        for x in 0..geometry.kernel[1] {
            if let (Some(line), Some(point)) = (inside(0, y), inside(1, x)) {
                each(y * geometry.kernel[1] + x, line * geometry.input[1] + point);
            }
        }
    }
}

fn outputs(geometry: &Geometry) -> impl Iterator<Item = (usize, [usize; 2])> {
    let [height, width] = geometry.output;
    (0..height * width).map(move |at| (at, [at / width, at % width]))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn dense_convolutions_are_sums_over_windows(
        geometry in geometries(),
        (images, groups, per_group, outputs_each) in (1usize..4, 1usize..4, 1usize..20, 1usize..40),
        (channels_first, with_residual, clamped) in any::<(bool, bool, bool)>(),
        seed in any::<u32>(),
    ) {
        let (channels, count) = (groups * per_group, groups * outputs_each);
        let points = geometry.input[0] * geometry.input[1];
        let window = geometry.kernel[0] * geometry.kernel[1];
        let last = numbers(images * points * channels, seed);
        let weights = numbers(count * per_group * window, seed ^ 1);
        let bias = numbers(count, seed ^ 2);
        let results = geometry.output[0] * geometry.output[1];
        let residual = numbers(images * results * count, seed ^ 3);
        let clamp = if clamped { (-1.0, 1.5) } else { After::NOTHING.clamp };
        let mut expected = vec![];
        for image in 0..images {
            for (at, output) in outputs(&geometry) {
                for out in 0..count {
                    let mut sum = f64::from(bias[out]);
                    taps(&geometry, output, |tap, point| {
                        for channel in 0..per_group {
                            let x = last[(image * points + point) * channels + out / outputs_each * per_group + channel];
                            sum += f64::from(x) * f64::from(weights[(out * per_group + channel) * window + tap]);
                        }
                    });
                    if with_residual {
                        sum += f64::from(residual[(image * results + at) * count + out]);
                    }
                    expected.push((sum as f32).clamp(clamp.0, clamp.1));
                }
            }
        }
        let mut first = vec![0.0; last.len()];
        transpose(images, points, channels, &last, &mut first);
        let shape = [count, per_group, geometry.kernel[0], geometry.kernel[1]];
        let kernels = Dense::pack(groups, shape, &weights, Some(&bias)).expect("kernels");
        let dense = Dense { geometry, channels, kernels, tiled: false, channels_first };
        let from = if channels_first { &first } else { &last };
        let tiled = groups == 1 && [geometry.kernel, geometry.strides, geometry.dilations] == [[3; 2], [1; 2], [1; 2]];
        let kernels = tiled.then(|| winograd::pack([count, channels], &weights, Some(&bias)).expect("kernels"));
        let tiled = kernels.map(|kernels| Dense { kernels, tiled: true, channels_first: false, ..dense.clone() });
        for isa in Isa::all() {
            for (dense, from) in [(&dense, from)].into_iter().chain(tiled.as_ref().map(|dense| (dense, &last))) {
                let mut found = vec![7.0; expected.len()];
                let after = After { clamp, ..After::NOTHING };
                dense.run(isa, images, from, with_residual.then_some(&residual), after, &mut found).expect("sizes");
                assert_near(&found, &expected, per_group * window);
                if !with_residual {
                    let place = Place { offset: 2, channels: count + 5 };
                    let mut found = vec![7.0; expected.len() / count * place.channels];
                    let after = After { place: Some(place), ..after };
                    dense.run(isa, images, from, None, after, &mut found).expect("sizes");
                    let rows = || found.chunks_exact(place.channels);
                    let part: Vec<f32> = rows().flat_map(|row| &row[2..][..count]).copied().collect();
                    assert_near(&part, &expected, per_group * window);
                    prop_assert!(rows().all(|row| row[..2] == [7.0; 2] && row[2 + count..] == [7.0; 3]));
                }
            }
        }
    }

    #[test]
    fn windows_over_channels_are_sums_means_and_maxima(
        geometry in geometries(),
        (images, channels) in (1usize..3, 1usize..40),
        seed in any::<u32>(),
    ) {
        let points = geometry.input[0] * geometry.input[1];
        let size = geometry.kernel[0] * geometry.kernel[1];
        let from = numbers(images * points * channels, seed);
        let weights = numbers(size * channels, seed ^ 1);
        let bias = numbers(channels, seed ^ 2);
        for window in [
            Window::Weighted {
                factors: ByChannel::pad(size, channels, |tap, channel| weights[tap * channels + channel]).expect("factors"),
                bias: ByChannel::pad(1, channels, |_, channel| bias[channel]).expect("a bias"),
                low: -0.5,
                high: 1.0,
            },
            Window::Largest,
            Window::Sum,
            Window::Mean,
            Window::MeanWithPadding,
        ] {
            let mut expected = vec![];
            for image in 0..images {
                for (_, output) in outputs(&geometry) {
                    for channel in 0..channels {
                        let (mut sum, mut weighted, mut most) = (0.0, bias[channel], f32::NEG_INFINITY);
                        let mut count = 0.0;
                        taps(&geometry, output, |tap, point| {
                            let x = from[(image * points + point) * channels + channel];
                            sum += x;
                            count += 1.0;
                            weighted += x * weights[tap * channels + channel];
                            most = most.max(x);
                        });
                        expected.push(match window {
                            Window::Weighted { low, high, .. } => weighted.clamp(low, high),
                            Window::Largest => most,
                            Window::Sum => sum,
                            Window::Mean if count == 0.0 => f32::NAN,
                            Window::Mean => sum / count,
                            Window::MeanWithPadding => sum / size as f32,
                        });
                    }
                }
            }
            let by_channel = ByChannel { geometry, channels, window };
            for isa in Isa::all() {
                let mut found = vec![7.0; expected.len()];
                by_channel.run(isa, images, &from, &mut found).expect("sizes");
                // A window without any point of the image has no mean.
                for (found, expected) in found.iter_mut().zip(&expected) {
                    if found.is_infinite() && found == expected || found.is_nan() && expected.is_nan() {
                        *found = 0.0;
                    }
                }
                let expected: Vec<f32> = expected.iter().map(|x| if x.is_finite() { *x } else { 0.0 }).collect();
                assert_near(&found, &expected, size);
            }
        }
    }

    #[test]
    fn softmax_divides_one(size in 1usize..70, step in 1usize..40, blocks in 1usize..3, seed in any::<u32>()) {
        let from: Vec<f32> = numbers(blocks * size * step, seed).iter().map(|x| x * 30.0).collect();
        let mut expected = vec![0.0; from.len()];
        for block in 0..blocks {
            for column in 0..step {
                let at = |row: usize| (block * size + row) * step + column;
                let most = (0..size).map(|row| from[at(row)]).fold(f32::NEG_INFINITY, f32::max);
                let e = |row: usize| f64::from(from[at(row)] - most).exp();
                let sum: f64 = (0..size).map(e).sum();
                for row in 0..size {
                    expected[at(row)] = (e(row) / sum) as f32;
                }
            }
        }
        for isa in Isa::all() {
            let mut found = vec![7.0; from.len()];
            softmax::Softmax::apply(isa, size, step, &from, &mut found);
            assert_near(&found, &expected, 1);
        }
    }
}

#[test]
fn arithmetic_spreads_the_smaller_operand() {
    let large = numbers(2 * 3 * 19, 1);
    for (small_shape, at) in [
        (vec![2usize, 3, 19], (|at| at) as fn(usize) -> usize),
        (vec![1, 1, 19], |at| at % 19),
        (vec![2, 1, 19], |at| at / (3 * 19) * 19 + at % 19),
        (vec![2, 3, 1], |at| at / 19),
        (vec![1, 3, 1], |at| at / 19 % 3),
        (vec![1, 1, 1], |_| 0),
    ] {
        let small = numbers(small_shape.iter().product(), 2);
        let large_shape = [2, 3, 19];
        for (arithmetic, f) in [
            (Arithmetic::Add, (|a, b| a + b) as fn(f32, f32) -> f32),
            (Arithmetic::Sub, |a, b| a - b),
            (Arithmetic::Mul, |a, b| a * b),
            (Arithmetic::Div, |a, b| a / b),
            (Arithmetic::Max, f32::max),
            (Arithmetic::Min, f32::min),
        ] {
            let expected = |swapped: bool| -> Vec<f32> {
                let pairs = large.iter().enumerate().map(|(index, x)| (*x, small[at(index)]));
                pairs.map(|(x, y)| if swapped { f(y, x) } else { f(x, y) }).collect()
            };
            let mut found = vec![7.0; large.len()];
            let binary = Binary(arithmetic);
            binary.run(&[(&large_shape, &large), (&small_shape, &small)], &mut found).expect("sizes");
            assert_eq!(found, expected(false), "{arithmetic:?} {small_shape:?}");
            binary.run(&[(&small_shape, &small), (&large_shape, &large)], &mut found).expect("sizes");
            assert_eq!(found, expected(true), "{arithmetic:?} {small_shape:?} first");
        }
    }
    let mut found = [0.0; 6];
    Binary(Arithmetic::Sub)
        .run(&[(&[1, 3], &[1.0, 2.0, 3.0]), (&[2, 1], &[1.0, 4.0])], &mut found)
        .expect("sizes");
    assert_eq!(found, [0.0, 1.0, 2.0, -3.0, -2.0, -1.0]);
    assert!(Binary::shape_of(&[2, 2, 19], &[1, 3, 19]).is_none());
}

#[test]
fn folds_are_sums_and_maxima_along_axes() {
    for (before, size, after) in [(3, 150, 1), (2, 7, 70), (1, 5, 130), (2, 3, 5)] {
        let from = numbers(before * size * after, 3);
        for of in [Of::Sum, Of::Largest] {
            let mut expected = vec![];
            for (outer, inner) in (0..before * after).map(|at| (at / after, at % after)) {
                let values = (0..size).map(|at| from[(outer * size + at) * after + inner]);
                expected.push(if of == Of::Sum { values.sum() } else { values.fold(f32::MIN, f32::max) });
            }
            for isa in Isa::all() {
                let mut found = vec![7.0; expected.len()];
                Fold { of, first: 1, axes: 1 }.apply(isa, size, after, &from, &mut found);
                assert_near(&found, &expected, size);
            }
        }
    }
}

#[test]
fn padding_is_what_the_engine_makes_it() {
    for (shape, pads) in [
        (vec![7], vec![(3, 2)]),
        (vec![2, 3, 4], vec![(0, 0), (1, 2), (3, 0)]),
        (vec![1, 2], vec![(0, 2), (1, 1)]),
    ] {
        let count = shape.iter().product();
        let tensor = Tensor::from_shape(&shape, &numbers(count, 5)).expect("a tensor");
        for mode in [PadMode::Constant(rctensor0(2.5f32)), PadMode::Edge, PadMode::Reflect] {
            if matches!(mode, PadMode::Reflect)
                && shape.iter().zip(&pads).any(|(size, pads)| pads.0.max(pads.1) >= *size)
            {
                continue;
            }
            let engine = array::Pad { pads: pads.clone(), mode: mode.clone() };
            let expected = engine
                .eval_out_of_plan(tvec!(tensor.clone().into_tvalue()))
                .expect("it runs")
                .expect("it needs no plan");
            let pad = Pad { pads: pads.clone(), mode: Mode::of(&mode).expect("it is known") };
            let mut found = vec![0.0; expected[0].len()];
            let view = tensor.to_plain_array_view::<f32>().expect("numbers");
            pad.run(&[(&shape, view.as_slice().expect("in order"))], &mut found).expect("sizes");
            assert_eq!(&*pad.shape(&[&shape]).expect("a shape"), expected[0].shape());
            assert_eq!(found, crate::testing::values::<f32>(&expected[0]), "{mode:?} {shape:?}");
        }
    }
}

#[test]
fn repeated_points_lie_side_by_side() {
    let from = [1.0, 2.0, 3.0, 4.0];
    let repeat = Repeat { times: [2, 3] };
    let mut found = [0.0; 24];
    repeat.run(&[(&[1, 1, 2, 2], &from)], &mut found).expect("sizes");
    let line = [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0, 3.0, 4.0];
    assert_eq!(found, [line, line].concat()[..]);
}
