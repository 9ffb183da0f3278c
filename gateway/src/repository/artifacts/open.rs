//! Opening a store: a folder of this machine, or a bucket.

use std::{
    fmt,
    fs::{DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, RetryConfig, StaticCredentialProvider,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, S3ConditionalPut},
    local::LocalFileSystem,
    prefix::PrefixStore,
};
use zeroize::Zeroizing;

use super::{ArtifactError, Artifacts, Location};
use crate::secret::Secret;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one request with its whole body; blobs go in pieces that are made for it.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What is to be known of an S3 store besides its name; what is `None` comes from the environment (`AWS_*`), then from the
/// machine (instance, container or web identity).
#[derive(Clone, Debug, Default)]
pub struct S3Settings {
    /// `https://HOST:PORT` of a server that speaks S3; AWS itself if nothing is said.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Lets the endpoint be `http://`: what is stored can then be read on the way. Nothing can be forged on the way, as
    /// records have tags and blobs digests.
    pub allow_http: bool,
    pub credentials: Option<S3Credentials>,
}

#[derive(Clone)]
pub struct S3Credentials {
    pub access_key_id: String,
    pub secret_access_key: Zeroizing<String>,
    pub session_token: Option<Zeroizing<String>>,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("S3Credentials(…)")
    }
}

impl Artifacts {
    /// Opens the store; a folder that is not there is made, for its owner only. Nothing is asked of the store yet: that
    /// is what [`Artifacts::self_test`] does.
    ///
    /// # Errors
    /// [`ArtifactError::Settings`]
    pub fn open(location: &Location, s3: &S3Settings, secret: &Secret) -> Result<Self, ArtifactError> {
        match location {
            Location::Folder(folder) => {
                let folder = make(folder).map_err(|error| {
                    ArtifactError::Settings(format!("the folder {}: {error}", folder.display()))
                })?;
                let store = LocalFileSystem::new_with_prefix(&folder).map_err(|error| settings(&error))?;
                let mut artifacts = Self::new(Arc::new(store.with_fsync(true)), secret);
                artifacts.folder = Some(folder);
                Ok(artifacts)
            }
            Location::S3 { bucket, prefix } => {
                let store = bucket_store(bucket, s3, REQUEST_TIMEOUT)?;
                let store: Arc<dyn ObjectStore> = match prefix.as_str() {
                    "" => Arc::new(store),
                    prefix => Arc::new(PrefixStore::new(store, prefix)),
                };
                Ok(Self::new(store, secret))
            }
        }
    }
}

fn make(folder: &Path) -> std::io::Result<PathBuf> {
    if !folder.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let folder = folder.canonicalize()?;
    if let Some(parent) = folder.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(folder)
}

/// The bucket. Retries are few and short: who waits for the store has a client that waits, and surveys come again.
pub(super) fn bucket_store(
    bucket: &str,
    s3: &S3Settings,
    request_timeout: Duration,
) -> Result<impl ObjectStore, ArtifactError> {
    // The HTTP client has no cryptography of its own, and panics if the process has none. An error says that there is
    // one already.
    let _ = rustls::crypto::ring::default_provider().install_default();

    let mut builder = AmazonS3Builder::from_env();
    if let Some(endpoint) = &s3.endpoint {
        // Of the two, this one wins over whatever the environment says.
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    if let Some(region) = &s3.region {
        builder = builder.with_region(region);
    }
    if let Some(credentials) = &s3.credentials {
        // As a whole: a session token of the environment does not belong to them.
        builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(AwsCredential {
            key_id: credentials.access_key_id.clone(),
            secret_key: credentials.secret_access_key.to_string(),
            token: credentials.session_token.as_ref().map(|token| token.to_string()),
        })));
    }
    for key in [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint] {
        if let Some(endpoint) = builder.get_config_value(&key) {
            check_endpoint(&endpoint, s3.allow_http)?;
        }
    }
    let client = ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout(request_timeout)
        .with_allow_http(s3.allow_http);
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(50),
        max_backoff: Duration::from_secs(2),
        base: 2.0,
    };
    let retry = RetryConfig { backoff, max_retries: 3, retry_timeout: Duration::from_secs(45) };
    builder
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // Deleting many at once is not part of what every S3-compatible store does.
        .with_disable_bulk_delete(true)
        .with_client_options(client)
        .with_retry(retry)
        .build()
        .map_err(|error| settings(&error))
}

/// The endpoint is named in errors and logs, so it must not carry a password.
fn check_endpoint(endpoint: &str, allow_http: bool) -> Result<(), ArtifactError> {
    let refused = |reason: &str| Err(ArtifactError::Settings(format!("the endpoint {reason}")));
    let rest = match endpoint.split_once("://") {
        Some(("https", rest)) => rest,
        Some(("http", rest)) if allow_http => rest,
        Some(("http", _)) => return refused("is http://, which has to be allowed explicitly"),
        _ => return refused("must begin with https://"),
    };
    if rest.is_empty() || rest.contains(['@', '?', '#']) || rest.contains(char::is_whitespace) {
        return refused("must be https://HOST or https://HOST:PORT, without a user, a password or a query");
    }
    Ok(())
}

fn settings(error: &object_store::Error) -> ArtifactError {
    ArtifactError::Settings(error.to_string())
}
