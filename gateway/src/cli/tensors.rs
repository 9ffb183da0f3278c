//! Outputs as people and programs read them.

use anyhow::{Context, Result, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use half::{bf16, f16};
use serde_json::{Value, json};

use super::say::plain;
use crate::tensor::{self, Datatype, check_layout};

/// Rows, and elements of a row, up to which a table shows them.
const MAX_ROWS: usize = 20;
const MAX_COLUMNS: usize = 12;

/// A tensor of an answer.
#[derive(Debug)]
pub(super) struct OutputTensor {
    name: String,
    datatype: Datatype,
    shape: Vec<u64>,
    elements: Vec<Element>,
}

#[derive(Debug, PartialEq)]
enum Element {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    /// With the digits of its own width: 0.1, not 0.10000000149011612.
    Float(f64),
    Bytes(Vec<u8>),
}

/// Takes an answer apart: a JSON header of `header` bytes, if it has any, and the outputs' bytes behind it.
pub(super) fn outputs(body: &Bytes, header: Option<usize>) -> Result<(Value, Vec<OutputTensor>)> {
    let header = header.unwrap_or(body.len());
    let (head, mut rest) =
        body.split_at_checked(header).context("the answer is shorter than it announces")?;
    let head: Value = serde_json::from_slice(head).context("the answer is not what infer answers")?;
    let mut outputs = Vec::new();
    for entry in head["outputs"].as_array().context("the answer has no outputs")? {
        let name = entry["name"].as_str().unwrap_or_default().to_owned();
        let size =
            entry["parameters"]["binary_data_size"].as_u64().and_then(|size| usize::try_from(size).ok());
        let (bytes, behind) = size
            .and_then(|size| rest.split_at_checked(size))
            .with_context(|| format!("the answer lacks the bytes of output '{}'", plain(&name)))?;
        rest = behind;
        let output = OutputTensor::new(name, entry, bytes);
        outputs.push(
            output
                .with_context(|| format!("the output {} is malformed", plain(&entry["name"].to_string())))?,
        );
    }
    Ok((head, outputs))
}

impl OutputTensor {
    fn new(name: String, entry: &Value, bytes: &[u8]) -> Result<Self> {
        let datatype =
            entry["datatype"].as_str().and_then(Datatype::from_name).context("no known datatype")?;
        let shape: Option<Vec<u64>> =
            entry["shape"].as_array().and_then(|shape| shape.iter().map(Value::as_u64).collect());
        let shape = shape.context("no shape")?;
        check_layout(datatype, &shape, bytes)?;
        let elements: Result<_> = match datatype.element_size() {
            Some(size) => bytes.chunks_exact(size).map(|bytes| number(datatype, bytes)).collect(),
            None => tensor::elements(bytes).map(|bytes| Ok(Element::Bytes(bytes?.to_owned()))).collect(),
        };
        Ok(Self { name, datatype, shape, elements: elements? })
    }

    pub(super) fn json(&self) -> Value {
        let data: Vec<Value> = self.elements.iter().map(Element::json).collect();
        json!({ "name": self.name, "datatype": self.datatype.name(), "shape": self.shape, "data": data })
    }

    /// A heading, and the rows along the last dimension.
    pub(super) fn table(&self) -> String {
        let mut lines = vec![format!("{} {} {}", plain(&self.name), self.datatype, json!(self.shape))];
        // Texts stand one on a line: they are long, and as a table nothing would be below anything.
        let width = match self.shape.last() {
            Some(width) if self.datatype != Datatype::Bytes => usize::try_from(*width).unwrap_or(usize::MAX),
            _ => 1,
        };
        let rows: Vec<&[Element]> = self.elements.chunks(width.max(1)).collect();
        let shown: Vec<Vec<String>> = rows
            .iter()
            .take(MAX_ROWS)
            .map(|row| row.iter().take(MAX_COLUMNS).map(Element::text).collect())
            .collect();
        let numbers = self.datatype != Datatype::Bytes;
        let cell = if numbers { shown.iter().flatten().map(String::len).max().unwrap_or(0) } else { 0 };
        for row in &shown {
            let cells: Vec<String> = row.iter().map(|text| format!("{text:>cell$}")).collect();
            let more = if width > MAX_COLUMNS { "  …" } else { "" };
            lines.push(format!("  {}{more}", cells.join("  ")));
        }
        if rows.len() > MAX_ROWS || width > MAX_COLUMNS {
            lines.push(format!("  … {} elements in all; --output json has them", self.elements.len()));
        }
        lines.join("\n")
    }
}

fn number(datatype: Datatype, bytes: &[u8]) -> Result<Element> {
    macro_rules! read {
        ($kind:ty) => {
            <$kind>::from_le_bytes(bytes.try_into().context("an element of another size")?)
        };
    }
    Ok(match datatype {
        Datatype::Bool => Element::Bool(read!(u8) != 0),
        Datatype::Uint8 => Element::Unsigned(read!(u8).into()),
        Datatype::Uint16 => Element::Unsigned(read!(u16).into()),
        Datatype::Uint32 => Element::Unsigned(read!(u32).into()),
        Datatype::Uint64 => Element::Unsigned(read!(u64)),
        Datatype::Int8 => Element::Signed(read!(i8).into()),
        Datatype::Int16 => Element::Signed(read!(i16).into()),
        Datatype::Int32 => Element::Signed(read!(i32).into()),
        Datatype::Int64 => Element::Signed(read!(i64)),
        Datatype::Fp16 => Element::Float(read!(f16).into()),
        Datatype::Bf16 => Element::Float(read!(bf16).into()),
        Datatype::Fp32 => {
            let value = read!(f32);
            Element::Float(value.to_string().parse().unwrap_or_else(|_| value.into()))
        }
        Datatype::Fp64 => Element::Float(read!(f64)),
        Datatype::Bytes => bail!("bytes are no number"),
    })
}

impl Element {
    /// What is no number has no word in JSON and is null; bytes that are no text are an object with their base64.
    fn json(&self) -> Value {
        match self {
            Self::Bool(value) => json!(value),
            Self::Unsigned(value) => json!(value),
            Self::Signed(value) => json!(value),
            Self::Float(value) => json!(value),
            Self::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => json!(text),
                Err(_) => json!({ "base64": BASE64_STANDARD.encode(bytes) }),
            },
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Unsigned(value) => value.to_string(),
            Self::Signed(value) => value.to_string(),
            Self::Float(value) if value.is_finite() => json!(value).to_string(),
            Self::Float(value) => value.to_string(),
            Self::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => plain(text),
                Err(_) => format!("({} bytes)", bytes.len()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(outputs: &Value, bytes: &[u8]) -> (Bytes, Option<usize>) {
        let head = json!({ "model_name": "m", "outputs": outputs }).to_string();
        let length = head.len();
        ([head.as_bytes(), bytes].concat().into(), Some(length))
    }

    fn output(datatype: &str, shape: &[u64], bytes: &[u8]) -> OutputTensor {
        let parameters = json!({ "binary_data_size": bytes.len() });
        let entry = json!([{ "name": "y", "datatype": datatype, "shape": shape, "parameters": parameters }]);
        let (body, header) = answer(&entry, bytes);
        outputs(&body, header).expect("an answer").1.remove(0)
    }

    #[test]
    fn every_datatype_is_shown() {
        for (datatype, bytes, expected) in [
            ("BOOL", &[1][..], json!([true])),
            ("UINT8", &[255], json!([255])),
            ("INT8", &[255], json!([-1])),
            ("INT16", &[0, 128], json!([-32768])),
            ("UINT64", &[255; 8], json!([u64::MAX])),
            ("INT64", &[255; 8], json!([-1])),
            ("FP16", &[0x00, 0x3c], json!([1.0])),
            ("BF16", &[0x80, 0x3f], json!([1.0])),
            ("FP32", &[0xcd, 0xcc, 0xcc, 0x3d], json!([0.1])),
            ("FP32", &[0, 0, 0xc0, 0x7f], json!([null])),
            ("FP64", &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f], json!([1.0])),
            ("BYTES", b"\x02\0\0\0hi", json!(["hi"])),
            ("BYTES", b"\x01\0\0\0\xff", json!([{ "base64": "/w==" }])),
        ] {
            assert_eq!(output(datatype, &[1], bytes).json()["data"], expected, "{datatype}");
        }
        assert_eq!(output("FP32", &[1], &[0, 0, 0x80, 0x7f]).table(), "y FP32 [1]\n  inf");
        assert_eq!(output("BYTES", &[1], b"\x02\0\0\0\x1b[").table(), "y BYTES [1]\n  \\u{1b}[");
    }

    #[test]
    fn tables_have_columns_and_an_end() {
        let bytes: Vec<u8> = [1i8, -20, 3, 4, 5, 6].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(output("INT8", &[2, 3], &bytes).table(), "y INT8 [2,3]\n    1  -20    3\n    4    5    6");
        let long = output("UINT8", &[100, 50], &[0; 5000]).table();
        assert_eq!(long.lines().count(), MAX_ROWS + 2);
        assert!(long.ends_with("5000 elements in all; --output json has them"), "{long}");
        assert_eq!(output("UINT8", &[3, 0], &[]).table(), "y UINT8 [3,0]");
    }

    #[test]
    fn answers_that_contradict_themselves_are_errors() {
        let entry = |datatype: &str, shape: Value, size: u64| json!([{ "name": "y", "datatype": datatype, "shape": shape, "parameters": { "binary_data_size": size } }]);
        for (entry, bytes) in [
            (entry("FP32", json!([1]), 4), &[0; 3][..]),
            (entry("FP32", json!([2]), 4), &[0; 4]),
            (entry("FP32", json!([u64::MAX, 2]), 4), &[0; 4]),
            (entry("FP32", json!([-1]), 4), &[0; 4]),
            (entry("FP31", json!([1]), 4), &[0; 4]),
            (entry("BYTES", json!([1]), 4), &[255; 4]),
            (entry("FP32", json!([1]), u64::MAX), &[0; 4]),
            (json!([{ "name": "y" }]), &[]),
            (json!(null), &[]),
        ] {
            let (body, header) = answer(&entry, bytes);
            assert!(outputs(&body, header).is_err(), "{entry}");
        }
        assert!(outputs(&Bytes::from_static(b"{}"), Some(3)).is_err());
        assert!(outputs(&Bytes::from_static(b"text"), None).is_err());
    }
}
