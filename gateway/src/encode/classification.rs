//! Classification: the best classes of an output as texts `value:index[:label]`, as Triton writes them.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    fmt::Write,
};

use half::{bf16, f16};

use crate::tensor::{Classes, Datatype, Tensor};

use super::EncodeError;

/// Classes that may be asked for of one item.
const MAX_CLASSES: usize = 1 << 16;

/// The `count` best classes of an output, the best first, or all if it has fewer. Where the model batches each item has its
/// own, else all elements are the classes of one item.
pub(super) fn best(
    output: &Tensor,
    count: u64,
    classes: &Classes,
    max_bytes: usize,
) -> Result<Tensor, EncodeError> {
    let (items, dims) = match output.shape.split_first() {
        Some((items, dims)) if classes.batched && !dims.is_empty() => (Some(*items), dims),
        _ => (None, output.shape.as_slice()),
    };
    // The layout was checked, so the product is no more than there are elements, unless there are none.
    let of_item = dims.iter().fold(1, |product: u64, dim| product.saturating_mul(*dim));
    let count = usize::try_from(count.min(of_item)).unwrap_or(usize::MAX);
    if count > MAX_CLASSES {
        return Err(EncodeError::TooManyClasses { name: output.name.clone(), count });
    }
    let labels = classes.labels.get(&output.name).map_or(&[][..], |labels| &labels[..]);
    let of_item = usize::try_from(of_item).unwrap_or(usize::MAX);
    let mut texts =
        Texts { output, of_item, count, labels, max_bytes, bytes: Vec::new(), text: String::new() };
    match output.datatype {
        Datatype::Uint8 => texts.write(u8::from_le_bytes),
        Datatype::Uint16 => texts.write(u16::from_le_bytes),
        Datatype::Uint32 => texts.write(u32::from_le_bytes),
        Datatype::Uint64 => texts.write(u64::from_le_bytes),
        Datatype::Int8 => texts.write(i8::from_le_bytes),
        Datatype::Int16 => texts.write(i16::from_le_bytes),
        Datatype::Int32 => texts.write(i32::from_le_bytes),
        Datatype::Int64 => texts.write(i64::from_le_bytes),
        Datatype::Fp16 => texts.write(|bytes| f64::from(f16::from_le_bytes(bytes))),
        Datatype::Bf16 => texts.write(|bytes| f64::from(bf16::from_le_bytes(bytes))),
        Datatype::Fp32 => texts.write(|bytes| f64::from(f32::from_le_bytes(bytes))),
        Datatype::Fp64 => texts.write(f64::from_le_bytes),
        Datatype::Bool | Datatype::Bytes => {
            Err(EncodeError::NoClasses { name: output.name.clone(), datatype: output.datatype })
        }
    }?;
    Ok(Tensor {
        name: output.name.clone(),
        datatype: Datatype::Bytes,
        shape: items.into_iter().chain([count as u64]).collect(),
        parameters: output.parameters.clone(),
        bytes: texts.bytes.into(),
    })
}

/// The texts of one output, as the elements of a BYTES tensor.
struct Texts<'a> {
    output: &'a Tensor,
    /// Elements of an item.
    of_item: usize,
    count: usize,
    labels: &'a [Box<str>],
    max_bytes: usize,
    bytes: Vec<u8>,
    text: String,
}

impl Texts<'_> {
    fn write<T: Score, const N: usize>(&mut self, read: impl Fn([u8; N]) -> T) -> Result<(), EncodeError> {
        if self.count == 0 {
            return Ok(());
        }
        let output = self.output;
        let scores: &[[u8; N]] = output.bytes.as_chunks().0;
        for item in scores.chunks_exact(self.of_item) {
            for Reverse(ranked) in top(item.iter().map(|bytes| read(*bytes)), self.count) {
                self.class(&ranked);
                if self.bytes.len() > self.max_bytes {
                    return Err(EncodeError::ClassesTooLarge { name: self.output.name.clone() });
                }
            }
        }
        Ok(())
    }

    fn class<T: Score>(&mut self, ranked: &Ranked<T>) {
        self.text.clear();
        ranked.score.write(&mut self.text);
        // Writing to a `String` does not fail.
        let _ = write!(self.text, ":{}", ranked.index);
        if let Some(label) = self.labels.get(ranked.index).filter(|label| !label.is_empty()) {
            self.text.push(':');
            self.text.push_str(label);
        }
        self.bytes.extend_from_slice(&u32::try_from(self.text.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.bytes.extend_from_slice(self.text.as_bytes());
    }
}

/// The best of an item, the best first, kept in a heap of no more than that many.
fn top<T: Score>(scores: impl Iterator<Item = T>, count: usize) -> Vec<Reverse<Ranked<T>>> {
    let mut best = BinaryHeap::with_capacity(count);
    for (index, score) in scores.enumerate() {
        let ranked = Ranked { score, index };
        if best.len() < count {
            best.push(Reverse(ranked));
        } else if let Some(mut worst) = best.peek_mut()
            && worst.0 < ranked
        {
            *worst = Reverse(ranked);
        }
    }
    best.into_sorted_vec()
}

/// A class: the greater score is the better one, and of equals that with the smaller index.
struct Ranked<T> {
    score: T,
    index: usize,
}

impl<T: Score> Ord for Ranked<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.order(&other.score).then(other.index.cmp(&self.index))
    }
}

impl<T: Score> PartialOrd for Ranked<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Score> PartialEq for Ranked<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T: Score> Eq for Ranked<T> {}

/// An element as a class's value.
trait Score {
    fn order(&self, other: &Self) -> Ordering;

    /// As C++'s `std::to_string`, which Triton uses.
    fn write(&self, text: &mut String);
}

macro_rules! integer {
    ($($type:ty)*) => {
        $(impl Score for $type {
            fn order(&self, other: &Self) -> Ordering {
                self.cmp(other)
            }

            fn write(&self, text: &mut String) {
                text.push_str(itoa::Buffer::new().format(*self));
            }
        })*
    };
}

integer!(u8 u16 u32 u64 i8 i16 i32 i64);

impl Score for f64 {
    /// NaN is the worst.
    fn order(&self, other: &Self) -> Ordering {
        self.partial_cmp(other).unwrap_or_else(|| other.is_nan().cmp(&self.is_nan()))
    }

    fn write(&self, text: &mut String) {
        let _ = if self.is_nan() { write!(text, "nan") } else { write!(text, "{self:.6}") };
    }
}

#[cfg(test)]
mod tests;
