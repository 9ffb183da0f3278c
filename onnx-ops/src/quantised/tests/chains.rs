//! What is between products: functions of one value, sums, means, softmax.

use tract_onnx::tract_hir::internal::*;

use super::{
    super::formulas::{Grid, Product, Sum, exponentials, nearest},
    Build, has, image, signed, unsigned,
};
use crate::{
    conv::{arithmetic::Arithmetic, quantised::Normalise, table::Table},
    gemm::{
        Isa,
        map::{Gate, Map},
    },
    kernel::Kernel,
    testing::{float, ints, run, values},
};

/// All bytes of a grid, as numbers, in an image of two channels.
fn all(grid: Grid) -> Vec<f32> {
    grid.all().map(|x| x * grid.scale).collect()
}

const SHAPE: [usize; 4] = [2, 2, 8, 8];

fn answer(build: Build, output: &str, grid: Grid) -> Vec<f32> {
    let found = run(build.graph(4, &[output]), vec![image(&SHAPE, &all(grid))]).expect("an answer");
    values(&found[0])
}

#[test]
fn functions_of_one_value_become_one_table() {
    let (x, six, sum, product, y) =
        (unsigned(0.05, 120), unsigned(0.1, 0), unsigned(0.024, 0), unsigned(0.19, 12), unsigned(0.03, 12));
    let mut build = Build::default();
    let bytes = build.quantise("x", x);
    let taken = [build.take_back(&bytes, x), build.take_back(&bytes, x)];
    let three = build.weights(six, &[], &[30]);
    let shifted = build.node("Add", &[&taken[0], &three], vec![]);
    let bytes = build.quantise(&shifted, sum);
    let gate = build.take_back(&bytes, sum);
    let product_of = build.node("Mul", &[&taken[1], &gate], vec![]);
    let bytes = build.quantise(&product_of, product);
    let back = build.take_back(&bytes, product);
    let number = build.floats(&[], &[6.0]);
    let sixth = build.node("Div", &[&back, &number], vec![]);
    let bytes = build.quantise(&sixth, y);
    let result = build.take_back(&bytes, y);
    let nodes = {
        let mut graph =
            Build { nodes: build.nodes.clone(), constants: build.constants.clone() }.graph(4, &[&result]);
        super::super::rewrite(&mut graph);
        graph.node.iter().map(|node| node.op_type.clone()).collect::<Vec<_>>()
    };
    assert_eq!(nodes, ["AirlockQuantise", "AirlockTable", "AirlockDequantise"]);
    let expected = x.all().map(|x_byte| {
        let gate = Sum::new(x, six, sum).of(x_byte, 30.0);
        let byte = Product::new(x, sum, product).of(x_byte, gate);
        y.nearest(byte * product.scale / 6.0) * y.scale
    });
    assert_eq!(answer(build, &result, x), expected.collect::<Vec<_>>());
}

#[test]
fn numbers_become_the_nearest_bytes() {
    let grid = signed(0.1, -4);
    let mut build = Build::default();
    let bytes = build.quantise("x", grid);
    let y = build.take_back(&bytes, grid);
    // Ties, what is beyond the range, and what is no number.
    let given = [0.05, 0.15, 0.25, -0.05, 100.0, -100.0, f32::INFINITY, f32::NAN, 0.149_999];
    let found = run(build.graph(1, &[&y]), vec![tensor1(&given)]).expect("an answer");
    let expected = given.map(|x| nearest(if x.is_nan() { -124.0 } else { x / 0.1 }, [-124.0, 131.0]) * 0.1);
    assert_eq!(values::<f32>(&found[0]), expected);
    assert_eq!(expected[..3], [0.0, 0.2, 0.2]);
}

