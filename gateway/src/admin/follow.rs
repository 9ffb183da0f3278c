//! Follow: the keys in the store become the keys that are let in, and the limits of tenants those that they have.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
};

use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use super::TenantRecord;
use crate::{
    authenticate::{Authenticator, KeyRecord, Keyring},
    limits::Quotas,
    name::TenantName,
    repository::artifacts::{ArtifactError, Artifacts, Generation, RecordPath, Survey, Surveys},
};

/// Keeps an authenticator's keys as the store says. While the store cannot be reached, the last ones stay in force.
#[derive(Debug)]
pub struct FollowKeys {
    artifacts: Arc<Artifacts>,
    authenticator: Arc<Authenticator>,
    quotas: Arc<Quotas>,
    tenants: BTreeMap<RecordPath, (Generation, TenantRecord)>,
    keys: BTreeMap<RecordPath, (Generation, KeyRecord)>,
    /// Generations that could not be read, so that each is reported once.
    unreadable: BTreeSet<(RecordPath, Generation)>,
    /// Something was read that is not in force yet.
    changed: bool,
}

impl FollowKeys {
    pub fn new(artifacts: Arc<Artifacts>, authenticator: Arc<Authenticator>, quotas: Arc<Quotas>) -> Self {
        Self {
            artifacts,
            authenticator,
            quotas,
            tenants: BTreeMap::new(),
            keys: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            changed: false,
        }
    }

    /// Reads what has changed since the last look at the store, and puts it in force.
    ///
    /// A record that cannot be read, or does not have the gateway's tag, is reported and not used: what was known of it
    /// before stays in force. That there is one is enough to let nobody in without a key.
    ///
    /// # Errors
    /// If the store cannot be reached; nothing changes then.
    pub async fn learn(&mut self, survey: &Survey) -> Result<(), ArtifactError> {
        let tenants = survey.of(|path, _| matches!(path, RecordPath::Tenant(_)));
        let keys = survey.of(|path, _| matches!(path, RecordPath::Key(..)));
        if !keys.is_empty() {
            self.authenticator.require_keys();
        }
        let Self { artifacts, unreadable, changed, .. } = self;
        read(artifacts, &mut self.tenants, unreadable, changed, tenants).await?;
        read(artifacts, &mut self.keys, unreadable, changed, keys).await?;
        if std::mem::take(&mut self.changed) {
            let tenants = self.tenants.iter().filter(|(_, (_, record))| record.removed.is_none());
            self.quotas.install(tenants.map(|(path, (_, record))| (path.tenant().clone(), record.limits)));
            self.authenticator.install(Keyring::new(self.keys.iter().map(|(path, (_, record))| {
                let tenant = path.tenant();
                let mut record = record.clone();
                if !self.is_there(tenant) {
                    record.revoked = record.revoked.or(Some(0));
                }
                (tenant.clone(), record)
            })));
        }
        Ok(())
    }

    fn is_there(&self, tenant: &TenantName) -> bool {
        let record = self.tenants.get(&RecordPath::Tenant(tenant.clone()));
        record.is_some_and(|(_, record)| record.removed.is_none())
    }

    /// Learns from each look at the store, until there are no more.
    pub async fn run(mut self, mut surveys: Surveys) {
        let mut reachable = true;
        while surveys.changed().await.is_ok() {
            let survey = Arc::clone(&surveys.borrow_and_update());
            let learned = self.learn(&survey).await;
            if let (Err(error), true) = (&learned, reachable) {
                tracing::warn!(%error, "the keys cannot be read; the last ones stay in force");
            }
            reachable = learned.is_ok();
        }
    }
}

/// Reads the records whose generations are not the ones that are known, and notes whether anything was.
async fn read<T: DeserializeOwned>(
    artifacts: &Artifacts,
    known: &mut BTreeMap<RecordPath, (Generation, T)>,
    unreadable: &mut BTreeSet<(RecordPath, Generation)>,
    changed: &mut bool,
    listed: Vec<(RecordPath, Generation)>,
) -> Result<(), ArtifactError> {
    let is_new = |path: &RecordPath, generation: Generation| {
        known.get(path).is_none_or(|(known, _)| *known < generation)
    };
    let new: Vec<_> = listed.into_iter().filter(|(path, generation)| is_new(path, *generation)).collect();
    let mut reads = pin!(artifacts.read_each(new));
    while let Some((path, generation, record)) = reads.next().await {
        match record {
            Ok(record) => {
                known.insert(path, (generation, record));
                *changed = true;
            }
            Err(error @ ArtifactError::Unavailable(_)) => return Err(error),
            Err(error) => {
                if unreadable.insert((path, generation)) {
                    tracing::error!(%error, "a record is not used");
                }
            }
        }
    }
    Ok(())
}
