//! Response compression, negotiated by `Accept-Encoding` as Triton does.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    /// The zlib container.
    Deflate,
}

impl Encoding {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    /// The parts as one compressed stream, at the fastest level: tensors compress badly, and slowly at any other.
    pub(super) fn compress(self, parts: &[Bytes]) -> Bytes {
        let compressed = match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                write_all(&mut encoder, parts).and_then(|()| encoder.finish())
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
                write_all(&mut encoder, parts).and_then(|()| encoder.finish())
            }
        };
        compressed.expect("writing to memory does not fail").into()
    }
}

fn write_all(encoder: &mut impl Write, parts: &[Bytes]) -> io::Result<()> {
    parts.iter().try_for_each(|part| encoder.write_all(part))
}

/// The encoding with the highest weight; of equal ones gzip, then deflate. `None` if the client names neither, gives
/// both the weight 0, or prefers identity. `*` is not taken as a wish.
pub(super) fn preferred(accept_encoding: &[u8]) -> Option<Encoding> {
    let mut best = (0.0, None);
    for entry in accept_encoding.split(|byte| *byte == b',') {
        let Some((encoding, weight)) = std::str::from_utf8(entry).ok().and_then(parse_entry) else {
            continue;
        };
        if weight > best.0 || (weight == best.0 && rank(encoding) < rank(best.1)) {
            best = (weight, encoding);
        }
    }
    best.1.filter(|_| best.0 > 0.0)
}

fn rank(encoding: Option<Encoding>) -> u8 {
    match encoding {
        Some(Encoding::Gzip) => 0,
        Some(Encoding::Deflate) => 1,
        None => 2,
    }
}

/// One entry, as `gzip;q=0.5`; the encoding is `None` for identity, the whole is `None` for anything else.
fn parse_entry(entry: &str) -> Option<(Option<Encoding>, f32)> {
    let mut fields = entry.split(';').map(str::trim);
    let encoding = match fields.next()?.to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" => Some(Encoding::Gzip),
        "deflate" => Some(Encoding::Deflate),
        "identity" => None,
        _ => return None,
    };
    let weight = match fields.find_map(|field| field.strip_prefix("q=").or_else(|| field.strip_prefix("Q=")))
    {
        Some(text) => text.parse().ok().filter(|weight| (0.0..=1.0).contains(weight))?,
        None => 1.0,
    };
    Some((encoding, weight))
}

#[cfg(test)]
mod tests;
