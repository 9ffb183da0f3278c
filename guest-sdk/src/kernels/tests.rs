use proptest::{collection::vec, prelude::*};

use super::*;

/// Multiples of 1/8 whose products, and the sums of some hundred of them, are exact: the results have to be equal.
fn exact(len: usize) -> impl Strategy<Value = Vec<f32>> {
    vec((-16i8..=16).prop_map(|eighths| f32::from(eighths) / 8.0), len)
}

fn maybe(values: impl Strategy<Value = Vec<f32>>) -> impl Strategy<Value = Option<Vec<f32>>> {
    (any::<bool>(), values).prop_map(|(there, values)| there.then_some(values))
}

fn naive_product(a: &[f32], b: &[f32], bias: Option<&[f32]>, [m, k, n]: [usize; 3]) -> Vec<f32> {
    let mut out = Vec::with_capacity(m * n);
    for row in 0..m {
        for column in 0..n {
            let sum: f32 = (0..k).map(|step| a[row * k + step] * b[step * n + column]).sum();
            out.push(sum + bias.map_or(0.0, |bias| bias[column]));
        }
    }
    out
}

#[derive(Debug)]
struct Product {
    shape: [usize; 3],
    a: Vec<f32>,
    b: Vec<f32>,
    bias: Option<Vec<f32>>,
}

/// Sizes around those of tiles, blocks and panels.
fn product() -> impl Strategy<Value = Product> {
    let sizes = (0..14usize, prop_oneof![0..40usize, 250..270usize], 0..20usize);
    sizes.prop_flat_map(|(m, k, n)| {
        let parts = (exact(m * k), exact(k * n), maybe(exact(n)));
        parts.prop_map(move |(a, b, bias)| Product { shape: [m, k, n], a, b, bias })
    })
}

proptest! {
    #[test]
    fn a_product_is_the_naive_one(Product { shape, a, b, bias } in product()) {
        let bias = bias.as_deref();
        let mut out = vec![f32::NAN; shape[0] * shape[2]];
        matmul(&a, &b, bias, shape, &mut out).expect("the shapes agree");
        prop_assert_eq!(out, naive_product(&a, &b, bias, shape));
    }
}

#[test]
fn a_product_of_more_rows_than_are_laid_out_at_once_is_the_naive_one() {
    let shape @ [m, k, n] = [395, 300, 11];
    let values = |len: usize| (0..len).map(|at| (at % 13) as f32 - 6.0).collect::<Vec<_>>();
    let (a, b) = (values(m * k), values(k * n));
    let mut out = vec![0.0; m * n];
    matmul(&a, &b, None, shape, &mut out).expect("the shapes agree");
    assert_eq!(out, naive_product(&a, &b, None, shape));
}

#[test]
fn what_is_not_finite_stays_in_its_row_and_column() {
    for m in [1, 5] {
        let (k, n) = (3, 9);
        let (mut a, mut b) = (vec![1.0; m * k], vec![1.0; k * n]);
        a[0] = f32::INFINITY;
        b[n - 1] = f32::NAN;
        let mut out = vec![0.0; m * n];
        matmul(&a, &b, None, [m, k, n], &mut out).expect("the shapes agree");
        for (at, value) in out.iter().enumerate() {
            match (at / n, at % n) {
                (_, column) if column == n - 1 => assert!(value.is_nan(), "{at}: {value}"),
                (0, _) => assert_eq!(*value, f32::INFINITY, "{at}"),
                _ => assert_eq!(*value, 3.0, "{at}"),
            }
        }
    }
}

