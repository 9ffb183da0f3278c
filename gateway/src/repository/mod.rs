//! Model repository: the models that the operator keeps on disk, and the catalog of those that are served.
//!
//! A [`Repository`] loads what it finds into its [`Catalog`], at start, when files change, or when it is told to,
//! depending on the [`ControlMode`]. `docs/model-repository.md` describes it for operators.

pub mod artifacts;
pub mod catalog;
mod disk;
mod file;
mod folder;
mod json;
mod labels;
mod load;
mod model_config;
mod model_toml;
pub mod namespaces;
mod pbtxt;
mod poll;
mod put_off;
mod triton_config;
pub mod uploads;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, task::JoinSet};

pub use catalog::{Catalog, FindError, IndexEntry, Model, State};
pub use model_config::VersionPolicy;

use crate::{
    execute::{Executor, LoadError, Source},
    limits::{Limits, Quota},
    name::{ModelName, NameError},
};

use disk::{Disk, Observation, ReadLimits, Survey};
use load::{Loaded, Loading, Retry};

/// Where the models are.
#[derive(Clone, Debug)]
pub enum RepositorySource {
    /// Nowhere: only what tenants upload is served.
    None,
    /// One `NAME.wasm` or `NAME.onnx`, served as version 1 of `NAME`. Files beside it are not read.
    File(PathBuf),
    /// A folder in Triton's layout.
    Folder(PathBuf),
}

/// Looks at the disk are at least this far apart, whatever the interval asked for.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// Without polling, whether something put off is due is looked up this often.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// When models are loaded and unloaded; Triton's `--model-control-mode`.
#[derive(Clone, Debug)]
pub enum ControlMode {
    /// All models, once, at start.
    None,
    /// All models, at start and whenever two looks in a row show the same change; `interval` is the time between looks.
    Poll { interval: Duration },
    /// Those named at start (`*` names all), and then as [`Repository::load`] and [`Repository::unload`] say.
    Explicit { initial: Vec<String> },
}

/// What an artifact is, and so which executor runs it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Wasm,
    Onnx,
}

impl Kind {
    fn of_file_name(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "wasm" => Some(Self::Wasm),
            "onnx" => Some(Self::Onnx),
            _ => None,
        }
    }

    fn default_file_name(self) -> &'static str {
        match self {
            Self::Wasm => "model.wasm",
            Self::Onnx => "model.onnx",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wasm => "wasm",
            Self::Onnx => "ONNX",
        })
    }
}

/// Who put an artifact into the repository, and so how far it is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Operator,
    /// A tenant that may use that much.
    Tenant(Quota),
}

/// Makes an executor of what was read from disk. It may block for as long as compiling takes: it runs on threads made
/// for that, as many at a time as there are cores. If it panics, that version fails to load.
pub type Loader = Arc<dyn Fn(Kind, Origin, Source) -> Result<Arc<dyn Executor>, LoadError> + Send + Sync>;

/// Why a repository cannot be opened, or a model not be loaded or unloaded. All texts but that of `Source` are for
/// clients.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RepositoryError {
    /// The gateway was told to serve what it cannot serve; for the operator.
    #[error("cannot serve {}: {reason}", path.display())]
    Source { path: PathBuf, reason: String },
    /// A model to load at start is not a name; for the operator.
    #[error("cannot load a model at start: {0}")]
    Initial(String),
    #[error("explicit model load / unload is not allowed: the model control mode is not explicit")]
    NotExplicit,
    #[error("failed to load '{0}': there is no such model in the model repository")]
    UnknownModel(ModelName),
    #[error("failed to unload '{0}': there is no such model")]
    NothingToUnload(ModelName),
    #[error("load failed for model '{model}': {reason}")]
    Load { model: ModelName, reason: String },
}

/// The operator's models.
pub struct Repository {
    shared: Arc<Shared>,
    mode: ControlMode,
    /// The models to load at start; `None` for all.
    initial: Option<BTreeSet<ModelName>>,
}

