//! The body of a `generate`: one object, of which each key that an input has for a name is that input, and any other one a
//! parameter.

use crate::{
    limits::DecodeLimits,
    tensor::{Parameters, Signature, TensorSpec},
};

use super::{
    Content, Header, Input, array, depth, object, optional_string,
    parameters::{put, value},
    reader::Reader,
};
use crate::decode::DecodeError;

/// Parses a whole body. Inputs have no shape there: the model's own is filled with as many elements as there are.
pub(in crate::decode) fn generate(
    json: &[u8],
    signature: &Signature,
    limits: &DecodeLimits,
) -> Result<Header, DecodeError> {
    let mut reader = Reader::new(json, limits.max_json_depth);
    let mut header = Header::default();
    let mut parameters = Parameters::new();
    object(&mut reader, depth::REQUEST, "the request", |reader, key| {
        if let Some(input) = input(reader, depth::LIST, key, signature)? {
            header.inputs.push(input);
            return Ok(());
        }
        match key {
            "id" => header.reply.id = optional_string(reader, "'id'")?,
            "parameters" if reader.is_null()? => {}
            "parameters" => {
                object(reader, depth::LIST, "'parameters' of the request", |reader, key| {
                    match input(reader, depth::ITEM, key, signature)? {
                        Some(input) => header.inputs.push(input),
                        None => put(&mut parameters, key, value(reader, depth::ITEM, key)?)?,
                    }
                    Ok(())
                })?;
            }
            _ => put(&mut parameters, key, value(reader, depth::LIST, key)?)?,
        }
        Ok(())
    })?;
    reader.finish()?;
    header.address(parameters)?;
    Ok(header)
}

/// Whether the body is that of an ordinary request, as MLServer takes it here: it has an array `inputs`, and the model has no
/// input of that name.
pub(in crate::decode) fn is_infer(
    json: &[u8],
    signature: &Signature,
    limits: &DecodeLimits,
) -> Result<bool, DecodeError> {
    let mut found = false;
    if signature.inputs.iter().any(|spec| spec.name == "inputs") {
        return Ok(false);
    }
    let mut reader = Reader::new(json, limits.max_json_depth);
    object(&mut reader, depth::REQUEST, "the request", |reader, key| {
        found |= key == "inputs" && reader.peek()? == b'[';
        reader.skip(depth::LIST, true).map(drop)
    })?;
    Ok(found)
}

/// Reads the value of a key, if that is the name of an input.
fn input(
    reader: &mut Reader<'_>,
    depth: usize,
    key: &str,
    signature: &Signature,
) -> Result<Option<Input>, DecodeError> {
    let Some(spec) = signature.inputs.iter().find(|spec| spec.name == key) else { return Ok(None) };
    let start = reader.position();
    let shape = shape(spec, count(reader, depth)?)?;
    reader.seek(start);
    let elements = array::value(reader, depth, key, spec.datatype, &shape)?;
    Ok(Some(Input {
        name: key.to_owned(),
        datatype: spec.datatype,
        shape,
        parameters: Parameters::new(),
        content: Content::Json(elements),
    }))
}

/// Steps over a value and counts its elements: one, unless it is an array.
fn count(reader: &mut Reader<'_>, depth: usize) -> Result<u64, DecodeError> {
    if reader.peek()? != b'[' {
        reader.skip(depth, true)?;
        return Ok(1);
    }
    let mut count = 0;
    let mut more = reader.first_element(depth, "the input")?;
    while more {
        reader.skip(depth + 1, true)?;
        count += 1;
        more = reader.next_element()?;
    }
    Ok(count)
}

/// The shape of so many elements: the innermost dimension that varies takes what the others leave, the others that vary are 1.
fn shape(spec: &TensorSpec, count: u64) -> Result<Vec<u64>, DecodeError> {
    let misfit = || {
        let shape = &spec.shape;
        DecodeError::input(&spec.name, format!("{count} elements do not fit into the model's shape {shape}"))
    };
    let mut fixed = spec.shape.0.iter().filter_map(|dim| u64::try_from(*dim).ok());
    let step = fixed.try_fold(1, u64::checked_mul).ok_or_else(misfit)?;
    let mut left = count.checked_div(step).unwrap_or(0);
    if left * step != count {
        return Err(misfit());
    }
    let mut shape: Vec<u64> = Vec::with_capacity(spec.shape.0.len());
    for dim in spec.shape.0.iter().rev() {
        shape.push(u64::try_from(*dim).unwrap_or_else(|_| std::mem::replace(&mut left, 1)));
    }
    // Where nothing varies, there is nothing that takes what is left.
    if left != 1 && step != 0 {
        return Err(misfit());
    }
    shape.reverse();
    Ok(shape)
}

#[cfg(test)]
mod tests;