#[test]
fn slices_that_do_not_fill_their_shapes_are_refused() {
    let (four, six, mut out) = ([0.0; 4], [0.0; 6], [0.0; 6]);
    let mut refused = |a: &[f32], b: &[f32], bias: Option<&[f32]>, shape| {
        matmul(a, b, bias, shape, &mut out).expect_err("a shape is wrong").to_string()
    };
    assert_eq!(refused(&six, &six, None, [2, 2, 3]), "a: 6 elements do not fill shape [2, 2]");
    assert!(refused(&four, &four, None, [2, 2, 3]).starts_with("b: 4 elements"));
    assert!(refused(&four, &six, Some(&four), [2, 2, 3]).starts_with("bias: 4 elements"));
    assert!(refused(&six, &six, None, [2, 3, 2]).starts_with("out: 6 elements"));
    assert!(refused(&[], &six, None, [usize::MAX, 2, 3]).starts_with("a: 0 elements"));

    let conv =
        Conv2d { input: [1, 1, 2, 2], weights: [1, 1, 1, 1], stride: [1, 1], padding: [0, 0], groups: 1 };
    let mut out = [0.0; 4];
    assert!(conv.apply(&six, &[1.0], None, &mut out).is_err());
    assert!(conv.apply(&four, &six, None, &mut out).is_err());
    assert!(conv.apply(&four, &[1.0], Some(&six), &mut out).is_err());
    assert!(conv.apply(&four, &[1.0], None, &mut out[1..]).is_err());
    assert_eq!(conv.apply(&four, &[1.0], None, &mut out), Ok(()));
}

/// The sum as its definition writes it.
fn naive_convolution(conv: &Conv2d, input: &[f32], weights: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let [batch, out_channels, out_height, out_width] = conv.output_shape().expect("it fits");
    let ([_, channels, height, width], [_, depth, kernel_height, kernel_width]) = (conv.input, conv.weights);
    let mut out = Vec::new();
    for (image, channel) in
        (0..batch).flat_map(|image| (0..out_channels).map(move |channel| (image, channel)))
    {
        let first = channel / (out_channels / conv.groups) * depth;
        for (y, x) in (0..out_height).flat_map(|y| (0..out_width).map(move |x| (y, x))) {
            let mut sum = bias.map_or(0.0, |bias| bias[channel]);
            for d in 0..depth {
                for ky in 0..kernel_height {
                    for kx in 0..kernel_width {
                        let iy = (y * conv.stride[0] + ky).wrapping_sub(conv.padding[0]);
                        let ix = (x * conv.stride[1] + kx).wrapping_sub(conv.padding[1]);
                        if iy < height && ix < width {
                            sum += weights[((channel * depth + d) * kernel_height + ky) * kernel_width + kx]
                                * input[((image * channels + first + d) * height + iy) * width + ix];
                        }
                    }
                }
            }
            out.push(sum);
        }
    }
    out
}

#[derive(Debug)]
struct Convolution {
    conv: Conv2d,
    input: Vec<f32>,
    weights: Vec<f32>,
    bias: Option<Vec<f32>>,
}

fn convolution() -> impl Strategy<Value = Convolution> {
    let channels = (0..3usize, 1..4usize, 1..3usize, 1..4usize);
    let sides =
        ([1..12usize, 1..20usize], [1..4usize, 1..6usize], [1..4usize, 1..4usize], [0..5usize, 0..5usize]);
    (channels, sides)
        .prop_filter_map(
            "the kernel is larger than the image",
            |(channels, (image, kernel, stride, padding))| {
                let (batch, groups, depth, rows) = channels;
                let conv = Conv2d {
                    input: [batch, groups * depth, image[0], image[1]],
                    weights: [groups * rows, depth, kernel[0], kernel[1]],
                    stride,
                    padding,
                    groups,
                };
                conv.output_shape().is_ok().then_some(conv)
            },
        )
        .prop_flat_map(|conv| {
            let size = |shape: [usize; 4]| exact(shape.iter().product());
            let parts = (size(conv.input), size(conv.weights), maybe(exact(conv.weights[0])));
            parts.prop_map(move |(input, weights, bias)| Convolution { conv, input, weights, bias })
        })
}

proptest! {
    #[test]
    fn a_convolution_is_the_naive_one(Convolution { conv, input, weights, bias } in convolution()) {
        let bias = bias.as_deref();
        let shape = conv.output_shape().expect("it fits");
        let mut out = vec![f32::NAN; shape.iter().product()];
        conv.apply(&input, &weights, bias, &mut out).expect("the shapes agree");
        prop_assert_eq!(out, naive_convolution(&conv, &input, &weights, bias));
    }
}

