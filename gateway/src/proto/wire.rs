//! Protobuf's encoding, and the frames in which gRPC sends messages.
//!
//! Infer requests are read with this and not into generated types: those would make hundreds of bytes of the two that an empty entry
//! of `inputs` takes, and copy what is the tensor's layout already.

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("a field is cut short")]
    Truncated,
    #[error("a number has more than 64 bits")]
    Number,
    #[error("a field has a number or a type that there is not")]
    Key,
    #[error("field {field} has another type")]
    Type { field: u32 },
    #[error("a text is not UTF-8")]
    Text,
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Number(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
}

/// A field of a message: its number, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    pub number: u32,
    pub value: Value<'a>,
}

impl<'a> Field<'a> {
    fn unfit(&self) -> WireError {
        WireError::Type { field: self.number }
    }

    /// What a `bytes` field or an embedded message holds.
    pub fn bytes(&self) -> Result<&'a [u8], WireError> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(self.unfit()),
        }
    }

    pub fn text(&self) -> Result<&'a str, WireError> {
        str::from_utf8(self.bytes()?).map_err(|_| WireError::Text)
    }

    pub fn number(&self) -> Result<u64, WireError> {
        match self.value {
            Value::Number(number) => Ok(number),
            _ => Err(self.unfit()),
        }
    }

    /// The bits of a `double`, which are written as V2 writes them.
    pub fn double(&self) -> Result<[u8; 8], WireError> {
        match self.value {
            Value::Fixed64(bytes) => Ok(bytes),
            _ => Err(self.unfit()),
        }
    }

    /// The bits of a `float`.
    pub fn float(&self) -> Result<[u8; 4], WireError> {
        match self.value {
            Value::Fixed32(bytes) => Ok(bytes),
            _ => Err(self.unfit()),
        }
    }

    /// The numbers of a repeated field: one, or packed ones.
    pub fn numbers(&self) -> Result<Numbers<'a>, WireError> {
        match self.value {
            Value::Number(number) => Ok(Numbers { one: Some(number), packed: &[] }),
            Value::Bytes(packed) => Ok(Numbers { one: None, packed }),
            _ => Err(self.unfit()),
        }
    }
}

/// The numbers of a repeated field, in order; stops after the first that is none.
#[derive(Debug)]
pub struct Numbers<'a> {
    one: Option<u64>,
    packed: &'a [u8],
}

impl Iterator for Numbers<'_> {
    type Item = Result<u64, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(one) = self.one.take() {
            return Some(Ok(one));
        }
        if self.packed.is_empty() {
            return None;
        }
        let number = varint(&mut self.packed);
        if number.is_err() {
            self.packed = &[];
        }
        Some(number)
    }
}

/// The fields of a message, in order; stops after the first that is none.
#[derive(Clone, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self) -> Result<Field<'a>, WireError> {
        let key = varint(&mut self.0)?;
        let number = u32::try_from(key >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or(WireError::Key)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut self.0)?),
            1 => Value::Fixed64(fixed(&mut self.0)?),
            2 => {
                let length = usize::try_from(varint(&mut self.0)?).map_err(|_| WireError::Truncated)?;
                let (bytes, rest) = self.0.split_at_checked(length).ok_or(WireError::Truncated)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            5 => Value::Fixed32(fixed(&mut self.0)?),
            // Groups, which proto3 does not have.
            _ => return Err(WireError::Key),
        };
        Ok(Field { number, value })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.take();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn fixed<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], WireError> {
    let (fixed, rest) = bytes.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
    *bytes = rest;
    Ok(*fixed)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, WireError> {
    let mut number = 0u64;
    for (position, byte) in bytes.iter().enumerate() {
        let bits = u64::from(byte & 0x7f);
        // Ten bytes hold seventy bits; the last of them may say one.
        if position == 9 && *byte > 1 {
            return Err(WireError::Number);
        }
        number |= bits << (7 * position);
        if byte & 0x80 == 0 {
            *bytes = &bytes[position + 1..];
            return Ok(number);
        }
    }
    Err(WireError::Truncated)
}

/// Writes the key and the length of a field of `length` bytes.
pub fn put_bytes_field(buffer: &mut Vec<u8>, number: u32, length: usize) {
    put_varint(buffer, u64::from(number) << 3 | 2);
    put_varint(buffer, length as u64);
}

fn put_varint(buffer: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return buffer.push(low & 0x7f);
        }
        buffer.push(low | 0x80);
    }
}

/// Bytes before each message of a call: whether it is compressed, and its length.
pub const PREFIX: usize = 5;

/// What stands before a message that is not compressed; `None` if it is too long for gRPC.
pub fn prefix(length: usize) -> Option<[u8; PREFIX]> {
    let [a, b, c, d] = u32::try_from(length).ok()?.to_be_bytes();
    Some([0, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(bytes: &[u8]) -> Result<Vec<Field<'_>>, WireError> {
        Fields(bytes).collect()
    }

    #[test]
    fn fields_of_every_type_are_read() {
        let message = [&[0x08, 0x96, 0x01][..], &[0x12, 2, b'h', b'i'], &[0x1d, 1, 2, 3, 4], &[0x21; 9]];
        let read = fields(&message.concat()).map(|fields| fields.len());
        assert_eq!(read, Ok(4));
        let message = message.concat();
        let read = fields(&message).expect("a message");
        assert_eq!((read[0].number, read[0].number()), (1, Ok(150)));
        assert_eq!((read[1].number, read[1].text()), (2, Ok("hi")));
        assert_eq!((read[2].number, read[2].value), (3, Value::Fixed32([1, 2, 3, 4])));
        assert_eq!((read[3].number, read[3].value), (4, Value::Fixed64([0x21; 8])));
        assert_eq!(read[1].number(), Err(WireError::Type { field: 2 }));
    }

    #[test]
    fn what_is_no_field_is_refused() {
        for (bytes, error) in [
            (&[0x12, 3, b'h'][..], WireError::Truncated),
            (&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], WireError::Truncated),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], WireError::Number),
            (&[0x08, 0x80], WireError::Truncated),
            (&[0x00, 0x00], WireError::Key),
            (&[0x0b, 0x0c], WireError::Key),
            (&[0x0e], WireError::Key),
            (&[0x0d, 1], WireError::Truncated),
        ] {
            assert_eq!(fields(bytes), Err(error), "{bytes:x?}");
        }
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut written = Vec::new();
            put_varint(&mut written, number);
            let mut rest = written.as_slice();
            assert_eq!(varint(&mut rest), Ok(number));
            assert!(rest.is_empty());
        }
    }
}
