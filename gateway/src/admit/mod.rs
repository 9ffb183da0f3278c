//! Admit: which requests may hold memory, and which may run now.
//!
//! Two bounds for the whole gateway: bytes of requests and answers in memory, and requests that run. Who cannot run waits,
//! bounded in number and by its own deadline; who cannot wait is refused at once. Nested calls (`models.infer`) ride on
//! their caller's permit and never come here, so pipelines cannot deadlock.
//!
//! Each tenant has bounds of its own before these: requests within a second, and requests that run and wait. A tenant that
//! fills them does not stand in the gateway's queue with more than it may run. Below them tenants are served in the order in
//! which they come: whose turn it is among the running is decided where models run.
//!
//! Who would wait too long is refused at once, see [`backlog`]. Refusals cost time as well, see [`pace`].
//!
//! Not counted: what a body takes while it is being decompressed and decoded (large ones are decoded as many at a time as
//! there are cores), and what a model uses while it runs.

mod account;
mod backlog;
mod pace;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    deadline::Deadline,
    limits::{Limits, Quota, Rate},
    memory_watch::MemoryWatch,
    name::TenantName,
};

pub use account::Seat;
pub use pace::TooMany;

use account::{Account, Place};
use backlog::{Backlog, TooLong, Work};

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    #[error("the gateway holds as many bytes of requests and answers as it may; try again")]
    Bytes,
    #[error(
        "the gateway holds {0} bytes of requests and answers of this tenant, as many as may be; try again"
    )]
    TenantBytes(usize),
    #[error("{0} requests wait already; try again")]
    QueueFull(usize),
    #[error(
        "this tenant sends more than {rate} requests a second, as many as it may; try again after {seconds} s"
    )]
    TooOften { rate: Rate, seconds: u32 },
    #[error("{running} requests of this tenant run and {queued} wait, as many as may; try again")]
    TenantBusy { running: u64, queued: u64 },
    #[error(
        "the requests of this tenant that are under way take too long for another one; try again after {seconds} s"
    )]
    Behind { seconds: u32 },
    #[error("the gateway is short of memory, and no request waits for its turn; try again")]
    Memory,
    #[error("the deadline passed while the request waited for its turn")]
    Deadline,
}

/// What is taken of the gateway's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Requests that run.
    pub running: usize,
    /// Those that wait for their turn, behind their own tenant's or all others.
    pub waiting: usize,
    /// Bytes of requests and answers in memory.
    pub bytes: usize,
}

/// The gateway's bounds, and what is taken of them.
#[derive(Debug)]
pub struct Admission {
    running: Arc<Semaphore>,
    max_running: usize,
    queued: AtomicUsize,
    max_queued: usize,
    buffered: AtomicUsize,
    max_buffered: usize,
    /// Of one tenant that has limits, unless it is for one request.
    max_buffered_each: usize,
    /// Answers without a run that a tenant gets in a second.
    pace: Option<f64>,
    /// One for each core: decoding a large body is work and memory before anything is known of the request.
    decoding: Arc<Semaphore>,
    backlog: Arc<Backlog>,
    memory: Arc<MemoryWatch>,
    /// Of tenants with limits on their calls, those that called of late.
    accounts: Mutex<HashMap<TenantName, Arc<Account>>>,
}

