//! Digests: what an artifact is called by its content. SHA-256 everywhere, written `sha256:` and 64 hex digits.

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The SHA-256 digest of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("a digest is written sha256: and 64 hex digits")]
    Form,
    /// RFC 9530 allows other algorithms; a digest that nobody checks would be a false promise.
    #[error("Content-Digest has no sha-256 entry: write sha-256=:BASE64:")]
    NoSha256,
    #[error("the sha-256 entry of Content-Digest is not 32 bytes in base64 between colons")]
    ContentDigest,
}

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hex digits.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// The digest that a `Content-Digest` header announces (RFC 9530 §2): a dictionary such as `sha-256=:BASE64:`.
    pub fn from_content_digest(header: &str) -> Result<Self, DigestError> {
        let entry = header
            .split(',')
            .find_map(|entry| entry.trim().strip_prefix("sha-256="))
            .ok_or(DigestError::NoSha256)?;
        let bytes = entry
            .strip_prefix(':')
            .and_then(|entry| entry.strip_suffix(':'))
            .and_then(|text| BASE64_STANDARD.decode(text).ok())
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(DigestError::ContentDigest)
    }
}

/// Takes bytes piece by piece.
#[derive(Clone)]
pub struct Hasher(Context);

impl Default for Hasher {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> Digest {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.0.finish().as_ref());
        Digest(digest)
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.strip_prefix("sha256:").and_then(unhex).map(Self).ok_or(DigestError::Form)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// 32 bytes from 64 lower-case hex digits.
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_digest_is_what_the_standard_says_however_the_bytes_come() {
        assert_eq!(Digest::of(b"abc").to_string(), ABC);
        let mut hasher = Hasher::default();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.finish(), Digest::of(b"abc"));
        assert_eq!(ABC.parse(), Ok(Digest::of(b"abc")));
    }

    #[test]
    fn other_texts_are_no_digests() {
        let hex = ABC.strip_prefix("sha256:").expect("the prefix");
        for text in ["", "sha256:", hex, &ABC[..70], &format!("{ABC}0"), &ABC.to_uppercase(), "sha256:é"] {
            assert_eq!(text.parse::<Digest>(), Err(DigestError::Form), "{text}");
        }
    }

    #[test]
    fn content_digest_is_read_as_rfc_9530_writes_it() {
        let entry = format!("sha-256=:{}:", BASE64_STANDARD.encode(Digest::of(b"abc").as_bytes()));
        for header in [entry.clone(), format!("sha-512=:AA==:, {entry}")] {
            assert_eq!(Digest::from_content_digest(&header), Ok(Digest::of(b"abc")), "{header}");
        }
        assert_eq!(Digest::from_content_digest("md5=:AA==:"), Err(DigestError::NoSha256));
        for header in ["sha-256=", "sha-256=:AA==:", "sha-256=AA==", "sha-256=::", "sha-256=:é:"] {
            assert_eq!(Digest::from_content_digest(header), Err(DigestError::ContentDigest), "{header}");
        }
    }
}
