//! The JSON part of an infer request.

mod array;
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "only that architecture has the instructions")
)]
mod fp32;
mod generate;
mod number;
mod parameters;
mod reader;
mod short;
mod string;

use std::{borrow::Cow, time::Duration};

use crate::{
    limits::DecodeLimits,
    reply::{Reply, RequestedOutput},
    tensor::{Datatype, Parameter, Parameters, Shape, element_count},
};

use super::{
    addressed::{self, take_one},
    error::{DecodeError, shown},
};
pub(super) use generate::{generate, is_infer};
use parameters::parameters;
use reader::{MAX_KEYS, Reader};

/// The JSON header of a request.
#[derive(Debug, Default)]
pub(in crate::decode) struct Header {
    /// Without those that are addressed to the gateway.
    pub parameters: Parameters,
    pub timeout: Option<Duration>,
    pub inputs: Vec<Input>,
    pub reply: Reply,
}

impl Header {
    /// Keeps what the model is told, and takes what is addressed to the gateway.
    fn address(&mut self, parameters: Parameters) -> Result<(), DecodeError> {
        let addressed = addressed::take(parameters)?;
        (self.parameters, self.timeout) = (addressed.parameters, addressed.timeout);
        self.reply.binary_default = addressed.reply.binary_default;
        self.reply.content_type = addressed.reply.content_type;
        Ok(())
    }
}

/// An entry of `inputs`.
#[derive(Debug)]
pub(in crate::decode) struct Input {
    pub name: String,
    pub datatype: Datatype,
    pub shape: Vec<u64>,
    pub parameters: Parameters,
    pub content: Content,
}

/// Where an input's elements are.
#[derive(Debug)]
pub(in crate::decode) enum Content {
    /// They stood in the JSON: here in V2's raw layout.
    Json(Vec<u8>),
    /// So many bytes of the body behind the JSON.
    Binary { size: u64 },
}

/// Depths of the parts of a request, see [`Reader`].
mod depth {
    pub const REQUEST: usize = 1;
    /// `inputs`, `outputs` and the request's parameters.
    pub const LIST: usize = 2;
    pub const ITEM: usize = 3;
    /// An input's `shape`, `data` and parameters.
    pub const FIELD: usize = 4;
}

/// Parses a whole JSON header.
pub(super) fn header(json: &[u8], limits: &DecodeLimits) -> Result<Header, DecodeError> {
    let mut reader = Reader::new(json, limits.max_json_depth);
    let mut header = Header::default();
    let mut inputs = None;
    object(&mut reader, depth::REQUEST, "the request", |reader, key| {
        match key {
            "id" => header.reply.id = optional_string(reader, "'id'")?,
            "parameters" => {
                let parameters = parameters(reader, depth::LIST, "'parameters' of the request")?;
                header.address(parameters)?;
            }
            "inputs" => {
                inputs = Some(list(reader, "'inputs'", limits.max_inputs, |reader| input(reader, limits))?)
            }
            "outputs" => {
                if !reader.is_null()? {
                    header.reply.outputs = list(reader, "'outputs'", limits.max_outputs, output)?;
                }
            }
            _ => {
                reader.skip(depth::LIST, true)?;
            }
        }
        Ok(())
    })?;
    reader.finish()?;
    header.inputs = inputs.ok_or_else(|| DecodeError::request("the request has no 'inputs'"))?;
    Ok(header)
}

/// Reads an object, refusing duplicate keys; `field` takes the value of each key.
fn object<'j>(
    reader: &mut Reader<'j>,
    depth: usize,
    what: &str,
    mut field: impl FnMut(&mut Reader<'j>, &str) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    reader.expect_object(depth, what)?;
    let mut seen: Vec<Cow<'j, str>> = Vec::new();
    let mut key = reader.first_key()?;
    while let Some(name) = key {
        if seen.contains(&name) {
            return Err(DecodeError::request(format!("{what} has the key '{}' twice", shown(&name))));
        }
        if seen.len() == MAX_KEYS {
            return Err(DecodeError::request(format!("{what} has more than {MAX_KEYS} keys")));
        }
        field(reader, &name)?;
        seen.push(name);
        key = reader.next_key()?;
    }
    Ok(())
}

/// Reads an array of at most `max` items.
fn list<'j, T>(
    reader: &mut Reader<'j>,
    what: &str,
    max: usize,
    mut item: impl FnMut(&mut Reader<'j>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut items = Vec::new();
    let mut more = reader.first_element(depth::LIST, what)?;
    while more {
        if items.len() == max {
            return Err(DecodeError::request(format!("{what} has more than {max} entries")));
        }
        items.push(item(reader)?);
        more = reader.next_element()?;
    }
    Ok(items)
}

fn optional_string(reader: &mut Reader<'_>, what: &str) -> Result<Option<String>, DecodeError> {
    if reader.is_null()? { Ok(None) } else { reader.string(what).map(|text| Some(text.into_owned())) }
}

