//! A pull reader over a JSON text, with bounded depth.

use std::borrow::Cow;

use crate::decode::DecodeError;

use super::{
    number::Number,
    string::{Raw, utf8},
};

/// Keys that one object may have; each is compared with those before it, to refuse duplicates.
pub(super) const MAX_KEYS: usize = 256;

/// Bytes of such a key, as it is written: long ones take long to compare.
const MAX_KEY_BYTES: usize = 1024;

/// Arrays and objects that can be open at once.
const MAX_DEPTH: usize = 128;

/// Reads one JSON text. `depth` arguments count the arrays and objects around a value, itself included.
pub(super) struct Reader<'j> {
    json: &'j [u8],
    at: usize,
    max_depth: usize,
}

impl<'j> Reader<'j> {
    /// A leading byte order mark is skipped.
    pub(super) fn new(json: &'j [u8], max_depth: usize) -> Self {
        const BOM: &[u8] = b"\xef\xbb\xbf";
        let at = if json.starts_with(BOM) { BOM.len() } else { 0 };
        Self { json, at, max_depth: max_depth.min(MAX_DEPTH) }
    }

    pub(super) fn json(&self) -> &'j [u8] {
        self.json
    }

    pub(super) fn max_depth(&self) -> usize {
        self.max_depth
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Goes on reading at `position`, where a token must start.
    pub(super) fn seek(&mut self, position: usize) {
        self.at = position;
    }

    /// The first byte of the next token; none at the end.
    #[inline]
    fn token(&mut self) -> Option<u8> {
        self.at = space(self.json, self.at);
        self.json.get(self.at).copied()
    }

    /// The first byte of the next value, which tells what it is.
    #[inline]
    pub(super) fn peek(&mut self) -> Result<u8, DecodeError> {
        self.token().ok_or_else(|| self.invalid("the text ends where a value should be"))
    }

    /// Takes a `null`, if that is next.
    pub(super) fn is_null(&mut self) -> Result<bool, DecodeError> {
        if self.peek()? != b'n' {
            return Ok(false);
        }
        self.word("null")?;
        Ok(true)
    }

    /// Starts an object. Its keys are read with [`Self::first_key`] and [`Self::next_key`].
    pub(super) fn expect_object(&mut self, depth: usize, what: &str) -> Result<(), DecodeError> {
        self.expect(b'{', what, "an object")?;
        self.check_depth(depth)
    }

    pub(super) fn first_key(&mut self) -> Result<Option<Cow<'j, str>>, DecodeError> {
        if self.is_empty(b'}') { Ok(None) } else { self.read_key().map(Some) }
    }

    pub(super) fn next_key(&mut self) -> Result<Option<Cow<'j, str>>, DecodeError> {
        if self.goes_on(b'}')? { self.read_key().map(Some) } else { Ok(None) }
    }

    fn read_key(&mut self) -> Result<Cow<'j, str>, DecodeError> {
        let key = self.key()?;
        if key.length() > MAX_KEY_BYTES {
            return Err(self.invalid(format!("a key is longer than {MAX_KEY_BYTES} bytes")));
        }
        key.to_text()
    }

    /// Starts an array and says whether it has an element; [`Self::next_element`] says so for those that follow.
    pub(super) fn first_element(&mut self, depth: usize, what: &str) -> Result<bool, DecodeError> {
        self.expect(b'[', what, "an array")?;
        self.check_depth(depth)?;
        Ok(!self.is_empty(b']'))
    }

    pub(super) fn next_element(&mut self) -> Result<bool, DecodeError> {
        self.goes_on(b']')
    }

    pub(super) fn string(&mut self, what: &str) -> Result<Cow<'j, str>, DecodeError> {
        self.expect(b'"', what, "a string")?;
        self.raw_string()?.to_text()
    }

    pub(super) fn boolean(&mut self, what: &str) -> Result<bool, DecodeError> {
        match self.peek()? {
            b't' => self.word("true").map(|()| true),
            b'f' => self.word("false").map(|()| false),
            _ => Err(self.unexpected(what, "true or false")),
        }
    }

    /// The text of a number, `NaN` and the infinities included.
    pub(super) fn number(&mut self, what: &str) -> Result<&'j str, DecodeError> {
        if !is_number(self.peek()?) {
            return Err(self.unexpected(what, "a number"));
        }
        let start = self.at;
        self.take_number(true)?;
        utf8(&self.json[start..self.at], start)
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
    pub(super) fn skip(&mut self, depth: usize, literals: bool) -> Result<&'j str, DecodeError> {
        self.peek()?;
        let start = self.at;
        let mut open = Open::default();
        loop {
            match self.token() {
                Some(first @ (b'[' | b'{')) => {
                    if depth + open.depth > self.max_depth {
                        return Err(too_deep(self.max_depth, self.at));
                    }
                    let object = first == b'{';
                    if !self.is_empty(closing(object)) {
                        open.push(object);
                        if object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(b'"') => {
                    self.raw_string()?;
                }
                Some(b't') => self.word("true")?,
                Some(b'f') => self.word("false")?,
                Some(b'n') => self.word("null")?,
                Some(first) if is_number(first) => self.take_number(literals)?,
                Some(_) => return Err(self.invalid("expected a value")),
                None => return Err(self.invalid("the text ends where a value should be")),
            }
            loop {
                // Strings were scanned, but none of them was read.
                let Some(object) = open.last() else { return utf8(&self.json[start..self.at], start) };
                match self.step(closing(object)) {
                    Step::Next => {
                        if object {
                            self.key()?;
                        }
                        break;
                    }
                    Step::End => open.pop(),
                    Step::Invalid => return Err(self.out_of_step(closing(object))),
                }
            }
        }
    }

    /// Steps over the array that comes next and is to be read later: only its end is looked for, by brackets and strings. What is
    /// no array, or has no end, is taken as any other value, with the same errors.
    pub(super) fn step_over_array(&mut self, depth: usize) -> Result<(), DecodeError> {
        if self.peek()? == b'['
            && let Some(end) = array_end(self.json, self.at)
        {
            self.at = end;
            return Ok(());
        }
        self.skip(depth, true).map(drop)
    }

    /// Checks that nothing but white space is left.
    pub(super) fn finish(&mut self) -> Result<(), DecodeError> {
        if self.token().is_none() { Ok(()) } else { Err(self.invalid("the text goes on behind the request")) }
    }

    /// Steps over the first byte of an array or object, and over its last if there is nothing in between.
    #[inline]
    fn is_empty(&mut self, close: u8) -> bool {
        self.at += 1;
        let empty = self.token() == Some(close);
        self.at += usize::from(empty);
        empty
    }

    /// Steps over what follows an entry of an array or object.
    #[inline]
    fn step(&mut self, close: u8) -> Step {
        match self.token() {
            Some(b',') => {
                self.at += 1;
                Step::Next
            }
            Some(next) if next == close => {
                self.at += 1;
                Step::End
            }
            _ => Step::Invalid,
        }
    }

    /// The same, with an error if there is neither another entry nor an end.
    fn goes_on(&mut self, close: u8) -> Result<bool, DecodeError> {
        match self.step(close) {
            Step::Next if self.token() == Some(close) => Err(self.invalid("trailing comma")),
            Step::Next => Ok(true),
            Step::End => Ok(false),
            Step::Invalid => Err(self.out_of_step(close)),
        }
    }

    #[cold]
    fn out_of_step(&mut self, close: u8) -> DecodeError {
        let close = char::from(close);
        match self.token() {
            Some(_) => self.invalid(format!("expected `,` or `{close}`")),
            None => self.invalid(format!("the text ends before a `{close}`")),
        }
    }

    /// Takes a key and the colon behind it.
    #[inline]
    fn key(&mut self) -> Result<Raw<'j>, DecodeError> {
        if self.token() != Some(b'"') {
            return Err(self.invalid("a key must be a string"));
        }
        let key = self.raw_string()?;
        if self.token() != Some(b':') {
            return Err(self.invalid("expected `:`"));
        }
        self.at += 1;
        Ok(key)
    }

    #[inline]
    fn raw_string(&mut self) -> Result<Raw<'j>, DecodeError> {
        let raw = Raw::scan(self.json, self.at)?;
        self.at = raw.end();
        Ok(raw)
    }

    #[inline]
    fn take_number(&mut self, literals: bool) -> Result<(), DecodeError> {
        const LITERALS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
        let text = &self.json[self.at..];
        let length = match Number::scan(text) {
            Ok(number) => number.text().len(),
            Err(offset) => match LITERALS.into_iter().find(|literal| text.starts_with(literal)) {
                Some(literal) if literals => literal.len(),
                Some(_) => return Err(self.invalid("NaN and Infinity may stand in 'data' only")),
                None => return Err(DecodeError::json(self.at + offset, "invalid number")),
            },
        };
        self.at += length;
        Ok(())
    }

    #[inline]
    fn word(&mut self, word: &str) -> Result<(), DecodeError> {
        if !self.json[self.at..].starts_with(word.as_bytes()) {
            return Err(self.invalid(format!("expected `{word}`")));
        }
        self.at += word.len();
        Ok(())
    }

    fn expect(&mut self, first: u8, what: &str, kind_name: &str) -> Result<(), DecodeError> {
        if self.peek()? == first { Ok(()) } else { Err(self.unexpected(what, kind_name)) }
    }

    /// The next value is of the wrong kind, or is no value at all.
    pub(super) fn unexpected(&mut self, what: &str, expected: &str) -> DecodeError {
        match self.peek() {
            Ok(first) => match kind_name(first) {
                Some(given) => DecodeError::request(format!(
                    "{what} must be {expected}, got {given} at byte {}",
                    self.at
                )),
                None => self.invalid("expected a value"),
            },
            Err(error) => error,
        }
    }

    fn check_depth(&self, depth: usize) -> Result<(), DecodeError> {
        if depth <= self.max_depth { Ok(()) } else { Err(too_deep(self.max_depth, self.at)) }
    }

    #[cold]
    fn invalid(&self, reason: impl Into<String>) -> DecodeError {
        DecodeError::json(self.at, reason)
    }
}

