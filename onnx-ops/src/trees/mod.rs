//! Ensembles of decision trees: `TreeEnsembleClassifier` and `TreeEnsembleRegressor` of ai.onnx.ml 1 and 3, `TreeEnsemble`
//! of ai.onnx.ml 5.
//!
//! The engine's own classifier takes time that grows with the square of the leaves, and has no regressor.

mod classes;
mod forest;
mod parse;
mod walk;

use tract_onnx::{Onnx, tract_hir::internal::*};

use crate::{
    attributes::Attributes,
    operator::{Operator, op},
    transform::Transform,
};

use self::{
    classes::{Classes, Single},
    forest::{Forest, Number},
    parse::{Aggregate, Ensemble, MAX_TARGETS},
    walk::Scores,
};

pub fn register(onnx: &mut Onnx) {
    onnx.op_register.insert("TreeEnsembleClassifier", |_, node| op(classifier(Attributes(node))?));
    onnx.op_register.insert("TreeEnsembleRegressor", |_, node| op(regressor(Attributes(node))?));
    onnx.op_register.insert("TreeEnsemble", |_, node| op(ensemble(Attributes(node))?));
}

/// A forest and what is made of its scores. Input: rows × features. Outputs: of a classifier the labels and rows × classes
/// in FP32, else rows × targets.
#[derive(Clone, Debug)]
struct Trees {
    forest: AnyForest,
    aggregate: Aggregate,
    /// Added to the scores, if there are any: one for each target, or one for the single score of two classes.
    base: Vec<f64>,
    transform: Transform,
    classes: Option<Classes>,
    /// Whether the scores have the input's type, not FP32.
    as_input: bool,
}

#[derive(Clone, Debug)]
enum AnyForest {
    Single(Arc<Forest<f32>>),
    Double(Arc<Forest<f64>>),
}

impl AnyForest {
    fn new(ensemble: &Ensemble) -> TractResult<Self> {
        Ok(if ensemble.is_single() {
            Self::Single(Arc::new(Forest::new(ensemble)?))
        } else {
            Self::Double(Arc::new(Forest::new(ensemble)?))
        })
    }

    fn targets(&self) -> usize {
        match self {
            Self::Single(forest) => forest.leaves.targets,
            Self::Double(forest) => forest.leaves.targets,
        }
    }

    fn features(&self) -> usize {
        match self {
            Self::Single(forest) => forest.features,
            Self::Double(forest) => forest.features,
        }
    }
}

