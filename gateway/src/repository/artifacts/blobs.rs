//! Blobs: content that is found by its digest.
//!
//! They go through in pieces, so that a blob of any size takes little memory, and are hashed as they go: what is stored
//! under a digest has it, and what is read is checked before anybody uses it. A blob may be put again at any time; if
//! what lies there has not even the right size, it is replaced.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path as FilePath,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{Error, MultipartUpload, ObjectStoreExt, path::Path};

use super::{
    ArtifactError, Artifacts,
    objects::blocking,
    path::{self, BLOBS},
};
use crate::{
    digest::{self, Digest, Hasher},
    secret,
};

/// Bytes that are sent at once. S3 wants 5 MiB at least, and at most 10,000 pieces: 48 GiB.
pub(super) const PUT_BYTES: usize = 5 << 20;
/// Bytes that are read at once.
const GET_BYTES: u64 = 4 << 20;

/// Age up to which a blob that is there already need not be written again.
const FRESH: Duration = Duration::from_secs(3600);

/// A blob that lies in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// By the store's clock.
    pub modified: SystemTime,
}

impl Artifacts {
    /// Stores a file's content under its digest, unless it is there unharmed. When it returns, the blob is durable.
    ///
    /// If it is given up half way (the future dropped, the gateway killed), nothing can be read under the digest. What a
    /// bucket then keeps of an unfinished upload is removed by a lifecycle rule of the bucket's; on a disk,
    /// [`Artifacts::remove_leftovers`] does it.
    ///
    /// # Errors
    /// [`ArtifactError::Changed`] if the file has not that digest.
    pub async fn put_blob(&self, digest: &Digest, file: &FilePath) -> Result<(), ArtifactError> {
        let path = path::blob(digest);
        let file = file.to_owned();
        let open = move || File::open(file).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (size, file) = blocking(open).await?.map_err(|error| ArtifactError::disk(&error))?;
        // What is there is read, not believed: publishing again is how a damaged blob is mended.
        match self.check_blob(digest, &path, size).await {
            Ok(()) if self.is_fresh(digest).await? => return self.settle(&path).await,
            // An old one is written again, so that a sweep that has just found it unnamed sees that it is in use.
            Ok(()) | Err(ArtifactError::Missing(_) | ArtifactError::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
        let pieces = Pieces { file, hasher: Hasher::default() };
        let (pieces, piece) = pieces.next().await?;
        let sent = if piece.len() < PUT_BYTES {
            pieces.check(digest)?;
            self.store.put(&path, piece.into()).await.map(drop)
        } else {
            let mut upload =
                self.store.put_multipart(&path).await.map_err(|error| ArtifactError::unavailable(&error))?;
            let sent = send(&mut *upload, digest, pieces, piece).await;
            if !matches!(sent, Ok(Ok(()))) {
                // Undoes nothing that was completed; what cannot be taken back is garbage that nobody finds.
                let _ = upload.abort().await;
            }
            sent?
        };
        // If the answer was lost, the blob is there nevertheless.
        match (self.blob_size(&path).await, sent) {
            (Ok(found), _) if found == size => self.settle(&path).await,
            (_, Err(error)) => Err(ArtifactError::unavailable(&error)),
            (Ok(found), Ok(())) => {
                Err(ArtifactError::corrupt(&path, format!("{size} bytes were written and {found} are there")))
            }
            (Err(error), Ok(())) => Err(error),
        }
    }

    /// When a blob was written last, by the store's clock.
    pub async fn blob_modified(&self, digest: &Digest) -> Result<SystemTime, ArtifactError> {
        let path = path::blob(digest);
        self.check_file(&path)?;
        let found = self.store.head(&path).await.map_err(|error| ArtifactError::reading(&path, &error))?;
        Ok(found.last_modified.into())
    }

    async fn is_fresh(&self, digest: &Digest) -> Result<bool, ArtifactError> {
        let modified = self.blob_modified(digest).await?;
        // By the store's clock, as who sweeps does: by a clock of our own that is late, what is old would be fresh.
        Ok(self.now().await?.duration_since(modified).is_ok_and(|age| age < FRESH))
    }

    /// Reads a blob of that size to its end, a piece at a time, and compares its digest.
    async fn check_blob(&self, digest: &Digest, path: &Path, size: u64) -> Result<(), ArtifactError> {
        let found = self.blob_size(path).await?;
        if found != size {
            return Err(ArtifactError::corrupt(path, format!("it has {found} bytes instead of {size}")));
        }
        let mut hasher = Hasher::default();
        let mut at = 0;
        while at < size {
            let piece = self.piece(path, at, size).await?;
            at += piece.len() as u64;
            hasher = blocking(move || {
                hasher.update(&piece);
                hasher
            })
            .await?;
        }
        check(path, digest, &hasher.finish())
    }

    /// A blob's content, which is what its digest says.
    pub async fn get_blob(&self, digest: &Digest, max_bytes: u64) -> Result<Bytes, ArtifactError> {
        let path = path::blob(digest);
        let size = self.readable_size(&path, max_bytes).await?;
        let capacity = usize::try_from(size).map_err(|error| ArtifactError::corrupt(&path, error))?;
        let mut content = Vec::with_capacity(capacity);
        let mut hasher = Hasher::default();
        while (content.len() as u64) < size {
            let piece = self.piece(&path, content.len() as u64, size).await?;
            (hasher, content) = blocking(move || {
                hasher.update(&piece);
                content.extend_from_slice(&piece);
                (hasher, content)
            })
            .await?;
        }
        check(&path, digest, &hasher.finish())?;
        Ok(content.into())
    }

    /// Writes a blob's content to a file, which appears when it is complete and is what the digest says. The file is
    /// readable by its owner only; one that was there is replaced.
    pub async fn fetch_blob(
        &self,
        digest: &Digest,
        to: &FilePath,
        max_bytes: u64,
    ) -> Result<(), ArtifactError> {
        let suffix = secret::random::<8>().map_err(|error| ArtifactError::Disk(error.to_string()))?;
        let mut part = to.as_os_str().to_owned();
        part.push(format!(".part-{}", digest::hex(&suffix)));
        let part = Part(part.into());
        self.fetch(digest, &part.0, max_bytes).await?;
        let to = to.to_owned();
        let rename = move || fs::rename(&part.0, to);
        blocking(rename).await?.map_err(|error| ArtifactError::disk(&error))
    }

    async fn fetch(&self, digest: &Digest, to: &FilePath, max_bytes: u64) -> Result<(), ArtifactError> {
        let path = path::blob(digest);
        let size = self.readable_size(&path, max_bytes).await?;
        let disk = |error| ArtifactError::disk(&error);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(disk)?;
        let mut hasher = Hasher::default();
        let mut at = 0;
        while at < size {
            let piece = self.piece(&path, at, size).await?;
            at += piece.len() as u64;
            let write = move || {
                hasher.update(&piece);
                file.write_all(&piece).map(|()| (hasher, file))
            };
            (hasher, file) = blocking(write).await?.map_err(disk)?;
        }
        check(&path, digest, &hasher.finish())?;
        blocking(move || file.sync_all()).await?.map_err(disk)
    }

    /// Deletes a blob; it is no error if there is none.
    pub async fn delete_blob(&self, digest: &Digest) -> Result<(), ArtifactError> {
        match self.store.delete(&path::blob(digest)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(ArtifactError::unavailable(&error)),
        }
    }

    /// All blobs, those that no record names as well.
    pub async fn list_blobs(&self) -> Result<Vec<Blob>, ArtifactError> {
        let mut blobs = Vec::new();
        let mut objects = self.store.list(Some(&Path::from(BLOBS)));
        while let Some(object) =
            objects.try_next().await.map_err(|error| ArtifactError::unavailable(&error))?
        {
            if let Some(digest) = path::parse_blob(&object.location) {
                blobs.push(Blob { digest, size: object.size, modified: object.last_modified.into() });
            }
        }
        Ok(blobs)
    }

    /// Removes what puts that were cut off have left on the disk, if it is older than that: `object_store` writes beside
    /// the place, to a name that ends with `#` and a number. Returns how many files went. A bucket has nothing of it.
    pub async fn remove_leftovers(&self, older_than: Duration) -> Result<usize, ArtifactError> {
        let Some(folder) = self.folder.clone() else { return Ok(0) };
        let removed = blocking(move || remove_leftovers(&folder, older_than)).await?;
        removed.map_err(|error| ArtifactError::Unavailable(error.to_string()))
    }

    async fn blob_size(&self, path: &Path) -> Result<u64, ArtifactError> {
        self.check_file(path)?;
        let found = self.store.head(path).await.map_err(|error| ArtifactError::reading(path, &error))?;
        Ok(found.size)
    }

    async fn readable_size(&self, path: &Path, max_bytes: u64) -> Result<u64, ArtifactError> {
        match self.blob_size(path).await? {
            size if size <= max_bytes => Ok(size),
            size => {
                Err(ArtifactError::corrupt(path, format!("it has {size} bytes and may have {max_bytes}")))
            }
        }
    }

    /// The bytes from `at` to the end of the piece. Each is a request of its own: it has its own time and its own retries,
    /// and a file that gets shorter while it is read is noticed (a stream of `object_store`'s would never end).
    async fn piece(&self, path: &Path, at: u64, size: u64) -> Result<Bytes, ArtifactError> {
        let end = size.min(at + GET_BYTES);
        let piece = self
            .store
            .get_range(path, at..end)
            .await
            .map_err(|error| ArtifactError::reading(path, &error))?;
        if piece.len() as u64 == end - at {
            Ok(piece)
        } else {
            Err(ArtifactError::corrupt(path, format!("it ends before {end} of {size} bytes")))
        }
    }
}

fn check(path: &Path, digest: &Digest, found: &Digest) -> Result<(), ArtifactError> {
    if found == digest { Ok(()) } else { Err(ArtifactError::corrupt(path, format!("its digest is {found}"))) }
}

/// A file that is read once, in pieces.
struct Pieces {
    file: File,
    hasher: Hasher,
}

impl Pieces {
    /// The next piece, full unless it is the last; empty at the end.
    async fn next(mut self) -> Result<(Self, Bytes), ArtifactError> {
        let read = move || {
            let mut piece = Vec::with_capacity(PUT_BYTES);
            (&mut self.file).take(PUT_BYTES as u64).read_to_end(&mut piece)?;
            self.hasher.update(&piece);
            Ok((self, piece.into()))
        };
        blocking(read).await?.map_err(|error: io::Error| ArtifactError::disk(&error))
    }

    fn check(self, digest: &Digest) -> Result<(), ArtifactError> {
        if self.hasher.finish() == *digest { Ok(()) } else { Err(ArtifactError::Changed(*digest)) }
    }
}

/// Sends all pieces, one after the other, and completes the upload if they were the right ones. The inner error is the
/// store's about the completion, of which it is not known whether it was done.
async fn send(
    upload: &mut dyn MultipartUpload,
    digest: &Digest,
    mut pieces: Pieces,
    mut piece: Bytes,
) -> Result<Result<(), Error>, ArtifactError> {
    while !piece.is_empty() {
        upload.put_part(piece.into()).await.map_err(|error| ArtifactError::unavailable(&error))?;
        (pieces, piece) = pieces.next().await?;
    }
    pieces.check(digest)?;
    Ok(upload.complete().await.map(drop))
}

/// A file that goes away unless it was renamed.
struct Part(std::path::PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn remove_leftovers(folder: &FilePath, older_than: Duration) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            removed += remove_leftovers(&entry.path(), older_than)?;
        } else if kind.is_file() && is_leftover(&entry.file_name().to_string_lossy()) {
            // Another gateway may finish it, or remove it as well.
            let age = entry.metadata().and_then(|found| found.modified()).map(|at| at.elapsed());
            if matches!(age, Ok(Ok(age)) if age >= older_than) && fs::remove_file(entry.path()).is_ok() {
                removed += 1;
            }
        }
    }
    Ok(removed)
}

fn is_leftover(name: &str) -> bool {
    name.rsplit_once('#')
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}
