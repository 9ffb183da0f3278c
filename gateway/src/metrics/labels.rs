//! Labels: which tenants, models and versions have series of their own.

use std::{collections::HashSet, hash::Hash};

use crate::name::{ModelName, TenantName, Version};

/// Series of one kind that are told apart. Whoever comes first keeps its own: a series that vanished from one scrape to the next
/// would look like a counter that was set back.
pub(super) const MAX_SERIES: usize = 1000;

/// What everything beyond is called. It is no name that a tenant or a model could have.
pub(super) const OTHER: &str = "_other";

/// The series that there have been so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    models: HashSet<[String; 2]>,
    versions: HashSet<[String; 3]>,
    served: HashSet<[String; 3]>,
}

impl Seen {
    /// A tenant's calls of a model, or of all names that are none.
    pub(super) fn model(&mut self, tenant: &TenantName, model: Option<&ModelName>) -> [String; 2] {
        keep(&mut self.models, [tenant.to_string(), model.map(ToString::to_string).unwrap_or_default()])
    }

    /// A tenant's calls of a version.
    pub(super) fn version(
        &mut self,
        tenant: &TenantName,
        model: &ModelName,
        version: &Version,
    ) -> [String; 3] {
        keep(&mut self.versions, [tenant.to_string(), model.to_string(), version.to_string()])
    }

    /// A version, whoever calls it; of a shared one, which no tenant owns, the first label is empty, that is absent.
    pub(super) fn served(
        &mut self,
        owner: Option<&TenantName>,
        model: &ModelName,
        version: &Version,
    ) -> [String; 3] {
        let owner = owner.map(ToString::to_string).unwrap_or_default();
        keep(&mut self.served, [owner, model.to_string(), version.to_string()])
    }
}

fn keep<const N: usize>(seen: &mut HashSet<[String; N]>, labels: [String; N]) -> [String; N]
where
    [String; N]: Eq + Hash + Clone,
{
    if seen.contains(&labels) {
        return labels;
    }
    if seen.len() >= MAX_SERIES {
        return std::array::from_fn(|_| OTHER.to_owned());
    }
    seen.insert(labels.clone());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_first_keeps_its_series_and_all_others_share_one() {
        let mut seen = Seen::default();
        let tenant: TenantName = "acme".parse().expect("a name");
        let model = |number: usize| format!("m{number}").parse::<ModelName>().expect("a name");
        for number in 0..2 * MAX_SERIES {
            let labels = seen.model(&tenant, Some(&model(number)));
            assert_eq!(labels[1] == OTHER, number >= MAX_SERIES);
        }
        assert_eq!(seen.model(&tenant, Some(&model(0))), ["acme", "m0"]);
        assert_eq!(seen.model(&tenant, Some(&model(MAX_SERIES))), [OTHER, OTHER]);
        assert!(OTHER.parse::<ModelName>().is_err(), "a model could be called that");
    }
}
