//! Meter: what a request used, noted on every path, answered or not.

use std::time::Instant;

use crate::name::{ModelName, TenantName, Version};

/// Follows one infer request; says what became of it when it is dropped, with the answer's last byte.
#[derive(Debug)]
pub struct Usage {
    tenant: TenantName,
    model: ModelName,
    version: Option<Version>,
    started: Instant,
    received_bytes: usize,
    sent_bytes: usize,
    outcome: &'static str,
}

/// Starts to follow a request. Until told otherwise its outcome is that the client went away.
pub fn start(tenant: &TenantName, model: &ModelName) -> Usage {
    Usage {
        tenant: tenant.clone(),
        model: model.clone(),
        version: None,
        started: Instant::now(),
        received_bytes: 0,
        sent_bytes: 0,
        outcome: "client_gone",
    }
}

impl Usage {
    pub fn answered_by(&mut self, version: &Version) {
        self.version = Some(version.clone());
    }

    pub fn received(&mut self, bytes: usize) {
        self.received_bytes = bytes;
    }

    pub fn succeeded(&mut self, bytes: usize) {
        self.outcome = "ok";
        self.sent_bytes = bytes;
    }

    pub fn failed(&mut self, code: &'static str) {
        self.outcome = code;
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        tracing::debug!(
            target: "airlock::meter",
            tenant = %self.tenant,
            model = %self.model,
            version = self.version.as_ref().map(Version::as_str),
            outcome = self.outcome,
            received_bytes = self.received_bytes,
            sent_bytes = self.sent_bytes,
            elapsed_us = self.started.elapsed().as_micros(),
            "infer"
        );
    }
}
