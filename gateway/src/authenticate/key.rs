//! API keys: what a client holds, and what the store keeps of it.
//!
//! A key is `ak_<id>_<secret>_<checksum>` in lower-case hex: 8 bytes that name it, 32 random bytes that prove it, and 4
//! bytes of SHA-256 over what stands before them, by which a mistyped key is known without asking anybody. The store holds
//! a keyed hash of the secret: who can read it, but not the gateway's own secret, can neither use a key nor test a guess.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use super::Scopes;
use crate::{
    digest::{Digest, hex, unhex},
    secret::{Key, LENGTH, SecretError, random},
};

/// What every key begins with, so that people and scanners of secrets know one when they see it.
pub const PREFIX: &str = "ak_";

/// Bytes of a key's text.
const TEXT_LENGTH: usize = PREFIX.len() + 16 + 1 + 64 + 1 + 8;

/// The public part of a key, 16 hex digits: it may stand in logs and lists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; 8]);

/// A whole key, as its owner holds it. Overwritten in memory when it is dropped; shown by [`ApiKey::reveal`] only.
#[derive(Clone)]
pub struct ApiKey {
    id: KeyId,
    secret: Zeroizing<[u8; LENGTH]>,
}

/// Why a text is not an API key. Says nothing of the text itself, which may be nearly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("this is not an API key: one begins with {PREFIX} and is {TEXT_LENGTH} characters long")]
    Form,
    #[error("the API key is mistyped or cut: its checksum does not match")]
    Checksum,
    #[error("a key's id is 16 hex digits, the ones behind {PREFIX}")]
    Id,
}

/// What is kept of a key. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    pub id: KeyId,
    pub tag: Tag,
    pub scopes: Scopes,
    pub created: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
}

/// The keyed hash of a key's id and secret; 64 hex digits in JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tag(pub [u8; LENGTH]);

/// A new key and its record, tagged under `pepper`. The key cannot be had from the record again.
pub fn mint(pepper: &Key, scopes: Scopes, now: u64) -> Result<(ApiKey, KeyRecord), SecretError> {
    let id = KeyId(random()?);
    let key = ApiKey { id, secret: Zeroizing::new(random()?) };
    let tag = Tag(pepper.tag(&key.parts()));
    let record = KeyRecord { id, tag, scopes, created: now, label: None, expires: None, revoked: None };
    Ok((key, record))
}

impl KeyRecord {
    /// Neither revoked nor expired at `now`.
    pub fn is_live(&self, now: u64) -> bool {
        now < self.until()
    }

    /// `live`, `expired` or `revoked`.
    pub fn state(&self, now: u64) -> &'static str {
        match self.revoked {
            Some(_) => "revoked",
            None if self.is_live(now) => "live",
            None => "expired",
        }
    }

    /// The moment from which the key is not valid; 0 if it is revoked.
    pub(super) fn until(&self) -> u64 {
        if self.revoked.is_some() { 0 } else { self.expires.unwrap_or(u64::MAX) }
    }
}

impl ApiKey {
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key in full: for its owner's eyes, once.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(TEXT_LENGTH));
        text.push_str(PREFIX);
        text.push_str(&self.id.to_string());
        text.push('_');
        text.push_str(&Zeroizing::new(hex(&*self.secret)));
        let sum = checksum(&text);
        text.push('_');
        text.push_str(&sum);
        text
    }

    /// Whether `tag` is this key's; takes the same time whatever differs.
    pub(super) fn matches(&self, pepper: &Key, tag: &Tag) -> bool {
        pepper.verify(&self.parts(), &tag.0)
    }

    fn parts(&self) -> [&[u8]; 2] {
        // The id's bytes are part of what is hashed: no record's tag is of use under another id.
        [&self.id.0, &*self.secret]
    }
}

fn checksum(text: &str) -> String {
    hex(&Digest::of(text.as_bytes()).as_bytes()[..4])
}

impl FromStr for ApiKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.len() != TEXT_LENGTH || !text.is_ascii() {
            return Err(KeyError::Form);
        }
        let (before, sum) = text.rsplit_once('_').ok_or(KeyError::Form)?;
        let (id, secret) =
            before.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(KeyError::Form)?;
        let id = id.parse().map_err(|_| KeyError::Form)?;
        let secret = Zeroizing::new(unhex(secret).ok_or(KeyError::Form)?);
        if sum == checksum(before) { Ok(Self { id, secret }) } else { Err(KeyError::Checksum) }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}, …)", self.id)
    }
}

impl KeyId {
    pub(super) fn number(self) -> u64 {
        u64::from_be_bytes(self.0)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        // `from_str_radix` would take capitals and a sign as well: one id, one text.
        let digits = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let id = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        id.map(|id| Self(id.to_be_bytes())).ok_or(KeyError::Id)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tag(…)")
    }
}

impl Serialize for Tag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        unhex(&text).map(Self).ok_or_else(|| de::Error::custom("a tag is 64 hex digits"))
    }
}
