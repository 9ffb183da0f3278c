//! The catalog: what is served now. Every request looks its model up here, so reads take no lock: they see an immutable
//! map, and a change replaces the map as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;

use crate::{
    digest::Digest,
    execute::Executor,
    limits::ModelLimits,
    name::{ModelName, Version},
    tensor::{Classes, InferRequest, Shape},
};

use super::{
    model_config::VersionPolicy,
    namespaces::{Namespace, Wanted},
};

/// Why a version that was taken out of service on request is not ready; Triton's word.
pub const UNLOADED: &str = "unloaded";

/// A version of a model that can be called. A request holds its `Arc` until it has its answer, whatever happens to the
/// catalog meanwhile.
#[derive(Debug)]
pub struct Model {
    pub namespace: Namespace,
    pub name: ModelName,
    pub version: Version,
    pub executor: Arc<dyn Executor>,
    /// Of all that it was loaded from.
    pub content: Digest,
    /// The largest first dimension that the model's configuration allows; `None` if it says nothing of batches.
    pub max_batch_size: Option<u64>,
    /// Its responses may be kept: the same request always gets the same one.
    pub response_cache: bool,
    /// Which of the model's versions are served.
    pub version_policy: VersionPolicy,
    /// How its outputs are classes, for those who ask for the best of them.
    pub classes: Classes,
    /// What the model's configuration allows it of what the gateway allows.
    pub limits: ModelLimits,
    pub queue: Queue,
}

/// How many requests for a model wait for their turn to run.
#[derive(Debug, Default)]
pub struct Queue(AtomicUsize);

impl Queue {
    pub fn length(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// One more, until the returned value is dropped.
    #[must_use]
    pub fn join(&self) -> InQueue<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        InQueue(self)
    }
}

/// A request that waits.
#[derive(Debug)]
pub struct InQueue<'a>(&'a Queue);

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Model {
    /// Whether it is the operator's, and not a tenant's own.
    pub fn is_shared(&self) -> bool {
        self.namespace == Namespace::Shared
    }

    /// Whether the first dimension of all its tensors is a batch: its configuration says how large one may be, and its
    /// signature leaves all of them open.
    pub fn batches(&self) -> bool {
        let signature = self.executor.signature();
        let mut tensors = signature.inputs.iter().chain(&signature.outputs);
        self.max_batch_size.is_some_and(|max| max > 0)
            && tensors.all(|tensor| tensor.shape.0.first() == Some(&-1))
    }

    /// How many inferences a request is: the first dimension of what a model that batches is sent, else one.
    pub fn batch_of(&self, request: &InferRequest) -> u64 {
        let first = request.inputs.first().and_then(|input| input.shape.first());
        first.filter(|_| self.batches()).map_or(1, |batch| *batch)
    }

    /// Checks every input's first dimension against `max_batch_size`. Says what was expected and given, for the client.
    pub fn check_batch(&self, request: &InferRequest) -> Result<(), String> {
        let Some(max) = self.max_batch_size.filter(|max| *max > 0) else { return Ok(()) };
        match request.inputs.iter().find(|input| input.shape.first().is_some_and(|batch| *batch > max)) {
            Some(input) => Err(format!(
                "inference request batch-size must be <= {max} for '{}', input '{}' has shape {}",
                self.name,
                input.name,
                Shape::from(input.shape.as_slice())
            )),
            None => Ok(()),
        }
    }
}

/// The state of a version or model, spelled on the wire as Triton does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Loading,
    Ready,
    /// Out of service, while requests that began before still run.
    Unloading,
    Unavailable,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Loading => "LOADING",
            Self::Ready => "READY",
            Self::Unloading => "UNLOADING",
            Self::Unavailable => "UNAVAILABLE",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why no model was found; the texts are for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    #[error("Request for unknown model: '{model}' is not found")]
    UnknownModel { model: ModelName },
    #[error("Request for unknown model: '{model}' version {version} is not found")]
    UnknownVersion { model: ModelName, version: Version },
    /// `version` is `None` if the model has none, or none that could be told apart.
    #[error("model '{model}'{} is not ready: {reason}", version.as_ref().map(|version| format!(" version {version}")).unwrap_or_default())]
    NotReady { model: ModelName, version: Option<Version>, reason: String },
}

/// One line of the repository index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    pub name: ModelName,
    /// `None` for a model of which no version is known: never loaded, or its configuration is faulty.
    pub version: Option<Version>,
    pub state: State,
    /// Why it is not ready, or why the last reload of a ready one failed.
    pub reason: Option<String>,
}

/// All models and versions that the repository knows.
#[derive(Debug, Default)]
pub struct Catalog {
    models: ArcSwap<BTreeMap<ModelName, Arc<Entry>>>,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    versions: BTreeMap<Version, Slot>,
    routing: Routing,
    /// Why the model as a whole could not be loaded or reloaded.
    problem: Option<String>,
}

