//! Tensors behind the JSON header, in V2's raw layout.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{http::Answer, model::Tensor};

use super::{
    Case,
    Outcome::{self, Kept, Skipped},
    Subject,
};

pub const CASES: &[Case] = &[
    Case { name: "binary inputs are answered as the same inputs in JSON", run: inputs },
    Case { name: "an output with binary_data comes as bytes", run: output },
    Case { name: "binary_data_output makes all outputs bytes", run: all_outputs },
    Case { name: "bytes and JSON of an output agree", run: agree },
    Case { name: "binary_data false is JSON", run: not_binary },
    Case { name: "a size that is too large or too small is a 4xx", run: sizes },
    Case { name: "bytes that are left over or missing are a 4xx", run: left_over },
    Case { name: "a header length that is none is a 4xx", run: header_lengths },
    Case { name: "data and bytes for one input are a 4xx", run: both },
    Case { name: "sizes that overflow when added are a 4xx", run: overflow },
    Case { name: "a header that ends in the middle of the JSON is a 4xx", run: cut_header },
    Case { name: "a raw request (header length 0) is the tensor alone", run: raw },
];

const LENGTH: &str = "Inference-Header-Content-Length";

fn send(subject: &Subject, length: &str, body: &[u8]) -> Result<Answer> {
    let length = format!("{LENGTH}: {length}");
    let lines = ["Content-Type: application/octet-stream", &length];
    subject.server.send("POST", &subject.model.path("infer"), &lines, body)
}

fn header(subject: &Subject) -> Value {
    json!({ "inputs": subject.model.inputs.iter().map(Tensor::to_binary).collect::<Vec<_>>() })
}

fn bytes(subject: &Subject) -> Vec<u8> {
    subject.model.inputs.iter().flat_map(Tensor::to_bytes).collect()
}

fn infer(subject: &Subject, header: &Value, bytes: &[u8]) -> Result<Answer> {
    let header = header.to_string();
    send(subject, &header.len().to_string(), &[header.as_bytes(), bytes].concat())
}

fn inputs(subject: &Subject) -> Result<Outcome> {
    if !subject.model.inputs.iter().chain(&subject.model.outputs).all(Tensor::is_plain) {
        return Ok(Skipped("the model has tensors that JSON does not carry"));
    }
    let answer = infer(subject, &header(subject), &bytes(subject))?.good()?;
    ensure!(answer["outputs"] == subject.model.answer(&subject.server)?["outputs"], "the answers differ");
    Ok(Kept)
}

/// The name of an output, and its bytes.
type Bytes = (String, Vec<u8>);

/// The header of a binary answer and the bytes of each of its outputs.
fn parts(answer: &Answer) -> Result<(Value, Vec<Bytes>)> {
    ensure!(answer.status == 200, "expected 200, got {answer}");
    let length = answer.header("inference-header-content-length").with_context(|| format!("no {LENGTH}"))?;
    let length: usize = length.parse().with_context(|| format!("{LENGTH}: {length}"))?;
    let (head, mut rest) =
        answer.body.split_at_checked(length).context("the header is longer than the body")?;
    let head: Value = serde_json::from_slice(head).context("the header is not JSON")?;
    let mut tensors = Vec::new();
    for output in head["outputs"].as_array().context("the answer has no outputs")? {
        let size = output["parameters"]["binary_data_size"].as_u64().context("no binary_data_size")?;
        ensure!(output["data"].is_null(), "an output has bytes and data");
        let size = usize::try_from(size)?;
        let (own, others) = rest.split_at_checked(size).context("the sizes add up to more than the body")?;
        tensors.push((output["name"].as_str().unwrap_or_default().to_owned(), own.to_vec()));
        rest = others;
    }
    ensure!(rest.is_empty(), "{} bytes are in no output", rest.len());
    Ok((head, tensors))
}

