//! Records: numbered generations of small JSON texts, each with its tag.

use std::{collections::BTreeMap, sync::PoisonError};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    ArtifactError, Artifacts, Generation, RecordPath,
    objects::{Created, MAX_BYTES},
    path::TENANTS,
};
use crate::{digest, secret};

/// Hex digits of a tag, and the newline behind it.
const HEAD: usize = secret::LENGTH * 2 + 1;

/// Records that are read at a time: what a bucket takes to answer is waited for once for so many. Each has 1 MiB at most.
const READS: usize = 32;

/// One look at all records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The newest generation of each record that is listed, which is believed when it has been read; where there is a
    /// fault, the one that this gateway has seen.
    pub records: BTreeMap<RecordPath, Generation>,
    pub faults: Vec<Fault>,
}

/// A record that is not there any more, or older than before. Nothing here ever does that: either somebody else changes
/// the store, or its listing is out of date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub record: RecordPath,
    pub reason: String,
}

impl Survey {
    /// Some of the records.
    pub fn of(&self, wanted: impl Fn(&RecordPath, Generation) -> bool) -> Vec<(RecordPath, Generation)> {
        let records = self.records.iter().filter(|(path, generation)| wanted(path, **generation));
        records.map(|(path, generation)| (path.clone(), *generation)).collect()
    }
}

impl Artifacts {
    /// One look at all records. Records that this gateway has seen and that are gone or older than before are reported as
    /// faults, at the generation that was seen, and do not keep it from seeing all others.
    pub async fn survey(&self) -> Result<Survey, ArtifactError> {
        // First: what is written while the store is being listed is not missing from the list.
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut records = self.list(&Path::from(TENANTS)).await?;
        let mut faults = Vec::new();
        let archives: Vec<(RecordPath, Generation)> = records
            .iter()
            .filter(|(record, _)| matches!(record, RecordPath::Archive(_)))
            .map(|(record, newest)| (record.clone(), *newest))
            .collect();
        for (record, newest) in archives {
            match self.archive_at(record.tenant(), newest).await {
                Ok(archive) => {
                    for (record, archived) in archive.records() {
                        let newest = records.entry(record).or_insert(archived);
                        *newest = archived.max(*newest);
                    }
                }
                Err(error @ ArtifactError::Unavailable(_)) => return Err(error),
                Err(error) => faults.push(Fault { record, reason: error.to_string() }),
            }
        }
        for (record, newest) in seen {
            let listed = records.get(&record).copied();
            if listed.is_none_or(|listed| listed < newest) {
                // It may have been archived while the store was being listed.
                if let Some(stored) = self.stored_generation(&record).await?.filter(|now| *now >= newest) {
                    records.insert(record, stored);
                    continue;
                }
                let reason = match listed {
                    None => format!("generation {newest} was there before and the record is gone"),
                    Some(listed) => format!("generation {newest} was there before and now it is {listed}"),
                };
                records.insert(record.clone(), newest);
                faults.push(Fault { record, reason });
            }
        }
        Ok(Survey { records, faults })
    }

    async fn list(&self, prefix: &Path) -> Result<BTreeMap<RecordPath, Generation>, ArtifactError> {
        let mut records = BTreeMap::new();
        let mut objects = self.store.list(Some(prefix));
        while let Some(object) =
            objects.try_next().await.map_err(|error| ArtifactError::unavailable(&error))?
        {
            if let Some((record, generation)) = RecordPath::parse(&object.location) {
                let newest = records.entry(record).or_insert(generation);
                *newest = generation.max(*newest);
            }
        }
        Ok(records)
    }

    /// The newest generation of one record, and what it says; `None` if it was never written. If the store lists less
    /// than this gateway has seen, what was seen is read.
    pub async fn newest<T: DeserializeOwned>(
        &self,
        record: &RecordPath,
    ) -> Result<Option<(Generation, T)>, ArtifactError> {
        match self.newest_generation(record).await? {
            Some(newest) => Ok(Some((newest, self.read(record, newest).await?))),
            None => Ok(None),
        }
    }

    pub(super) async fn newest_generation(
        &self,
        record: &RecordPath,
    ) -> Result<Option<Generation>, ArtifactError> {
        let stored = self.stored_generation(record).await?;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(record).copied();
        Ok(stored.max(seen))
    }

    /// The newest generation that is in the store, as an object or archived.
    async fn stored_generation(&self, record: &RecordPath) -> Result<Option<Generation>, ArtifactError> {
        let listed = self.list(&Path::from(record.to_string())).await?.get(record).copied();
        // Afterwards: what was deleted meanwhile was archived before.
        let archived = if record.can_be_archived() {
            Box::pin(self.archive(record.tenant())).await?.1.get(record).map(|(archived, _)| *archived)
        } else {
            None
        };
        Ok(listed.max(archived))
    }

