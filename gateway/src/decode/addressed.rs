//! What of a request's parameters is addressed to the gateway and not to the model, however the request was written.

use std::time::Duration;

use crate::{
    reply::{Reply, RequestedOutput},
    tensor::{Datatype, Parameter, Parameters},
};

use super::error::{DecodeError, shown};

/// The parameters of a request, taken apart.
#[derive(Debug, Default)]
pub(super) struct Addressed {
    /// What the model is told.
    pub parameters: Parameters,
    pub timeout: Option<Duration>,
    /// As far as parameters of the request say it.
    pub reply: Reply,
}

/// Keeps what the model is told, takes out what is addressed to the gateway.
pub(super) fn take(mut parameters: Parameters) -> Result<Addressed, DecodeError> {
    if let Some((name, _)) = parameters.iter().find(|(name, _)| name.starts_with("triton_")) {
        let name = shown(name);
        return Err(DecodeError::request(format!(
            "parameter '{name}': names that start with 'triton_' are reserved"
        )));
    }
    let binary_default = flag(&mut parameters, "binary_data_output")?.unwrap_or(false);
    let timeout = take_one(&mut parameters, "timeout").map(|value| timeout(&value)).transpose()?.flatten();
    Ok(Addressed { parameters, timeout, reply: Reply { binary_default, ..Reply::default() } })
}

/// The request's time limit, in microseconds on the wire.
fn timeout(value: &Parameter) -> Result<Option<Duration>, DecodeError> {
    let micros = match value {
        Parameter::Int64(micros) => u64::try_from(*micros).ok(),
        Parameter::Uint64(micros) => Some(*micros),
        Parameter::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    let Some(micros) = micros else {
        return Err(DecodeError::request(
            "parameter 'timeout' must be a whole number of microseconds, 0 for none",
        ));
    };
    Ok((micros > 0).then(|| Duration::from_micros(micros)))
}

fn flag(parameters: &mut Parameters, name: &str) -> Result<Option<bool>, DecodeError> {
    match take_one(parameters, name) {
        None => Ok(None),
        Some(Parameter::Boolean(value)) => Ok(Some(value)),
        Some(_) => Err(DecodeError::request(format!("parameter '{name}' must be true or false"))),
    }
}

/// Removes a parameter that is addressed to the gateway.
pub(super) fn take_one(parameters: &mut Parameters, name: &str) -> Option<Parameter> {
    let position = parameters.iter().position(|(key, _)| key == name)?;
    Some(parameters.remove(position).1)
}

/// An output that is asked for, with its parameters.
pub(super) fn requested_output(
    name: String,
    mut settings: Parameters,
) -> Result<RequestedOutput, DecodeError> {
    refuse_shared_memory(&settings).map_err(|reason| DecodeError::output(&name, reason))?;
    if settings.iter().any(|(key, _)| key == "classification") {
        return Err(DecodeError::output(&name, "the parameter 'classification' is not offered"));
    }
    let binary = flag(&mut settings, "binary_data")
        .map_err(|_| DecodeError::output(&name, "the parameter 'binary_data' must be true or false"))?;
    Ok(RequestedOutput { name, binary })
}

pub(super) fn refuse_shared_memory(parameters: &Parameters) -> Result<(), String> {
    match parameters.iter().find(|(key, _)| key.starts_with("shared_memory_")) {
        None => Ok(()),
        Some(_) => Err("shared memory is not offered: send the tensor in the request".into()),
    }
}

pub(super) fn datatype(text: &str) -> Result<Datatype, DecodeError> {
    Datatype::from_name(text).ok_or_else(|| {
        let known: Vec<&str> = Datatype::ALL.into_iter().map(Datatype::name).collect();
        DecodeError::request(format!(
            "there is no datatype '{}', use one of {}",
            shown(text),
            known.join(", ")
        ))
    })
}
