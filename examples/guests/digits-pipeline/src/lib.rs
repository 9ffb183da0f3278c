//! Reads handwritten digits: pre-processing here, the convolutional net as a native model, post-processing here.
//!
//! `IMAGE`, BYTES `[-1]`: each element is either 64 bytes, the samples of an 8 by 8 image, or a PNG or JPEG of any
//! size; both with a light digit on a dark ground. `LABEL`, INT64 `[-1]`, is the digit and `PROBABILITY`,
//! FP32 `[-1]`, how sure the net is. Configuration: `model`, the net to call (`digits`).

use airlock_guest::prelude::*;
use pixels::Interpolation;

const SIDE: usize = 8;
const SAMPLES: usize = SIDE * SIDE;
const CLASSES: usize = 10;

struct Pipeline {
    model: String,
}

impl Plugin for Pipeline {
    fn load(config: Config, _: Files) -> Result<Self> {
        Ok(Self { model: config.get("model").unwrap_or("digits").into() })
    }

    fn signature(&self) -> Signature {
        Signature::new()
            .input("IMAGE", Datatype::Bytes, &[-1])
            .output("LABEL", Datatype::Int64, &[-1])
            .output("PROBABILITY", Datatype::Fp32, &[-1])
    }

    fn infer(&self, request: Request) -> Result<Response> {
        let images = request.input("IMAGE")?.byte_strings()?;
        let count = images.len() as u64;
        let mut input = Tensor::zeroed::<f32>("IMAGE", &[count, 1, SIDE as u64, SIDE as u64])?;
        for (index, (image, net)) in
            images.iter().zip(input.as_mut_slice()?.chunks_exact_mut(SAMPLES)).enumerate()
        {
            let samples = samples(image)
                .map_err(|error| Error::invalid_input(format_args!("element {index} of IMAGE: {error}")))?;
            for (value, sample) in net.iter_mut().zip(samples) {
                *value = f32::from(sample) / 255.0;
            }
        }

        let logits = models::output(models::infer(&self.model, None, &[input])?, "LOGITS")?;

        let best = logits.as_slice::<f32>()?.chunks_exact(CLASSES).map(most_probable);
        let (labels, probabilities): (Vec<i64>, Vec<f32>) = best.unzip();
        Ok(Response::new([
            Tensor::from_slice("LABEL", &[count], &labels)?,
            Tensor::from_slice("PROBABILITY", &[count], &probabilities)?,
        ]))
    }
}

/// The samples of an 8 by 8 image.
fn samples(image: &[u8]) -> Result<[u8; SAMPLES], pixels::DecodeError> {
    if let Ok(raw) = image.try_into() {
        return Ok(raw);
    }
    let gray = pixels::decode(image)?.to_gray().resize(SIDE, SIDE, Interpolation::Box);
    Ok(std::array::from_fn(|at| gray.pixels[at][0]))
}

/// The class of the largest logit, and its softmax.
fn most_probable(logits: &[f32]) -> (i64, f32) {
    let mut best = 0;
    for (class, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = class;
        }
    }
    let sum: f32 = logits.iter().map(|logit| (logit - logits[best]).exp()).sum();
    (best as i64, 1.0 / sum)
}

airlock_guest::export!(Pipeline);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_logit_wins_with_its_softmax() {
        assert_eq!(most_probable(&[0.0; 10]), (0, 0.1));
        let (label, probability) = most_probable(&[1.0, 5.0, 1.0]);
        assert_eq!(label, 1);
        assert!((probability - 0.964_663).abs() < 1e-6, "{probability}");
    }

    #[test]
    fn sixty_four_bytes_are_the_samples_themselves() {
        assert_eq!(samples(&[7; 64]), Ok([7; 64]));
        assert!(samples(&[7; 63]).is_err());
    }
}
