//! Sweeping: generations of records that were superseded a day ago, records of what was removed a day ago, and blobs that no
//! version names any more, are deleted.
//!
//! Who publishes writes a blob again if it is older than an hour, and whether that has happened is looked at once more right
//! before a blob is deleted. What remains is the moment between that look and the deletion: a version published in it on
//! content that nobody named for a day is then unavailable until it is published again.
//!
//! How old something is, the store's clock says. That one may jump too (in a folder it is this machine's), and then a blob
//! that was written a moment ago, whose record is on its way, is a day old. So a blob is deleted only if an earlier sweep of
//! this gateway, by a watch that does not jump, found it unnamed as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::StreamExt;

use crate::{
    digest::Digest,
    repository::{
        artifacts::{ArtifactError, Blob, RecordPath},
        lock,
    },
};

use super::{Uploads, records::VersionRecord};

/// Time between two sweeps.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Age from which what is not needed belongs to nobody. An upload takes minutes from its first blob to its record.
const AGE: Duration = Duration::from_secs(24 * 3600);

/// Time between the first and the last sweep that found a blob unnamed, at least.
const SIGHTED: Duration = Duration::from_secs(1800);

/// Unnamed blobs, when each was written by the store's clock, and when a sweep first found it so.
pub(super) type Sightings = BTreeMap<Digest, (SystemTime, Instant)>;

/// What a sweep deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub generations: usize,
    /// Records of what was removed, now in their tenants' archives.
    pub archived: usize,
    pub blobs: usize,
}

impl Uploads {
    /// Sweeps every hour until told to stop.
    pub async fn keep_swept(self: Arc<Self>, stopped: impl Future<Output = ()>) {
        let mut stopped = pin!(stopped);
        loop {
            let sweep = async {
                tokio::time::sleep(INTERVAL).await;
                self.sweep(AGE).await
            };
            let swept = tokio::select! {
                () = &mut stopped => return,
                swept = sweep => swept,
            };
            match swept {
                Ok(Swept { generations, archived, blobs }) => {
                    tracing::info!(
                        generations,
                        archived,
                        blobs,
                        "what is no longer needed was deleted from the store"
                    );
                }
                Err(error) => tracing::warn!(%error, "the artifact store cannot be swept"),
            }
        }
    }

    /// Deletes generations that were superseded that long ago, archives what was removed that long ago, and deletes blobs of
    /// at least that age that no version names, if an earlier sweep found them so (this one, if the age is zero). If any
    /// record cannot be read, no blob is deleted.
    pub async fn sweep(&self, age: Duration) -> Result<Swept, ArtifactError> {
        let generations = self.artifacts.delete_superseded(age).await?;
        let dead = lock(&self.directory).dead();
        let archived = self.artifacts.archive_dead(&dead, age).await?;
        let now = self.artifacts.now().await?;
        let mut unnamed = self.artifacts.list_blobs().await?;
        unnamed.retain(|blob| now.duration_since(blob.modified).is_ok_and(|passed| passed >= age));
        // Looked up after the list was made: what was published since is among these.
        let named = if unnamed.is_empty() { BTreeSet::new() } else { self.named_blobs().await? };
        unnamed.retain(|blob| !named.contains(&blob.digest));
        self.sight(&mut unnamed, age.min(SIGHTED));
        let mut blobs = 0;
        for blob in unnamed {
            if self.artifacts.blob_modified(&blob.digest).await == Ok(blob.modified) {
                self.artifacts.delete_blob(&blob.digest).await?;
                blobs += 1;
            }
        }
        Ok(Swept { generations, archived, blobs })
    }

    /// Leaves the blobs that were first found unnamed so long ago, and notes the others for the next time.
    fn sight(&self, unnamed: &mut Vec<Blob>, long: Duration) {
        let mut sightings = lock(&self.sightings);
        let before = mem::take(&mut *sightings);
        let since = |blob: &Blob| match before.get(&blob.digest) {
            Some((modified, since)) if *modified == blob.modified => *since,
            _ => Instant::now(),
        };
        sightings.extend(unnamed.iter().map(|blob| (blob.digest, (blob.modified, since(blob)))));
        unnamed.retain(|blob| since(blob).elapsed() >= long);
    }

    async fn named_blobs(&self) -> Result<BTreeSet<Digest>, ArtifactError> {
        let mut named = BTreeSet::new();
        let versions =
            self.artifacts.survey().await?.of(|record, _| matches!(record, RecordPath::Version(..)));
        let mut reads = pin!(self.artifacts.read_each(versions));
        while let Some((_, _, record)) = reads.next().await {
            if let VersionRecord::Published(manifest) = record? {
                named.extend(manifest.blobs().map(|blob| blob.digest));
            }
        }
        Ok(named)
    }
}
