//! Which parts of the V2 (Open Inference) Protocol a server keeps, whoever wrote it. Knows the server by its answers alone.

mod cases;
mod grpc;
mod http;
mod model;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::Serialize;
use serde_json::Value;

use cases::{Door, Outcome, PARTS, Part, Subject};
use grpc::Grpc;
use http::Server;
use model::Model;

#[derive(Debug, Parser)]
#[command(
    name = "airlock-conformance",
    about = "Check which parts of the V2 (Open Inference) Protocol a server keeps",
    after_help = "The model may be any that the server has; it is called with inputs that are all 1, and nothing on the server is \
                  changed. What a server does not announce in its metadata is left out, unless --all is given.\n\n\
                  Exit codes: 0 everything kept, 1 something not kept, 2 nothing could be checked"
)]
struct Cli {
    /// The server, as http://host:port, with a base path or without one
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    url: String,
    /// Its gRPC port, as http://host:port; without it, gRPC is left out
    #[arg(long)]
    grpc_url: Option<String>,
    /// The model to call; the first that the server lists if none is named
    #[arg(long)]
    model: Option<String>,
    /// Sent as `Authorization: Bearer KEY`
    #[arg(long, env = "CONFORMANCE_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Only this part, may be given again
    #[arg(long, value_parser = PARTS.map(|part| part.name))]
    only: Vec<String>,
    /// Also what the server does not announce
    #[arg(long)]
    all: bool,
    /// Write the report as JSON into this file as well
    #[arg(long)]
    report: Option<PathBuf>,
}

/// What was found of one part.
#[derive(Debug, Serialize)]
struct Report {
    part: &'static str,
    source: &'static str,
    kept: usize,
    broken: usize,
    skipped: usize,
    /// The server did not survive it.
    gone: bool,
    cases: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    case: &'static str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("airlock-conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything was kept.
fn run(cli: &Cli) -> Result<bool> {
    let over_grpc =
        PARTS.iter().find(|part| part.door == Door::Grpc && cli.only.iter().any(|only| only == part.name));
    if let (Some(part), None) = (over_grpc, &cli.grpc_url) {
        bail!("'{}' is asked over gRPC: --grpc-url says where", part.name);
    }
    let server = Server::new(&cli.url, cli.key.as_deref())?;
    let metadata = server.get("/v2")?.good().context("the server's metadata")?;
    let name = match &cli.model {
        Some(name) => name.clone(),
        None => any_model(&server)?,
    };
    let model = Model::ask(&server, &name)?;
    let announced: Vec<&str> =
        metadata["extensions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    println!("{} {}, model {name}", shown(&metadata["name"]), shown(&metadata["version"]));
    let grpc = cli.grpc_url.as_deref().map(|url| Grpc::new(url, cli.key.as_deref())).transpose()?;
    let announced = (!cli.all).then(|| announced.into_iter().map(str::to_owned).collect());
    let subject = Subject { server, grpc, model, announced };
    let mut reports = Vec::new();
    for part in &PARTS {
        if !cli.only.is_empty() && !cli.only.iter().any(|only| only == part.name) {
            continue;
        }
        if part.door == Door::Grpc && subject.grpc.is_none() {
            println!("\n{}: no --grpc-url", part.name);
            continue;
        }
        if part.announced.is_some_and(|needed| !subject.has(needed)) {
            println!("\n{}: not announced", part.name);
            continue;
        }
        reports.push(check(part, &subject));
        if reports.last().is_some_and(|report| report.gone) {
            println!("\nthe server does not answer any more: what is left was not asked");
            break;
        }
    }
    let sum = |of: fn(&Report) -> usize| reports.iter().map(of).sum::<usize>();
    let (kept, broken, skipped) = (sum(|part| part.kept), sum(|part| part.broken), sum(|part| part.skipped));
    println!("\n{kept} kept, {broken} not kept, {skipped} skipped");
    if let Some(path) = &cli.report {
        let whole = serde_json::json!({ "server": metadata, "model": name, "parts": reports });
        fs::write(path, format!("{whole:#}\n")).with_context(|| path.display().to_string())?;
    }
    Ok(broken == 0)
}

fn check(part: &Part, subject: &Subject) -> Report {
    println!("\n{} ({})", part.name, part.source);
    let (mut kept, mut broken, mut skipped, mut cases) = (0, 0, 0, Vec::new());
    for case in part.cases {
        let (outcome, reason) = match (case.run)(subject) {
            Ok(Outcome::Kept) => {
                kept += 1;
                ("kept", None)
            }
            Ok(Outcome::Skipped(reason)) => {
                skipped += 1;
                ("skipped", Some(reason.to_owned()))
            }
            Err(error) => {
                broken += 1;
                ("not kept", Some(format!("{error:#}")))
            }
        };
        println!("  {outcome:<8} {}", case.name);
        if let Some(reason) = &reason {
            println!("           {reason}");
        }
        cases.push(Finding { case: case.name, outcome, reason });
        if outcome == "not kept" && subject.server.get("/v2/health/live").is_err() {
            return Report { part: part.name, source: part.source, kept, broken, skipped, gone: true, cases };
        }
    }
    Report { part: part.name, source: part.source, kept, broken, skipped, gone: false, cases }
}

/// The first model that is listed: by Triton and MLServer in their index, by KServe in a list.
fn any_model(server: &Server) -> Result<String> {
    let index = server.post("/v2/repository/index", &serde_json::json!({}));
    let ready = |entry: &&Value| entry["state"] == "READY" || entry["state"].is_null();
    if let Ok(index) = index.and_then(|answer| answer.good())
        && let Some(name) =
            index.as_array().into_iter().flatten().find(ready).and_then(|entry| entry["name"].as_str())
    {
        return Ok(name.to_owned());
    }
    if let Ok(list) = server.get("/v2/models").and_then(|answer| answer.good())
        && let Some(name) = list["models"][0].as_str()
    {
        return Ok(name.to_owned());
    }
    bail!("the server lists no model that is ready: name one with --model")
}

fn shown(text: &Value) -> &str {
    text.as_str().unwrap_or("?")
}