#[test]
fn convolutions_without_sense_are_refused() {
    let good =
        Conv2d { input: [1, 4, 5, 5], weights: [6, 2, 3, 3], stride: [1, 1], padding: [0, 0], groups: 2 };
    assert_eq!(good.output_shape(), Ok([1, 6, 3, 3]));
    for bad in [
        Conv2d { groups: 0, ..good },
        Conv2d { groups: 4, ..good },
        Conv2d { weights: [5, 2, 3, 3], ..good },
        Conv2d { weights: [6, 4, 3, 3], ..good },
        Conv2d { weights: [6, 2, 6, 3], ..good },
        Conv2d { weights: [6, 2, 3, 0], ..good },
        Conv2d { stride: [0, 1], ..good },
        Conv2d { padding: [usize::MAX, 0], ..good },
    ] {
        assert!(bad.output_shape().is_err(), "{bad:?}");
    }
}

/// The error function by its series, for `|x|` up to 4.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..100 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

proptest! {
    #[test]
    fn a_softmax_is_that_of_f64(
        width in 1..40usize,
        rows in 0..4usize,
        scale in prop_oneof![Just(1f32), Just(30.0)],
        seed in vec(-3f32..3.0, 160),
    ) {
        let given: Vec<f32> = seed.iter().take(width * rows).map(|value| value * scale).collect();
        let mut values = given.clone();
        softmax(&mut values, width).expect("they are rows");
        for (row, given) in values.chunks_exact(width).zip(given.chunks_exact(width)) {
            let largest = given.iter().copied().fold(f32::MIN, f32::max);
            let powers: Vec<f64> = given.iter().map(|value| f64::from(*value - largest).exp()).collect();
            let sum: f64 = powers.iter().sum();
            for (value, power) in row.iter().zip(powers) {
                let expected = power / sum;
                prop_assert!((f64::from(*value) - expected).abs() <= 1e-6 * expected + 1e-37, "{value} {expected}");
            }
        }
    }

    #[test]
    fn gelu_is_that_of_f64(value in -5.6f32..5.6) {
        let mut values = [value; 9];
        gelu(&mut values);
        let x = f64::from(value);
        let expected = 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
        for got in values {
            prop_assert!((f64::from(got) - expected).abs() < 1e-6, "{got} {expected}");
        }
    }
}

#[test]
fn softmax_of_what_is_not_finite() {
    let of = |mut values: Vec<f32>| {
        let width = values.len();
        softmax(&mut values, width).expect("it is one row");
        values
    };
    assert_eq!(of(vec![f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY, 2.0]), [0.0, 0.5, 0.0, 0.5]);
    assert_eq!(of(vec![-1e30, 1e30]), [0.0, 1.0]);
    for row in [vec![f32::NEG_INFINITY; 9], vec![f32::INFINITY, 1.0], [vec![1.0; 9], vec![f32::NAN]].concat()]
    {
        assert!(of(row.clone()).iter().all(|value| value.is_nan()), "{row:?}");
    }
    assert!(softmax(&mut [0.0; 5], 2).is_err());
    assert!(softmax(&mut [0.0; 5], 0).is_err());
    assert_eq!(softmax(&mut [], 0), Ok(()));
}

#[test]
fn relu_and_gelu_at_the_ends() {
    let mut values = [-1.0, -0.0, 2.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    relu(&mut values);
    assert_eq!(values[..5], [0.0, 0.0, 2.5, f32::INFINITY, 0.0]);
    assert!(values[5].is_nan());

    let mut values = [0.0, 30.0, -30.0, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    gelu(&mut values);
    assert_eq!(values[..7], [0.0, 30.0, 0.0, f32::MAX, 0.0, f32::INFINITY, 0.0]);
    assert!(values[7].is_nan());
}
