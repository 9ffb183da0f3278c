//! Artifacts: the durable side of the repository, on any store that `object_store` speaks to.
//!
//! Two kinds of things lie there, and both are only ever created, never overwritten:
//! - *blobs*, found by the digest of their content, which is checked whenever one is read;
//! - *records* (tenants, keys, versions, settings), small JSON texts in numbered generations of which the newest counts.
//!   Changing a record is one create-if-absent put of its next generation, so of two gateways that try, one wins.
//!
//! Each record carries a tag under the gateway's secret over its path and its body: who can write into the store but does
//! not have the secret cannot make one, alter one, or move one to another place. Putting an old state back is noticed by a
//! gateway that has seen a newer one, and only by it.

mod path;
mod records;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use object_store::ObjectStore;

use crate::secret::{Key, Purpose, Secret};

pub use path::{Generation, RecordPath};

/// Why the store did not do what was asked. The texts name places in the store, which are for the operator's log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// It cannot be reached, or refuses to work; what is loaded already serves on.
    #[error("the artifact store is not available: {0}")]
    Unavailable(String),
    /// What lies there is not what was once written.
    #[error("{path} in the artifact store is not what was written there: {reason}")]
    Corrupt { path: String, reason: String },
    #[error("{0} is not in the artifact store")]
    Missing(String),
    /// Somebody else has written that generation of the record.
    #[error("{0} was changed by somebody else at the same time")]
    Taken(RecordPath),
}

/// The newest generation of every record.
pub type Survey = BTreeMap<RecordPath, Generation>;

/// The store, with the key that makes its records believable.
pub struct Artifacts {
    store: Arc<dyn ObjectStore>,
    key: Key,
    /// The newest generation of each record that this gateway has seen.
    seen: Mutex<Survey>,
}

impl Artifacts {
    pub fn new(store: Arc<dyn ObjectStore>, secret: &Secret) -> Self {
        Self { store, key: secret.key(Purpose::Record), seen: Mutex::default() }
    }
}

impl fmt::Debug for Artifacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artifacts").field("store", &self.store.to_string()).finish_non_exhaustive()
    }
}

impl ArtifactError {
    fn unavailable(error: &object_store::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}
