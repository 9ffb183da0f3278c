//! Which groups of nodes ONNX Runtime (1.32, on x86) makes operators on bytes of, and what it does where it does not.
//!
//! It takes a node between `DequantizeLinear` and `QuantizeLinear` if all bytes are unsigned, or for sums, products of matrices with a
//! bias, means and softmax if all are signed. Elsewhere bytes are made numbers, the node works on these, and its result is made bytes.

use tract_onnx::{pb::NodeProto, prelude::DatumType};

use super::{
    constants::{numbers, whole},
    formulas::{Grid, Product, Sum, requantised},
    functions::Function,
    op::Kind,
    rewrite::{Constant, Known, Rewrite},
};
use crate::attributes::Attributes;

/// Operators that only move values, or leave some out: what is done to each value may as well be done before.
const MOVES: [&str; 8] =
    ["Expand", "Flatten", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"];

/// One side of a sum or a product.
enum Operand {
    Value { function: Function, grid: Grid, unsigned: bool },
    Constant(Constant),
}

impl Operand {
    fn grid(&self) -> Grid {
        match self {
            Self::Value { grid, .. } => *grid,
            Self::Constant(constant) => constant.grid,
        }
    }

    fn unsigned(&self) -> bool {
        match self {
            Self::Value { unsigned, .. } => *unsigned,
            Self::Constant(constant) => !constant.grid.signed,
        }
    }

    fn scalar(&self) -> Option<f32> {
        match self {
            Self::Constant(Constant { values, shape, .. }) if shape.len() <= 1 => match values[..] {
                [value] => Some(value),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Factors of a product with bytes.
struct Weights {
    constant: Constant,
    /// One for all, or one for each output.
    scales: Vec<f32>,
}

/// Whole numbers that are added to sums of products.
struct Bias {
    shape: Vec<usize>,
    values: Vec<f32>,
    scales: Vec<f32>,
    zeros: Vec<i32>,
}

impl Bias {
    /// Whether its scales are those of the sums, one for all or one for each output, but for what ONNX Runtime lets pass; it works
    /// on numbers where they are not, or where a zero point is none.
    fn is_of(&self, sums: &[f32]) -> bool {
        const NEAR: f32 = 0.01;
        let count = self.scales.len().max(sums.len());
        let each =
            |scales: &[f32], index: usize| scales.get(if scales.len() == 1 { 0 } else { index }).copied();
        let alike = |index| {
            let (own, sum) = (each(&self.scales, index), each(sums, index));
            own.zip(sum).is_some_and(|(own, sum)| (own - sum).abs() <= NEAR * sum)
        };
        self.zeros.iter().all(|zero| *zero == 0) && (0..count).all(alike)
    }
}

impl<'g> Rewrite<'g> {
    /// What the `QuantizeLinear` from `x` to `output` gives, less its zero point.
    pub fn group(&mut self, x: &'g str, output: &'g str, grid: Grid, unsigned: bool) -> Option<Function> {
        if let Some(node) = self.constants.maker(x).filter(|node| node.domain.is_empty()) {
            // ONNX Runtime makes no operator on bytes of what others read as numbers.
            let alone = self.constants.uses(x) == 1;
            let made = (alone.then(|| self.of_bytes(node, output, grid, unsigned)).flatten())
                .or_else(|| self.moved(node, output, grid))
                .or_else(|| self.joined(node, output, grid))
                .or_else(|| Some(self.function(x)?.then(|x| grid.nearest(x))))
                .or_else(|| self.of_numbers(node, output, grid));
            if made.is_some() {
                return made;
            }
        }
        let quantise = Kind::Quantise { divisor: grid.scale, range: grid.range() };
        Some(self.made(quantise, vec![x.to_owned()], output, grid))
    }

    fn made(&mut self, kind: Kind, inputs: Vec<String>, output: &str, grid: Grid) -> Function {
        let name = self.fresh(&format!("{output}/whole"));
        self.put(kind, &inputs, name.clone());
        self.base(name, grid)
    }

    /// What one node makes of bytes where ONNX Runtime has an operator for it.
    fn of_bytes(
        &mut self,
        node: &'g NodeProto,
        output: &str,
        grid: Grid,
        unsigned: bool,
    ) -> Option<Function> {
        match node.op_type.as_str() {
            "Add" | "Mul" => self.binary_of_bytes(node, output, grid, unsigned),
            "Conv" | "MatMul" | "Gemm" => self.product(node, output, grid, unsigned),
            "GlobalAveragePool" => {
                let (x, of) = self.same_bytes(node, unsigned)?;
                let mean = Kind::Mean { factor: of.scale, divisor: grid.scale, range: grid.range() };
                let x = self.value(&x);
                Some(self.made(mean, vec![x], output, grid))
            }
            "Softmax" => {
                let (x, of) = self.same_bytes(node, unsigned)?;
                let softmax = Kind::Softmax {
                    scale: of.scale,
                    levels: grid.scale.recip().floor(),
                    range: grid.range(),
                    axis: Attributes(node).int("axis"),
                };
                let x = self.value(&x);
                Some(self.made(softmax, vec![x], output, grid))
            }
            _ => None,
        }
    }

    /// The only input of a node, if that is of the same bytes as the result.
    fn same_bytes(&mut self, node: &'g NodeProto, unsigned: bool) -> Option<(Function, Grid)> {
        let [x] = &node.input[..] else { return None };
        match self.operand(x)? {
            Operand::Value { function, grid, unsigned: of } if of == unsigned => Some((function, grid)),
            _ => None,
        }
    }

    fn operand(&self, name: &str) -> Option<Operand> {
        let node = self.constants.maker(name).filter(|node| node.op_type == "DequantizeLinear")?;
        if let Some(Known { function, grid, unsigned }) = self.taken_back(node) {
            return Some(Operand::Value { function, grid, unsigned });
        }
        self.constant_operand(node).map(Operand::Constant)
    }

    fn operands(&self, node: &NodeProto) -> Option<[Operand; 2]> {
        let [a, b] = &node.input[..] else { return None };
        let both = [self.operand(a)?, self.operand(b)?];
        let some = both.iter().any(|operand| matches!(operand, Operand::Value { .. }));
        some.then_some(both)
    }

    fn binary_of_bytes(
        &mut self,
        node: &'g NodeProto,
        output: &str,
        grid: Grid,
        unsigned: bool,
    ) -> Option<Function> {
        let [a, b] = self.operands(node)?;
        if [&a, &b].iter().any(|operand| operand.unsigned() != unsigned) {
            return None;
        }
        let sum = Sum::new(a.grid(), b.grid(), grid);
        let product = Product::new(a.grid(), b.grid(), grid);
        let is_sum = node.op_type == "Add";
        // What is the same everywhere comes second.
        let swapped = sum.swapped();
        // Of one value only?
        let table = match (&a, &b) {
            (Operand::Value { function: a, .. }, Operand::Value { function: b, .. }) => {
                a.with(b, |a, b| if is_sum { sum.of(a, b) } else { product.of(a, b) })
            }
            (Operand::Value { function, .. }, constant) => {
                let b = constant.scalar();
                b.map(|b| function.then(|a| if is_sum { sum.of(a, b) } else { product.of(a, b) }))
            }
            (constant, Operand::Value { function, .. }) => {
                let a = constant.scalar();
                a.map(|a| function.then(|b| if is_sum { swapped.of(b, a) } else { product.of(a, b) }))
            }
            _ => None,
        };
        if table.is_some() {
            return table;
        }
        let kind = if is_sum { Kind::Sum(sum) } else { Kind::Product(product) };
        let inputs = [a, b].map(|operand| self.operand_value(operand, output)).to_vec();
        Some(self.made(kind, inputs, output, grid))
    }

    fn operand_value(&mut self, operand: Operand, like: &str) -> String {
        match operand {
            Operand::Value { function, .. } => self.value(&function),
            Operand::Constant(Constant { values, shape, .. }) => self.tensor(like, &shape, &values),
        }
    }

    /// A convolution or a product of matrices: of whole numbers, then the sums are made bytes.
    fn product(&mut self, node: &'g NodeProto, output: &str, grid: Grid, unsigned: bool) -> Option<Function> {
        let Operand::Value { function, grid: of, unsigned: from } = self.operand(node.input.first()?)? else {
            return None;
        };
        let is_gemm = node.op_type == "Gemm";
        let turned = Attributes(node).int("transB").unwrap_or(0) != 0;
        // Along which each has its output's.
        let axis = usize::from(is_gemm && !turned);
        let weights = self.weights(node.input.get(1)?, axis)?;
        let signed_too = is_gemm && weights.constant.grid.signed && !unsigned;
        if from != unsigned || !(unsigned || signed_too) {
            return None;
        }
        let attributes = Attributes(node);
        let alpha = if is_gemm { attributes.float("alpha").unwrap_or(1.0) } else { 1.0 };
        if is_gemm && (attributes.int("transA").unwrap_or(0) != 0 || alpha != 1.0) {
            return None;
        }
        let shape = weights.constant.shape.clone();
        let fits = match (node.op_type.as_str(), shape.len()) {
            ("Conv", 3..=4) => true,
            ("Gemm", 2) => true,
            // Rows of a result of any rank have their columns elsewhere than along axis 1.
            ("MatMul", 2) => weights.scales.len() == 1,
            _ => false,
        };
        if !fits || weights.scales.len() != 1 && weights.scales.len() != shape[axis] {
            return None;
        }
        let mut inputs = vec![self.value(&function)];
        let bias = node.input.get(2).filter(|name| !name.is_empty());
        let of_sums: Vec<f32> = weights.scales.iter().map(|scale| of.scale * scale).collect();
        // Of a `Gemm`, ONNX Runtime does not look at the scale.
        let fits = |bias: &Bias| is_gemm || bias.is_of(&of_sums);
        let bias = bias.map(|bias| self.bias(bias)).map_or(Some(None), |bias| bias.map(Some))?;
        if bias.as_ref().is_some_and(|bias| !fits(bias)) {
            return None;
        }
        if bias.is_some()
            && (node.op_type == "MatMul" || is_gemm && attributes.float("beta").unwrap_or(1.0) != 1.0)
        {
            return None;
        }
        inputs.push(self.tensor(&node.input[1], &shape, &weights.constant.values));
        if let Some(Bias { shape, values, .. }) = bias {
            inputs.push(self.tensor(&node.input[2], &shape, &values));
        }
        let sums = self.fresh(&format!("{output}/sums"));
        self.push(NodeProto {
            name: String::new(),
            input: inputs,
            output: vec![sums.clone()],
            ..node.clone()
        });
        let factors = weights.scales.iter().map(|scale| requantised(of.scale, *scale, grid.scale)).collect();
        Some(self.made(Kind::Requantise { factors, range: grid.range() }, vec![sums], output, grid))
    }

    /// Bytes with one scale for all or one for each along an axis, and one zero point.
    fn weights(&self, name: &str, axis: usize) -> Option<Weights> {
        let node = self.constants.maker(name).filter(|node| node.op_type == "DequantizeLinear")?;
        if let Some(constant) = self.constant_operand(node) {
            let scales = vec![constant.grid.scale];
            return Some(Weights { constant, scales });
        }
        let (scales, zero) = self.constants.scale_and_zero(node)?;
        let first = *zero.points.first()?;
        let alike = zero.points.iter().all(|point| *point == first);
        let tensor = self.constants.tensor(node.input.first()?)?;
        // Without a zero point nothing else says what they are.
        let signed = match tensor.datum_type() {
            DatumType::U8 => false,
            DatumType::I8 => true,
            _ => return None,
        };
        let along = Attributes(node).int("axis").unwrap_or(1);
        let along = if along < 0 { along + i64::try_from(tensor.rank()).ok()? } else { along };
        if !alike || scales.len() > 1 && usize::try_from(along) != Ok(axis) {
            return None;
        }
        let values = whole(&tensor)?.into_iter().map(|byte| (byte - first) as f32).collect();
        let grid = Grid { scale: scales[0], zero: first, signed };
        Some(Weights { constant: Constant { values, shape: tensor.shape().to_vec(), grid }, scales })
    }

    /// Whole numbers that are added to sums.
    fn bias(&self, name: &str) -> Option<Bias> {
        let node = self.constants.maker(name).filter(|node| node.op_type == "DequantizeLinear")?;
        let tensor = self.constants.tensor(node.input.first()?)?;
        let values = numbers::<i32>(&tensor)?.into_iter().map(|x| x as f32).collect();
        let (scales, zero) = self.constants.scale_and_zero(node)?;
        Some(Bias { shape: tensor.shape().to_vec(), values, scales, zeros: zero.points })
    }

    /// Values that are moved: what becomes of each is found out before.
    fn moved(&mut self, node: &'g NodeProto, output: &str, grid: Grid) -> Option<Function> {
        let largest = node.op_type == "MaxPool" && node.output.len() == 1;
        if !largest && !MOVES.contains(&node.op_type.as_str()) {
            return None;
        }
        let function = self.function(node.input.first()?)?.then(|x| grid.nearest(x));
        if largest && !function.rises() {
            return None;
        }
        let mut moved = NodeProto { name: String::new(), ..node.clone() };
        moved.input[0] = self.value(&function);
        moved.output[0] = self.fresh(&format!("{output}/whole"));
        let name = moved.output[0].clone();
        self.push(moved);
        Some(self.base(name, grid))
    }

    /// Values that are joined, likewise.
    fn joined(&mut self, node: &'g NodeProto, output: &str, grid: Grid) -> Option<Function> {
        if node.op_type != "Concat" {
            return None;
        }
        // First all of them, as what was made for some of them only would stay; one at a time, as a function is larger than
        // what the file has for it.
        if !node.input.iter().all(|input| self.function(input).is_some()) {
            return None;
        }
        let mut input = Vec::new();
        for name in &node.input {
            let function = self.function(name)?.then(|x| grid.nearest(x));
            input.push(self.value(&function));
        }
        let name = self.fresh(&format!("{output}/whole"));
        self.push(NodeProto { name: String::new(), input, output: vec![name.clone()], ..node.clone() });
        Some(self.base(name, grid))
    }

    /// What nodes make of numbers where ONNX Runtime works on these, and other roundings than its own would show.
    fn of_numbers(&mut self, node: &'g NodeProto, output: &str, grid: Grid) -> Option<Function> {
        let (divisor, range) = (grid.scale, grid.range());
        let (kind, inputs) = match node.op_type.as_str() {
            "Add" | "Mul" => {
                let operands = self.operands(node)?;
                let factors = operands.each_ref().map(|operand| operand.grid().scale);
                let sum = node.op_type == "Add";
                let inputs = operands.map(|operand| self.operand_value(operand, output)).to_vec();
                (Kind::OfNumbers { sum, factors, divisor, range }, inputs)
            }
            "BatchNormalization" if node.output.len() == 1 => {
                let [x, parameters @ ..] = &node.input[..] else { return None };
                let Operand::Value { function, grid: of, .. } = self.operand(x)? else { return None };
                let [scale, offset, mean, variance] = parameters
                    .iter()
                    .map(|name| self.numbers(name))
                    .collect::<Option<Vec<_>>>()?
                    .try_into()
                    .ok()?;
                let epsilon = Attributes(node).float("epsilon").unwrap_or(1e-5);
                if [&offset, &mean, &variance].iter().any(|other| other.len() != scale.len()) {
                    return None;
                }
                let scale: Vec<f32> = scale
                    .iter()
                    .zip(variance)
                    .map(|(scale, variance)| (variance + epsilon).sqrt().recip() * scale)
                    .collect();
                let less = scale.iter().zip(mean).map(|(scale, mean)| mean * scale);
                let offset = offset.iter().zip(less).map(|(offset, less)| offset - less).collect();
                (
                    Kind::Normalise { factor: of.scale, scale, offset, divisor, range },
                    vec![self.value(&function)],
                )
            }
            "GlobalAveragePool" => {
                let [x] = &node.input[..] else { return None };
                let Operand::Value { function, grid: of, .. } = self.operand(x)? else { return None };
                (Kind::MeanOfNumbers { factor: of.scale, divisor, range }, vec![self.value(&function)])
            }
            _ => return None,
        };
        Some(self.made(kind, inputs, output, grid))
    }

    /// Constant numbers, or bytes that are taken back.
    fn numbers(&self, name: &str) -> Option<Vec<f32>> {
        if let Some(tensor) = self.constants.floats(name) {
            return numbers(&tensor);
        }
        let constant = self.constant_operand(self.constants.maker(name)?)?;
        Some(constant.values.iter().map(|x| x * constant.grid.scale).collect())
    }
}
