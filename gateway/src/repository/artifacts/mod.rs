//! Artifacts: the durable side of the repository, on any store that `object_store` speaks to.
//!
//! Two kinds of things lie there, and both are only ever created and deleted, never overwritten with anything else:
//! - *blobs*, found by the digest of their content, which is checked whenever one is read;
//! - *records* (tenants, keys, versions, settings), small JSON texts in numbered generations of which the newest counts.
//!   Changing a record is one create-if-absent put of its next generation, so of two gateways that try, one wins. A
//!   generation that was superseded a day ago is deleted; what a record said that is over for good is kept in its tenant's
//!   archive, which is a record as well.
//!
//! Each record carries a tag under the gateway's secret over its path and its body: who can write into the store but does
//! not have the secret cannot make one, alter one, or move one to another place. Putting an old state back is noticed by a
//! gateway that has seen a newer one, and only by it. Who can write there can still delete, or be in the way.

mod archive;
mod blobs;
mod error;
mod follow;
mod location;
mod objects;
mod open;
mod path;
mod records;
mod self_test;
mod superseded;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use object_store::ObjectStore;

use crate::{
    name::TenantName,
    secret::{Key, Purpose, Secret},
};

pub use blobs::Blob;
pub use error::ArtifactError;
pub use follow::{FOLLOW_INTERVAL, Follow, Surveys};
pub use location::{Location, LocationError};
pub use open::{S3Credentials, S3Settings};
pub use path::{Generation, RecordPath, Revision};
pub use records::{Fault, Survey};

/// The store, with the key that makes its records believable.
pub struct Artifacts {
    store: Arc<dyn ObjectStore>,
    /// Where the store is if it is on a disk of this machine.
    folder: Option<PathBuf>,
    key: Key,
    /// The newest generation of each record that this gateway has written, or has read with its tag right. What is merely
    /// listed is not in here: an object that somebody planted and took away again must not count as a lost record.
    seen: Mutex<BTreeMap<RecordPath, Generation>>,
    /// The newest archive of each tenant that this gateway has read.
    archives: Mutex<BTreeMap<TenantName, (Generation, Arc<archive::Archive>)>>,
}

impl Artifacts {
    pub fn new(store: Arc<dyn ObjectStore>, secret: &Secret) -> Self {
        Self {
            store,
            folder: None,
            key: secret.key(Purpose::Record),
            seen: Mutex::default(),
            archives: Mutex::default(),
        }
    }
}

impl fmt::Debug for Artifacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artifacts").field("store", &self.store.to_string()).finish_non_exhaustive()
    }
}
