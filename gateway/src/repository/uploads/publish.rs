//! Publishing: check, compile, load, snapshot, keep, and then one create-if-absent put that makes the version exist.
//!
//! Whatever fails before that put leaves nothing behind that anybody could see; blobs without a manifest are not visible.
//! After it, the version is durable, and every gateway on the store serves it.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::{AcquireError, OwnedSemaphorePermit};

use crate::{
    digest::Digest,
    execute::{BoxFuture, Executor, LoadError, Source, Step},
    name::{ModelName, TenantName, Version},
    repository::{
        Origin,
        artifacts::{ArtifactError, Generation, RecordPath},
        catalog::{Model, Queue, State},
        labels, lock,
        model_config::{ModelConfig, VersionPolicy, brief},
        model_toml,
        namespaces::Namespace,
        triton_config,
    },
    tensor::Classes,
};

use super::{
    Upload, UploadError, Uploads,
    receive::Complete,
    records::{ConfigText, Manifest, ModelSettings, NamedBlob, VersionRecord},
    report::VersionReport,
};

/// A first call of a version that nobody else can call yet, made by whoever took the upload.
pub type Trial = Box<dyn FnOnce(Arc<Model>) -> BoxFuture<'static, Result<(), UploadError>> + Send>;

/// A version ready to be served, that is not yet in any catalog.
pub(super) struct LoadedVersion {
    pub(super) executor: Arc<dyn Executor>,
    content: Digest,
    classes: Classes,
    pub(super) config: ModelConfig,
}

/// The right to load one version; it ends when this is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "held for its drop")]
pub(super) struct Turn(
    Result<OwnedSemaphorePermit, AcquireError>,
    Result<OwnedSemaphorePermit, AcquireError>,
);

impl LoadedVersion {
    pub(super) fn model(&self, tenant: &TenantName, model: &ModelName, version: &Version) -> Model {
        Model {
            namespace: Namespace::Tenant(tenant.clone()),
            name: model.clone(),
            version: version.clone(),
            executor: Arc::clone(&self.executor),
            content: self.content,
            max_batch_size: self.config.max_batch_size,
            response_cache: self.config.response_cache,
            // What is uploaded stays until it is removed, whatever its configuration says.
            version_policy: VersionPolicy::All,
            classes: self.classes.clone(),
            limits: self.config.limits,
            queue: Queue::default(),
        }
    }
}

impl Uploads {
    /// Publishes a received upload as a version, if the trial succeeds. The same content again succeeds; other content is
    /// refused.
    pub async fn publish(
        self: &Arc<Self>,
        mut upload: Upload,
        model: &ModelName,
        version: &Version,
        trial: Option<Trial>,
    ) -> Result<VersionReport, UploadError> {
        let begun = Instant::now();
        let tenant = upload.tenant.clone();
        let config = upload.staged.config.take();
        let read = read_config(config.as_ref(), model).map_err(UploadError::Rejected)?;
        let within = read.limits.check_quota(&self.quota(&tenant));
        within.map_err(|reason| UploadError::Rejected(LoadError::new(Step::Read, reason)))?;
        let policy = read.version_policy;
        let settings = ModelSettings {
            version_policy: policy.map(Into::into).unwrap_or_default(),
            ..ModelSettings::default()
        };
        settings.check().map_err(UploadError::Settings)?;
        let complete = upload.staged.complete()?;
        let paths: Vec<PathBuf> = std::iter::once(&complete.artifact)
            .chain(complete.files.iter().map(|(_, file)| file))
            .map(|file| file.path.clone())
            .collect();
        let mut manifest = Manifest {
            published: 0,
            kind: complete.kind,
            artifact: complete.artifact.blob,
            files: complete
                .files
                .iter()
                .map(|(name, file)| NamedBlob { name: name.clone(), blob: file.blob })
                .collect(),
            config,
        };
        // One at a time: what counts against a quota, and what is there already, holds until this one is done.
        let turn = self.turns(&tenant).publish.acquire_owned().await;
        let record = RecordPath::Version(tenant.clone(), model.clone(), version.clone());
        let after = match self.artifacts.newest::<VersionRecord>(&record).await? {
            Some((generation, VersionRecord::Published(there))) => {
                if manifest.has_content_of(&there) && !self.is_ready(&tenant, model, version) {
                    // Something is wrong with it. If that is what lies in the store, it is mended by this.
                    self.keep_blobs(&manifest, &paths).await?;
                    lock(&self.directory).entry_mut(&tenant, model).forget_outcome(version);
                }
                return self.already(&record, generation, &manifest, there).await;
            }
            Some((generation, VersionRecord::Removed)) => Some(generation),
            None => None,
        };
        self.check_quota(&tenant, model, &manifest)?;
        self.count_change(&tenant)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let others = lock(&self.directory).entry(&tenant, model).cloned().unwrap_or_default();
        manifest.published = others.publishing(now);
        let loading = Instant::now();
        let loaded = self.load_staged(&tenant, model, version, &manifest, complete).await?;
        let load_time = loading.elapsed();
        self.check_loaded(&tenant, model, version, &loaded)?;
        if let Some(trial) = trial {
            trial(Arc::new(loaded.model(&tenant, model, version))).await?;
        }
        self.keep_blobs(&manifest, &paths).await?;
        let commit = Arc::clone(self).commit(record, after, manifest, loaded, turn);
        // Once its record is written the rest follows, whether its client still waits or not.
        let mut report = tokio::spawn(commit).await.map_err(|_| UploadError::Overloaded)??;
        report.load_ms = Some(u64::try_from(load_time.as_millis()).unwrap_or(u64::MAX));
        tracing::debug!(%tenant, %model, %version, elapsed = ?begun.elapsed(), "publishing took that long");
        Ok(report)
    }

