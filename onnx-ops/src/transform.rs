//! What ai.onnx.ml's models make of their scores before they give them out.

use tract_onnx::tract_hir::internal::*;

/// The attribute `post_transform`. Formulas are those of ONNX Runtime, by which models are judged: the specification has
/// only their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transform {
    #[default]
    None,
    Softmax,
    Logistic,
    /// Softmax that leaves scores of zero at zero.
    SoftmaxZero,
    Probit,
}

impl Transform {
    pub fn named(name: Option<&str>) -> TractResult<Self> {
        Ok(match name {
            None | Some("NONE") => Self::None,
            Some("SOFTMAX") => Self::Softmax,
            Some("LOGISTIC") => Self::Logistic,
            Some("SOFTMAX_ZERO") => Self::SoftmaxZero,
            Some("PROBIT") => Self::Probit,
            Some(other) => bail!("it has a post_transform {other:.32}"),
        })
    }

    /// What is done to the targets of a regressor: of a single one ONNX Runtime transforms nothing but by probit.
    pub fn of_targets(self, targets: usize) -> Self {
        if targets == 1 && self != Self::Probit { Self::None } else { self }
    }

    /// Transforms the scores of one row.
    pub fn apply(self, scores: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Softmax => softmax(scores, |_| true),
            Self::SoftmaxZero => softmax(scores, |score| score.abs() > 1e-7),
            Self::Logistic => scores.iter_mut().for_each(|score| *score = logistic(*score)),
            Self::Probit => scores.iter_mut().for_each(|score| *score = probit(*score)),
        }
    }
}

/// Softmax over the scores that count; others become next to nothing.
fn softmax(scores: &mut [f32], counts: impl Fn(f32) -> bool) {
    let most = scores.iter().copied().fold(f32::MIN, f32::max);
    for score in scores.iter_mut() {
        *score = if counts(*score) { (*score - most).exp() } else { *score * (-most).exp() };
    }
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
}

pub fn logistic(score: f32) -> f32 {
    let positive = 1.0 / (1.0 + (-score.abs()).exp());
    if score < 0.0 { 1.0 - positive } else { positive }
}

/// The inverse of the normal distribution, by S. Winitzki's approximation of the inverse error function (2008, a = 0.147),
/// whose error is some thousandths.
pub fn probit(score: f32) -> f32 {
    const A: f32 = 0.147;
    let x = 2.0 * score - 1.0;
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let half = 2.0 / (std::f32::consts::PI * A) + 0.5 * log;
    let root = (-half + (half * half - log / A).sqrt()).sqrt();
    std::f32::consts::SQRT_2 * if x < 0.0 { -root } else { root }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(transform: &str, scores: &[f32]) -> Vec<f32> {
        let mut scores = scores.to_vec();
        Transform::named(Some(transform)).expect("it is known").apply(&mut scores);
        scores
    }

    fn assert_close(given: &[f32], expected: &[f32], tolerance: f32) {
        let close = given.iter().zip(expected).all(|(a, b)| (a - b).abs() <= tolerance);
        assert!(given.len() == expected.len() && close, "{given:?} is not {expected:?}");
    }

    #[test]
    fn scores_become_what_the_transform_says() {
        assert_eq!(applied("NONE", &[3.0, -1.0]), [3.0, -1.0]);
        assert_close(&applied("LOGISTIC", &[0.0, 2.0, -2.0]), &[0.5, 0.880_797, 0.119_203], 1e-6);
        assert_close(&applied("SOFTMAX", &[0.0, 2f32.ln(), 5f32.ln()]), &[0.125, 0.25, 0.625], 1e-6);
        // Far from zero, where a naive exponential overflows.
        assert_close(&applied("SOFTMAX", &[1000.0, 1000.0]), &[0.5, 0.5], 1e-6);
        assert_close(&applied("SOFTMAX_ZERO", &[0.0, 2f32.ln(), 2f32.ln()]), &[0.0, 0.5, 0.5], 1e-6);
        // Quantiles of the normal distribution, as near as the approximation comes.
        assert_close(&applied("PROBIT", &[0.5, 0.841_345, 0.158_655]), &[0.0, 1.0, -1.0], 5e-3);
        assert!(Transform::named(Some("TANH")).is_err());
    }
}
