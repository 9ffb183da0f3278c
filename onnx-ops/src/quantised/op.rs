//! What a rewritten graph has in place of quantised groups: operators of our own from `f32` to `f32`, of which bytes less their
//! zero point are whole numbers. In a file they are nodes with an operator's name and lists of numbers, as the plugin for the sandbox
//! reads rewritten files.

use tract_onnx::{
    Onnx,
    model::ParsingContext,
    pb::{AttributeProto, NodeProto, attribute_proto::AttributeType},
    tract_core::{broadcast::multi_broadcast, ops::change_axes::wire_rank_broadcast},
    tract_hir::{infer::helpers::infer_shape_broadcasting, internal::*},
};

use super::formulas::{LEVELS, Product, Sum};
use crate::{attributes::Attributes, conv};

/// The least and the largest byte, less the zero point.
pub type Range = [f32; 2];

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Numbers to bytes: `x / divisor`.
    Quantise {
        divisor: f32,
        range: Range,
    },
    /// Sums of products to bytes: `x * factor`, one for all or one for each channel (axis 1).
    Requantise {
        factors: Vec<f32>,
        range: Range,
    },
    /// Bytes to numbers: `x * factor`.
    Dequantise {
        factor: f32,
    },
    /// Bytes to what a table has for them, the first for `first`.
    Table {
        first: f32,
        values: Vec<f32>,
    },
    /// `x * factor * scale + offset`, for each channel (axis 1), to bytes.
    Normalise {
        factor: f32,
        scale: Vec<f32>,
        offset: Vec<f32>,
        divisor: f32,
        range: Range,
    },
    Sum(Sum),
    Product(Product),
    /// The sum or the product of `a * factors[0]` and `b * factors[1]`, to bytes.
    OfNumbers {
        sum: bool,
        factors: [f32; 2],
        divisor: f32,
        range: Range,
    },
    /// The mean of each channel (`QLinearGlobalAveragePool`).
    Mean {
        factor: f32,
        divisor: f32,
        range: Range,
    },
    /// The mean of each channel of numbers, to bytes.
    MeanOfNumbers {
        factor: f32,
        divisor: f32,
        range: Range,
    },
    /// `QLinearSoftmax`, to `levels` steps of 1. Without an axis, along the default one.
    Softmax {
        scale: f32,
        levels: f32,
        range: Range,
        axis: Option<i64>,
    },
}

/// Operators' names, with how many single numbers and inputs each has.
const NAMES: [(&str, usize, usize); 11] = [
    ("AirlockQuantise", 3, 1),
    ("AirlockRequantise", 2, 1),
    ("AirlockDequantise", 1, 1),
    ("AirlockTable", 1, 1),
    ("AirlockNormalise", 4, 1),
    ("AirlockSum", 8, 2),
    ("AirlockProduct", 4, 2),
    ("AirlockOfNumbers", 6, 2),
    ("AirlockMean", 4, 1),
    ("AirlockMeanOfNumbers", 4, 1),
    ("AirlockSoftmax", 4, 1),
];

pub fn register(onnx: &mut Onnx) {
    for (name, ..) in NAMES {
        onnx.op_register.insert(name, parse);
    }
}

impl Kind {
    fn index(&self) -> usize {
        match self {
            Self::Quantise { .. } => 0,
            Self::Requantise { .. } => 1,
            Self::Dequantise { .. } => 2,
            Self::Table { .. } => 3,
            Self::Normalise { .. } => 4,
            Self::Sum(_) => 5,
            Self::Product(_) => 6,
            Self::OfNumbers { .. } => 7,
            Self::Mean { .. } => 8,
            Self::MeanOfNumbers { .. } => 9,
            Self::Softmax { .. } => 10,
        }
    }