/// What answers where no version is named, and names that stand for versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// `None`, or one that is not ready: the greatest that is.
    pub default: Option<Version>,
    /// Each alias with versions and their weights, of which at least one is not 0.
    pub aliases: BTreeMap<Version, Vec<(Version, u32)>>,
}

impl Routing {
    /// The version that an alias stands for, for this caller.
    fn resolve(&self, alias: &Version, wanted: &Wanted) -> Option<&Version> {
        let shares = self.aliases.get(alias)?;
        let total = shares.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>();
        let mut point = wanted.point(alias, total)?;
        shares.iter().find_map(|(version, weight)| {
            let found = point < u64::from(*weight);
            point = point.saturating_sub(u64::from(*weight));
            found.then_some(version)
        })
    }
}

#[derive(Clone, Debug)]
enum Slot {
    Loading,
    /// `failed_reload`: why newer files of this version are not served.
    Ready {
        model: Arc<Model>,
        failed_reload: Option<String>,
    },
    /// Unloading for as long as a request holds the model.
    Unloaded(Weak<Model>),
    Unavailable(String),
}

impl Slot {
    fn state(&self) -> State {
        match self {
            Self::Loading => State::Loading,
            Self::Ready { .. } => State::Ready,
            Self::Unloaded(model) if model.strong_count() > 0 => State::Unloading,
            Self::Unloaded(_) | Self::Unavailable(_) => State::Unavailable,
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Self::Loading => None,
            Self::Ready { failed_reload, .. } => failed_reload.as_deref(),
            Self::Unloaded(_) => Some(UNLOADED),
            Self::Unavailable(reason) => Some(reason),
        }
    }

    fn model(&self) -> Option<&Arc<Model>> {
        if let Self::Ready { model, .. } = self { Some(model) } else { None }
    }
}

impl Catalog {
    pub fn new() -> Self {
        Self::default()
    }

    /// The model to run a request on; without a version, the default one or else the greatest that is ready.
    pub fn find(&self, name: &ModelName, wanted: &Wanted) -> Result<Arc<Model>, FindError> {
        let models = self.models.load();
        let Some(entry) = models.get(name) else {
            return Err(FindError::UnknownModel { model: name.clone() });
        };
        let Some(version) = wanted.version() else {
            let default = entry.routing.default.as_ref().and_then(|version| entry.versions.get(version));
            let ready = default.and_then(Slot::model);
            let ready = ready.or_else(|| entry.versions.values().rev().find_map(Slot::model));
            return ready.cloned().ok_or_else(|| entry.not_ready(name, entry.versions.last_key_value()));
        };
        let named = entry.versions.contains_key(version);
        let aliased = if named { None } else { entry.routing.resolve(version, wanted) };
        let version = aliased.unwrap_or(version);
        match entry.versions.get_key_value(version) {
            Some((_, Slot::Ready { model, .. })) => Ok(Arc::clone(model)),
            None if !entry.versions.is_empty() => {
                Err(FindError::UnknownVersion { model: name.clone(), version: version.clone() })
            }
            slot => Err(entry.not_ready(name, slot)),
        }
    }

    /// The versions that are ready, in ascending order; empty for an unknown model.
    pub fn versions(&self, name: &ModelName) -> Vec<Version> {
        let models = self.models.load();
        let slots = models.get(name).into_iter().flat_map(|entry| &entry.versions);
        slots.filter(|(_, slot)| slot.model().is_some()).map(|(version, _)| version.clone()).collect()
    }

    /// Everything that is ready, or all versions of one model that are, in order.
    pub fn served(&self, name: Option<&ModelName>) -> Vec<Arc<Model>> {
        let models = self.models.load();
        let entries = models.iter().filter(|(model, _)| name.is_none_or(|name| name == *model));
        entries.flat_map(|(_, entry)| entry.versions.values()).filter_map(Slot::model).cloned().collect()
    }

    /// The state of a version, or the most useful state that any version of the model has. `None` if it is unknown.
    pub fn state(&self, name: &ModelName, version: Option<&Version>) -> Option<State> {
        let models = self.models.load();
        let entry = models.get(name)?;
        match version {
            Some(version) => entry.versions.get(version).map(Slot::state),
            None => {
                let states: Vec<State> = entry.versions.values().map(Slot::state).collect();
                let best = [State::Ready, State::Loading, State::Unloading];
                Some(best.into_iter().find(|state| states.contains(state)).unwrap_or(State::Unavailable))
            }
        }
    }

