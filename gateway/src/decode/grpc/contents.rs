//! Typed contents: the elements of a tensor in the one field that is its datatype's, into V2's raw layout.

use bytes::Bytes;

use crate::{
    proto::wire::{Field, Fields, Value},
    tensor::{Datatype, element_count},
};

use super::DecodeError;

/// Names of the fields of `InferTensorContents`, by their numbers.
const FIELDS: [&str; 8] = [
    "bool_contents",
    "int_contents",
    "int64_contents",
    "uint_contents",
    "uint64_contents",
    "fp32_contents",
    "fp64_contents",
    "bytes_contents",
];

/// The number of the field that holds elements of that datatype; none for those that travel raw only.
fn field_of(datatype: Datatype) -> Option<u32> {
    match datatype {
        Datatype::Bool => Some(1),
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => Some(2),
        Datatype::Int64 => Some(3),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => Some(4),
        Datatype::Uint64 => Some(5),
        Datatype::Fp32 => Some(6),
        Datatype::Fp64 => Some(7),
        Datatype::Bytes => Some(8),
        Datatype::Fp16 | Datatype::Bf16 => None,
    }
}

/// The elements that `contents` holds, of at most `left` bytes. `message` is what `contents` is a part of: floats that came in one
/// piece stay where they are.
pub(super) fn elements(
    message: &Bytes,
    contents: &[u8],
    datatype: Datatype,
    shape: &[u64],
    left: usize,
) -> Result<Bytes, DecodeError> {
    let wanted = field_of(datatype);
    let expected = element_count(shape).unwrap_or(0);
    let mut elements = Elements { datatype, bytes: Vec::new(), count: 0, expected, left };
    let mut whole = None;
    for field in Fields(contents) {
        let field = field?;
        let Some(name) = FIELDS.get(field.number as usize - 1).filter(|_| !is_empty(&field)) else {
            continue;
        };
        if wanted != Some(field.number) {
            return Err(DecodeError::request(
                match wanted.and_then(|field| FIELDS.get(field as usize - 1)) {
                    Some(wanted) => format!("has '{name}', but {datatype} elements are sent in '{wanted}'"),
                    None => format!("has '{name}', but {datatype} is sent in 'raw_input_contents' only"),
                },
            ));
        }
        if elements.bytes.is_empty()
            && whole.is_none()
            && matches!(datatype, Datatype::Fp32 | Datatype::Fp64)
            && let Value::Bytes(packed) = field.value
        {
            // Protobuf's layout of floats is V2's.
            whole = Some(packed);
            continue;
        }
        if let Some(packed) = whole.take() {
            elements.bytes.extend_from_slice(packed);
        }
        elements.add(&field)?;
        elements.keep_within(0)?;
    }
    Ok(match whole {
        Some(packed) => message.slice_ref(packed),
        None => elements.bytes.into(),
    })
}

/// An empty list, which some clients send of every type.
fn is_empty(field: &Field<'_>) -> bool {
    field.value == Value::Bytes(&[]) && field.number != 8
}

struct Elements {
    datatype: Datatype,
    bytes: Vec<u8>,
    count: u64,
    expected: u64,
    /// Bytes that they may take.
    left: usize,
}

impl Elements {
    /// Adds the elements of a field, which may be one or many.
    fn add(&mut self, field: &Field<'_>) -> Result<(), DecodeError> {
        match (self.datatype, field.value) {
            (Datatype::Bytes, _) => {
                let element = field.bytes()?;
                let length = u32::try_from(element.len())
                    .map_err(|_| DecodeError::request("a BYTES element holds at most 4294967295 bytes"))?;
                self.one_more()?;
                self.bytes.extend_from_slice(&length.to_le_bytes());
                self.bytes.extend_from_slice(element);
            }
            (Datatype::Fp32 | Datatype::Fp64, Value::Bytes(packed)) => {
                self.bytes.extend_from_slice(packed);
            }
            (Datatype::Fp32, _) => self.bytes.extend_from_slice(&field.float()?),
            (Datatype::Fp64, _) => self.bytes.extend_from_slice(&field.double()?),
            _ => {
                // As many as there are if each takes one byte, or as the shape has: whichever is less.
                if let Value::Bytes(packed) = field.value {
                    let most = self.expected.saturating_sub(self.count).min(packed.len() as u64);
                    let size = self.datatype.element_size().unwrap_or(1);
                    let most = usize::try_from(most).unwrap_or(usize::MAX).saturating_mul(size);
                    self.keep_within(most)?;
                    self.bytes.reserve_exact(most);
                }
                for number in field.numbers()? {
                    let number = number?;
                    self.one_more()?;
                    self.number(number)?;
                }
            }
        }
        Ok(())
    }

    fn keep_within(&self, more: usize) -> Result<(), DecodeError> {
        if self.bytes.len().saturating_add(more) > self.left {
            return Err(DecodeError::Tensors { limit: self.left });
        }
        Ok(())
    }

    fn one_more(&mut self) -> Result<(), DecodeError> {
        if self.count == self.expected {
            return Err(DecodeError::request(format!(
                "'contents' holds more than the {} elements of its shape",
                self.expected
            )));
        }
        self.count += 1;
        Ok(())
    }

    /// Adds one element. What has 32 bits on the wire is cut to them, as protobuf has it; what then is out of the datatype's range is
    /// refused.
    fn number(&mut self, number: u64) -> Result<(), DecodeError> {
        let [a, b, c, d, ..] = number.to_le_bytes();
        let (int, uint) = (i32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([a, b, c, d]));
        let index = self.count - 1;
        let datatype = self.datatype;
        let out = |value: i64| {
            DecodeError::request(format!("element {index} is {value}, which is out of {datatype}'s range"))
        };
        let bytes = &mut self.bytes;
        match datatype {
            Datatype::Bool => bytes.push(u8::from(number != 0)),
            Datatype::Int8 => {
                bytes.extend(i8::try_from(int).map_err(|_| out(int.into()))?.to_le_bytes());
            }
            Datatype::Int16 => {
                bytes.extend(i16::try_from(int).map_err(|_| out(int.into()))?.to_le_bytes());
            }
            Datatype::Int32 => bytes.extend(int.to_le_bytes()),
            Datatype::Uint8 => bytes.push(u8::try_from(uint).map_err(|_| out(uint.into()))?),
            Datatype::Uint16 => {
                bytes.extend(u16::try_from(uint).map_err(|_| out(uint.into()))?.to_le_bytes());
            }
            Datatype::Uint32 => bytes.extend(uint.to_le_bytes()),
            _ => bytes.extend(number.to_le_bytes()),
        }
        Ok(())
    }
}
