//! What nobody needs any more: generations of records that have been superseded for long.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{Error, ObjectStoreExt, path::Path};
use serde::de::IgnoredAny;

use super::{ArtifactError, Artifacts, Generation, RecordPath, path::TENANTS, self_test};

impl Artifacts {
    /// What time it is by the store's clock, which also says how old its objects are: a gateway whose own clock is wrong
    /// must not take for old what others have only just written. In a folder, it is this machine's clock.
    pub async fn now(&self) -> Result<SystemTime, ArtifactError> {
        let path = self_test::probe()?;
        self.create(&path, &Bytes::from_static(b"now")).await?;
        let found = self.store.head(&path).await.map_err(|error| ArtifactError::reading(&path, &error));
        // What is left of it is in nobody's way.
        let _ = self.store.delete(&path).await;
        Ok(found?.last_modified.into())
    }

    /// Deletes the generations whose next one was written at least so long ago, never the newest, and says how many.
    ///
    /// The newest has to be readable: an object that somebody planted, or that was damaged, must not cost the last good one.
    /// That the clock may be wrong costs nothing here: what is written on a place that was deleted too early is refused,
    /// see [`Artifacts::append`], and the newest of all that were deleted is not asked for by anybody.
    pub async fn delete_superseded(&self, age: Duration) -> Result<usize, ArtifactError> {
        let now = self.now().await?;
        let mut generations = BTreeMap::<RecordPath, BTreeMap<Generation, SystemTime>>::new();
        let mut objects = self.store.list(Some(&Path::from(TENANTS)));
        while let Some(object) =
            objects.try_next().await.map_err(|error| ArtifactError::unavailable(&error))?
        {
            if let Some((record, generation)) = RecordPath::parse(&object.location) {
                generations.entry(record).or_default().insert(generation, object.last_modified.into());
            }
        }
        let mut deleted = 0;
        for (record, written) in generations {
            let followed = written.keys().zip(written.iter().skip(1));
            let is_old = |at: &SystemTime| now.duration_since(*at).is_ok_and(|passed| passed >= age);
            let old: Vec<Generation> =
                followed.filter(|(_, (_, next))| is_old(next)).map(|(generation, _)| *generation).collect();
            let Some((newest, _)) = written.last_key_value().filter(|_| !old.is_empty()) else { continue };
            match self.read::<IgnoredAny>(&record, *newest).await {
                Ok(IgnoredAny) => {}
                Err(error @ ArtifactError::Unavailable(_)) => return Err(error),
                // Reported by whoever follows the record.
                Err(_) => continue,
            }
            for generation in old {
                match self.store.delete(&record.at(generation)).await {
                    Ok(()) | Err(Error::NotFound { .. }) => deleted += 1,
                    Err(error) => return Err(ArtifactError::unavailable(&error)),
                }
            }
        }
        Ok(deleted)
    }
}
