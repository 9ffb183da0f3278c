//! Names of models, versions and tenants: parsed once, where they enter, and trusted from there on. A clone shares the text.

use std::{cmp::Ordering, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest name that is accepted, in bytes.
pub const MAX_LENGTH: usize = 64;

/// Why a text is not a name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name: use 1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter or digit")]
pub struct NameError(String);

fn check(text: &str) -> Result<&str, NameError> {
    let mut bytes = text.bytes();
    let starts_well = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let goes_on_well = bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if starts_well && goes_on_well && text.len() <= MAX_LENGTH && !text.contains("..") {
        Ok(text)
    } else {
        // What came from outside is quoted back, but never at length.
        Err(NameError(text.chars().take(MAX_LENGTH).collect()))
    }
}

/// A model's name: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}` without `..`, so it is also a safe file name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelName(Arc<str>);

impl ModelName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check(text).map(|name| Self(name.into()))
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The only tenant of a gateway without API keys.
const DEFAULT: &str = "default";

/// A tenant's name, spelled as a model name is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantName(Arc<str>);

impl TenantName {
    /// The only tenant of a gateway without API keys.
    pub fn default_tenant() -> Self {
        Self(DEFAULT.into())
    }

    pub fn is_default(&self) -> bool {
        &*self.0 == DEFAULT
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check(text).map(|name| Self(name.into()))
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A version of a model, spelled as a model name is. Numbers order by value and come after all other texts, so that
/// the highest number is the greatest version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(Arc<str>);

impl Version {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn number(&self) -> Option<u64> {
        self.0.parse().ok()
    }
}

impl FromStr for Version {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check(text).map(|name| Self(name.into()))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        // `None` sorts before every number; the text decides between `1` and `01`.
        self.number().cmp(&other.number()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// On the wire and on disk a name is its text; reading one checks it.
macro_rules! as_text {
    ($($name:ident)+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )+};
}

as_text!(ModelName TenantName Version);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_file_names() {
        for good in ["a", "iris", "text-clean", "v1.2_3", "9"] {
            assert!(good.parse::<ModelName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a..b", ".hidden", "-x", "a/b", "a\\b", "a\0", "é", &"a".repeat(65)] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_highest_number_is_the_greatest_version() {
        let mut versions: Vec<Version> =
            ["10", "beta", "9", "2"].iter().map(|text| text.parse().expect("a version")).collect();
        versions.sort();
        let texts: Vec<&str> = versions.iter().map(Version::as_str).collect();
        assert_eq!(texts, ["beta", "2", "9", "10"]);
    }
}
