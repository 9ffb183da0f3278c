//! Building a signature.

use crate::{Datatype, Signature, TensorSpec};

impl Signature {
    /// A signature without tensors, to which [`Signature::input`] and [`Signature::output`] add.
    #[must_use]
    pub fn new() -> Self {
        Self { inputs: Vec::new(), outputs: Vec::new() }
    }

    /// Adds an input; -1 in the shape is a dimension that varies from request to request.
    #[must_use]
    pub fn input(mut self, name: &str, datatype: Datatype, shape: &[i64]) -> Self {
        self.inputs.push(TensorSpec { name: name.into(), datatype, shape: shape.into() });
        self
    }

    /// Adds an output; -1 in the shape is a dimension that varies from answer to answer.
    #[must_use]
    pub fn output(mut self, name: &str, datatype: Datatype, shape: &[i64]) -> Self {
        self.outputs.push(TensorSpec { name: name.into(), datatype, shape: shape.into() });
        self
    }
}

impl Default for Signature {
    fn default() -> Self {
        Self::new()
    }
}
