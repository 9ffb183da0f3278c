//! The model that the suite calls: any one, as its metadata describe it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::http::{Answer, Server};

/// A tensor of a model: its shape with 1 for each variable dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    pub datatype: String,
    /// As told, -1 for what is variable.
    pub told: Vec<i64>,
    pub shape: Vec<i64>,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub name: String,
    pub versions: Vec<String>,
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<Tensor>,
}

/// Name, bytes of an element, and a value of it as JSON.
const DATATYPES: [(&str, usize, &str); 14] = [
    ("BOOL", 1, "true"),
    ("UINT8", 1, "1"),
    ("UINT16", 2, "1"),
    ("UINT32", 4, "1"),
    ("UINT64", 8, "1"),
    ("INT8", 1, "1"),
    ("INT16", 2, "1"),
    ("INT32", 4, "1"),
    ("INT64", 8, "1"),
    ("FP16", 2, "1"),
    ("BF16", 2, "1"),
    ("FP32", 4, "1"),
    ("FP64", 8, "1"),
    ("BYTES", 0, "\"1\""),
];

impl Tensor {
    fn new(told: &Value) -> Result<Self> {
        let name = told["name"].as_str().context("a tensor without a name")?.to_owned();
        let datatype = told["datatype"].as_str().with_context(|| format!("'{name}' has no datatype"))?;
        ensure!(DATATYPES.iter().any(|known| known.0 == datatype), "'{name}' is of datatype '{datatype}'");
        let shape = told["shape"].as_array().with_context(|| format!("'{name}' has no shape"))?;
        let told: Option<Vec<i64>> = shape.iter().map(Value::as_i64).collect();
        let told = told.with_context(|| format!("the shape of '{name}' is not of integers"))?;
        ensure!(told.iter().all(|size| *size >= -1), "'{name}' has shape {told:?}");
        let shape = told.iter().map(|size| if *size < 0 { 1 } else { *size }).collect();
        Ok(Self { name, datatype: datatype.to_owned(), told, shape })
    }

    pub fn count(&self) -> usize {
        usize::try_from(self.shape.iter().product::<i64>()).unwrap_or(usize::MAX)
    }

    /// Bytes of an element; none if each has its own.
    pub fn size(&self) -> Option<usize> {
        DATATYPES.iter().find(|known| known.0 == self.datatype).map(|known| known.1).filter(|size| *size > 0)
    }

    /// Whether JSON carries it with every server.
    pub fn is_plain(&self) -> bool {
        !matches!(self.datatype.as_str(), "FP16" | "BF16")
    }

    pub fn is_numeric(&self) -> bool {
        self.is_plain() && !matches!(self.datatype.as_str(), "BOOL" | "BYTES")
    }

    fn value(&self) -> Value {
        let known = DATATYPES.iter().find(|known| known.0 == self.datatype);
        known.and_then(|known| serde_json::from_str(known.2).ok()).unwrap_or_default()
    }

    /// An input in the form of JSON, all of its elements 1.
    pub fn to_json(&self) -> Value {
        let data = vec![self.value(); self.count()];
        json!({ "name": self.name, "datatype": self.datatype, "shape": self.shape, "data": data })
    }

    /// The same elements in V2's raw layout.
    pub fn to_bytes(&self) -> Vec<u8> {
        let element: Vec<u8> = match self.datatype.as_str() {
            "BYTES" => [&1u32.to_le_bytes()[..], b"1"].concat(),
            "FP16" => vec![0x00, 0x3c],
            "BF16" => vec![0x80, 0x3f],
            "FP32" => 1f32.to_le_bytes().to_vec(),
            "FP64" => 1f64.to_le_bytes().to_vec(),
            _ => {
                let mut bytes = vec![0; self.size().unwrap_or(1)];
                bytes[0] = 1;
                bytes
            }
        };
        element.repeat(self.count())
    }

    /// The input as its binary form announces it.
    pub fn to_binary(&self) -> Value {
        json!({ "name": self.name, "datatype": self.datatype, "shape": self.shape,
                "parameters": { "binary_data_size": self.to_bytes().len() } })
    }
}