impl PartialEq for AnyForest {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Single(a), Self::Single(b)) => Arc::ptr_eq(a, b),
            (Self::Double(a), Self::Double(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl PartialEq for Trees {
    fn eq(&self, other: &Self) -> bool {
        self.forest == other.forest
            && (self.aggregate, self.transform, self.as_input)
                == (other.aggregate, other.transform, other.as_input)
            && self.base.iter().map(|base| base.to_bits()).eq(other.base.iter().map(|base| base.to_bits()))
            && self.classes == other.classes
    }
}

impl Eq for Trees {}

fn classifier(attributes: Attributes<'_>) -> TractResult<Trees> {
    let labels = attributes.labels("classlabels_int64s", "classlabels_strings")?;
    let ensemble = Ensemble::by_ids(attributes, "class", labels.len())?;
    let named = ensemble.ids.first().map(|named| *named as usize);
    let named = named.filter(|named| ensemble.ids.iter().all(|id| *id as usize == *named));
    let single = named
        .filter(|_| labels.len() == 2)
        .map(|named| Single { named, probabilities: ensemble.weights.iter().all(|weight| *weight >= 0.0) });
    let base = base_values(attributes, single.map_or(labels.len(), |single| 1 - single.named))?;
    Ok(Trees {
        forest: AnyForest::new(&ensemble)?,
        aggregate: Aggregate::Sum,
        base,
        transform: Transform::named(attributes.text("post_transform")?)?,
        classes: Some(Classes { labels, single }),
        as_input: false,
    })
}

fn regressor(attributes: Attributes<'_>) -> TractResult<Trees> {
    let targets = targets(attributes)?;
    let ensemble = Ensemble::by_ids(attributes, "target", targets)?;
    Ok(Trees {
        forest: AnyForest::new(&ensemble)?,
        aggregate: match attributes.text("aggregate_function")? {
            None | Some("SUM") => Aggregate::Sum,
            Some("AVERAGE") => Aggregate::Average,
            Some("MIN") => Aggregate::Min,
            Some("MAX") => Aggregate::Max,
            Some(other) => bail!("it has an aggregate_function {other:.32}"),
        },
        base: base_values(attributes, targets)?,
        transform: Transform::named(attributes.text("post_transform")?)?.of_targets(targets),
        classes: None,
        as_input: false,
    })
}

fn ensemble(attributes: Attributes<'_>) -> TractResult<Trees> {
    let targets = targets(attributes)?;
    let ensemble = Ensemble::by_places(attributes, targets)?;
    Ok(Trees {
        forest: AnyForest::new(&ensemble)?,
        aggregate: match attributes.int("aggregate_function") {
            Some(0) => Aggregate::Average,
            None | Some(1) => Aggregate::Sum,
            Some(2) => Aggregate::Min,
            Some(3) => Aggregate::Max,
            Some(other) => bail!("it has an aggregate_function {other}"),
        },
        base: Vec::new(),
        transform: match attributes.int("post_transform") {
            None | Some(0) => Transform::None,
            Some(1) => Transform::Softmax,
            Some(2) => Transform::Logistic,
            Some(3) => Transform::SoftmaxZero,
            Some(4) => Transform::Probit,
            Some(other) => bail!("it has a post_transform {other}"),
        }
        .of_targets(targets),
        classes: None,
        as_input: true,
    })
}

fn targets(attributes: Attributes<'_>) -> TractResult<usize> {
    let given = attributes.int("n_targets").unwrap_or(1);
    let targets = usize::try_from(given).ok().filter(|targets| (1..=MAX_TARGETS).contains(targets));
    targets.with_context(|| format!("it has {given} targets, where 1 to {MAX_TARGETS} can be"))
}

/// The values to add to the scores, `count` of them or none.
fn base_values(attributes: Attributes<'_>, count: usize) -> TractResult<Vec<f64>> {
    let given = match attributes.tensor("base_values_as_tensor") {
        Some(tensor) => parse::tensor_numbers(tensor)?,
        None => attributes.floats("base_values").iter().copied().map(f64::from).collect(),
    };
    let fits = given.is_empty() || given.len() == count;
    ensure!(fits, "it has {} base_values where {count} can be", given.len());
    Ok(given)
}

impl Trees {
    /// The type of the scores for an input of a type.
    fn score_type(&self, input: DatumType) -> DatumType {
        if self.as_input && input.is_float() { input } else { f32::datum_type() }
    }

    fn label_type(&self) -> Option<DatumType> {
        self.classes.as_ref().map(|classes| classes.labels.datum_type())
    }

    fn run_forest<T: Number + Datum>(&self, forest: &Forest<T>, input: &Tensor) -> TractResult<TVec<TValue>> {
        let &[count, width] = input.shape() else { bail!("rows of features are expected") };
        let features = forest.features;
        ensure!(width >= features, "a row has {width} features, the trees look at {features}");
        let rows = input.cast_to::<T>()?;
        let rows = rows.try_as_plain_ram()?;
        let Scores { mut values, mut given } =
            forest.score(rows.as_slice::<T>()?, [count, width], self.aggregate);
        let targets = forest.leaves.targets;
        if let Some(classes) = &self.classes {
            let mut out = vec![0f32; count * targets];
            let rows = values.chunks_exact_mut(targets).zip(given.chunks_exact_mut(targets));
            let rows = rows.zip(out.chunks_exact_mut(targets));
            let decided = rows
                .map(|((values, given), out)| classes.decide(values, given, &self.base, self.transform, out));
            let labels = classes.labels.of(decided);
            let scores = tensor1(&out).into_shape(&[count, targets])?;
            return Ok(tvec![labels.into_tvalue(), scores.into_tvalue()]);
        }
        for (row, given) in values.chunks_exact_mut(targets).zip(given.chunks_exact(targets)) {
            self.finish(row, given, forest.roots.len());
        }
        let scores = tensor1(&values).into_shape(&[count, targets])?;
        Ok(tvec![scores.cast_to_dt(self.score_type(input.datum_type()))?.into_owned().into_tvalue()])
    }

    /// The targets of a row from the sums over `trees` trees. As in ONNX Runtime, one of several that no leaf names stays 0.
    fn finish<T: Number>(&self, row: &mut [T], given: &[bool], trees: usize) {
        let single = row.len() == 1;
        if self.aggregate == Aggregate::Average {
            #[expect(clippy::cast_precision_loss, reason = "trees are fewer than 2^53")]
            let trees = trees as f64;
            row.iter_mut().for_each(|value| *value = T::from_f64(value.to_f64() / trees));
        }
        for ((value, base), given) in row.iter_mut().zip(&self.base).zip(given) {
            if *given || single {
                *value = value.plus(T::from_f64(*base));
            }
        }
        if self.transform != Transform::None {
            let mut scores: Vec<f32> = row.iter().map(|value| value.to_f32()).collect();
            self.transform.apply(&mut scores);
            row.iter_mut().zip(scores).for_each(|(value, score)| *value = T::from_f64(score.into()));
        }
    }
}

impl Operator for Trees {
    fn name(&self) -> StaticName {
        if self.classes.is_some() { "TreeEnsembleClassifier" } else { "TreeEnsembleRegressor" }.into()
    }

    fn outputs(&self) -> usize {
        if self.classes.is_some() { 2 } else { 1 }
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        input: &'p TensorProxy,
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let scores = &outputs[outputs.len() - 1];
        solver.equals(&input.rank, 2)?;
        solver.equals(&scores.rank, 2)?;
        solver.equals(&scores.shape[0], &input.shape[0])?;
        solver.equals(&scores.shape[1], self.forest.targets().to_dim())?;
        solver.given(&input.datum_type, |solver, input| {
            solver.equals(&scores.datum_type, self.score_type(input))
        })?;
        if let Some(labels) = self.label_type() {
            solver.equals(&outputs[0].datum_type, labels)?;
            solver.equals(&outputs[0].rank, 1)?;
            solver.equals(&outputs[0].shape[0], &input.shape[0])?;
        }
        Ok(())
    }

    /// For an input of a type: FP64 is compared as what it is.
    fn for_input(&self, input: DatumType) -> Self {
        let forest = match &self.forest {
            AnyForest::Single(forest) if input == f64::datum_type() => {
                AnyForest::Double(Arc::new(forest.widened()))
            }
            forest => forest.clone(),
        };
        Self { forest, ..self.clone() }
    }

    fn facts(&self, input: &TypedFact) -> TractResult<TVec<TypedFact>> {
        ensure!(
            input.rank() == 2,
            "its input has {} dimensions, where rows of features are expected",
            input.rank()
        );
        let (count, features) = (input.shape[0].clone(), self.forest.features());
        if let Ok(width) = input.shape[1].to_usize() {
            ensure!(width >= features, "a row has {width} features, the trees look at {features}");
        }
        let labels = self.label_type().map(|of| of.fact([count.clone()]));
        let scores = self.score_type(input.datum_type).fact([count, self.forest.targets().to_dim()]);
        Ok(labels.into_iter().chain([scores]).collect())
    }

    fn run(&self, input: TValue) -> TractResult<TVec<TValue>> {
        match &self.forest {
            AnyForest::Single(forest) => self.run_forest(forest, &input),
            AnyForest::Double(forest) => self.run_forest(forest, &input),
        }
    }
}

#[cfg(test)]
mod tests;