    /// Makes a version known whose blobs are kept: in the store, and then to this gateway.
    async fn commit(
        self: Arc<Self>,
        record: RecordPath,
        after: Option<Generation>,
        manifest: Manifest,
        loaded: LoadedVersion,
        turn: Result<OwnedSemaphorePermit, AcquireError>,
    ) -> Result<VersionReport, UploadError> {
        let RecordPath::Version(tenant, model, version) = &record else {
            return Err(UploadError::Form("not a version".into()));
        };
        let published = VersionRecord::Published(manifest.clone());
        let generation = match self.artifacts.append(&record, after, &published).await {
            Ok(generation) => generation,
            Err(ArtifactError::Taken(_)) => {
                // Another gateway was faster; what it published counts.
                return match self.artifacts.newest::<VersionRecord>(&record).await? {
                    Some((generation, VersionRecord::Published(there))) => {
                        self.already(&record, generation, &manifest, there).await
                    }
                    _ => Err(UploadError::Conflict { model: model.clone(), version: version.clone() }),
                };
            }
            Err(error) => return Err(error.into()),
        };
        let platform = loaded.executor.platform();
        tracing::info!(%tenant, %model, %version, platform, digest = %manifest.artifact.digest, "version published");
        drop(turn);
        let policy = loaded.config.version_policy.clone();
        self.learn_version(tenant, model, version, generation, published);
        self.serve(tenant, model, version, generation, &loaded);
        if let Some(policy) = policy {
            self.set_policy(tenant, model, policy).await?;
        }
        self.reconcile(tenant, model).await;
        self.version(tenant, model, version)
    }

    async fn keep_blobs(&self, manifest: &Manifest, files: &[PathBuf]) -> Result<(), UploadError> {
        for (blob, file) in manifest.blobs().zip(files) {
            self.artifacts.put_blob(&blob.digest, file).await?;
        }
        Ok(())
    }

    fn is_ready(&self, tenant: &TenantName, model: &ModelName, version: &Version) -> bool {
        self.namespaces.own(tenant).state(model, Some(version)) == Some(State::Ready)
    }

    /// The version exists already: that is as good as publishing it, if it is the same.
    async fn already(
        self: &Arc<Self>,
        record: &RecordPath,
        generation: Generation,
        given: &Manifest,
        there: Manifest,
    ) -> Result<VersionReport, UploadError> {
        let RecordPath::Version(tenant, model, version) = record else {
            return Err(UploadError::Form("not a version".into()));
        };
        if !given.has_content_of(&there) {
            return Err(UploadError::Conflict { model: model.clone(), version: version.clone() });
        }
        self.learn_version(tenant, model, version, generation, VersionRecord::Published(there));
        self.reconcile(tenant, model).await;
        self.version(tenant, model, version)
    }

    fn check_quota(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        manifest: &Manifest,
    ) -> Result<(), UploadError> {
        let quota = self.quota(tenant);
        let directory = lock(&self.directory);
        let entry = directory.entry(tenant, model);
        let versions = entry.map_or(0, |entry| entry.published().count() as u64);
        let models = directory.of(tenant).count() as u64;
        let bytes = directory.bytes(tenant);
        let new_model = u64::from(versions == 0);
        for (what, used, more, limit) in [
            ("models", models, new_model, quota.models),
            ("versions of this model", versions, 1, quota.versions),
            ("bytes of storage", bytes, manifest.size(), quota.storage.0),
        ] {
            if used.saturating_add(more) > limit {
                return Err(UploadError::Quota { what, used, limit });
            }
        }
        Ok(())
    }