impl Model {
    /// Asks the server for the model.
    pub fn ask(server: &Server, name: &str) -> Result<Self> {
        let metadata = server.get(&format!("/v2/models/{name}"))?.good()?;
        ensure!(metadata["name"] == name, "the metadata of '{name}' are those of {}", metadata["name"]);
        let tensors = |key: &str| {
            let list = metadata[key].as_array().with_context(|| format!("the metadata have no '{key}'"))?;
            list.iter().map(Tensor::new).collect::<Result<Vec<Tensor>>>()
        };
        let versions = metadata["versions"].as_array().into_iter().flatten();
        let versions =
            versions.map(|version| version.as_str().map(str::to_owned).context("a version that is no text"));
        Ok(Self {
            name: name.to_owned(),
            versions: versions.collect::<Result<_>>()?,
            inputs: tensors("inputs")?,
            outputs: tensors("outputs")?,
        })
    }

    pub fn path(&self, what: &str) -> String {
        let name = &self.name;
        if what.is_empty() { format!("/v2/models/{name}") } else { format!("/v2/models/{name}/{what}") }
    }

    /// A request that the model answers.
    pub fn request(&self) -> Value {
        json!({ "inputs": self.inputs.iter().map(Tensor::to_json).collect::<Vec<_>>() })
    }

    /// The same with more fields, or other ones.
    pub fn request_with(&self, more: &Value) -> Value {
        let mut request = self.request();
        for (key, value) in more.as_object().into_iter().flatten() {
            request[key] = value.clone();
        }
        request
    }

    /// The same with another first input.
    pub fn request_of(&self, first: &Value) -> Value {
        let mut request = self.request();
        request["inputs"][0] = first.clone();
        request
    }

    pub fn infer(&self, server: &Server, request: &Value) -> Result<Answer> {
        server.post(&self.path("infer"), request)
    }

    /// The answer to the plain request, which has to fit the metadata.
    pub fn answer(&self, server: &Server) -> Result<Value> {
        let answer = self.infer(server, &self.request())?.good()?;
        self.check(&answer)?;
        Ok(answer)
    }

    /// Checks outputs against what the metadata say of them.
    pub fn check(&self, answer: &Value) -> Result<()> {
        ensure!(answer["model_name"] == self.name.as_str(), "model_name is {}", answer["model_name"]);
        let outputs = answer["outputs"].as_array().context("the answer has no outputs")?;
        for output in outputs {
            let name = output["name"].as_str().context("an output without a name")?;
            let told = self.outputs.iter().find(|told| told.name == name);
            let told = told.with_context(|| format!("output '{name}' is not in the metadata"))?;
            ensure!(output["datatype"] == told.datatype.as_str(), "'{name}' is {}", output["datatype"]);
            let shape: Option<Vec<i64>> =
                output["shape"].as_array().and_then(|shape| shape.iter().map(Value::as_i64).collect());
            let shape = shape.with_context(|| format!("'{name}' has no shape"))?;
            let fits = shape.len() == told.told.len()
                && shape.iter().zip(&told.told).all(|(own, told)| *told < 0 || own == told);
            ensure!(fits, "'{name}' has shape {shape:?}, its metadata say {:?}", told.told);
            if let Some(data) = output["data"].as_array() {
                let count = usize::try_from(shape.iter().product::<i64>()).unwrap_or(usize::MAX);
                ensure!(leaves(data) == count, "'{name}' has {} elements for shape {shape:?}", leaves(data));
            }
        }
        Ok(())
    }
}

/// Elements of a list, nested or flat.
pub fn leaves(list: &[Value]) -> usize {
    list.iter().map(|entry| entry.as_array().map_or(1, |inner| leaves(inner))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_dimensions_are_one() {
        let told = json!({ "name": "a", "datatype": "BYTES", "shape": [-1, 2] });
        let tensor = Tensor::new(&told).expect("a tensor");
        assert_eq!((tensor.count(), tensor.shape.clone()), (2, vec![1, 2]));
        assert_eq!(tensor.to_bytes(), b"\x01\0\0\x001\x01\0\0\x001");
        assert_eq!(tensor.to_json()["data"], json!(["1", "1"]));
        for wrong in [json!({}), json!({ "name": "a", "datatype": "STRING", "shape": [] })] {
            assert!(Tensor::new(&wrong).is_err());
        }
    }

    #[test]
    fn elements_are_counted_at_any_depth() {
        assert_eq!(leaves(json!([[1, [2]], 3]).as_array().expect("a list")), 3);
    }
}
