//! JSON strings: one scan that checks how they are written, and the texts that they stand for.

use std::borrow::Cow;

use crate::decode::DecodeError;

/// A string between its quotes, as it is written. Its escapes are valid; whether it is UTF-8 is looked at when it is read.
pub(super) struct Raw<'j> {
    bytes: &'j [u8],
    /// Where they start in the JSON text.
    start: usize,
    escaped: bool,
}

impl<'j> Raw<'j> {
    /// Scans the string whose opening quote is at `quote`.
    #[inline]
    pub(super) fn scan(json: &'j [u8], quote: usize) -> Result<Self, DecodeError> {
        let start = quote + 1;
        let (mut at, mut escaped) = (start, false);
        loop {
            match json.get(at) {
                Some(b'"') => return Ok(Self { bytes: &json[start..at], start, escaped }),
                Some(b'\\') => {
                    escaped = true;
                    at = escape(json, at).ok_or_else(|| DecodeError::json(at, "invalid escape"))?.1;
                }
                Some(0..b' ') => return Err(DecodeError::json(at, "control character in a string")),
                Some(_) => at = plain(json, at),
                None => return Err(DecodeError::json(at, "the text ends in a string")),
            }
        }
    }

    /// Where the JSON text goes on behind it.
    pub(super) fn end(&self) -> usize {
        self.start + self.bytes.len() + 1
    }

    /// Bytes that it has as it is written.
    pub(super) fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Its text; `unescaped` is where that is put together, if it has escapes.
    pub(super) fn text<'t>(self, unescaped: &'t mut String) -> Result<&'t str, DecodeError>
    where
        'j: 't,
    {
        let raw = utf8(self.bytes, self.start)?;
        if !self.escaped {
            return Ok(raw);
        }
        unescaped.clear();
        unescape(raw, unescaped);
        Ok(unescaped)
    }

    /// Its text, borrowed from the JSON if it has no escapes.
    pub(super) fn to_text(&self) -> Result<Cow<'j, str>, DecodeError> {
        let raw = utf8(self.bytes, self.start)?;
        if !self.escaped {
            return Ok(Cow::Borrowed(raw));
        }
        // No escape is shorter than what it stands for.
        let mut text = String::with_capacity(raw.len());
        unescape(raw, &mut text);
        Ok(Cow::Owned(text))
    }
}

/// Bytes that start at `start` of a JSON text, as text.
pub(super) fn utf8(bytes: &[u8], start: usize) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes)
        .map_err(|error| DecodeError::json(start + error.valid_up_to(), "invalid UTF-8"))
}

/// The first byte from `at` on that is not just part of a string.
#[inline]
fn plain(json: &[u8], mut at: usize) -> usize {
    let special = |byte: u8| (byte == b'"') | (byte == b'\\') | (byte < b' ');
    // Without a branch for each byte, so that all of them are compared at once.
    while let Some(bytes) = json.get(at..).and_then(<[u8]>::first_chunk::<16>)
        && !bytes.iter().fold(false, |any, byte| any | special(*byte))
    {
        at += 16;
    }
    while json.get(at).is_some_and(|byte| !special(*byte)) {
        at += 1;
    }
    at
}

/// The character that the escape at `at` stands for, and where it ends.
fn escape(json: &[u8], at: usize) -> Option<(char, usize)> {
    let char = match json.get(at + 1)? {
        b'u' => return unicode(json, at),
        byte @ (b'"' | b'\\' | b'/') => char::from(*byte),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        _ => return None,
    };
    Some((char, at + 2))
}

/// `\u` with four digits, or two of them that are a pair of surrogates.
fn unicode(json: &[u8], at: usize) -> Option<(char, usize)> {
    let first = four_digits(json, at + 2)?;
    if let Some(char) = char::from_u32(first.into()) {
        return Some((char, at + 6));
    }
    let second = json.get(at + 6..)?.starts_with(b"\\u").then(|| four_digits(json, at + 8))??;
    let char = char::decode_utf16([first, second]).next()?.ok()?;
    Some((char, at + 12))
}

fn four_digits(json: &[u8], at: usize) -> Option<u16> {
    json.get(at..at + 4)?.iter().try_fold(0, |value, byte| {
        let digit = char::from(*byte).to_digit(16)?;
        Some((value << 4) | u16::try_from(digit).ok()?)
    })
}

/// Appends the text that a scanned string stands for.
fn unescape(raw: &str, text: &mut String) {
    let mut at = 0;
    while let Some(byte) = raw.as_bytes().get(at) {
        if *byte == b'\\' {
            let Some((char, end)) = escape(raw.as_bytes(), at) else { return };
            text.push(char);
            at = end;
        } else {
            let end = plain(raw.as_bytes(), at);
            text.push_str(&raw[at..end]);
            at = end;
        }
    }
}
