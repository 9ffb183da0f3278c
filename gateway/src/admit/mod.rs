//! Admit: which requests may hold memory, and which may run now.
//!
//! Two bounds for the whole gateway: bytes of requests and answers in memory, and requests that run. Who cannot run waits,
//! bounded in number and by its own deadline; who cannot wait is refused at once. Nested calls (`models.infer`) ride on
//! their caller's permit and never come here, so pipelines cannot deadlock. Fairness between tenants is not decided here.
//!
//! Not counted: what a body takes while it is being decompressed and decoded (large ones are decoded as many at a time as
//! there are cores), and what a model uses while it runs.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{deadline::Deadline, limits::AdmitLimits};

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    #[error("the gateway holds as many bytes of requests and answers as it may; try again")]
    Bytes,
    #[error("{0} requests wait already; try again")]
    QueueFull(usize),
    #[error("the deadline passed while the request waited for its turn")]
    Deadline,
}

/// The gateway's bounds, and what is taken of them.
#[derive(Debug)]
pub struct Admission {
    running: Arc<Semaphore>,
    queued: AtomicUsize,
    max_queued: usize,
    buffered: AtomicUsize,
    max_buffered: usize,
    /// One for each core: decoding a large body is work and memory before anything is known of the request.
    decoding: Arc<Semaphore>,
}

impl Admission {
    pub fn new(limits: &AdmitLimits) -> Arc<Self> {
        Arc::new(Self {
            running: Arc::new(Semaphore::new(limits.max_running)),
            queued: AtomicUsize::new(0),
            max_queued: limits.max_queued,
            buffered: AtomicUsize::new(0),
            max_buffered: limits.max_buffered_bytes,
            decoding: Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from))),
        })
    }

    /// Waits for a turn to decode a large or compressed body, until the deadline at most.
    pub async fn decode(&self, deadline: Deadline) -> Result<Permit, AdmitError> {
        turn(&self.decoding, deadline).await
    }

    /// An empty reservation of bytes; [`Reservation::grow`] takes from the gateway's budget.
    pub fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation { admission: Arc::clone(self), bytes: 0 }
    }

    /// Waits for a turn to run, until the deadline at most.
    pub async fn enter(&self, deadline: Deadline) -> Result<Permit, AdmitError> {
        if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            return Ok(Permit(permit));
        }
        let _queued = Queued::join(&self.queued, self.max_queued)?;
        turn(&self.running, deadline).await
    }
}

async fn turn(places: &Arc<Semaphore>, deadline: Deadline) -> Result<Permit, AdmitError> {
    let turn = Arc::clone(places).acquire_owned();
    match tokio::time::timeout_at(deadline.instant().into(), turn).await {
        Ok(Ok(permit)) => Ok(Permit(permit)),
        Ok(Err(_)) | Err(_) => Err(AdmitError::Deadline),
    }
}

/// A place among the running; given back when dropped, that is when the answer is encoded. A peer that reads its answer
/// slowly holds memory, which its reservation counts, but keeps nobody from running.
#[derive(Debug)]
pub struct Permit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// Bytes taken from the gateway's budget: of the request, then of its answer. Given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    admission: Arc<Admission>,
    bytes: usize,
}

impl Reservation {
    pub fn grow(&mut self, bytes: usize) -> Result<(), AdmitError> {
        let max = self.admission.max_buffered;
        let taken = self.admission.buffered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |buffered| {
            buffered.checked_add(bytes).filter(|sum| *sum <= max)
        });
        taken.map_err(|_| AdmitError::Bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Makes the reservation that large, by taking from the budget or by giving back.
    pub fn resize(&mut self, bytes: usize) -> Result<(), AdmitError> {
        if bytes > self.bytes {
            return self.grow(bytes - self.bytes);
        }
        self.admission.buffered.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.admission.buffered.fetch_sub(self.bytes, Ordering::Relaxed);
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