/// What tasks that load models share.
struct Shared {
    catalog: Arc<Catalog>,
    disk: Disk,
    loader: Loader,
    /// One permit for each load at a time.
    slots: Arc<Semaphore>,
    /// What is loaded of each model that is or was in the repository. Whoever loads or unloads a model holds its lock.
    models: Mutex<BTreeMap<ModelName, Arc<tokio::sync::Mutex<Loaded>>>>,
    /// What the last look showed.
    last: Mutex<Survey>,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository")
            .field("disk", &self.shared.disk)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl Repository {
    /// Opens the source without loading anything yet.
    pub fn new(
        source: RepositorySource,
        mode: ControlMode,
        loader: Loader,
        limits: &Limits,
    ) -> Result<Self, RepositoryError> {
        let limits = ReadLimits::from(limits);
        let disk = match source {
            RepositorySource::None => Disk::None,
            RepositorySource::File(path) => Disk::File(file::SingleFile::new(path, limits)?),
            RepositorySource::Folder(path) => Disk::Folder(folder::Folder::new(path, limits)?),
        };
        let initial = match &mode {
            ControlMode::Explicit { initial } if !initial.iter().any(|name| name == "*") => {
                let names: Result<_, NameError> = initial.iter().map(|name| name.parse()).collect();
                Some(names.map_err(|error| RepositoryError::Initial(error.to_string()))?)
            }
            _ => None,
        };
        let at_a_time = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Shared {
            catalog: Arc::new(Catalog::new()),
            disk,
            loader,
            slots: Arc::new(Semaphore::new(at_a_time)),
            models: Mutex::default(),
            last: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), mode, initial })
    }

    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.shared.catalog)
    }

    /// Loads the models that the control mode asks for at start, and returns when each is ready or has failed. A failure
    /// is in the log and in the catalog, and leaves the other models alone.
    pub async fn start(&self) {
        let begun = Instant::now();
        let survey = match self.shared.survey().await {
            Ok(survey) => survey,
            Err(reason) => {
                tracing::error!(reason, "the model repository cannot be read");
                return;
            }
        };
        for reason in &survey.ignored {
            tracing::warn!(reason, "ignored in the model repository");
        }
        for name in survey.models.keys() {
            self.shared.catalog.list(name);
        }
        let wanted = |name: &ModelName| self.initial.as_ref().is_none_or(|initial| initial.contains(name));
        for name in self.initial.iter().flatten().filter(|name| !survey.models.contains_key(name)) {
            tracing::error!(model = %name, "to be loaded at start, but not in the model repository");
        }
        let models: Vec<_> = survey
            .models
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(n, o)| (n.clone(), o.clone()))
            .collect();
        *lock(&self.shared.last) = survey;
        tracing::info!(models = models.len(), "loading models");
        let mut loads = JoinSet::new();
        for (name, observation) in models {
            let shared = Arc::clone(&self.shared);
            loads.spawn(async move {
                let loading = Loading::begin(&shared, &name).await;
                let _reported = loading.apply(observation, Retry::Changed).await;
            });
        }
        while loads.join_next().await.is_some() {}
        let index = self.shared.catalog.index();
        let ready = index.iter().filter(|entry| entry.state == State::Ready).count();
        tracing::info!(ready, of = index.len(), elapsed = ?begun.elapsed(), "model repository loaded");
    }

    /// Until `shutdown` is ready: looks for changes if it is to poll, and loads what this machine could not load before.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let next = async {
                if let ControlMode::Poll { interval } = self.mode {
                    tokio::time::sleep(interval.max(SHORTEST_INTERVAL)).await;
                    self.poll().await;
                } else {
                    tokio::time::sleep(RETRY_INTERVAL).await;
                    self.retry().await;
                }
            };
            tokio::select! {
                () = &mut shutdown => return,
                () = next => {}
            }
        }
    }

    /// Loads a model, or loads again what of it has changed or failed before; what is ready serves on until its
    /// replacement is. Returns when all its versions are ready or one has failed. Goes on if the caller goes away.
    pub async fn load(&self, name: &ModelName) -> Result<(), RepositoryError> {
        self.explicit()?;
        let failed = |reason| RepositoryError::Load { model: name.clone(), reason };
        // No trace is kept of names that are not in the repository.
        if self.shared.observe(name).await.map_err(failed)?.is_none() {
            return Err(RepositoryError::UnknownModel(name.clone()));
        }
        let load = {
            let (shared, name) = (Arc::clone(&self.shared), name.clone());
            async move {
                let loading = Loading::begin(&shared, &name).await;
                match shared.observe(&name).await? {
                    Some(observation) => loading.apply(observation, Retry::Failed).await,
                    None => Err("it has just been removed from the model repository".into()),
                }
            }
        };
        tokio::spawn(load).await.map_err(|_| failed("the load was cut short".into()))?.map_err(failed)
    }

    /// Takes all versions of a model out of service; requests that run end in peace. Unloading twice is no error.
    pub async fn unload(&self, name: &ModelName) -> Result<(), RepositoryError> {
        self.explicit()?;
        if !self.shared.catalog.knows(name) {
            return Err(RepositoryError::NothingToUnload(name.clone()));
        }
        Loading::begin(&self.shared, name).await.unload();
        Ok(())
    }

    fn explicit(&self) -> Result<(), RepositoryError> {
        match self.mode {
            ControlMode::Explicit { .. } => Ok(()),
            _ => Err(RepositoryError::NotExplicit),
        }
    }
}

impl Shared {
    async fn survey(self: &Arc<Self>) -> Result<Survey, String> {
        self.blocking(|shared| shared.disk.survey().map_err(|error| error.kind().to_string())).await
    }

    async fn observe(self: &Arc<Self>, name: &ModelName) -> Result<Option<Observation>, String> {
        let name = name.clone();
        self.blocking(move |shared| {
            let unreadable =
                |error: std::io::Error| format!("the repository cannot be read: {}", error.kind());
            shared.disk.observe(&name).map_err(unreadable)
        })
        .await
    }

    /// Disks block, so they are read on threads that may.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let shared = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.unwrap_or_else(|error| Err(format!("internal error: {error}")))
    }
}

/// Nothing is left half done under these locks, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