impl Admission {
    pub fn new(limits: &Limits, memory: Arc<MemoryWatch>) -> Arc<Self> {
        let pace = limits.calls.refusals.requests();
        let limits = &limits.admit;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            running: Arc::new(Semaphore::new(limits.max_running)),
            max_running: limits.max_running,
            queued: AtomicUsize::new(0),
            max_queued: limits.max_queued,
            buffered: AtomicUsize::new(0),
            max_buffered: limits.max_buffered_bytes,
            max_buffered_each: limits.max_buffered_bytes / 4,
            pace,
            decoding: Arc::new(Semaphore::new(cores)),
            backlog: Backlog::new(cores),
            memory,
            accounts: Mutex::default(),
        })
    }

    /// What is taken now.
    pub fn taken(&self) -> Taken {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let own: usize = accounts.values().map(|account| account.waiting()).sum();
        Taken {
            running: self.max_running.saturating_sub(self.running.available_permits()),
            waiting: self.queued.load(Ordering::Relaxed) + own,
            bytes: self.buffered.load(Ordering::Relaxed),
        }
    }

    /// Waits for a turn to decode a large or compressed body, until the deadline at most.
    pub async fn decode(&self, deadline: Deadline) -> Result<Permit, AdmitError> {
        turn(&self.decoding, deadline).await
    }

    /// An empty reservation of bytes for a tenant; [`Reservation::grow`] takes from the gateway's budget, of which a tenant with
    /// limits has no more than a part.
    pub fn reservation(self: &Arc<Self>, tenant: &TenantName, quota: &Quota) -> Reservation {
        let own = (quota.running > 0).then(|| self.account(tenant));
        Reservation { admission: Arc::clone(self), own, bytes: 0, together: None }
    }

    /// Counts a request of a tenant before anything is done for it, and as long as what this returns is held: until its
    /// answer is sent or its peer is cut off. No more are under way than may run and wait.
    pub fn arrive(&self, tenant: &TenantName, quota: &Quota) -> Result<Option<Seat>, AdmitError> {
        self.take_token(tenant, quota)?;
        self.keeps_up(tenant, quota, quota.deadline.0)?;
        match quota.running {
            0 => Ok(None),
            running => self.account(tenant).seat(running, quota.queued).map(Some),
        }
    }

    /// Returns when an answer may be told for which no model ran: at once, unless the tenant gets thousands in a second.
    ///
    /// # Errors
    /// If more are held back already than are worth it: then its connection is to go.
    pub async fn keep_pace(&self, tenant: &TenantName) -> Result<(), TooMany> {
        match self.pace {
            None => Ok(()),
            Some(per_second) => self.account(tenant).pace.keep(per_second).await,
        }
    }

    /// Refuses what could not be answered in time, as far as that can be told.
    fn keeps_up(&self, tenant: &TenantName, quota: &Quota, time: Duration) -> Result<(), AdmitError> {
        self.backlog.check(tenant, quota.weight, time).map_err(|TooLong(wait)| AdmitError::Behind {
            seconds: u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).max(1),
        })
    }

    fn take_token(&self, tenant: &TenantName, quota: &Quota) -> Result<(), AdmitError> {
        let Some(rate) = quota.rate.requests() else { return Ok(()) };
        // More than anybody sends; the time that it takes to fill up has to be a time.
        let burst = f64::from(u32::try_from(quota.burst).unwrap_or(u32::MAX));
        let taken = self.account(tenant).take(rate, burst, Instant::now());
        taken.map_err(|wait| {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            AdmitError::TooOften { rate: quota.rate, seconds: u32::try_from(seconds).unwrap_or(u32::MAX) }
        })
    }

    /// Waits for a turn to run, first among the tenant's own requests and then among all, until the deadline at most.
    pub async fn enter(
        &self,
        tenant: &TenantName,
        quota: &Quota,
        deadline: Deadline,
    ) -> Result<Permit, AdmitError> {
        self.keeps_up(tenant, quota, deadline.remaining())?;
        let work = Some(self.backlog.add(tenant, quota.weight));
        let short = self.memory.no_queue();
        let queued = if short { 0 } else { quota.queued };
        let place = match quota.running {
            0 => None,
            running => match self.account(tenant).place(running, queued, deadline).await {
                Err(AdmitError::TenantBusy { .. }) if short => return Err(AdmitError::Memory),
                place => Some(place?),
            },
        };
        if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            return Ok(Permit { _all: permit, _own: place, work });
        }
        if short {
            return Err(AdmitError::Memory);
        }
        let _queued = Queued::join(&self.queued, self.max_queued)?;
        Ok(Permit { _own: place, work, ..turn(&self.running, deadline).await? })
    }

    fn account(&self, tenant: &TenantName) -> Arc<Account> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get(tenant) {
            return Arc::clone(account);
        }
        // Those that nobody uses and that say no more than a new one would: there are no more of them than of tenants that
        // called while their buckets filled.
        let now = Instant::now();
        accounts.retain(|_, account| Arc::strong_count(account) > 1 || !account.is_full(now));
        Arc::clone(accounts.entry(tenant.clone()).or_default())
    }
}

