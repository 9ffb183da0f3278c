//! Functions of a single quantised value: what little nodes make of it, for each number that it can be.

use std::{collections::HashMap, rc::Rc};

use tract_onnx::pb::NodeProto;

use super::{
    formulas::LEVELS,
    rewrite::{Known, Rewrite},
};
use crate::attributes::Attributes;

/// How many nodes are followed.
const DEPTH: usize = 32;

/// The results for each number, in order, that a value of the new graph can be.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Which of the rewriting's values it is of.
    pub of: usize,
    pub values: Rc<Vec<f32>>,
}

impl Function {
    pub fn new(of: usize, values: Vec<f32>) -> Self {
        debug_assert_eq!(values.len(), LEVELS, "a number for each byte");
        Self { of, values: Rc::new(values) }
    }

    pub fn then(&self, f: impl Fn(f32) -> f32) -> Self {
        Self::new(self.of, self.values.iter().map(|x| f(*x)).collect())
    }

    /// Together with another function of the same value.
    pub fn with(&self, other: &Self, f: impl Fn(f32, f32) -> f32) -> Option<Self> {
        let both = self.values.iter().zip(&*other.values);
        (self.of == other.of).then(|| Self::new(self.of, both.map(|(a, b)| f(*a, *b)).collect()))
    }

    pub fn rises(&self) -> bool {
        self.values.is_sorted()
    }
}

/// What has been found, or found not to be there.
pub type Found<'g> = HashMap<&'g str, Option<Function>>;

impl<'g> Rewrite<'g> {
    /// A value of the old graph as a function of a quantised one. What makes it has been gone through.
    pub fn function(&mut self, name: &str) -> Option<Function> {
        let node = self.constants.maker(name)?;
        self.function_at(node, DEPTH)
    }

    fn function_at(&mut self, node: &'g NodeProto, depth: usize) -> Option<Function> {
        let [output] = &node.output[..] else { return None };
        if let Some(found) = self.found.get(output.as_str()) {
            return found.clone();
        }
        let function = depth.checked_sub(1).and_then(|depth| self.made_by(node, depth));
        self.found.insert(output, function.clone());
        function
    }

    fn made_by(&mut self, node: &'g NodeProto, depth: usize) -> Option<Function> {
        if node.op_type == "DequantizeLinear" {
            let Known { function, grid, .. } = self.taken_back(node)?;
            return Some(function.then(|x| x * grid.scale));
        }
        let mut of = |index: usize| {
            let node = self.constants.maker(node.input.get(index)?)?;
            self.function_at(node, depth)
        };
        if let &[_, _] = &node.input[..]
            && let Some(f) = arithmetic(&node.op_type)
        {
            return match (of(0), of(1)) {
                (Some(a), Some(b)) => a.with(&b, f),
                (Some(a), None) => {
                    let b = self.scalar(&node.input[1])?;
                    Some(a.then(|x| f(x, b)))
                }
                (None, Some(b)) => {
                    let a = self.scalar(&node.input[0])?;
                    Some(b.then(|x| f(a, x)))
                }
                (None, None) => None,
            };
        }
        let attributes = Attributes(node);
        let x = of(0)?;
        Some(match (node.op_type.as_str(), node.input.len()) {
            ("Identity", 1) => x,
            ("Relu", 1) => x.then(|x| x.max(0.0)),
            ("HardSigmoid", 1) => {
                let [alpha, beta] = [("alpha", 0.2), ("beta", 0.5)]
                    .map(|(name, other)| attributes.float(name).unwrap_or(other));
                x.then(|x| (alpha * x + beta).clamp(0.0, 1.0))
            }
            ("Clip", _) => {
                let bound = |index: usize, name: &str, none: f32| match node.input.get(index) {
                    Some(input) if !input.is_empty() => self.scalar(input),
                    _ => Some(attributes.float(name).unwrap_or(none)),
                };
                let (low, high) = (bound(1, "min", f32::MIN)?, bound(2, "max", f32::MAX)?);
                x.then(|x| x.max(low).min(high))
            }
            _ => return None,
        })
    }

    /// A constant that is one number, or a byte that is taken back.
    pub fn scalar(&self, name: &str) -> Option<f32> {
        self.constants.scalar(name).or_else(|| {
            let constant = self.constant_operand(self.constants.maker(name)?)?;
            let ([value], 0..=1) = (&constant.values[..], constant.shape.len()) else { return None };
            Some(value * constant.grid.scale)
        })
    }
}

fn arithmetic(op: &str) -> Option<fn(f32, f32) -> f32> {
    Some(match op {
        "Add" => |a, b| a + b,
        "Sub" => |a, b| a - b,
        "Mul" => |a, b| a * b,
        "Div" => |a, b| a / b,
        _ => return None,
    })
}
