//! Calls that must cost their sender and nobody else: each is refused in time, and the next good one is answered.

use anyhow::{Context, Result, bail};
use prost::Message;
use tonic::Code;

use super::{
    Case,
    Outcome::{self, Kept, Skipped},
    Subject,
};
use crate::grpc::{INFERENCE, messages::RequestedOutput};

pub const CASES: &[Case] = &[
    Case { name: "a message that is none", run: garbage },
    Case { name: "a field that says it is longer than the message", run: cut_off },
    Case { name: "a shape whose product overflows", run: overflow },
    Case { name: "a shape of a terabyte with one element", run: terabyte },
    Case { name: "a shape with negative dimensions", run: negative },
    Case { name: "a shape of 100,000 dimensions", run: many_dimensions },
    Case { name: "an element of BYTES that is longer than its tensor", run: long_element },
    Case { name: "10,000 requested outputs", run: many_outputs },
    Case { name: "10,000 inputs", run: many_inputs },
    Case { name: "an id of a megabyte", run: long_id },
];

/// Any status but OK will do: what a message is that is none, gRPC does not say.
fn hostile(subject: &Subject, message: Vec<u8>) -> Result<Outcome> {
    if subject.grpc()?.send::<()>(INFERENCE, "ModelInfer", message)?.is_ok() {
        bail!("expected a refusal, got OK");
    }
    alive(subject)
}

/// A request that is wrong, and told so.
fn refused(subject: &Subject, request: &impl Message) -> Result<Outcome> {
    let codes = [Code::InvalidArgument, Code::ResourceExhausted, Code::OutOfRange];
    subject.grpc()?.refused("ModelInfer", request, &codes)?;
    alive(subject)
}

fn alive(subject: &Subject) -> Result<Outcome> {
    let answer = subject.model.infer_over_grpc(subject.grpc()?, &subject.model.raw_request());
    answer.context("afterwards a good request is not answered")?;
    Ok(Kept)
}

fn garbage(subject: &Subject) -> Result<Outcome> {
    hostile(subject, b"\xff\xff\xff\xff\xff".to_vec())?;
    hostile(subject, vec![0; 10_000])
}

fn cut_off(subject: &Subject) -> Result<Outcome> {
    let whole = subject.model.raw_request().encode_to_vec();
    hostile(subject, whole[..whole.len() - 1].to_vec())?;
    // The first raw tensor would have 4 GiB.
    hostile(subject, [&whole[..], b"\x3a\xff\xff\xff\xff\x0f"].concat())
}

fn shaped(subject: &Subject, shape: &[i64]) -> Result<Outcome> {
    let mut request = subject.model.raw_request();
    request.inputs[0].shape = shape.to_vec();
    refused(subject, &request)?;
    let Some(mut request) = subject.model.typed_request() else { return Ok(Kept) };
    request.inputs[0].shape = shape.to_vec();
    refused(subject, &request)
}

fn overflow(subject: &Subject) -> Result<Outcome> {
    let rank = subject.model.inputs[0].shape.len();
    shaped(subject, &[i64::MAX, 4])?;
    shaped(subject, &[1 << 32, 1 << 32])?;
    shaped(subject, &vec![i64::MAX; rank])
}

fn terabyte(subject: &Subject) -> Result<Outcome> {
    let mut shape = subject.model.inputs[0].shape.clone();
    let Some(first) = shape.first_mut() else { return Ok(Skipped("the input has no dimension")) };
    *first = 1 << 40;
    shaped(subject, &shape)
}

fn negative(subject: &Subject) -> Result<Outcome> {
    let rank = subject.model.inputs[0].shape.len();
    shaped(subject, &vec![-1; rank])?;
    shaped(subject, &vec![i64::MIN; rank])
}

fn many_dimensions(subject: &Subject) -> Result<Outcome> {
    shaped(subject, &vec![1; 100_000])
}

fn long_element(subject: &Subject) -> Result<Outcome> {
    let Some(place) = subject.model.inputs.iter().position(|input| input.datatype == "BYTES") else {
        return Ok(Skipped("no input is BYTES"));
    };
    for length in [2u32, u32::MAX] {
        let mut request = subject.model.raw_request();
        request.raw[place][..4].copy_from_slice(&length.to_le_bytes());
        refused(subject, &request)?;
    }
    Ok(Kept)
}

fn many_outputs(subject: &Subject) -> Result<Outcome> {
    let mut request = subject.model.raw_request();
    request.outputs = vec![RequestedOutput { name: subject.model.outputs[0].name.clone() }; 10_000];
    refused(subject, &request)
}

fn many_inputs(subject: &Subject) -> Result<Outcome> {
    let mut request = subject.model.raw_request();
    request.inputs = vec![request.inputs[0].clone(); 10_000];
    request.raw = vec![request.raw[0].clone(); 10_000];
    refused(subject, &request)
}

fn long_id(subject: &Subject) -> Result<Outcome> {
    let mut request = subject.model.raw_request();
    request.id = "x".repeat(1 << 20);
    // It is long, and not wrong.
    match subject.grpc()?.call::<()>("ModelInfer", &request)? {
        Err(status) if [Code::Internal, Code::Unknown].contains(&status.code()) => {
            bail!("expected OK or a refusal, got {}", crate::grpc::shown(&status))
        }
        _ => alive(subject),
    }
}
