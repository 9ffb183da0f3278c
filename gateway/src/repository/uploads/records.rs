//! What the store says of a tenant's models.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    name::Version,
    repository::{Kind, artifacts::Generation, model_config::VersionPolicy},
};

/// A version's record: published, or taken away again.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum VersionRecord {
    Published(Manifest),
    Removed,
}

impl VersionRecord {
    pub(super) fn published(&self) -> Option<&Manifest> {
        if let Self::Published(manifest) = self { Some(manifest) } else { None }
    }
}

/// Everything that a version consists of.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Manifest {
    /// Seconds since 1970, by the clock of the gateway that published it; more than any other version of the model had then.
    pub published: u64,
    pub kind: Kind,
    pub artifact: Blob,
    /// What lies beside the artifact, ordered by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<NamedBlob>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigText>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Blob {
    pub digest: Digest,
    pub size: u64,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct NamedBlob {
    pub name: String,
    #[serde(flatten)]
    pub blob: Blob,
}

/// A version's configuration as it was uploaded.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigText {
    /// `model.toml`
    Toml(String),
    /// `config.pbtxt`
    Pbtxt(String),
    /// Triton's ModelConfig as JSON, as its clients send it with `load`.
    Json(String),
}

impl Manifest {
    /// Whether publishing one is as good as publishing the other.
    pub(super) fn has_content_of(&self, other: &Self) -> bool {
        *self == Self { published: self.published, ..other.clone() }
    }

    /// Bytes of all its blobs.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.blob.size).fold(self.artifact.size, u64::saturating_add)
    }

    pub(super) fn blobs(&self) -> impl Iterator<Item = Blob> {
        std::iter::once(self.artifact).chain(self.files.iter().map(|file| file.blob))
    }
}

/// What holds for a model as a whole; the default is what a model without settings has.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    pub version_policy: Policy,
    /// What answers where no version is named; `None`: the highest number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_version: Option<Version>,
    /// Names that may stand in place of a version: each with versions and their weights.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub aliases: BTreeMap<Version, BTreeMap<Version, u32>>,
    /// Taken out of service; its versions stay in the store.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unloaded: bool,
    /// Nothing becomes the default, or part of an alias, that was not verified against the current default.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub require_verify: bool,
    /// The versions that were verified, kept while `require_verify` is on; not for clients to set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub verified: BTreeMap<Version, Verified>,
}

/// A version that answered as another one did. A version that is removed and published again has another generation, and so
/// is not what was verified any more.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Verified {
    pub generation: Generation,
    pub against: Version,
    pub against_generation: Generation,
}

/// Which of a model's published versions are served.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    #[default]
    All,
    Latest(usize),
    Specific(BTreeSet<Version>),
}

impl From<&Policy> for VersionPolicy {
    fn from(policy: &Policy) -> Self {
        match policy {
            Policy::All => Self::All,
            Policy::Latest(count) => Self::Latest(*count),
            Policy::Specific(versions) => Self::Specific(versions.clone()),
        }
    }
}

impl From<VersionPolicy> for Policy {
    fn from(policy: VersionPolicy) -> Self {
        match policy {
            VersionPolicy::All => Self::All,
            VersionPolicy::Latest(count) => Self::Latest(count),
            VersionPolicy::Specific(versions) => Self::Specific(versions),
        }
    }
}

/// Aliases of a model, and versions that its policy or an alias names.
const MAX_ALIASES: usize = 16;
const MAX_NAMED: usize = 64;

impl ModelSettings {
    /// Checks what a client sent.
    ///
    /// # Errors
    /// What to change, for the client.
    pub fn check(&self) -> Result<(), String> {
        if matches!(self.version_policy, Policy::Latest(0)) {
            return Err("version_policy: latest must be at least 1".into());
        }
        if matches!(&self.version_policy, Policy::Specific(versions) if versions.len() > MAX_NAMED) {
            return Err(format!("version_policy names more than {MAX_NAMED} versions"));
        }
        if self.aliases.values().any(|shares| shares.len() > MAX_NAMED) {
            return Err(format!("an alias stands for more than {MAX_NAMED} versions"));
        }
        if self.aliases.len() > MAX_ALIASES {
            return Err(format!("a model may have {MAX_ALIASES} aliases, given {}", self.aliases.len()));
        }
        if self.require_verify && self.default_version.is_none() {
            return Err(
                "require_verify needs a default_version: without one, a version is the default as soon as it has the highest number"
                    .into(),
            );
        }
        for (alias, shares) in &self.aliases {
            if alias.as_str().bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(format!("alias '{alias}' is a number; numbers are versions"));
            }
            if shares.values().all(|weight| *weight == 0) {
                return Err(format!("alias '{alias}' needs a version with a weight above 0"));
            }
        }
        Ok(())
    }
}
