//! NumPy's `.npy` files, as `numpy.save` writes them: a magic, a header that is a Python dictionary, and the elements.
//!
//! Only what V2 can take as it is: little-endian numbers in C order. Anything else is refused with what to do about it.

use std::ops::Range;

use crate::tensor::{Datatype, LayoutError, check_layout};

pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// Bytes of a header; NumPy's own are about a hundred.
const MAX_HEADER: usize = 64 << 10;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NpyError {
    #[error("it does not begin as a .npy file does")]
    Magic,
    #[error("version {0}.{1} of the .npy format is not known")]
    Version(u8, u8),
    #[error("it is cut short: {needed} bytes are announced, {given} are there")]
    Truncated { needed: u64, given: u64 },
    #[error("its header of {0} bytes is longer than any array's")]
    LongHeader(u64),
    #[error("its header is not one that NumPy writes: {0}")]
    Header(&'static str),
    #[error("it is in Fortran order: save numpy.ascontiguousarray(array)")]
    FortranOrder,
    #[error("it is big-endian ({0}): save array.astype(array.dtype.newbyteorder('<'))")]
    BigEndian(String),
    #[error("its elements are of type {0}, which has no equivalent: booleans, integers and floats do")]
    Type(String),
    #[error("{0}")]
    Layout(#[from] LayoutError),
}

/// An array, with its elements as V2's raw layout has them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Array {
    pub(super) datatype: Datatype,
    pub(super) shape: Vec<u64>,
    /// Where in the file the elements are.
    pub(super) elements: Range<usize>,
}

/// Reads a whole file.
pub(super) fn parse(file: &[u8]) -> Result<Array, NpyError> {
    let rest = file.strip_prefix(MAGIC).ok_or(NpyError::Magic)?;
    let short = |needed: usize| NpyError::Truncated { needed: needed as u64, given: file.len() as u64 };
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(|| short(10))?;
    let (length, rest) = match version {
        [1, 0] => {
            let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(|| short(10))?;
            (u64::from(u16::from_le_bytes(*length)), rest)
        }
        [2 | 3, 0] => {
            let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(|| short(12))?;
            (u64::from(u32::from_le_bytes(*length)), rest)
        }
        [major, minor] => return Err(NpyError::Version(*major, *minor)),
    };
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= MAX_HEADER)
        .ok_or(NpyError::LongHeader(length))?;
    let begin = file.len() - rest.len() + length;
    let header = rest.get(..length).ok_or_else(|| short(begin))?;
    let header = std::str::from_utf8(header).map_err(|_| NpyError::Header("it is not text"))?;
    let Header { descr, fortran_order, shape } = Header::parse(header)?;
    let datatype = datatype(&descr)?;
    if fortran_order {
        return Err(NpyError::FortranOrder);
    }
    let elements = begin..file.len();
    check_layout(datatype, &shape, &file[elements.clone()])?;
    Ok(Array { datatype, shape, elements })
}