#[test]
fn what_is_moved_or_joined_stays_bytes() {
    let (x, y) = (unsigned(0.05, 120), unsigned(0.07, 100));
    let mut build = Build::default();
    let bytes = build.quantise("x", x);
    let back = build.take_back(&bytes, x);
    let shape = build.longs(&[2, -1]);
    let flat = build.node("Reshape", &[&back, &shape], vec![]);
    let bytes = build.quantise(&flat, x);
    let flat = build.take_back(&bytes, x);
    let pooled = build.node("MaxPool", &[&back], vec![ints("kernel_shape", [2, 2]), ints("strides", [2, 2])]);
    let bytes = build.quantise(&pooled, y);
    let pooled = build.take_back(&bytes, y);
    let joined = build.node("Concat", &[&back, &back], vec![crate::testing::int("axis", 1)]);
    let bytes = build.quantise(&joined, y);
    let joined = build.take_back(&bytes, y);
    let graph = build.graph(4, &[&flat, &pooled, &joined]);
    assert!(!has(&graph, "QuantizeLinear") && has(&graph, "AirlockTable"));
    let found = run(graph, vec![image(&SHAPE, &all(x))]).expect("an answer");
    assert_eq!(values::<f32>(&found[0]), all(x));
    let rough = |x_byte: f32| y.nearest(x_byte * x.scale) * y.scale;
    let largest: Vec<f32> = (0..2 * 2 * 16)
        .map(|at| {
            let (channel, point) = (at / 16, at % 16);
            let last = channel * 64 + (point / 4 * 2 + 1) * 8 + point % 4 * 2 + 1;
            rough(x.range()[0] + last as f32)
        })
        .collect();
    assert_eq!(values::<f32>(&found[1]), largest);
    let half = |image: usize| x.all().skip(image * 128).take(128).map(rough).collect::<Vec<_>>();
    assert_eq!(values::<f32>(&found[2]), [half(0), half(0), half(1), half(1)].concat());
}

/// Two values of all bytes each, the second backwards.
fn two(build: &mut Build, [a, b]: [Grid; 2]) -> [String; 2] {
    let minus = build.floats(&[], &[-1.0]);
    let other = build.node("Mul", &["x", &minus], vec![]);
    let bytes = build.quantise("x", a);
    let back = build.take_back(&bytes, a);
    let bytes = build.quantise(&other, b);
    [back, build.take_back(&bytes, b)]
}

#[test]
fn sums_and_products_round_as_their_formulas_say() {
    for (a, b) in [
        (unsigned(0.05, 120), unsigned(0.04, 99)),
        (signed(0.05, -8), signed(0.04, -29)),
        (unsigned(0.05, 120), signed(0.04, 7)),
    ] {
        for op in ["Add", "Mul"] {
            let y = unsigned(0.19, 100);
            let mut build = Build::default();
            let [first, second] = two(&mut build, [a, b]);
            let both = build.node(op, &[&first, &second], vec![]);
            let bytes = build.quantise(&both, y);
            let result = build.take_back(&bytes, y);
            let expected: Vec<f32> = a
                .all()
                .map(|a_byte| {
                    let b_byte = b.nearest(-(a_byte * a.scale));
                    let byte = match op {
                        "Add" => Sum::new(a, b, y).of(a_byte, b_byte),
                        _ => Product::new(a, b, y).of(a_byte, b_byte),
                    };
                    byte * y.scale
                })
                .collect();
            let name = if op == "Add" { "AirlockSum" } else { "AirlockProduct" };
            let graph = build.graph(4, &[&result]);
            assert!(has(&graph, name), "{op} of {a:?} and {b:?} is not taken for one of bytes");
            let found = run(graph, vec![image(&SHAPE, &all(a))]).expect("an answer");
            assert_eq!(values::<f32>(&found[0]), expected, "{op} of {a:?} and {b:?}");
        }
    }
}

/// Bytes of ONNX Runtime 1.32, of sums that lie half way between two.
#[test]
fn a_sum_with_what_is_spread_rounds_as_onnx_runtime_does_in_either_order() {
    let (x, c, y) = (unsigned(0.034_375, 104), unsigned(0.081_25, 140), unsigned(0.025, 7));
    for (shape, first) in
        [(vec![], false), (vec![], true), (vec![1, 2, 1, 1], false), (vec![1, 2, 1, 1], true)]
    {
        let mut build = Build::default();
        let bytes = build.quantise("x", x);
        let value = build.take_back(&bytes, x);
        let constant = build.weights(c, &shape, &vec![221; shape.iter().product()]);
        let both = if first { [&constant, &value] } else { [&value, &constant] };
        let sum = build.node("Add", &both.map(String::as_str), vec![]);
        let bytes = build.quantise(&sum, y);
        let result = build.take_back(&bytes, y);
        let found = answer(build, &result, x);
        let expected = [(6, 135), (14, 146), (22, 157), (30, 168), (38, 179), (46, 190)];
        for (byte, sum) in expected {
            assert_eq!(found[byte], (sum - 7) as f32 * y.scale, "{byte}, {shape:?}, first: {first}");
        }
    }
}

