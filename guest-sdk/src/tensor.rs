//! Typed views of a tensor's bytes, and builders.
//!
//! The bytes are V2's raw layout: row-major, little-endian, BOOL one byte, and for BYTES each element as a 4-byte
//! little-endian length followed by that many bytes.

use bytemuck::{
    NoUninit, PodCastError,
    checked::{CheckedBitPattern, CheckedCastError},
};

use crate::{Datatype, Error, Result, Tensor};

mod private {
    pub trait Sealed {}
}

/// A Rust type that is an element of a tensor in its raw layout. FP16 and BF16 are `u16`, their bits.
pub trait Element: private::Sealed + CheckedBitPattern + NoUninit {
    /// What a tensor built of this type is.
    const DATATYPE: Datatype;

    /// Whether a tensor of that datatype can be viewed as this type.
    fn views(datatype: Datatype) -> bool {
        datatype == Self::DATATYPE
    }
}

macro_rules! elements {
    ($($element:ty => $datatype:ident),+ $(,)?) => {
        $(
            impl private::Sealed for $element {}
            impl Element for $element {
                const DATATYPE: Datatype = Datatype::$datatype;
            }
        )+
    };
}

elements! {
    bool => Bool, u8 => Uint8, u32 => Uint32, u64 => Uint64, i8 => Int8, i16 => Int16, i32 => Int32, i64 => Int64,
    f32 => Fp32, f64 => Fp64,
}

impl private::Sealed for u16 {}
impl Element for u16 {
    const DATATYPE: Datatype = Datatype::Uint16;

    fn views(datatype: Datatype) -> bool {
        matches!(datatype, Datatype::Uint16 | Datatype::Fp16 | Datatype::Bf16)
    }
}

/// Views. None of them copies.
impl Tensor {
    /// The elements, in row-major order.
    ///
    /// # Errors
    /// If the tensor is of another datatype.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.check_view::<T>()?;
        if self.data.is_empty() {
            return Ok(&[]);
        }
        bytemuck::checked::try_cast_slice(&self.data).map_err(|error| self.not_elements(error))
    }

    /// The elements, in row-major order, to be changed in place.
    ///
    /// # Errors
    /// If the tensor is of another datatype.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        self.check_view::<T>()?;
        if self.data.is_empty() {
            return Ok(&mut []);
        }
        // Only the error needs the tensor's name, and the view holds on to the whole tensor.
        let (name, datatype) = (&self.name, self.datatype);
        bytemuck::checked::try_cast_slice_mut(&mut self.data)
            .map_err(|error| not_elements(name, datatype, error))
    }

    /// The elements of a BYTES tensor, in row-major order.
    ///
    /// # Errors
    /// If the tensor is not BYTES.
    pub fn byte_strings(&self) -> Result<Vec<&[u8]>> {
        if self.datatype != Datatype::Bytes {
            return Err(self.wrong_datatype("BYTES"));
        }
        let mut elements = Vec::new();
        let mut rest = self.data.as_slice();
        while !rest.is_empty() {
            let element = rest
                .split_first_chunk::<4>()
                .and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(*length) as usize));
            let Some((element, after)) = element else {
                return Err(Error::failed(format_args!(
                    "tensor '{}': element {} is cut short",
                    self.name,
                    elements.len()
                )));
            };
            elements.push(element);
            rest = after;
        }
        Ok(elements)
    }

    /// The elements of a BYTES tensor as text, in row-major order.
    ///
    /// # Errors
    /// If the tensor is not BYTES, or with [`Error::InvalidInput`] if an element is not UTF-8.
    pub fn strings(&self) -> Result<Vec<&str>> {
        let texts = self.byte_strings()?.into_iter().enumerate().map(|(index, element)| {
            std::str::from_utf8(element).map_err(|_| {
                Error::invalid_input(format_args!(
                    "tensor '{}': element {index} is not UTF-8 text",
                    self.name
                ))
            })
        });
        texts.collect()
    }

    fn check_view<T: Element>(&self) -> Result<()> {
        if T::views(self.datatype) { Ok(()) } else { Err(self.wrong_datatype(T::DATATYPE.name())) }
    }

    fn wrong_datatype(&self, expected: &str) -> Error {
        Error::failed(format_args!("tensor '{}' is {}, not {expected}", self.name, self.datatype))
    }

    fn not_elements(&self, error: CheckedCastError) -> Error {
        not_elements(&self.name, self.datatype, error)
    }
}

