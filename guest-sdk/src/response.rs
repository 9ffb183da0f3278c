//! Building a response.

use crate::{Parameter, Response, Tensor};

impl Response {
    /// A response of these outputs.
    pub fn new(outputs: impl IntoIterator<Item = Tensor>) -> Self {
        Self { parameters: Vec::new(), outputs: outputs.into_iter().collect() }
    }

    /// What `infer` returns if [`responses::emit`](crate::responses::emit) has given all there is.
    #[must_use]
    pub fn none() -> Self {
        Self::new([])
    }

    /// Adds a parameter to the response.
    #[must_use]
    pub fn with_parameter(mut self, name: impl Into<String>, value: impl Into<Parameter>) -> Self {
        self.parameters.push((name.into(), value.into()));
        self
    }
}

/// A response of one output.
impl From<Tensor> for Response {
    fn from(output: Tensor) -> Self {
        Self::new([output])
    }
}

impl From<bool> for Parameter {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<i64> for Parameter {
    fn from(value: i64) -> Self {
        Self::Int64(value)
    }
}

impl From<u64> for Parameter {
    fn from(value: u64) -> Self {
        Self::Uint64(value)
    }
}

impl From<f64> for Parameter {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

impl From<&str> for Parameter {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}