#[test]
fn without_a_zero_point_an_attribute_says_what_bytes_are() {
    for (attributes, expected) in [
        (vec![], 0.0),
        (vec![crate::testing::int("output_dtype", 2)], 0.0),
        (vec![crate::testing::int("output_dtype", 3)], -1.0),
    ] {
        let mut build = Build::default();
        let scale = build.floats(&[], &[0.5]);
        let bytes = build.node("QuantizeLinear", &["x", &scale], attributes.clone());
        let signed = attributes.first().is_some_and(|attribute| attribute.i == 3);
        let zero = build.bytes(signed, &[], &[0]);
        let y = build.node("DequantizeLinear", &[&bytes, &scale, &zero], vec![]);
        let found = run(build.graph(1, &[&y]), vec![tensor1(&[-1.0f32])]).expect("an answer");
        assert_eq!(values::<f32>(&found[0]), [expected]);
    }
}

#[test]
fn a_mean_of_many_bytes_is_exact() {
    let grid = unsigned(1.0, 0);
    let mut build = Build::default();
    let bytes = build.quantise("x", grid);
    let back = build.take_back(&bytes, grid);
    // Leaves the channels last.
    let weights = build.weights(signed(1.0, 0), &[2, 2, 1, 1], &[1, 0, 0, 1]);
    let same = build.node("Conv", &[&back, &weights], vec![]);
    let bytes = build.quantise(&same, grid);
    let back = build.take_back(&bytes, grid);
    let mean = build.node("GlobalAveragePool", &[&back], vec![]);
    let bytes = build.quantise(&mean, grid);
    let result = build.take_back(&bytes, grid);
    let x = image(&[1, 2, 512, 512], &vec![201.0; 2 << 18]);
    let found = run(build.graph(4, &[&result]), vec![x]).expect("an answer");
    assert_eq!(values::<f32>(&found[0]), [201.0; 2]);
}

#[test]
fn volumes_have_means_too() {
    for grid in [unsigned(0.05, 120), signed(0.05, -8)] {
        let mut build = Build::default();
        let bytes = build.quantise("x", grid);
        let back = build.take_back(&bytes, grid);
        let mean = build.node("GlobalAveragePool", &[&back], vec![]);
        let bytes = build.quantise(&mean, grid);
        let result = build.take_back(&bytes, grid);
        let x: Vec<f32> = (0..2 * 2 * 8).map(|at| (at % 8) as f32 * 0.1).collect();
        let found =
            run(build.graph(5, &[&result, &back]), vec![image(&[2, 2, 2, 2, 2], &x)]).expect("an answer");
        assert_eq!(values::<f32>(&found[0]), [7.0 * 0.05; 4]);
    }
}

/// Shapes that only a request decides: what is not zero is counted.
#[test]
fn shapes_that_depend_on_values_are_found_when_it_runs() {
    let (x, y) = (unsigned(0.05, 120), unsigned(0.1, 10));
    let mut build = Build::default();
    let bytes = build.quantise("x", x);
    let back = build.take_back(&bytes, x);
    let places = build.node("NonZero", &["x"], vec![]);
    let axes = build.longs(&[0]);
    let places = build.node("Squeeze", &[&places, &axes], vec![]);
    let some = build.node("Gather", &[&back, &places], vec![]);
    let minus = build.node("Neg", &[&some], vec![]);
    let both = build.node("Add", &[&some, &minus], vec![]);
    let bytes = build.quantise(&both, y);
    let result = build.take_back(&bytes, y);
    let found = run(build.graph(1, &[&result]), vec![tensor1(&[0.0f32, 1.0, 0.0, 2.0])]).expect("an answer");
    assert_eq!(values::<f32>(&found[0]), [0.0, 0.0]);
}

#[test]
fn what_is_read_twice_as_signed_bytes_is_added_as_numbers() {
    let (a, b, y) = (signed(0.05, -8), signed(0.04, -29), signed(0.19, 3));
    let mut build = Build::default();
    let [first, second] = two(&mut build, [a, b]);
    let both = build.node("Add", &[&first, &second], vec![]);
    let bytes = build.quantise(&both, y);
    let result = build.take_back(&bytes, y);
    // The second reader of the first.
    let graph = build.graph(4, &[&result, &first]);
    assert!(has(&graph, "AirlockOfNumbers"));
    let found = run(graph, vec![image(&SHAPE, &all(a))]).expect("an answer");
    let expected = a.all().map(|x| y.nearest(x * a.scale + b.nearest(-(x * a.scale)) * b.scale) * y.scale);
    assert_eq!(values::<f32>(&found[0]), expected.collect::<Vec<_>>());
}