    /// Memory of what a tenant has loaded counts as well as what it has stored: a small plugin may load into a large image.
    pub(super) fn check_loaded(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        version: &Version,
        loaded: &LoadedVersion,
    ) -> Result<(), UploadError> {
        let used = self.namespaces.own(tenant).loaded_bytes(Some((model, version)));
        let limit = self.quota(tenant).loaded.0;
        if used.saturating_add(loaded.executor.loaded_bytes()) > limit {
            return Err(UploadError::Quota { what: "bytes of loaded models", used, limit });
        }
        Ok(())
    }

    async fn load_staged(
        self: &Arc<Self>,
        tenant: &TenantName,
        model: &ModelName,
        version: &Version,
        manifest: &Manifest,
        complete: Complete,
    ) -> Result<LoadedVersion, UploadError> {
        // Before anything is read: so much is in memory only for those whose turn it is.
        let turn = self.turn(tenant).await;
        let read = move || {
            let read = |path: &std::path::Path| {
                std::fs::read(path).map_err(|error| UploadError::Disk(error.kind().to_string()))
            };
            let artifact = read(&complete.artifact.path)?;
            let files = complete.files.into_iter().map(|(name, file)| Ok((name, read(&file.path)?)));
            Ok::<_, UploadError>((artifact, files.collect::<Result<Vec<_>, UploadError>>()?))
        };
        let (artifact, files) = tokio::task::spawn_blocking(read)
            .await
            .map_err(|_| UploadError::Disk("it was cut short".into()))??;
        self.load(turn, (tenant, model, version), manifest, artifact, files).await.map_err(|error| {
            if error.no_room {
                UploadError::Disk(error.to_string())
            } else if error.transient {
                UploadError::NotNow(error)
            } else {
                UploadError::Rejected(error)
            }
        })
    }

    /// Waits for the tenant's turn to load something, and then for a place among all tenants'.
    pub(super) async fn turn(&self, tenant: &TenantName) -> Turn {
        let turn = self.turns(tenant).load.acquire_owned().await;
        Turn(turn, Arc::clone(&self.slots).acquire_owned().await)
    }

    /// Loads a version from its bytes, on a thread that may block.
    pub(super) async fn load(
        self: &Arc<Self>,
        turn: Turn,
        (tenant, model, version): (&TenantName, &ModelName, &Version),
        manifest: &Manifest,
        artifact: Vec<u8>,
        files: Vec<(String, Vec<u8>)>,
    ) -> Result<LoadedVersion, LoadError> {
        let config = read_config(manifest.config.as_ref(), model)?;
        let labels = labels::read(
            &config,
            |name| {
                let file = files.iter().find(|(file, text)| file == name && text.len() <= labels::MAX_BYTES);
                let missing = || format!("there is no file '{}', or it is too large", brief(name));
                file.map(|(_, text)| text.clone()).ok_or_else(missing)
            },
            |reason| tracing::info!(%tenant, %model, %version, reason, "labels are not used"),
        );
        let source = Source {
            label: format!("{tenant}/{model}/{version}"),
            artifact,
            files,
            parameters: config.parameters.clone(),
            declared_inputs: config.inputs.clone(),
            limits: config.limits,
            owner: Some(tenant.clone()),
            isolation: config.isolation,
            engine: config.engine,
            // It runs in the sandbox or in a worker.
            batching: None,
            untrusted: true,
            artifact_is_plugin: false,
        };
        let (loader, kind) = (Arc::clone(&self.loader), manifest.kind);
        let origin = Origin::Tenant(self.quota(tenant));
        let loading = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let content = source.content();
            Ok((loader(kind, origin, source)?, content))
        });
        let (executor, content) = loading.await.unwrap_or_else(|_| {
            Err(LoadError::new(Step::Load, "the engine panicked while it loaded the model"))
        })?;
        config.check(executor.signature()).map_err(|reason| LoadError::new(Step::Signature, reason))?;
        let classes = config.classes(executor.signature(), labels);
        Ok(LoadedVersion { executor, content, classes, config })
    }
}

impl ConfigText {
    /// Whether a version of that model may come with it.
    ///
    /// # Errors
    /// What to change, for the client.
    pub fn check(&self, model: &ModelName) -> Result<(), LoadError> {
        read_config(Some(self), model).map(drop)
    }
}

/// The configuration that came with a version.
fn read_config(text: Option<&ConfigText>, model: &ModelName) -> Result<ModelConfig, LoadError> {
    let refused = |reason: String| LoadError::new(Step::Read, reason);
    match text {
        None => Ok(ModelConfig::default()),
        Some(ConfigText::Toml(text)) => model_toml::parse(text).map_err(|error| refused(error.to_string())),
        Some(ConfigText::Pbtxt(text)) => {
            triton_config::parse(text, model).map_err(|error| refused(error.to_string()))
        }
        Some(ConfigText::Json(text)) => triton_config::parse_json(text, model).map_err(refused),
    }
}
