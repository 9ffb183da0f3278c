//! Where a gateway keeps what lasts: the artifact store, and beside it what is this machine's own.
//!
//! ```text
//! DIR/objects/        the artifact store, unless it is s3://…
//! DIR/local/          state of this machine, for its owner only
//!           secret    32 bytes; gateways that share a store share it
//! ```

use std::{fs::DirBuilder, io, os::unix::fs::DirBuilderExt, path::PathBuf, sync::Arc};

use crate::{
    repository::artifacts::{ArtifactError, Artifacts, Location, S3Settings},
    secret::{Secret, SecretError},
};

/// The paths of a store and of what is local beside it.
#[derive(Clone, Debug)]
pub struct StorePlace {
    pub location: Location,
    pub state: PathBuf,
    pub secret_file: PathBuf,
    pub s3: S3Settings,
}

/// An open store, and the secret that makes its records believable.
#[derive(Debug)]
pub struct Store {
    pub artifacts: Arc<Artifacts>,
    pub secret: Secret,
    /// The folder for what is local to this machine.
    pub state: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "--store {0} is not on this machine: say with --state DIR where the gateway's own secret is to be"
    )]
    NoState(String),
    #[error("the folder {}: {reason}", path.display())]
    Folder { path: PathBuf, reason: io::Error },
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
}

impl StorePlace {
    /// What was said, with the defaults of what was not.
    pub fn new(
        store: &Location,
        state: Option<PathBuf>,
        secret_file: Option<PathBuf>,
    ) -> Result<Self, StoreError> {
        let (location, beside) = match store {
            Location::Folder(folder) => {
                (Location::Folder(folder.join("objects")), Some(folder.join("local")))
            }
            bucket @ Location::S3 { .. } => (bucket.clone(), None),
        };
        let state = state.or(beside).ok_or_else(|| StoreError::NoState(store.to_string()))?;
        let secret_file = secret_file.unwrap_or_else(|| state.join("secret"));
        Ok(Self { location, state, secret_file, s3: S3Settings::default() })
    }

    /// Says how a bucket is reached.
    #[must_use]
    pub fn with_s3(self, s3: S3Settings) -> Self {
        Self { s3, ..self }
    }

    /// Opens the store; makes folders and secret if this is the first time.
    pub fn open(&self) -> Result<Store, StoreError> {
        if !self.state.is_dir() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.state);
            made.map_err(|reason| StoreError::Folder { path: self.state.clone(), reason })?;
        }
        let secret = Secret::open_or_create(&self.secret_file)?;
        let artifacts = Arc::new(Artifacts::open(&self.location, &self.s3, &secret)?);
        Ok(Store { artifacts, secret, state: self.state.clone() })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_store_in_a_folder_has_its_state_beside_it_for_its_owner_only() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().join("airlock");
        let place = StorePlace::new(&Location::Folder(root.clone()), None, None).expect("a place");
        place.open().expect("a store");
        place.open().expect("the same store");
        assert!(root.join("objects").is_dir() && root.join("local/secret").is_file());
        for path in ["local", "objects"] {
            let mode = std::fs::metadata(root.join(path)).expect("a folder").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{path}");
        }
    }

    #[test]
    fn a_bucket_needs_a_state_of_this_machine() {
        let bucket: Location = "s3://bucket/models".parse().expect("a location");
        let error = StorePlace::new(&bucket, None, None).expect_err("no state");
        assert!(error.to_string().contains("--state"), "{error}");
        let place = StorePlace::new(&bucket, Some("state".into()), Some("s".into())).expect("a place");
        assert_eq!((place.state, place.secret_file), ("state".into(), "s".into()));
    }
}
