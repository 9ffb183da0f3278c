//! Infer requests of gRPC: a message becomes tensors without a detour through generated types. What is raw stays where it is, a slice
//! of the message.

mod contents;

use bytes::Bytes;

use crate::{
    limits::DecodeLimits,
    proto::wire::{Field, Fields, WireError},
    reply::{Reply, RequestedOutput},
    tensor::{
        Datatype, InferRequest, Parameter, Parameters, Shape, Signature, Tensor, TensorSpec, element_count,
    },
};

use super::{
    Decoded, addressed, checked, compression,
    error::{DecodeError, shown},
};

/// Fields of a request, those that nobody knows included: more than a request with as many tensors and parameters as may be has.
const MAX_FIELDS: usize = 4096;

/// Of `ModelInferRequest`.
const RAW_INPUT_CONTENTS: u32 = 7;

/// Parameters of a request or a tensor.
const MAX_PARAMETERS: usize = 256;

/// Bytes that tensors may take beyond what the message may have. The elements of typed contents may be smaller on the wire; so are those
/// of JSON, where the same holds.
const MAX_GROWTH: usize = 4;

/// Asks for a response without outputs where only that can tell that there is no further one.
const EMPTY_FINAL_RESPONSE: &str = "triton_enable_empty_final_response";

/// What a message says before anything of it is decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Named {
    pub model: String,
    /// Empty for none.
    pub version: String,
    pub id: String,
}

/// The message without its compression, of at most `limit` bytes.
pub fn decompress(message: Bytes, encoding: &[u8], limit: usize) -> Result<Bytes, DecodeError> {
    compression::decompress(message, Some(encoding), limit)
}

/// Which model a message is for. Looks at the outermost fields only.
pub fn named(message: &[u8]) -> Result<Named, DecodeError> {
    let mut named = Named::default();
    for (position, field) in Fields(message).enumerate() {
        if position == MAX_FIELDS {
            return Err(DecodeError::request(format!("the request has more than {MAX_FIELDS} fields")));
        }
        let field = field?;
        match field.number {
            1 => field.text()?.clone_into(&mut named.model),
            2 => field.text()?.clone_into(&mut named.version),
            3 => field.text()?.clone_into(&mut named.id),
            _ => {}
        }
    }
    Ok(named)
}

/// Bytes of a message that decoding it looks at: raw contents stay where they are, unless their elements are checked one by one.
pub fn weight(message: &[u8], signature: &Signature) -> usize {
    let checked = |spec: &TensorSpec| matches!(spec.datatype, Datatype::Bool | Datatype::Bytes);
    if message.len() > super::MOST_UNWEIGHED || signature.inputs.iter().any(checked) {
        return message.len();
    }
    let raw = Fields(message).flatten().filter(|field| field.number == RAW_INPUT_CONTENTS);
    let raw: usize = raw.filter_map(|field| field.bytes().ok()).map(<[u8]>::len).sum();
    message.len().saturating_sub(raw)
}

/// Decodes a `ModelInferRequest` and checks everything against the signature. Takes time in proportion to its typed contents
/// (CPU-bound, does not wait).
pub fn infer(message: &Bytes, signature: &Signature, limits: &DecodeLimits) -> Result<Decoded, DecodeError> {
    let mut id = None;
    let mut parameters = Entries::default();
    let (mut inputs, mut outputs, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    for field in Fields(message) {
        let field = field?;
        match field.number {
            3 => id = Some(field.text()?.to_owned()),
            4 => parameters.add(field.bytes()?, "the request")?,
            5 => push(&mut inputs, input(field.bytes()?, limits)?, limits.max_inputs, "inputs")?,
            6 => push(&mut outputs, requested_output(field.bytes()?)?, limits.max_outputs, "outputs")?,
            RAW_INPUT_CONTENTS => push(&mut raw, field.bytes()?, limits.max_inputs, "raw_input_contents")?,
            _ => {}
        }
    }
    let mut parameters = parameters.parameters;
    let tells_end = addressed::take_one(&mut parameters, EMPTY_FINAL_RESPONSE);
    let mut addressed = addressed::take(parameters)?;
    addressed.reply.tells_end = tells_end == Some(Parameter::Boolean(true));
    let raw = (!raw.is_empty()).then_some(raw);
    if let Some(raw) = &raw
        && raw.len() != inputs.len()
    {
        return Err(DecodeError::request(format!(
            "the request has {} inputs and {} raw_input_contents: each input needs one",
            inputs.len(),
            raw.len()
        )));
    }
    let mut left = limits.max_body_bytes.saturating_mul(MAX_GROWTH);
    let mut tensors = Vec::with_capacity(inputs.len());
    for (position, input) in inputs.into_iter().enumerate() {
        let tensor = input.tensor(message, raw.as_ref().map(|raw| raw[position]), left)?;
        left = left.saturating_sub(tensor.bytes.len());
        tensors.push(tensor);
    }
    let names = outputs.iter().map(|output: &RequestedOutput| output.name.clone()).collect();
    // An empty text is what a client sends that sends none.
    let id = id.filter(|id| !id.is_empty());
    addressed.reply = Reply { id: id.clone(), outputs, ..addressed.reply };
    let request = InferRequest { id, parameters: addressed.parameters, inputs: tensors, outputs: names };
    checked(Decoded { request, timeout: addressed.timeout, reply: addressed.reply }, signature)
}

fn push<T>(list: &mut Vec<T>, item: T, max: usize, what: &str) -> Result<(), DecodeError> {
    if list.len() == max {
        return Err(DecodeError::request(format!("'{what}' has more than {max} entries")));
    }
    list.push(item);
    Ok(())
}

/// An entry of `inputs`; its elements are not looked at yet.
struct Input<'a> {
    name: String,
    datatype: Datatype,
    shape: Vec<u64>,
    parameters: Parameters,
    contents: Option<&'a [u8]>,
}

