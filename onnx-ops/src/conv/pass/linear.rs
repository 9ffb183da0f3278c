//! Arithmetic with constants as functions of the other operand.

use tract_onnx::tract_core::{internal::*, ops::binary::TypedBinOp};

use crate::{
    conv::{arithmetic::Arithmetic, dense::After},
    gemm::map::Map,
};

pub(super) fn arithmetic(binary: &TypedBinOp) -> Option<Arithmetic> {
    if binary.1.is_some_and(|datum_type| datum_type != f32::datum_type()) {
        return None;
    }
    Some(match binary.0.name() {
        "Add" => Arithmetic::Add,
        "Sub" => Arithmetic::Sub,
        "Mul" => Arithmetic::Mul,
        "Div" => Arithmetic::Div,
        "Max" => Arithmetic::Max,
        "Min" => Arithmetic::Min,
        _ => return None,
    })
}

/// `x * scale + offset` for arithmetic with constants.
pub(super) fn linear(
    arithmetic: Arithmetic,
    swapped: bool,
    values: Vec<f32>,
) -> Option<(Vec<f32>, Vec<f32>)> {
    let each = |f: fn(f32) -> f32| values.iter().map(|value| f(*value)).collect();
    Some(match (arithmetic, swapped) {
        (Arithmetic::Add, _) => (vec![1.0], values),
        (Arithmetic::Sub, false) => (vec![1.0], each(|value| -value)),
        (Arithmetic::Sub, true) => (vec![-1.0], values),
        (Arithmetic::Mul, _) => (values, vec![0.0]),
        (Arithmetic::Div, false) => (each(f32::recip), vec![0.0]),
        _ => return None,
    })
}

/// A clamp after which comes another.
pub(super) fn clamped((low, high): (f32, f32), arithmetic: Arithmetic, scalar: f32) -> Option<(f32, f32)> {
    match arithmetic {
        Arithmetic::Max => Some((low.max(scalar), high.max(scalar))),
        Arithmetic::Min => Some((low.min(scalar), high.min(scalar))),
        _ => None,
    }
}

/// `x * factor + term` for arithmetic with a single constant.
pub(super) fn linear_of(arithmetic: Arithmetic, swapped: bool, scalar: f32) -> Option<(f32, f32)> {
    let (factor, term) = linear(arithmetic, swapped, vec![scalar])?;
    Some((factor[0], term[0]))
}

/// A map with a linear function after it.
pub(super) fn scaled(map: &Map, factor: f32, term: f32) -> Map {
    Map { factor: map.factor * factor, term: map.term * factor + term, ..*map }
}

/// What follows a kernel's result with arithmetic with a single constant after it, if that cannot be a part of the kernel.
pub(super) fn follow(
    after: &After,
    residual: bool,
    arithmetic: Arithmetic,
    swapped: bool,
    scalar: Option<f32>,
) -> Option<After> {
    let scalar = scalar?;
    if after.map.is_none()
        && let Some(clamp) = clamped(after.clamp, arithmetic, scalar)
    {
        return Some(After { clamp, ..*after });
    }
    let open = after.map.is_none() && after.clamp == After::NOTHING.clamp && !residual;
    let (factor, term) = linear_of(arithmetic, swapped, scalar).filter(|_| !open)?;
    Some(after.scaled(factor, term))
}
