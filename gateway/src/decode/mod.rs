//! Decode: the bytes of a V2 infer request become an [`InferRequest`] that fits the model's signature.
//!
//! JSON `data` is parsed straight into V2's raw layout; binary tensors are slices of the body. [`grpc`] does the same for the messages
//! of gRPC.

mod addressed;
mod check;
mod compression;
mod content_type;
mod error;
pub mod grpc;
mod json;
mod raw;

use std::time::Duration;

use bytes::Bytes;

use crate::{
    limits::DecodeLimits,
    reply::{Form, Reply},
    tensor::{Datatype, InferRequest, Signature, Tensor, TensorSpec, check_layout},
};

pub use check::check;
pub use error::{DecodeError, Kind};

/// The header fields that decoding needs, as they were sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'a> {
    pub inference_header_content_length: Option<&'a [u8]>,
    pub content_encoding: Option<&'a [u8]>,
}

/// A request that fits the model, and what the client says about its answer.
#[derive(Debug, PartialEq)]
pub struct Decoded {
    pub request: InferRequest,
    /// The request's `timeout` parameter; `None` if there is none or it is 0.
    pub timeout: Option<Duration>,
    pub reply: Reply,
}

/// Decodes a body: removes its content encoding, parses the JSON header, takes the binary tensors behind it, and
/// checks everything against the signature. Takes time in proportion to the body (CPU-bound, does not wait).
pub fn infer(
    head: &Head<'_>,
    body: Bytes,
    signature: &Signature,
    limits: &DecodeLimits,
) -> Result<Decoded, DecodeError> {
    let body = compression::decompress(body, head.content_encoding, limits.max_body_bytes)?;
    let header_length = head
        .inference_header_content_length
        .map(|value| parse_header_length(value, body.len()))
        .transpose()?;
    let decoded = match header_length {
        Some(0) => raw_request(body, signature)?,
        length => json_request(&body, length.unwrap_or(body.len()), limits)?,
    };
    checked(decoded, signature)
}

/// Bytes of a body whose weight is told by its form. Of one that is for another model, all elements may be looked at before that is
/// seen.
const MOST_UNWEIGHED: usize = 4 << 20;

/// Bytes of a body that decoding it looks at. A binary tensor stays where it is, unless its elements are checked one by one.
pub fn weight(head: &Head<'_>, length: usize, signature: &Signature) -> usize {
    if head.content_encoding.is_some() {
        return usize::MAX;
    }
    let checked = |spec: &TensorSpec| matches!(spec.datatype, Datatype::Bool | Datatype::Bytes);
    let header = head.inference_header_content_length.map(|value| parse_header_length(value, length));
    match header {
        Some(Ok(header)) if length <= MOST_UNWEIGHED && !signature.inputs.iter().any(checked) => header,
        _ => length,
    }
}

/// Decodes the body of a `generate` in the same way. As in MLServer it may also be a JSON body for [`infer`]; the answer is
/// then written as that one's.
pub fn generate(
    head: &Head<'_>,
    body: Bytes,
    signature: &Signature,
    limits: &DecodeLimits,
) -> Result<Decoded, DecodeError> {
    let body = compression::decompress(body, head.content_encoding, limits.max_body_bytes)?;
    if json::is_infer(&body, signature, limits)? {
        let mut decoded = json_request(&body, body.len(), limits)?;
        // There is no place for bytes in the answer.
        decoded.reply.no_binary();
        return checked(decoded, signature);
    }
    let mut decoded = assembled(json::generate(&body, signature, limits)?, &body, body.len())?;
    decoded.reply.form = Form::Generate;
    checked(decoded, signature)
}

fn checked(mut decoded: Decoded, signature: &Signature) -> Result<Decoded, DecodeError> {
    content_type::apply(&mut decoded.request, signature)?;
    check(signature, &decoded.request.inputs, &decoded.request.outputs)?;
    Ok(decoded)
}

fn parse_header_length(value: &[u8], body_length: usize) -> Result<usize, DecodeError> {
    // `parse` alone would take a plus sign.
    let plain = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value)
        .ok()
        .filter(|_| plain)
        .and_then(|text| text.parse().ok())
        .filter(|length| *length <= body_length)
        .ok_or_else(|| {
            DecodeError::request(format!(
                "Inference-Header-Content-Length must be a whole number from 0 to the {body_length} bytes of \
                 the body, got '{}'",
                error::shown(&String::from_utf8_lossy(value))
            ))
        })
}

fn raw_request(body: Bytes, signature: &Signature) -> Result<Decoded, DecodeError> {
    let request = InferRequest { inputs: vec![raw::input(body, signature)?], ..InferRequest::default() };
    Ok(Decoded { request, timeout: None, reply: Reply { binary_default: true, ..Reply::default() } })
}

fn json_request(body: &Bytes, header_length: usize, limits: &DecodeLimits) -> Result<Decoded, DecodeError> {
    assembled(json::header(&body[..header_length], limits)?, body, header_length)
}

/// Puts a request together of what stood in the JSON and what follows it.
fn assembled(header: json::Header, body: &Bytes, header_length: usize) -> Result<Decoded, DecodeError> {
    let binary = &body[header_length..];
    let mut inputs = Vec::with_capacity(header.inputs.len());
    let mut start = header_length;
    for input in header.inputs {
        let bytes = match input.content {
            json::Content::Json(bytes) => bytes.into(),
            json::Content::Binary { size } => {
                let end = usize::try_from(size).ok().and_then(|size| start.checked_add(size));
                let Some(end) = end.filter(|end| *end <= body.len()) else {
                    return Err(binary_missing(&input.name, size, body.len() - start, binary.is_empty()));
                };
                let bytes = body.slice(start..end);
                check_layout(input.datatype, &input.shape, &bytes)
                    .map_err(|error| DecodeError::layout(&input.name, &error))?;
                start = end;
                bytes
            }
        };
        inputs.push(Tensor {
            name: input.name,
            datatype: input.datatype,
            shape: input.shape,
            parameters: input.parameters,
            bytes,
        });
    }
    if start != body.len() {
        return Err(DecodeError::request(format!(
            "{} bytes follow the last binary tensor: the binary_data_size parameters add up to {}, the body holds {} \
             bytes behind the JSON header",
            body.len() - start,
            start - header_length,
            binary.len()
        )));
    }
    let request = InferRequest {
        id: header.reply.id.clone(),
        parameters: header.parameters,
        inputs,
        outputs: header.reply.outputs.iter().map(|output| output.name.clone()).collect(),
    };
    Ok(Decoded { request, timeout: header.timeout, reply: header.reply })
}

fn binary_missing(name: &str, size: u64, left: usize, no_binary_part: bool) -> DecodeError {
    let remedy = if no_binary_part { ", is Inference-Header-Content-Length set?" } else { "" };
    DecodeError::input(
        name,
        format!("binary_data_size is {size}, but {left} bytes are left behind the JSON header{remedy}"),
    )
}

#[cfg(test)]
mod tests;