    /// Bytes of memory that all that is ready takes, perhaps with one version left out.
    pub(super) fn loaded_bytes(&self, but: Option<(&ModelName, &Version)>) -> u64 {
        let models = self.models.load();
        let slots =
            models.iter().flat_map(|(name, entry)| entry.versions.iter().map(move |slot| (name, slot)));
        let others = slots.filter(|(name, (version, _))| Some((*name, *version)) != but);
        let ready = others.filter_map(|(_, (_, slot))| slot.model());
        ready.map(|model| model.executor.loaded_bytes()).fold(0, u64::saturating_add)
    }

    /// Every version of every model, ordered by name and version.
    pub fn index(&self) -> Vec<IndexEntry> {
        let mut index = Vec::new();
        for (name, entry) in self.models.load().iter() {
            if entry.versions.is_empty() {
                let reason = entry.problem.clone();
                index.push(IndexEntry {
                    name: name.clone(),
                    version: None,
                    state: State::Unavailable,
                    reason,
                });
            }
            for (version, slot) in &entry.versions {
                let reason = slot.reason().or(entry.problem.as_deref()).map(str::to_owned);
                let version = Some(version.clone());
                index.push(IndexEntry { name: name.clone(), version, state: slot.state(), reason });
            }
        }
        index
    }

    /// Puts a model into service, in place of an older one of the same name and version.
    pub fn publish(&self, model: Model) {
        let model = Arc::new(model);
        self.change(&model.name, |entry| {
            let slot = Slot::Ready { model: Arc::clone(&model), failed_reload: None };
            entry.versions.insert(model.version.clone(), slot);
        });
    }

    /// Makes a model known that is not loaded.
    pub(super) fn list(&self, name: &ModelName) {
        self.change(name, |_| ());
    }

    pub(super) fn knows(&self, name: &ModelName) -> bool {
        self.models.load().contains_key(name)
    }

    /// The version is about to be loaded; one that is ready stays so meanwhile.
    pub(super) fn loading(&self, name: &ModelName, version: &Version) {
        self.change(name, |entry| {
            if entry.versions.get(version).is_none_or(|slot| slot.model().is_none()) {
                entry.versions.insert(version.clone(), Slot::Loading);
            }
        });
    }

    /// The version could not be loaded; one that is ready serves on.
    pub(super) fn failed(&self, name: &ModelName, version: &Version, reason: &str) {
        self.change(name, |entry| match entry.versions.get_mut(version) {
            Some(Slot::Ready { failed_reload, .. }) => *failed_reload = Some(reason.to_owned()),
            _ => {
                entry.versions.insert(version.clone(), Slot::Unavailable(reason.to_owned()));
            }
        });
    }

    /// Sets or clears what is wrong with the model as a whole; versions that are ready serve on.
    pub(super) fn problem(&self, name: &ModelName, problem: Option<&str>) {
        self.change(name, |entry| entry.problem = problem.map(str::to_owned));
    }

    /// Forgets the versions that are not to be kept.
    pub(super) fn retain(&self, name: &ModelName, keep: &BTreeSet<Version>) {
        self.change(name, |entry| entry.versions.retain(|version, _| keep.contains(version)));
    }

    /// Takes all versions out of service and keeps them listed.
    pub(super) fn unload(&self, name: &ModelName) {
        self.change(name, |entry| {
            for slot in entry.versions.values_mut() {
                *slot = Slot::Unloaded(slot.model().map_or_else(Weak::new, Arc::downgrade));
            }
        });
    }

    /// Forgets the model.
    pub(super) fn remove(&self, name: &ModelName) {
        self.models.rcu(|models| {
            let mut models = BTreeMap::clone(models);
            models.remove(name);
            models
        });
    }

    /// Says what answers where no version is named, and which names stand for versions.
    pub(super) fn route(&self, name: &ModelName, routing: &Routing) {
        self.change(name, |entry| entry.routing = routing.clone());
    }

    /// Applies a change to a copy; it may be applied again if another change came in between.
    fn change(&self, name: &ModelName, change: impl Fn(&mut Entry)) {
        self.models.rcu(|models| {
            let mut models = BTreeMap::clone(models);
            let entry = models.entry(name.clone()).or_default();
            change(Arc::make_mut(entry));
            models
        });
    }
}

impl Entry {
    fn not_ready(&self, name: &ModelName, slot: Option<(&Version, &Slot)>) -> FindError {
        let reason = match slot {
            Some((_, Slot::Loading)) => "it is loading",
            Some((_, slot)) => slot.reason().unwrap_or_default(),
            None => self.problem.as_deref().unwrap_or("it is not loaded"),
        };
        let version = slot.map(|(version, _)| version.clone());
        FindError::NotReady { model: name.clone(), version, reason: reason.to_owned() }
    }
}

#[cfg(test)]
mod tests;
