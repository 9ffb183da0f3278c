//! As much of HTTP/2 (RFC 9113) and HPACK (RFC 7541) as a gRPC client with one method needs.

use anyhow::{Result, ensure};

/// What a client says first, before any frame.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame before its payload.
pub const HEAD: usize = 9;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// `SETTINGS_HEADER_TABLE_SIZE` and `SETTINGS_INITIAL_WINDOW_SIZE`.
pub const HEADER_TABLE_SIZE: u16 = 1;
pub const INITIAL_WINDOW_SIZE: u16 = 4;
/// Of a connection, and of a stream without a setting.
pub const DEFAULT_WINDOW: i64 = 65_535;

/// A frame in the bytes that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame of these bytes, if it is whole.
    ///
    /// # Errors
    /// If it is padded, has a priority, or is a part of a header block: no gRPC server sends that.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Self>> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
        let [a, b, c, kind, flags, s0, s1, s2, s3] = *head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        if kind == DATA || kind == HEADERS {
            ensure!(flags & PADDED == 0, "a padded frame");
        }
        if kind == HEADERS {
            ensure!(flags & PRIORITY == 0 && flags & END_HEADERS != 0, "headers with a priority or in parts");
        }
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        Ok(Some(Self { kind, flags, stream, payload }))
    }

    /// The payload as one number of four bytes, without the reserved bit.
    pub fn number(self) -> Option<u32> {
        Some(u32::from_be_bytes(*self.payload.first_chunk()?) & 0x7fff_ffff)
    }
}

/// Appends a frame.
pub fn write(into: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    into.extend_from_slice(&[length[1], length[2], length[3], kind, flags]);
    into.extend_from_slice(&stream.to_be_bytes());
    into.extend_from_slice(payload);
}

/// One setting, as the payload of a SETTINGS frame has it.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// The header block of a call: the first of a connection puts what stays the same into the server's table, and all further
/// ones name it from there, as gRPC clients do.
pub fn call_headers(first: bool, path: &str, authority: &str) -> Result<Vec<u8>> {
    // `:method: POST` and `:scheme: http` of the static table.
    let mut block = vec![0x83, 0x86];
    if !first {
        // What was inserted last has index 62.
        block.extend([65, 64, 63, 62].map(|index: u8| 0x80 | index));
        return Ok(block);
    }
    // Literals that are to be inserted; the name is of the static table, or follows.
    let literals = [(4, "", path), (1, "", authority), (31, "", "application/grpc"), (0, "te", "trailers")];
    for (index, name, value) in literals {
        block.push(0x40 | index);
        for text in [name, value].into_iter().filter(|text| !text.is_empty()) {
            ensure!(text.len() < 127, "'{text}' is too long");
            block.push(u8::try_from(text.len())?);
            block.extend_from_slice(text.as_bytes());
        }
    }
    Ok(block)
}

/// `grpc-status` as it is, and in the Huffman code of RFC 7541; `0` likewise. Both with their lengths.
const STATUS: [&[u8]; 2] = [b"\x0bgrpc-status", b"\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f"];
const ZERO: [&[u8]; 2] = [b"\x010", b"\x81\x07"];

/// Whether trailers say `grpc-status: 0`. Only for a server that was told to keep no table: then every header is a literal.
pub fn says_ok(block: &[u8]) -> bool {
    STATUS.iter().any(|name| {
        let found = block.windows(name.len()).position(|bytes| bytes == *name);
        found.is_some_and(|at| ZERO.iter().any(|zero| block[at + name.len()..].starts_with(zero)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let mut bytes = Vec::new();
        write(&mut bytes, DATA, END_STREAM, 7, b"abc");
        write(&mut bytes, PING, 0, 0, &[1; 8]);
        let frame = Frame { kind: DATA, flags: END_STREAM, stream: 7, payload: b"abc" };
        assert_eq!(Frame::parse(&bytes).expect("a frame"), Some(frame));
        let second = Frame::parse(&bytes[HEAD + 3..]).expect("a frame").expect("all of it");
        assert_eq!((second.kind, second.payload), (PING, &[1; 8][..]));
        for length in 0..HEAD + 3 {
            assert_eq!(Frame::parse(&bytes[..length]).expect("not wrong yet"), None);
        }
    }

    #[test]
    fn headers_in_parts_are_refused() {
        let mut bytes = Vec::new();
        write(&mut bytes, HEADERS, 0, 1, b"x");
        assert!(Frame::parse(&bytes).is_err());
    }

    #[test]
    fn only_status_0_is_ok() {
        // Literals without indexing, as servers write them, plain and in Huffman code.
        assert!(says_ok(b"\x00\x0bgrpc-status\x010"));
        assert!(says_ok(b"\x20\x40\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f\x81\x07"));
        assert!(!says_ok(b"\x00\x0bgrpc-status\x0212"));
        assert!(!says_ok(b"\x00\x0bgrpc-status\x015"));
        assert!(!says_ok(b"\x00\x0cgrpc-message\x010"));
        assert!(!says_ok(b"\x88"));
    }
}
