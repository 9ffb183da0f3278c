//! Meter: what a request used, noted on every path, answered or not.
//!
//! A request counts from the moment it is on the road: its sender is known, and it is one to a model. It is noted once, when it
//! leaves: with its answer's last byte, its refusal, or its client.

pub mod ledger;
mod report;
mod totals;

use std::{
    mem,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    consumption::Consumption,
    name::{ModelName, TenantName, Version},
};

pub use report::{AllUsage, TenantTotal, TenantUsage};
pub use totals::{Figures, Key, Meter};

/// The outcome of a request whose client did not wait for the whole answer.
pub const CLIENT_GONE: &str = "client_gone";

/// The outcome of a request that was answered; every other one is the code word of its error.
pub const OK: &str = "ok";

/// Follows one infer request, and adds it to the totals when it is dropped.
#[derive(Debug)]
pub struct Usage {
    meter: Arc<Meter>,
    tenant: TenantName,
    /// None until the request has said it.
    model: Option<ModelName>,
    /// The model is one that the tenant can see.
    known: bool,
    version: Option<Version>,
    started: Instant,
    consumed: Arc<Consumption>,
    received_bytes: u64,
    sent_bytes: u64,
    /// What is left of the answer.
    unsent_bytes: u64,
    outcome: &'static str,
}

/// Starts to follow a request to a model. Until told otherwise its outcome is that the client went away.
pub fn start(meter: &Arc<Meter>, tenant: &TenantName, model: &ModelName) -> Usage {
    let mut usage = start_unnamed(meter, tenant);
    usage.asks_for(model);
    usage
}

/// The same before it is known which model the request is for.
pub fn start_unnamed(meter: &Arc<Meter>, tenant: &TenantName) -> Usage {
    meter.begin();
    Usage {
        meter: Arc::clone(meter),
        tenant: tenant.clone(),
        model: None,
        known: false,
        version: None,
        started: Instant::now(),
        consumed: Arc::default(),
        received_bytes: 0,
        sent_bytes: 0,
        unsent_bytes: 0,
        outcome: CLIENT_GONE,
    }
}

impl Usage {
    /// The request names that model.
    pub fn asks_for(&mut self, model: &ModelName) {
        self.model = Some(model.clone());
    }

    /// The model exists for this tenant, ready or not. Only such a name is noted: the others are whatever clients think of.
    pub fn model_known(&mut self) {
        self.known = true;
    }

    pub fn answered_by(&mut self, version: &Version) {
        self.version = Some(version.clone());
    }

    /// A piece of the body was taken, as many bytes as were sent: before any decompression.
    pub fn received(&mut self, bytes: usize) {
        self.received_bytes += bytes as u64;
    }

    /// Who sent the request, and pays for it.
    pub fn tenant(&self) -> &TenantName {
        &self.tenant
    }

    /// Where the runs for this request are to note what they use.
    pub fn consumed(&self) -> Arc<Consumption> {
        Arc::clone(&self.consumed)
    }

    /// There is an answer of that many bytes; it counts once all of it has been [`sent`](Self::sent).
    pub fn succeeded(&mut self, bytes: usize) {
        self.outcome = OK;
        self.unsent_bytes = bytes as u64;
    }

    /// A piece of the answer was handed to the connection.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
        self.unsent_bytes = self.unsent_bytes.saturating_sub(bytes as u64);
    }

    /// There is no answer, for the reason that the code word says.
    pub fn failed(&mut self, code: &'static str) {
        self.outcome = code;
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        if self.outcome == CLIENT_GONE && std::thread::panicking() {
            // What a panic is answered with.
            self.outcome = "internal";
        } else if self.outcome == OK && self.unsent_bytes > 0 {
            self.outcome = CLIENT_GONE;
        }
        tracing::debug!(
            target: "airlock::meter",
            tenant = %self.tenant,
            model = self.model.as_ref().map(ModelName::as_str),
            version = self.version.as_ref().map(Version::as_str),
            outcome = self.outcome,
            received_bytes = self.received_bytes,
            sent_bytes = self.sent_bytes,
            cpu_us = self.consumed.cpu_nanos() / 1000,
            peak_memory_bytes = self.consumed.peak_memory_bytes(),
            elapsed_us = self.started.elapsed().as_micros(),
            "infer"
        );
        let consumed = mem::take(&mut self.consumed);
        self.meter.end(self, consumed);
    }
}

/// Milliseconds since 1970.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
