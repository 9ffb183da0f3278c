//! `--input NAME=VALUE`: JSON or a file becomes a tensor, with the shape and datatype that the model announces.

use std::{fs, path::Path, str::FromStr};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{npy, say::plain};
use crate::tensor::{Datatype, Shape, TensorSpec, element_count};

/// One `--input`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) name: String,
    value: String,
}

impl FromStr for Input {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                Ok(Self { name: name.to_owned(), value: value.to_owned() })
            }
            _ => Err("write NAME=JSON or NAME=@FILE".to_owned()),
        }
    }
}

/// A tensor for a request: the header's entry, and the bytes that follow the header.
#[derive(Debug, PartialEq)]
pub(super) struct InputTensor {
    pub(super) entry: Value,
    pub(super) bytes: Vec<u8>,
}

impl Input {
    /// The tensor, for the input that the model announces under this name.
    pub(super) fn tensor(&self, spec: &TensorSpec) -> Result<InputTensor> {
        match self.value.strip_prefix('@') {
            Some(path) => self.file(Path::new(path), spec),
            None => self.json(&self.value, spec),
        }
    }

    fn file(&self, path: &Path, spec: &TensorSpec) -> Result<InputTensor> {
        let shown = path.display();
        let mut file = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension == Some("npy") || file.starts_with(npy::MAGIC) {
            let array = npy::parse(&file).with_context(|| shown.to_string())?;
            if array.datatype != spec.datatype {
                bail!(
                    "{shown} holds {}, the input '{}' takes {}: save array.astype(…) of the type that it takes",
                    array.datatype,
                    self.name,
                    spec.datatype
                );
            }
            file.drain(..array.elements.start);
            return Ok(self.raw(spec.datatype, &array.shape, file));
        }
        match (spec.datatype, extension) {
            (Datatype::Bytes, _) => {
                let length = u32::try_from(file.len()).context("one element has less than 4 GiB")?;
                file.splice(..0, length.to_le_bytes());
                Ok(self.raw(Datatype::Bytes, &self.spread(spec, 1)?, file))
            }
            (_, Some("json")) => {
                let text = String::from_utf8(file).with_context(|| format!("{shown} is not JSON"))?;
                self.json(&text, spec)
            }
            (datatype, _) => {
                bail!("the input '{}' takes {datatype}: {shown} has to be a .npy or .json file", self.name)
            }
        }
    }

    fn raw(&self, datatype: Datatype, shape: &[u64], bytes: Vec<u8>) -> InputTensor {
        let parameters = json!({ "binary_data_size": bytes.len() });
        let entry = json!({ "name": self.name, "datatype": datatype.name(), "shape": shape, "parameters": parameters });
        InputTensor { entry, bytes }
    }

    fn json(&self, text: &str, spec: &TensorSpec) -> Result<InputTensor> {
        let value = match serde_json::from_str(text) {
            Ok(value) => value,
            // So that a text need not be quoted twice, for JSON and for the shell.
            Err(_) if spec.datatype == Datatype::Bytes => json!(text),
            Err(error) => bail!("the value of '{}' is not JSON: {error}", self.name),
        };
        let nesting = nesting(&value).with_context(|| format!("the value of '{}'", self.name))?;
        let mut elements = Vec::new();
        flatten(value, &mut elements);
        let shape = if nesting.len() == spec.shape.0.len() {
            nesting
        } else if nesting.len() < 2 {
            self.spread(spec, elements.len() as u64)?
        } else {
            bail!(
                "the value of '{}' is nested {} deep, the input has shape {}",
                self.name,
                nesting.len(),
                spec.shape
            );
        };
        let entry = json!({
            "name": self.name, "datatype": spec.datatype.name(), "shape": shape, "data": elements,
        });
        Ok(InputTensor { entry, bytes: Vec::new() })
    }

    fn spread(&self, spec: &TensorSpec, count: u64) -> Result<Vec<u64>> {
        spread(&spec.shape, count).with_context(|| {
            format!(
                "{count} elements do not say what becomes of '{}' with shape {}: nest them as [[…],[…]]",
                self.name, spec.shape
            )
        })
    }
}

/// The one shape of `count` elements that a signature admits; `None` if there is none, or more than one.
fn spread(shape: &Shape, count: u64) -> Option<Vec<u64>> {
    let fixed: Vec<u64> = shape.0.iter().filter_map(|dim| u64::try_from(*dim).ok()).collect();
    let product = element_count(&fixed)?;
    let open = shape.0.len() - fixed.len();
    let free = match (open, product) {
        (0, product) => (product == count).then_some(1),
        (_, 0) => None,
        (1, product) => (count.is_multiple_of(product)).then_some(count / product),
        (_, product) => (count == product).then_some(1),
    }?;
    Some(shape.0.iter().map(|dim| u64::try_from(*dim).unwrap_or(free)).collect())
}

