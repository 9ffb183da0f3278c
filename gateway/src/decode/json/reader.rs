//! A pull reader over a JSON text: jiter's tokens, with bounded depth and positions in the whole text.

use jiter::{Jiter, JiterError, Peek};

use crate::decode::DecodeError;

/// Keys that one object may have; each is compared with those before it, to refuse duplicates.
pub(super) const MAX_KEYS: usize = 256;

/// Reads one JSON text. `depth` arguments count the arrays and objects around a value, itself included.
pub(super) struct Reader<'j> {
    json: &'j [u8],
    jiter: Jiter<'j>,
    /// Where the text that `jiter` reads starts in `json`.
    base: usize,
    max_depth: usize,
}

impl<'j> Reader<'j> {
    /// A leading byte order mark is skipped.
    pub(super) fn new(json: &'j [u8], max_depth: usize) -> Self {
        const BOM: &[u8] = b"\xef\xbb\xbf";
        let mut reader = Self { json, jiter: Jiter::new(json).with_allow_inf_nan(), base: 0, max_depth };
        if json.starts_with(BOM) {
            reader.seek(BOM.len());
        }
        reader
    }

    pub(super) fn json(&self) -> &'j [u8] {
        self.json
    }

    pub(super) fn max_depth(&self) -> usize {
        self.max_depth
    }

    pub(super) fn position(&self) -> usize {
        self.base + self.jiter.current_index()
    }

    /// Goes on reading at `position`, where a token must start. jiter keeps no state but its index.
    pub(super) fn seek(&mut self, position: usize) {
        let tape = std::mem::replace(&mut self.jiter, Jiter::new(b"")).into_tape();
        self.jiter = Jiter::with_tape(&self.json[position..], tape).with_allow_inf_nan();
        self.base = position;
    }

    /// The first byte of the next value, which tells what it is.
    pub(super) fn peek(&mut self) -> Result<Peek, DecodeError> {
        self.jiter.peek().map_err(|error| syntax(self.base, &error))
    }

    /// Takes a `null`, if that is next.
    pub(super) fn is_null(&mut self) -> Result<bool, DecodeError> {
        if self.peek()? != Peek::Null {
            return Ok(false);
        }
        self.jiter.known_null().map_err(|error| syntax(self.base, &error))?;
        Ok(true)
    }

    /// Starts an object. Its keys are read with [`Self::first_key`] and [`Self::next_key`].
    pub(super) fn expect_object(&mut self, depth: usize, what: &str) -> Result<(), DecodeError> {
        self.expect(Peek::Object, what, "an object")?;
        self.check_depth(depth)
    }

    pub(super) fn first_key(&mut self) -> Result<Option<&str>, DecodeError> {
        let base = self.base;
        self.jiter.known_object().map_err(|error| syntax(base, &error))
    }

    pub(super) fn next_key(&mut self) -> Result<Option<&str>, DecodeError> {
        let base = self.base;
        self.jiter.next_key().map_err(|error| syntax(base, &error))
    }

    /// Starts an array and says whether it has an element; [`Self::next_element`] says so for those that follow.
    pub(super) fn first_element(&mut self, depth: usize, what: &str) -> Result<bool, DecodeError> {
        self.expect(Peek::Array, what, "an array")?;
        self.check_depth(depth)?;
        let first = self.jiter.known_array().map_err(|error| syntax(self.base, &error))?;
        Ok(first.is_some())
    }

    pub(super) fn next_element(&mut self) -> Result<bool, DecodeError> {
        let next = self.jiter.array_step().map_err(|error| syntax(self.base, &error))?;
        Ok(next.is_some())
    }

    pub(super) fn string(&mut self, what: &str) -> Result<&str, DecodeError> {
        self.expect(Peek::String, what, "a string")?;
        let base = self.base;
        self.jiter.known_str().map_err(|error| syntax(base, &error))
    }

    pub(super) fn boolean(&mut self, what: &str) -> Result<bool, DecodeError> {
        let peek = self.peek()?;
        if !matches!(peek, Peek::True | Peek::False) {
            return Err(self.unexpected(what, "true or false"));
        }
        self.jiter.known_bool(peek).map_err(|error| syntax(self.base, &error))
    }

    /// The text of a number, `NaN` and the infinities included.
    pub(super) fn number(&mut self, what: &str) -> Result<&str, DecodeError> {
        let peek = self.peek()?;
        if !peek.is_num() {
            return Err(self.unexpected(what, "a number"));
        }
        let base = self.base;
        let text = self.jiter.known_number_bytes(peek).map_err(|error| syntax(base, &error))?;
        std::str::from_utf8(text).map_err(|_| DecodeError::json(base, "invalid number"))
    }

    /// An integer from 0 to 2^64 - 1, written without point or exponent.
    pub(super) fn unsigned(&mut self, what: &str) -> Result<u64, DecodeError> {
        let text = self.number(what)?;
        text.parse().map_err(|_| {
            let given = super::shown(text);
            DecodeError::request(format!("{what} must be an integer from 0 to {}, got {given}", u64::MAX))
        })
    }

    /// Takes the next value, whatever it is, and returns its text. `literals` admits `NaN` and the infinities.
    pub(super) fn skip(&mut self, depth: usize, literals: bool) -> Result<&'j [u8], DecodeError> {
        let mut peek = self.peek()?;
        let start = self.position();
        // Arrays and objects that are open, outermost first; true is an object.
        let mut open: Vec<bool> = Vec::new();
        loop {
            if matches!(peek, Peek::Array | Peek::Object) {
                self.check_depth(depth + open.len())?;
            }
            match self.enter(peek, literals)? {
                Entered::Nothing => {}
                Entered::Array(first) => {
                    open.push(false);
                    peek = first;
                    continue;
                }
                Entered::Object => {
                    open.push(true);
                    peek = self.peek()?;
                    continue;
                }
            }
            loop {
                let next = match open.last() {
                    None => return Ok(&self.json[start..self.position()]),
                    Some(false) => self.next_element()?,
                    Some(true) => self.next_key()?.is_some(),
                };
                if next {
                    peek = self.peek()?;
                    break;
                }
                open.pop();
            }
        }
    }

    /// Takes a scalar or an empty array or object whole, and of any other only the start.
    fn enter(&mut self, peek: Peek, literals: bool) -> Result<Entered, DecodeError> {
        let base = self.base;
        let position = self.position();
        match peek {
            Peek::Array => {
                self.jiter.known_array().map(|first| first.map_or(Entered::Nothing, Entered::Array))
            }
            Peek::Object => self.jiter.known_object().map(|first| match first {
                Some(_) => Entered::Object,
                None => Entered::Nothing,
            }),
            // Unlike jiter's own skip, this checks that strings are UTF-8.
            Peek::String => self.jiter.known_str().map(|_| Entered::Nothing),
            Peek::True | Peek::False => self.jiter.known_bool(peek).map(|_| Entered::Nothing),
            Peek::Null => self.jiter.known_null().map(|()| Entered::Nothing),
            number => match self.jiter.known_number_bytes(number) {
                Ok(text) if !literals && text.ends_with(b"N") | text.ends_with(b"y") => {
                    return Err(DecodeError::json(position, "NaN and Infinity may stand in 'data' only"));
                }
                Ok(_) => Ok(Entered::Nothing),
                Err(error) => Err(error),
            },
        }
        .map_err(|error| syntax(base, &error))
    }

    /// Checks that nothing but white space is left.
    pub(super) fn finish(&mut self) -> Result<(), DecodeError> {
        self.jiter.finish().map_err(|error| syntax(self.base, &error))
    }

    fn expect(&mut self, kind: Peek, what: &str, kind_name: &str) -> Result<(), DecodeError> {
        if self.peek()? == kind { Ok(()) } else { Err(self.unexpected(what, kind_name)) }
    }

    /// The next value is of the wrong kind, or is no value at all.
    pub(super) fn unexpected(&mut self, what: &str, expected: &str) -> DecodeError {
        let position = self.position();
        match self.peek() {
            Ok(peek) => match kind_name(peek) {
                Some(given) => {
                    DecodeError::request(format!("{what} must be {expected}, got {given} at byte {position}"))
                }
                None => DecodeError::json(position, "expected a value"),
            },
            Err(error) => error,
        }
    }

    fn check_depth(&self, depth: usize) -> Result<(), DecodeError> {
        if depth <= self.max_depth { Ok(()) } else { Err(too_deep(self.max_depth, self.position())) }
    }
}

enum Entered {
    /// Nothing was opened: the value is complete.
    Nothing,
    Array(Peek),
    Object,
}

pub(super) fn too_deep(max_depth: usize, position: usize) -> DecodeError {
    DecodeError::json(position, format!("arrays and objects are nested more than {max_depth} deep"))
}

fn syntax(base: usize, error: &JiterError) -> DecodeError {
    DecodeError::json(base + error.index, error.error_type.to_string())
}

/// What a value is, by its first byte.
pub(super) fn kind_name(peek: Peek) -> Option<&'static str> {
    match peek {
        Peek::Null => Some("null"),
        Peek::True | Peek::False => Some("a boolean"),
        Peek::String => Some("a string"),
        Peek::Array => Some("an array"),
        Peek::Object => Some("an object"),
        number if number.is_num() => Some("a number"),
        _ => None,
    }
}
