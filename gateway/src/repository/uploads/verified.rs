//! Promotion that asks for a verify first: what was verified is kept in the model's settings, where every gateway sees it.
//!
//! This protects from promoting the wrong version by mistake. Who may change the settings may also turn it off.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    name::{ModelName, TenantName, Version},
    repository::{artifacts::Generation, lock},
};

use super::{
    UploadError, Uploads,
    directory::Entry,
    records::{ModelSettings, Verified, VersionRecord},
};

/// Which publication of each version of a model was being served at one moment.
#[derive(Clone, Debug, Default)]
pub struct Publications(BTreeMap<Version, Generation>);

impl Uploads {
    /// To be asked before the versions to verify are looked up: what is looked up later is these or newer ones, and newer ones
    /// do not count as verified.
    pub fn publications(&self, tenant: &TenantName, model: &ModelName) -> Publications {
        let directory = lock(&self.directory);
        Publications(directory.entry(tenant, model).map(|entry| entry.loaded.clone()).unwrap_or_default())
    }

    /// Notes that a version answered as another one of the same model, if that is the default and the model's settings ask
    /// for it.
    pub async fn note_verified(
        self: &Arc<Self>,
        tenant: &TenantName,
        model: &ModelName,
        (version, against): (&Version, &Version),
        served: &Publications,
    ) -> Result<(), UploadError> {
        let (Some(generation), Some(against_generation)) = (served.0.get(version), served.0.get(against))
        else {
            return Ok(());
        };
        let verified = Verified {
            generation: *generation,
            against: against.clone(),
            against_generation: *against_generation,
        };
        let entry = lock(&self.directory).entry(tenant, model).cloned().unwrap_or_default();
        // Where nobody asks for it, a verify does not need the store.
        if !entry.settings().require_verify {
            return Ok(());
        }
        let note = |_, settings: &mut ModelSettings| {
            if settings.require_verify && entry.default_version(settings).as_ref() == Some(against) {
                settings.verified.retain(|version, _| entry.is_published(version));
                settings.verified.insert(version.clone(), verified.clone());
            }
            Ok(())
        };
        self.change_settings(tenant, model, note).await.map(drop)
    }
}

impl Entry {
    fn generation(&self, version: &Version) -> Option<Generation> {
        let (generation, record) = self.versions.get(version)?;
        matches!(record, VersionRecord::Published(_)).then_some(*generation)
    }

    /// Checks that every version which the new settings promote was verified against the default of the old ones.
    ///
    /// # Errors
    /// The first that was not, and that default.
    pub(super) fn check_promotion(
        &self,
        before: &ModelSettings,
        after: &ModelSettings,
    ) -> Result<(), (Version, Version)> {
        // Turning it off and promoting at once would be a way around it, and settings are replaced as a whole.
        if !before.require_verify && !after.require_verify {
            return Ok(());
        }
        let Some(default) = self.default_version(before) else { return Ok(()) };
        let has_share = |settings: &ModelSettings, alias: &Version, version: &Version| {
            settings
                .aliases
                .get(alias)
                .and_then(|shares| shares.get(version))
                .is_some_and(|weight| *weight > 0)
        };
        let shares = after
            .aliases
            .iter()
            .flat_map(|(alias, shares)| shares.keys().map(move |version| (alias, version)));
        let promoted = shares
            .filter(|(alias, version)| has_share(after, alias, version) && !has_share(before, alias, version))
            .map(|(_, version)| version.clone())
            .chain(self.default_version(after));
        for version in promoted.filter(|version| *version != default) {
            let verified = before.verified.get(&version).is_some_and(|verified| {
                verified.against == default
                    && Some(verified.generation) == self.generation(&version)
                    && Some(verified.against_generation) == self.generation(&default)
            });
            if !verified {
                return Err((version, default));
            }
        }
        Ok(())
    }
}
