//! What this gateway knows of the store's records, and what of it is loaded.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    name::{ModelName, TenantName, Version},
    repository::{
        artifacts::{Generation, RecordPath},
        put_off::PutOff,
    },
};

use super::records::{Manifest, ModelSettings, VersionRecord};

#[derive(Debug, Default)]
pub(super) struct Directory {
    models: BTreeMap<(TenantName, ModelName), Entry>,
    /// The newest record of each tenant, and whether it says that the tenant was removed.
    tenants: BTreeMap<TenantName, (Generation, bool)>,
}

/// One model of one tenant.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// The tenant was removed, and with it all that it had published.
    removed: bool,
    pub(super) settings: Option<(Generation, ModelSettings)>,
    pub(super) versions: BTreeMap<Version, (Generation, VersionRecord)>,
    /// The generation of each version's record that was loaded, or failed to load.
    pub(super) loaded: BTreeMap<Version, Generation>,
    /// The versions that this machine could not load, though nothing is known to be wrong with them.
    put_off: BTreeMap<Version, (Generation, PutOff)>,
}

impl Entry {
    pub(super) fn settings(&self) -> ModelSettings {
        self.settings.as_ref().map(|(_, settings)| settings.clone()).unwrap_or_default()
    }

    pub(super) fn published(&self) -> impl DoubleEndedIterator<Item = (&Version, &Manifest)> {
        let versions = self.versions.iter().filter(|_| !self.removed);
        versions.filter_map(|(version, (_, record))| Some((version, record.published()?)))
    }

    /// Whether anything is published.
    pub(super) fn is_there(&self) -> bool {
        self.published().next().is_some()
    }

    pub(super) fn is_published(&self, version: &Version) -> bool {
        self.published().any(|(published, _)| published == version)
    }

    /// The versions to serve.
    pub(super) fn selected(&self) -> BTreeSet<Version> {
        self.selected_by(self.settings())
    }

    /// What answers where no version is named, under these settings.
    pub(super) fn default_version(&self, settings: &ModelSettings) -> Option<Version> {
        let named = settings.default_version.clone().filter(|version| self.is_published(version));
        named.or_else(|| self.selected_by(settings.clone()).pop_last())
    }

    fn selected_by(&self, settings: ModelSettings) -> BTreeSet<Version> {
        if settings.unloaded {
            return BTreeSet::new();
        }
        let policy = super::super::model_config::VersionPolicy::from(&settings.version_policy);
        let mut selected = policy.select(self.published().map(|(version, _)| version));
        // What an alias or the default stands for is served, whatever the policy says of it.
        selected.extend(settings.default_version);
        selected.extend(settings.aliases.into_values().flat_map(BTreeMap::into_keys));
        selected.retain(|version| self.is_published(version));
        selected
    }
}

impl Entry {
    /// The version that was published last, if none of those has a number: then the names do not tell which is the latest.
    pub(super) fn latest(&self, selected: &BTreeSet<Version>) -> Option<Version> {
        let number = |version: &Version| version.as_str().bytes().all(|byte| byte.is_ascii_digit());
        let named = selected.iter().all(|version| !number(version));
        let served = self.published().filter(|(version, _)| selected.contains(version));
        let latest = served.max_by_key(|(_, manifest)| manifest.published).filter(|_| named);
        latest.map(|(version, _)| version.clone())
    }

    /// When a version that is published at `now` was published, as far as that says which came last: a clock that went back
    /// must not make it older than those that were there before.
    pub(super) fn publishing(&self, now: u64) -> u64 {
        let newest = self.published().map(|(_, manifest)| manifest.published).max();
        newest.map_or(now, |newest| now.max(newest.saturating_add(1)))
    }

    fn is_unfinished(&self) -> bool {
        if self.removed && !self.loaded.is_empty() {
            return true;
        }
        let due = |version| {
            self.versions.get(version).is_some_and(|(generation, _)| self.is_due(version, *generation))
        };
        self.selected().iter().any(due)
    }

    /// Whether that generation of a version is to be loaded now.
    pub(super) fn is_due(&self, version: &Version, generation: Generation) -> bool {
        let waits = |put_off: &&PutOff| !put_off.is_over();
        self.loaded.get(version) != Some(&generation)
            && self.put_off_of(version, generation).filter(waits).is_none()
    }

    /// The version was loaded, or is never going to be.
    pub(super) fn settle(&mut self, version: &Version, generation: Generation) {
        self.put_off.remove(version);
        self.loaded.insert(version.clone(), generation);
    }

    /// The version could not be loaded now. Returns the time until it is tried again, twice the last one.
    pub(super) fn put_off(&mut self, version: &Version, generation: Generation) -> Duration {
        let put_off = PutOff::after(self.put_off_of(version, generation));
        let wait = put_off.wait;
        self.put_off.insert(version.clone(), (generation, put_off));
        wait
    }

