//! Creating, listing and ending tenants and keys.

use std::{fmt, pin::pin, sync::Arc};

use futures_util::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{AdminError, MAX_LABEL, MAX_LIVE_KEYS, TenantRecord};
use crate::{
    authenticate::{ApiKey, KeyId, KeyRecord, Scopes, mint},
    limits::TenantLimits,
    name::TenantName,
    repository::artifacts::{ArtifactError, Artifacts, Generation, RecordPath, Revision},
    secret::Key,
};

/// How often a change is tried again because somebody else was faster.
const TRIES: usize = 8;

/// The tenants and keys of one store.
#[derive(Clone)]
pub struct Tenants {
    artifacts: Arc<Artifacts>,
    /// Tags the secrets of keys.
    pepper: Key,
}

/// What a new key is to be.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    pub scopes: Scopes,
    pub label: Option<String>,
    /// Seconds since 1970.
    pub expires: Option<u64>,
}

/// A key and the tenant that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyOf {
    pub tenant: TenantName,
    pub record: KeyRecord,
}

impl KeyOf {
    /// What may be told of a key at `now`: everything but how to use it.
    pub fn shown(&self, now: u64) -> Value {
        let record = &self.record;
        json!({
            "id": record.id, "tenant": self.tenant, "scopes": record.scopes, "state": record.state(now),
            "created": record.created, "expires": record.expires, "revoked": record.revoked,
            "label": record.label,
        })
    }
}

impl Tenants {
    pub fn new(artifacts: Arc<Artifacts>, pepper: Key) -> Self {
        Self { artifacts, pepper }
    }

    /// Makes a tenant. Says whether there was none before. The name of one that was removed stays taken: what it published
    /// and what it used are kept under its name, and are nobody else's.
    pub async fn create(&self, tenant: &TenantName, now: u64) -> Result<(TenantRecord, bool), AdminError> {
        self.create_with(tenant, TenantLimits::default(), now).await
    }

