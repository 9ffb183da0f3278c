//! Quarantine: a model that fails one call of a tenant after the other is not run for that tenant for a while.
//!
//! Kept for each tenant that calls and for the content that a version was loaded from: one tenant's inputs do not switch a
//! shared model off for others, and the same content under another name is the same model. Faults count while no good
//! answer comes between them, so a model that answers some inputs and not others stays in service.
//!
//! It saves what failing costs: the body, the turn, the instance, the lines in the log. It does not stop a tenant that
//! publishes a new broken model for every twenty calls; its quotas do.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    consumption::Consumption,
    deadline::RunDeadline,
    digest::Digest,
    execute::ExecuteError,
    limits::QuarantineLimits,
    name::{ModelName, TenantName},
};

/// A run that used less than this part of its time on a processor ran into its deadline because others had it.
const PART_OF_TIME: u32 = 4;

/// A model that is not run now.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "model '{model}' is in quarantine: its last {faults} runs for this tenant failed; it is tried again after {seconds} s"
)]
pub struct Quarantined {
    pub model: ModelName,
    pub faults: u32,
    pub seconds: u32,
}

/// Who calls what.
type Pair = (TenantName, Digest);

/// All pairs of a tenant and a model of which something failed of late.
#[derive(Debug)]
pub struct Quarantine {
    limits: QuarantineLimits,
    troubled: Mutex<HashMap<Pair, Trouble>>,
    /// How many there are. While there is none, which is nearly always, nobody takes the lock.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Trouble {
    /// The first of the faults that count together, and how many they are.
    since: Instant,
    faults: u32,
    /// What the last quarantine was, and when it ends or ended.
    last: Option<(Duration, Instant)>,
}

impl Trouble {
    /// Seconds that are left of a quarantine.
    fn left(&self, now: Instant) -> Option<u32> {
        let (_, end) = self.last.filter(|(_, end)| *end > now)?;
        let left = end - now;
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        Some(u32::try_from(seconds).unwrap_or(u32::MAX))
    }
}

impl Quarantine {
    pub fn new(limits: &QuarantineLimits) -> Arc<Self> {
        Arc::new(Self { limits: limits.clone(), troubled: Mutex::default(), count: AtomicUsize::new(0) })
    }

    /// Whether a tenant's call of a model may go on.
    ///
    /// # Errors
    /// If it may not, and after what time it may be tried again.
    pub fn check(&self, tenant: &TenantName, model: &ModelName, content: &Digest) -> Result<(), Quarantined> {
        self.check_at(tenant, model, content, Instant::now())
    }

    /// How many pairs of a tenant and a model are not run now.
    pub fn held(&self) -> usize {
        let now = Instant::now();
        self.with(|troubled| troubled.values().filter(|trouble| trouble.left(now).is_some()).count())
    }

    fn check_at(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        content: &Digest,
        now: Instant,
    ) -> Result<(), Quarantined> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let left = self.with(|troubled| troubled.get(&(tenant.clone(), *content))?.left(now));
        let refused = |seconds| Quarantined { model: model.clone(), faults: self.limits.faults, seconds };
        left.map_or(Ok(()), |seconds| Err(refused(seconds)))
    }

    /// Lets a tenant's run of a model begin, whose use of the processor is counted in `consumed`, which has to end by the
    /// deadline and which model and tenant would allow so much time.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn enter(
        self: &Arc<Self>,
        (tenant, model, content): (&TenantName, &ModelName, &Digest),
        consumed: Arc<Consumption>,
        deadline: RunDeadline,
        allowed: Duration,
    ) -> Result<Visit, Quarantined> {
        self.check(tenant, model, content)?;
        Ok(Visit {
            quarantine: Arc::clone(self),
            tenant: tenant.clone(),
            model: model.clone(),
            content: *content,
            run: Run { begun: Instant::now(), cpu_nanos: consumed.cpu_nanos(), deadline, allowed },
            consumed,
            waits: Arc::default(),
            noted: false,
        })
    }

    fn note_at(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        content: &Digest,
        came_to: Outcome,
        now: Instant,
    ) {
        match came_to {
            Outcome::Good if self.count.load(Ordering::Relaxed) > 0 => {
                self.with(|troubled| troubled.remove(&(tenant.clone(), *content)));
            }
            Outcome::Fault if self.limits.faults > 0 => {
                let begun = self.with(|troubled| self.fault(troubled, (tenant.clone(), *content), now));
                if let Some(time) = begun {
                    let faults = self.limits.faults;
                    tracing::warn!(%tenant, %model, %content, faults, ?time, "model in quarantine: it failed again and again");
                }
            }
            _ => {}
        }
    }

    /// Counts a fault; the length of the quarantine if one begins with it.
    fn fault(&self, troubled: &mut HashMap<Pair, Trouble>, pair: Pair, now: Instant) -> Option<Duration> {
        let QuarantineLimits { faults, window, time, longest } = self.limits;
        if !troubled.contains_key(&pair) {
            // Those that say no more than a new one would: there are no more of the others than failed within that time.
            troubled.retain(|_, trouble| {
                let end = trouble.last.map_or(trouble.since + window, |(_, end)| end + longest);
                end > now
            });
        }
        let trouble = troubled.entry(pair).or_insert(Trouble { since: now, faults: 0, last: None });
        if trouble.left(now).is_some() {
            // It was running already when the quarantine began.
            return None;
        }
        if now.saturating_duration_since(trouble.since) > window {
            (trouble.since, trouble.faults) = (now, 0);
        }
        trouble.faults += 1;
        if trouble.faults < faults {
            return None;
        }
        let next = match trouble.last {
            // Quiet for as long as the longest quarantine: it begins anew.
            Some((last, end)) if now.saturating_duration_since(end) < longest => (last * 2).min(longest),
            _ => time.min(longest),
        };
        (trouble.faults, trouble.last) = (0, Some((next, now + next)));
        Some(next)
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<Pair, Trouble>) -> T) -> T {
        let mut troubled = self.troubled.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut troubled);
        self.count.store(troubled.len(), Ordering::Relaxed);
        result
    }
}

