//! The requests that are measured, and the check of their answers.

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

/// One kind of request: `INPUT0`, FP32, sent and answered in the same form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// `[1,4]` as JSON.
    Json4,
    /// `[1,150528]`, the elements of a 224 × 224 RGB image, as JSON.
    Json150528,
    /// `[1,150528]` in the binary tensor extension.
    Binary150528,
}

impl Case {
    fn elements(self) -> usize {
        match self {
            Self::Json4 => 4,
            Self::Json150528 | Self::Binary150528 => 150_528,
        }
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
        let values = values(self.elements());
        let mut input = json!({"name": "INPUT0", "shape": [1, values.len()], "datatype": "FP32"});
        if self != Self::Binary150528 {
            // f32 and not f64, so that the digits are the shortest that name the value.
            input["data"] = values.iter().map(|value| number(*value)).collect();
            return (None, json!({"inputs": [input]}).to_string().into_bytes());
        }
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        input["parameters"] = json!({"binary_data_size": raw.len()});
        let mut body =
            json!({"inputs": [input], "parameters": {"binary_data_output": true}}).to_string().into_bytes();
        let header_length = body.len();
        body.extend_from_slice(&raw);
        (Some(header_length), body)
    }

    /// Fails unless the answer carries `OUTPUT0` with exactly the values that were sent.
    pub fn check(self, header_length: Option<usize>, body: &[u8]) -> Result<()> {
        let (text, raw) = match header_length {
            Some(length) => body.split_at_checked(length).context("the header is longer than the body")?,
            None => (body, &body[..0]),
        };
        let document: Value = serde_json::from_slice(text).context("the answer is not JSON")?;
        let output = &document["outputs"][0];
        let sent = values(self.elements());
        ensure!(output["name"] == "OUTPUT0" && output["datatype"] == "FP32", "not OUTPUT0 of FP32");
        ensure!(output["shape"] == json!([1, sent.len()]), "shape {}", output["shape"]);
        let got: Vec<f32> = match (self, &output["data"]) {
            (Self::Binary150528, Value::Null) => {
                ensure!(output["parameters"]["binary_data_size"] == raw.len(), "binary_data_size is wrong");
                raw.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
            }
            (Self::Json4 | Self::Json150528, Value::Array(data)) => {
                let text = Value::Array(data.clone()).to_string();
                serde_json::from_str(&text).context("the data are not numbers")?
            }
            _ => bail!("the answer is in the other form"),
        };
        ensure!(got == sent, "the values are not those that were sent");
        Ok(())
    }
}

fn number(value: f32) -> Value {
    let text = serde_json::to_string(&value).expect("the values are finite");
    serde_json::from_str(&text).expect("it was just written")
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

    const CASES: [Case; 3] = [Case::Json4, Case::Json150528, Case::Binary150528];

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
    fn an_identity_answer_is_right() {
        for case in CASES {
            let (header_length, body) = answer(case);
            case.check(header_length, &body).expect("an identity model's answer");
        }
    }

    #[test]
    fn a_changed_answer_is_wrong() {
        for case in CASES {
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
    fn json_carries_the_shortest_digits() {
        let (_, body) = Case::Json150528.body();
        // 150528 numbers of at most 9 significant digits, a point, a sign and a comma each.
        assert!(body.len() < 150_528 * 13, "{} bytes", body.len());
    }
}
