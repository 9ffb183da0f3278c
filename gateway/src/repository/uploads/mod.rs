//! Uploads: tenants' own models, from the bytes that they send to versions that are served and durable.
//!
//! - `receive`: bytes to disk, hashed on the way
//! - `publish`: from a received upload to a version that is published, or to the step that refused it
//! - `verified`: which versions may be promoted, if the model's settings ask for that
//! - `follow`: what any gateway published, seen by this one
//! - `sweep`: content and generations that nobody needs any more
//! - `records`: what the store says of all this

mod change;
mod directory;
mod follow;
mod publish;
pub mod receive;
pub mod records;
mod report;
mod sweep;
mod verified;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use crate::{
    digest::Digest,
    execute::LoadError,
    limits::{Limits, Quota, Quotas},
    name::{ModelName, TenantName, Version},
};

use super::{
    Loader,
    artifacts::{ArtifactError, Artifacts, Generation, RecordPath},
    lock,
    namespaces::Namespaces,
};

use directory::Directory;
use receive::Staged;
use sweep::Sightings;

pub use publish::Trial;
pub use report::{Kept, ModelReport, VersionReport};
pub use sweep::Swept;
pub use verified::Publications;

/// Why an upload, or a change of what was uploaded, was not done. The texts are for the client.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("this gateway takes no uploads: start it with --store DIR")]
    Disabled,
    #[error("the upload is larger than the {limit} bytes that are accepted")]
    TooLarge { limit: u64 },
    /// The request is not an upload.
    #[error("{0}")]
    Form(String),
    #[error(
        "the body's digest is {received}, Content-Digest announces {expected}: it was altered on its way"
    )]
    Digest { expected: Digest, received: Digest },
    #[error("the version was not published; {0}")]
    Rejected(LoadError),
    #[error(
        "version {version} of '{model}' is published already, with other content: versions never change, use another version"
    )]
    Conflict { model: ModelName, version: Version },
    #[error("Request for unknown model: '{0}' is not found")]
    UnknownModel(ModelName),
    #[error("Request for unknown model: '{model}' version {version} is not found")]
    UnknownVersion { model: ModelName, version: Version },
    #[error("{what}: {used} of {limit} are used; remove what is no longer needed")]
    Quota { what: &'static str, used: u64, limit: u64 },
    #[error("{0} uploads of this tenant are running already; try again when one has ended")]
    Busy(u64),
    /// Each change is a record that stays in the store, and every gateway lists them all.
    #[error("this tenant made {limit} changes within an hour, as many as it may; try again later")]
    TooOften { limit: u64, retry_after: u32 },
    #[error(
        "version {version} of '{model}' was not verified against the current default {default} since it was published, as the model's settings require: POST /v2/repository/models/{model}/versions/{version}/verify first"
    )]
    Unverified { model: ModelName, version: Version, default: Version },
    #[error("there is no free place for the trial call now; try again")]
    Overloaded,
    /// The tenant's own bounds keep the trial call from running.
    #[error("the version was not published, as the trial call could not run: {0}")]
    CallsBusy(String),
    /// This machine could not load it; the same artifact may load another time.
    #[error(
        "the version was not published; the artifact is not at fault, as far as is known, this gateway could not load it now: {0}; try again"
    )]
    NotNow(LoadError),
    #[error(
        "the settings of '{0}' were changed by somebody else since you looked (If-Match): look again, and decide again"
    )]
    Changed(ModelName),
    /// What was sent contradicts itself or what is there.
    #[error("{0}")]
    Settings(String),
    #[error("the artifact store is not available; what is loaded serves on; try again")]
    Unavailable(String),
    /// What is quoted is for the log.
    #[error("this gateway's own disk does not take the upload now; the artifact is not at fault; try again")]
    Disk(String),
}

