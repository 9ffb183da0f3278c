//! Polling: noticing what changed on disk since the last look.

use std::{collections::BTreeSet, sync::Arc};

use tokio::task::JoinSet;

use crate::name::ModelName;

use super::{
    Repository,
    load::{Loading, Retry},
    lock,
};

impl Repository {
    /// One look at the repository. What differs from what is served, and is the same as at the look before, is loaded,
    /// reloaded or removed: a file that is still being written differs from look to look. A writer that pauses for
    /// longer than the time between two looks is taken to be done.
    pub async fn poll(&self) {
        let shared = &self.shared;
        let survey = match shared.survey().await {
            Ok(survey) => survey,
            Err(reason) => {
                // Nothing is unloaded because the disk is away.
                tracing::error!(reason, "the model repository cannot be read");
                return;
            }
        };
        let previous = std::mem::replace(&mut *lock(&shared.last), survey.clone());
        for reason in survey.ignored.iter().filter(|reason| !previous.ignored.contains(reason)) {
            tracing::warn!(reason, "ignored in the model repository");
        }
        let known: BTreeSet<ModelName> = lock(&shared.models).keys().cloned().collect();
        let mut loads = JoinSet::new();
        for name in known.iter().chain(survey.models.keys()).collect::<BTreeSet<_>>() {
            let now = survey.models.get(name);
            if now != previous.models.get(name) {
                continue;
            }
            let (shared, name, now) = (Arc::clone(shared), name.clone(), now.cloned());
            loads.spawn(async move {
                let loading = Loading::begin(&shared, &name).await;
                match now {
                    Some(now) if loading.applied() != Some(&now) || loading.is_due() => {
                        let _reported = loading.apply(now, Retry::Changed).await;
                    }
                    None if loading.applied().is_some() => {
                        loading.remove();
                        lock(&shared.models).remove(&name);
                    }
                    _ => {}
                }
            });
        }
        while loads.join_next().await.is_some() {}
    }

    /// Loads the versions whose time to be tried again has come, from the files that they had: other files are not looked for.
    pub(super) async fn retry(&self) {
        let known: Vec<ModelName> = lock(&self.shared.models).keys().cloned().collect();
        let mut loads = JoinSet::new();
        for name in known {
            let shared = Arc::clone(&self.shared);
            loads.spawn(async move {
                let loading = Loading::begin(&shared, &name).await;
                if let Some(applied) = loading.applied().cloned().filter(|_| loading.is_due()) {
                    let _reported = loading.apply(applied, Retry::Changed).await;
                }
            });
        }
        while loads.join_next().await.is_some() {}
    }
}
