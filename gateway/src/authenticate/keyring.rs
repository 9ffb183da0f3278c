//! Keyring: every key that the gateway knows, frozen at one moment. A newer one takes its place as a whole.

use std::{fmt, hint::black_box, sync::Arc};

use super::{ApiKey, KeyRecord, Principal, key::Tag};
use crate::{
    name::TenantName,
    secret::{Key, LENGTH},
};

/// All keys by id, revoked and expired ones included: that a key was there once is known for good.
#[derive(Clone)]
pub struct Keyring {
    /// In the order of their ids, and one at the end that nobody holds.
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    /// The key's id as a number: comparing arrays of bytes takes longer the more of them are equal.
    id: u64,
    tag: Tag,
    /// From this moment on, in seconds since 1970, the key is not valid; 0 if it is revoked.
    until: u64,
    principal: Arc<Principal>,
}

impl Default for Keyring {
    fn default() -> Self {
        Self::new([])
    }
}

impl Keyring {
    pub fn new(keys: impl IntoIterator<Item = (TenantName, KeyRecord)>) -> Self {
        let mut entries: Vec<Entry> =
            keys.into_iter().map(|(tenant, record)| entry(tenant, record)).collect();
        entries.sort_by_key(|entry| entry.id);
        entries.push(Entry {
            id: u64::MAX,
            tag: Tag([0; LENGTH]),
            until: 0,
            principal: Arc::new(Principal::nobody()),
        });
        Self { entries }
    }

    /// Whether there was never a key.
    pub fn is_empty(&self) -> bool {
        self.entries.len() == 1
    }

    /// Whose key that is, if it is valid at `now` (seconds since 1970).
    ///
    /// An unknown id takes the same steps as a wrong secret: the search has a fixed number of them, and where no entry has
    /// the id, the next one's tag is compared in its place. Nothing branches on which of the conditions failed.
    pub fn check(&self, pepper: &Key, key: &ApiKey, now: u64) -> Option<Arc<Principal>> {
        let id = key.id().number();
        let at = self.entries.partition_point(|entry| entry.id < id);
        let entry = &self.entries[at];
        let known = entry.id == id;
        let right = key.matches(pepper, &entry.tag);
        let valid = now < entry.until;
        (black_box(known) & black_box(right) & black_box(valid)).then(|| Arc::clone(&entry.principal))
    }
}

fn entry(tenant: TenantName, record: KeyRecord) -> Entry {
    let principal = Arc::new(Principal { tenant, scopes: record.scopes, key: Some(record.id) });
    Entry { id: record.id.number(), tag: record.tag, until: record.until(), principal }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("keys", &(self.entries.len() - 1)).finish()
    }
}
