//! Classifies iris flowers with the weights of a scikit-learn `LogisticRegression`, read from `weights.json`.
//!
//! `FEATURES`, FP32 `[-1,4]`: the length and width of sepal and petal in cm. `LABEL`, BYTES `[-1]`, is the species
//! and `PROBABILITIES`, FP32 `[-1,3]`, what `predict_proba` answers.

use airlock_guest::{kernels, prelude::*};
use serde::Deserialize;

const FEATURES: usize = 4;
const CLASSES: usize = 3;

/// What the training script writes.
#[derive(Deserialize)]
struct Trained {
    classes: [String; CLASSES],
    coefficients: [[f32; FEATURES]; CLASSES],
    intercepts: [f32; CLASSES],
}

struct Iris {
    classes: [String; CLASSES],
    /// `[FEATURES,CLASSES]`, as the product wants them.
    weights: Vec<f32>,
    intercepts: [f32; CLASSES],
}

impl Plugin for Iris {
    fn load(_: Config, files: Files) -> Result<Self> {
        let Trained { classes, coefficients, intercepts } =
            serde_json::from_str(files.text("weights.json")?)?;
        airlock_guest::info!("the classes are {}", classes.join(", "));
        let weights =
            (0..FEATURES).flat_map(|feature| coefficients.map(|of_class| of_class[feature])).collect();
        Ok(Self { classes, weights, intercepts })
    }

    fn signature(&self) -> Signature {
        Signature::new()
            .input("FEATURES", Datatype::Fp32, &[-1, FEATURES as i64])
            .output("LABEL", Datatype::Bytes, &[-1])
            .output("PROBABILITIES", Datatype::Fp32, &[-1, CLASSES as i64])
    }

    fn infer(&self, request: Request) -> Result<Response> {
        let features = request.input("FEATURES")?.as_slice()?;
        let count = features.len() / FEATURES;
        let mut output = Tensor::zeroed::<f32>("PROBABILITIES", &[count as u64, CLASSES as u64])?;
        let probabilities = output.as_mut_slice()?;
        let shape = [count, FEATURES, CLASSES];
        kernels::matmul(features, &self.weights, Some(&self.intercepts), shape, probabilities)?;
        kernels::softmax(probabilities, CLASSES)?;

        let labels: Vec<&String> = probabilities
            .chunks_exact(CLASSES)
            .map(|of| (0..CLASSES).fold(0, |best, class| if of[class] > of[best] { class } else { best }))
            .map(|best| &self.classes[best])
            .collect();
        Ok(Response::new([Tensor::from_strings("LABEL", &[count as u64], &labels)?, output]))
    }
}

airlock_guest::export!(Iris);
