//! `LinearClassifier` and `LinearRegressor` of ai.onnx.ml 1. The engine's lack two of the transforms, and of two classes with
//! one score they make something else than ONNX Runtime does.

use tract_onnx::{Onnx, tract_hir::internal::*};

use crate::{
    attributes::{Attributes, Labels},
    operator::{Operator, op},
    transform::{Transform, logistic},
};

pub fn register(onnx: &mut Onnx) {
    onnx.op_register.insert("LinearClassifier", |_, node| op(classifier(Attributes(node))?));
    onnx.op_register.insert("LinearRegressor", |_, node| op(regressor(Attributes(node))?));
}

/// A product with a matrix, and what is made of it. Input: rows × columns, or columns alone for one row. Outputs: of a
/// classifier the labels, then rows × scores in FP32.
#[derive(Clone, Debug)]
struct Linear {
    /// Targets × columns.
    coefficients: Arc<[f32]>,
    /// One for each target.
    intercepts: Vec<f32>,
    columns: usize,
    transform: Transform,
    labels: Option<Labels>,
}

impl PartialEq for Linear {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.coefficients, &other.coefficients)
    }
}

impl Eq for Linear {}

fn classifier(attributes: Attributes<'_>) -> TractResult<Linear> {
    let labels = attributes.labels("classlabels_ints", "classlabels_strings")?;
    let targets = attributes.floats("intercepts").len();
    ensure!(
        targets == labels.len() || (targets == 1 && labels.len() == 2),
        "it has {targets} intercepts for {} labels",
        labels.len()
    );
    Ok(Linear { labels: Some(labels), ..Linear::new(attributes, targets)? })
}

fn regressor(attributes: Attributes<'_>) -> TractResult<Linear> {
    let targets = attributes.int("targets").unwrap_or(1);
    let intercepts = attributes.floats("intercepts").len();
    let fits = usize::try_from(targets).is_ok_and(|targets| intercepts == 0 || intercepts == targets);
    ensure!(fits, "it has {intercepts} intercepts for {targets} targets");
    let linear = Linear::new(attributes, usize::try_from(targets)?)?;
    Ok(Linear { transform: linear.transform.of_targets(linear.intercepts.len()), ..linear })
}

impl Linear {
    fn new(attributes: Attributes<'_>, targets: usize) -> TractResult<Self> {
        let coefficients = attributes.floats("coefficients");
        let fits = targets > 0 && !coefficients.is_empty() && coefficients.len().is_multiple_of(targets);
        ensure!(fits, "it has {} coefficients for {targets} scores", coefficients.len());
        let mut intercepts = attributes.floats("intercepts").to_vec();
        intercepts.resize(targets, 0.0);
        Ok(Self {
            coefficients: coefficients.into(),
            intercepts,
            columns: coefficients.len() / targets,
            transform: Transform::named(attributes.text("post_transform")?)?,
            labels: None,
        })
    }

    /// Scores of a row that are given out.
    fn width(&self) -> usize {
        self.labels.as_ref().map_or(self.intercepts.len(), Labels::len)
    }

    fn score(&self, row: &[f32], out: &mut [f32]) -> usize {
        let lines = self.coefficients.chunks_exact(self.columns).zip(&self.intercepts);
        for ((coefficients, intercept), out) in lines.zip(out.iter_mut()) {
            *out = dot(coefficients, row) + intercept;
        }
        if let ([score, second], 1) = (&mut *out, self.intercepts.len()) {
            let (class, positive) = (usize::from(*score > 0.0), *score);
            [*score, *second] = match self.transform {
                Transform::Logistic => [logistic(-positive), logistic(positive)],
                _ => [1.0 - positive, positive],
            };
            if self.transform == Transform::Probit {
                self.transform.apply(out);
            }
            return class;
        }
        let mut best = 0;
        for (class, score) in out.iter().enumerate() {
            if *score > out[best] {
                best = class;
            }
        }
        self.transform.apply(out);
        best
    }
}

/// The sum of the products, eight partial sums at a time.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0f32; 8];
    for (a, b) in a.iter().zip(b) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

impl Operator for Linear {
    fn name(&self) -> StaticName {
        if self.labels.is_some() { "LinearClassifier" } else { "LinearRegressor" }.into()
    }

    fn outputs(&self) -> usize {
        if self.labels.is_some() { 2 } else { 1 }
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        input: &'p TensorProxy,
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let scores = &outputs[outputs.len() - 1];
        solver.equals(&scores.datum_type, f32::datum_type())?;
        solver.equals(&scores.rank, 2)?;
        solver.equals(&scores.shape[1], self.width().to_dim())?;
        solver.given(&input.rank, move |solver, rank| {
            if rank == 1 {
                solver.equals(&scores.shape[0], 1.to_dim())
            } else {
                solver.equals(&input.rank, 2)?;
                solver.equals(&scores.shape[0], &input.shape[0])
            }
        })?;
        if let Some(labels) = &self.labels {
            solver.equals(&outputs[0].datum_type, labels.datum_type())?;
            solver.equals(&outputs[0].rank, 1)?;
            solver.equals(&outputs[0].shape[0], &scores.shape[0])?;
        }
        Ok(())
    }

