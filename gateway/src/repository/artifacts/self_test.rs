//! What is to be known of a store before it is worked with.

use bytes::Bytes;
use object_store::{ObjectStoreExt, path::Path};

use super::{ArtifactError, Artifacts, objects::Created};
use crate::{digest, secret};

/// An object that shows which secret the store's records were made with.
const SECRET_CHECK: &str = "secret-check";
/// What it says.
const SECRET_CHECK_BODY: &[u8] = b"{}";
/// The folder of objects that are made to see whether the store works, and deleted again.
const PROBES: &str = "probes";

/// A place that nobody else has, for an object that is deleted right away.
pub(super) fn probe() -> Result<Path, ArtifactError> {
    let name = secret::random::<16>().map_err(|error| ArtifactError::Disk(error.to_string()))?;
    Ok(Path::from(format!("{PROBES}/{}", digest::hex(&name))))
}

impl Artifacts {
    /// Sees whether the store can be written and read, keeps what is there from being overwritten, and belongs to this
    /// gateway's secret.
    ///
    /// It does not show that the store decides between two puts at the same moment, which no test from outside can.
    ///
    /// # Errors
    /// [`ArtifactError::NoConditionalPut`], [`ArtifactError::WrongSecret`], or what else is wrong with the store.
    pub async fn self_test(&self) -> Result<(), ArtifactError> {
        let probe = probe()?;
        let tested = self.test_create(&probe).await;
        // What is left of it is in nobody's way.
        let _ = self.store.delete(&probe).await;
        tested?;
        self.check_secret().await
    }

    async fn test_create(&self, probe: &Path) -> Result<(), ArtifactError> {
        let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
        // `Same`: it was created, but the answer was lost.
        if let Created::Other(_) = self.create(probe, &first).await? {
            return Err(ArtifactError::corrupt(probe, "something was there before"));
        }
        match self.create(probe, &second).await? {
            Created::Other(found) if found == first => Ok(()),
            _ => Err(ArtifactError::NoConditionalPut),
        }
    }

    async fn check_secret(&self) -> Result<(), ArtifactError> {
        let path = Path::from(SECRET_CHECK);
        match self.create(&path, &self.sealed(&path, SECRET_CHECK_BODY)).await? {
            Created::New | Created::Same => Ok(()),
            // The form is right, and so is the body: the tag is another secret's.
            Created::Other(found) if found.ends_with(&[b"\n", SECRET_CHECK_BODY].concat()) => {
                Err(ArtifactError::WrongSecret)
            }
            Created::Other(_) => Err(ArtifactError::corrupt(&path, "it is no check of a secret")),
        }
    }
}