#[test]
fn means_round_as_their_formulas_say() {
    for grid in [unsigned(0.05, 120), signed(0.05, -8)] {
        let y = unsigned(0.049, 117);
        let mut build = Build::default();
        let bytes = build.quantise("x", grid);
        let back = build.take_back(&bytes, grid);
        let mean = build.node("GlobalAveragePool", &[&back], vec![]);
        let bytes = build.quantise(&mean, y);
        let result = build.take_back(&bytes, y);
        // Read twice, signed bytes stay what they are, and the mean is one of numbers.
        let outputs = if grid.signed { vec![result.as_str(), back.as_str()] } else { vec![result.as_str()] };
        let graph = build.graph(4, &outputs);
        assert_eq!(has(&graph, "AirlockMeanOfNumbers"), grid.signed);
        let x: Vec<f32> = all(grid);
        let found = run(graph, vec![image(&[2, 2, 8, 8], &x)]).expect("an answer");
        let bytes: Vec<f32> = grid.all().collect();
        let expected = bytes.chunks_exact(64).map(|bytes| {
            let byte = if grid.signed {
                let mut sums = [0.0f32; 4];
                bytes.iter().enumerate().for_each(|(at, x)| sums[at % 4] += x * grid.scale);
                y.nearest(((sums[0] + sums[2]) + (sums[1] + sums[3])) / 64.0)
            } else {
                nearest(bytes.iter().sum::<f32>() * (grid.scale / (y.scale * 64.0)), y.range())
            };
            byte * y.scale
        });
        assert_eq!(values::<f32>(&found[0]), expected.collect::<Vec<_>>());
    }
}

#[test]
fn softmax_of_bytes_goes_by_steps_below_the_largest() {
    let (x, y) = (unsigned(0.05, 120), unsigned(1.0 / 256.0, 0));
    let mut build = Build::default();
    let bytes = build.quantise("x", x);
    let back = build.take_back(&bytes, x);
    let softmax = build.node("Softmax", &[&back], vec![crate::testing::int("axis", 1)]);
    let bytes = build.quantise(&softmax, y);
    let result = build.take_back(&bytes, y);
    let graph = build.graph(2, &[&result]);
    assert!(has(&graph, "AirlockSoftmax"));
    let numbers: Vec<f32> = [120, 140, 255, 0, 251, 255].map(|byte| (byte - 120) as f32 * 0.05).to_vec();
    let found = run(graph, vec![image(&[2, 3], &numbers)]).expect("an answer");
    let e = exponentials(0.05, 3);
    let row = |bytes: [usize; 3]| {
        let most = bytes.into_iter().max().expect("three");
        let of = bytes.map(|byte| e[255 - (most - byte)]);
        of.map(|x| (x * 256.0 / (of[0] + of[1] + of[2])).round_ties_even().min(255.0) / 256.0)
    };
    assert_eq!(values::<f32>(&found[0]), [row([120, 140, 255]), row([0, 251, 255])].concat());
    assert!((values::<f32>(&found[0])[2] - 0.9957).abs() < 1e-3);
}

#[test]
fn a_normalisation_between_bytes_rounds_each_step() {
    let (x, y) = (unsigned(0.05, 120), unsigned(0.03, 90));
    let mut build = Build::default();
    let bytes = build.quantise("x", x);
    let back = build.take_back(&bytes, x);
    let parameters =
        [[0.9, 1.3], [0.2, -0.4], [0.7, 0.1], [2.0, 0.5]].map(|values| build.floats(&[2], &values));
    let inputs = [&back, &parameters[0], &parameters[1], &parameters[2], &parameters[3]].map(String::as_str);
    let normal = build.node("BatchNormalization", &inputs, vec![float("epsilon", 1e-3)]);
    let bytes = build.quantise(&normal, y);
    let result = build.take_back(&bytes, y);
    let scale = [(2.0f32 + 1e-3).sqrt().recip() * 0.9, (0.5f32 + 1e-3).sqrt().recip() * 1.3];
    let offset = [0.2 - 0.7 * scale[0], -0.4 - 0.1 * scale[1]];
    let expected = x.all().enumerate().map(|(at, x_byte)| {
        let channel = at / 64 % 2;
        y.nearest(x_byte * x.scale * scale[channel] + offset[channel]) * y.scale
    });
    assert_eq!(answer(build, &result, x), expected.collect::<Vec<_>>());
}