impl From<ArtifactError> for UploadError {
    fn from(error: ArtifactError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// The models that tenants uploaded.
pub struct Uploads {
    artifacts: Arc<Artifacts>,
    namespaces: Arc<Namespaces>,
    loader: Loader,
    staging: PathBuf,
    quotas: Arc<Quotas>,
    directory: Mutex<Directory>,
    following: Mutex<Following>,
    sightings: Mutex<Sightings>,
    /// One permit for each load at a time, of all tenants.
    slots: Arc<Semaphore>,
    turns: Mutex<BTreeMap<TenantName, Turns>>,
}

/// Where following the store stands.
#[derive(Default)]
struct Following {
    /// Models that are being brought in line with the store.
    busy: BTreeSet<(TenantName, ModelName)>,
    /// Models of which something was learned meanwhile: theirs is the next turn.
    stale: BTreeSet<(TenantName, ModelName)>,
    /// Records that cannot be used, so that each is reported once.
    reported: BTreeSet<(RecordPath, Generation)>,
}

/// What one tenant may do at a time.
#[derive(Clone)]
struct Turns {
    /// How many uploads there are, each from its first byte to its end.
    uploads: Arc<AtomicU64>,
    /// From the check of quotas to the version's existence: one.
    publish: Arc<Semaphore>,
    /// Compiling and loading: one.
    load: Arc<Semaphore>,
    /// Bringing what is served in line with what is known: one.
    reconcile: Arc<Semaphore>,
    /// When the hour began, and the changes made since.
    changes: Arc<Mutex<(Instant, u64)>>,
}

const HOUR: Duration = Duration::from_secs(3600);

impl fmt::Debug for Uploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploads").field("artifacts", &self.artifacts).finish_non_exhaustive()
    }
}

/// An upload that has begun: its place among the tenant's, and what was received of it.
#[derive(Debug)]
pub struct Upload {
    pub staged: Staged,
    tenant: TenantName,
    _place: Place,
}

/// A place among a tenant's uploads; given back when dropped.
#[derive(Debug)]
struct Place(Arc<AtomicU64>);

impl Place {
    /// Takes a place if there are fewer than `most`.
    fn take(taken: Arc<AtomicU64>, most: u64) -> Option<Self> {
        let take = |uploads: u64| (uploads < most).then_some(uploads + 1);
        let took = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        took.then(|| Self(taken))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Uploads {
    /// Empties the staging folder of what a crash left there, and makes it if need be.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn new(
        artifacts: Arc<Artifacts>,
        namespaces: Arc<Namespaces>,
        loader: Loader,
        staging: PathBuf,
        limits: &Limits,
        quotas: Arc<Quotas>,
    ) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&staging)?;
        fs::set_permissions(&staging, fs::Permissions::from_mode(0o700))?;
        for left in fs::read_dir(&staging)?.flatten() {
            // Another gateway may share the folder: what is being received there is not an hour old.
            let old = left.metadata().and_then(|metadata| metadata.modified()).ok();
            if old.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > limits.upload.time) {
                let _ = fs::remove_dir_all(left.path());
            }
        }
        let at_a_time = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            artifacts,
            namespaces,
            loader,
            staging,
            quotas,
            directory: Mutex::default(),
            following: Mutex::default(),
            sightings: Mutex::default(),
            slots: Arc::new(Semaphore::new(at_a_time)),
            turns: Mutex::default(),
        })
    }

    /// What a tenant may use.
    pub fn quota(&self, tenant: &TenantName) -> Quota {
        self.quotas.of(tenant)
    }

    fn turns(&self, tenant: &TenantName) -> Turns {
        let mut turns = lock(&self.turns);
        let made = || Turns {
            uploads: Arc::default(),
            publish: Arc::new(Semaphore::new(1)),
            load: Arc::new(Semaphore::new(1)),
            reconcile: Arc::new(Semaphore::new(1)),
            changes: Arc::new(Mutex::new((Instant::now(), 0))),
        };
        turns.entry(tenant.clone()).or_insert_with(made).clone()
    }

    /// Counts a change that is about to be written into the store.
    fn count_change(&self, tenant: &TenantName) -> Result<(), UploadError> {
        let turns = self.turns(tenant);
        let (began, changes) = &mut *lock(&turns.changes);
        if began.elapsed() > HOUR {
            (*began, *changes) = (Instant::now(), 0);
        }
        let limit = self.quota(tenant).changes;
        if *changes >= limit {
            let left = HOUR.saturating_sub(began.elapsed()).as_secs() + 1;
            let retry_after = u32::try_from(left).unwrap_or(u32::MAX);
            return Err(UploadError::TooOften { limit, retry_after });
        }
        *changes += 1;
        Ok(())
    }

    /// Begins an upload of at most [`Quota::max_upload`].
    pub fn begin(&self, tenant: &TenantName) -> Result<Upload, UploadError> {
        let quota = self.quota(tenant);
        let place = Place::take(self.turns(tenant).uploads, quota.uploads);
        let place = place.ok_or(UploadError::Busy(quota.uploads))?;
        let staged = Staged::begin(&self.staging, quota.max_upload.0)?;
        Ok(Upload { staged, tenant: tenant.clone(), _place: place })
    }
}

#[cfg(test)]
mod tests;