    fn put_off_of(&self, version: &Version, generation: Generation) -> Option<&PutOff> {
        let put_off = self.put_off.get(version).filter(|(of, _)| *of == generation);
        put_off.map(|(_, put_off)| put_off)
    }

    /// Nothing of it is loaded any more, and what is to be loaded later has all its attempts before it.
    pub(super) fn forget_outcomes(&mut self) {
        self.put_off.clear();
        self.loaded.clear();
    }

    /// Whatever became of the version, it is tried again at once.
    pub(super) fn forget_outcome(&mut self, version: &Version) {
        self.put_off.remove(version);
        self.loaded.remove(version);
    }
}

impl Directory {
    pub(super) fn entry(&self, tenant: &TenantName, model: &ModelName) -> Option<&Entry> {
        self.models.get(&(tenant.clone(), model.clone()))
    }

    pub(super) fn entry_mut(&mut self, tenant: &TenantName, model: &ModelName) -> &mut Entry {
        let removed = self.tenants.get(tenant).is_some_and(|(_, removed)| *removed);
        let entry = self.models.entry((tenant.clone(), model.clone())).or_default();
        entry.removed = removed;
        entry
    }

    pub(super) fn knows_tenant(&self, tenant: &TenantName, generation: Generation) -> bool {
        self.tenants.get(tenant).is_some_and(|(known, _)| *known >= generation)
    }

    pub(super) fn learn_tenant(&mut self, tenant: &TenantName, generation: Generation, removed: bool) {
        self.tenants.insert(tenant.clone(), (generation, removed));
        for (_, entry) in self.models.iter_mut().filter(|((owner, _), _)| owner == tenant) {
            entry.removed = removed;
        }
    }

    /// A tenant's models of which something is published.
    pub(super) fn of(&self, tenant: &TenantName) -> impl Iterator<Item = (&ModelName, &Entry)> {
        self.models
            .iter()
            .filter(move |((owner, _), entry)| owner == tenant && entry.is_there())
            .map(|((_, model), entry)| (model, entry))
    }

    /// The models of which a version should be loaded and is not.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = &(TenantName, ModelName)> {
        self.models.iter().filter(|(_, entry)| entry.is_unfinished()).map(|(model, _)| model)
    }

    /// The records that say of a version that it was removed, or of a model without versions that it has no settings.
    pub(super) fn dead(&self) -> BTreeMap<RecordPath, Generation> {
        let of_model = |((tenant, model), entry): (&(TenantName, ModelName), &Entry)| {
            let removed = entry.versions.iter().filter(|(_, (_, record))| *record == VersionRecord::Removed);
            let versions = removed.map(|(version, (generation, _))| {
                (RecordPath::Version(tenant.clone(), model.clone(), version.clone()), *generation)
            });
            let settings = entry.settings.iter().filter(|(_, settings)| {
                *settings == ModelSettings::default()
                    && entry.versions.values().all(|(_, record)| *record == VersionRecord::Removed)
            });
            let settings = settings
                .map(|(generation, _)| (RecordPath::Settings(tenant.clone(), model.clone()), *generation));
            versions.chain(settings).collect::<Vec<_>>()
        };
        self.models.iter().flat_map(of_model).collect()
    }

    /// Bytes of everything that a tenant has published.
    pub(super) fn bytes(&self, tenant: &TenantName) -> u64 {
        let manifests = self.of(tenant).flat_map(|(_, entry)| entry.published());
        manifests.map(|(_, manifest)| manifest.size()).fold(0, u64::saturating_add)
    }

    /// The generation of a record that is known.
    pub(super) fn generation(&self, record: &RecordPath) -> Option<Generation> {
        match record {
            RecordPath::Settings(tenant, model) => {
                self.entry(tenant, model)?.settings.as_ref().map(|(generation, _)| *generation)
            }
            RecordPath::Version(tenant, model, version) => {
                self.entry(tenant, model)?.versions.get(version).map(|(generation, _)| *generation)
            }
            RecordPath::Tenant(_) | RecordPath::Key(..) | RecordPath::Archive(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_is_twice_the_last_one_up_to_ten_minutes() {
        let mut entry = Entry::default();
        let version: Version = "1".parse().expect("a version");
        let waits: Vec<u64> = (0..9).map(|_| entry.put_off(&version, Generation::FIRST).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert!(!entry.is_due(&version, Generation::FIRST));
        let next = Generation::FIRST.next();
        assert!(entry.is_due(&version, next), "another publication has its attempts before it");
        assert_eq!(entry.put_off(&version, next).as_secs(), 5);
        entry.forget_outcome(&version);
        assert!(entry.is_due(&version, next));
        entry.settle(&version, next);
        assert!(!entry.is_due(&version, next));
    }
}
