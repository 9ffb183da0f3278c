//! Encode: a model's answer becomes the bytes of a V2 infer response.
//!
//! JSON is written straight from V2's raw layout into one buffer; binary tensors are passed on without a copy.

mod compression;
pub mod grpc;
mod json;

use bytes::Bytes;

use crate::{
    reply::{NonFinite, Reply},
    tensor::{Datatype, InferResponse},
};

/// A response body and the header fields that describe it.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The body, in order.
    pub parts: Vec<Bytes>,
    pub content_type: &'static str,
    /// Bytes of the JSON header before compression; set if a binary tensor follows it.
    pub inference_header_content_length: Option<usize>,
    pub content_encoding: Option<&'static str>,
}

impl Encoded {
    /// Bytes of the whole body.
    pub fn length(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }
}

/// Why an answer cannot be written the way the client asked for. Each is the client's to correct.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error(
        "output '{name}' is {datatype}, which JSON does not carry: request binary output ({BINARY_DATA})"
    )]
    Datatype { name: String, datatype: Datatype },
    #[error(
        "element {index} of output '{name}' is not UTF-8, as JSON needs: request binary output ({BINARY_DATA})"
    )]
    NotUtf8 { name: String, index: usize },
    #[error("the answer has {length} bytes, more than a message of gRPC can have: ask for fewer outputs")]
    TooLarge { length: usize },
}

const BINARY_DATA: &str =
    "its parameter 'binary_data': true, or the request parameter 'binary_data_output': true";

/// Writes the response of `model` in the form that `reply` asks for, compressed as the request's `Accept-Encoding`
/// says. The outputs were checked against the model's signature. Takes time in proportion to the outputs (CPU-bound).
pub fn infer(
    model: &str,
    version: &str,
    response: &InferResponse,
    reply: &Reply,
    accept_encoding: Option<&[u8]>,
    non_finite: NonFinite,
) -> Result<Encoded, EncodeError> {
    let header = json::response(model, version, response, reply, non_finite)?;
    let header_length = header.len();
    let mut parts = vec![Bytes::from(header)];
    let binary = response.outputs.iter().filter(|output| reply.is_binary(&output.name));
    parts.extend(binary.map(|output| output.bytes.clone()).filter(|bytes| !bytes.is_empty()));
    let has_binary = parts.len() > 1;
    let content_encoding = compression::preferred(accept_encoding.unwrap_or_default());
    if let Some(encoding) = content_encoding {
        parts = vec![encoding.compress(&parts)];
    }
    Ok(Encoded {
        parts,
        content_type: if has_binary { "application/octet-stream" } else { "application/json" },
        inference_header_content_length: has_binary.then_some(header_length),
        content_encoding: content_encoding.map(compression::Encoding::name),
    })
}

#[cfg(test)]
mod tests;
