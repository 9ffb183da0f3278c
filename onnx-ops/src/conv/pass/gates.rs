//! Activations that a file has as chains of operators: sigmoid, hard sigmoid and both forms of GELU, each times its input.

use tract_onnx::tract_core::{internal::*, ops::element_wise::ElementWiseOp};

use super::{
    Pass,
    linear::{arithmetic, clamped, linear},
};
use crate::{conv::arithmetic::Arithmetic, gemm::map::Gate};

/// A step from `x` to its gate.
#[derive(Clone, Copy, Debug)]
enum Step {
    Scalar(Arithmetic, f32, bool),
    Sigmoid,
    Erf,
    Tanh,
    PlusCube(f32),
}

impl Pass<'_> {
    /// What `x` is multiplied with in `x * value`, where that is a function of `x`, and the nodes that compute it.
    pub(super) fn gate(&self, x: OutletId, value: OutletId) -> Option<(Gate, Vec<usize>)> {
        let mut chain = vec![];
        // From the outside in.
        let mut steps = vec![];
        let mut at = value;
        while at != x {
            let node = self.source.node(at.node);
            if chain.len() == 8 {
                return None;
            }
            chain.push(node.id);
            if let Some((arithmetic, scalar, swapped, inner)) = self.with_scalar(node) {
                steps.push(Step::Scalar(arithmetic, scalar, swapped));
                at = inner;
            } else if let [inner] = node.inputs[..]
                && node.op_is::<ElementWiseOp>()
            {
                let step = match node.op.name().as_ref() {
                    "Sigmoid" => Step::Sigmoid,
                    "Erf" => Step::Erf,
                    "Tanh" => Step::Tanh,
                    _ => return None,
                };
                steps.push(step);
                at = inner;
            } else if let Some((cube, nodes)) = self.plus_cube(x, at) {
                chain.pop();
                chain.extend(nodes);
                steps.push(Step::PlusCube(cube));
                at = x;
            } else {
                return None;
            }
        }
        let near = |a: f32, b: f32| (a - b).abs() <= 1e-5 * b.abs();
        let gate = match steps[..] {
            [Step::Sigmoid] => Gate::Sigmoid,
            [Step::Scalar(Arithmetic::Add, one, _), Step::Erf, Step::Scalar(arithmetic, scalar, false)]
                if near(one, 1.0)
                    && (arithmetic == Arithmetic::Div && near(scalar, std::f32::consts::SQRT_2)
                        || arithmetic == Arithmetic::Mul
                            && near(scalar, std::f32::consts::FRAC_1_SQRT_2)) =>
            {
                Gate::OnePlusErf
            }
            [
                Step::Scalar(Arithmetic::Mul, half, _),
                Step::Scalar(Arithmetic::Add, one, _),
                Step::Tanh,
                Step::Scalar(Arithmetic::Mul, scale, _),
                Step::PlusCube(cube),
            ] if half == 0.5 && one == 1.0 => Gate::Cubic { scale: 2.0 * scale, cube: 2.0 * scale * cube },
            _ => clamp_of(&steps)?,
        };
        Some((gate, chain))
    }

    /// Arithmetic of a value with a single constant: which, the constant, whether it comes first, and the value.
    pub(super) fn with_scalar(&self, node: &TypedNode) -> Option<(Arithmetic, f32, bool, OutletId)> {
        let arithmetic = arithmetic(node.op_as()?)?;
        let &[a, b] = &node.inputs[..] else { return None };
        let (scalar, swapped, inner) = match (self.scalar(a), self.scalar(b)) {
            (None, Some(scalar)) => (scalar, false, a),
            (Some(scalar), None) => (scalar, true, b),
            _ => return None,
        };
        (self.fact(inner).ok()?.shape == node.outputs[0].fact.shape)
            .then_some((arithmetic, scalar, swapped, inner))
    }

    /// The factor in `x + x * (x * (factor * x))`, in any order, and the nodes that compute it.
    pub(super) fn plus_cube(&self, x: OutletId, value: OutletId) -> Option<(f32, Vec<usize>)> {
        let with_x = |value: OutletId, wanted: Arithmetic| {
            let node = self.source.node(value.node);
            let &[a, b] = &node.inputs[..] else { return None };
            (arithmetic(node.op_as()?)? == wanted).then_some(())?;
            if a == x { Some(b) } else { (b == x).then_some(a) }
        };
        let cube = with_x(value, Arithmetic::Add)?;
        let square = with_x(cube, Arithmetic::Mul)?;
        let scaled = with_x(square, Arithmetic::Mul)?;
        let (Arithmetic::Mul, factor, _, inner) = self.with_scalar(self.source.node(scaled.node))? else {
            return None;
        };
        (inner == x).then(|| (factor, vec![value.node, cube.node, square.node, scaled.node]))
    }
}

/// A clamped linear function, from steps from the outside in.
fn clamp_of(steps: &[Step]) -> Option<Gate> {
    let (mut scale, mut offset, mut low, mut high) = (1.0, 0.0, f32::NEG_INFINITY, f32::INFINITY);
    for step in steps.iter().rev() {
        let Step::Scalar(arithmetic, scalar, swapped) = *step else { return None };
        if let Some(clamp) = clamped((low, high), arithmetic, scalar) {
            (low, high) = clamp;
            continue;
        }
        let unclamped = (low, high) == (f32::NEG_INFINITY, f32::INFINITY);
        let (factor, term) = linear(arithmetic, swapped, vec![scalar])?;
        if !unclamped {
            return None;
        }
        scale *= factor[0];
        offset = offset * factor[0] + term[0];
    }
    let clamped = low > f32::NEG_INFINITY || high < f32::INFINITY;
    clamped.then_some(Gate::Clamp { scale, offset, low, high })
}
