use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// Where an ONNX model runs. A wasm model always runs in its sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// In the gateway's own process: for models of the operator's own.
    #[default]
    None,
    /// In worker processes of its own.
    Process,
    /// In the wasm sandbox, by the gateway's own plugin for ONNX models.
    Sandbox,
}

impl FromStr for Isolation {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "process" => Ok(Self::Process),
            "sandbox" => Ok(Self::Sandbox),
            _ => Err("write process, sandbox or none"),
        }
    }
}

impl<'de> Deserialize<'de> for Isolation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|reason| de::Error::custom(format_args!("onnx_isolation: {reason}")))
    }
}
