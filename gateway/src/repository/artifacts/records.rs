//! Records: numbered generations of small JSON texts, each with its tag.

use std::sync::PoisonError;

use futures_util::TryStreamExt;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload, path::Path};
use serde::{Serialize, de::DeserializeOwned};

use super::{ArtifactError, Artifacts, Generation, RecordPath, Survey, path::TENANTS};
use crate::{digest, secret};

/// Bytes of a record, tag included.
const MAX_BYTES: u64 = 1 << 20;

/// Hex digits of a tag, and the newline behind it.
const HEAD: usize = secret::LENGTH * 2 + 1;

impl Artifacts {
    /// One look at all records: the newest generation of each.
    ///
    /// # Errors
    /// Also if a record that this gateway has seen is gone or is older than before: nothing here ever does that.
    pub async fn survey(&self) -> Result<Survey, ArtifactError> {
        let listed = self.list(&Path::from(TENANTS)).await?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (record, newest) in seen.iter() {
            if listed.get(record).is_none_or(|generation| generation < newest) {
                return Err(rolled_back(record, *newest));
            }
        }
        seen.extend(listed.iter().map(|(record, generation)| (record.clone(), *generation)));
        Ok(listed)
    }

    async fn list(&self, prefix: &Path) -> Result<Survey, ArtifactError> {
        let mut survey = Survey::new();
        let mut objects = self.store.list(Some(prefix));
        while let Some(object) =
            objects.try_next().await.map_err(|error| ArtifactError::unavailable(&error))?
        {
            if let Some((record, generation)) = RecordPath::parse(&object.location) {
                let newest = survey.entry(record).or_insert(generation);
                *newest = generation.max(*newest);
            }
        }
        Ok(survey)
    }

    /// The newest generation of one record, and what it says; `None` if it was never written.
    pub async fn newest<T: DeserializeOwned>(
        &self,
        record: &RecordPath,
    ) -> Result<Option<(Generation, T)>, ArtifactError> {
        let listed = self.list(&Path::from(record.to_string())).await?;
        let known = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(record).copied();
        match (listed.get(record).copied(), known) {
            (None, None) => Ok(None),
            (Some(newest), known) if known.is_none_or(|known| newest >= known) => {
                Ok(Some((newest, self.read(record, newest).await?)))
            }
            (_, known) => Err(rolled_back(record, known.unwrap_or(Generation::FIRST))),
        }
    }

    /// What one generation of a record says.
    pub async fn read<T: DeserializeOwned>(
        &self,
        record: &RecordPath,
        generation: Generation,
    ) -> Result<T, ArtifactError> {
        let path = record.at(generation);
        let body = self.body(&path).await?;
        serde_json::from_slice(&body).map_err(|error| corrupt(&path, error))
    }

    async fn body(&self, path: &Path) -> Result<Vec<u8>, ArtifactError> {
        let found = self.store.get(path).await.map_err(|error| match error {
            object_store::Error::NotFound { .. } => ArtifactError::Missing(path.to_string()),
            error => ArtifactError::unavailable(&error),
        })?;
        if found.meta.size > MAX_BYTES {
            return Err(corrupt(path, "it is too large for a record"));
        }
        let bytes = found.bytes().await.map_err(|error| ArtifactError::unavailable(&error))?;
        let (head, body) = bytes.split_at_checked(HEAD).ok_or_else(|| corrupt(path, "it is too short"))?;
        let tag = str::from_utf8(head)
            .ok()
            .and_then(|head| head.strip_suffix('\n'))
            .and_then(digest::unhex)
            .ok_or_else(|| corrupt(path, "it does not begin with a tag"))?;
        if self.key.verify(&[path.as_ref().as_bytes(), body], &tag) {
            Ok(body.to_vec())
        } else {
            Err(corrupt(path, "its tag is not the one of its content and place under this gateway's secret"))
        }
    }

    /// Writes the generation of a record that follows `after`, if nobody else has. When it returns, the record is durable.
    /// Doing the same again succeeds, so it may be repeated after an error that leaves open whether it was done.
    pub async fn append<T: Serialize>(
        &self,
        record: &RecordPath,
        after: Option<Generation>,
        body: &T,
    ) -> Result<Generation, ArtifactError> {
        let generation = after.map_or(Generation::FIRST, Generation::next);
        let path = record.at(generation);
        let body = serde_json::to_vec(body).map_err(|error| corrupt(&path, error))?;
        let tag = self.key.tag(&[path.as_ref().as_bytes(), &body]);
        let mut bytes = digest::hex(&tag).into_bytes();
        bytes.push(b'\n');
        bytes.extend_from_slice(&body);
        let create = PutOptions::from(PutMode::Create);
        match self.store.put_opts(&path, PutPayload::from(bytes), create).await {
            Ok(_) => {}
            Err(object_store::Error::AlreadyExists { .. }) => {
                if self.body(&path).await? != body {
                    return Err(ArtifactError::Taken(record.clone()));
                }
            }
            Err(error) => return Err(ArtifactError::unavailable(&error)),
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = seen.entry(record.clone()).or_insert(generation);
        *newest = generation.max(*newest);
        Ok(generation)
    }
}

fn corrupt(path: &Path, reason: impl ToString) -> ArtifactError {
    ArtifactError::Corrupt { path: path.to_string(), reason: reason.to_string() }
}

fn rolled_back(record: &RecordPath, newest: Generation) -> ArtifactError {
    ArtifactError::Corrupt {
        path: record.to_string(),
        reason: format!("generation {newest} was there before and is not any more"),
    }
}