fn input<'a>(message: &'a [u8], limits: &DecodeLimits) -> Result<Input<'a>, DecodeError> {
    // Known first, so that what is wrong can be said of it.
    let mut name = "";
    for field in Fields(message) {
        let field = field?;
        if field.number == 1 {
            name = field.text()?;
        }
    }
    entry(name, message, limits).map_err(|error| error.of_input(Some(name)))
}

fn entry<'a>(name: &str, message: &'a [u8], limits: &DecodeLimits) -> Result<Input<'a>, DecodeError> {
    let (mut datatype, mut contents) = ("", None);
    let (mut shape, mut parameters) = (Vec::new(), Entries::default());
    for field in Fields(message) {
        let field = field?;
        match field.number {
            2 => datatype = field.text()?,
            3 => dimensions(&mut shape, &field, limits.max_rank)?,
            4 => parameters.add(field.bytes()?, "the input")?,
            5 if contents.is_some() => return Err(DecodeError::request("has 'contents' twice")),
            5 => contents = Some(field.bytes()?),
            _ => {}
        }
    }
    let datatype = addressed::datatype(datatype)?;
    if element_count(&shape).is_none() {
        let shape = Shape::from(shape.as_slice());
        return Err(DecodeError::request(format!("the product of shape {shape} overflows")));
    }
    let parameters = parameters.parameters;
    addressed::refuse_shared_memory("input", name, &parameters)?;
    Ok(Input { name: name.to_owned(), datatype, shape, parameters, contents })
}

fn dimensions(shape: &mut Vec<u64>, field: &Field<'_>, max_rank: usize) -> Result<(), DecodeError> {
    for dim in field.numbers()? {
        if shape.len() == max_rank {
            return Err(DecodeError::request(format!("'shape' has more than {max_rank} dimensions")));
        }
        let dim = dim?.cast_signed();
        let negative =
            || DecodeError::request(format!("a dimension of 'shape' is {dim}, expected 0 or more"));
        shape.push(u64::try_from(dim).map_err(|_| negative())?);
    }
    Ok(())
}

impl Input<'_> {
    fn tensor(self, message: &Bytes, raw: Option<&[u8]>, left: usize) -> Result<Tensor, DecodeError> {
        let wrong = |reason: String| DecodeError::input(&self.name, reason);
        let bytes = match (raw, self.contents) {
            (Some(_), Some(contents)) if !contents.is_empty() => {
                return Err(wrong(
                    "has 'contents', and the request has 'raw_input_contents': send one of the two".into(),
                ));
            }
            (Some(raw), _) => message.slice_ref(raw),
            (None, contents) => {
                let contents = contents.unwrap_or_default();
                contents::elements(message, contents, self.datatype, &self.shape, left)
                    .map_err(|error| error.of_input(Some(&self.name)))?
            }
        };
        let tensor = Tensor {
            name: self.name,
            datatype: self.datatype,
            shape: self.shape,
            parameters: self.parameters,
            bytes,
        };
        tensor.check_layout().map_err(|error| DecodeError::layout(&tensor.name, &error))?;
        Ok(tensor)
    }
}

fn requested_output(message: &[u8]) -> Result<RequestedOutput, DecodeError> {
    let mut name = "";
    let mut parameters = Entries::default();
    for field in Fields(message) {
        let field = field?;
        match field.number {
            1 => name = field.text()?,
            2 => parameters.add(field.bytes()?, "the output")?,
            _ => {}
        }
    }
    addressed::requested_output(name.to_owned(), parameters.parameters)
}

/// Parameters as they are read.
#[derive(Default)]
struct Entries {
    parameters: Parameters,
    /// Those with the same name counted each.
    read: usize,
}

impl Entries {
    /// Adds an entry; of two with one name the later one counts, as in every map of protobuf's.
    fn add(&mut self, entry: &[u8], what: &str) -> Result<(), DecodeError> {
        // Each is compared with those before it.
        if self.read == MAX_PARAMETERS {
            return Err(DecodeError::request(format!("{what} has more than {MAX_PARAMETERS} parameters")));
        }
        self.read += 1;
        let (mut name, mut value) = ("", None);
        for field in Fields(entry) {
            let field = field?;
            match field.number {
                1 => name = field.text()?,
                2 => value = choice(field.bytes()?)?.or(value),
                _ => {}
            }
        }
        let value = value.ok_or_else(|| {
            DecodeError::request(format!("parameter '{}' of {what} has no value", shown(name)))
        })?;
        match self.parameters.iter_mut().find(|(key, _)| key == name) {
            Some((_, earlier)) => *earlier = value,
            None => self.parameters.push((name.to_owned(), value)),
        }
        Ok(())
    }
}

/// The value of an `InferParameter`; the last one if there are several.
fn choice(message: &[u8]) -> Result<Option<Parameter>, WireError> {
    let mut last = None;
    for field in Fields(message) {
        let field = field?;
        if (1..=5).contains(&field.number) {
            last = Some(field);
        }
    }
    let value = |field: Field<'_>| {
        Ok(match field.number {
            1 => Parameter::Boolean(field.number()? != 0),
            2 => Parameter::Int64(field.number()?.cast_signed()),
            3 => Parameter::Text(field.text()?.to_owned()),
            4 => Parameter::Double(f64::from_le_bytes(field.double()?)),
            _ => Parameter::Uint64(field.number()?),
        })
    };
    last.map(value).transpose()
}

impl From<WireError> for DecodeError {
    fn from(error: WireError) -> Self {
        Self::request(format!("the message is malformed: {error}"))
    }
}

#[cfg(test)]
mod tests;
