//! The requests that are measured, and the check of their answers.

use std::{fmt, str::FromStr};

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use serde::Serialize;
use serde_json::{Value, json};

/// How a request carries its tensor; the answer carries it in the same form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON numbers.
    Json,
    /// The binary tensor extension.
    Binary,
    /// `ModelInfer` of gRPC, with `raw_input_contents`.
    Grpc,
}

/// One kind of request: `INPUT0`, FP32 `[1,elements]`. Written `json4`, `binary150528` or `grpc16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub form: Form,
    pub elements: usize,
}

const FORMS: [(&str, Form); 3] = [("json", Form::Json), ("binary", Form::Binary), ("grpc", Form::Grpc)];

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        FORMS
            .iter()
            .find_map(|(name, form)| {
                let elements = text.strip_prefix(name)?.parse().ok()?;
                (elements > 0).then_some(Self { form: *form, elements })
            })
            .ok_or_else(|| format!("'{text}' is not json, binary or grpc and a number of elements: json4"))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = FORMS.iter().find(|(_, form)| *form == self.form).map_or("", |(name, _)| name);
        write!(f, "{name}{}", self.elements)
    }
}

/// `ModelInferRequest` of the V2 protocol, as far as it is needed.
#[derive(Clone, PartialEq, Message)]
struct InferRequest {
    #[prost(string, tag = "1")]
    model_name: String,
    #[prost(message, repeated, tag = "5")]
    inputs: Vec<TensorHead>,
    #[prost(bytes = "vec", repeated, tag = "7")]
    raw_input_contents: Vec<Vec<u8>>,
}

