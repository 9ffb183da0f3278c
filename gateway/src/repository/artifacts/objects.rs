//! Single small objects: creating one if it is absent, and reading one, whatever goes wrong on the way.

use std::{fs, future::Future, io, path::PathBuf, time::Duration};

use bytes::Bytes;
use object_store::{Error, ObjectStoreExt, PutMode, PutOptions, path::Path};

use super::{ArtifactError, Artifacts};

/// Bytes of a small object.
pub(super) const MAX_BYTES: u64 = 1 << 20;
/// The time before each try of a put whose outcome is not known.
const WAITS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(400)];
/// For one small object, all tries together.
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of a create-if-absent put.
#[derive(Debug)]
pub(super) enum Created {
    New,
    /// The same bytes were there.
    Same,
    /// Other bytes were there.
    Other(Bytes),
}

impl Artifacts {
    /// Creates an object if there is none. When it returns, what is there is durable.
    ///
    /// An answer may be lost after the store has done the work, and S3 says "exists" (409) also of a put that is under
    /// way and may yet fail. So whatever the store says, short of done, it is asked what is there.
    pub(super) async fn create(&self, path: &Path, bytes: &Bytes) -> Result<Created, ArtifactError> {
        patiently(self.try_to_create(path, bytes)).await
    }

    async fn try_to_create(&self, path: &Path, bytes: &Bytes) -> Result<Created, ArtifactError> {
        let mut fault = ArtifactError::Unavailable(format!("{path} is said to exist and cannot be read"));
        for wait in WAITS {
            tokio::time::sleep(wait).await;
            let create = PutOptions::from(PutMode::Create);
            match self.store.put_opts(path, bytes.clone().into(), create).await {
                Ok(_) => return Ok(Created::New),
                Err(Error::AlreadyExists { .. }) => {}
                Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                    return Err(ArtifactError::NoConditionalPut);
                }
                Err(error @ (Error::PermissionDenied { .. } | Error::Unauthenticated { .. })) => {
                    return Err(ArtifactError::unavailable(&error));
                }
                Err(error) => fault = ArtifactError::unavailable(&error),
            }
            match self.small_object(path).await {
                Ok(found) if found == *bytes => {
                    self.settle(path).await?;
                    return Ok(Created::Same);
                }
                Ok(found) => return Ok(Created::Other(found)),
                Err(error @ ArtifactError::Corrupt { .. }) => return Err(error),
                // It is reported that it could not be written: that came first.
                Err(_) => {}
            }
        }
        Err(fault)
    }

    /// What an object holds.
    pub(super) async fn small(&self, path: &Path) -> Result<Bytes, ArtifactError> {
        patiently(self.small_object(path)).await
    }

    async fn small_object(&self, path: &Path) -> Result<Bytes, ArtifactError> {
        self.check_file(path)?;
        let found = self.store.get(path).await.map_err(|error| ArtifactError::reading(path, &error))?;
        if found.meta.size > MAX_BYTES {
            return Err(ArtifactError::corrupt(path, format!("it has more than {MAX_BYTES} bytes")));
        }
        found.bytes().await.map_err(|error| ArtifactError::unavailable(&error))
    }

    fn file(&self, path: &Path) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(path.as_ref()))
    }

    /// On a disk, what is not a plain file is not read: a pipe would hold the reader for ever, and a link leads out of
    /// the store. It is looked at before it is opened, so this does not stop somebody who exchanges it in between.
    pub(super) fn check_file(&self, path: &Path) -> Result<(), ArtifactError> {
        let Some(file) = self.file(path) else { return Ok(()) };
        match fs::symlink_metadata(file) {
            Ok(found) if !found.is_file() => Err(ArtifactError::corrupt(path, "it is not a plain file")),
            // Reading it says better what is wrong.
            _ => Ok(()),
        }
    }

    /// Makes durable what another process has put on the disk, perhaps only a moment ago.
    pub(super) async fn settle(&self, path: &Path) -> Result<(), ArtifactError> {
        let (Some(file), Some(root)) = (self.file(path), self.folder.clone()) else { return Ok(()) };
        let settle = move || {
            file.ancestors()
                .take_while(|part| part.starts_with(&root))
                .try_for_each(|part| fs::File::open(part)?.sync_all())
        };
        let unavailable = |error: io::Error| ArtifactError::Unavailable(format!("{path}: {error}"));
        blocking(settle).await?.map_err(unavailable)
    }
}

/// A store that neither answers nor fails must not hold who asks for ever.
async fn patiently<T>(work: impl Future<Output = Result<T, ArtifactError>>) -> Result<T, ArtifactError> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| {
        Err(ArtifactError::Unavailable(format!("it did not answer within {} s", PATIENCE.as_secs())))
    })
}

/// Runs what reads, writes or hashes on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ArtifactError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ArtifactError::Disk(error.to_string()))
}
