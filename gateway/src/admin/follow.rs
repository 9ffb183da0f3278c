//! Follow: the keys in the store become the keys that are let in, and the limits of tenants those that they have.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use serde::de::DeserializeOwned;

use super::TenantRecord;
use crate::{
    authenticate::{Authenticator, KeyRecord, Keyring},
    limits::Quotas,
    name::TenantName,
    repository::artifacts::{ArtifactError, Artifacts, Generation, RecordPath},
};

/// Time between two looks at the store: what anybody changes there is in force within five seconds.
pub const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);

/// Keeps an authenticator's keys as the store says. While the store cannot be reached, the last ones stay in force.
#[derive(Debug)]
pub struct Follow {
    artifacts: Arc<Artifacts>,
    authenticator: Arc<Authenticator>,
    quotas: Arc<Quotas>,
    tenants: BTreeMap<RecordPath, (Generation, TenantRecord)>,
    keys: BTreeMap<RecordPath, (Generation, KeyRecord)>,
    /// Generations that could not be read, so that each is reported once.
    unreadable: BTreeSet<(RecordPath, Generation)>,
    /// Records that are gone or older than before, reported once as well.
    lost: BTreeSet<RecordPath>,
    /// Something was read that is not in force yet.
    changed: bool,
}

impl Follow {
    pub fn new(artifacts: Arc<Artifacts>, authenticator: Arc<Authenticator>, quotas: Arc<Quotas>) -> Self {
        Self {
            artifacts,
            authenticator,
            quotas,
            tenants: BTreeMap::new(),
            keys: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            lost: BTreeSet::new(),
            changed: false,
        }
    }

    /// One look at the store. Reads what has changed since the last one, and puts it in force.
    ///
    /// A record that cannot be read, or does not have the gateway's tag, is reported and not used: what was known of it
    /// before stays in force. That there is one is enough to let nobody in without a key.
    ///
    /// # Errors
    /// If the store cannot be reached; nothing changes then.
    pub async fn look(&mut self) -> Result<(), ArtifactError> {
        let survey = self.artifacts.survey().await?;
        for (path, generation) in &survey.records {
            self.changed |= match path {
                RecordPath::Tenant(_) => {
                    read(&self.artifacts, &mut self.tenants, &mut self.unreadable, path, *generation).await?
                }
                RecordPath::Key(..) => {
                    self.authenticator.require_keys();
                    read(&self.artifacts, &mut self.keys, &mut self.unreadable, path, *generation).await?
                }
                RecordPath::Settings(..) | RecordPath::Version(..) => false,
            };
        }
        for fault in survey.faults {
            let ours = matches!(fault.record, RecordPath::Tenant(_) | RecordPath::Key(..));
            if ours && self.lost.insert(fault.record.clone()) {
                let (record, reason) = (fault.record, fault.reason);
                tracing::error!(%record, reason, "a record was put back; the newer one stays in force");
            }
        }
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

    /// Looks again after each such time, until `stopped`.
    pub async fn run(mut self, every: Duration, stopped: impl Future<Output = ()>) {
        let mut stopped = pin!(stopped);
        let mut reachable = true;
        loop {
            tokio::select! {
                () = &mut stopped => return,
                () = tokio::time::sleep(every) => {}
            }
            let looked = tokio::select! {
                () = &mut stopped => return,
                looked = self.look() => looked,
            };
            match &looked {
                Ok(()) if !reachable => tracing::info!("the artifact store can be reached again"),
                Err(error) if reachable => {
                    tracing::warn!(%error, "the keys cannot be looked up; the last ones stay in force");
                }
                _ => {}
            }
            reachable = looked.is_ok();
        }
    }
}

/// Reads a record if its generation is not the one that is known. Says whether it was.
async fn read<T: DeserializeOwned>(
    artifacts: &Artifacts,
    known: &mut BTreeMap<RecordPath, (Generation, T)>,
    unreadable: &mut BTreeSet<(RecordPath, Generation)>,
    path: &RecordPath,
    generation: Generation,
) -> Result<bool, ArtifactError> {
    if known.get(path).is_some_and(|(known, _)| *known >= generation) {
        return Ok(false);
    }
    match artifacts.read(path, generation).await {
        Ok(record) => {
            known.insert(path.clone(), (generation, record));
            Ok(true)
        }
        Err(error @ ArtifactError::Unavailable(_)) => Err(error),
        Err(error) => {
            if unreadable.insert((path.clone(), generation)) {
                tracing::error!(%error, "a record is not used");
            }
            Ok(false)
        }
    }
}
