//! What is wrong with a call is the client's fault, and told by its status.

use anyhow::{Context, Result, ensure};
use tonic::Code;

use super::{
    Case,
    Outcome::{self, Kept, Skipped},
    Subject,
};
use crate::grpc::{
    self,
    messages::{Contents, InferRequest, InferTensor, ModelMetadata, RequestedOutput, Said},
    requests::named,
};

pub const CASES: &[Case] = &[
    Case {
        name: "an unknown model is NOT_FOUND: ModelMetadata, ModelInfer; and not ready",
        run: unknown_model,
    },
    Case { name: "an unknown version is NOT_FOUND", run: unknown_version },
    Case { name: "an unknown call is UNIMPLEMENTED", run: unknown_call },
    Case { name: "a request without inputs is INVALID_ARGUMENT", run: no_inputs },
    Case { name: "a missing input is INVALID_ARGUMENT", run: missing_input },
    Case { name: "an input that the model has not is INVALID_ARGUMENT", run: extra_input },
    Case { name: "the same input twice is INVALID_ARGUMENT", run: twice },
    Case { name: "an output that the model has not is INVALID_ARGUMENT", run: unknown_output },
    Case { name: "another datatype is INVALID_ARGUMENT", run: other_datatype },
    Case { name: "another rank is INVALID_ARGUMENT", run: other_rank },
    Case { name: "bytes that are left over or missing are INVALID_ARGUMENT", run: miscounted_bytes },
    Case { name: "too few and too many typed elements are INVALID_ARGUMENT", run: miscounted },
    Case { name: "elements in another datatype's field are INVALID_ARGUMENT", run: other_field },
    Case { name: "raw and typed tensors in one request are INVALID_ARGUMENT", run: both },
    Case { name: "more or fewer raw tensors than inputs are INVALID_ARGUMENT", run: raw_count },
    Case { name: "an input without elements is INVALID_ARGUMENT", run: neither },
    Case { name: "integers beyond the datatype are INVALID_ARGUMENT", run: out_of_range },
];

fn faulty(subject: &Subject, request: &InferRequest) -> Result<Outcome> {
    subject.grpc()?.refused("ModelInfer", request, &[Code::InvalidArgument])?;
    Ok(Kept)
}

fn unknown_model(subject: &Subject) -> Result<Outcome> {
    let (grpc, unknown) = (subject.grpc()?, named("no-such-model", ""));
    grpc::refused(
        "ModelMetadata",
        grpc.call::<ModelMetadata>("ModelMetadata", &unknown)?,
        &[Code::NotFound],
    )?;
    match grpc.call::<Said>("ModelReady", &unknown)? {
        Ok(said) => ensure!(!said.yes, "a model that there is not is ready"),
        reply => grpc::refused("ModelReady", reply, &[Code::NotFound])?,
    }
    let request = InferRequest { model_name: unknown.name, ..subject.model.raw_request() };
    grpc.refused("ModelInfer", &request, &[Code::NotFound])?;
    Ok(Kept)
}

fn unknown_version(subject: &Subject) -> Result<Outcome> {
    let version = "987654321";
    let metadata = named(&subject.model.name, version);
    subject.grpc()?.refused("ModelMetadata", &metadata, &[Code::NotFound])?;
    let request = InferRequest { model_version: version.to_owned(), ..subject.model.raw_request() };
    subject.grpc()?.refused("ModelInfer", &request, &[Code::NotFound])?;
    Ok(Kept)
}

fn unknown_call(subject: &Subject) -> Result<Outcome> {
    for service in [grpc::INFERENCE, "no.such.Service"] {
        let reply = subject.grpc()?.send::<()>(service, "NoSuchCall", Vec::new())?;
        grpc::refused(service, reply, &[Code::Unimplemented])?;
    }
    Ok(Kept)
}

fn no_inputs(subject: &Subject) -> Result<Outcome> {
    faulty(subject, &InferRequest { inputs: Vec::new(), raw: Vec::new(), ..subject.model.raw_request() })
}

fn missing_input(subject: &Subject) -> Result<Outcome> {
    if subject.model.inputs.len() < 2 {
        return Ok(Skipped("the model has one input"));
    }
    let mut request = subject.model.raw_request();
    request.inputs.pop();
    request.raw.pop();
    faulty(subject, &request)
}

