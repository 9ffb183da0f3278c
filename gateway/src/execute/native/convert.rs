//! Between V2 tensors and tract's: one copy in, none out (strings excepted).

use bytes::{BufMut, Bytes, BytesMut};
use tract_onnx::prelude::{Datum, DatumType, TDim, TValue, Tensor as Native, tract_ndarray::ArrayD};

use crate::{
    execute::ExecuteError,
    tensor::{Datatype, Tensor, elements},
};

// V2's raw layout is little-endian, tract's is the machine's.
const _: () = assert!(cfg!(target_endian = "little"));

/// tract's type for a datatype; `None` for BF16, which it does not have.
pub fn datum_type(datatype: Datatype) -> Option<DatumType> {
    Some(match datatype {
        Datatype::Bool => DatumType::Bool,
        Datatype::Uint8 => DatumType::U8,
        Datatype::Uint16 => DatumType::U16,
        Datatype::Uint32 => DatumType::U32,
        Datatype::Uint64 => DatumType::U64,
        Datatype::Int8 => DatumType::I8,
        Datatype::Int16 => DatumType::I16,
        Datatype::Int32 => DatumType::I32,
        Datatype::Int64 => DatumType::I64,
        Datatype::Fp16 => DatumType::F16,
        Datatype::Fp32 => DatumType::F32,
        Datatype::Fp64 => DatumType::F64,
        Datatype::Bytes => DatumType::String,
        Datatype::Bf16 => return None,
    })
}

/// The datatype in which a tensor of that type leaves. tract computes with shapes in a type of its own where ONNX says
/// INT64.
pub fn datatype(datum_type: DatumType) -> Option<Datatype> {
    if datum_type == DatumType::TDim {
        return Some(Datatype::Int64);
    }
    let plain = datum_type.unquantized();
    Datatype::ALL.into_iter().find(|datatype| self::datum_type(*datatype) == Some(plain))
}

/// Dimensions as tract counts them.
pub fn dims(tensor: &Tensor) -> Result<Vec<usize>, ExecuteError> {
    tensor
        .shape
        .iter()
        .map(|dim| usize::try_from(*dim))
        .collect::<Result<_, _>>()
        .map_err(|_| invalid(tensor, "a dimension is too large"))
}

/// Copies an input into a tensor of tract's, after checking its bytes against its shape.
pub fn to_native(tensor: &Tensor) -> Result<Native, ExecuteError> {
    tensor.check_layout().map_err(|error| invalid(tensor, error))?;
    if tensor.datatype == Datatype::Bytes {
        return strings(tensor, &dims(tensor)?);
    }
    let mut native = zeroed(tensor)?;
    native.as_bytes_mut().copy_from_slice(&tensor.bytes);
    Ok(native)
}

/// A tensor of tract's with the type and shape of an input that is not BYTES, for its bytes to be put into.
pub fn zeroed(tensor: &Tensor) -> Result<Native, ExecuteError> {
    let shape = dims(tensor)?;
    let Some(datum_type) = datum_type(tensor.datatype).filter(|datum_type| *datum_type != DatumType::String)
    else {
        return Err(invalid(tensor, format!("the native engine has no {}", tensor.datatype)));
    };
    Native::zero_dt(datum_type, &shape).map_err(|error| invalid(tensor, error))
}

/// BYTES elements as text: tract has strings, and no arrays of bytes.
fn strings(tensor: &Tensor, shape: &[usize]) -> Result<Native, ExecuteError> {
    let texts = elements(&tensor.bytes)
        .enumerate()
        .map(|(index, element)| {
            let bytes = element.map_err(|error| invalid(tensor, error))?;
            let text = std::str::from_utf8(bytes).map_err(|_| {
                invalid(tensor, format!("element {index} is not UTF-8, and a native model takes only text"))
            })?;
            Ok(text.to_owned())
        })
        .collect::<Result<Vec<String>, ExecuteError>>()?;
    let array = ArrayD::from_shape_vec(shape, texts).map_err(|error| invalid(tensor, error))?;
    Ok(array.into())
}

fn invalid(tensor: &Tensor, reason: impl std::fmt::Display) -> ExecuteError {
    ExecuteError::InvalidInput(format!("input '{}': {reason}", tensor.name))
}

/// Hands an output over under its name. Its bytes stay where tract put them.
pub fn from_native(name: &str, value: TValue) -> Result<Tensor, ExecuteError> {
    let failed = |reason: String| ExecuteError::Output(format!("output '{name}' {reason}"));
    let value = if value.datum_type() == TDim::datum_type() {
        let cast = value.cast_to::<i64>().map_err(|_| failed("is not a number".into()))?;
        TValue::from(cast.into_owned())
    } else {
        value
    };
    let Some(datatype) = datatype(value.datum_type()) else {
        return Err(failed(format!("has type {:?}, which V2 does not know", value.datum_type())));
    };
    let shape: Vec<u64> = value.shape().iter().map(|dim| *dim as u64).collect();
    let view = value.as_plain_ram().ok_or_else(|| failed("has no plain bytes".into()))?;
    let bytes = if datatype == Datatype::Bytes {
        let texts = view.as_slice::<String>().map_err(|error| failed(error.to_string()))?;
        join(texts).ok_or_else(|| failed("has an element of more than 4 GiB".into()))?
    } else {
        Bytes::from_owner(OwnedBytes(value))
    };
    Ok(Tensor { name: name.to_owned(), datatype, shape, parameters: Vec::new(), bytes })
}

/// Elements in V2's layout for BYTES: each after its length.
fn join(texts: &[String]) -> Option<Bytes> {
    let mut bytes = BytesMut::with_capacity(texts.iter().map(|text| text.len() + 4).sum());
    for text in texts {
        bytes.put_u32_le(u32::try_from(text.len()).ok()?);
        bytes.put_slice(text.as_bytes());
    }
    Some(bytes.freeze())
}

/// Keeps a tensor alive for as long as its bytes are on their way out.
struct OwnedBytes(TValue);

impl AsRef<[u8]> for OwnedBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}
