//! Infer responses of gRPC: a message with its frame in front and the tensors' bytes behind it, which are passed on without a copy.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use crate::{
    proto::{
        inference::{
            InferParameter, ModelInferResponse, infer_parameter::ParameterChoice,
            model_infer_response::InferOutputTensor,
        },
        wire::{self, PREFIX},
    },
    reply::Reply,
    tensor::{InferResponse, Parameter, Parameters, Shape, Tensor},
};

use super::{EncodeError, Encoded};

/// What the answer is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `ModelInfer`: it is the answer.
    Single,
    /// `ModelStreamInfer`: it is wrapped, and says whether no other response to this request follows.
    Stream { last: bool },
}

/// Of `ModelInferResponse`.
const RAW_OUTPUT_CONTENTS: u32 = 6;

/// Of `ModelStreamInferResponse`.
const INFER_RESPONSE: u32 = 2;

/// Says of each message of a stream whether it is the last one for its request.
const FINAL_RESPONSE: &str = "triton_final_response";

/// Writes the response of `model`, framed. The outputs were checked against the model's signature.
pub fn infer(
    model: &str,
    version: &str,
    response: &InferResponse,
    reply: &Reply,
    call: Call,
) -> Result<Encoded, EncodeError> {
    let mut described = ModelInferResponse {
        model_name: model.to_owned(),
        model_version: version.to_owned(),
        id: reply.id.clone().unwrap_or_default(),
        parameters: parameters(&response.parameters),
        outputs: response.outputs.iter().map(output).collect(),
        raw_output_contents: Vec::new(),
    };
    if let Call::Stream { last } = call {
        let last = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(last)) };
        described.parameters.insert(FINAL_RESPONSE.to_owned(), last);
    }
    // The fields behind the described ones, each in front of its tensor.
    let mut parts = vec![Bytes::new()];
    let mut length = described.encoded_len();
    for output in &response.outputs {
        let mut key = Vec::with_capacity(8);
        wire::put_bytes_field(&mut key, RAW_OUTPUT_CONTENTS, output.bytes.len());
        length += key.len() + output.bytes.len();
        parts.extend([Bytes::from(key), output.bytes.clone()]);
    }
    let mut front = Vec::with_capacity(2 * PREFIX + 2 + described.encoded_len());
    if matches!(call, Call::Stream { .. }) {
        wire::put_bytes_field(&mut front, INFER_RESPONSE, length);
        length += front.len();
    }
    let prefix = wire::prefix(length).ok_or(EncodeError::TooLarge { length })?;
    front.splice(..0, prefix);
    described.encode(&mut front).expect("a Vec takes what comes");
    parts[0] = front.into();
    parts.retain(|part| !part.is_empty());
    Ok(Encoded {
        parts,
        content_type: "application/grpc",
        inference_header_content_length: None,
        content_encoding: None,
    })
}

fn output(tensor: &Tensor) -> InferOutputTensor {
    InferOutputTensor {
        name: tensor.name.clone(),
        datatype: tensor.datatype.name().to_owned(),
        shape: Shape::from(tensor.shape.as_slice()).0,
        parameters: parameters(&tensor.parameters),
        contents: None,
    }
}

fn parameters(parameters: &Parameters) -> BTreeMap<String, InferParameter> {
    let entry = |(name, value): &(String, Parameter)| {
        let choice = match value.clone() {
            Parameter::Boolean(value) => ParameterChoice::BoolParam(value),
            Parameter::Int64(value) => ParameterChoice::Int64Param(value),
            Parameter::Uint64(value) => ParameterChoice::Uint64Param(value),
            Parameter::Double(value) => ParameterChoice::DoubleParam(value),
            // What has no type here is its JSON text.
            Parameter::Text(text) | Parameter::Json(text) => ParameterChoice::StringParam(text),
        };
        (name.clone(), InferParameter { parameter_choice: Some(choice) })
    };
    parameters.iter().map(entry).collect()
}
