//! The whole pass: graphs answer as they do without it.

use proptest::prelude::*;
use tract_onnx::tract_core::{
    internal::*,
    ops::{
        array::{self, PadMode, Slice, TypedConcat},
        cnn::{Conv, Deconv, KernelFormat, MaxPool, PaddingSpec, PoolSpec, SumPool},
        math,
        nn::{DataFormat, Reduce, Reducer, Softmax, SoftmaxKind, sigmoid},
    },
};

use crate::{conv::rewrite, gemm::tests::numbers};

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rewritten_graphs_answer_the_same(graph in graphs()) {
        let model = graph.model().expect("a graph");
        let input = Tensor::from_shape(&graph.shape(), &numbers(graph.shape().iter().product(), graph.seed)).expect("a tensor");
        let run = |model: TypedModel| -> TractResult<TVec<TValue>> {
            model.into_runnable()?.run(tvec!(input.clone().into_tvalue()))
        };
        let expected = run(model.clone().into_optimized().expect("an optimised graph")).expect("the engine's answer");
        let rewritten = rewrite(&model).expect("a rewritten graph");
        let ours = rewritten.nodes().iter().any(|node| node.op_is::<crate::kernel::Own>());
        prop_assert!(ours, "nothing was replaced");
        let found = run(rewritten.into_optimized().expect("an optimised graph")).expect("our answer");
        prop_assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert_eq!(found.shape(), expected.shape());
            found.close_enough(expected, Approximation::Approximate).expect("the same answer");
        }
    }
}

/// What follows a convolution.
#[derive(Clone, Copy, Debug)]
enum Step {
    ChannelArithmetic,
    ScalarArithmetic,
    Relu,
    Clip,
    HardSwish,
    HardSigmoid,
    Silu,
    Gelu,
    CubicGelu,
    Residual,
    SqueezeExcite,
    MaxPool,
    MeanPool,
    Depthwise,
    Pointwise,
    Shuffle,
    Split,
    Join,
    Fire,
    Spread,
    Softmax,
    Wide,
    Pad,
    LargestOfLines,
    Turned,
    Output,
}

#[derive(Clone, Debug)]
struct Graph {
    images: usize,
    channels: usize,
    groups: usize,
    size: [usize; 2],
    steps: Vec<Step>,
    seed: u32,
}

fn graphs() -> impl Strategy<Value = Graph> {
    use Step::*;
    let step = prop::sample::select(vec![
        ChannelArithmetic,
        ScalarArithmetic,
        Relu,
        Clip,
        HardSwish,
        HardSigmoid,
        Silu,
        Gelu,
        CubicGelu,
        Residual,
        SqueezeExcite,
        MaxPool,
        MeanPool,
        Depthwise,
        Pointwise,
        Shuffle,
        Split,
        Join,
        Fire,
        Spread,
        Softmax,
        Wide,
        Pad,
        LargestOfLines,
        Turned,
        Output,
    ]);
    let sizes = (1usize..3, 1usize..12, 1usize..3, [6usize..14, 6usize..14]);
    (sizes, prop::collection::vec(step, 1..7), any::<u32>()).prop_map(|(sizes, steps, seed)| {
        let (images, channels, groups, size) = sizes;
        Graph { images, channels: channels * groups, groups, size, steps, seed }
    })
}

impl Graph {
    fn shape(&self) -> [usize; 4] {
        [self.images, self.channels, self.size[0], self.size[1]]
    }

    fn model(&self) -> TractResult<TypedModel> {
        let mut model = TypedModel::default();
        let input = model.add_source("input", f32::fact(self.shape()))?;
        let mut build = Build { model, seed: self.seed, count: 0, extra: vec![] };
        let mut x = build.conv(input, 12, 3, self.groups)?;
        for step in &self.steps {
            x = build.step(x, *step)?;
        }
        let mut outputs = build.extra;
        outputs.push(x);
        outputs.dedup();
        build.model.select_output_outlets(&outputs)?;
        Ok(build.model)
    }
}

