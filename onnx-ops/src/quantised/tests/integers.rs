//! Convolutions, products and what is between them, beside sums of whole numbers.

use proptest::prelude::*;
use tract_onnx::{pb::GraphProto, tract_hir::internal::*};

use super::{super::formulas::Grid, Build, has, image, signed, unsigned};
use crate::{
    conv::op::Convolution,
    kernel::Own,
    testing::{ints, plan, run, values},
};

/// Numbers that go all over a range, from a seed.
fn spread(count: usize, seed: u32, [low, high]: [i32; 2]) -> Vec<i32> {
    let mut state = seed | 1;
    let width = u32::try_from(high - low + 1).expect("a range");
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        low + i32::try_from((state >> 8) % width).expect("small")
    };
    (0..count).map(|_| next()).collect()
}

fn byte(x: f32, grid: Grid) -> i32 {
    let [low, high] = if grid.signed { [-128, 127] } else { [0, 255] };
    #[expect(clippy::cast_possible_truncation, reason = "bytes")]
    let nearest = (f64::from(x).round_ties_even() as i64 + i64::from(grid.zero)).clamp(low, high);
    i32::try_from(nearest).expect("a byte")
}

/// A convolution of bytes `[N, C, H, W]`, whose sums are whole numbers of 64 bits.
struct Case {
    images: usize,
    channels: usize,
    outputs: usize,
    groups: usize,
    kernel: usize,
    stride: usize,
    pad: usize,
    size: [usize; 2],
    seed: u32,
    by_channel: bool,
}

impl Case {
    fn sums(&self, x: &[i32], zero: i32, weights: &[i32], weight_zero: i32, bias: &[i32]) -> Vec<i64> {
        let [height, width] = self.size;
        let [tall, wide] = self.result();
        let (per_group, outputs) = (self.channels / self.groups, self.outputs / self.groups);
        let mut sums = vec![];
        for image in 0..self.images {
            for output in 0..self.outputs {
                for (y, column) in (0..tall).flat_map(|y| (0..wide).map(move |x| (y, x))) {
                    let mut sum = i64::from(bias[output]);
                    for (channel, (dy, dx)) in (0..per_group)
                        .flat_map(|c| (0..self.kernel * self.kernel).map(move |tap| (c, tap)))
                        .map(|(c, tap)| (c, (tap / self.kernel, tap % self.kernel)))
                    {
                        let (Some(row), Some(point)) = (
                            (y * self.stride + dy).checked_sub(self.pad).filter(|row| *row < height),
                            (column * self.stride + dx).checked_sub(self.pad).filter(|point| *point < width),
                        ) else {
                            continue;
                        };
                        let from = output / outputs * per_group + channel;
                        let x = x[((image * self.channels + from) * height + row) * width + point];
                        let w =
                            weights[((output * per_group + channel) * self.kernel + dy) * self.kernel + dx];
                        sum += i64::from(x - zero) * i64::from(w - weight_zero);
                    }
                    sums.push(sum);
                }
            }
        }
        sums
    }

    fn result(&self) -> [usize; 2] {
        self.size.map(|size| (size + 2 * self.pad - self.kernel) / self.stride + 1)
    }

