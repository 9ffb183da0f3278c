//! `Scaler` and `Normalizer` of ai.onnx.ml 1, `Binarizer` too: numbers of any type in, FP32 of the same shape out.

use tract_onnx::{Onnx, pb::NodeProto, tract_hir::internal::*};

use crate::{
    attributes::Attributes,
    operator::{Operator, op},
};

pub fn register(onnx: &mut Onnx) {
    onnx.op_register.insert("Scaler", |_, node| op(scaler(node)?));
    onnx.op_register.insert("Normalizer", |_, node| op(normalizer(node)?));
    onnx.op_register.insert("Binarizer", |_, node| op(binarizer(node)?));
}

/// What is done to each row, the last dimension.
#[derive(Clone, Debug, PartialEq)]
enum OfRows {
    /// Subtracts the offset, then multiplies: one for each column, or one for all.
    Scale { offset: Vec<f32>, scale: Vec<f32> },
    /// Divides by the largest element, as it is.
    ByMax,
    /// Divides by the sum of the absolute values.
    ByL1,
    /// Divides by the root of the sum of the squares.
    ByL2,
    /// 1 for what is above the threshold, else 0.
    Above(f32),
}

impl Eq for OfRows {}

fn scaler(node: &NodeProto) -> TractResult<OfRows> {
    let attributes = Attributes(node);
    let list = |name, default| match attributes.floats(name) {
        [] => vec![default],
        floats => floats.to_vec(),
    };
    let (offset, scale) = (list("offset", 0.0), list("scale", 1.0));
    let fits = offset.len() == scale.len() || offset.len() == 1 || scale.len() == 1;
    ensure!(fits, "it has {} offsets and {} scales", offset.len(), scale.len());
    Ok(OfRows::Scale { offset, scale })
}

fn normalizer(node: &NodeProto) -> TractResult<OfRows> {
    Ok(match Attributes(node).text("norm")? {
        None | Some("MAX") => OfRows::ByMax,
        Some("L1") => OfRows::ByL1,
        Some("L2") => OfRows::ByL2,
        Some(other) => bail!("it has a norm {other:.32}"),
    })
}

fn binarizer(node: &NodeProto) -> TractResult<OfRows> {
    Ok(OfRows::Above(Attributes(node).float("threshold").unwrap_or(0.0)))
}

impl OfRows {
    /// Columns of a row, if it says how many.
    fn columns(&self) -> Option<usize> {
        match self {
            Self::Scale { offset, scale } => {
                Some(offset.len().max(scale.len())).filter(|columns| *columns > 1)
            }
            _ => None,
        }
    }

    fn apply(&self, row: &mut [f32]) {
        let divisor = match self {
            Self::Scale { offset, scale } => {
                let (offset, scale) = (offset.iter().cycle(), scale.iter().cycle());
                row.iter_mut()
                    .zip(offset.zip(scale))
                    .for_each(|(x, (offset, scale))| *x = (*x - offset) * scale);
                return;
            }
            Self::Above(threshold) => {
                row.iter_mut().for_each(|x| *x = f32::from(u8::from(*x > *threshold)));
                return;
            }
            Self::ByMax => row.iter().copied().fold(f32::MIN, f32::max),
            Self::ByL1 => row.iter().map(|x| x.abs()).sum(),
            Self::ByL2 => row.iter().map(|x| x * x).sum::<f32>().sqrt(),
        };
        // A row of zeros stays one.
        if divisor != 0.0 {
            row.iter_mut().for_each(|x| *x /= divisor);
        }
    }
}

impl Operator for OfRows {
    fn name(&self) -> StaticName {
        match self {
            Self::Scale { .. } => "Scaler",
            Self::ByMax | Self::ByL1 | Self::ByL2 => "Normalizer",
            Self::Above(_) => "Binarizer",
        }
        .into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        input: &'p TensorProxy,
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.equals(&outputs[0].datum_type, f32::datum_type())?;
        solver.equals(&input.shape, &outputs[0].shape)
    }

    fn facts(&self, input: &TypedFact) -> TractResult<TVec<TypedFact>> {
        let width = input.shape.last().and_then(|width| width.to_usize().ok());
        if let (Some(columns), Some(width)) = (self.columns(), width) {
            ensure!(width == columns, "rows of {columns} numbers are expected");
        }
        Ok(tvec![f32::fact(input.shape.iter())])
    }

    fn run(&self, input: TValue) -> TractResult<TVec<TValue>> {
        let mut tensor = input.cast_to::<f32>()?.into_owned();
        let width = tensor.shape().last().copied().unwrap_or(1);
        if let Some(columns) = self.columns() {
            ensure!(width == columns, "rows of {columns} numbers are expected");
        }
        if width > 0 {
            let mut plain = tensor.try_as_plain_ram_mut()?;
            plain.as_slice_mut::<f32>()?.chunks_exact_mut(width).for_each(|row| self.apply(row));
        }
        Ok(tvec![tensor.into_tvalue()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{fault, floats, rows, run_node, text, values};

    fn normalised(norm: &str) -> Vec<f32> {
        let x = rows(3, &[1.0, -4.0, 2.0, 0.0, 0.0, 0.0, -1.0, -2.0, -4.0]);
        let outputs = run_node("Normalizer", &["y"], vec![text("norm", norm)], x).expect("it runs");
        values(&outputs[0])
    }

    #[test]
    fn rows_are_divided_by_their_norm() {
        assert_eq!(normalised("MAX"), [0.5, -2.0, 1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 4.0]);
        assert_eq!(normalised("L1")[..6], [1.0 / 7.0, -4.0 / 7.0, 2.0 / 7.0, 0.0, 0.0, 0.0]);
        let squares: f32 = normalised("L2")[6..].iter().map(|x| x * x).sum();
        assert!((squares - 1.0).abs() < 1e-6);
    }

    #[test]
    fn columns_are_scaled_each_by_its_own_or_all_alike() {
        let x = || tensor1(&[1i64, 2, 3, 4]).into_shape(&[2, 2]).expect("rows");
        let scale = |offset: &[f32], scale: &[f32]| {
            let lists = [("offset", offset), ("scale", scale)];
            let lists = lists.map(|(name, list)| floats(name, list.iter().copied()));
            run_node("Scaler", &["y"], lists.to_vec(), x()).map(|outputs| values::<f32>(&outputs[0]))
        };
        assert_eq!(scale(&[1.0, 2.0], &[0.5, 3.0]).expect("it runs"), [0.0, 0.0, 1.0, 6.0]);
        assert_eq!(scale(&[1.0], &[0.5, 2.0]).expect("it runs"), [0.0, 2.0, 1.0, 6.0]);
        assert_eq!(scale(&[1.0], &[]).expect("it runs"), [0.0, 1.0, 2.0, 3.0]);
        let refused = fault(scale(&[1.0, 2.0, 3.0], &[1.0]));
        assert!(refused.contains("rows of 3 numbers are expected"), "{refused}");
        let refused = fault(scale(&[1.0, 2.0, 3.0], &[1.0, 2.0]));
        assert!(refused.contains("it has 3 offsets and 2 scales"), "{refused}");
    }

    #[test]
    fn what_is_above_the_threshold_becomes_one() {
        let outputs = run_node("Binarizer", &["y"], vec![], rows(1, &[-1.0, 0.0, 0.5])).expect("it runs");
        assert_eq!(values::<f32>(&outputs[0]), [0.0, 0.0, 1.0]);
    }
}