/// The shape of a nested array; every array at one depth has to be as long as the others.
fn nesting(value: &Value) -> Result<Vec<u64>> {
    let Value::Array(items) = value else {
        if value.is_object() || value.is_null() {
            bail!(
                "{} is no element of a tensor",
                plain(&value.to_string().chars().take(40).collect::<String>())
            );
        }
        return Ok(Vec::new());
    };
    let mut inner = None;
    for item in items {
        let shape = nesting(item)?;
        if inner.get_or_insert_with(|| shape.clone()) != &shape {
            bail!("its arrays are not equally long at every depth");
        }
    }
    let mut shape = vec![items.len() as u64];
    shape.extend(inner.unwrap_or_default());
    Ok(shape)
}

fn flatten(value: Value, elements: &mut Vec<Value>) {
    match value {
        Value::Array(items) => items.into_iter().for_each(|item| flatten(item, elements)),
        element => elements.push(element),
    }
}

/// Elements in row-major order as nested arrays of a shape.
pub(super) fn nested(shape: &[u64], elements: &mut impl Iterator<Item = Value>) -> Value {
    match shape.split_first() {
        None => elements.next().unwrap_or_default(),
        Some((dim, inner)) => (0..*dim).map(|_| nested(inner, elements)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: "x".into(), datatype, shape: Shape(shape.to_vec()) }
    }

    fn given(text: &str, spec: &TensorSpec) -> Result<InputTensor> {
        format!("x={text}").parse::<Input>().expect("an input").tensor(spec)
    }

    #[test]
    fn the_shape_comes_from_the_nesting_or_from_the_signature() {
        for (text, shape, expected) in [
            ("[[1,2],[3,4],[5,6]]", &[-1, 2][..], &[3, 2][..]),
            ("[1,2,3,4]", &[-1, 2], &[2, 2]),
            ("[1,2,3,4]", &[-1, -1, 4], &[1, 1, 4]),
            ("[1,2,3,4]", &[2, 2], &[2, 2]),
            ("7", &[-1], &[1]),
            ("7", &[], &[]),
            ("7", &[1, -1, 1], &[1, 1, 1]),
            ("[]", &[-1], &[0]),
            ("[]", &[-1, 4], &[0, 4]),
        ] {
            let tensor = given(text, &spec(Datatype::Fp32, shape)).expect(text);
            assert_eq!(tensor.entry["shape"], json!(expected), "{text}");
            assert!(tensor.bytes.is_empty());
        }
        let nested = given("[[1,2],[3,4]]", &spec(Datatype::Fp32, &[2, 2])).expect("a tensor");
        assert_eq!(nested.entry["data"], json!([1, 2, 3, 4]));
    }

    #[test]
    fn values_that_do_not_say_enough_are_refused() {
        for (text, shape, part) in [
            ("[1,2,3]", &[-1, 2][..], "nest them"),
            ("[1,2,3,4]", &[-1, -1], "nest them"),
            ("[]", &[-1, 0], "nest them"),
            ("[[1,2],[3]]", &[2, 2], "equally long"),
            ("[[1],2]", &[2, 2], "equally long"),
            ("[[[1]]]", &[1, 1], "nested 3 deep"),
            ("{}", &[1], "no element"),
            ("[null]", &[1], "no element"),
            ("[1,", &[1], "not JSON"),
            ("hello", &[1], "not JSON"),
            ("1", &[i64::MAX, i64::MAX], "nest them"),
            ("@/missing.npy", &[1], "cannot read"),
        ] {
            let error = given(text, &spec(Datatype::Fp32, shape)).expect_err(text);
            assert!(format!("{error:#}").contains(part), "{text}: {error:#}");
        }
        for text in ["", "x", "=1"] {
            assert!(text.parse::<Input>().is_err());
        }
    }

    #[test]
    fn texts_need_not_be_quoted() {
        let bytes = spec(Datatype::Bytes, &[-1]);
        for (text, data) in [
            ("hello", json!(["hello"])),
            ("\"hello\"", json!(["hello"])),
            ("[\"a\",\"b\"]", json!(["a", "b"])),
        ] {
            assert_eq!(given(text, &bytes).expect(text).entry["data"], data);
        }
    }

    #[test]
    fn a_file_is_one_element_of_an_input_of_bytes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("image.png");
        fs::write(&path, b"\x89PNG").expect("a writable folder");
        let text = format!("@{}", path.display());
        let tensor = given(&text, &spec(Datatype::Bytes, &[-1, 1])).expect("a tensor");
        assert_eq!(tensor.bytes, b"\x04\0\0\0\x89PNG");
        assert_eq!(tensor.entry["shape"], json!([1, 1]));
        assert_eq!(tensor.entry["parameters"]["binary_data_size"], 8);
        let error = given(&text, &spec(Datatype::Fp32, &[1])).expect_err("no number").to_string();
        assert!(error.contains(".npy or .json"), "{error}");
    }

    #[test]
    fn nesting_is_undone_by_flattening() {
        let value = nested(&[2, 1, 3], &mut (0..6).map(|i| json!(i)));
        assert_eq!(value, json!([[[0, 1, 2]], [[3, 4, 5]]]));
        assert_eq!(nesting(&value).expect("regular"), [2, 1, 3]);
    }
}
