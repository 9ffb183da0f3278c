//! Following the store: what any gateway published or changed is served here within seconds.

use std::{collections::BTreeSet, pin::pin, sync::Arc};

use futures_util::StreamExt;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::task::JoinSet;

use crate::{
    execute::{LoadError, Step},
    name::{ModelName, TenantName, Version},
    repository::{
        artifacts::{ArtifactError, Generation, RecordPath, Survey, Surveys},
        catalog::Routing,
        lock,
    },
};

use super::{
    Uploads,
    directory::Entry,
    publish::LoadedVersion,
    records::{Manifest, ModelSettings, VersionRecord},
};

/// What of a tenant's record counts here.
#[derive(Deserialize)]
struct TenantState {
    removed: Option<u64>,
}

/// A model that is being brought in line; it may be again when this is dropped.
struct Busy<'a> {
    uploads: &'a Uploads,
    model: &'a (TenantName, ModelName),
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        lock(&self.uploads.following).busy.remove(self.model);
    }
}

type Records = Vec<(RecordPath, Generation)>;
type Changes = (BTreeSet<(TenantName, ModelName)>, Records, Records);

/// The model that a record is about.
fn model_of(record: &RecordPath) -> Option<(TenantName, ModelName)> {
    match record {
        RecordPath::Settings(tenant, model) | RecordPath::Version(tenant, model, _) => {
            Some((tenant.clone(), model.clone()))
        }
        RecordPath::Tenant(_) | RecordPath::Key(..) | RecordPath::Archive(_) => None,
    }
}

impl Uploads {
    /// Learns from each look at the store, until there are no more. While the store cannot be reached, what is loaded serves
    /// on.
    pub async fn run(self: Arc<Self>, mut surveys: Surveys) {
        while surveys.changed().await.is_ok() {
            let survey = Arc::clone(&surveys.borrow_and_update());
            // Not waited for: what one tenant's models take to load must not delay what others changed.
            self.follow(&survey).await.detach_all();
        }
    }

    /// Loads what is to be served. Returns when all of it is served or was refused.
    pub async fn load_all(self: &Arc<Self>, survey: &Survey) {
        let mut loads = self.follow(survey).await;
        while loads.join_next().await.is_some() {}
    }

    /// Begins to bring what is served in line with a look at the store, each model by itself.
    async fn follow(self: &Arc<Self>, survey: &Survey) -> JoinSet<()> {
        let changed = self.learn(survey).await;
        let mut loads = JoinSet::new();
        let mut following = lock(&self.following);
        let mut due = std::mem::take(&mut following.stale);
        due.extend(changed);
        for model in due {
            if !following.busy.insert(model.clone()) {
                following.stale.insert(model);
                continue;
            }
            let uploads = Arc::clone(self);
            loads.spawn(async move {
                let _busy = Busy { uploads: &uploads, model: &model };
                uploads.reconcile(&model.0, &model.1).await;
            });
        }
        loads
    }

    /// Reads every record that says something new, some at a time. Returns the models that it is about, and those of which
    /// something is still to be loaded.
    ///
    /// Before anything is served this is done once: a tenant's own models hide the shared ones of the same name from the first
    /// request on, loaded or not.
    pub async fn learn(&self, survey: &Survey) -> BTreeSet<(TenantName, ModelName)> {
        let tenants = self.new_tenants(survey);
        self.read_each(tenants, |record, generation, state: TenantState| {
            let removed = state.removed.is_some();
            lock(&self.directory).learn_tenant(record.tenant(), generation, removed);
        })
        .await;

        let (mut changed, settings, versions) = self.changes(survey);
        let models: BTreeSet<_> =
            settings.iter().chain(&versions).filter_map(|(record, _)| model_of(record)).collect();
        self.read_each(settings, |record, generation, says| {
            if let Some((tenant, model)) = model_of(&record) {
                self.learn_settings(&tenant, &model, generation, says);
            }
        })
        .await;
        self.read_each(versions, |record, generation, says| {
            if let RecordPath::Version(tenant, model, version) = &record {
                self.learn_version(tenant, model, version, generation, says);
            }
        })
        .await;
        changed.extend(models);
        for (tenant, model) in &changed {
            if lock(&self.directory).entry(tenant, model).is_some_and(Entry::is_there) {
                self.namespaces.own(tenant).list(model);
            }
        }
        changed
    }