/// What a run says of its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It answered.
    Good,
    /// It trapped, wanted too much memory, contradicted its signature, or computed until its time was over.
    Fault,
    /// It refused its input, failed in good order, or did not get what it needed: its client's doing, or others'.
    Unclear,
}

/// A run that has begun, and whose outcome is noted when it ends.
#[derive(Debug)]
pub struct Visit {
    quarantine: Arc<Quarantine>,
    tenant: TenantName,
    model: ModelName,
    content: Digest,
    consumed: Arc<Consumption>,
    run: Run,
    /// Another model, which this one called, has not answered it.
    waits: Arc<AtomicBool>,
    noted: bool,
}

impl Visit {
    /// To be set while the model waits for another one.
    pub fn waits(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.waits)
    }

    pub fn ended<T>(mut self, result: &Result<T, ExecuteError>) {
        self.note(result);
    }

    fn note<T>(&mut self, result: &Result<T, ExecuteError>) {
        self.noted = true;
        let waits = self.waits.load(Ordering::Relaxed);
        let outcome = self.run.outcome(result, self.consumed.cpu_nanos(), waits);
        self.quarantine.note_at(&self.tenant, &self.model, &self.content, outcome, Instant::now());
    }
}

/// A run that nobody waits for any more says something only if that is because its time is over.
impl Drop for Visit {
    fn drop(&mut self) {
        if !self.noted && self.run.deadline.now().passed() {
            self.note(&Err::<(), _>(ExecuteError::Deadline));
        }
    }
}

/// How a run began.
#[derive(Debug)]
struct Run {
    begun: Instant,
    cpu_nanos: u64,
    deadline: RunDeadline,
    /// The time that the model and the tenant allow, which a client may have shortened, or spent on waiting.
    allowed: Duration,
}

impl Run {
    /// What the end of the run says of the model, if the request has used that much processor time by now.
    fn outcome<T>(&self, result: &Result<T, ExecuteError>, cpu_nanos: u64, waits: bool) -> Outcome {
        match result {
            Ok(_) => Outcome::Good,
            Err(ExecuteError::Trapped { .. } | ExecuteError::Memory { .. } | ExecuteError::Output(_)) => {
                Outcome::Fault
            }
            Err(ExecuteError::Deadline) if !waits && self.had_its_time(cpu_nanos) => Outcome::Fault,
            Err(
                ExecuteError::Deadline
                | ExecuteError::InvalidInput(_)
                | ExecuteError::Failed(_)
                | ExecuteError::Several
                | ExecuteError::Busy,
            ) => Outcome::Unclear,
        }
    }

    /// Whether it had all the time that it could have, but for what arriving takes, and a good part of that on a processor.
    fn had_its_time(&self, cpu_nanos: u64) -> bool {
        let given = self.deadline.first().instant().saturating_duration_since(self.begun);
        let used = Duration::from_nanos(cpu_nanos.saturating_sub(self.cpu_nanos));
        given >= self.allowed * 9 / 10 && used >= given / PART_OF_TIME
    }
}

#[cfg(test)]
mod tests;
