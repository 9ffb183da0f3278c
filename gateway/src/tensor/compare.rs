//! How far two answers are apart. Nothing here waits or fails: what cannot be compared is a difference with a reason.

use half::{bf16, f16};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{Datatype, Shape, Tensor, elements};

/// How far apart two floating-point numbers may be: numpy's `allclose`, |a - b| <= atol + rtol * |b|, with the one that is
/// compared with as b.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    pub rtol: f64,
    pub atol: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { rtol: 1e-3, atol: 1e-4 }
    }
}

impl Tolerance {
    /// NaN is close to NaN and an infinity to itself, to nothing else.
    fn admits(self, value: f64, against: f64) -> bool {
        let near = || (value - against).abs() <= self.atol + self.rtol * against.abs();
        same(value, against) || (value.is_finite() && against.is_finite() && near())
    }
}

fn same(value: f64, against: f64) -> bool {
    value == against || (value.is_nan() && against.is_nan())
}

/// One output of both answers.
#[derive(Debug, Serialize)]
pub struct OutputReport {
    pub name: String,
    pub datatype: &'static str,
    pub shape: Vec<u64>,
    pub pass: bool,
    /// Why the elements were not compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(flatten)]
    pub differences: Option<Differences>,
}

/// What comparing element by element found.
#[derive(Debug, Serialize)]
pub struct Differences {
    /// The largest |a - b|; infinite where only one of the two is a finite number. `None` for BOOL and BYTES.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_abs: Option<Size>,
    /// The largest |a - b| / |b|; infinite where only b is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rel: Option<Size>,
    /// Elements that are further apart than the tolerance admits.
    pub mismatches: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_mismatch: Option<Mismatch>,
}

/// The size of a difference, from 0 to infinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Size(pub f64);

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        number(self.0).serialize(serializer)
    }
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Mismatch {
    pub index: Vec<u64>,
    pub value: Value,
    pub against: Value,
}

/// Compares the outputs of one answer with those of another by name; first those of the one, then what only the other has.
pub fn compare(outputs: &[Tensor], against: &[Tensor], tolerance: Tolerance) -> Vec<OutputReport> {
    let find = |among: &'_ [Tensor], name: &str| among.iter().position(|tensor| tensor.name == name);
    let both = outputs.iter().map(|output| match find(against, &output.name) {
        Some(position) => compare_output(output, &against[position], tolerance),
        None => refused(output, "the version that it is compared with does not answer it".into()),
    });
    let only_there = against.iter().filter(|output| find(outputs, &output.name).is_none());
    both.chain(
        only_there
            .map(|output| refused(output, "only the version that it is compared with answers it".into())),
    )
    .collect()
}

fn refused(output: &Tensor, reason: String) -> OutputReport {
    OutputReport {
        name: output.name.clone(),
        datatype: output.datatype.name(),
        shape: output.shape.clone(),
        pass: false,
        reason: Some(reason),
        differences: None,
    }
}

fn compare_output(output: &Tensor, against: &Tensor, tolerance: Tolerance) -> OutputReport {
    if output.datatype != against.datatype {
        return refused(output, format!("datatype {} against {}", output.datatype, against.datatype));
    }
    if output.shape != against.shape {
        let (shape, other) = (Shape::from(output.shape.as_slice()), Shape::from(against.shape.as_slice()));
        return refused(output, format!("shape {shape} against {other}"));
    }
    let differences = compare_elements(output, against, tolerance);
    OutputReport {
        name: output.name.clone(),
        datatype: output.datatype.name(),
        shape: output.shape.clone(),
        pass: differences.mismatches == 0,
        reason: None,
        differences: Some(differences),
    }
}

/// Compares two tensors of the same datatype and shape, whose layout was checked.
fn compare_elements(one: &Tensor, other: &Tensor, tolerance: Tolerance) -> Differences {
    let mut found =
        Found { shape: &one.shape, tolerance, position: 0, numbers: None, mismatches: 0, first: None };
    let (a, b) = (&*one.bytes, &*other.bytes);
    match one.datatype {
        Datatype::Fp16 => found.floats(a, b, |bytes| f16::from_le_bytes(bytes).into()),
        Datatype::Bf16 => found.floats(a, b, |bytes| bf16::from_le_bytes(bytes).into()),
        Datatype::Fp32 => found.floats(a, b, |bytes| f32::from_le_bytes(bytes).into()),
        Datatype::Fp64 => found.floats(a, b, f64::from_le_bytes),
        Datatype::Int8 => found.integers(a, b, |bytes| i8::from_le_bytes(bytes).into()),
        Datatype::Int16 => found.integers(a, b, |bytes| i16::from_le_bytes(bytes).into()),
        Datatype::Int32 => found.integers(a, b, |bytes| i32::from_le_bytes(bytes).into()),
        Datatype::Int64 => found.integers(a, b, |bytes| i64::from_le_bytes(bytes).into()),
        Datatype::Uint8 => found.integers(a, b, |bytes| u8::from_le_bytes(bytes).into()),
        Datatype::Uint16 => found.integers(a, b, |bytes| u16::from_le_bytes(bytes).into()),
        Datatype::Uint32 => found.integers(a, b, |bytes| u32::from_le_bytes(bytes).into()),
        Datatype::Uint64 => found.integers(a, b, |bytes| u64::from_le_bytes(bytes).into()),
        Datatype::Bool => {
            for (value, against) in pairs(a, b, |[byte]: [u8; 1]| byte != 0) {
                found.element(value == against, || (value.into(), against.into()));
            }
        }
        Datatype::Bytes => {
            for (value, against) in elements(a).zip(elements(b)) {
                let (value, against) = (value.unwrap_or_default(), against.unwrap_or_default());
                found.element(value == against, || (text(value), text(against)));
            }
        }
    }
    let (max_abs, max_rel) = found.numbers.unzip();
    Differences { max_abs, max_rel, mismatches: found.mismatches, first_mismatch: found.first }
}