fn not_elements(name: &str, datatype: Datatype, error: CheckedCastError) -> Error {
    let reason = match error {
        CheckedCastError::InvalidBitPattern => "an element is neither 0 nor 1",
        CheckedCastError::PodCastError(PodCastError::TargetAlignmentGreaterAndInputNotAligned) => {
            "its memory is not aligned"
        }
        CheckedCastError::PodCastError(_) => "its bytes are not whole elements",
    };
    Error::failed(format_args!("tensor '{name}' of {datatype}: {reason}"))
}

/// Builders. `shape` is checked against the number of elements.
impl Tensor {
    /// A tensor of numbers or of BOOL, with a copy of `elements` in row-major order.
    ///
    /// # Errors
    /// If the shape has another number of elements.
    pub fn from_slice<T: Element>(name: &str, shape: &[u64], elements: &[T]) -> Result<Self> {
        check_count(name, shape, elements.len())?;
        Ok(Self::new(name, T::DATATYPE, shape, bytemuck::cast_slice(elements).into()))
    }

    /// A tensor of FP16 or BF16 from the bits of its elements, in row-major order.
    ///
    /// # Errors
    /// If the shape has another number of elements, or the datatype is neither FP16 nor BF16.
    pub fn from_bits(name: &str, datatype: Datatype, shape: &[u64], bits: &[u16]) -> Result<Self> {
        if !matches!(datatype, Datatype::Fp16 | Datatype::Bf16) {
            return Err(Error::failed(format_args!("tensor '{name}': {datatype} is neither FP16 nor BF16")));
        }
        Ok(Self { datatype, ..Self::from_slice(name, shape, bits)? })
    }

    /// A tensor of BYTES from text or byte strings, in row-major order.
    ///
    /// # Errors
    /// If the shape has another number of elements, or an element is 4 GiB or longer.
    pub fn from_strings<S: AsRef<[u8]>>(name: &str, shape: &[u64], elements: &[S]) -> Result<Self> {
        check_count(name, shape, elements.len())?;
        let mut data = Vec::with_capacity(elements.iter().map(|element| element.as_ref().len() + 4).sum());
        for element in elements {
            data.extend(u32::try_from(element.as_ref().len())?.to_le_bytes());
            data.extend_from_slice(element.as_ref());
        }
        Ok(Self::new(name, Datatype::Bytes, shape, data))
    }

    /// A tensor of zeros (or of `false`), to be filled in place through [`Tensor::as_mut_slice`].
    ///
    /// # Errors
    /// If memory cannot hold so large a shape.
    pub fn zeroed<T: Element>(name: &str, shape: &[u64]) -> Result<Self> {
        let size = element_count(shape)
            .and_then(|count| usize::try_from(count).ok()?.checked_mul(size_of::<T>()))
            // More than that is a panic of `Vec`'s.
            .filter(|size| isize::try_from(*size).is_ok())
            .ok_or_else(|| Error::failed(format_args!("tensor '{name}': shape {shape:?} is too large")))?;
        Ok(Self::new(name, T::DATATYPE, shape, vec![0; size]))
    }

    /// The same tensor under another name: how an input becomes an output without a copy.
    #[must_use]
    pub fn renamed(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    fn new(name: &str, datatype: Datatype, shape: &[u64], data: Vec<u8>) -> Self {
        Self { name: name.into(), datatype, shape: shape.into(), parameters: Vec::new(), data }
    }
}

fn check_count(name: &str, shape: &[u64], given: usize) -> Result<()> {
    if element_count(shape) == u64::try_from(given).ok() {
        return Ok(());
    }
    Err(Error::failed(format_args!("tensor '{name}': {given} elements do not fill shape {shape:?}")))
}

/// `None` if the product overflows. A scalar has the empty shape and one element.
fn element_count(shape: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim))
}

#[cfg(test)]
mod tests;
