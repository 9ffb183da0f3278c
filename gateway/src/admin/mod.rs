//! Admin: tenants and their keys, as records in the artifact store.
//!
//! Works with or without a running gateway: the command line uses it on the store itself, the admin port inside a gateway.
//! Every change is one create-if-absent put, and each gateway on the store sees it within seconds, see [`FollowKeys`].

mod follow;
mod tenants;

pub use follow::FollowKeys;
pub use tenants::{KeyOf, NewKey, Tenants};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    authenticate::{KeyId, Scopes},
    limits::TenantLimits,
    name::TenantName,
    repository::artifacts::ArtifactError,
    secret::SecretError,
};

/// What the store says of a tenant. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRecord {
    pub created: u64,
    /// From then on none of its keys is valid; a later generation may bring the tenant back, but not its keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<u64>,
    /// What it may use, where that is not what other tenants may.
    #[serde(default, skip_serializing_if = "is_open")]
    pub limits: TenantLimits,
}

impl TenantRecord {
    /// What may be told of a tenant.
    pub fn shown(&self, tenant: &TenantName) -> Value {
        json!({ "tenant": tenant, "created": self.created, "limits": self.limits })
    }
}

fn is_open(limits: &TenantLimits) -> bool {
    *limits == TenantLimits::default()
}

/// Live keys of one tenant with the same scopes: one in use, and the one that takes its place.
pub const MAX_LIVE_KEYS: usize = 2;

/// Characters of a key's label.
pub const MAX_LABEL: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("there is no tenant '{0}': create it first (airlock tenant create {0})")]
    UnknownTenant(TenantName),
    #[error("there was a tenant '{0}' before, and what it kept is under that name: choose another one")]
    NameTaken(TenantName),
    #[error("there is no API key with the id {0}")]
    UnknownKey(KeyId),
    #[error(
        "tenant '{tenant}' has {} live keys with the scopes '{scopes}' already: {}; revoke one first \
         (airlock key revoke ID)", .ids.len(), listed(.ids)
    )]
    TooManyKeys { tenant: TenantName, scopes: Scopes, ids: Vec<KeyId> },
    #[error(
        "tenant '{0}' was changed by somebody else since you looked (If-Match): look again, and decide again"
    )]
    Changed(TenantName),
    #[error("a key needs at least one scope: infer, repository or admin")]
    NoScopes,
    #[error("limits: {0}")]
    Limits(String),
    #[error("a label has at most {MAX_LABEL} characters, and no control characters")]
    Label,
    #[error("the key would have expired before it exists")]
    Expired,
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

fn listed(ids: &[KeyId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
