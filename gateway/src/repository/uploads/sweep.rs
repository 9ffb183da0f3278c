//! Sweeping: blobs that no version names any more are deleted, a day after they were written.
//!
//! Who publishes writes a blob again if it is older than an hour, and a blob's age is looked at once more right before it is
//! deleted. What remains is the moment between that look and the deletion: a version published in it on content that
//! nobody named for a day is then unavailable until it is published again.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use crate::{
    digest::Digest,
    repository::artifacts::{ArtifactError, RecordPath},
};

use super::{Uploads, records::VersionRecord};

/// Age from which a blob that is not named belongs to nobody. An upload takes minutes from its first blob to its record.
pub(super) const AGE: Duration = Duration::from_secs(24 * 3600);

impl Uploads {
    /// Deletes blobs of at least that age that no version names. Returns how many. If any record cannot be read, nothing is
    /// deleted.
    pub async fn sweep(&self, age: Duration) -> Result<usize, ArtifactError> {
        let is_old = |modified: SystemTime| modified.elapsed().is_ok_and(|elapsed| elapsed >= age);
        let mut unnamed = self.artifacts.list_blobs().await?;
        unnamed.retain(|blob| is_old(blob.modified));
        if unnamed.is_empty() {
            return Ok(0);
        }
        // Looked up after the list was made: what was published since is among these.
        let named = self.named_blobs().await?;
        unnamed.retain(|blob| !named.contains(&blob.digest));
        let mut deleted = 0;
        for blob in unnamed {
            if self.artifacts.blob_modified(&blob.digest).await.is_ok_and(is_old) {
                self.artifacts.delete_blob(&blob.digest).await?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }

    async fn named_blobs(&self) -> Result<BTreeSet<Digest>, ArtifactError> {
        let mut named = BTreeSet::new();
        let survey = self.artifacts.survey().await?;
        for (record, generation) in &survey.records {
            if let RecordPath::Version(..) = record
                && let VersionRecord::Published(manifest) = self.artifacts.read(record, *generation).await?
            {
                named.extend(manifest.blobs().map(|blob| blob.digest));
            }
        }
        Ok(named)
    }
}
