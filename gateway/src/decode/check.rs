//! The names, datatypes and shapes of a request against the model's signature.

use crate::tensor::{Shape, Signature, Tensor, TensorSpec};

use super::error::{DecodeError, shown};

/// Checks that `inputs` are exactly the signature's inputs, each once and with an admitted datatype and shape, and
/// that each name in `outputs` is one of its outputs, asked for once. The bytes of the tensors are not looked at.
pub fn check(signature: &Signature, inputs: &[Tensor], outputs: &[String]) -> Result<(), DecodeError> {
    for (position, input) in inputs.iter().enumerate() {
        let Some(spec) = signature.inputs.iter().find(|spec| spec.name == input.name) else {
            let reason = format!("the model has no such input, it takes {}", names(&signature.inputs));
            return Err(DecodeError::input(&input.name, reason));
        };
        if inputs[..position].iter().any(|earlier| earlier.name == input.name) {
            return Err(DecodeError::input(&input.name, "is given twice"));
        }
        check_input(spec, input)?;
    }
    if let Some(missing) =
        signature.inputs.iter().find(|spec| inputs.iter().all(|input| input.name != spec.name))
    {
        let reason = format!("is missing, expected {} of shape {}", missing.datatype, missing.shape);
        return Err(DecodeError::input(&missing.name, reason));
    }
    for (position, output) in outputs.iter().enumerate() {
        if signature.outputs.iter().all(|spec| spec.name != *output) {
            let reason = format!("the model has no such output, it gives {}", names(&signature.outputs));
            return Err(DecodeError::output(output, reason));
        }
        if outputs[..position].contains(output) {
            return Err(DecodeError::output(output, "is asked for twice"));
        }
    }
    Ok(())
}

fn check_input(spec: &TensorSpec, input: &Tensor) -> Result<(), DecodeError> {
    if spec.datatype != input.datatype {
        let reason = format!("datatype is {}, the model expects {}", input.datatype, spec.datatype);
        return Err(DecodeError::input(&input.name, reason));
    }
    if !spec.admits(&input.shape) {
        let given = Shape::from(input.shape.as_slice());
        let reason = format!("shape is {given}, the model expects {}", spec.shape);
        return Err(DecodeError::input(&input.name, reason));
    }
    Ok(())
}

/// The first few names of a list, quoted, for a message.
fn names(specs: &[TensorSpec]) -> String {
    const MAX_NAMES: usize = 8;
    if specs.is_empty() {
        return "none".into();
    }
    let mut list: Vec<String> =
        specs.iter().take(MAX_NAMES).map(|spec| format!("'{}'", shown(&spec.name))).collect();
    if specs.len() > MAX_NAMES {
        list.push("…".into());
    }
    list.join(", ")
}

#[cfg(test)]
mod tests;
