//! Compressed request bodies: gzip, and deflate in its zlib container.

use std::io::{self, BufRead, Read};

use bytes::Bytes;
use flate2::bufread::{GzDecoder, ZlibDecoder};

use super::error::{DecodeError, shown};

/// The body without its content encoding, of at most `limit` bytes. An identity body is passed on as it is: its size
/// was bounded while it was read.
pub(super) fn decompress(
    body: Bytes,
    content_encoding: Option<&[u8]>,
    limit: usize,
) -> Result<Bytes, DecodeError> {
    let encoding = content_encoding.unwrap_or_default().trim_ascii().to_ascii_lowercase();
    match encoding.as_slice() {
        b"" | b"identity" => Ok(body),
        b"gzip" | b"x-gzip" => {
            let mut decoder = GzDecoder::new(body.as_ref());
            let decompressed = read_bounded(&mut decoder, body.len(), limit).map_err(|e| e.of("gzip"))?;
            finish(decoder.into_inner(), decompressed, "gzip")
        }
        b"deflate" => {
            let mut decoder = ZlibDecoder::new(body.as_ref());
            let decompressed = read_bounded(&mut decoder, body.len(), limit).map_err(|e| e.of("deflate"))?;
            finish(decoder.into_inner(), decompressed, "deflate")
        }
        other => Err(DecodeError::ContentEncoding(shown(&String::from_utf8_lossy(other)))),
    }
}

fn finish(
    mut rest: impl BufRead,
    decompressed: Vec<u8>,
    encoding: &'static str,
) -> Result<Bytes, DecodeError> {
    match rest.fill_buf() {
        Ok([]) => Ok(Bytes::from(decompressed)),
        Ok(_) | Err(_) => {
            Err(DecodeError::Compression { encoding, reason: "bytes follow the end of the stream".into() })
        }
    }
}

enum ReadError {
    TooLarge { limit: usize },
    Corrupt(io::Error),
}

impl ReadError {
    fn of(self, encoding: &'static str) -> DecodeError {
        match self {
            Self::TooLarge { limit } => DecodeError::TooLarge { limit },
            Self::Corrupt(error) if encoding == "deflate" => DecodeError::Compression {
                encoding,
                reason: format!("{error} (the zlib container is expected, not a bare deflate stream)"),
            },
            Self::Corrupt(error) => DecodeError::Compression { encoding, reason: error.to_string() },
        }
    }
}

/// Reads to the end. Memory grows with what was produced, never with what is announced, and the buffer never holds
/// more than `limit` bytes: one byte more is an error.
fn read_bounded(reader: &mut impl Read, compressed: usize, limit: usize) -> Result<Vec<u8>, ReadError> {
    const LEAST: usize = 4096;
    let mut buffer = vec![0; compressed.max(LEAST).min(limit)];
    let mut filled = 0;
    loop {
        if filled == buffer.len() {
            if filled == limit {
                let more = reader.read(&mut [0]).map_err(ReadError::Corrupt)?;
                return if more == 0 { Ok(buffer) } else { Err(ReadError::TooLarge { limit }) };
            }
            let grown = buffer.len().saturating_mul(2).min(limit);
            buffer.reserve_exact(grown - buffer.len());
            buffer.resize(grown, 0);
        }
        match reader.read(&mut buffer[filled..]).map_err(ReadError::Corrupt)? {
            0 => {
                buffer.truncate(filled);
                return Ok(buffer);
            }
            more => filled += more,
        }
    }
}

#[cfg(test)]
mod tests;
