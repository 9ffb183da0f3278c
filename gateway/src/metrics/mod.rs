//! Metrics: everything that the gateway counts, in Prometheus' text format. `docs/metrics.md` lists it for operators.
//!
//! Nothing is counted for the metrics alone: a scrape reads what the stations keep. What grows with tenants and models has a
//! bound, and beyond it goes into one series, so that no tenant makes the operator's monitoring fall over.

mod family;
mod gateway;
mod labels;
mod requests;
mod triton;

use prometheus::TextEncoder;
use tokio::sync::Mutex;

use crate::{error::Problem, infer::Gateway};

use labels::Seen;

/// What the text is sent as.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a scrape has to know of those before it.
#[derive(Debug, Default)]
pub struct Metrics {
    seen: Mutex<Seen>,
}

/// All metrics as they are now. One scrape is made at a time.
///
/// # Errors
/// If the encoder refuses what it gets, which is our fault.
pub async fn text(gateway: &Gateway) -> Result<String, Problem> {
    let mut seen = gateway.metrics.seen.lock().await;
    // Thousands of series take milliseconds.
    tokio::task::block_in_place(|| {
        let mut families = gateway::families(gateway);
        families.extend(requests::families(gateway, &mut seen));
        families.extend(triton::families(gateway, &mut seen));
        families.retain(|family| !family.get_metric().is_empty());
        let text = TextEncoder::new().encode_to_string(&families);
        text.map_err(|error| Problem::internal(format!("the metrics cannot be written: {error}")))
    })
}