fn datatype(descr: &str) -> Result<Datatype, NpyError> {
    // Quoted back in an error, at no great length.
    let shown = || descr.chars().filter(|character| !character.is_control()).take(32).collect();
    Ok(match descr.split_at_checked(1) {
        Some(("|", "b1")) => Datatype::Bool,
        Some(("|", "u1")) => Datatype::Uint8,
        Some(("|", "i1")) => Datatype::Int8,
        Some(("<", "u2")) => Datatype::Uint16,
        Some(("<", "u4")) => Datatype::Uint32,
        Some(("<", "u8")) => Datatype::Uint64,
        Some(("<", "i2")) => Datatype::Int16,
        Some(("<", "i4")) => Datatype::Int32,
        Some(("<", "i8")) => Datatype::Int64,
        Some(("<", "f2")) => Datatype::Fp16,
        Some(("<", "f4")) => Datatype::Fp32,
        Some(("<", "f8")) => Datatype::Fp64,
        Some((">", "u2" | "u4" | "u8" | "i2" | "i4" | "i8" | "f2" | "f4" | "f8")) => {
            return Err(NpyError::BigEndian(shown()));
        }
        _ => return Err(NpyError::Type(shown())),
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<u64>,
}

impl Header {
    /// The three entries that every header has, in any order, and nothing else.
    fn parse(text: &str) -> Result<Self, NpyError> {
        let mut text = Text(text);
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        text.expect('{')?;
        while !text.accept('}') {
            let key = text.string()?;
            text.expect(':')?;
            match key {
                "descr" if text.peek() == Some('[') => {
                    return Err(NpyError::Type("records with fields".to_owned()));
                }
                "descr" => descr = Some(text.string()?.to_owned()),
                "fortran_order" => fortran_order = Some(text.boolean()?),
                "shape" => shape = Some(text.tuple()?),
                _ => {
                    return Err(NpyError::Header("it has another entry than descr, fortran_order and shape"));
                }
            }
            if !text.accept(',') && text.peek() != Some('}') {
                return Err(NpyError::Header("an entry does not end in a comma"));
            }
        }
        if text.peek().is_some() {
            return Err(NpyError::Header("something follows the dictionary"));
        }
        match (descr, fortran_order, shape) {
            (Some(descr), Some(fortran_order), Some(shape)) => Ok(Self { descr, fortran_order, shape }),
            _ => Err(NpyError::Header("descr, fortran_order or shape is missing")),
        }
    }
}

/// What is left of a header.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn peek(&mut self) -> Option<char> {
        self.0 = self.0.trim_start();
        self.0.chars().next()
    }

    fn accept(&mut self, character: char) -> bool {
        let accepted = self.peek() == Some(character);
        if accepted {
            self.0 = &self.0[character.len_utf8()..];
        }
        accepted
    }

    fn expect(&mut self, character: char) -> Result<(), NpyError> {
        if self.accept(character) { Ok(()) } else { Err(NpyError::Header("it is not a dictionary")) }
    }

    fn string(&mut self) -> Result<&'a str, NpyError> {
        let quote = self.peek().filter(|quote| matches!(quote, '\'' | '"'));
        let quote = quote.ok_or(NpyError::Header("a text was expected"))?;
        let (string, rest) = self.0[1..].split_once(quote).ok_or(NpyError::Header("a text does not end"))?;
        self.0 = rest;
        Ok(string)
    }

    fn boolean(&mut self) -> Result<bool, NpyError> {
        self.peek();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.0.strip_prefix(word) {
                self.0 = rest;
                return Ok(value);
            }
        }
        Err(NpyError::Header("fortran_order is neither True nor False"))
    }

    fn tuple(&mut self) -> Result<Vec<u64>, NpyError> {
        let wrong = NpyError::Header("shape is not a tuple of numbers");
        let mut dims = Vec::new();
        self.expect('(')?;
        while !self.accept(')') {
            self.peek();
            let digits = self.0.len() - self.0.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, rest) = self.0.split_at(digits);
            let Ok(dim) = number.parse() else { return Err(wrong) };
            dims.push(dim);
            self.0 = rest;
            if !self.accept(',') && self.peek() != Some(')') {
                return Err(wrong);
            }
        }
        Ok(dims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: [u8; 2], header: &str, elements: &[u8]) -> Vec<u8> {
        let mut file = [MAGIC, &version].concat();
        let length = u16::try_from(header.len()).expect("short");
        if version[0] == 1 {
            file.extend(length.to_le_bytes());
        } else {
            file.extend(u32::from(length).to_le_bytes());
        }
        [&file, header.as_bytes(), elements].concat()
    }

    fn header(descr: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}   \n")
    }

    #[test]
    fn what_numpy_writes_is_read() {
        for (descr, shape, size, datatype, dims) in [
            ("<f4", "(2, 3)", 24, Datatype::Fp32, vec![2, 3]),
            ("<i8", "(3,)", 24, Datatype::Int64, vec![3]),
            ("|b1", "()", 1, Datatype::Bool, vec![]),
            ("<f2", "(0, 4)", 0, Datatype::Fp16, vec![0, 4]),
            ("|u1", "(1, 1, 5)", 5, Datatype::Uint8, vec![1, 1, 5]),
        ] {
            for version in [[1, 0], [2, 0], [3, 0]] {
                let elements = vec![1; size];
                let file = file(version, &header(descr, shape), &elements);
                let array = parse(&file).expect("an array");
                assert_eq!((array.datatype, &array.shape), (datatype, &dims), "{descr} {shape}");
                assert_eq!(file[array.elements], elements);
            }
        }
    }

    #[test]
    fn what_cannot_be_taken_as_it_is_is_named() {
        let good = header("<f4", "(1,)");
        let fortran = good.replace("False", "True");
        let parsed = |header: &str| parse(&file([1, 0], header, &[0; 4]));
        assert!(parsed(&good).is_ok());
        assert_eq!(parsed(&fortran), Err(NpyError::FortranOrder));
        assert_eq!(parsed(&header(">f4", "(1,)")), Err(NpyError::BigEndian(">f4".into())));
        for descr in ["<U8", "|S3", "|O", "<c8", "<M8[ns]", "=f4", "f4", "", "é", "<f16", "|V2"] {
            assert_eq!(parsed(&header(descr, "(1,)")), Err(NpyError::Type(descr.into())));
        }
        let record = good.replace("'<f4'", "[('a', '<f4')]");
        assert_eq!(parsed(&record), Err(NpyError::Type("records with fields".into())));
        for (given, what) in [([0, 0], (0, 0)), ([1, 1], (1, 1)), ([4, 0], (4, 0))] {
            assert_eq!(parse(&file(given, &good, &[0; 4])), Err(NpyError::Version(what.0, what.1)));
        }
    }

    #[test]
    fn broken_files_are_errors_and_no_panic() {
        let whole = file([1, 0], &header("<f4", "(2, 2)"), &[0; 16]);
        assert!(parse(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).is_err(), "{length} bytes");
        }
        assert!(parse(&[&whole[..], &[0]].concat()).is_err(), "a byte too much");
        let huge = [MAGIC, &[2, 0], &u32::MAX.to_le_bytes(), b"{}"].concat();
        assert_eq!(parse(&huge), Err(NpyError::LongHeader(u64::from(u32::MAX))));
        let max = u64::MAX;
        for shape in [
            format!("({max}, {max})"),
            format!("({max}0,)"),
            "(-1,)".into(),
            "(1, 2".into(),
            "(1 2)".into(),
            "[1]".into(),
            "(,)".into(),
            "1".into(),
        ] {
            assert!(parse(&file([1, 0], &header("<f4", &shape), &[0; 4])).is_err(), "{shape}");
        }
        for text in [
            "",
            "{",
            "{}",
            "{'descr'",
            "{'descr': '<f4",
            "{'descr': é",
            "{'descr': '<f4' 'shape': (1,)}",
            "{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x",
            "{'fortran_order': False, 'shape': (1,)}",
        ] {
            assert!(matches!(parse(&file([1, 0], text, &[0; 4])), Err(NpyError::Header(_))), "{text}");
        }
        let garbled = file([1, 0], "\u{0}", &[]);
        assert!(parse(&garbled).is_err());
    }
}
