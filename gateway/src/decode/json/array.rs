//! `data` arrays, parsed straight into V2's raw layout.

use half::f16;

use crate::{
    decode::DecodeError,
    tensor::{Datatype, Shape, element_count},
};

use super::{
    fp32,
    number::Number,
    reader::{Reader, kind_name, space, too_deep},
    short::Short,
    shown,
    string::Raw,
};

/// Reads a `data` array, nested or flat, into V2's raw layout of `shape` and `datatype`. As in Triton the nesting is
/// free: elements are taken depth-first, and only their count has to fit the shape.
pub(super) fn elements(
    reader: &mut Reader<'_>,
    depth: usize,
    name: &str,
    datatype: Datatype,
    shape: &[u64],
) -> Result<Vec<u8>, DecodeError> {
    if reader.peek()? != b'[' {
        return Err(reader.unexpected("'data'", "an array"));
    }
    value(reader, depth, name, datatype, shape)
}

/// The same of an array, or of one element without an array around it.
pub(super) fn value(
    reader: &mut Reader<'_>,
    depth: usize,
    name: &str,
    datatype: Datatype,
    shape: &[u64],
) -> Result<Vec<u8>, DecodeError> {
    reader.peek()?;
    let expected = element_count(shape).unwrap_or(u64::MAX);
    let mut data = Data { reader, depth, name, datatype, shape, expected };
    match datatype {
        Datatype::Bool => data.read(one_by_one, |_| None, boolean),
        Datatype::Uint8 => data.read_integers(u8::to_le_bytes),
        Datatype::Uint16 => data.read_integers(u16::to_le_bytes),
        Datatype::Uint32 => data.read_integers(u32::to_le_bytes),
        Datatype::Uint64 => data.read_integers(u64::to_le_bytes),
        Datatype::Int8 => data.read_integers(i8::to_le_bytes),
        Datatype::Int16 => data.read_integers(i16::to_le_bytes),
        Datatype::Int32 => data.read_integers(i32::to_le_bytes),
        Datatype::Int64 => data.read_integers(i64::to_le_bytes),
        Datatype::Fp16 => data.read(
            one_by_one,
            |short| Some(short.to_f16().to_le_bytes()),
            |text| float(text, |number| number.to_f16(), f16::from_f64, f16::to_le_bytes),
        ),
        Datatype::Fp32 => data.read(
            fp32::read,
            |short| short.to_f32().map(f32::to_le_bytes),
            |text| float(text, |number| number.to_f32(), narrow, f32::to_le_bytes),
        ),
        Datatype::Fp64 => data.read(
            one_by_one,
            |short| Some(short.to_f64().to_le_bytes()),
            |text| float(text, |number| number.to_f64(), |value| value, f64::to_le_bytes),
        ),
        Datatype::Bf16 => {
            Err(DecodeError::input(name, "JSON does not carry BF16: send it as a binary tensor"))
        }
        Datatype::Bytes => data.read_strings(),
    }
}

/// One `data` array while it is read.
struct Data<'r, 'j> {
    reader: &'r mut Reader<'j>,
    depth: usize,
    name: &'r str,
    datatype: Datatype,
    shape: &'r [u64],
    /// Elements of the shape.
    expected: u64,
}

