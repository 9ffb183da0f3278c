//! What a request's content types ask of the gateway: base64 becomes the bytes that it stands for, and a list or column of
//! N elements gets the shape that the model has for one.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;

use crate::{
    content_type::ContentType,
    tensor::{Datatype, InferRequest, Signature, TensorSpec, elements},
};

use super::error::DecodeError;

/// Takes what Python's decoder takes: the bits that fill up the last character may be any.
static BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Applies them to a request whose tensors have their layout. An input's own content type counts, else the request's.
pub(super) fn apply(request: &mut InferRequest, signature: &Signature) -> Result<(), DecodeError> {
    let of_request = ContentType::of(&request.parameters);
    for input in &mut request.inputs {
        let Some(content_type) = ContentType::of(&input.parameters).or(of_request) else { continue };
        if content_type == ContentType::Base64 && input.datatype == Datatype::Bytes {
            input.bytes = decoded(&input.name, &input.bytes)?;
        }
        let spec = signature.inputs.iter().find(|spec| spec.name == input.name);
        if let Some(spec) = spec.filter(|_| content_type != ContentType::Other) {
            fit(&mut input.shape, spec);
        }
    }
    Ok(())
}

/// The elements that a BYTES tensor's elements are the base64 of.
fn decoded(name: &str, bytes: &[u8]) -> Result<Bytes, DecodeError> {
    let mut decoded = Vec::with_capacity(bytes.len());
    for (index, element) in elements(bytes).flatten().enumerate() {
        let start = decoded.len();
        decoded.extend_from_slice(&[0; size_of::<u32>()]);
        BASE64.decode_vec(element, &mut decoded).map_err(|error| {
            let reason = format!("element {index} is not base64, as content_type says that it is: {error}");
            DecodeError::input(name, reason)
        })?;
        // It is shorter than its base64, and so is its length.
        let length = u32::try_from(decoded.len() - start - size_of::<u32>()).unwrap_or(u32::MAX);
        decoded[start..start + size_of::<u32>()].copy_from_slice(&length.to_le_bytes());
    }
    Ok(decoded.into())
}

/// MLServer's codecs send N elements as `[N,1]` and take `[N]` for the same.
fn fit(shape: &mut Vec<u64>, spec: &TensorSpec) {
    if spec.admits(shape) {
        return;
    }
    let other = match shape.as_slice() {
        [count] => vec![*count, 1],
        [count, 1] => vec![*count],
        _ => return,
    };
    if spec.admits(&other) {
        *shape = other;
    }
}

#[cfg(test)]
mod tests;