    async fn read_each<T: DeserializeOwned>(
        &self,
        records: Vec<(RecordPath, Generation)>,
        learn: impl Fn(RecordPath, Generation, T),
    ) {
        let mut reads = pin!(self.artifacts.read_each(records));
        while let Some((record, generation, says)) = reads.next().await {
            match says {
                Ok(says) => learn(record, generation, says),
                Err(error) => self.cannot_use(record, generation, &error),
            }
        }
    }

    /// The record is asked for again at the next look, and reported once.
    fn cannot_use(&self, record: RecordPath, generation: Generation, error: &ArtifactError) {
        if lock(&self.following).reported.insert((record.clone(), generation)) {
            tracing::error!(%record, %error, "a record cannot be used");
        }
    }

    fn new_tenants(&self, survey: &Survey) -> Records {
        let directory = lock(&self.directory);
        survey.of(|record, generation| {
            matches!(record, RecordPath::Tenant(tenant) if !directory.knows_tenant(tenant, generation))
        })
    }

    /// The models of which something is still to be loaded, and the records of settings and of versions that say something
    /// new.
    fn changes(&self, survey: &Survey) -> Changes {
        let directory = lock(&self.directory);
        let is_new = |record: &RecordPath, listed: Generation| {
            directory.generation(record).is_none_or(|known| known < listed)
        };
        (
            directory.unfinished().cloned().collect(),
            survey.of(|record, at| matches!(record, RecordPath::Settings(..)) && is_new(record, at)),
            survey.of(|record, at| matches!(record, RecordPath::Version(..)) && is_new(record, at)),
        )
    }

    pub(super) fn learn_version(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        version: &Version,
        generation: Generation,
        says: VersionRecord,
    ) {
        let mut directory = lock(&self.directory);
        let versions = &mut directory.entry_mut(tenant, model).versions;
        if versions.get(version).is_none_or(|(known, _)| *known < generation) {
            versions.insert(version.clone(), (generation, says));
        }
    }

    pub(super) fn learn_settings(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        generation: Generation,
        says: ModelSettings,
    ) {
        let mut directory = lock(&self.directory);
        let settings = &mut directory.entry_mut(tenant, model).settings;
        if settings.as_ref().is_none_or(|(known, _)| *known < generation) {
            *settings = Some((generation, says));
        }
    }