    /// The same with limits of its own; one that is there already keeps those that it has.
    pub async fn create_with(
        &self,
        tenant: &TenantName,
        limits: TenantLimits,
        now: u64,
    ) -> Result<(TenantRecord, bool), AdminError> {
        let path = RecordPath::Tenant(tenant.clone());
        for _ in 0..TRIES {
            let found = self.artifacts.newest::<TenantRecord>(&path).await?;
            match &found {
                Some((_, record)) if record.removed.is_none() => return Ok((record.clone(), false)),
                Some(_) => return Err(AdminError::NameTaken(tenant.clone())),
                None => {}
            }
            let record = TenantRecord { created: now, removed: None, limits };
            match self.artifacts.append(&path, found.map(|(generation, _)| generation), &record).await {
                Ok(_) => return Ok((record, true)),
                Err(ArtifactError::Taken(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ArtifactError::Taken(path).into())
    }

    /// What the store says of a tenant, and which generation of its record says so.
    pub async fn tenant(&self, tenant: &TenantName) -> Result<(Generation, TenantRecord), AdminError> {
        let found = self.artifacts.newest::<TenantRecord>(&RecordPath::Tenant(tenant.clone())).await?;
        let there = found.filter(|(_, record)| record.removed.is_none());
        there.ok_or_else(|| AdminError::UnknownTenant(tenant.clone()))
    }

    /// Changes a tenant's limits. Where a revision is expected, only if its record is still that one.
    ///
    /// # Errors
    /// [`AdminError::Changed`] if it is not.
    pub async fn change_limits(
        &self,
        tenant: &TenantName,
        expected: Option<Revision>,
        change: impl Fn(TenantLimits) -> Result<TenantLimits, AdminError>,
    ) -> Result<(Generation, TenantRecord), AdminError> {
        let unknown = || AdminError::UnknownTenant(tenant.clone());
        let change = |generation: Generation, record: TenantRecord| {
            if record.removed.is_some() {
                return Err(unknown());
            }
            if expected.is_some_and(|expected| expected != generation.into()) {
                return Err(AdminError::Changed(tenant.clone()));
            }
            let limits = change(record.limits)?;
            Ok((limits != record.limits).then_some(TenantRecord { limits, ..record }))
        };
        self.change(&RecordPath::Tenant(tenant.clone()), unknown, change).await
    }

    /// The tenants that are there, by name.
    pub async fn list(&self) -> Result<Vec<(TenantName, TenantRecord)>, AdminError> {
        let listed = self.artifacts.survey().await?.of(|path, _| matches!(path, RecordPath::Tenant(_)));
        let mut tenants = Vec::new();
        let mut reads = pin!(self.artifacts.read_each::<TenantRecord>(listed));
        while let Some((path, _, record)) = reads.next().await {
            let record = record?;
            if record.removed.is_none() {
                tenants.push((path.tenant().clone(), record));
            }
        }
        tenants.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(tenants)
    }

    /// Ends a tenant and all of its keys, and says how many of them were live. The first put already shuts them all out.
    pub async fn remove(&self, tenant: &TenantName, now: u64) -> Result<usize, AdminError> {
        let path = RecordPath::Tenant(tenant.clone());
        self.change(
            &path,
            || AdminError::UnknownTenant(tenant.clone()),
            |_, record: TenantRecord| {
                if record.removed.is_some() {
                    return Err(AdminError::UnknownTenant(tenant.clone()));
                }
                Ok(Some(TenantRecord { removed: Some(now), ..record }))
            },
        )
        .await?;
        self.revoke_all(tenant, now).await
    }

    async fn revoke_all(&self, tenant: &TenantName, now: u64) -> Result<usize, AdminError> {
        let mut revoked = 0;
        for key in self.keys(Some(tenant)).await? {
            if key.record.revoked.is_none() {
                self.revoke(Some(tenant), key.record.id, now).await?;
                revoked += 1;
            }
        }
        Ok(revoked)
    }

    /// Makes a key. It is in the answer and nowhere else: who loses it makes another one.
    ///
    /// Of two that are made at the same moment, both may pass the limit of live keys.
    pub async fn create_key(
        &self,
        tenant: &TenantName,
        new: NewKey,
        now: u64,
    ) -> Result<(ApiKey, KeyOf), AdminError> {
        if new.scopes.is_empty() {
            return Err(AdminError::NoScopes);
        }
        let printable =
            |label: &String| label.chars().count() <= MAX_LABEL && !label.chars().any(char::is_control);
        if !new.label.as_ref().is_none_or(printable) {
            return Err(AdminError::Label);
        }
        if new.expires.is_some_and(|expires| expires <= now) {
            return Err(AdminError::Expired);
        }
        let path = RecordPath::Tenant(tenant.clone());
        let found = self.artifacts.newest::<TenantRecord>(&path).await?;
        if found.is_none_or(|(_, record)| record.removed.is_some()) {
            return Err(AdminError::UnknownTenant(tenant.clone()));
        }
        let ids: Vec<KeyId> = self
            .keys(Some(tenant))
            .await?
            .into_iter()
            .filter(|key| key.record.scopes == new.scopes && key.record.is_live(now))
            .map(|key| key.record.id)
            .collect();
        if ids.len() >= MAX_LIVE_KEYS {
            return Err(AdminError::TooManyKeys { tenant: tenant.clone(), scopes: new.scopes, ids });
        }
        let (key, record) = mint(&self.pepper, new.scopes, now)?;
        let record = KeyRecord { label: new.label, expires: new.expires, ..record };
        self.artifacts.append(&RecordPath::Key(tenant.clone(), record.id.to_string()), None, &record).await?;
        Ok((key, KeyOf { tenant: tenant.clone(), record }))
    }

    /// All keys, or those of one tenant, revoked and expired ones included; the oldest first.
    pub async fn keys(&self, of: Option<&TenantName>) -> Result<Vec<KeyOf>, AdminError> {
        let is_of = |tenant: &TenantName| of.is_none_or(|of| of == tenant);
        let survey = self.artifacts.survey().await?;
        let listed = survey.of(|path, _| matches!(path, RecordPath::Key(tenant, _) if is_of(tenant)));
        let mut keys = Vec::new();
        let mut reads = pin!(self.artifacts.read_each(listed));
        while let Some((path, _, record)) = reads.next().await {
            keys.push(KeyOf { tenant: path.tenant().clone(), record: record? });
        }
        keys.sort_by(|one, other| {
            (&one.tenant, one.record.created, one.record.id).cmp(&(
                &other.tenant,
                other.record.created,
                other.record.id,
            ))
        });
        Ok(keys)
    }

    /// Ends a key, of that tenant if one is given. Doing so twice changes nothing.
    pub async fn revoke(&self, of: Option<&TenantName>, id: KeyId, now: u64) -> Result<KeyOf, AdminError> {
        let text = id.to_string();
        let survey = self.artifacts.survey().await?;
        let path = survey.records.into_keys().find(|path| match path {
            RecordPath::Key(tenant, id) => *id == text && of.is_none_or(|of| of == tenant),
            _ => false,
        });
        let path = path.ok_or(AdminError::UnknownKey(id))?;
        let (_, record) = self
            .change(
                &path,
                || AdminError::UnknownKey(id),
                |_, record: KeyRecord| {
                    Ok(record.revoked.is_none().then_some(KeyRecord { revoked: Some(now), ..record }))
                },
            )
            .await?;
        Ok(KeyOf { tenant: path.tenant().clone(), record })
    }

    /// Writes what `new` makes of a generation of a record, however many others change it at the same time; `None` leaves it
    /// as it is.
    async fn change<T: Serialize + DeserializeOwned + Clone>(
        &self,
        path: &RecordPath,
        missing: impl Fn() -> AdminError,
        new: impl Fn(Generation, T) -> Result<Option<T>, AdminError>,
    ) -> Result<(Generation, T), AdminError> {
        for _ in 0..TRIES {
            let (generation, record) = self.artifacts.newest::<T>(path).await?.ok_or_else(&missing)?;
            let Some(changed) = new(generation, record.clone())? else { return Ok((generation, record)) };
            match self.artifacts.append(path, Some(generation), &changed).await {
                Ok(generation) => return Ok((generation, changed)),
                Err(ArtifactError::Taken(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ArtifactError::Taken(path.clone()).into())
    }
}

impl fmt::Debug for Tenants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tenants").field("artifacts", &self.artifacts).finish_non_exhaustive()
    }
}