struct Build {
    model: TypedModel,
    seed: u32,
    count: usize,
    extra: Vec<OutletId>,
}

impl Build {
    fn name(&mut self) -> String {
        self.count += 1;
        format!("node{}", self.count)
    }

    fn wire(&mut self, op: impl Into<Box<dyn TypedOp>>, inputs: &[OutletId]) -> TractResult<OutletId> {
        let name = self.name();
        Ok(self.model.wire_node(name, op, inputs)?[0])
    }

    fn constant(&mut self, shape: &[usize]) -> TractResult<OutletId> {
        let name = self.name();
        self.seed = self.seed.wrapping_add(1);
        let values = numbers(shape.iter().product(), self.seed);
        self.model.add_const(name, Tensor::from_shape(shape, &values)?)
    }

    /// Of sums that are as large as what is summed: they are compared by how far they are apart.
    fn weights(&mut self, shape: &[usize], terms: usize) -> TractResult<OutletId> {
        let weights = self.constant(shape)?;
        self.with(math::mul(), weights, (3.0 / terms as f32).sqrt())
    }

    fn scalar(&mut self, value: f32) -> TractResult<OutletId> {
        let name = self.name();
        self.model.add_const(name, Tensor::from_shape(&[1, 1, 1, 1], &[value])?)
    }

    fn shape(&self, x: OutletId) -> TractResult<TVec<usize>> {
        Ok(self.model.outlet_fact(x)?.shape.as_concrete().context("a concrete shape")?.into())
    }

    fn pool(kernel: usize, inputs: usize, outputs: usize) -> PoolSpec {
        let pads: TVec<usize> = tvec![kernel / 2; 2];
        PoolSpec {
            data_format: DataFormat::NCHW,
            kernel_shape: tvec![kernel; 2],
            padding: PaddingSpec::Explicit(pads.clone(), pads),
            dilations: None,
            strides: None,
            input_channels: inputs,
            output_channels: outputs,
        }
    }

    fn conv(&mut self, x: OutletId, outputs: usize, kernel: usize, groups: usize) -> TractResult<OutletId> {
        let inputs = self.shape(x)?[1];
        let terms = inputs / groups * kernel * kernel;
        let weights = self.weights(&[outputs, inputs / groups, kernel, kernel], terms)?;
        let bias = self.constant(&[outputs])?;
        let pool_spec = Self::pool(kernel, inputs, outputs);
        let conv = Conv { pool_spec, kernel_fmt: KernelFormat::OIHW, group: groups, q_params: None };
        self.wire(conv, &[x, weights, bias])
    }

    fn with(&mut self, op: impl Into<Box<dyn TypedOp>>, x: OutletId, value: f32) -> TractResult<OutletId> {
        let value = self.scalar(value)?;
        self.wire(op, &[x, value])
    }