/// The arrays and objects that are open around a value, no more than [`MAX_DEPTH`].
#[derive(Default)]
struct Open {
    depth: usize,
    /// Set for an object; the innermost is the lowest bit.
    objects: u128,
}

impl Open {
    fn push(&mut self, object: bool) {
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(object);
    }

    /// Whether the innermost is an object; none if nothing is open.
    fn last(&self) -> Option<bool> {
        (self.depth > 0).then_some(self.objects & 1 == 1)
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
    }
}

fn closing(object: bool) -> u8 {
    if object { b'}' } else { b']' }
}

/// What follows an entry of an array or object.
enum Step {
    Next,
    End,
    Invalid,
}

pub(super) fn too_deep(max_depth: usize, position: usize) -> DecodeError {
    DecodeError::json(position, format!("arrays and objects are nested more than {max_depth} deep"))
}

/// Where the array that starts at `start` ends, if all brackets and strings in it are right and it is not deeper than any may
/// be. Nothing else of it is looked at.
fn array_end(json: &[u8], start: usize) -> Option<usize> {
    let (mut at, mut open) = (start, 0_usize);
    loop {
        at += memchr::memchr3(b'[', b']', b'"', json.get(at..)?)?;
        match json[at] {
            b'"' => at = Raw::scan(json, at).ok()?.end(),
            bracket => {
                at += 1;
                open = if bracket == b'[' { open + 1 } else { open - 1 };
                match open {
                    0 => return Some(at),
                    1..=MAX_DEPTH => {}
                    _ => return None,
                }
            }
        }
    }
}

/// Where the white space from `at` on ends.
#[inline]
pub(super) fn space(json: &[u8], mut at: usize) -> usize {
    // Mostly there is none, which one comparison tells.
    while let Some(byte) = json.get(at).filter(|byte| **byte <= b' ') {
        if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
            break;
        }
        at += 1;
    }
    at
}

/// Whether a value is a number, `NaN` or an infinity, by its first byte.
pub(super) fn is_number(first: u8) -> bool {
    matches!(first, b'-' | b'0'..=b'9' | b'I' | b'N')
}

/// What a value is, by its first byte.
pub(super) fn kind_name(first: u8) -> Option<&'static str> {
    match first {
        b'n' => Some("null"),
        b't' | b'f' => Some("a boolean"),
        b'"' => Some("a string"),
        b'[' => Some("an array"),
        b'{' => Some("an object"),
        number if is_number(number) => Some("a number"),
        _ => None,
    }
}
