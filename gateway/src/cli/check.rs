//! `airlock check`: everything that a gateway checks of a model before it serves it.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::{
    config::LimitSettings,
    execute::{Format, LoadError, Report, Source, wasm::OnnxPlugin, worker::Workers},
    limits::Limits,
    tensor::TensorSpec,
};

/// Exit codes: a model that is refused differs from a command line that is.
const REJECTED: u8 = 1;
const USAGE: u8 = 2;

/// Check a model as a gateway does before it serves it, and say what it takes and gives
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  airlock check add.wasm                          signature, imports, sizes, time of each step
  airlock check model.onnx --output json          the same for programs
  airlock check runner.wasm --with weights.bin    with the files that lie beside it

Exit codes: 0 good, 1 rejected, 2 usage. Limits are the gateway's; give it the same.")]
pub(super) struct Check {
    /// The model: a WebAssembly component, a core module that carries its component type, or an ONNX file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// A file that lies beside the model; may be repeated
    #[arg(long = "with", value_name = "FILE")]
    beside: Vec<PathBuf>,

    /// A parameter of the model's configuration, as `load` gets it; may be repeated
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = parameter)]
    parameters: Vec<(String, String)>,

    /// Check an ONNX model as it is served in the wasm sandbox, with this plugin
    #[arg(long, value_name = "FILE")]
    onnx_plugin: Option<PathBuf>,

    /// How to answer
    #[arg(long, value_name = "FORM", default_value = "text")]
    output: Output,

    #[command(flatten)]
    limits: LimitSettings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Check {
    pub(super) fn run(self) -> ExitCode {
        let output = self.output;
        match self.check() {
            Ok(Ok(report)) => {
                let told = if output == Output::Json { json_of(&report) } else { text_of(&report) };
                println!("{told}");
                ExitCode::SUCCESS
            }
            Ok(Err(error)) => {
                match output {
                    Output::Json => {
                        println!("{}", json!({ "good": false, "step": error.step, "reason": error.reason }));
                    }
                    Output::Text => eprintln!("airlock: rejected: {error}"),
                }
                ExitCode::from(REJECTED)
            }
            Err(error) => {
                eprintln!("airlock: {error:#}");
                ExitCode::from(USAGE)
            }
        }
    }

    /// The outer error is the caller's, the inner one the model's.
    fn check(self) -> Result<Result<Report, LoadError>> {
        let limits: Limits = self.limits.limits()?;
        let artifact = read(&self.file)?;
        let onnx = is_onnx(&self.file, &artifact)?;
        let mut files = Vec::new();
        for path in &self.beside {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.with_context(|| format!("{} has no name in UTF-8", path.display()))?;
            files.push((name.to_owned(), read(path)?));
        }
        let label = self.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let source = Source { label, artifact, files, parameters: self.parameters, ..Source::default() };
        let workers = Workers::new(limits.worker, None, None)?;
        let plugin = self
            .onnx_plugin
            .filter(|_| onnx)
            .map(|path| OnnxPlugin::read(&path).with_context(|| format!("cannot use {}", path.display())));
        Ok(match plugin.transpose()? {
            Some(plugin) => workers.check_wasm(&limits.sandbox, &plugin.with(source)),
            None if onnx => workers.check_onnx(&limits.native, &source),
            None => workers.check_wasm(&limits.sandbox, &source),
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn is_onnx(path: &Path, artifact: &[u8]) -> Result<bool> {
    match path.extension().and_then(|extension| extension.to_str()) {
        _ if artifact.starts_with(b"\0asm") => Ok(false),
        Some("onnx") => Ok(true),
        Some("wasm") => Ok(false),
        _ => bail!("{} is neither WebAssembly nor named .onnx", path.display()),
    }
}

fn format_of(report: &Report) -> &'static str {
    match report.format {
        Format::Component => "component",
        Format::CoreModule => "core module",
        Format::Onnx => "ONNX",
    }
}

fn text_of(report: &Report) -> String {
    let mut text = format!("good: {}, {}", format_of(report), size(report.artifact_bytes));
    if report.file_bytes > 0 {
        let _ = write!(text, ", beside it {}", size(report.file_bytes));
    }
    if report.compiled_bytes > 0 {
        let _ = write!(text, ", compiled {}", size(report.compiled_bytes));
    }
    for (side, specs) in [("inputs", &report.signature.inputs), ("outputs", &report.signature.outputs)] {
        let _ = write!(text, "\n{side:9}{}", listed(specs.iter().map(tensor)));
    }
    if report.format != Format::Onnx {
        let _ = write!(text, "\n{:9}{}", "imports", listed(report.imports.iter().cloned()));
    }
    let steps = report.steps.iter().map(|(step, took)| format!("{step} {}", milliseconds(*took)));
    let _ = write!(text, "\n{:9}{}", "time", listed(steps));
    text
}

fn listed(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn tensor(spec: &TensorSpec) -> String {
    format!("{} {}{}", spec.name, spec.datatype, spec.shape)
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1}ms", time.as_secs_f64() * 1e3)
}

fn json_of(report: &Report) -> String {
    let side = |specs: &[TensorSpec]| -> Vec<_> {
        let one =
            |spec: &TensorSpec| json!({ "name": spec.name, "datatype": spec.datatype, "shape": spec.shape });
        specs.iter().map(one).collect()
    };
    let steps: Vec<_> = report
        .steps
        .iter()
        .map(|(step, took)| json!({ "step": step, "milliseconds": took.as_secs_f64() * 1e3 }))
        .collect();
    json!({
        "good": true,
        "format": report.format,
        "inputs": side(&report.signature.inputs),
        "outputs": side(&report.signature.outputs),
        "imports": report.imports,
        "artifact_bytes": report.artifact_bytes,
        "file_bytes": report.file_bytes,
        "compiled_bytes": report.compiled_bytes,
        "steps": steps,
    })
    .to_string()
}