    fn step(&mut self, x: OutletId, step: Step) -> TractResult<OutletId> {
        let shape = self.shape(x)?;
        let channels = shape[1];
        match step {
            Step::ChannelArithmetic => {
                let scale = self.constant(&[1, channels, 1, 1])?;
                let offset = self.constant(&[1, channels, 1, 1])?;
                let x = self.wire(math::mul(), &[scale, x])?;
                self.wire(math::add(), &[x, offset])
            }
            Step::ScalarArithmetic => {
                let x = self.with(math::mul(), x, 0.75)?;
                let x = self.with(math::sub(), x, 0.125)?;
                self.with(math::div(), x, 1.5)
            }
            Step::Relu => self.with(math::max(), x, 0.0),
            Step::Clip => {
                let x = self.with(math::max(), x, -0.5)?;
                self.with(math::min(), x, 1.0)
            }
            Step::HardSwish => {
                let gate = self.with(math::add(), x, 3.0)?;
                let gate = self.with(math::max(), gate, 0.0)?;
                let gate = self.with(math::min(), gate, 6.0)?;
                let x = self.wire(math::mul(), &[x, gate])?;
                self.with(math::div(), x, 6.0)
            }
            Step::HardSigmoid => {
                let x = self.with(math::mul(), x, 0.2)?;
                let x = self.with(math::add(), x, 0.5)?;
                let x = self.with(math::min(), x, 1.0)?;
                self.with(math::max(), x, 0.0)
            }
            Step::Silu => {
                let gate = self.wire(sigmoid(), &[x])?;
                self.wire(math::mul(), &[x, gate])
            }
            Step::Gelu => {
                let gate = self.with(math::div(), x, std::f32::consts::SQRT_2)?;
                let gate = self.wire(math::erf(), &[gate])?;
                let gate = self.with(math::add(), gate, 1.0)?;
                let x = self.wire(math::mul(), &[x, gate])?;
                self.with(math::mul(), x, 0.5)
            }
            Step::CubicGelu => {
                let cube = self.with(math::mul(), x, 0.044_715)?;
                let cube = self.wire(math::mul(), &[x, cube])?;
                let cube = self.wire(math::mul(), &[x, cube])?;
                let gate = self.wire(math::add(), &[x, cube])?;
                let gate = self.with(math::mul(), gate, 0.797_884_6)?;
                let gate = self.wire(math::tanh(), &[gate])?;
                let gate = self.with(math::add(), gate, 1.0)?;
                let gate = self.with(math::mul(), gate, 0.5)?;
                self.wire(math::mul(), &[x, gate])
            }
            Step::Residual => {
                let y = self.conv(x, channels, 3, 1)?;
                self.wire(math::add(), &[y, x])
            }
            Step::SqueezeExcite => {
                let sum = self.wire(Reduce::new(tvec!(2, 3), Reducer::Sum), &[x])?;
                let count = f32::from(u16::try_from(shape[2] * shape[3])?);
                let mean = self.with(math::div(), sum, count)?;
                let gate = self.conv(mean, channels, 1, 1)?;
                let gate = self.wire(sigmoid(), &[gate])?;
                self.wire(math::mul(), &[x, gate])
            }
            Step::MaxPool => {
                let pool_spec = PoolSpec { strides: Some(tvec![2; 2]), ..Self::pool(3, channels, channels) };
                self.wire(MaxPool { pool_spec, with_index_outputs: None }, &[x])
            }
            Step::MeanPool => {
                let pool_spec = Self::pool(3, channels, channels);
                self.wire(SumPool { pool_spec, count_include_pad: false, normalize: true }, &[x])
            }
            Step::Depthwise => self.conv(x, channels, 5, channels),
            Step::Pointwise => self.conv(x, 20, 1, 1),
            Step::Shuffle => {
                let (c, two) = (channels.to_dim(), 2.to_dim());
                let x =
                    self.wire(AxisOp::Reshape(1, tvec!(c.clone()), tvec!(two.clone(), c.clone() / 2)), &[x])?;
                let x = self.wire(AxisOp::Move(1, 2), &[x])?;
                self.wire(AxisOp::Reshape(1, tvec!(c.clone() / 2, two), tvec!(c)), &[x])
            }
            Step::Split => self.wire(Slice::new(1, channels / 2 - channels / 2 % 2, channels), &[x]),
            Step::Join => {
                let y = self.conv(x, 6, 1, 1)?;
                self.wire(TypedConcat::new(1), &[x, y])
            }
            // Two convolutions side by side, as in SqueezeNet.
            Step::Fire => {
                let parts = [self.conv(x, 6, 1, 1)?, self.conv(x, 10, 3, 1)?];
                let parts = [self.with(math::max(), parts[0], 0.0)?, parts[1]];
                let x = self.wire(TypedConcat::new(1), &parts)?;
                self.with(math::max(), x, -0.5)
            }
            Step::Spread => {
                let weights = self.weights(&[10, channels, 2, 2], channels)?;
                let bias = self.constant(&[10])?;
                let pool_spec = PoolSpec {
                    strides: Some(tvec![2; 2]),
                    kernel_shape: tvec![2; 2],
                    padding: PaddingSpec::Valid,
                    ..Self::pool(2, channels, 10)
                };
                let adjustments = tvec![0; 2];
                let deconv = Deconv { pool_spec, kernel_format: KernelFormat::OIHW, adjustments, group: 1 };
                self.wire(deconv, &[x, weights, bias])
            }
            Step::Softmax => {
                let softmax = Softmax { axes: tvec!(1), quant_output_dt: None, kind: SoftmaxKind::Softmax };
                self.wire(softmax, &[x])
            }
            // Enough channels for convolutions by tiles.
            Step::Wide => {
                let x = self.conv(x, 40, 1, 1)?;
                let x = self.conv(x, 24, 3, 1)?;
                self.step(x, Step::ChannelArithmetic)
            }
            Step::Pad => {
                let pads = vec![(0, 0), (0, 0), (1, 2), (0, 1)];
                self.wire(array::Pad { pads, mode: PadMode::Reflect }, &[x])
            }
            Step::LargestOfLines => {
                let largest = self.wire(Reduce::new(tvec!(3), Reducer::Max), &[x])?;
                let scale = self.constant(&[1, channels, 1])?;
                let y = self.wire(AxisOp::Rm(3), &[largest])?;
                let y = self.wire(math::mul(), &[y, scale])?;
                let y = self.wire(AxisOp::Add(3), &[y])?;
                self.wire(math::sub(), &[x, y])
            }
            Step::Turned => {
                let x = self.wire(AxisOp::Move(1, 3), &[x])?;
                let scale = self.constant(&[1, 1, 1, channels])?;
                let x = self.wire(math::mul(), &[x, scale])?;
                self.wire(AxisOp::Move(3, 1), &[x])
            }
            Step::Output => {
                self.extra.push(x);
                Ok(x)
            }
        }
    }
}