/// `ModelInferResponse`, likewise.
#[derive(Clone, PartialEq, Message)]
struct InferResponse {
    #[prost(message, repeated, tag = "5")]
    outputs: Vec<TensorHead>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    raw_output_contents: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorHead {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    datatype: String,
    #[prost(int64, repeated, tag = "3")]
    shape: Vec<i64>,
}

/// An input over REST, its fields in the order in which Triton's client writes them.
#[derive(Serialize)]
struct Input {
    name: &'static str,
    shape: [usize; 2],
    datatype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Value>,
    /// FP32 as it is, so that the digits are the shortest that name the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Vec<f32>>,
}

impl Case {
    fn raw(self) -> Vec<u8> {
        values(self.elements).iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// A whole HTTP/1.1 request to `POST path`, ready to be written.
    pub fn request(self, host: &str, path: &str) -> Vec<u8> {
        let (header_length, body) = self.body();
        let binary = header_length.map_or(String::new(), |length| {
            format!("Inference-Header-Content-Length: {length}\r\nContent-Type: application/octet-stream\r\n")
        });
        let mut request =
            format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{binary}Content-Length: {}\r\n\r\n", body.len())
                .into_bytes();
        request.extend_from_slice(&body);
        request
    }

    fn body(self) -> (Option<usize>, Vec<u8>) {
        let raw = self.raw();
        let json = self.form == Form::Json;
        let input = Input {
            name: "INPUT0",
            shape: [1, self.elements],
            datatype: "FP32",
            parameters: (!json).then(|| json!({"binary_data_size": raw.len()})),
            data: json.then(|| values(self.elements)),
        };
        let input = serde_json::to_string(&input).expect("the values are finite");
        if json {
            return (None, format!("{{\"inputs\":[{input}]}}").into_bytes());
        }
        let mut body =
            format!("{{\"inputs\":[{input}],\"parameters\":{{\"binary_data_output\":true}}}}").into_bytes();
        let header_length = body.len();
        body.extend_from_slice(&raw);
        (Some(header_length), body)
    }

    /// The `ModelInferRequest` for a model.
    pub fn message(self, model: &str) -> Vec<u8> {
        let shape = vec![1, i64::try_from(self.elements).unwrap_or(i64::MAX)];
        let input = TensorHead { name: "INPUT0".into(), datatype: "FP32".into(), shape };
        let request = InferRequest {
            model_name: model.to_owned(),
            inputs: vec![input],
            raw_input_contents: vec![self.raw()],
        };
        request.encode_to_vec()
    }

    /// Fails unless the HTTP answer carries `OUTPUT0` with exactly the values that were sent.
    pub fn check(self, header_length: Option<usize>, body: &[u8]) -> Result<()> {
        let (text, raw) = match header_length {
            Some(length) => body.split_at_checked(length).context("the header is longer than the body")?,
            None => (body, &body[..0]),
        };
        let document: Value = serde_json::from_slice(text).context("the answer is not JSON")?;
        let output = &document["outputs"][0];
        ensure!(output["name"] == "OUTPUT0" && output["datatype"] == "FP32", "not OUTPUT0 of FP32");
        ensure!(output["shape"] == json!([1, self.elements]), "shape {}", output["shape"]);
        match (self.form, &output["data"]) {
            (Form::Binary, Value::Null) => {
                ensure!(output["parameters"]["binary_data_size"] == raw.len(), "binary_data_size is wrong");
                ensure!(raw == self.raw(), "the values are not those that were sent");
            }
            (Form::Json, Value::Array(data)) => {
                let text = Value::Array(data.clone()).to_string();
                let got: Vec<f32> = serde_json::from_str(&text).context("the data are not numbers")?;
                ensure!(got == values(self.elements), "the values are not those that were sent");
            }
            _ => bail!("the answer is in the other form"),
        }
        Ok(())
    }

    /// The same for a `ModelInferResponse`.
    pub fn check_message(self, message: &[u8]) -> Result<()> {
        let response = InferResponse::decode(message).context("the answer is not a ModelInferResponse")?;
        let output = response.outputs.first().context("the answer has no output")?;
        ensure!(output.name == "OUTPUT0" && output.datatype == "FP32", "not OUTPUT0 of FP32");
        let elements = i64::try_from(self.elements)?;
        ensure!(output.shape == [1, elements], "shape {:?}", output.shape);
        ensure!(response.raw_output_contents == [self.raw()], "the values are not those that were sent");
        Ok(())
    }
}

/// Values between -4 and 4 with all their digits, the same in every run (a linear congruential generator).
fn values(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as u32) as f32 / (1 << 21) as f32 - 4.0
    })
    .take(count)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: [&str; 3] = ["json4", "json150528", "binary150528"];

    fn case(text: &str) -> Case {
        text.parse().expect("a case")
    }

    /// What an identity model answers to the case's request.
    fn answer(case: Case) -> (Option<usize>, Vec<u8>) {
        let (header_length, body) = case.body();
        let text = &body[..header_length.unwrap_or(body.len())];
        let request: Value = serde_json::from_slice(text).expect("the request is JSON");
        let mut output = request["inputs"][0].clone();
        output["name"] = "OUTPUT0".into();
        let mut answer = json!({"model_name": "identity", "outputs": [output]}).to_string().into_bytes();
        let length = answer.len();
        answer.extend_from_slice(&body[text.len()..]);
        (header_length.map(|_| length), answer)
    }

    #[test]
    fn a_case_is_a_form_and_a_number_of_elements() {
        for text in ["json4", "binary1048576", "grpc16"] {
            assert_eq!(case(text).to_string(), text);
        }
        for text in ["json", "json0", "json-1", "4", "xml4"] {
            assert!(text.parse::<Case>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_identity_answer_is_right() {
        for case in CASES.map(case) {
            let (header_length, body) = answer(case);
            case.check(header_length, &body).expect("an identity model's answer");
        }
    }

    #[test]
    fn a_changed_answer_is_wrong() {
        for case in CASES.map(case) {
            let (header_length, mut body) = answer(case);
            if header_length.is_some() {
                *body.last_mut().expect("a body") ^= 1;
            } else {
                let text = String::from_utf8(body).expect("JSON").replacen("\"data\":[", "\"data\":[0.5,", 1);
                body = text.into_bytes();
            }
            assert!(case.check(header_length, &body).is_err(), "{case:?}");
        }
    }

    #[test]
    fn a_message_is_answered_by_the_same_values_as_an_output() {
        let case = case("grpc16");
        let request = InferRequest::decode(&case.message("m")[..]).expect("a request");
        assert_eq!((request.model_name.as_str(), request.inputs[0].shape.as_slice()), ("m", &[1, 16][..]));
        let output = TensorHead { name: "OUTPUT0".into(), ..request.inputs[0].clone() };
        let mut response =
            InferResponse { outputs: vec![output], raw_output_contents: request.raw_input_contents };
        case.check_message(&response.encode_to_vec()).expect("an identity model's answer");
        response.raw_output_contents[0][63] ^= 1;
        assert!(case.check_message(&response.encode_to_vec()).is_err());
    }

    #[test]
    fn json_carries_the_shortest_digits() {
        let (_, body) = case("json150528").body();
        // 150528 numbers of at most 9 significant digits, a point, a sign and a comma each.
        assert!(body.len() < 150_528 * 13, "{} bytes", body.len());
    }
}
