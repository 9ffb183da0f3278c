//! Meter: what a request used, noted on every path, answered or not.
//!
//! A request counts from the moment it is on the road: its sender is known, and it is one to a model. It is noted once, when it
//! leaves: with its answer's last byte, its refusal, or its client.

mod clock;
pub mod ledger;
mod report;
mod statistics;
mod totals;

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    consumption::Consumption,
    name::{ModelName, TenantName, Version},
};

use clock::Clock;

pub use clock::{Spent, Station};
pub use report::{AllUsage, TenantTotal, TenantUsage};
pub use statistics::{BUCKETS, Batches, Failure, Served, Statistics, Timed};
pub use totals::{Figures, Key, Meter, Models};

/// The outcome of a request whose client did not wait for the whole answer.
pub const CLIENT_GONE: &str = "client_gone";

/// The outcome of a request that was answered; every other one is the code word of its error.
pub const OK: &str = "ok";

/// The target of the access log: one line for each request, here for those that the meter follows.
pub const ACCESS: &str = "airlock::access";

/// Follows one infer request, and adds it to the totals when it is dropped.
#[derive(Debug)]
pub struct Usage {
    meter: Arc<Meter>,
    /// What its client, or the gateway, calls it in the log.
    request_id: Option<Box<str>>,
    /// The trace that it is a part of.
    traceparent: Option<Box<str>>,
    tenant: TenantName,
    /// None until the request has said it.
    model: Option<ModelName>,
    /// The model is one that the tenant can see.
    known: bool,
    /// Which version answers, and whether it is the operator's.
    version: Option<(Version, bool)>,
    batch: u64,
    /// Whether its response had been kept; none if the model's are not.
    kept: Option<bool>,
    begun: Instant,
    clock: Clock,
    consumed: Arc<Consumption>,
    received_bytes: u64,
    sent_bytes: u64,
    /// What is left of the answer.
    unsent_bytes: u64,
    outcome: &'static str,
    /// The HTTP status of a failure.
    status: Option<u16>,
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
        request_id: None,
        traceparent: None,
        tenant: tenant.clone(),
        model: None,
        known: false,
        version: None,
        batch: 1,
        kept: None,
        begun: Instant::now(),
        clock: Clock::start(),
        consumed: Arc::default(),
        received_bytes: 0,
        sent_bytes: 0,
        unsent_bytes: 0,
        outcome: CLIENT_GONE,
        status: None,
    }
}

impl Usage {
    /// What the request is called in the log; checked by whoever took it in.
    pub fn called(&mut self, request_id: Option<&str>) {
        self.request_id = request_id.map(Into::into);
    }

    /// The request names that model.
    pub fn asks_for(&mut self, model: &ModelName) {
        self.model = Some(model.clone());
    }

    /// The trace that it is a part of, by the header `traceparent` of W3C; anything else is none.
    pub fn traced(&mut self, traceparent: Option<&str>) {
        self.traceparent = traceparent.filter(|text| is_traceparent(text)).map(Into::into);
    }

    /// The model exists for this tenant, ready or not. Only such a name is noted: the others are whatever clients think of.
    pub fn model_known(&mut self) {
        self.known = true;
    }

    /// Which version is asked, and whether it is the operator's that all tenants share. From here on the call is in the
    /// statistics of that version, whatever becomes of it.
    pub fn answered_by(&mut self, version: &Version, shared: bool) {
        self.version = Some((version.clone(), shared));
    }

    /// The whole request is there. The time before was its client's.
    pub fn arrived(&mut self) {
        self.clock.restart();
    }

    /// A station is behind it.
    pub fn passed(&mut self, station: Station) {
        self.clock.pass(station);
    }

    /// So much of the time that has just passed was its client's, who took what there was of the answer.
    pub fn client_took(&mut self, time: Duration) {
        self.clock.stand_still(time);
    }

    /// As how many inferences it counts: the size of its batch.
    pub fn weighs(&mut self, batch: u64) {
        self.batch = batch;
    }

    /// It was looked for its response among those that are kept.
    pub fn looked_up(&mut self, found: bool) {
        self.clock.pass(Station::Cache);
        self.kept = Some(found);
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
        self.clock.end();
    }

    /// A piece of the answer was handed to the connection.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
        self.unsent_bytes = self.unsent_bytes.saturating_sub(bytes as u64);
    }

    /// With which HTTP status its refusal is answered, or would be.
    pub fn status(&mut self, status: u16) {
        self.status = Some(status);
    }

    /// There is no answer, for the reason that the code word says.
    pub fn failed(&mut self, code: &'static str) {
        self.outcome = code;
        self.clock.end();
    }
}

impl Usage {
    fn log(&self) {
        let status = match self.outcome {
            OK => Some(200),
            CLIENT_GONE => None,
            _ => self.status,
        };
        let spent = &self.clock.spent;
        tracing::info!(
            target: ACCESS,
            request_id = self.request_id.as_deref(),
            traceparent = self.traceparent.as_deref(),
            tenant = self.tenant.as_str(),
            // Any other name is what a client thinks of, a key perhaps.
            model = self.model.as_ref().filter(|_| self.known).map(ModelName::as_str),
            version = self.version.as_ref().map(|(version, _)| version.as_str()),
            outcome = self.outcome,
            status,
            kept = self.kept,
            received_bytes = self.received_bytes,
            sent_bytes = self.sent_bytes,
            cpu_us = self.consumed.cpu_nanos() / 1000,
            peak_memory_bytes = self.consumed.peak_memory_bytes(),
            receive_us = clock::nanos(self.clock.begun() - self.begun) / 1000,
            decode_us = spent.decode / 1000,
            wait_us = spent.wait / 1000,
            run_us = spent.run / 1000,
            encode_us = spent.encode / 1000,
            gateway_us = self.clock.nanos() / 1000,
            total_us = clock::nanos(self.begun.elapsed()) / 1000,
            "infer"
        );
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        if self.outcome == CLIENT_GONE && std::thread::panicking() {
            // What a panic is answered with.
            (self.outcome, self.status) = ("internal", Some(500));
        } else if self.outcome == OK && self.unsent_bytes > 0 {
            self.outcome = CLIENT_GONE;
        }
        self.log();
        let consumed = mem::take(&mut self.consumed);
        self.meter.end(self, consumed);
    }
}

/// Version, trace, parent and flags, in hexadecimal digits.
fn is_traceparent(text: &str) -> bool {
    let fits = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let lengths = text.split('-').map(str::len);
    lengths.eq([2, 32, 16, 2]) && text.split('-').all(fits)
}

/// Milliseconds since 1970.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