fn output(reader: &mut Reader<'_>) -> Result<RequestedOutput, DecodeError> {
    let mut name = None;
    let mut settings = Parameters::new();
    object(reader, depth::ITEM, "an entry of 'outputs'", |reader, key| {
        match key {
            "name" => name = Some(reader.string("'name' of an output")?.into_owned()),
            "parameters" => settings = parameters(reader, depth::FIELD, "'parameters' of an output")?,
            _ => {
                reader.skip(depth::FIELD, true)?;
            }
        }
        Ok(())
    })?;
    let name = name.ok_or_else(|| DecodeError::request("an entry of 'outputs' has no 'name'"))?;
    addressed::requested_output(name, settings)
}

/// The fields of an input as far as they were read.
#[derive(Default)]
struct Fields {
    name: Option<String>,
    datatype: Option<Datatype>,
    shape: Option<Vec<u64>>,
    parameters: Parameters,
    elements: Option<Vec<u8>>,
    /// Where `data` starts, if it came before what is needed to parse it.
    data_position: Option<usize>,
}

fn input(reader: &mut Reader<'_>, limits: &DecodeLimits) -> Result<Input, DecodeError> {
    let mut fields = Fields::default();
    object(reader, depth::ITEM, "an entry of 'inputs'", |reader, key| {
        field(reader, key, &mut fields, limits).map_err(|error| error.of_input(fields.name.as_deref()))
    })?;
    let end = reader.position();
    let name = fields.name.ok_or_else(|| DecodeError::request("an entry of 'inputs' has no 'name'"))?;
    let datatype = fields.datatype.ok_or_else(|| DecodeError::input(&name, "has no 'datatype'"))?;
    let shape = fields.shape.ok_or_else(|| DecodeError::input(&name, "has no 'shape'"))?;
    let mut parameters = fields.parameters;
    addressed::refuse_shared_memory("input", &name, &parameters)?;
    let size = take_one(&mut parameters, "binary_data_size")
        .map(|size| binary_data_size(&name, &size))
        .transpose()?;
    let mut elements = fields.elements;
    if let Some(position) = fields.data_position {
        reader.seek(position);
        let late = array::elements(reader, depth::FIELD, &name, datatype, &shape);
        elements = Some(late.map_err(|error| error.of_input(Some(&name)))?);
        reader.seek(end);
    }
    let content = match (elements, size) {
        (Some(elements), None) => Content::Json(elements),
        (None, Some(size)) => Content::Binary { size },
        (elements, _) => {
            let given = if elements.is_some() { "both" } else { "neither" };
            let reason = format!("takes either 'data' or the parameter 'binary_data_size', got {given}");
            return Err(DecodeError::input(&name, reason));
        }
    };
    Ok(Input { name, datatype, shape, parameters, content })
}

/// Reads the value of one key of an input.
fn field(
    reader: &mut Reader<'_>,
    key: &str,
    fields: &mut Fields,
    limits: &DecodeLimits,
) -> Result<(), DecodeError> {
    match key {
        "name" => fields.name = Some(reader.string("'name'")?.into_owned()),
        "datatype" => fields.datatype = Some(datatype(reader)?),
        "shape" => fields.shape = Some(shape(reader, limits.max_rank)?),
        "parameters" => fields.parameters = parameters(reader, depth::FIELD, "'parameters'")?,
        "data" => data(reader, fields)?,
        _ => {
            reader.skip(depth::FIELD, true)?;
        }
    }
    Ok(())
}

/// Parses `data`, or steps over it if name, datatype or shape are yet to come. `null` counts as absent.
fn data(reader: &mut Reader<'_>, fields: &mut Fields) -> Result<(), DecodeError> {
    if reader.is_null()? {
        return Ok(());
    }
    if let (Some(name), Some(datatype), Some(shape)) = (&fields.name, fields.datatype, &fields.shape) {
        fields.elements = Some(array::elements(reader, depth::FIELD, name, datatype, shape)?);
    } else {
        reader.peek()?;
        fields.data_position = Some(reader.position());
        reader.step_over_array(depth::FIELD)?;
    }
    Ok(())
}

fn datatype(reader: &mut Reader<'_>) -> Result<Datatype, DecodeError> {
    addressed::datatype(&reader.string("'datatype'")?)
}

fn shape(reader: &mut Reader<'_>, max_rank: usize) -> Result<Vec<u64>, DecodeError> {
    let mut shape = Vec::new();
    let mut more = reader.first_element(depth::FIELD, "'shape'")?;
    while more {
        if shape.len() == max_rank {
            return Err(DecodeError::request(format!("'shape' has more than {max_rank} dimensions")));
        }
        shape.push(reader.unsigned("a dimension of 'shape'")?);
        more = reader.next_element()?;
    }
    if element_count(&shape).is_none() {
        let shape = Shape::from(shape.as_slice());
        return Err(DecodeError::request(format!("the product of shape {shape} overflows")));
    }
    Ok(shape)
}

fn binary_data_size(name: &str, value: &Parameter) -> Result<u64, DecodeError> {
    match value {
        Parameter::Int64(size) => u64::try_from(*size).ok(),
        Parameter::Uint64(size) => Some(*size),
        _ => None,
    }
    .ok_or_else(|| {
        DecodeError::input(name, "the parameter 'binary_data_size' must be a whole number of bytes")
    })
}

#[cfg(test)]
mod tests;