/// Numbers for which all sums are exact: what is rounded is the same.
#[test]
fn axes_that_move_are_told_from_channels() {
    for shape in [&[3, 2, 1, 1][..], &[3, 2, 4, 1], &[3, 2, 4, 5], &[3, 2, 4]] {
        let moves = (0..shape.len()).flat_map(|from| (0..shape.len()).map(move |to| (from, to)));
        for (from, to) in moves.filter(|(from, to)| from != to) {
            let build = || -> TractResult<TypedModel> {
                let mut model = TypedModel::default();
                let input = model.add_source("input", f32::fact(shape))?;
                let mut build = Build { model, seed: 3, count: 0, extra: vec![] };
                let mut x = build.wire(AxisOp::Move(from, to), &[input])?;
                if shape.len() == 3 {
                    x = build.wire(AxisOp::Add(3), &[x])?;
                }
                x = build.conv(x, 5, 1, 1)?;
                if shape.len() == 3 {
                    x = build.wire(AxisOp::Rm(3), &[x])?;
                }
                x = build.wire(AxisOp::Move(from, to), &[x])?;
                build.model.select_output_outlets(&[x])?;
                Ok(build.model)
            };
            let model = build().expect("a graph");
            let input = Tensor::from_shape(shape, &numbers(shape.iter().product(), 9)).expect("a tensor");
            let run = |model: TypedModel| {
                let plan =
                    model.into_optimized().expect("an optimised graph").into_runnable().expect("a plan");
                plan.run(tvec!(input.clone().into_tvalue())).expect("an answer").remove(0)
            };
            let (found, expected) = (run(rewrite(&model).expect("a rewritten graph")), run(model));
            let same = found.close_enough(&expected, Approximation::Approximate);
            assert!(same.is_ok(), "{shape:?}, from {from} to {to}: {same:?}");
        }
    }
}
