use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// What runs an ONNX model, where it runs natively. In the sandbox it is always tract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnnxEngine {
    #[default]
    Tract,
    /// The library that the operator named, always in a worker process.
    OnnxRuntime,
    /// Whichever answers faster, as is measured when the model is loaded.
    Fastest,
}

impl FromStr for OnnxEngine {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tract" => Ok(Self::Tract),
            "onnxruntime" => Ok(Self::OnnxRuntime),
            "fastest" => Ok(Self::Fastest),
            _ => Err("write tract, onnxruntime or fastest"),
        }
    }
}

impl<'de> Deserialize<'de> for OnnxEngine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|reason| de::Error::custom(format_args!("onnx_engine: {reason}")))
    }
}
