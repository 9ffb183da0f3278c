//! Where things lie in the store.
//!
//! ```text
//! blobs/sha256/<2 hex digits>/<64 hex digits>                    content
//! tenants/<tenant>/record/<generation>                           a tenant
//! tenants/<tenant>/keys/<id>/<generation>                        an API key
//! tenants/<tenant>/models/<model>/settings/<generation>          a model's settings
//! tenants/<tenant>/models/<model>/versions/<version>/<generation>  a version
//! tenants/<tenant>/archive/<generation>                          records that are over for good
//! secret-check, probes/                                          of the self-test
//! ```

use std::{fmt, str::FromStr};

use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    name::{ModelName, TenantName, Version},
};

/// The folder of all records.
pub(super) const TENANTS: &str = "tenants";
/// The folder of all blobs.
pub(super) const BLOBS: &str = "blobs/sha256";

/// What a record is about; its generations lie below this path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordPath {
    Tenant(TenantName),
    /// The public part of an API key: 16 hex digits.
    Key(TenantName, String),
    Settings(TenantName, ModelName),
    Version(TenantName, ModelName, Version),
    /// What others of the tenant's records said last.
    Archive(TenantName),
}

/// How often a record was written; the newest generation counts. The first is 1.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Generation(u64);

impl Generation {
    pub const FIRST: Self = Self(1);

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten().filter(|number| *number > 0).map(Self)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}", self.0)
    }
}

/// Which state of a record somebody has seen: a generation, or that there is none yet. As text it has ten digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revision(pub Option<Generation>);

impl From<Generation> for Revision {
    fn from(generation: Generation) -> Self {
        Self(Some(generation))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}", self.0.map_or(0, |generation| generation.0))
    }
}

impl FromStr for Revision {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == Self(None).to_string() {
            return Ok(Self(None));
        }
        Generation::parse(text).map(Self::from).ok_or(())
    }
}

impl RecordPath {
    pub fn tenant(&self) -> &TenantName {
        match self {
            Self::Tenant(tenant)
            | Self::Key(tenant, _)
            | Self::Settings(tenant, _)
            | Self::Version(tenant, ..)
            | Self::Archive(tenant) => tenant,
        }
    }

    pub(super) fn at(&self, generation: Generation) -> Path {
        Path::from(format!("{self}/{generation}"))
    }

    /// The record and generation that lie at a path; `None` for what is neither.
    pub(super) fn parse(path: &Path) -> Option<(Self, Generation)> {
        let text = path.as_ref();
        let segments: Vec<&str> = text.split('/').collect();
        let (generation, segments) = segments.split_last()?;
        let record = match *segments {
            [TENANTS, tenant, "record"] => Self::Tenant(tenant.parse().ok()?),
            [TENANTS, tenant, "archive"] => Self::Archive(tenant.parse().ok()?),
            [TENANTS, tenant, "keys", id] => Self::Key(tenant.parse().ok()?, key_id(id)?),
            [TENANTS, tenant, "models", model, "settings"] => {
                Self::Settings(tenant.parse().ok()?, model.parse().ok()?)
            }
            [TENANTS, tenant, "models", model, "versions", version] => {
                Self::Version(tenant.parse().ok()?, model.parse().ok()?, version.parse().ok()?)
            }
            _ => return None,
        };
        Some((record, Generation::parse(generation)?))
    }
}

fn key_id(text: &str) -> Option<String> {
    let hex = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    hex.then(|| text.to_owned())
}

impl fmt::Display for RecordPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(tenant) => write!(f, "{TENANTS}/{tenant}/record"),
            Self::Archive(tenant) => write!(f, "{TENANTS}/{tenant}/archive"),
            Self::Key(tenant, id) => write!(f, "{TENANTS}/{tenant}/keys/{id}"),
            Self::Settings(tenant, model) => write!(f, "{TENANTS}/{tenant}/models/{model}/settings"),
            Self::Version(tenant, model, version) => {
                write!(f, "{TENANTS}/{tenant}/models/{model}/versions/{version}")
            }
        }
    }
}

pub(super) fn blob(digest: &Digest) -> Path {
    let hex = digest.hex();
    Path::from(format!("{BLOBS}/{}/{hex}", &hex[..2]))
}

/// The digest of the blob that lies at a path; `None` for what is no blob's place.
pub(super) fn parse_blob(path: &Path) -> Option<Digest> {
    let digest = format!("sha256:{}", path.filename()?).parse().ok()?;
    (blob(&digest) == *path).then_some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_found_again_by_its_path() {
        let name = |text: &str| text.parse::<TenantName>().expect("a name");
        let model = || "iris.v2".parse::<ModelName>().expect("a name");
        for record in [
            RecordPath::Tenant(name("acme")),
            RecordPath::Key(name("acme"), "0123456789abcdef".into()),
            RecordPath::Settings(name("a-b_c.d"), model()),
            RecordPath::Archive(name("archive")),
            RecordPath::Version(name("keys"), model(), "versions".parse().expect("a version")),
        ] {
            let generation = Generation::FIRST.next();
            assert_eq!(RecordPath::parse(&record.at(generation)), Some((record, generation)));
        }
    }

    #[test]
    fn revisions_are_found_again_by_their_text() {
        for revision in [Revision(None), Generation::FIRST.into(), Generation::FIRST.next().into()] {
            assert_eq!(revision.to_string().parse(), Ok(revision));
        }
        for text in ["", "1", "00000000001", "000000000x", "-000000001"] {
            assert_eq!(text.parse::<Revision>(), Err(()), "{text}");
        }
    }

    #[test]
    fn other_paths_are_no_records() {
        for path in [
            "tenants/acme/record/1",
            "tenants/acme/record/0000000000",
            "tenants/acme/record/00000000001",
            "tenants/acme/keys/0123/0000000001",
            "tenants/.acme/record/0000000001",
            "tenants/acme/models/m/versions/0000000001",
            "blobs/sha256/00/0000000001",
        ] {
            assert_eq!(RecordPath::parse(&Path::from(path)), None, "{path}");
        }
    }
}
