//! Following the store: one look at it now and then, from which everybody who follows it learns.
//!
//! A look is one listing of all records, the same for keys and models, whatever reads them: the store is asked once, not
//! once for each. Whoever is slow (reads much, waits for a store that stalls) delays nobody else: each has the newest look
//! in its hands when it comes back for it.

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::watch;

use super::{ArtifactError, Artifacts, RecordPath, Survey};

/// Time between two looks at the store: what anybody changes there is in force within five seconds.
pub const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);

/// The newest look at the store. There is no newer one once nobody looks any more.
pub type Surveys = watch::Receiver<Arc<Survey>>;

/// Looks at the store, and hands over what is there.
#[derive(Debug)]
pub struct Follow {
    artifacts: Arc<Artifacts>,
    surveys: watch::Sender<Arc<Survey>>,
    /// Records that are gone or older than before, so that each is reported once.
    lost: Mutex<BTreeSet<RecordPath>>,
}

impl Follow {
    /// Begins with a first look.
    ///
    /// # Errors
    /// If the store cannot be reached.
    pub async fn begin(artifacts: Arc<Artifacts>) -> Result<(Self, Surveys), ArtifactError> {
        let (surveys, newest) = watch::channel(Arc::default());
        let follow = Self { artifacts, surveys, lost: Mutex::default() };
        follow.look().await?;
        Ok((follow, newest))
    }

    /// One look at the store. If it cannot be reached, the last look remains the newest.
    pub async fn look(&self) -> Result<(), ArtifactError> {
        let survey = self.artifacts.survey().await?;
        for fault in &survey.faults {
            let mut lost = self.lost.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if lost.insert(fault.record.clone()) {
                let (record, reason) = (&fault.record, &fault.reason);
                tracing::error!(%record, reason, "a record was put back; the newer one stays in force");
            }
        }
        self.surveys.send_replace(Arc::new(survey));
        Ok(())
    }

    /// Looks again after each such time, until `stopped`.
    pub async fn run(self, every: Duration, stopped: impl Future<Output = ()>) {
        let mut stopped = pin!(stopped);
        let mut reachable = true;
        loop {
            let look = async {
                tokio::time::sleep(every).await;
                self.look().await
            };
            let looked = tokio::select! {
                () = &mut stopped => return,
                looked = look => looked,
            };
            match &looked {
                Ok(()) if !reachable => tracing::info!("the artifact store can be reached again"),
                Err(error) if reachable => {
                    tracing::warn!(%error, "the artifact store cannot be looked at; what was known of it stays in force");
                }
                _ => {}
            }
            reachable = looked.is_ok();
        }
    }
}
