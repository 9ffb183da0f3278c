//! Between tensors of the interface and the engine's: one copy in, one out.

use airlock_guest::{Datatype, Error, Result, Tensor};
use tract_onnx::prelude::{Datum, DatumType, TDim, Tensor as Native, tract_ndarray::ArrayD};

/// The engine's type for a datatype; `None` for BF16, which it does not have.
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

/// The datatype in which a tensor of that type leaves. The engine computes with shapes in a type of its own where ONNX says
/// INT64.
pub fn datatype(datum_type: DatumType) -> Option<Datatype> {
    if datum_type == TDim::datum_type() {
        return Some(Datatype::Int64);
    }
    let plain = datum_type.unquantized();
    Datatype::ALL.into_iter().find(|datatype| self::datum_type(*datatype) == Some(plain))
}

/// Copies an input into a tensor of the engine's.
pub fn to_native(tensor: &Tensor) -> Result<Native> {
    let invalid = |reason: &dyn std::fmt::Display| {
        Error::invalid_input(format_args!("input '{}': {reason}", tensor.name))
    };
    let dims = tensor.shape.iter().map(|dim| usize::try_from(*dim));
    let shape: Vec<usize> = dims.collect::<Result<_, _>>().map_err(|error| invalid(&error))?;
    if tensor.datatype == Datatype::Bytes {
        let texts = tensor.strings()?.into_iter().map(str::to_owned).collect();
        let array = ArrayD::<String>::from_shape_vec(shape, texts).map_err(|error| invalid(&error))?;
        return Ok(array.into());
    }
    let datum_type = datum_type(tensor.datatype).ok_or_else(|| invalid(&"the engine has no BF16"))?;
    let mut native = Native::zero_dt(datum_type, &shape).map_err(|error| invalid(&error))?;
    let bytes = native.as_bytes_mut();
    if bytes.len() != tensor.data.len() {
        return Err(invalid(&format_args!(
            "it has {} bytes, its shape takes {}",
            tensor.data.len(),
            bytes.len()
        )));
    }
    bytes.copy_from_slice(&tensor.data);
    Ok(native)
}

/// Hands an output over under its name.
pub fn from_native(name: &str, value: &Native) -> Result<Tensor> {
    let failed = |reason: &dyn std::fmt::Display| Error::failed(format_args!("output '{name}' {reason}"));
    let numbers;
    let value = if value.datum_type() == TDim::datum_type() {
        numbers = value.cast_to::<i64>().map_err(|_| failed(&"is not a number"))?;
        &*numbers
    } else {
        value
    };
    let shape: Vec<u64> = value.shape().iter().map(|dim| *dim as u64).collect();
    let datatype = datatype(value.datum_type())
        .ok_or_else(|| failed(&format_args!("has type {:?}, which V2 does not know", value.datum_type())))?;
    if datatype == Datatype::Bytes {
        let view = value.as_plain_ram().ok_or_else(|| failed(&"has no plain bytes"))?;
        let texts = view.as_slice::<String>().map_err(|error| failed(&error))?;
        return Tensor::from_strings(name, &shape, texts);
    }
    Ok(Tensor { name: name.into(), datatype, shape, parameters: Vec::new(), data: value.as_bytes().to_vec() })
}
