//! The quota of every tenant, as it is in force.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;

use crate::name::TenantName;

use super::{Limits, Quota, TenantLimits, tenant::Rules};

/// What each tenant may use. What the operator changes is put in here, and counts for whatever begins from then on.
#[derive(Debug)]
pub struct Quotas {
    rules: Rules,
    /// Of those that have limits of their own.
    own: ArcSwap<BTreeMap<TenantName, Quota>>,
    /// Of those that have none, and of the tenant `default` if it has none.
    named: Quota,
    default_tenant: Quota,
}

impl Quotas {
    pub fn new(limits: &Limits) -> Self {
        let rules = Rules::new(limits);
        let open = TenantLimits::default();
        let (named, default_tenant) = (rules.quota(false, &open), rules.quota(true, &open));
        Self { rules, own: ArcSwap::default(), named, default_tenant }
    }

    pub fn of(&self, tenant: &TenantName) -> Quota {
        if let Some(quota) = self.own.load().get(tenant) {
            return *quota;
        }
        if tenant.is_default() { self.default_tenant } else { self.named }
    }

    /// What a tenant would have with these limits.
    pub fn with(&self, tenant: &TenantName, own: &TenantLimits) -> Quota {
        self.rules.quota(tenant.is_default(), own)
    }

    /// Puts these limits in the place of all that were set before.
    pub fn install(&self, own: impl IntoIterator<Item = (TenantName, TenantLimits)>) {
        let own = own.into_iter().filter(|(_, own)| *own != TenantLimits::default());
        let quotas = own.map(|(tenant, own)| {
            let quota = self.with(&tenant, &own);
            (tenant, quota)
        });
        self.own.store(Arc::new(quotas.collect()));
    }
}
