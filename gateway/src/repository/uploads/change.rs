//! Changing what was published: settings of a model, removal of versions and models. Each is one put into the store.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    name::{ModelName, TenantName, Version},
    repository::{
        artifacts::{ArtifactError, RecordPath, Revision},
        lock,
        model_config::VersionPolicy,
    },
};

use super::{
    UploadError, Uploads,
    records::{ModelSettings, VersionRecord},
};

/// Others may change a model's settings at the same time; trying again sees what they wrote.
const ATTEMPTS: usize = 5;

impl Uploads {
    /// Removes a version for good. Requests that run on it end in peace; its name may be published again.
    pub async fn remove_version(
        self: &Arc<Self>,
        tenant: &TenantName,
        model: &ModelName,
        version: &Version,
    ) -> Result<(), UploadError> {
        let record = RecordPath::Version(tenant.clone(), model.clone(), version.clone());
        let unknown = || UploadError::UnknownVersion { model: model.clone(), version: version.clone() };
        for _ in 0..ATTEMPTS {
            let Some((generation, VersionRecord::Published(_))) =
                self.artifacts.newest::<VersionRecord>(&record).await?
            else {
                return Err(unknown());
            };
            self.count_change(tenant)?;
            match self.artifacts.append(&record, Some(generation), &VersionRecord::Removed).await {
                Ok(generation) => {
                    self.learn_version(tenant, model, version, generation, VersionRecord::Removed);
                    self.reconcile(tenant, model).await;
                    tracing::info!(%tenant, %model, %version, "version removed");
                    return Ok(());
                }
                Err(ArtifactError::Taken(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(UploadError::Unavailable("the version changes all the time".into()))
    }

    /// Removes all versions of a model, and its settings.
    pub async fn remove_model(
        self: &Arc<Self>,
        tenant: &TenantName,
        model: &ModelName,
    ) -> Result<(), UploadError> {
        let report = self.model(tenant, model)?;
        for version in report.versions {
            match self.remove_version(tenant, model, &version.version).await {
                // Somebody else was faster; gone is gone.
                Ok(()) | Err(UploadError::UnknownVersion { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let reset = |_, settings: &mut ModelSettings| {
            *settings = ModelSettings::default();
            Ok(())
        };
        self.change_settings(tenant, model, reset).await.map(drop)
    }

    /// A model's settings, and which revision of them that is, as far as this gateway knows.
    pub fn settings(
        &self,
        tenant: &TenantName,
        model: &ModelName,
    ) -> Result<(Revision, ModelSettings), UploadError> {
        let settings = self.model(tenant, model)?.settings;
        let directory = lock(&self.directory);
        let known = directory.entry(tenant, model).and_then(|entry| entry.settings.clone());
        Ok(known.map_or((Revision(None), settings), |(generation, settings)| (generation.into(), settings)))
    }

    /// Replaces a model's settings; where a revision is expected, only if they are still that one. They take effect at once
    /// here, and within seconds on other gateways.
    pub async fn set_settings(
        self: &Arc<Self>,
        tenant: &TenantName,
        model: &ModelName,
        settings: ModelSettings,
        expected: Option<Revision>,
    ) -> Result<(Revision, ModelSettings), UploadError> {
        self.model(tenant, model)?;
        settings.check().map_err(UploadError::Settings)?;
        self.check_named(tenant, model, &settings)?;
        let entry = lock(&self.directory).entry(tenant, model).cloned().unwrap_or_default();
        let replace =
            |revision, now: &mut ModelSettings| {
                if expected.is_some_and(|expected| expected != revision) {
                    return Err(UploadError::Changed(model.clone()));
                }
                let verified = if settings.require_verify { now.verified.clone() } else { BTreeMap::new() };
                let settings = ModelSettings { verified, ..settings.clone() };
                entry.check_promotion(now, &settings).map_err(|(version, default)| {
                    UploadError::Unverified { model: model.clone(), version, default }
                })?;
                *now = settings;
                Ok(())
            };
        self.change_settings(tenant, model, replace).await
    }

    /// Every version that settings name must be there.
    fn check_named(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        settings: &ModelSettings,
    ) -> Result<(), UploadError> {
        let entry = lock(&self.directory).entry(tenant, model).cloned().unwrap_or_default();
        let published = |version: &Version| entry.published().any(|(published, _)| published == version);
        let named = settings.aliases.values().flat_map(|shares| shares.keys());
        match named.chain(&settings.default_version).find(|version| !published(version)) {
            Some(version) => {
                Err(UploadError::Settings(format!("version {version} of '{model}' is not published")))
            }
            None => Ok(()),
        }
    }

    pub(super) async fn set_policy(
        self: &Arc<Self>,
        tenant: &TenantName,
        model: &ModelName,
        policy: VersionPolicy,
    ) -> Result<(), UploadError> {
        let policy = super::records::Policy::from(policy);
        let now = lock(&self.directory).entry(tenant, model).map(super::directory::Entry::settings);
        if now.unwrap_or_default().version_policy == policy {
            return Ok(());
        }
        let set = |_, settings: &mut ModelSettings| {
            settings.version_policy = policy.clone();
            Ok(())
        };
        self.change_settings(tenant, model, set).await.map(drop)
    }

    /// Puts a model into service, or takes it out of service without removing anything.
    pub async fn set_loaded(
        self: &Arc<Self>,
        tenant: &TenantName,
        model: &ModelName,
        loaded: bool,
    ) -> Result<(), UploadError> {
        self.model(tenant, model)?;
        let set = |_, settings: &mut ModelSettings| {
            settings.unloaded = !loaded;
            Ok(())
        };
        self.change_settings(tenant, model, set).await.map(drop)
    }

    /// Whether the tenant has a model of that name of its own.
    pub fn has(&self, tenant: &TenantName, model: &ModelName) -> bool {
        lock(&self.directory).entry(tenant, model).is_some_and(|entry| entry.published().next().is_some())
    }

    pub(super) async fn change_settings(
        self: &Arc<Self>,
        tenant: &TenantName,
        model: &ModelName,
        change: impl Fn(Revision, &mut ModelSettings) -> Result<(), UploadError>,
    ) -> Result<(Revision, ModelSettings), UploadError> {
        let record = RecordPath::Settings(tenant.clone(), model.clone());
        for _ in 0..ATTEMPTS {
            let newest = self.artifacts.newest::<ModelSettings>(&record).await?;
            let after = newest.as_ref().map(|(generation, _)| *generation);
            let before = newest.map(|(_, settings)| settings).unwrap_or_default();
            let mut settings = before.clone();
            if let Err(error) = change(Revision(after), &mut settings) {
                if let (UploadError::Changed(_), Some(generation)) = (&error, after) {
                    // Who looks again is to see what was written meanwhile, perhaps on another gateway.
                    self.learn_settings(tenant, model, generation, before);
                    self.reconcile(tenant, model).await;
                }
                return Err(error);
            }
            if settings == before {
                return Ok((Revision(after), settings));
            }
            self.count_change(tenant)?;
            match self.artifacts.append(&record, after, &settings).await {
                Ok(generation) => {
                    self.learn_settings(tenant, model, generation, settings.clone());
                    self.reconcile(tenant, model).await;
                    return Ok((generation.into(), settings));
                }
                Err(ArtifactError::Taken(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(UploadError::Unavailable("the model's settings change all the time".into()))
    }
}
