//! Where a store is, as an operator writes it.

use std::{fmt, path::PathBuf, str::FromStr};

use object_store::path::Path;
use serde::{Deserialize, Deserializer, de};

/// A folder, or `s3://BUCKET/PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    Folder(PathBuf),
    /// The prefix may be empty.
    S3 {
        bucket: String,
        prefix: String,
    },
}

/// Why a text is no location. Nothing of it is quoted: people write credentials into addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    #[error("the artifact store is a folder or s3://BUCKET/PREFIX, not an empty text")]
    Empty,
    #[error("the artifact store is a folder or s3://BUCKET/PREFIX; other kinds of addresses are not known")]
    Scheme,
    #[error(
        "s3:// is followed by a bucket's name: 3 to 63 of a-z 0-9 . - (credentials and ports do not belong there)"
    )]
    Bucket,
    #[error("behind the bucket comes a prefix of A-Z a-z 0-9 . _ - / without empty, '.' and '..' parts")]
    Prefix,
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let Some(rest) = text.strip_prefix("s3://") else {
            return match text {
                "" => Err(LocationError::Empty),
                text if text.contains("://") => Err(LocationError::Scheme),
                text => Ok(Self::Folder(PathBuf::from(text))),
            };
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-');
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(good) {
            return Err(LocationError::Bucket);
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/');
        match Path::parse(prefix) {
            Ok(parsed) if parsed.as_ref() == prefix && prefix.bytes().all(good) => {
                Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
            }
            _ => Err(LocationError::Prefix),
        }
    }
}

impl<'de> Deserialize<'de> for Location {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_buckets_are_told_apart() {
        let s3 = |bucket: &str, prefix: &str| Location::S3 { bucket: bucket.into(), prefix: prefix.into() };
        for (text, location) in [
            ("models", Location::Folder("models".into())),
            ("/var/lib/airlock/s3", Location::Folder("/var/lib/airlock/s3".into())),
            ("s3://my.bucket-1", s3("my.bucket-1", "")),
            ("s3://bucket/", s3("bucket", "")),
            ("s3://bucket/a/B_c.d/", s3("bucket", "a/B_c.d")),
        ] {
            assert_eq!(text.parse(), Ok(location), "{text}");
        }
        assert_eq!(s3("bucket", "a/b").to_string(), "s3://bucket/a/b");
    }

    #[test]
    fn other_texts_are_refused_and_not_quoted() {
        for (text, error) in [
            ("", LocationError::Empty),
            ("https://bucket.s3.amazonaws.com", LocationError::Scheme),
            ("S3://bucket", LocationError::Scheme),
            ("s3://", LocationError::Bucket),
            ("s3:///a", LocationError::Bucket),
            ("s3://key:hunter2@bucket/a", LocationError::Bucket),
            ("s3://bucket:9000/a", LocationError::Bucket),
            ("s3://bucket/a//b", LocationError::Prefix),
            ("s3://bucket/../b", LocationError::Prefix),
            ("s3://bucket/a?x=hunter2", LocationError::Prefix),
            ("s3://bucket/a b", LocationError::Prefix),
        ] {
            let found = text.parse::<Location>().expect_err(text);
            assert_eq!(found, error, "{text}");
            assert!(!found.to_string().contains("hunter2"));
        }
    }
}