#[test]
fn kernels_agree_on_every_processor() {
    let from: Vec<f32> =
        (0..3 * 37).map(|at| f32::from(u8::try_from(at * 7 % 256).expect("a byte")) - 100.0).collect();
    let scale: Vec<f32> = (0..37).map(|at| 0.3 + at as f32 * 0.017).collect();
    let offset: Vec<f32> = (0..37).map(|at| at as f32 * 0.3 - 5.0).collect();
    let each = Normalise::new(0.043, [&scale, &offset], 0.11, [-90.0, 165.0]).expect("lists alike");
    let all = Isa::all().into_iter().map(|isa| {
        let mut to = vec![0.0; from.len()];
        each.apply(isa, &from, &mut to);
        to
    });
    let all: Vec<_> = all.collect();
    assert!(all.iter().all(|found| *found == all[0]));
    // Sums of two, whose operands' product is rounded once everywhere.
    let (a, b, y) = (unsigned(0.023, 11), unsigned(0.31, 200), unsigned(0.077, 3));
    let sum = Sum::new(a, b, y);
    let both = |f: &dyn Fn(f32, f32) -> f32| {
        from.iter().zip(from.iter().rev()).map(|(a, b)| f(*a, *b)).collect::<Vec<_>>()
    };
    let reversed: Vec<f32> = from.iter().rev().copied().collect();
    let mut to = vec![0.0; from.len()];
    let kernel = crate::conv::arithmetic::Binary(Arithmetic::QuantisedSum(sum));
    let shape = [from.len()];
    for isa in Isa::all() {
        kernel.apply(isa, [(&shape, &from), (&shape, &reversed)], &mut to).expect("an answer");
        assert_eq!(to, both(&|a, b| sum.of(a, b)));
    }
    kernel.run(&[(&shape, &from), (&shape, &reversed)], &mut to).expect("an answer");
}

#[test]
fn quotients_are_those_of_a_division_near_the_middle_too() {
    for divisor in [0.1, 0.037, 3.7, 1e-3, 1.0 / 3.0] {
        // The middle between two whole numbers, and what is a few last bits from it.
        let middles = (-600..600).map(|half| half as f32 * 0.5 * divisor);
        let x: Vec<f32> = middles.flat_map(|x| [-3, -1, 0, 1, 3].map(|bits| nudged(x, bits))).collect();
        let range = [-100.0, 155.0];
        let [low, high] = range;
        let expected: Vec<f32> = x.iter().map(|x| nearest(x / divisor, range)).collect();
        for isa in Isa::all() {
            let mut found = x.clone();
            Map::new(Gate::Quotient { divisor, low, high }, false).apply(isa, &mut found);
            assert_eq!(found, expected, "{isa:?}, {divisor}");
        }
    }
}

/// So many numbers further from zero.
fn nudged(x: f32, bits: i32) -> f32 {
    f32::from_bits(x.to_bits().saturating_add_signed(bits))
}

#[test]
fn tables_are_looked_up_alike_in_registers_and_in_memory() {
    let values: Vec<f32> =
        (0..256).map(|at| f32::from(u8::try_from(at * 37 % 251).expect("a byte")) - 77.0).collect();
    let table = Table::new(-120.0, &values).expect("a table");
    let from: Vec<f32> = (0..500).map(|at| (at % 256) as f32 - 120.0).collect();
    let expected: Vec<f32> = (0..500).map(|at| values[at % 256]).collect();
    let mut to = vec![0.0; 500];
    table.apply(&from, &mut to);
    assert_eq!(to, expected);
    let mut to = vec![0.0; 500];
    table.run(&[(&[500], &from)], &mut to).expect("it runs");
    assert_eq!(to, expected);
    for others in [vec![1.0; 255], vec![f32::NAN; 256], [vec![0.0; 255], vec![256.0]].concat()] {
        assert!(Table::new(0.0, &others).is_err());
    }
}
