//! Namespaces: each tenant's own models, and behind them the operator's, which all tenants share unless the operator keeps them
//! to the tenant `default`.
//!
//! A tenant's own model hides a shared one of the same name, whatever its state: a model that fails to load must not turn
//! into somebody else's. There is no way from one tenant's namespace into another's.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;

use crate::{
    digest::Hasher,
    name::{ModelName, TenantName, Version},
};

use super::catalog::{Catalog, FindError, IndexEntry, Model, State};

/// Whose model it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// The operator's.
    Shared,
    Tenant(TenantName),
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "shared",
            Self::Tenant(_) => "tenant",
        })
    }
}

/// Which version of a model a caller wants: none in particular, a version, or an alias that stands for some.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    version: Option<Version>,
    /// Callers that give the same text get the same version of an alias.
    sticky: Option<Vec<u8>>,
}

impl Wanted {
    pub fn new(version: Option<&Version>, sticky: Option<&[u8]>) -> Self {
        Self { version: version.cloned(), sticky: sticky.map(<[u8]>::to_vec) }
    }

    pub(super) fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }

    /// A point below `total` that chooses among shares: the same for the same text, else evenly spread over calls.
    pub(super) fn point(&self, alias: &Version, total: u64) -> Option<u64> {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        /// 2^64 divided by the golden ratio: its multiples spread evenly, however few are taken (Weyl's sequence).
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let spread = match &self.sticky {
            Some(text) => {
                let mut hasher = Hasher::default();
                hasher.update(alias.as_str().as_bytes());
                hasher.update(b"\0");
                hasher.update(text);
                let digest = hasher.finish();
                digest.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
            }
            None => CALLS.fetch_add(1, Ordering::Relaxed).wrapping_mul(STEP),
        };
        // The upper half of a 128-bit product scales evenly to [0, total).
        let scaled = (u128::from(spread) * u128::from(total)) >> 64;
        if total == 0 { None } else { u64::try_from(scaled).ok() }
    }
}

impl From<&Version> for Wanted {
    fn from(version: &Version) -> Self {
        Self::new(Some(version), None)
    }
}

/// Every catalog of the gateway.
#[derive(Debug)]
pub struct Namespaces {
    shared: Arc<Catalog>,
    /// Whether the operator's models serve every tenant.
    open: bool,
    tenants: ArcSwap<BTreeMap<TenantName, Arc<Catalog>>>,
}

impl Namespaces {
    /// With the operator's models, which serve every tenant if `open`, and otherwise the tenant `default` alone.
    pub fn new(shared: Arc<Catalog>, open: bool) -> Self {
        Self { shared, open, tenants: ArcSwap::default() }
    }

    /// The operator's models, for those that they serve.
    fn shared(&self, tenant: &TenantName) -> Option<&Arc<Catalog>> {
        (self.open || tenant.is_default()).then_some(&self.shared)
    }

    /// The catalog of a tenant's own models, made if need be.
    pub(super) fn own(&self, tenant: &TenantName) -> Arc<Catalog> {
        if let Some(catalog) = self.tenants.load().get(tenant) {
            return Arc::clone(catalog);
        }
        self.tenants.rcu(|tenants| {
            let mut tenants = BTreeMap::clone(tenants);
            tenants.entry(tenant.clone()).or_default();
            tenants
        });
        self.tenants.load().get(tenant).cloned().unwrap_or_default()
    }

    /// Where that model of the tenant is found: among its own, or among the shared ones; `None` if it may be in neither.
    fn home(&self, tenant: &TenantName, model: &ModelName) -> Option<Arc<Catalog>> {
        let own = self.tenants.load().get(tenant).filter(|catalog| catalog.knows(model)).cloned();
        own.or_else(|| self.shared(tenant).cloned())
    }

    /// The model that answers a tenant. Whether it is missing or somebody else's makes no difference to the answer.
    pub fn find(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        wanted: &Wanted,
    ) -> Result<Arc<Model>, FindError> {
        match self.home(tenant, model) {
            Some(home) => home.find(model, wanted),
            None => Err(FindError::UnknownModel { model: model.clone() }),
        }
    }

    /// The model that answers a guest: names resolve where the calling model lives, so that a tenant cannot put a model of
    /// its own in the way of what an operator's pipeline calls.
    pub fn find_for_guest(
        &self,
        caller: &Namespace,
        model: &ModelName,
        wanted: &Wanted,
    ) -> Result<Arc<Model>, FindError> {
        match caller {
            Namespace::Shared => self.shared.find(model, wanted),
            Namespace::Tenant(tenant) => self.find(tenant, model, wanted),
        }
    }

    /// The versions of a model that are ready, in ascending order.
    pub fn versions(&self, tenant: &TenantName, model: &ModelName) -> Vec<Version> {
        self.home(tenant, model).map(|home| home.versions(model)).unwrap_or_default()
    }

    /// Every version that a tenant can call, ordered by name and version.
    pub fn served(&self, tenant: &TenantName) -> Vec<Arc<Model>> {
        let own = self.tenants.load().get(tenant).cloned();
        let mut served = own.as_ref().map(|own| own.served(None)).unwrap_or_default();
        let hidden = |name: &ModelName| own.as_ref().is_some_and(|own| own.knows(name));
        let shared = self.shared(tenant).map(|shared| shared.served(None)).unwrap_or_default();
        served.extend(shared.into_iter().filter(|model| !hidden(&model.name)));
        served.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
        served
    }

    /// The versions of a model that a tenant can call, in ascending order, or the one that it names.
    ///
    /// # Errors
    /// As [`find`](Self::find): there is none.
    pub fn served_of(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        version: Option<&Version>,
    ) -> Result<Vec<Arc<Model>>, FindError> {
        let found = self.find(tenant, model, &Wanted::new(version, None))?;
        Ok(match version {
            Some(_) => vec![found],
            None => self.home(tenant, model).map(|home| home.served(Some(model))).unwrap_or_default(),
        })
    }

    /// Every version of every model that anybody can call.
    pub fn all_served(&self) -> Vec<Arc<Model>> {
        let mut served = self.shared.served(None);
        served.extend(self.tenants.load().values().flat_map(|own| own.served(None)));
        served
    }

    /// Every model that a tenant can see, ordered by name and version.
    pub fn index(&self, tenant: &TenantName) -> Vec<IndexEntry> {
        let own = self.tenants.load().get(tenant).cloned();
        let mut index = own.as_ref().map(|own| own.index()).unwrap_or_default();
        let hidden = |name: &ModelName| own.as_ref().is_some_and(|own| own.knows(name));
        let shared = self.shared(tenant).map(|shared| shared.index()).unwrap_or_default();
        index.extend(shared.into_iter().filter(|entry| !hidden(&entry.name)));
        index.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
        index
    }

    /// How many versions are ready in all.
    pub fn ready(&self) -> usize {
        let count =
            |catalog: &Catalog| catalog.index().iter().filter(|entry| entry.state == State::Ready).count();
        count(&self.shared) + self.tenants.load().values().map(|catalog| count(catalog)).sum::<usize>()
    }
}
