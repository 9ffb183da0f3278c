//! From the scores of a row to its class and its probabilities.

use crate::{
    attributes::Labels,
    transform::{Transform, logistic},
};

use super::forest::Number;

/// What a classifier makes of scores.
#[derive(Clone, Debug, PartialEq)]
pub struct Classes {
    pub labels: Labels,
    pub single: Option<Single>,
}

/// Two classes of which the leaves name but one. The specification does not say what that means; here it means what it does
/// to ONNX Runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Single {
    /// The one that the leaves name. Scores of the first are those of the second all the same, and the first gets their
    /// counterpart; scores of the second are its own, and the first has none.
    pub named: usize,
    /// No weight is below zero: what is summed is a probability. Otherwise it is a score around zero.
    pub probabilities: bool,
}

impl Classes {
    /// The class of a row, and the probabilities of all into `out`. A class of which `given` is false has no score.
    ///
    /// Where the leaves name both of two classes this is not what ONNX Runtime gives: that answers 1 wherever the second
    /// score is above zero, even where the other is higher or the labels are others.
    pub fn decide<T: Number>(
        &self,
        scores: &mut [T],
        given: &mut [bool],
        base: &[f64],
        transform: Transform,
        out: &mut [f32],
    ) -> usize {
        if let Some(single) = self.single {
            let base = base.first().map_or_else(T::default, |base| T::from_f64(*base));
            return single.decide(scores[single.named].plus(base), transform, out);
        }
        for ((score, given), base) in scores.iter_mut().zip(given.iter_mut()).zip(base) {
            *score = score.plus(T::from_f64(*base));
            *given = true;
        }
        let mut best: Option<usize> = None;
        for (class, given) in given.iter().enumerate() {
            if *given && best.is_none_or(|best| scores[class] > scores[best]) {
                best = Some(class);
            }
        }
        for (out, score) in out.iter_mut().zip(scores) {
            *out = score.to_f32();
        }
        transform.apply(out);
        best.unwrap_or(0)
    }
}

impl Single {
    fn decide<T: Number>(self, score: T, transform: Transform, out: &mut [f32]) -> usize {
        let limit = if self.probabilities { 0.5 } else { 0.0 };
        let class = usize::from(score.to_f64() > limit);
        let score = score.to_f32();
        let mut both = match transform {
            _ if self.named == 1 => [0.0, score],
            Transform::Logistic => [logistic(-score), logistic(score)],
            _ if self.probabilities || transform == Transform::Probit => [1.0 - score, score],
            _ => [-score, score],
        };
        if self.named == 1 || transform == Transform::Probit {
            transform.apply(&mut both);
        }
        out.copy_from_slice(&both);
        class
    }
}