async fn turn(places: &Arc<Semaphore>, deadline: Deadline) -> Result<Permit, AdmitError> {
    let turn = Arc::clone(places).acquire_owned();
    match tokio::time::timeout_at(deadline.instant().into(), turn).await {
        Ok(Ok(permit)) => Ok(Permit { _all: permit, _own: None, work: None }),
        Ok(Err(_)) | Err(_) => Err(AdmitError::Deadline),
    }
}

/// A place among the running; given back when dropped, that is when the answer is encoded. A peer that reads its answer
/// slowly holds memory, which its reservation counts, and its tenant's [`Seat`], but keeps nobody from running; a run that gives
/// several responses keeps its place until it has ended, however slowly they are read.
#[derive(Debug)]
pub struct Permit {
    _all: OwnedSemaphorePermit,
    /// Among the tenant's own, if those are counted.
    _own: Option<Place>,
    work: Option<Work>,
}

impl Permit {
    /// Whether the run waits for its client: then it is not among the work that others have to wait for.
    pub fn waits(&self, waits: bool) {
        if let Some(work) = &self.work {
            work.count(!waits);
        }
    }

    /// Notes the time of the processor that the run took, by which later requests are judged.
    pub fn took(&self, time: Duration) {
        if let Some(work) = &self.work {
            work.took(time);
        }
    }
}

/// Bytes taken from the gateway's budget: of the request, then of its answer. Given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    admission: Arc<Admission>,
    /// Of its tenant, if that has limits.
    own: Option<Arc<Account>>,
    bytes: usize,
    /// Of all that belong to the same request, if there are several.
    together: Option<Arc<AtomicUsize>>,
}

impl Reservation {
    /// One more for the same request.
    pub fn another(&mut self) -> Self {
        let together = self.together.get_or_insert_with(|| Arc::new(AtomicUsize::new(self.bytes)));
        Self {
            admission: Arc::clone(&self.admission),
            own: self.own.clone(),
            bytes: 0,
            together: Some(Arc::clone(together)),
        }
    }

    pub fn grow(&mut self, bytes: usize) -> Result<(), AdmitError> {
        let (max, each) = (self.admission.max_buffered, self.admission.max_buffered_each);
        if let Some(own) = &self.own {
            // One request alone may have more: else it would be refused however often it came.
            let alone = self.together.as_ref().map_or(self.bytes, |bytes| bytes.load(Ordering::Relaxed));
            let within = |taken: usize, sum: usize| sum <= each || taken == alone;
            take_bytes(&own.buffered, bytes, within).ok_or(AdmitError::TenantBytes(each))?;
        }
        if take_bytes(&self.admission.buffered, bytes, |_, sum| sum <= max).is_none() {
            if let Some(own) = &self.own {
                own.buffered.fetch_sub(bytes, Ordering::Relaxed);
            }
            return Err(AdmitError::Bytes);
        }
        self.bytes += bytes;
        if let Some(together) = &self.together {
            together.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes the reservation that large, by taking from the budget or by giving back.
    pub fn resize(&mut self, bytes: usize) -> Result<(), AdmitError> {
        if bytes > self.bytes {
            return self.grow(bytes - self.bytes);
        }
        self.shrink_to(bytes);
        Ok(())
    }

    /// Gives back what is more than that.
    pub fn shrink_to(&mut self, bytes: usize) {
        self.give_back(self.bytes.saturating_sub(bytes));
    }

    fn give_back(&mut self, bytes: usize) {
        self.admission.buffered.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(own) = &self.own {
            own.buffered.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.bytes -= bytes;
        if let Some(together) = &self.together {
            together.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// Adds bytes to what is taken, if that is `within` what may be.
fn take_bytes(taken: &AtomicUsize, bytes: usize, within: impl Fn(usize, usize) -> bool) -> Option<usize> {
    let more = |taken: usize| taken.checked_add(bytes).filter(|sum| within(taken, *sum));
    taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

/// One of those who wait; the count falls when it is dropped.
struct Queued<'a>(&'a AtomicUsize);

impl<'a> Queued<'a> {
    fn join(count: &'a AtomicUsize, max: usize) -> Result<Self, AdmitError> {
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
                (waiting < max).then_some(waiting + 1)
            })
            .map(|_| Self(count))
            .map_err(|_| AdmitError::QueueFull(max))
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