    fn name(&self) -> &'static str {
        NAMES[self.index()].0
    }

    pub fn inputs(&self) -> usize {
        NAMES[self.index()].2
    }

    /// As a node of a file.
    pub fn node(&self, inputs: &[String], output: String) -> NodeProto {
        let (mut lists, mut ints): ([&[f32]; 2], Option<i64>) = ([&[]; 2], None);
        let numbers = match self {
            Self::Quantise { divisor, range: [low, high] } => vec![*divisor, *low, *high],
            Self::Requantise { factors, range } => {
                lists[0] = factors;
                range.to_vec()
            }
            Self::Dequantise { factor } => vec![*factor],
            Self::Table { first, values } => {
                lists[0] = values;
                vec![*first]
            }
            Self::Normalise { factor, scale, offset, divisor, range: [low, high] } => {
                lists = [scale, offset];
                vec![*factor, *divisor, *low, *high]
            }
            Self::Sum(Sum { ratios: [a, b], zeros: [c, d], fixed, zero, range: [low, high] }) => {
                vec![*a, *b, *c, *d, *fixed, *zero, *low, *high]
            }
            Self::Product(Product { ratio, zero, range: [low, high] }) => vec![*ratio, *zero, *low, *high],
            Self::OfNumbers { sum, factors: [a, b], divisor, range: [low, high] } => {
                vec![f32::from(u8::from(*sum)), *a, *b, *divisor, *low, *high]
            }
            Self::Mean { factor, divisor, range: [low, high] }
            | Self::MeanOfNumbers { factor, divisor, range: [low, high] } => {
                vec![*factor, *divisor, *low, *high]
            }
            Self::Softmax { scale, levels, range: [low, high], axis } => {
                ints = *axis;
                vec![*scale, *levels, *low, *high]
            }
        };
        let [first, second] = lists;
        let floats = [("numbers", &numbers[..]), ("first", first), ("second", second)];
        let floats =
            floats.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| AttributeProto {
                name: name.into(),
                floats: list.to_vec(),
                r#type: AttributeType::Floats as i32,
                ..Default::default()
            });
        let axis = ints.map(|i| AttributeProto {
            name: "axis".into(),
            i,
            r#type: AttributeType::Int as i32,
            ..Default::default()
        });
        NodeProto {
            op_type: self.name().into(),
            input: inputs.to_vec(),
            output: vec![output],
            attribute: floats.chain(axis).collect(),
            ..Default::default()
        }
    }

    pub fn read(node: &NodeProto) -> TractResult<Self> {
        let attributes = Attributes(node);
        let place = NAMES.iter().position(|(name, ..)| *name == node.op_type).context("another operator")?;
        let (_, count, inputs) = NAMES[place];
        let numbers = attributes.floats("numbers");
        let (first, second) = (attributes.floats("first").to_vec(), attributes.floats("second").to_vec());
        ensure!(numbers.len() == count && node.input.len() == inputs, "it has other numbers");
        let finite = |list: &[f32]| list.iter().all(|x| x.is_finite());
        ensure!(finite(numbers) && finite(&first) && finite(&second), "a number of it is not finite");
        let kind = match (place, numbers) {
            (0, &[divisor, low, high]) => Self::Quantise { divisor, range: [low, high] },
            (1, &[low, high]) => Self::Requantise { factors: first, range: [low, high] },
            (2, &[factor]) => Self::Dequantise { factor },
            (3, &[start]) => Self::Table { first: start, values: first },
            (4, &[factor, divisor, low, high]) => {
                Self::Normalise { factor, scale: first, offset: second, divisor, range: [low, high] }
            }
            (5, &[a, b, c, d, fixed, zero, low, high]) => {
                Self::Sum(Sum { ratios: [a, b], zeros: [c, d], fixed, zero, range: [low, high] })
            }
            (6, &[ratio, zero, low, high]) => Self::Product(Product { ratio, zero, range: [low, high] }),
            (7, &[sum, a, b, divisor, low, high]) => {
                Self::OfNumbers { sum: sum != 0.0, factors: [a, b], divisor, range: [low, high] }
            }
            (8, &[factor, divisor, low, high]) => Self::Mean { factor, divisor, range: [low, high] },
            (9, &[factor, divisor, low, high]) => Self::MeanOfNumbers { factor, divisor, range: [low, high] },
            (_, &[scale, levels, low, high]) => {
                Self::Softmax { scale, levels, range: [low, high], axis: attributes.int("axis") }
            }
            _ => bail!("it has other numbers"),
        };
        match &kind {
            Self::Requantise { factors, .. } => ensure!(!factors.is_empty(), "it has no factors"),
            Self::Table { values, .. } => ensure!(values.len() == LEVELS, "a table of {}", values.len()),
            Self::Normalise { scale, offset, .. } => {
                ensure!(!scale.is_empty() && scale.len() == offset.len(), "it has other lists");
            }
            _ => {}
        }
        Ok(kind)
    }
}

