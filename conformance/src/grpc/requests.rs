//! Requests to the model that the suite calls, all of their elements 1, and what their answers have to be.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    Grpc,
    messages::{Contents, InferRequest, InferResponse, InferTensor, ModelVersion},
};
use crate::model::{Model, Tensor};

impl Tensor {
    /// The input without elements.
    pub fn to_message(&self) -> InferTensor {
        InferTensor {
            name: self.name.clone(),
            datatype: self.datatype.clone(),
            shape: self.shape.clone(),
            ..InferTensor::default()
        }
    }

    /// The input with typed elements; none for a datatype that travels raw only.
    pub fn to_typed(&self) -> Option<InferTensor> {
        self.to_typed_of(self.count())
    }

    /// The same with so many elements, whatever its shape says.
    pub fn to_typed_of(&self, count: usize) -> Option<InferTensor> {
        let mut contents = Contents::default();
        match self.datatype.as_str() {
            "BOOL" => contents.bools = vec![true; count],
            "INT8" | "INT16" | "INT32" => contents.ints = vec![1; count],
            "INT64" => contents.int64s = vec![1; count],
            "UINT8" | "UINT16" | "UINT32" => contents.uints = vec![1; count],
            "UINT64" => contents.uint64s = vec![1; count],
            "FP32" => contents.fp32s = vec![1.0; count],
            "FP64" => contents.fp64s = vec![1.0; count],
            "BYTES" => contents.bytes = vec![b"1".to_vec(); count],
            _ => return None,
        }
        Some(InferTensor { contents: Some(contents), ..self.to_message() })
    }
}

impl Model {
    /// A request that the model answers, its tensors raw.
    pub fn raw_request(&self) -> InferRequest {
        InferRequest {
            model_name: self.name.clone(),
            inputs: self.inputs.iter().map(Tensor::to_message).collect(),
            raw: self.inputs.iter().map(Tensor::to_bytes).collect(),
            ..InferRequest::default()
        }
    }

    /// The same with typed tensors; none if one has a datatype that travels raw only.
    pub fn typed_request(&self) -> Option<InferRequest> {
        let inputs = self.inputs.iter().map(Tensor::to_typed).collect::<Option<Vec<_>>>()?;
        Some(InferRequest { model_name: self.name.clone(), inputs, ..InferRequest::default() })
    }

    /// Calls the model; the answer has to fit the metadata.
    pub fn infer_over_grpc(&self, grpc: &Grpc, request: &InferRequest) -> Result<InferResponse> {
        let answer: InferResponse = grpc.ask("ModelInfer", request)?;
        self.check(&to_json(&answer)?)?;
        Ok(answer)
    }
}

/// A model and a version of it, none if it is empty.
pub fn named(name: &str, version: &str) -> ModelVersion {
    ModelVersion { name: name.to_owned(), version: version.to_owned() }
}

/// The answer as REST would have it, whichever form its outputs have.
pub fn to_json(answer: &InferResponse) -> Result<Value> {
    ensure!(
        answer.raw.is_empty() || answer.raw.len() == answer.outputs.len(),
        "{} raw tensors for {} outputs",
        answer.raw.len(),
        answer.outputs.len()
    );
    let mut outputs = Vec::new();
    for (place, output) in answer.outputs.iter().enumerate() {
        // MLServer sends an empty one beside raw tensors, which says nothing.
        let contents = output.contents.as_ref().filter(|contents| **contents != Contents::default());
        let data = match (answer.raw.get(place), contents) {
            (Some(_), Some(_)) => bail!("'{}' is raw and typed", output.name),
            (Some(raw), None) => {
                elements(&output.datatype, raw).with_context(|| format!("'{}'", output.name))?
            }
            (None, contents) => contents.map(typed).unwrap_or_default(),
        };
        outputs.push(json!({
            "name": output.name, "datatype": output.datatype, "shape": output.shape, "data": data,
        }));
    }
    Ok(json!({ "model_name": answer.model_name, "model_version": answer.model_version, "outputs": outputs }))
}

