//! Loading one model: bringing what is served of it in line with what was seen on disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::{JoinSet, spawn_blocking},
};

use crate::{
    execute::{LoadError, Step},
    name::{ModelName, Version},
};

use super::{
    Origin, Shared,
    catalog::{Model, Queue},
    disk::{Observation, Stamp},
    labels, lock,
    model_config::ModelConfig,
    namespaces::Namespace,
    put_off::PutOff,
};

/// What was last done with a model.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    observation: Option<Observation>,
    attempts: BTreeMap<Version, Attempt>,
}

/// The last attempt to load a version.
#[derive(Debug)]
struct Attempt {
    config: Stamp,
    files: Stamp,
    failure: Option<String>,
    /// It was this machine that failed.
    put_off: Option<PutOff>,
}

impl Attempt {
    fn is_due(&self) -> bool {
        self.put_off.as_ref().is_some_and(PutOff::is_over)
    }
}

/// Which versions to load.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// Those whose files or configuration changed, and those that were put off until now.
    Changed,
    /// Also those that failed the last time.
    Failed,
}

/// The right to load or unload one model; it is given to one at a time.
pub(super) struct Loading<'a> {
    shared: &'a Arc<Shared>,
    name: &'a ModelName,
    loaded: OwnedMutexGuard<Loaded>,
}

impl<'a> Loading<'a> {
    pub(super) async fn begin(shared: &'a Arc<Shared>, name: &'a ModelName) -> Self {
        let model: Arc<Mutex<Loaded>> = Arc::clone(lock(&shared.models).entry(name.clone()).or_default());
        Self { shared, name, loaded: model.lock_owned().await }
    }

    /// The observation that was last applied.
    pub(super) fn applied(&self) -> Option<&Observation> {
        self.loaded.observation.as_ref()
    }

    /// Whether a version was put off until now.
    pub(super) fn is_due(&self) -> bool {
        self.loaded.attempts.values().any(Attempt::is_due)
    }

    pub(super) fn unload(mut self) {
        *self.loaded = Loaded::default();
        self.shared.catalog.unload(self.name);
        tracing::info!(model = %self.name, "model unloaded");
    }

    /// The model is gone from the repository.
    pub(super) fn remove(mut self) {
        *self.loaded = Loaded::default();
        self.shared.catalog.remove(self.name);
        tracing::info!(model = %self.name, "model removed");
    }

    /// Loads what is new and drops what is gone. The error says what is not as the repository wants it; it is in the
    /// log and in the catalog already.
    pub(super) async fn apply(mut self, observation: Observation, retry: Retry) -> Result<(), String> {
        let shared = self.shared;
        for reason in &observation.ignored {
            tracing::warn!(model = %self.name, reason, "ignored in the model's folder");
        }
        let result = match self.config(&observation).await {
            Ok(config) => {
                shared.catalog.problem(self.name, None);
                self.apply_config(&observation, config, retry).await
            }
            Err(reason) => {
                tracing::error!(model = %self.name, reason, "model failed to load");
                // What is ready serves on, unless its files are gone; an unreadable folder does not tell.
                if observation.problem.is_none() {
                    let ready = shared.catalog.versions(self.name);
                    let present = |version: &Version| observation.versions.contains_key(version);
                    self.keep(&ready.into_iter().filter(present).collect());
                }
                shared.catalog.problem(self.name, Some(&reason));
                Err(reason)
            }
        };
        self.loaded.observation = Some(observation);
        result
    }

    async fn config(&self, observation: &Observation) -> Result<Arc<ModelConfig>, String> {
        if let Some(problem) = &observation.problem {
            return Err(problem.clone());
        }
        if observation.versions.is_empty() {
            return Err(format!(
                "it has no version: expected {0}/1/model.wasm or {0}/1/model.onnx",
                self.name
            ));
        }
        let name = self.name.clone();
        let config = self.shared.blocking(move |shared| shared.disk.config(&name)).await?;
        for file in observation.config.keys().filter(|file| !config.is_used(file)) {
            tracing::warn!(model = %self.name, ?file, "ignored in the model's folder");
        }
        for field in &config.ignored {
            tracing::info!(model = %self.name, field, file = config.file, "field does not apply and is ignored");
        }
        for field in &config.unsupported {
            tracing::warn!(model = %self.name, field, file = config.file, "field is not supported and is ignored");
        }
        Ok(Arc::new(config))
    }