fn output(subject: &Subject) -> Result<Outcome> {
    let told = &subject.model.outputs[0];
    let outputs = json!([{ "name": told.name, "parameters": { "binary_data": true } }]);
    let answer =
        subject.model.infer(&subject.server, &subject.model.request_with(&json!({ "outputs": outputs })))?;
    let (head, tensors) = parts(&answer)?;
    subject.model.check(&head)?;
    let count = head["outputs"][0]["shape"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .product::<u64>();
    if let Some(size) = told.size() {
        let length = tensors[0].1.len();
        ensure!(
            length as u64 == count * size as u64,
            "{length} bytes for {count} elements of {}",
            told.datatype
        );
    }
    Ok(Kept)
}

fn all_outputs(subject: &Subject) -> Result<Outcome> {
    let request = subject.model.request_with(&json!({ "parameters": { "binary_data_output": true } }));
    let (_, tensors) = parts(&subject.model.infer(&subject.server, &request)?)?;
    ensure!(tensors.len() == subject.model.outputs.len(), "{} outputs", tensors.len());
    Ok(Kept)
}

fn agree(subject: &Subject) -> Result<Outcome> {
    let Some(told) =
        subject.model.outputs.iter().find(|told| told.datatype == "FP32" || told.datatype == "INT64")
    else {
        return Ok(Skipped("no output is FP32 or INT64"));
    };
    let ask = |binary: bool| {
        let outputs = json!([{ "name": told.name, "parameters": { "binary_data": binary } }]);
        subject.model.infer(&subject.server, &subject.model.request_with(&json!({ "outputs": outputs })))
    };
    let (_, tensors) = parts(&ask(true)?)?;
    let text = ask(false)?.good()?;
    let data = text["outputs"][0]["data"].as_array().context("no data")?.clone();
    let mut given = Vec::new();
    flatten(&data, &mut given);
    let size = told.size().unwrap_or(1);
    ensure!(
        tensors[0].1.len() == given.len() * size,
        "{} bytes, {} elements",
        tensors[0].1.len(),
        given.len()
    );
    for (bytes, element) in tensors[0].1.chunks_exact(size).zip(&given) {
        let equal = match (bytes.first_chunk::<4>(), bytes.first_chunk::<8>()) {
            (_, Some(eight)) => element.as_i64() == Some(i64::from_le_bytes(*eight)),
            #[expect(clippy::cast_possible_truncation, reason = "JSON has more digits than FP32")]
            (Some(four), None) => {
                element.as_f64().map(|value| value as f32) == Some(f32::from_le_bytes(*four))
            }
            _ => false,
        };
        ensure!(equal, "bytes {bytes:?} are {element} in JSON");
    }
    Ok(Kept)
}

/// The elements of a list, nested or flat.
pub fn flatten(list: &[Value], into: &mut Vec<Value>) {
    for entry in list {
        match entry.as_array() {
            Some(inner) => flatten(inner, into),
            None => into.push(entry.clone()),
        }
    }
}

fn not_binary(subject: &Subject) -> Result<Outcome> {
    if !subject.model.outputs[0].is_plain() {
        return Ok(Skipped("JSON does not carry the first output"));
    }
    let outputs = json!([{ "name": subject.model.outputs[0].name, "parameters": { "binary_data": false } }]);
    let answer =
        subject.model.infer(&subject.server, &subject.model.request_with(&json!({ "outputs": outputs })))?;
    ensure!(answer.good()?["outputs"][0]["data"].is_array(), "no data in {answer}");
    Ok(Kept)
}

fn sizes(subject: &Subject) -> Result<Outcome> {
    let real = i64::try_from(subject.model.inputs[0].to_bytes().len())?;
    for size in [real + 1, real - 1, real * 1000 + 1, -1, i64::MAX] {
        let mut header = header(subject);
        header["inputs"][0]["parameters"]["binary_data_size"] = json!(size);
        infer(subject, &header, &bytes(subject))?.refused(400..=499)?;
    }
    Ok(Kept)
}

fn left_over(subject: &Subject) -> Result<Outcome> {
    let whole = bytes(subject);
    infer(subject, &header(subject), &[&whole[..], b"x"].concat())?.refused(400..=499)?;
    infer(subject, &header(subject), &whole[..whole.len() - 1])?.refused(400..=499)?;
    Ok(Kept)
}

fn header_lengths(subject: &Subject) -> Result<Outcome> {
    let body = [header(subject).to_string().as_bytes(), &bytes(subject)].concat();
    for length in ["-1", "99999999", "abc", "1.5", "18446744073709551616", "0x10"] {
        let answer = send(subject, length, &body)?;
        answer.refused(400..=499).with_context(|| format!("{LENGTH}: {length}"))?;
    }
    Ok(Kept)
}

fn both(subject: &Subject) -> Result<Outcome> {
    let mut header = header(subject);
    header["inputs"][0]["data"] = subject.model.inputs[0].to_json()["data"].clone();
    infer(subject, &header, &bytes(subject))?.refused(400..=499)?;
    Ok(Kept)
}

fn overflow(subject: &Subject) -> Result<Outcome> {
    let mut header = header(subject);
    let mut second = header["inputs"][0].clone();
    header["inputs"][0]["parameters"]["binary_data_size"] = json!(u64::MAX);
    second["parameters"]["binary_data_size"] = json!(2);
    if let Some(inputs) = header["inputs"].as_array_mut() {
        inputs.push(second);
    }
    infer(subject, &header, &bytes(subject))?.refused(400..=499)?;
    Ok(Kept)
}

fn cut_header(subject: &Subject) -> Result<Outcome> {
    let header = header(subject).to_string();
    let body = [header.as_bytes(), &bytes(subject)].concat();
    send(subject, &(header.len() - 2).to_string(), &body)?.refused(400..=499)?;
    Ok(Kept)
}

fn raw(subject: &Subject) -> Result<Outcome> {
    let [input] = &subject.model.inputs[..] else { return Ok(Skipped("the model has more than one input")) };
    let variable = input.told.iter().filter(|size| **size < 0).count();
    if variable > 1 || input.datatype == "BYTES" {
        return Ok(Skipped("its shape cannot be told from its bytes"));
    }
    let (_, tensors) = parts(&send(subject, "0", &input.to_bytes())?)?;
    ensure!(tensors.len() == subject.model.outputs.len(), "{} outputs", tensors.len());
    Ok(Kept)
}
