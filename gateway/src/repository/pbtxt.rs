//! Protobuf text format, as far as Triton's `config.pbtxt` uses it, parsed into a generic tree. What the fields mean
//! is for `triton_config` to say.

use std::{fmt, iter::Peekable, str::Chars};

/// Messages that may nest; recursion ends here.
const MAX_DEPTH: usize = 32;

/// Where a field begins; lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// What is wrong with the text, and where.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{position}: {reason}")]
pub(super) struct PbtxtError {
    pub(super) position: Position,
    pub(super) reason: String,
}

/// One value of a field. A list `a: [1, 2]` is the same as `a: 1 a: 2`, so a field that repeats stands there repeatedly.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) value: Value,
    pub(super) position: Position,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Integer(i128),
    Float(f64),
    Text(String),
    /// An enum's value, `true` or `false`.
    Word(String),
    Message(Vec<Field>),
}

/// Parses a whole file.
pub(super) fn parse(text: &str) -> Result<Vec<Field>, PbtxtError> {
    Parser { rest: text.chars().peekable(), position: Position { line: 1, column: 1 } }.fields(None, 0)
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
    position: Position,
}

type Parsed<T> = Result<T, PbtxtError>;

impl Parser<'_> {
    /// Fields up to the closing bracket, or up to the end of the file.
    fn fields(&mut self, end: Option<char>, depth: usize) -> Parsed<Vec<Field>> {
        if depth > MAX_DEPTH {
            return Err(self.error(format!("messages nest deeper than {MAX_DEPTH}")));
        }
        let mut fields = Vec::new();
        loop {
            match self.peek_token() {
                None if end.is_none() => return Ok(fields),
                found if found.is_some() && found == end => {
                    self.bump();
                    return Ok(fields);
                }
                Some(found) if found.is_ascii_alphabetic() || found == '_' => {
                    self.field(&mut fields, depth)?;
                }
                _ => {
                    let expected = end.map_or_else(String::new, |end| format!(" or '{end}'"));
                    return Err(self.expected(&format!("a field name{expected}")));
                }
            }
        }
    }

    /// `name: value`, `name { … }` or `name: [ value, … ]`, and the separator after it.
    fn field(&mut self, fields: &mut Vec<Field>, depth: usize) -> Parsed<()> {
        let position = self.position;
        let name = self.word();
        let colon = self.take(':');
        match self.peek_token() {
            Some('[') => {
                self.bump();
                let mut more = !self.take(']');
                while more {
                    let value = self.value(depth)?;
                    fields.push(Field { name: name.clone(), value, position });
                    more = self.take(',');
                    if !more && !self.take(']') {
                        return Err(self.expected("',' or ']'"));
                    }
                }
            }
            Some('{' | '<') => {
                let value = self.value(depth)?;
                fields.push(Field { name, value, position });
            }
            _ if colon => {
                let value = self.value(depth)?;
                fields.push(Field { name, value, position });
            }
            _ => return Err(self.expected(&format!("':' or '{{' after '{name}'"))),
        }
        let _separated = self.take(',') || self.take(';');
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Parsed<Value> {
        match self.peek_token() {
            Some('{') => {
                self.bump();
                self.fields(Some('}'), depth + 1).map(Value::Message)
            }
            Some('<') => {
                self.bump();
                self.fields(Some('>'), depth + 1).map(Value::Message)
            }
            Some('"' | '\'') => self.text().map(Value::Text),
            Some('-') => {
                self.bump();
                match self.peek_token() {
                    Some(found) if found.is_ascii_alphabetic() => self.negative_word(),
                    _ => self.number(true),
                }
            }
            Some(found) if found.is_ascii_digit() || found == '.' => self.number(false),
            Some(found) if found.is_ascii_alphabetic() || found == '_' => Ok(Value::Word(self.word())),
            _ => Err(self.expected("a value")),
        }
    }

    /// Letters, digits and `_`; the caller saw that one stands here.
    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(found) = self.rest.peek().copied()
            && (found.is_ascii_alphanumeric() || found == '_')
        {
            word.push(found);
            self.bump();
        }
        word
    }

    fn negative_word(&mut self) -> Parsed<Value> {
        let position = self.position;
        match self.word().to_ascii_lowercase().as_str() {
            "inf" | "infinity" => Ok(Value::Float(f64::NEG_INFINITY)),
            "nan" => Ok(Value::Float(f64::NAN)),
            _ => Err(PbtxtError { position, reason: "expected a number after '-'".into() }),
        }
    }

    /// Decimal, `0x` and octal integers, and floats with an optional `f` behind them.
    fn number(&mut self, negative: bool) -> Parsed<Value> {
        let position = self.position;
        let mut digits = String::new();
        while let Some(found) = self.rest.peek().copied() {
            let hex = digits.starts_with("0x") || digits.starts_with("0X");
            let exponent = !hex && digits.ends_with(['e', 'E']) && matches!(found, '+' | '-');
            if !(found.is_ascii_alphanumeric() || found == '.' || exponent) {
                break;
            }
            digits.push(found);
            self.bump();
        }
        number(&digits, negative).ok_or_else(|| PbtxtError {
            position,
            reason: format!("{:?} is not a number", digits.chars().take(40).collect::<String>()),
        })
    }

    /// One or more string literals; adjacent ones are one string.
    fn text(&mut self) -> Parsed<String> {
        let position = self.position;
        let mut bytes = Vec::new();
        while matches!(self.peek_token(), Some('"' | '\'')) {
            self.literal(&mut bytes)?;
        }
        String::from_utf8(bytes)
            .map_err(|_| PbtxtError { position, reason: "the string is not valid UTF-8".into() })
    }

    fn literal(&mut self, bytes: &mut Vec<u8>) -> Parsed<()> {
        let quote = self.bump();
        loop {
            match self.rest.peek().copied() {
                None | Some('\n') => return Err(self.error("the string does not end on its line".into())),
                found if found == quote => {
                    self.bump();
                    return Ok(());
                }
                Some('\\') => {
                    self.bump();
                    self.escape(bytes)?;
                }
                Some(found) => {
                    bytes.extend_from_slice(found.encode_utf8(&mut [0; 4]).as_bytes());
                    self.bump();
                }
            }
        }
    }

    fn escape(&mut self, bytes: &mut Vec<u8>) -> Parsed<()> {
        let simple = match self.rest.peek().copied() {
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('a') => 0x07,
            Some('b') => 0x08,
            Some('f') => 0x0c,
            Some('v') => 0x0b,
            Some('\\') => b'\\',
            Some('\'') => b'\'',
            Some('"') => b'"',
            Some('?') => b'?',
            Some('0'..='7') => return self.code(8, 3).and_then(|code| self.push_byte(code, bytes)),
            Some('x' | 'X') => {
                self.bump();
                return self.code(16, 2).and_then(|code| self.push_byte(code, bytes));
            }
            Some(long @ ('u' | 'U')) => {
                self.bump();
                let code = self.code(16, if long == 'u' { 4 } else { 8 })?;
                let Some(character) = char::from_u32(code) else {
                    return Err(self.error(format!("\\{long} names no character")));
                };
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(self.expected("an escape such as \\n or \\\"")),
        };
        self.bump();
        bytes.push(simple);
        Ok(())
    }

    /// One to `longest` digits of an escape.
    fn code(&mut self, radix: u32, longest: usize) -> Parsed<u32> {
        let mut code = 0u32;
        let mut count = 0;
        while count < longest
            && let Some(digit) = self.rest.peek().and_then(|found| found.to_digit(radix))
        {
            // Eight hexadecimal digits, the most that is asked for, just fit.
            code = code.wrapping_mul(radix).wrapping_add(digit);
            count += 1;
            self.bump();
        }
        if count == 0 { Err(self.expected("digits after the escape")) } else { Ok(code) }
    }

    fn push_byte(&self, code: u32, bytes: &mut Vec<u8>) -> Parsed<()> {
        let byte = u8::try_from(code).map_err(|_| self.error("the escape is larger than one byte".into()))?;
        bytes.push(byte);
        Ok(())
    }

    /// Skips blanks and comments and shows what follows.
    fn peek_token(&mut self) -> Option<char> {
        loop {
            match self.rest.peek().copied() {
                Some('#') => while !matches!(self.bump(), None | Some('\n')) {},
                Some(found) if found.is_ascii_whitespace() || found == '\u{b}' => {
                    self.bump();
                }
                found => return found,
            }
        }
    }

    /// Takes the next token if it is that one.
    fn take(&mut self, token: char) -> bool {
        let found = self.peek_token() == Some(token);
        if found {
            self.bump();
        }
        found
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.rest.next();
        match next {
            Some('\n') => self.position = Position { line: self.position.line + 1, column: 1 },
            Some(_) => self.position.column += 1,
            None => {}
        }
        next
    }

    fn expected(&mut self, what: &str) -> PbtxtError {
        let found = self
            .rest
            .peek()
            .map_or_else(|| "the end of the file".into(), |found| format!("'{}'", found.escape_debug()));
        self.error(format!("expected {what}, found {found}"))
    }

    fn error(&self, reason: String) -> PbtxtError {
        PbtxtError { position: self.position, reason }
    }
}

fn number(digits: &str, negative: bool) -> Option<Value> {
    let sign = if negative { -1 } else { 1 };
    let integer = |digits: &str, radix| {
        // From the least int64 to the greatest uint64, as the text format has it.
        let value = sign * i128::from(u64::from_str_radix(digits, radix).ok()?);
        (value >= i128::from(i64::MIN)).then_some(Value::Integer(value))
    };
    if let Some(digits) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        return integer(digits, 16);
    }
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let octal = digits.len() > 1 && digits.starts_with('0');
        return integer(digits, if octal { 8 } else { 10 });
    }
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    let value: f64 = digits.strip_suffix(['f', 'F']).unwrap_or(digits).parse().ok()?;
    Some(Value::Float(if negative { -value } else { value }))
}

#[cfg(test)]
mod tests;