    /// A convolution from bytes to bytes gives what sums of whole numbers give.
    fn check(&self) {
        let [height, width] = self.size;
        let (x_grid, y_grid) = (unsigned(0.037, 117), unsigned(0.29, 131));
        let w_grid = signed(0.011, if self.by_channel { 0 } else { -3 });
        let x = spread(self.images * self.channels * height * width, self.seed, [0, 255]);
        let per_group = self.channels / self.groups;
        let shape = [self.outputs, per_group, self.kernel, self.kernel];
        let weights = spread(shape.iter().product(), self.seed ^ 77, [-128, 127]);
        let bias = spread(self.outputs, self.seed ^ 5, [-3000, 3000]);
        let scales: Vec<f32> = (0..self.outputs)
            .map(|output| if self.by_channel { 0.003 + 0.0017 * output as f32 } else { 0.011 })
            .collect();

        let mut build = Build::default();
        let bytes = build.quantise("x", x_grid);
        let from = build.take_back(&bytes, x_grid);
        let w = if self.by_channel {
            let bytes = build.bytes(true, &shape, &weights);
            let scale = build.floats(&[self.outputs], &scales);
            let zero = build.bytes(true, &[self.outputs], &vec![0; self.outputs]);
            build.node("DequantizeLinear", &[&bytes, &scale, &zero], vec![crate::testing::int("axis", 0)])
        } else {
            build.weights(w_grid, &shape, &weights)
        };
        let of_sums: Vec<f32> = scales.iter().map(|scale| x_grid.scale * scale).collect();
        let b = build.bias(&of_sums, &bias);
        let group = crate::testing::int("group", i64::try_from(self.groups).expect("few"));
        let many = |name: &str, size: usize, count: usize| {
            ints(name, vec![i64::try_from(size).expect("small"); count])
        };
        let attributes = vec![group, many("strides", self.stride, 2), many("pads", self.pad, 4)];
        let sums = build.node("Conv", &[&from, &w, &b], attributes);
        let bytes = build.quantise(&sums, y_grid);
        let y = build.take_back(&bytes, y_grid);
        let graph = build.graph(4, &[&y]);
        assert!(has(&graph, "AirlockRequantise"), "it is not taken for one of bytes");

        let numbers: Vec<f32> = x.iter().map(|byte| (byte - x_grid.zero) as f32 * x_grid.scale).collect();
        let input = image(&[self.images, self.channels, height, width], &numbers);
        assert!(!is_tiled(&graph, &input), "sums of halves are not exact");
        let found = run(graph, vec![input]).expect("an answer").remove(0);
        let sums = self.sums(&x, x_grid.zero, &weights, w_grid.zero, &bias);
        let points: usize = self.result().iter().product();
        let expected = sums.iter().enumerate().map(|(at, sum)| {
            let scale = x_grid.scale * scales[at / points % self.outputs] / y_grid.scale;
            (byte(*sum as f32 * scale, y_grid) - y_grid.zero) as f32 * y_grid.scale
        });
        assert_eq!(values::<f32>(&found), expected.collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_are_exact(
        (images, per_group, outputs, groups) in (1usize..3, 1usize..40, 1usize..20, 1usize..4),
        (kernel, stride, pad, size) in (1usize..4, 1usize..3, 0usize..2, [4usize..9, 4usize..9]),
        (depthwise, by_channel) in any::<(bool, bool)>(),
        seed in any::<u32>(),
    ) {
        let (groups, per_group, outputs) = if depthwise { (outputs + 1, 1, 1) } else { (groups, per_group, outputs) };
        let (channels, outputs) = (groups * per_group, groups * outputs);
        Case { images, channels, outputs, groups, kernel, stride, pad, size, seed, by_channel }.check();
    }
}

/// Whether a convolution of the graph is computed by Winograd's products.
fn is_tiled(graph: &GraphProto, input: &Tensor) -> bool {
    let plan = plan(graph.clone(), std::slice::from_ref(input)).expect("a plan");
    let convolution = |node: &TypedNode| {
        let own = node.op_as::<Own>()?;
        Some(own.as_kernel::<Convolution>()?.dense.tiled)
    };
    plan.model().nodes().iter().filter_map(convolution).any(|tiled| tiled)
}

#[test]
fn large_sums_of_small_kernels_are_not_taken_apart() {
    let mut build = Build::default();
    let w = build.floats(&[64, 64, 3, 3], &[1.0; 64 * 64 * 9]);
    let y = build.node("Conv", &["x", &w], vec![ints("pads", vec![1; 4])]);
    let numbers = build.graph(4, &[&y]);
    assert!(is_tiled(&numbers, &image(&[1, 64, 24, 24], &[1.0; 64 * 24 * 24])), "of numbers it would be");
    Case {
        images: 1,
        channels: 64,
        outputs: 64,
        groups: 1,
        kernel: 3,
        stride: 1,
        pad: 1,
        size: [24, 24],
        seed: 3,
        by_channel: false,
    }
    .check();
}

#[test]
fn products_of_matrices_are_exact() {
    for (op, depth) in [("Gemm", 100), ("MatMul", 33)] {
        let (x_grid, w_grid, y_grid) = (unsigned(0.02, 3), signed(0.01, 4), unsigned(0.11, 77));
        let x = spread(3 * depth, 8, [0, 255]);
        let weights = spread(depth * 10, 9, [-128, 127]);
        let bias = if op == "Gemm" { spread(10, 10, [-900, 900]) } else { vec![0; 10] };
        let mut build = Build::default();
        let bytes = build.quantise("x", x_grid);
        let from = build.take_back(&bytes, x_grid);
        let w = build.weights(w_grid, &[depth, 10], &weights);
        let mut inputs = vec![from, w];
        if op == "Gemm" {
            inputs.push(build.bias(&[0.0002], &bias));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let sums = build.node(op, &inputs, vec![]);
        let bytes = build.quantise(&sums, y_grid);
        let y = build.take_back(&bytes, y_grid);
        let graph = build.graph(2, &[&y]);
        assert!(has(&graph, "AirlockRequantise"), "{op} is not taken for one of bytes");
        let numbers: Vec<f32> = x.iter().map(|byte| (byte - x_grid.zero) as f32 * x_grid.scale).collect();
        let found = run(graph, vec![image(&[3, depth], &numbers)]).expect("an answer").remove(0);
        let scale = x_grid.scale * w_grid.scale / y_grid.scale;
        let expected = (0..30).map(|at| {
            let (row, column) = (at / 10, at % 10);
            let products = (0..depth)
                .map(|k| (x[row * depth + k] - x_grid.zero) * (weights[k * 10 + column] - w_grid.zero));
            let sum = products.sum::<i32>() + bias[column];
            (byte(sum as f32 * scale, y_grid) - y_grid.zero) as f32 * y_grid.scale
        });
        assert_eq!(values::<f32>(&found), expected.collect::<Vec<_>>(), "{op}");
    }
}

#[test]
fn a_bias_with_another_scale_than_the_sums_is_added_as_numbers() {
    let (x_grid, w_grid, y_grid) = (unsigned(0.02, 7), signed(0.01, 0), unsigned(0.11, 77));
    for (scale, of_bytes) in [(0.0002, true), (0.000_201, true), (0.000_204, false), (0.05, false)] {
        let mut build = Build::default();
        let bytes = build.quantise("x", x_grid);
        let from = build.take_back(&bytes, x_grid);
        let w = build.weights(w_grid, &[1, 1, 1, 1], &[50]);
        let b = build.bias(&[scale], &[40]);
        let sums = build.node("Conv", &[&from, &w, &b], vec![]);
        let bytes = build.quantise(&sums, y_grid);
        let y = build.take_back(&bytes, y_grid);
        let graph = build.graph(4, &[&y]);
        assert_eq!(has(&graph, "AirlockRequantise"), of_bytes, "{scale}");
        let found = run(graph, vec![image(&[1, 1, 1, 1], &[1.0])]).expect("an answer");
        let added = if of_bytes { 0.0002 } else { scale };
        let expected = y_grid.nearest(50.0 * 0.02 * 0.5 + 40.0 * added) * y_grid.scale;
        assert_eq!(values::<f32>(&found[0]), [expected], "{scale}");
    }
}