fn typed(contents: &Contents) -> Vec<Value> {
    let text = |bytes: &Vec<u8>| json!(String::from_utf8_lossy(bytes));
    let lists: [Vec<Value>; 8] = [
        contents.bools.iter().map(|value| json!(value)).collect(),
        contents.ints.iter().map(|value| json!(value)).collect(),
        contents.int64s.iter().map(|value| json!(value)).collect(),
        contents.uints.iter().map(|value| json!(value)).collect(),
        contents.uint64s.iter().map(|value| json!(value)).collect(),
        contents.fp32s.iter().map(|value| json!(f64::from(*value))).collect(),
        contents.fp64s.iter().map(|value| json!(value)).collect(),
        contents.bytes.iter().map(text).collect(),
    ];
    lists.concat()
}

/// The elements of a raw tensor.
fn elements(datatype: &str, raw: &[u8]) -> Result<Vec<Value>> {
    fn each<const N: usize>(raw: &[u8], value: impl Fn([u8; N]) -> Value) -> Result<Vec<Value>> {
        let (elements, rest) = raw.as_chunks::<N>();
        ensure!(rest.is_empty(), "{} bytes are no multiple of {N}", raw.len());
        Ok(elements.iter().map(|bytes| value(*bytes)).collect())
    }
    match datatype {
        "BOOL" => each(raw, |[byte]| json!(byte != 0)),
        "UINT8" => each(raw, |bytes| json!(u8::from_le_bytes(bytes))),
        "UINT16" => each(raw, |bytes| json!(u16::from_le_bytes(bytes))),
        "UINT32" => each(raw, |bytes| json!(u32::from_le_bytes(bytes))),
        "UINT64" => each(raw, |bytes| json!(u64::from_le_bytes(bytes))),
        "INT8" => each(raw, |bytes| json!(i8::from_le_bytes(bytes))),
        "INT16" => each(raw, |bytes| json!(i16::from_le_bytes(bytes))),
        "INT32" => each(raw, |bytes| json!(i32::from_le_bytes(bytes))),
        "INT64" => each(raw, |bytes| json!(i64::from_le_bytes(bytes))),
        "FP32" => each(raw, |bytes| json!(f64::from(f32::from_le_bytes(bytes)))),
        "FP64" => each(raw, |bytes| json!(f64::from_le_bytes(bytes))),
        // Their bits are as good as their values where only counts and equality matter.
        "FP16" | "BF16" => each(raw, |bytes| json!(u16::from_le_bytes(bytes))),
        "BYTES" => texts(raw),
        _ => bail!("datatype '{datatype}'"),
    }
}

fn texts(mut raw: &[u8]) -> Result<Vec<Value>> {
    let mut texts = Vec::new();
    while !raw.is_empty() {
        let (length, rest) = raw.split_first_chunk::<4>().context("a length is cut off")?;
        let length = usize::try_from(u32::from_le_bytes(*length))?;
        let (text, rest) = rest.split_at_checked(length).context("an element is cut off")?;
        texts.push(json!(String::from_utf8_lossy(text)));
        raw = rest;
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(datatype: &str, raw: &[u8]) -> InferResponse {
        let output = InferTensor { datatype: datatype.into(), shape: vec![2], ..InferTensor::default() };
        InferResponse { outputs: vec![output], raw: vec![raw.to_vec()], ..InferResponse::default() }
    }

    #[test]
    fn raw_and_typed_elements_are_the_same_in_json() {
        for (datatype, raw, expected) in [
            ("INT16", &b"\x01\0\xff\xff"[..], json!([1, -1])),
            ("FP32", b"\0\0\x80\x3f\0\0\0\0", json!([1.0, 0.0])),
            ("BOOL", b"\x01\0", json!([true, false])),
            ("BYTES", b"\x01\0\0\0a\0\0\0\0", json!(["a", ""])),
        ] {
            let answer = to_json(&answer(datatype, raw)).expect("an answer");
            assert_eq!(answer["outputs"][0]["data"], expected);
        }
        let contents = Contents { ints: vec![1, -1], ..Contents::default() };
        assert_eq!(json!(typed(&contents)), json!([1, -1]));
    }

    #[test]
    fn bytes_that_do_not_fit_are_no_answer() {
        for (datatype, raw) in
            [("FP32", &b"\0\0\x80"[..]), ("BYTES", b"\x02\0\0\0a"), ("BYTES", b"\x02\0"), ("X", b"")]
        {
            assert!(to_json(&answer(datatype, raw)).is_err(), "{datatype}");
        }
        let mut two = answer("INT8", b"\0\0");
        two.raw.push(Vec::new());
        assert!(to_json(&two).is_err());
    }
}
