//! What is asked of a server, by the part of the protocol that says so.

mod binary;
mod configuration;
mod core;
mod errors;
mod extensions;
mod repository;
mod robustness;
mod statistics;

use anyhow::Result;

use crate::{http::Server, model::Model};

/// The server, and the model that is called.
#[derive(Debug)]
pub struct Subject {
    pub server: Server,
    pub model: Model,
}

/// How a case ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Kept,
    /// It says nothing about this model or server, for that reason.
    Skipped(&'static str),
}

/// One thing to be kept.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    pub run: fn(&Subject) -> Result<Outcome>,
}

/// A part of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub name: &'static str,
    /// What a server announces that has it; none for what every server has to have.
    pub announced: Option<&'static str>,
    /// Where it is specified.
    pub source: &'static str,
    pub cases: &'static [Case],
}

const REQUIRED: &str = "Open Inference Protocol, required API";

pub const PARTS: [Part; 11] = [
    Part { name: "core", announced: None, source: REQUIRED, cases: core::CASES },
    Part { name: "errors", announced: None, source: REQUIRED, cases: errors::CASES },
    Part {
        name: "binary_tensor_data",
        announced: Some("binary_tensor_data"),
        source: "Triton's extension_binary_data",
        cases: binary::CASES,
    },
    Part {
        name: "parameters",
        announced: Some("parameters"),
        source: "Triton's extension_parameters",
        cases: extensions::PARAMETERS,
    },
    Part {
        name: "classification",
        announced: Some("classification"),
        source: "Triton's extension_classification",
        cases: extensions::CLASSIFICATION,
    },
    Part {
        name: "model_repository",
        announced: Some("model_repository"),
        source: "Triton's extension_model_repository",
        cases: repository::CASES,
    },
    Part {
        name: "model_configuration",
        announced: Some("model_configuration"),
        source: "Triton's extension_model_configuration",
        cases: configuration::CASES,
    },
    Part {
        name: "statistics",
        announced: Some("statistics"),
        source: "Triton's extension_statistics",
        cases: statistics::CASES,
    },
    Part {
        name: "logging",
        announced: Some("logging"),
        source: "Triton's extension_logging",
        cases: extensions::LOGGING,
    },
    Part {
        name: "trace",
        announced: Some("trace"),
        source: "Triton's extension_trace",
        cases: extensions::TRACE,
    },
    // Last: there are servers that do not survive it.
    Part {
        name: "robustness",
        announced: None,
        source: "what any server owes its other clients; no specification says it",
        cases: robustness::CASES,
    },
];
