//! Archives: what records said last that are over for good, all in one record of their tenant, so that their own objects can
//! go.
//!
//! Nothing is forgotten by that: the generation of a record goes on from the archived one, whoever reads the record finds
//! what it said there, and a writer who stood still since before is refused as anywhere else, see [`Artifacts::append`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::TryStreamExt;
use object_store::{Error, ObjectStoreExt, path::Path};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ArtifactError, Artifacts, Generation, RecordPath, path::TENANTS};
use crate::name::TenantName;

/// Bytes of an archive, about: a record has a bound. What does not fit in stays where it is.
const MAX_BYTES: usize = 900 << 10;

/// By the path of each record: its last generation, and what that says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(super) struct Archive(BTreeMap<String, (Generation, Value)>);

impl Archive {
    pub(super) fn get(&self, record: &RecordPath) -> Option<&(Generation, Value)> {
        self.0.get(&record.to_string())
    }

    pub(super) fn records(&self) -> impl Iterator<Item = (RecordPath, Generation)> {
        self.0.iter().filter_map(|(path, (generation, _))| {
            RecordPath::parse(&Path::from(format!("{path}/{generation}")))
        })
    }
}

impl RecordPath {
    /// Whether it may be in an archive.
    pub(super) fn can_be_archived(&self) -> bool {
        matches!(self, Self::Version(..) | Self::Settings(..))
    }
}

impl Artifacts {
    /// A tenant's archive as it is now, with its generation; empty if there is none.
    pub(super) async fn archive(
        &self,
        tenant: &TenantName,
    ) -> Result<(Option<Generation>, Arc<Archive>), ArtifactError> {
        match self.newest_generation(&RecordPath::Archive(tenant.clone())).await? {
            Some(newest) => Ok((Some(newest), self.archive_at(tenant, newest).await?)),
            None => Ok((None, Arc::default())),
        }
    }

    /// That generation of a tenant's archive. It is read once; a newer one stays the one that is known.
    pub(super) async fn archive_at(
        &self,
        tenant: &TenantName,
        generation: Generation,
    ) -> Result<Arc<Archive>, ArtifactError> {
        if let Some((known, archive)) = self.known_archive(tenant)
            && known >= generation
        {
            return Ok(archive);
        }
        let archive = self.read::<Archive>(&RecordPath::Archive(tenant.clone()), generation).await?;
        let archive = Arc::new(archive);
        let mut archives = self.archives.lock().unwrap_or_else(PoisonError::into_inner);
        let known = archives.entry(tenant.clone()).or_insert_with(|| (generation, Arc::clone(&archive)));
        if known.0 < generation {
            *known = (generation, archive);
        }
        Ok(Arc::clone(&known.1))
    }

    fn known_archive(&self, tenant: &TenantName) -> Option<(Generation, Arc<Archive>)> {
        self.archives.lock().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned()
    }

    /// What is known to be archived of a record.
    pub(super) fn archived(&self, record: &RecordPath) -> Option<(Generation, Value)> {
        let (_, archive) = self.known_archive(record.tenant()).filter(|_| record.can_be_archived())?;
        archive.get(record).cloned()
    }

    /// Takes records that say for good what they say at that generation into their tenants' archives, if they were written
    /// at least so long ago and nothing was written on top, and deletes their objects. Says how many records that were.
    ///
    /// An archive is durable before anything that it holds is deleted. If another gateway archives at the same time, one of
    /// the two leaves it to the other. What cannot be read stays where it is and is logged.
    ///
    /// # Errors
    /// [`ArtifactError::Unavailable`]: nothing else ends the work on the others.
    pub async fn archive_dead(
        &self,
        dead: &BTreeMap<RecordPath, Generation>,
        age: Duration,
    ) -> Result<usize, ArtifactError> {
        let now = self.now().await?;
        let tenants: BTreeSet<TenantName> = {
            let archives = self.archives.lock().unwrap_or_else(PoisonError::into_inner);
            dead.keys().map(RecordPath::tenant).chain(archives.keys()).cloned().collect()
        };
        let mut gone = 0;
        for tenant in tenants {
            gone += match self.archive_dead_of(&tenant, dead, age, now).await {
                Ok(gone) => gone,
                Err(error @ ArtifactError::Unavailable(_)) => return Err(error),
                // One tenant's damage is no reason to let the others' objects grow.
                Err(error) => {
                    tracing::warn!(%tenant, %error, "what this tenant removed cannot be archived");
                    0
                }
            };
        }
        Ok(gone)
    }

    async fn archive_dead_of(
        &self,
        tenant: &TenantName,
        dead: &BTreeMap<RecordPath, Generation>,
        age: Duration,
        now: SystemTime,
    ) -> Result<usize, ArtifactError> {
        let mut gone = 0;
        let mut written = BTreeMap::<RecordPath, BTreeMap<Generation, _>>::new();
        let mut objects = self.store.list(Some(&Path::from(format!("{TENANTS}/{tenant}"))));
        while let Some(object) =
            objects.try_next().await.map_err(|error| ArtifactError::unavailable(&error))?
        {
            if let Some((record, generation)) = RecordPath::parse(&object.location) {
                written.entry(record).or_default().insert(generation, object.last_modified.into());
            }
        }
        let (after, before) = self.archive(tenant).await?;
        let mut archive = Archive::clone(&before);
        let newest = |record: &RecordPath| written.get(record)?.last_key_value();
        // What lives on says so by itself.
        for (record, archived) in before.records() {
            if newest(&record).is_some_and(|(newest, _)| *newest > archived) {
                archive.0.remove(&record.to_string());
            }
        }
        let mut bytes = serde_json::to_vec(&archive).map_or(0, |text| text.len());
        for (record, generation) in dead.iter().filter(|(record, _)| *record.tenant() == *tenant) {
            let is_old = |at| now.duration_since(at).is_ok_and(|passed| passed >= age);
            let is_due = newest(record).is_some_and(|(newest, at)| newest == generation && is_old(*at));
            if !is_due || before.get(record).is_some_and(|(archived, _)| archived >= generation) {
                continue;
            }
            let says: Value = match self.read(record, *generation).await {
                Ok(says) => says,
                Err(error @ ArtifactError::Unavailable(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(%tenant, %error, "a removed record cannot be read and is not archived");
                    continue;
                }
            };
            bytes += record.to_string().len() + says.to_string().len() + 24;
            if bytes > MAX_BYTES {
                tracing::warn!(%tenant, "the archive of what this tenant removed is full; the rest stays in the store as it is");
                break;
            }
            archive.0.insert(record.to_string(), (*generation, says));
        }
        if archive != *before {
            match Box::pin(self.append(&RecordPath::Archive(tenant.clone()), after, &archive)).await {
                Ok(generation) => drop(self.archive_at(tenant, generation).await?),
                Err(ArtifactError::Taken(_)) => return Ok(0),
                Err(error) => return Err(error),
            }
        }
        for (record, archived) in archive.records() {
            let generations = written.get(&record).into_iter().flat_map(BTreeMap::keys);
            let mut any = false;
            for generation in generations.filter(|generation| **generation <= archived) {
                match self.store.delete(&record.at(*generation)).await {
                    Ok(()) | Err(Error::NotFound { .. }) => any = true,
                    Err(error) => return Err(ArtifactError::unavailable(&error)),
                }
            }
            gone += usize::from(any);
        }
        Ok(gone)
    }
}