fn extra_input(subject: &Subject) -> Result<Outcome> {
    let mut request = subject.model.raw_request();
    request.inputs.push(InferTensor { name: "no-such-input".into(), ..request.inputs[0].clone() });
    request.raw.push(request.raw[0].clone());
    faulty(subject, &request)
}

fn twice(subject: &Subject) -> Result<Outcome> {
    let mut request = subject.model.raw_request();
    request.inputs.push(request.inputs[0].clone());
    request.raw.push(request.raw[0].clone());
    faulty(subject, &request)
}

fn unknown_output(subject: &Subject) -> Result<Outcome> {
    let mut request = subject.model.raw_request();
    request.outputs.push(RequestedOutput { name: "no-such-output".into() });
    faulty(subject, &request)
}

fn other_datatype(subject: &Subject) -> Result<Outcome> {
    let mut request = subject.model.raw_request();
    let other = if request.inputs[0].datatype == "INT16" { "INT32" } else { "INT16" };
    for datatype in [other, "FLOAT", "fp32", ""] {
        request.inputs[0].datatype = datatype.into();
        faulty(subject, &request)?;
    }
    Ok(Kept)
}

fn other_rank(subject: &Subject) -> Result<Outcome> {
    let mut request = subject.model.raw_request();
    // As many elements as before.
    request.inputs[0].shape = [vec![1; 3], subject.model.inputs[0].shape.clone()].concat();
    faulty(subject, &request)
}

fn miscounted_bytes(subject: &Subject) -> Result<Outcome> {
    let mut request = subject.model.raw_request();
    let whole = request.raw[0].clone();
    for bytes in [[&whole[..], b"x"].concat(), whole[..whole.len() - 1].to_vec(), Vec::new()] {
        request.raw[0] = bytes;
        faulty(subject, &request)?;
    }
    Ok(Kept)
}

const RAW_ONLY: Outcome = Skipped("the model has an input that travels raw only");

fn miscounted(subject: &Subject) -> Result<Outcome> {
    let Some(mut request) = subject.model.typed_request() else { return Ok(RAW_ONLY) };
    let input = &subject.model.inputs[0];
    let count = input.count();
    for wrong in [count + 1, count * 1000 + 1, count.saturating_sub(1)] {
        request.inputs[0] = input.to_typed_of(wrong).context("it is typed")?;
        faulty(subject, &request)?;
    }
    Ok(Kept)
}

fn other_field(subject: &Subject) -> Result<Outcome> {
    let Some(mut request) = subject.model.typed_request() else { return Ok(RAW_ONLY) };
    let count = subject.model.inputs[0].count();
    let other = if subject.model.inputs[0].datatype == "UINT64" {
        Contents { int64s: vec![1; count], ..Contents::default() }
    } else {
        Contents { uint64s: vec![1; count], ..Contents::default() }
    };
    request.inputs[0].contents = Some(other);
    faulty(subject, &request)
}

fn both(subject: &Subject) -> Result<Outcome> {
    let Some(mut request) = subject.model.typed_request() else { return Ok(RAW_ONLY) };
    request.raw = subject.model.raw_request().raw;
    faulty(subject, &request)
}

fn raw_count(subject: &Subject) -> Result<Outcome> {
    let mut request = subject.model.raw_request();
    request.raw.push(request.raw[0].clone());
    faulty(subject, &request)?;
    let mut request = subject.model.raw_request();
    request.raw.pop();
    faulty(subject, &request)
}

fn neither(subject: &Subject) -> Result<Outcome> {
    faulty(subject, &InferRequest { raw: Vec::new(), ..subject.model.raw_request() })
}

fn out_of_range(subject: &Subject) -> Result<Outcome> {
    let input = &subject.model.inputs[0];
    let count = input.count();
    let ints = |value| Contents { ints: vec![value; count], ..Contents::default() };
    let uints = |value| Contents { uints: vec![value; count], ..Contents::default() };
    let beyond = match input.datatype.as_str() {
        "UINT8" => vec![uints(256), uints(u32::MAX)],
        "UINT16" => vec![uints(65_536)],
        "INT8" => vec![ints(128), ints(-129)],
        "INT16" => vec![ints(32_768), ints(-32_769)],
        _ => return Ok(Skipped("the field of the first input holds nothing beyond its datatype")),
    };
    for contents in beyond {
        let mut request = subject.model.typed_request().context("integers are typed")?;
        request.inputs[0].contents = Some(contents);
        faulty(subject, &request)?;
    }
    Ok(Kept)
}
