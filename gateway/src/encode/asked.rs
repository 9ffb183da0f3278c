//! What a request asks of its outputs beside their form: the best classes instead of all scores, and content types.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;

use crate::{
    content_type::{CONTENT_TYPE, ContentType},
    reply::{Reply, RequestedOutput},
    tensor::{Classes, Datatype, InferResponse, Parameter, Tensor, elements},
};

use super::{EncodeError, classification};

/// Bytes of all lists of classes of an answer: a few bytes of scores become texts with labels, which nothing has reserved.
const MAX_CLASS_BYTES: usize = 16 << 20;

/// Makes of a model's answer what the request asked for; most requests ask for the answer as it is. `max_bytes` is what an
/// answer may have.
pub fn as_asked(
    response: &mut InferResponse,
    reply: &Reply,
    classes: &Classes,
    max_bytes: usize,
) -> Result<(), EncodeError> {
    let mut left = max_bytes.min(MAX_CLASS_BYTES);
    for output in &mut response.outputs {
        let requested = reply.requested(&output.name);
        if let Some(count) = requested.and_then(|requested| requested.classification) {
            *output = classification::best(output, count, classes, left)?;
            left -= output.bytes.len();
        }
        if output.datatype == Datatype::Bytes && reply.content_type_of(output) == Some(ContentType::Base64) {
            output.bytes = encoded(&output.bytes);
            label(output, ContentType::Base64);
        } else if let Some(content_type) = asked(requested) {
            relabel(output, content_type);
        }
    }
    Ok(())
}

fn asked(requested: Option<&RequestedOutput>) -> Option<ContentType> {
    requested.and_then(|requested| requested.content_type)
}

/// The elements of a BYTES tensor, each as base64.
fn encoded(bytes: &[u8]) -> Bytes {
    let mut text = String::new();
    let mut encoded = Vec::with_capacity(bytes.len() / 3 * 4);
    // The layout was checked: no element is cut short.
    for element in elements(bytes).flatten() {
        text.clear();
        BASE64_STANDARD.encode_string(element, &mut text);
        // Only elements of more than 3 GiB would not fit, and no answer may be that large.
        encoded.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        encoded.extend_from_slice(text.as_bytes());
    }
    encoded.into()
}

/// An output that is not base64 is not called so. It is called what the client calls it, if the model does not say.
fn relabel(output: &mut Tensor, asked: ContentType) {
    let own = ContentType::of(&output.parameters);
    if own == Some(ContentType::Base64) {
        output.parameters.retain(|(name, _)| name != CONTENT_TYPE);
    } else if own.is_some() {
        return;
    }
    let is_text = output.datatype == Datatype::Bytes;
    let fits = match asked {
        ContentType::Np => true,
        ContentType::Str | ContentType::Datetime => is_text,
        ContentType::Base64 | ContentType::Pd | ContentType::Other => false,
    };
    if fits {
        label(output, asked);
    }
}

fn label(output: &mut Tensor, content_type: ContentType) {
    let Some(name) = content_type.name() else { return };
    output.parameters.retain(|(key, _)| key != CONTENT_TYPE);
    output.parameters.push((CONTENT_TYPE.into(), Parameter::Text(name.into())));
}
