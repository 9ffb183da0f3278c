//! Encode: a model's answer becomes the bytes of a V2 infer response.
//!
//! JSON is written straight from V2's raw layout into one buffer; binary tensors are passed on without a copy.

mod asked;
mod classification;
mod compression;
pub mod grpc;
mod json;

use bytes::Bytes;

use crate::{
    reply::{Form, NonFinite, Reply},
    tensor::{Datatype, InferResponse},
};

pub use asked::as_asked;

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
    #[error("output '{name}' of datatype {datatype} has no classes: 'classification' takes numbers")]
    NoClasses { name: String, datatype: Datatype },
    #[error("output '{name}': {count} classes are asked for, at most 65536 may be")]
    TooManyClasses { name: String, count: usize },
    #[error(
        "output '{name}': the classes have more bytes than an answer's may have, ask for fewer ('classification')"
    )]
    ClassesTooLarge { name: String },
    #[error("the answer has {length} bytes, more than a message of gRPC can have: ask for fewer outputs")]
    TooLarge { length: usize },
}

/// The content type of a stream of events.
pub const EVENTS: &str = "text/event-stream; charset=utf-8";

const BINARY_DATA: &str =
    "its parameter 'binary_data': true, or the request parameter 'binary_data_output': true";

/// Writes a response in the form of its request's body, as one JSON text or as an event of a stream: an event is not
/// compressed, so that who waits for it can read it when it comes.
pub fn generate(
    model: &str,
    version: &str,
    response: &InferResponse,
    reply: &Reply,
    form: Generated<'_>,
    non_finite: NonFinite,
) -> Result<Encoded, EncodeError> {
    let mut json = match reply.form {
        Form::Infer => json::response(model, version, response, reply, non_finite),
        Form::Generate => json::generated(model, version, response, reply, non_finite),
    }?;
    let accept_encoding = match form {
        Generated::Text { accept_encoding } => accept_encoding,
        Generated::Event => {
            // A line is all that an event's text may have. Those of JSON end between its tokens only.
            json.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
            return Ok(Encoded {
                parts: vec![Bytes::from_static(b"data: "), json.into(), Bytes::from_static(b"\n\n")],
                content_type: EVENTS,
                inference_header_content_length: None,
                content_encoding: None,
            });
        }
    };
    Ok(compressed(vec![json.into()], "application/json", None, accept_encoding))
}

/// How a response without a place for bytes is sent.
#[derive(Clone, Copy, Debug)]
pub enum Generated<'a> {
    Text { accept_encoding: Option<&'a [u8]> },
    Event,
}

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
    let content_type = if has_binary { "application/octet-stream" } else { "application/json" };
    Ok(compressed(parts, content_type, has_binary.then_some(header_length), accept_encoding))
}

/// Bytes that writing a response with [`infer`] looks at: a binary tensor is passed on as it is, unless it is compressed.
pub fn weight(response: &InferResponse, reply: &Reply, accept_encoding: Option<&[u8]>) -> usize {
    let compresses = compression::preferred(accept_encoding.unwrap_or_default()).is_some();
    let looked_at = response.outputs.iter().filter(|output| compresses || !reply.is_binary(&output.name));
    looked_at.map(|output| output.bytes.len()).sum()
}

fn compressed(
    mut parts: Vec<Bytes>,
    content_type: &'static str,
    inference_header_content_length: Option<usize>,
    accept_encoding: Option<&[u8]>,
) -> Encoded {
    let content_encoding = compression::preferred(accept_encoding.unwrap_or_default());
    if let Some(encoding) = content_encoding {
        parts = vec![encoding.compress(&parts)];
    }
    Encoded {
        parts,
        content_type,
        inference_header_content_length,
        content_encoding: content_encoding.map(compression::Encoding::name),
    }
}

#[cfg(test)]
mod tests;