/// Why a text is not an element.
enum Fault {
    /// Not JSON, from that byte of the text on.
    Syntax(usize),
    /// Of another kind than the named one.
    Kind(&'static str),
    /// The datatype does not hold it.
    Value(&'static str),
    /// The text of a string is not JSON, or too long.
    String(Box<DecodeError>),
}

/// Why a walk ended early, and at which byte. Small, as it is part of every step's result.
enum Stop {
    TooMany,
    Element(usize, Fault),
    TooDeep(usize),
    ExpectedComma(usize),
}

impl Data<'_, '_> {
    fn read_integers<T: TryFrom<i64> + TryFrom<i128>, const N: usize>(
        &mut self,
        to_bytes: impl Fn(T) -> [u8; N],
    ) -> Result<Vec<u8>, DecodeError> {
        self.read(one_by_one, |short| short.to_integer().map(&to_bytes), |text| integer(text, &to_bytes))
    }

    /// Reads all elements. `several` takes as many as it can, as [`fp32::read`] does. `element` gives the bytes of the one
    /// that starts a text, and where its text ends; `short` those of a short number, if it can.
    #[inline]
    fn read<const N: usize>(
        &mut self,
        several: impl Fn(&[u8], usize, u64, &mut Vec<u8>) -> (usize, usize),
        short: impl Fn(Short) -> Option<[u8; N]>,
        element: impl Fn(&[u8]) -> Result<([u8; N], usize), Fault>,
    ) -> Result<Vec<u8>, DecodeError> {
        let json = self.reader.json();
        let start = self.reader.position();
        // An element takes two bytes of JSON at least, whatever the shape announces.
        let possible = (json.len() - start) / 2 + 1;
        let count = usize::try_from(self.expected).unwrap_or(usize::MAX).min(possible);
        let mut bytes = Vec::with_capacity(count * N);
        let limits = (self.expected, self.depth, self.reader.max_depth());
        let text_at = |at| json.get(at..).unwrap_or_default();
        let walked = walk(json, start, limits, |at, most| {
            let (count, end) = several(json, at, most, &mut bytes);
            if count > 0 {
                return Ok(Run { count: count as u64, end, comma: true });
            }
            let run = run(json, at, most, &mut bytes, |at| {
                // Short as they are, those of one digit are quicker still.
                if !is_one_digit(text_at(at))
                    && let Some(number) = Short::scan(json, at)
                    && let Some(value) = short(number)
                {
                    return Some((value, number.length));
                }
                element(text_at(at)).ok()
            });
            if run.count > 0 {
                return Ok(run);
            }
            let (value, length) = element(text_at(at))?;
            bytes.extend_from_slice(&value);
            Ok(Run::of_one(at + length))
        });
        self.finish(json, walked, (bytes.len() / N) as u64)?;
        Ok(bytes)
    }

    /// Reads the strings of a BYTES tensor, each behind its length.
    fn read_strings(&mut self) -> Result<Vec<u8>, DecodeError> {
        let json = self.reader.json();
        let start = self.reader.position();
        // A string takes three bytes of JSON at least, and its text never more than its JSON.
        let count = usize::try_from(self.expected).unwrap_or(usize::MAX).min((json.len() - start) / 3 + 1);
        let mut bytes = Vec::with_capacity(count * size_of::<u32>());
        let (mut given, mut unescaped) = (0, String::new());
        let limits = (self.expected, self.depth, self.reader.max_depth());
        let walked = walk(json, start, limits, |at, _| {
            let text = json.get(at..).unwrap_or_default();
            if text.first() != Some(&b'"') {
                return Err(Fault::Kind("a string"));
            }
            let raw = Raw::scan(json, at).map_err(|error| Fault::String(error.into()))?;
            let end = raw.end();
            let text = raw.text(&mut unescaped).map_err(|error| Fault::String(error.into()))?;
            let length = u32::try_from(text.len()).map_err(|_| Fault::Value("is too long for"))?;
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
            given += 1;
            Ok(Run::of_one(end))
        });
        self.finish(json, walked, given)?;
        Ok(bytes)
    }

    /// Goes on behind the array, or says why it was refused. `given` elements were read.
    fn finish(&mut self, json: &[u8], walked: Result<usize, Stop>, given: u64) -> Result<(), DecodeError> {
        match walked {
            Ok(_) if given < self.expected => Err(self.miscounted(&format!("'data' holds {given}"))),
            Ok(end) => {
                self.reader.seek(end);
                Ok(())
            }
            Err(Stop::TooMany) => Err(self.miscounted("'data' holds more")),
            Err(Stop::Element(at, fault)) => Err(self.refused(json, at, given, fault)),
            Err(Stop::TooDeep(at)) => Err(too_deep(self.reader.max_depth(), at)),
            Err(Stop::ExpectedComma(at)) => {
                let expected =
                    if at < json.len() { "expected `,` or `]`" } else { "the text ends in an array" };
                Err(DecodeError::json(at, expected))
            }
        }
    }

    fn miscounted(&self, given: &str) -> DecodeError {
        let shape = Shape::from(self.shape);
        DecodeError::input(self.name, format!("shape {shape} has {} elements, {given}", self.expected))
    }

    fn refused(&self, json: &[u8], at: usize, index: u64, fault: Fault) -> DecodeError {
        let datatype = self.datatype;
        match fault {
            Fault::Syntax(offset) => DecodeError::json(at + offset, "invalid number or literal"),
            Fault::Kind(takes) => match json.get(at).and_then(|byte| kind_name(*byte)) {
                Some(given) => DecodeError::input(
                    self.name,
                    format!("element {index} of 'data' is {given}, {datatype} takes {takes}"),
                ),
                None => DecodeError::json(at, "expected a value"),
            },
            Fault::Value(reason) => {
                let text = Number::scan(&json[at..]).map_or(&[][..], |number| number.text());
                let text = shown(&String::from_utf8_lossy(text));
                DecodeError::input(
                    self.name,
                    format!("element {index} of 'data' is {text}, which {reason} {datatype}"),
                )
            }
            Fault::String(error) => *error,
        }
    }
}

/// For elements that nothing reads but one by one.
fn one_by_one(_: &[u8], at: usize, _: u64, _: &mut Vec<u8>) -> (usize, usize) {
    (0, at)
}

/// Elements that follow each other with nothing in between but commas and white space.
struct Run {
    count: u64,
    /// Where the JSON text goes on.
    end: usize,
    /// Whether that is behind a comma.
    comma: bool,
}

impl Run {
    fn of_one(end: usize) -> Self {
        Self { count: 1, end, comma: false }
    }
}

/// Reads from `at` on what `element` takes for elements, a few dozen and no more than `most`. `element` gets the place of a
/// value, and returns its bytes and the length of its text.
#[inline]
fn run<const N: usize>(
    json: &[u8],
    at: usize,
    most: u64,
    bytes: &mut Vec<u8>,
    element: impl Fn(usize) -> Option<([u8; N], usize)>,
) -> Run {
    // Collected here, as each element would have to ask whether the vector has room for it.
    let mut block = [[0; N]; 64];
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut count = 0;
    let (mut end, mut comma) = (at, false);
    for place in block.iter_mut().take(most) {
        let Some((value, length)) = element(end) else { break };
        *place = value;
        count += 1;
        end += length;
        comma = json.get(end) == Some(&b',');
        if !comma {
            break;
        }
        end = space(json, end + 1);
    }
    bytes.extend_from_slice(block.get(..count).unwrap_or_default().as_flattened());
    Run { count: count as u64, end, comma }
}

/// Walks the array or the one element at `at` depth-first and returns where it ends. `elements` gets the place of each value
/// that is no array, and how many elements it may read in a run; it reads one at least. `limits`
/// are the elements there may be, the depth of the array and the greatest depth. Iterative: no text can exhaust the stack.
#[inline]
fn walk(
    json: &[u8],
    mut at: usize,
    limits: (u64, usize, usize),
    mut elements: impl FnMut(usize, u64) -> Result<Run, Fault>,
) -> Result<usize, Stop> {
    let (mut left, depth, max_depth) = limits;
    if json.get(at) != Some(&b'[') {
        if left == 0 {
            return Err(Stop::TooMany);
        }
        // One that stands alone, so none that follow it.
        return elements(at, 0).map(|run| run.end).map_err(|fault| Stop::Element(at, fault));
    }
    let mut open = 0;
    loop {
        at = space(json, at);
        if json.get(at) == Some(&b'[') {
            if depth + open > max_depth {
                return Err(Stop::TooDeep(at));
            }
            open += 1;
            at = space(json, at + 1);
            if json.get(at) != Some(&b']') {
                continue;
            }
        } else {
            if left == 0 {
                return Err(Stop::TooMany);
            }
            let run = elements(at, left).map_err(|fault| Stop::Element(at, fault))?;
            left -= run.count;
            at = run.end;
            if run.comma {
                continue;
            }
        }
        loop {
            at = space(json, at);
            match json.get(at) {
                Some(b',') => {
                    at += 1;
                    break;
                }
                Some(b']') => {
                    at += 1;
                    open -= 1;
                    if open == 0 {
                        return Ok(at);
                    }
                }
                _ => return Err(Stop::ExpectedComma(at)),
            }
        }
    }
}

fn boolean(text: &[u8]) -> Result<([u8; 1], usize), Fault> {
    if text.starts_with(b"true") {
        Ok(([1], 4))
    } else if text.starts_with(b"false") {
        Ok(([0], 5))
    } else {
        Err(match text.first() {
            Some(b't' | b'f') => Fault::Syntax(0),
            _ => Fault::Kind("true or false"),
        })
    }
}

/// Whether an element is one digit, as all are of masks and one-hot vectors: nothing of it has to be scanned.
#[inline]
fn is_one_digit(text: &[u8]) -> bool {
    // Whether the first byte is a sign cannot be guessed, so the second is looked at before it.
    matches!(text.get(1), Some(b',' | b']')) && text[0].is_ascii_digit()
}

#[inline]
fn one_digit(text: &[u8]) -> Option<u8> {
    if is_one_digit(text) { Some(text[0] - b'0') } else { None }
}

#[inline]
fn integer<T: TryFrom<i128>, const N: usize>(
    text: &[u8],
    to_bytes: impl Fn(T) -> [u8; N],
) -> Result<([u8; N], usize), Fault> {
    if let Some(value) = one_digit(text).and_then(|digit| T::try_from(digit.into()).ok()) {
        return Ok((to_bytes(value), 1));
    }
    if !matches!(text.first(), Some(b'-' | b'0'..=b'9')) {
        return Err(Fault::Kind("an integer"));
    }
    let number = Number::scan(text).map_err(Fault::Syntax)?;
    if !number.is_integer() {
        return Err(Fault::Value("is not an integer, as is needed for"));
    }
    let value = number.to_integer().and_then(|value| T::try_from(value).ok());
    let value = value.ok_or(Fault::Value("is out of range for"))?;
    Ok((to_bytes(value), number.text().len()))
}

/// A number, or one of the literals for what JSON has no number for; `null` is NaN.
#[inline]
fn float<T: From<u8>, const N: usize>(
    text: &[u8],
    convert: impl Fn(Number<'_>) -> Option<T>,
    narrow: impl Fn(f64) -> T,
    to_bytes: impl Fn(T) -> [u8; N],
) -> Result<([u8; N], usize), Fault> {
    const LITERALS: [(&[u8], f64); 4] = [
        (b"NaN", f64::NAN),
        (b"Infinity", f64::INFINITY),
        (b"-Infinity", f64::NEG_INFINITY),
        (b"null", f64::NAN),
    ];
    if let Some(digit) = one_digit(text) {
        return Ok((to_bytes(digit.into()), 1));
    }
    // Signs are as good as random, so nothing here branches on them.
    let sign = usize::from(text.first() == Some(&b'-'));
    if text.get(sign).is_some_and(u8::is_ascii_digit) {
        let number = Number::scan(text).map_err(Fault::Syntax)?;
        let value = convert(number).ok_or(Fault::Value("is beyond the range of FP64 and so of"))?;
        return Ok((to_bytes(value), number.text().len()));
    }
    match LITERALS.into_iter().find(|(literal, _)| text.starts_with(literal)) {
        Some((literal, value)) => Ok((to_bytes(narrow(value)), literal.len())),
        None if matches!(text.first(), Some(b'-' | b'N' | b'I' | b'n')) => Err(Fault::Syntax(0)),
        None => Err(Fault::Kind("a number")),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "only NaN and the infinities are narrowed")]
fn narrow(value: f64) -> f32 {
    value as f32
}
