//! `parameters` objects: typed values, and the text of what has no type.

use crate::{
    decode::DecodeError,
    tensor::{Parameter, Parameters},
};

use super::{
    reader::{MAX_KEYS, Reader, is_number},
    shown,
};

/// Reads the parameters of a request, an input or a requested output; `null` counts as none.
pub(super) fn parameters(
    reader: &mut Reader<'_>,
    depth: usize,
    what: &str,
) -> Result<Parameters, DecodeError> {
    let mut parameters = Parameters::new();
    if reader.is_null()? {
        return Ok(parameters);
    }
    reader.expect_object(depth, what)?;
    let mut key = reader.first_key()?;
    while let Some(name) = key {
        if parameters.iter().any(|(earlier, _)| *earlier == name) {
            return Err(DecodeError::request(format!("{what} has the key '{}' twice", shown(&name))));
        }
        if parameters.len() == MAX_KEYS {
            return Err(DecodeError::request(format!("{what} has more than {MAX_KEYS} keys")));
        }
        let value = value(reader, depth + 1, &name)?;
        parameters.push((name.into_owned(), value));
        key = reader.next_key()?;
    }
    Ok(parameters)
}

fn value(reader: &mut Reader<'_>, depth: usize, name: &str) -> Result<Parameter, DecodeError> {
    match reader.peek()? {
        b'"' => Ok(Parameter::Text(reader.string("a parameter")?.into_owned())),
        b't' | b'f' => reader.boolean("a parameter").map(Parameter::Boolean),
        first if is_number(first) => number(reader.number("a parameter")?).ok_or_else(|| {
            DecodeError::request(format!("parameter '{}' must be a finite number", shown(name)))
        }),
        _ => Ok(Parameter::Json(reader.skip(depth, false)?.to_owned())),
    }
}

/// An integer if it is written as one and fits, else a double; `None` if that is not finite.
fn number(text: &str) -> Option<Parameter> {
    let integer = || {
        let signed = text.parse().map(Parameter::Int64);
        signed.or_else(|_| text.parse().map(Parameter::Uint64)).ok()
    };
    let double = || text.parse().ok().filter(|value: &f64| value.is_finite()).map(Parameter::Double);
    integer().or_else(double)
}
