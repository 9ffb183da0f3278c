//! Settings of logs and traces, as Triton's clients read them. What is logged is chosen when the gateway starts and concerns all
//! tenants, so nothing of it can be changed from here; where it goes is nobody's business.

use serde::Serialize;
use tracing::level_filters::LevelFilter;

/// What the gateway logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogSettings {
    pub log_file: &'static str,
    pub log_info: bool,
    pub log_warning: bool,
    pub log_error: bool,
    pub log_verbose_level: u32,
    pub log_format: &'static str,
}

/// What the gateway traces; all values are texts, as in Triton.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceSettings {
    pub trace_level: [&'static str; 1],
    pub trace_rate: &'static str,
    pub trace_count: &'static str,
    pub log_frequency: &'static str,
    pub trace_file: &'static str,
}

/// The levels of which anything is logged.
pub fn log_settings() -> LogSettings {
    let level = LevelFilter::current();
    LogSettings {
        log_file: "",
        log_info: level >= LevelFilter::INFO,
        log_warning: level >= LevelFilter::WARN,
        log_error: level >= LevelFilter::ERROR,
        log_verbose_level: u32::from(level >= LevelFilter::DEBUG),
        log_format: "ISO8601",
    }
}

/// Nothing of what Triton traces; where its operator has the gateway send spans to is not told.
pub fn trace_settings() -> TraceSettings {
    TraceSettings {
        trace_level: ["OFF"],
        trace_rate: "0",
        trace_count: "0",
        log_frequency: "0",
        trace_file: "",
    }
}
