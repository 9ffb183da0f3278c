//! Other models of the same gateway.

use crate::{Error, Result, Tensor};

/// Calls another model (its default version if none is named) and waits for its outputs. The name resolves where this
/// model lives, then among the shared models. The deadline is the request's own, and calls nest at most four deep.
///
/// # Errors
/// What the other model answers: an [`Error::InvalidInput`] that is passed on with `?` becomes this model's own.
pub fn infer(model: &str, version: Option<&str>, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::airlock::inference::models::infer(model, version, inputs)
        .map_err(Error::from_wit);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = (version, inputs);
        Err(Error::failed(format_args!("outside the gateway there is no model '{model}' to call")))
    }
}

/// The output of that name.
///
/// # Errors
/// If the other model gave none.
pub fn output(outputs: Vec<Tensor>, name: &str) -> Result<Tensor> {
    outputs
        .into_iter()
        .find(|output| output.name == name)
        .ok_or_else(|| Error::failed(format_args!("the called model gave no output '{name}'")))
}