fn parse(context: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    // From there on, softmax is along one axis, by default the last one; before, along all from one on.
    let one_axis = context.onnx_operator_set_version >= 13;
    Ok((expand(Quantised { kind: Arc::new(Kind::read(node)?), one_axis }), Vec::new()))
}

/// The operator. What runs are the kernels that the pass puts in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantised {
    pub kind: Arc<Kind>,
    pub one_axis: bool,
}

impl Eq for Quantised {}

/// A mean's: of images and signals, one point.
fn one_point<D: DimLike>(shape: &[D]) -> TVec<D> {
    shape.iter().enumerate().map(|(axis, dim)| if axis < 2 { dim.clone() } else { D::one() }).collect()
}

impl Expansion for Quantised {
    fn name(&self) -> StaticName {
        self.kind.name().into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, self.kind.inputs())?;
        check_output_arity(outputs, 1)?;
        for input in inputs {
            solver.equals(&input.datum_type, f32::datum_type())?;
        }
        solver.equals(&outputs[0].datum_type, f32::datum_type())?;
        match &*self.kind {
            Kind::Mean { .. } | Kind::MeanOfNumbers { .. } => solver
                .given(&inputs[0].shape, move |solver, shape| {
                    solver.equals(&outputs[0].shape, one_point(&shape))
                }),
            Kind::Sum(_) | Kind::Product(_) | Kind::OfNumbers { .. } => {
                solver.with(&inputs[0].shape, move |solver, a| {
                    solver.with(&inputs[1].shape, move |solver, b| {
                        match infer_shape_broadcasting(&[&a, &b])? {
                            Some(shape) => solver.equals(&outputs[0].shape, shape),
                            None => Ok(()),
                        }
                    })
                })
            }
            _ => solver.equals(&inputs[0].shape, &outputs[0].shape),
        }
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let inputs = wire_rank_broadcast(prefix, model, inputs)?;
        model.wire_node(prefix, self.clone(), &inputs)
    }
}

impl Op for Quantised {
    fn name(&self) -> StaticName {
        self.kind.name().into()
    }

    op_as_typed_op!();
}

impl EvalOp for Quantised {
    op_out_of_plan!();

    /// Only where its inputs' shapes were not known before: as a graph of its own, of which there are kernels.
    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut graph = TypedModel::default();
        let sources = inputs.iter().enumerate();
        let sources = sources
            .map(|(index, input)| graph.add_source(format!("{index}"), f32::fact(input.shape())))
            .collect::<TractResult<TVec<_>>>()?;
        let outputs = graph.wire_node("own", self.clone(), &sources)?;
        graph.select_output_outlets(&outputs)?;
        let graph = conv::rewrite(&graph)?;
        ensure!(!graph.nodes().iter().any(|node| node.op_is::<Self>()), "there is no kernel for it");
        graph.into_runnable()?.run(inputs)
    }
}

impl TypedOp for Quantised {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs.len() == self.kind.inputs(), "another number of inputs");
        Ok(tvec!(match &*self.kind {
            Kind::Mean { .. } | Kind::MeanOfNumbers { .. } => f32::fact(one_point(&inputs[0].shape)),
            Kind::Sum(_) | Kind::Product(_) | Kind::OfNumbers { .. } => {
                f32::fact(multi_broadcast(&[&inputs[0].shape, &inputs[1].shape])?)
            }
            _ => f32::fact(inputs[0].shape.iter()),
        }))
    }

    as_op!();
}
