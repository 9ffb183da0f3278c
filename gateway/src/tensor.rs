//! Tensors and signatures: the nouns of the V2 (Open Inference) Protocol.
//!
//! A tensor's bytes have one layout everywhere, V2's raw layout: row-major, little-endian, BOOL one byte, and for
//! BYTES each element as a 4-byte little-endian length followed by that many bytes.

pub mod compare;

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Element type of a tensor, as the V2 protocol names them (BF16 is Triton's addition).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

impl Datatype {
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    /// The name on the wire, upper case: `FP32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// The datatype of that wire name; names are case-sensitive, as in Triton.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|datatype| datatype.name() == name)
    }

    /// Bytes of one element; `None` for BYTES, whose elements carry their own length.
    pub fn element_size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A value of a request's, response's or tensor's `parameters`. Arrays, objects and null stay JSON text.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    Boolean(bool),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    Text(String),
    Json(String),
}

/// Parameters in the order in which they were sent; names are unique.
pub type Parameters = Vec<(String, Parameter)>;

/// One named tensor with its bytes in V2's raw layout.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub datatype: Datatype,
    pub shape: Vec<u64>,
    pub parameters: Parameters,
    pub bytes: Bytes,
}

/// Why a tensor's bytes do not fit its shape and datatype.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("the product of shape {0} overflows")]
    ShapeOverflow(Shape),
    #[error("shape {shape} of {datatype} takes {expected} bytes, got {given}")]
    Size { shape: Shape, datatype: Datatype, expected: u64, given: u64 },
    #[error("shape {shape} has {expected} elements, the BYTES data holds {given}")]
    Count { shape: Shape, expected: u64, given: u64 },
    #[error("BYTES element {index} is cut short: it announces {announced} bytes, {left} are left")]
    Truncated { index: u64, announced: u64, left: u64 },
    #[error("BOOL element {index} is {value}, expected 0 or 1")]
    Bool { index: u64, value: u8 },
}

impl Tensor {
    /// Checks that the bytes are exactly what shape and datatype announce.
    pub fn check_layout(&self) -> Result<(), LayoutError> {
        check_layout(self.datatype, &self.shape, &self.bytes)
    }
}

/// The number of elements of a shape; an empty shape is a scalar and has one. `None` if the product of its dimensions
/// passes 2^63-1, those that are 0 left out: what indexes a tensor counts in signed 64 bits, empty or not.
pub fn element_count(shape: &[u64]) -> Option<u64> {
    let product = shape.iter().filter(|dim| **dim != 0).try_fold(1u64, |product, dim| {
        product.checked_mul(*dim).filter(|product| i64::try_from(*product).is_ok())
    })?;
    Some(if shape.contains(&0) { 0 } else { product })
}

/// Checks that `bytes` is V2's raw layout of `shape` and `datatype`, to the last byte.
pub fn check_layout(datatype: Datatype, shape: &[u64], bytes: &[u8]) -> Result<(), LayoutError> {
    let count = element_count(shape).ok_or_else(|| LayoutError::ShapeOverflow(Shape::from(shape)))?;
    let given = bytes.len() as u64;
    let Some(size) = datatype.element_size() else {
        return check_bytes_elements(shape, count, bytes);
    };
    let expected =
        count.checked_mul(size as u64).ok_or_else(|| LayoutError::ShapeOverflow(Shape::from(shape)))?;
    if given != expected {
        return Err(LayoutError::Size { shape: Shape::from(shape), datatype, expected, given });
    }
    if datatype == Datatype::Bool
        && let Some(index) = bytes.iter().position(|byte| *byte > 1)
    {
        return Err(LayoutError::Bool { index: index as u64, value: bytes[index] });
    }
    Ok(())
}

fn check_bytes_elements(shape: &[u64], expected: u64, bytes: &[u8]) -> Result<(), LayoutError> {
    let mut given = 0u64;
    for element in elements(bytes) {
        element?;
        given += 1;
    }
    if given == expected {
        Ok(())
    } else {
        Err(LayoutError::Count { shape: Shape::from(shape), expected, given })
    }
}

/// The elements of a BYTES tensor, in order; stops after the first that is cut short.
pub fn elements(mut bytes: &[u8]) -> impl Iterator<Item = Result<&[u8], LayoutError>> {
    let mut index = 0u64;
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let truncated =
            |announced: u64, left: usize| LayoutError::Truncated { index, announced, left: left as u64 };
        let Some((prefix, rest)) = bytes.split_first_chunk::<4>() else {
            let error = truncated(4, bytes.len());
            bytes = &[];
            return Some(Err(error));
        };
        let announced = u32::from_le_bytes(*prefix);
        let Some((element, rest)) = rest.split_at_checked(announced as usize) else {
            let error = truncated(u64::from(announced), rest.len());
            bytes = &[];
            return Some(Err(error));
        };
        bytes = rest;
        index += 1;
        Some(Ok(element))
    })
}

/// A shape as messages and metadata write it: `[1,4]`, with -1 for a dimension that varies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape(pub Vec<i64>);

impl From<&[u64]> for Shape {
    fn from(shape: &[u64]) -> Self {
        Self(shape.iter().map(|dim| i64::try_from(*dim).unwrap_or(i64::MAX)).collect())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

/// A tensor as a signature announces it; -1 is a dimension that varies from request to request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    pub name: String,
    pub datatype: Datatype,
    pub shape: Shape,
}

impl TensorSpec {
    /// Whether a tensor of that shape fits: same rank, and the same dimension wherever this one is fixed.
    pub fn admits(&self, shape: &[u64]) -> bool {
        self.shape.0.len() == shape.len()
            && self
                .shape
                .0
                .iter()
                .zip(shape)
                .all(|(spec, dim)| *spec == -1 || u64::try_from(*spec) == Ok(*dim))
    }
}

/// What a model takes and gives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
}

/// How the elements of a model's outputs are classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classes {
    /// The first dimension counts the items of a batch, each of which has classes of its own.
    pub batched: bool,
    /// The names of the classes, in order, by output.
    pub labels: BTreeMap<String, Arc<[Box<str>]>>,
}

/// One decoded inference request, checked against the model's signature.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InferRequest {
    pub id: Option<String>,
    pub parameters: Parameters,
    pub inputs: Vec<Tensor>,
    /// Names of the outputs that were asked for; empty means all.
    pub outputs: Vec<String>,
}

/// What a model answered, checked against its signature.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InferResponse {
    pub parameters: Parameters,
    pub outputs: Vec<Tensor>,
}

impl InferResponse {
    /// Bytes of memory that its tensors and texts take.
    pub fn bytes(&self) -> usize {
        let texts = |parameters: &Parameters| -> usize {
            let text = |value: &Parameter| match value {
                Parameter::Text(text) | Parameter::Json(text) => text.len(),
                _ => 0,
            };
            parameters.iter().map(|(name, value)| name.len() + text(value)).sum()
        };
        let outputs = self.outputs.iter().map(|output| output.bytes.len() + texts(&output.parameters));
        texts(&self.parameters) + outputs.sum::<usize>()
    }
}

#[cfg(test)]
mod tests;