    /// Loads the versions of a model that are to be served, and drops those that are not.
    pub(super) async fn reconcile(self: &Arc<Self>, tenant: &TenantName, model: &ModelName) {
        let _turn = self.turns(tenant).reconcile.acquire_owned().await;
        let Some(entry) = lock(&self.directory).entry(tenant, model).cloned() else { return };
        let catalog = self.namespaces.own(tenant);
        let selected = entry.selected();
        let settings = entry.settings();
        if !entry.is_there() {
            if catalog.knows(model) {
                catalog.remove(model);
                tracing::info!(%tenant, %model, "model removed");
            }
            lock(&self.directory).entry_mut(tenant, model).forget_outcomes();
            return;
        }
        catalog.list(model);
        for version in &selected {
            let Some((generation, VersionRecord::Published(manifest))) = entry.versions.get(version) else {
                continue;
            };
            if !entry.is_due(version, *generation) {
                continue;
            }
            catalog.loading(model, version);
            match self.fetch(tenant, model, version, manifest).await {
                Ok(Ok(loaded)) => match self.check_loaded(tenant, model, version, &loaded) {
                    Ok(()) => self.serve(tenant, model, version, *generation, &loaded),
                    Err(error) => {
                        catalog.failed(model, version, &error.to_string());
                        self.mark(tenant, model, version, *generation);
                    }
                },
                Ok(Err(error)) if error.transient => {
                    let mut directory = lock(&self.directory);
                    let wait = directory.entry_mut(tenant, model).put_off(version, *generation);
                    drop(directory);
                    tracing::warn!(%tenant, %model, %version, %error, ?wait, "version cannot be loaded here now");
                    catalog.failed(model, version, &format!("{error}; it is tried again in {wait:?}"));
                }
                Ok(Err(error)) => {
                    tracing::error!(%tenant, %model, %version, %error, "version failed to load");
                    catalog.failed(model, version, &error.to_string());
                    self.mark(tenant, model, version, *generation);
                }
                // Tried again at the next look: nothing is wrong with the version.
                Err(error) => {
                    tracing::warn!(%tenant, %model, %version, %error, "version cannot be fetched now");
                    catalog.failed(
                        model,
                        version,
                        "the artifact store or the gateway's disk is not available",
                    );
                }
            }
        }
        if settings.unloaded {
            catalog.unload(model);
            lock(&self.directory).entry_mut(tenant, model).forget_outcomes();
            return;
        }
        self.drop_others(tenant, model, &selected);
        let default = settings.default_version.clone().or_else(|| entry.latest(&selected));
        let aliases = settings.aliases.into_iter();
        let aliases = aliases.map(|(alias, shares)| (alias, shares.into_iter().collect())).collect();
        catalog.route(model, &Routing { default, aliases });
    }

    fn drop_others(&self, tenant: &TenantName, model: &ModelName, selected: &BTreeSet<Version>) {
        let catalog = self.namespaces.own(tenant);
        for version in catalog.versions(model) {
            if !selected.contains(&version) {
                tracing::info!(%tenant, %model, %version, "version no longer served");
            }
        }
        catalog.retain(model, selected);
        lock(&self.directory).entry_mut(tenant, model).loaded.retain(|version, _| selected.contains(version));
    }

    /// Puts a loaded version into service.
    pub(super) fn serve(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        version: &Version,
        generation: Generation,
        loaded: &LoadedVersion,
    ) {
        self.namespaces.own(tenant).publish(loaded.model(tenant, model, version));
        self.mark(tenant, model, version, generation);
    }

    fn mark(&self, tenant: &TenantName, model: &ModelName, version: &Version, generation: Generation) {
        lock(&self.directory).entry_mut(tenant, model).settle(version, generation);
    }

    /// Reads a version's blobs, whose digests the store checks, and loads it. The outer error is the store's or the disk's, the
    /// inner one the version's own.
    async fn fetch(
        self: &Arc<Self>,
        tenant: &TenantName,
        model: &ModelName,
        version: &Version,
        manifest: &Manifest,
    ) -> Result<Result<LoadedVersion, LoadError>, ArtifactError> {
        let turn = self.turn(tenant).await;
        let artifact = self.artifacts.get_blob(&manifest.artifact.digest, manifest.artifact.size).await;
        let artifact = match artifact {
            Err(error @ ArtifactError::Unavailable(_)) => return Err(error),
            Err(error) => {
                tracing::error!(%tenant, %model, %version, %error, "an artifact is damaged");
                let reason = "its artifact in the store is damaged or missing: publish it again";
                return Ok(Err(LoadError::new(Step::Read, reason)));
            }
            Ok(artifact) => artifact,
        };
        let mut files = Vec::new();
        for file in &manifest.files {
            let bytes = self.artifacts.get_blob(&file.blob.digest, file.blob.size).await?;
            files.push((file.name.clone(), bytes.into()));
        }
        match self.load(turn, (tenant, model, version), manifest, artifact.into(), files).await {
            Err(error) if error.no_room => Err(ArtifactError::Disk(error.to_string())),
            loaded => Ok(loaded),
        }
    }
}