    async fn apply_config(
        &mut self,
        observation: &Observation,
        config: Arc<ModelConfig>,
        retry: Retry,
    ) -> Result<(), String> {
        let catalog = &self.shared.catalog;
        let policy = config.version_policy.clone().unwrap_or_default();
        let selected = policy.select(observation.versions.keys());
        // Only a policy that names versions selects any that have no folder.
        let (present, absent): (BTreeSet<Version>, BTreeSet<Version>) =
            selected.into_iter().partition(|version| observation.versions.contains_key(version));

        let mut loads = JoinSet::new();
        for version in &present {
            let files = &observation.versions[version];
            let same = |attempt: &Attempt| attempt.config == observation.config && attempt.files == *files;
            let current = self.loaded.attempts.get(version).is_some_and(|attempt| {
                let again = attempt.is_due() || (retry == Retry::Failed && attempt.failure.is_some());
                same(attempt) && !again
            });
            if !current {
                catalog.loading(self.name, version);
                let before = self.loaded.attempts.remove(version).filter(same);
                let load = Load {
                    shared: Arc::clone(self.shared),
                    name: self.name.clone(),
                    version: version.clone(),
                    config: Arc::clone(&config),
                    config_stamp: observation.config.clone(),
                    files: files.clone(),
                    put_off: before.and_then(|attempt| attempt.put_off),
                };
                loads.spawn(load.run());
            }
        }
        while let Some(done) = loads.join_next().await {
            if let Ok((version, attempt)) = done {
                self.loaded.attempts.insert(version, attempt);
            }
        }

        let mut failures = BTreeMap::new();
        for version in &present {
            let failure = match self.loaded.attempts.get(version) {
                Some(attempt) => attempt.failure.clone(),
                None => Some("the load was cut short".into()),
            };
            failures.extend(failure.map(|reason| (version.clone(), reason)));
        }
        let mut keep = present;
        if !failures.is_empty() {
            // A new version that does not come up must not cost the one that it was to replace.
            let ready = catalog.versions(self.name).into_iter();
            keep.extend(ready.filter(|version| observation.versions.contains_key(version)));
        }
        self.keep(&keep);
        for version in absent {
            let reason = format!("{} selects it, expected a folder {}/{version}", config.file, self.name);
            tracing::error!(model = %self.name, version = %version, reason, "version failed to load");
            failures.insert(version, reason);
        }
        for (version, reason) in &failures {
            catalog.failed(self.name, version, reason);
        }
        if failures.is_empty() {
            return Ok(());
        }
        let texts: Vec<String> =
            failures.iter().map(|(version, reason)| format!("version {version}: {reason}")).collect();
        Err(texts.join("; "))
    }

    /// Forgets all other versions.
    fn keep(&mut self, keep: &BTreeSet<Version>) {
        for version in self.shared.catalog.versions(self.name) {
            if !keep.contains(&version) {
                tracing::info!(model = %self.name, version = %version, "version no longer served");
            }
        }
        self.loaded.attempts.retain(|version, _| keep.contains(version));
        self.shared.catalog.retain(self.name, keep);
    }
}

/// One version on its way into the catalog.
struct Load {
    shared: Arc<Shared>,
    name: ModelName,
    version: Version,
    config: Arc<ModelConfig>,
    config_stamp: Stamp,
    files: Stamp,
    /// The wait that this attempt ends.
    put_off: Option<PutOff>,
}

impl Load {
    async fn run(self) -> (Version, Attempt) {
        let load = Arc::new(self);
        let permit = Arc::clone(&load.shared.slots).acquire_owned().await;
        let begun = Instant::now();
        let blocking = Arc::clone(&load);
        let done = spawn_blocking(move || {
            let _permit = permit;
            blocking.load()
        });
        let panicked = "the engine panicked while it loaded the model";
        let loaded = done.await.unwrap_or_else(|_| Err(LoadError::new(Step::Load, panicked)));
        let (model, version, elapsed) = (&load.name, &load.version, begun.elapsed());
        let mut put_off = None;
        let failure = match loaded {
            Ok(platform) => {
                tracing::info!(%model, %version, platform, ?elapsed, "version ready");
                None
            }
            Err(error) => {
                let mut reason = error.to_string();
                if error.transient || error.no_room {
                    let next = PutOff::after(load.put_off.as_ref());
                    reason = format!("{reason}; it is tried again in {:?}", next.wait);
                    put_off = Some(next);
                }
                tracing::error!(%model, %version, reason, ?elapsed, "version failed to load");
                load.shared.catalog.failed(model, version, &reason);
                Some(reason)
            }
        };
        let attempt =
            Attempt { config: load.config_stamp.clone(), files: load.files.clone(), failure, put_off };
        (version.clone(), attempt)
    }

    /// Reads, loads and publishes; says on what platform the model runs.
    fn load(&self) -> Result<&'static str, LoadError> {
        let Shared { disk, catalog, loader, .. } = &*self.shared;
        let loadable = disk.read(&self.name, &self.version, &self.config)?;
        for reason in &loadable.ignored {
            tracing::warn!(model = %self.name, version = %self.version, reason, "ignored in the version's folder");
        }
        let unchanged = disk.observe(&self.name).is_ok_and(|observation| {
            observation.is_some_and(|now| {
                now.config == self.config_stamp && now.versions.get(&self.version) == Some(&self.files)
            })
        });
        if !unchanged {
            return Err(LoadError::new(Step::Read, "its files were changed while they were read"));
        }
        let content = loadable.source.content();
        let executor = loader(loadable.kind, Origin::Operator, loadable.source)?;
        self.config.check(executor.signature()).map_err(|reason| LoadError::new(Step::Signature, reason))?;
        let platform = executor.platform();
        let labels = labels::read(
            &self.config,
            |file| disk.beside(&self.name, file, labels::MAX_BYTES as u64),
            |reason| tracing::warn!(model = %self.name, reason, "labels are not used"),
        );
        let classes = self.config.classes(executor.signature(), labels);
        catalog.publish(Model {
            namespace: Namespace::Shared,
            name: self.name.clone(),
            version: self.version.clone(),
            executor,
            content,
            max_batch_size: self.config.max_batch_size,
            response_cache: self.config.response_cache,
            version_policy: self.config.version_policy.clone().unwrap_or_default(),
            classes,
            limits: self.config.limits,
            queue: Queue::default(),
        });
        Ok(platform)
    }
}
