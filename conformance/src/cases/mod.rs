//! What is asked of a server, by the part of the protocol that says so.

mod binary;
mod configuration;
mod core;
mod errors;
mod extensions;
mod generate;
mod grpc;
mod grpc_errors;
mod grpc_extensions;
mod grpc_robustness;
mod repository;
mod robustness;
mod statistics;

use anyhow::{Context, Result};

use crate::{grpc::Grpc, http::Server, model::Model};

/// The server, and the model that is called.
#[derive(Debug)]
pub struct Subject {
    pub server: Server,
    /// Its other door; none if nobody said where it is.
    pub grpc: Option<Grpc>,
    pub model: Model,
    /// The extensions that it announces; none if all are asked for.
    pub announced: Option<Vec<String>>,
}

impl Subject {
    pub fn grpc(&self) -> Result<&Grpc> {
        self.grpc.as_ref().context("nobody said where gRPC is")
    }

    /// Whether an extension is asked for.
    pub fn has(&self, extension: &str) -> bool {
        self.announced.as_ref().is_none_or(|announced| announced.iter().any(|own| own == extension))
    }
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

/// Where a part of the protocol is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Rest,
    Grpc,
}

/// A part of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub name: &'static str,
    pub door: Door,
    /// What a server announces that has it; none for what every server has to have.
    pub announced: Option<&'static str>,
    /// Where it is specified.
    pub source: &'static str,
    pub cases: &'static [Case],
}

const REQUIRED: &str = "Open Inference Protocol, required API";
const OWED: &str = "what any server owes its other clients; no specification says it";
const GRPC: &str = "Open Inference Protocol, gRPC API";

impl Part {
    const fn rest(name: &'static str, source: &'static str, cases: &'static [Case]) -> Self {
        Self { name, door: Door::Rest, announced: None, source, cases }
    }

    const fn extension(name: &'static str, source: &'static str, cases: &'static [Case]) -> Self {
        Self { name, door: Door::Rest, announced: Some(name), source, cases }
    }

    const fn grpc(name: &'static str, source: &'static str, cases: &'static [Case]) -> Self {
        Self { name, door: Door::Grpc, announced: None, source, cases }
    }
}

pub const PARTS: [Part; 18] = [
    Part::rest("core", REQUIRED, core::CASES),
    Part::rest("errors", REQUIRED, errors::CASES),
    Part::extension("binary_tensor_data", "Triton's extension_binary_data", binary::CASES),
    Part::extension("parameters", "Triton's extension_parameters", extensions::PARAMETERS),
    Part::extension("classification", "Triton's extension_classification", extensions::CLASSIFICATION),
    Part::extension("model_repository", "Triton's extension_model_repository", repository::CASES),
    Part::extension("model_configuration", "Triton's extension_model_configuration", configuration::CASES),
    Part::extension("statistics", "Triton's extension_statistics", statistics::CASES),
    Part::extension("logging", "Triton's extension_logging", extensions::LOGGING),
    Part::extension("trace", "Triton's extension_trace", extensions::TRACE),
    // No server announces it; where the path is not there, it is skipped.
    Part::rest("generate", "Triton's extension_generate", generate::CASES),
    Part::grpc("grpc", GRPC, grpc::CASES),
    Part::grpc("grpc_errors", GRPC, grpc_errors::CASES),
    Part::grpc("grpc_extensions", "the same extensions over gRPC", grpc_extensions::EXTENSIONS),
    Part::grpc("grpc_stream", "Triton's ModelStreamInfer", grpc_extensions::STREAM),
    Part::grpc("grpc_health", "gRPC's health checking protocol", grpc_extensions::HEALTH),
    // Last: there are servers that do not survive it.
    Part::grpc("grpc_robustness", OWED, grpc_robustness::CASES),
    Part::rest("robustness", OWED, robustness::CASES),
];