    fn facts(&self, input: &TypedFact) -> TractResult<TVec<TypedFact>> {
        let columns = self.columns;
        let (count, width) = match input.shape.dims() {
            [width] => (1.to_dim(), width),
            [count, width] => (count.clone(), width),
            other => bail!("its input has {} dimensions, where rows of numbers are expected", other.len()),
        };
        ensure!(
            width.to_usize().map_or(true, |width| width == columns),
            "rows of {columns} numbers are expected"
        );
        let labels = self.labels.as_ref().map(|labels| labels.datum_type().fact([count.clone()]));
        let scores = f32::fact([count, self.width().to_dim()]);
        Ok(labels.into_iter().chain([scores]).collect())
    }

    fn run(&self, input: TValue) -> TractResult<TVec<TValue>> {
        let (columns, width) = (self.columns, self.width());
        ensure!(input.shape().last() == Some(&columns), "rows of {columns} numbers are expected");
        let count = input.len() / columns;
        let rows = input.cast_to::<f32>()?;
        let mut out = vec![0f32; count * width];
        let rows = rows.try_as_plain_ram()?.as_slice::<f32>()?.chunks_exact(columns);
        let classes: Vec<usize> =
            rows.zip(out.chunks_exact_mut(width)).map(|(row, out)| self.score(row, out)).collect();
        let scores = tensor1(&out).into_shape(&[count, width])?.into_tvalue();
        let labels = self.labels.as_ref().map(|labels| labels.of(classes.into_iter()).into_tvalue());
        Ok(labels.into_iter().chain([scores]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{fault, floats, int, ints, rows, run_node, text, texts, values};

    /// x[0] + 2 x[1] and 3 x[0], less 1 and 2; of the first only, if there are two labels for it.
    fn classify(targets: usize, transform: &str) -> (Vec<i64>, Vec<f32>) {
        let attributes = vec![
            floats("coefficients", [1.0, 2.0, 3.0, 0.0].into_iter().take(2 * targets)),
            floats("intercepts", [-1.0, -2.0].into_iter().take(targets)),
            ints("classlabels_ints", [7, 9]),
            text("post_transform", transform),
        ];
        let x = rows(2, &[1.0, 0.5, 2.0, 0.0]);
        let outputs = run_node("LinearClassifier", &["label", "scores"], attributes, x).expect("it runs");
        (values(&outputs[0]), values(&outputs[1]))
    }

    #[test]
    fn scores_are_products_and_the_highest_has_the_label() {
        assert_eq!(classify(2, "NONE"), (vec![7, 9], vec![1.0, 1.0, 1.0, 4.0]));
        assert_eq!(classify(2, "SOFTMAX").1[..2], [0.5, 0.5]);
        let (labels, scores) = classify(2, "LOGISTIC");
        assert_eq!(labels, [7, 9]);
        assert!((scores[3] - 0.982_014).abs() < 1e-6);
    }

    #[test]
    fn one_score_for_two_labels_is_that_of_the_second() {
        assert_eq!(classify(1, "NONE"), (vec![9, 9], vec![0.0, 1.0, 0.0, 1.0]));
        let (_, scores) = classify(1, "LOGISTIC");
        assert!((scores[0] - 0.268_941).abs() < 1e-6 && (scores[1] - 0.731_059).abs() < 1e-6);
    }

    #[test]
    fn a_regressor_has_targets_and_no_labels() {
        let attributes = |targets| {
            vec![
                int("targets", targets),
                floats("coefficients", (1u8..=18).map(f32::from).collect::<Vec<_>>()),
            ]
        };
        let ones = || rows(2, &[1.0; 36]);
        let outputs = run_node("LinearRegressor", &["y"], attributes(1), ones()).expect("it runs");
        assert_eq!(values::<f32>(&outputs[0]), [171.0, 171.0]);
        let halves = rows(2, &[0.5; 18]);
        let outputs = run_node("LinearRegressor", &["y"], attributes(2), halves).expect("it runs");
        assert_eq!(values::<f32>(&outputs[0]), [22.5, 63.0, 22.5, 63.0]);
        // A single row without the dimension of rows.
        let outputs =
            run_node("LinearRegressor", &["y"], attributes(1), tensor1(&[1f32; 18])).expect("it runs");
        assert_eq!((outputs[0].shape(), values::<f32>(&outputs[0])), (&[1, 1][..], vec![171.0]));
        let refused = fault(run_node("LinearRegressor", &["y"], attributes(1), rows(1, &[1.0; 17])));
        assert!(refused.contains("rows of 18 numbers are expected"), "{refused}");
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        let refusal = |attributes| {
            fault(run_node("LinearClassifier", &["label", "scores"], attributes, rows(1, &[1.0])))
        };
        let labels = || texts("classlabels_strings", ["a", "b", "c"]);
        let given = refusal(vec![labels(), floats("intercepts", [1.0]), floats("coefficients", [1.0])]);
        assert!(given.contains("it has 1 intercepts for 3 labels"), "{given}");
        let given = refusal(vec![labels(), floats("intercepts", [1.0; 3]), floats("coefficients", [1.0; 4])]);
        assert!(given.contains("it has 4 coefficients for 3 scores"), "{given}");
    }
}