    /// What one generation of a record says.
    pub async fn read<T: DeserializeOwned>(
        &self,
        record: &RecordPath,
        generation: Generation,
    ) -> Result<T, ArtifactError> {
        let path = record.at(generation);
        // Before the object: a writer who stood still may have left one at a place that was archived.
        let archived = self.archived(record).filter(|(archived, _)| *archived == generation);
        let says = match archived {
            Some((_, says)) => serde_json::from_value(says),
            None => {
                let body = self.unsealed(&path, &self.small(&path).await?)?;
                serde_json::from_slice(&body)
            }
        };
        self.saw(record, generation);
        says.map_err(|error| ArtifactError::corrupt(&path, error))
    }

    /// What each of these generations says, in no order: some are read at a time.
    pub fn read_each<T: DeserializeOwned>(
        &self,
        records: Vec<(RecordPath, Generation)>,
    ) -> impl Stream<Item = (RecordPath, Generation, Result<T, ArtifactError>)> {
        let read = move |(record, generation): (RecordPath, Generation)| async move {
            let says = self.read(&record, generation).await;
            (record, generation, says)
        };
        stream::iter(records).map(read).buffer_unordered(READS)
    }

    /// Writes the generation of a record that follows `after`, if nobody else has. When it returns, the record is durable.
    /// Doing the same again succeeds while nothing was written on top of it, so it may be repeated after an error that
    /// leaves open whether it was done.
    ///
    /// Superseded generations are deleted, so the place of the next one may be free although others have long gone beyond
    /// it: for a writer that read `after` and then stood still for a day. So once it is written, it is looked whether it is
    /// the newest. It was lost if a higher one was there before it, and in that case a higher one is there now too, as
    /// the newest is never deleted, or is archived before. The other way round it is not certain: of a generation that
    /// somebody else has already written the next one on, it is said to be taken as well. Who tries again then works on
    /// what is newest.
    ///
    /// # Errors
    /// [`ArtifactError::Taken`] if somebody else was faster.
    pub async fn append<T: Serialize>(
        &self,
        record: &RecordPath,
        after: Option<Generation>,
        body: &T,
    ) -> Result<Generation, ArtifactError> {
        let generation = after.map_or(Generation::FIRST, Generation::next);
        let path = record.at(generation);
        let body = serde_json::to_vec(body).map_err(|error| ArtifactError::corrupt(&path, error))?;
        let bytes = self.sealed(&path, &body);
        if bytes.len() as u64 > MAX_BYTES {
            let reason = format!("a record has at most {MAX_BYTES} bytes, and this one {}", bytes.len());
            return Err(ArtifactError::corrupt(&path, reason));
        }
        match self.create(&path, &bytes).await? {
            Created::New | Created::Same => {
                let lost = self.newest_generation(record).await?.is_some_and(|newest| newest > generation)
                    || self.archived(record).is_some_and(|(archived, _)| archived >= generation);
                if lost {
                    return Err(ArtifactError::Taken(record.clone()));
                }
                self.saw(record, generation);
                Ok(generation)
            }
            Created::Other(found) => {
                self.unsealed(&path, &found)?;
                self.saw(record, generation);
                Err(ArtifactError::Taken(record.clone()))
            }
        }
    }

    fn saw(&self, record: &RecordPath, generation: Generation) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = seen.entry(record.clone()).or_insert(generation);
        *newest = generation.max(*newest);
    }

    /// A body with its tag for a place.
    pub(super) fn sealed(&self, path: &Path, body: &[u8]) -> Bytes {
        let tag = self.key.tag(&[path.as_ref().as_bytes(), body]);
        let mut bytes = digest::hex(&tag).into_bytes();
        bytes.push(b'\n');
        bytes.extend_from_slice(body);
        bytes.into()
    }

    /// The body of what was found at a place, if it was made for that place with this gateway's secret.
    fn unsealed(&self, path: &Path, bytes: &Bytes) -> Result<Bytes, ArtifactError> {
        let corrupt = |reason: &str| ArtifactError::corrupt(path, reason);
        let head = bytes.get(..HEAD).ok_or_else(|| corrupt("it is too short"))?;
        let tag = str::from_utf8(head)
            .ok()
            .and_then(|head| head.strip_suffix('\n'))
            .and_then(digest::unhex)
            .ok_or_else(|| corrupt("it does not begin with a tag"))?;
        let body = bytes.slice(HEAD..);
        if self.key.verify(&[path.as_ref().as_bytes(), &body], &tag) {
            Ok(body)
        } else {
            Err(corrupt("its tag is not the one of its content and place under this gateway's secret"))
        }
    }
}