/// What has been found on the way through the elements.
struct Found<'a> {
    shape: &'a [u64],
    tolerance: Tolerance,
    position: u64,
    /// Largest absolute and relative difference, of numbers.
    numbers: Option<(Size, Size)>,
    mismatches: u64,
    first: Option<Mismatch>,
}

impl Found<'_> {
    fn floats<const N: usize>(&mut self, one: &[u8], other: &[u8], read: impl Fn([u8; N]) -> f64) {
        let tolerance = self.tolerance;
        self.number(0.0, 0.0);
        for (value, against) in pairs(one, other, read) {
            let apart = if same(value, against) { 0.0 } else { (value - against).abs() };
            self.number(apart, against.abs());
            self.element(tolerance.admits(value, against), || (number(value), number(against)));
        }
    }

    /// Integers are counted exactly, and so have to be equal; the widest of them fit into 65 bits.
    fn integers<const N: usize>(&mut self, one: &[u8], other: &[u8], read: impl Fn([u8; N]) -> i128) {
        self.number(0.0, 0.0);
        for (value, against) in pairs(one, other, read) {
            self.number((value - against).unsigned_abs() as f64, against.unsigned_abs() as f64);
            self.element(value == against, || (integer(value), integer(against)));
        }
    }

    /// Notes how far two numbers are apart, and how large the one is that is compared with. NaN stands for no number at
    /// all, from which every number is infinitely far.
    fn number(&mut self, apart: f64, size: f64) {
        let apart = if apart.is_nan() { f64::INFINITY } else { apart };
        let relative = if apart == 0.0 { 0.0 } else { apart / size };
        let relative = if relative.is_nan() { f64::INFINITY } else { relative };
        let (max_abs, max_rel) = self.numbers.get_or_insert_default();
        *max_abs = Size(max_abs.0.max(apart));
        *max_rel = Size(max_rel.0.max(relative));
    }

    fn element(&mut self, equal: bool, values: impl FnOnce() -> (Value, Value)) {
        if !equal {
            self.mismatches += 1;
            if self.first.is_none() {
                let (value, against) = values();
                self.first = Some(Mismatch { index: index(self.position, self.shape), value, against });
            }
        }
        self.position += 1;
    }
}

fn pairs<const N: usize, T>(
    one: &[u8],
    other: &[u8],
    read: impl Fn([u8; N]) -> T,
) -> impl Iterator<Item = (T, T)> {
    let (one, other) = (one.as_chunks::<N>().0, other.as_chunks::<N>().0);
    one.iter().zip(other).map(move |(value, against)| (read(*value), read(*against)))
}

/// Where the element of that number, in row-major order, is in the shape.
fn index(mut position: u64, shape: &[u64]) -> Vec<u64> {
    let mut index: Vec<u64> = shape
        .iter()
        .rev()
        .map(|dim| {
            let dim = (*dim).max(1);
            let at = position % dim;
            position /= dim;
            at
        })
        .collect();
    index.reverse();
    index
}

/// A number as JSON has it, or as a text where JSON has none.
fn number(value: f64) -> Value {
    if value.is_finite() {
        value.into()
    } else if value.is_nan() {
        "NaN".into()
    } else if value > 0.0 {
        "Infinity".into()
    } else {
        "-Infinity".into()
    }
}

fn integer(value: i128) -> Value {
    let signed = i64::try_from(value).map(Value::from);
    signed.or_else(|_| u64::try_from(value).map(Value::from)).unwrap_or_default()
}

/// An element of BYTES as it may be shown: text, and not at length.
fn text(bytes: &[u8]) -> Value {
    const SHOWN: usize = 64;
    let shown: String =
        String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN)]).chars().take(SHOWN).collect();
    shown.into()
}

#[cfg(test)]
mod tests;
