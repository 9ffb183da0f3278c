//! Raw binary requests: `Inference-Header-Content-Length: 0`, and the body is the one input tensor, without any JSON.

use bytes::Bytes;

use crate::tensor::{Datatype, Signature, Tensor, TensorSpec};

use super::error::DecodeError;

/// The input that the body is, its shape taken from the signature and the body's length. At most one dimension may
/// vary. A BYTES input is one element, the whole body, and is the only one that is copied, to prefix its length.
pub(super) fn input(body: Bytes, signature: &Signature) -> Result<Tensor, DecodeError> {
    let [spec] = signature.inputs.as_slice() else {
        return Err(DecodeError::request(format!(
            "a raw binary request (Inference-Header-Content-Length: 0) needs a model with one input, this one has {}",
            signature.inputs.len()
        )));
    };
    let (shape, bytes) = match spec.datatype.element_size() {
        Some(size) => (shape_of(spec, size, body.len())?, body),
        None => one_element(spec, &body)?,
    };
    let tensor =
        Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, parameters: Vec::new(), bytes };
    tensor.check_layout().map_err(|error| DecodeError::layout(&tensor.name, &error))?;
    Ok(tensor)
}

/// The signature's shape with its variable dimension set to what makes `length` bytes.
fn shape_of(spec: &TensorSpec, element_size: usize, length: usize) -> Result<Vec<u64>, DecodeError> {
    let dims = &spec.shape.0;
    if dims.iter().filter(|dim| **dim == -1).count() > 1 {
        let reason = format!(
            "more than one dimension of shape {} varies, so a raw binary request cannot tell it: \
             send the JSON header with the shape",
            spec.shape
        );
        return Err(DecodeError::input(&spec.name, reason));
    }
    // The bytes of one step along the variable dimension.
    let step = dims
        .iter()
        .filter_map(|dim| u64::try_from(*dim).ok())
        .try_fold(element_size as u64, u64::checked_mul)
        .unwrap_or(0);
    let varying = (length as u64).checked_div(step).unwrap_or(0);
    Ok(dims.iter().map(|dim| u64::try_from(*dim).unwrap_or(varying)).collect())
}

fn one_element(spec: &TensorSpec, body: &Bytes) -> Result<(Vec<u64>, Bytes), DecodeError> {
    if !spec.shape.0.iter().all(|dim| matches!(dim, -1 | 1)) {
        let reason = format!(
            "a raw binary request is one {} element, the model expects shape {}",
            Datatype::Bytes,
            spec.shape
        );
        return Err(DecodeError::input(&spec.name, reason));
    }
    let length = u32::try_from(body.len())
        .map_err(|_| DecodeError::input(&spec.name, "a BYTES element holds at most 4294967295 bytes"))?;
    let mut element = Vec::with_capacity(body.len() + 4);
    element.extend_from_slice(&length.to_le_bytes());
    element.extend_from_slice(body);
    Ok((vec![1; spec.shape.0.len()], element.into()))
}

#[cfg(test)]
mod tests;
