//! Classifies iris flowers with the weights of a scikit-learn `LogisticRegression`, read from `weights.json`.
//!
//! `FEATURES`, FP32 `[-1,4]`: the length and width of sepal and petal in cm. `LABEL`, BYTES `[-1]`, is the species
//! and `PROBABILITIES`, FP32 `[-1,3]`, what `predict_proba` answers.

use airlock_guest::prelude::*;
use serde::Deserialize;

const FEATURES: usize = 4;
const CLASSES: usize = 3;

/// What the training script writes.
#[derive(Deserialize)]
struct Iris {
    classes: [String; CLASSES],
    coefficients: [[f64; FEATURES]; CLASSES],
    intercepts: [f64; CLASSES],
}

impl Plugin for Iris {
    fn load(_: Config, files: Files) -> Result<Self> {
        let iris: Self = serde_json::from_str(files.text("weights.json")?)?;
        airlock_guest::info!("the classes are {}", iris.classes.join(", "));
        Ok(iris)
    }

    fn signature(&self) -> Signature {
        Signature::new()
            .input("FEATURES", Datatype::Fp32, &[-1, FEATURES as i64])
            .output("LABEL", Datatype::Bytes, &[-1])
            .output("PROBABILITIES", Datatype::Fp32, &[-1, CLASSES as i64])
    }

    fn infer(&self, request: Request) -> Result<Response> {
        let flowers = request.input("FEATURES")?.as_slice::<f32>()?.as_chunks::<FEATURES>().0;
        let mut labels = Vec::with_capacity(flowers.len());
        let mut probabilities = Vec::with_capacity(flowers.len() * CLASSES);
        for flower in flowers {
            let of_flower = self.probabilities(flower);
            let best = (0..CLASSES)
                .fold(0, |best, class| if of_flower[class] > of_flower[best] { class } else { best });
            labels.push(&self.classes[best]);
            probabilities.extend(of_flower.map(|probability| probability as f32));
        }
        let count = flowers.len() as u64;
        Ok(Response::new([
            Tensor::from_strings("LABEL", &[count], &labels)?,
            Tensor::from_slice("PROBABILITIES", &[count, CLASSES as u64], &probabilities)?,
        ]))
    }
}

impl Iris {
    /// The softmax of the linear scores.
    fn probabilities(&self, flower: &[f32; FEATURES]) -> [f64; CLASSES] {
        let scores: [f64; CLASSES] = std::array::from_fn(|class| {
            let products =
                self.coefficients[class].iter().zip(flower).map(|(weight, value)| weight * f64::from(*value));
            products.sum::<f64>() + self.intercepts[class]
        });
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let powers = scores.map(|score| (score - largest).exp());
        let sum: f64 = powers.iter().sum();
        powers.map(|power| power / sum)
    }
}

airlock_guest::export!(Iris);
