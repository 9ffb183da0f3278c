//! Between the tensors of the two engines: views on the way in, one copy on the way out (strings excepted).

use half::f16;
use ort::{
    session::SessionInputValue,
    value::{DynValue, Tensor, TensorElementType, TensorRef},
};
use tract_onnx::prelude::{Datum, DatumType, TValue, Tensor as Native, tract_ndarray::ArrayD};

use crate::execute::ExecuteError;

/// An input as ONNX Runtime reads it, where it lies.
pub fn to_onnx_runtime<'v>(name: &str, native: &'v TValue) -> Result<SessionInputValue<'v>, ExecuteError> {
    let invalid =
        |reason: &dyn std::fmt::Display| ExecuteError::InvalidInput(format!("input '{name}': {reason}"));
    let shape = native.shape();
    let plain = native.as_plain_ram().ok_or_else(|| invalid(&"it has no plain bytes"))?;
    macro_rules! view {
        ($type:ty) => {{
            let elements = plain.as_slice::<$type>().map_err(|error| invalid(&error))?;
            TensorRef::from_array_view((shape, elements)).map_err(|error| invalid(&error))?.into()
        }};
    }
    Ok(match native.datum_type() {
        DatumType::Bool => view!(bool),
        DatumType::U8 => view!(u8),
        DatumType::U16 => view!(u16),
        DatumType::U32 => view!(u32),
        DatumType::U64 => view!(u64),
        DatumType::I8 => view!(i8),
        DatumType::I16 => view!(i16),
        DatumType::I32 => view!(i32),
        DatumType::I64 => view!(i64),
        DatumType::F16 => view!(f16),
        DatumType::F32 => view!(f32),
        DatumType::F64 => view!(f64),
        DatumType::String => {
            let texts = plain.as_slice::<String>().map_err(|error| invalid(&error))?;
            Tensor::from_string_array((shape, texts)).map_err(|error| invalid(&error))?.into()
        }
        other => return Err(invalid(&format_args!("ONNX Runtime has no {other:?}"))),
    })
}

/// An output as the other engine has it.
pub fn from_onnx_runtime(name: &str, value: &DynValue) -> Result<TValue, ExecuteError> {
    let failed = |reason: &dyn std::fmt::Display| ExecuteError::Output(format!("output '{name}' {reason}"));
    let unreadable = |error: ort::Error| failed(&format_args!("cannot be read: {error}"));
    macro_rules! copy {
        ($type:ty) => {{
            let (shape, elements) = value.try_extract_tensor::<$type>().map_err(unreadable)?;
            native(shape, elements)
        }};
    }
    let native = match value.dtype().tensor_type().ok_or_else(|| failed(&"is not a tensor"))? {
        TensorElementType::Bool => copy!(bool),
        TensorElementType::Uint8 => copy!(u8),
        TensorElementType::Uint16 => copy!(u16),
        TensorElementType::Uint32 => copy!(u32),
        TensorElementType::Uint64 => copy!(u64),
        TensorElementType::Int8 => copy!(i8),
        TensorElementType::Int16 => copy!(i16),
        TensorElementType::Int32 => copy!(i32),
        TensorElementType::Int64 => copy!(i64),
        TensorElementType::Float16 => copy!(f16),
        TensorElementType::Float32 => copy!(f32),
        TensorElementType::Float64 => copy!(f64),
        TensorElementType::String => {
            let (shape, texts) = value.try_extract_strings().map_err(unreadable)?;
            dims(shape).and_then(|dims| ArrayD::from_shape_vec(dims, texts).ok()).map(Native::from)
        }
        other => return Err(failed(&format_args!("has type {other}, which V2 does not know"))),
    };
    native.map(TValue::from).ok_or_else(|| failed(&"has another shape than its elements"))
}

fn native<T: Datum + Copy>(shape: &[i64], elements: &[T]) -> Option<Native> {
    Native::from_shape(&dims(shape)?, elements).ok()
}

fn dims(shape: &[i64]) -> Option<Vec<usize>> {
    shape.iter().map(|dim| usize::try_from(*dim).ok()).collect()
}
