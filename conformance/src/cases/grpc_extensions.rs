//! What Triton adds to the calls over gRPC, and the health service of gRPC itself.

use std::{thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use serde_json::{Value, json};
use tonic::Code;

use super::{
    Case,
    Outcome::{self, Kept, Skipped},
    Subject,
};
use crate::grpc::{
    self,
    messages::{
        ConfigResponse, HealthRequest, HealthResponse, Index, ModelStatistics, Statistics, StreamResponse,
    },
    requests::{named, to_json},
};

pub const STREAM: &[Case] = &[
    Case { name: "requests on one stream are answered each, in their order", run: stream },
    Case { name: "a refused request is told in its answer and does not end the stream", run: stream_error },
];

pub const HEALTH: &[Case] = &[
    Case { name: "Check says that the server and the inference service serve", run: check },
    Case { name: "Check of a service that there is not is NOT_FOUND", run: check_unknown },
];

pub const EXTENSIONS: &[Case] = &[
    Case { name: "RepositoryIndex lists the model", run: index },
    Case { name: "ModelConfig says what REST says", run: config },
    Case { name: "ModelStatistics counts what REST counts, calls of both", run: statistics },
];

/// What comes back for requests of which each has its place as its id; none where the server has no streams.
fn streamed(subject: &Subject, models: &[&str]) -> Result<Option<Vec<StreamResponse>>> {
    let requests = models.iter().enumerate().map(|(place, model)| {
        let mut request = subject.model.raw_request();
        request.model_name = (*model).to_owned();
        request.id = place.to_string();
        request
    });
    let requests: Vec<_> = requests.collect();
    let mut answers = Vec::new();
    for reply in subject.grpc()?.stream::<StreamResponse>("ModelStreamInfer", &requests)? {
        match reply {
            Ok(answer) => answers.push(answer),
            Err(status) if status.code() == Code::Unimplemented && answers.is_empty() => return Ok(None),
            Err(status) => {
                bail!("after {} answers the stream ended with {}", answers.len(), grpc::shown(&status))
            }
        }
    }
    Ok(Some(answers))
}

const NO_STREAMS: Outcome = Skipped("the server has no ModelStreamInfer");

fn stream(subject: &Subject) -> Result<Outcome> {
    let name = subject.model.name.as_str();
    let Some(answers) = streamed(subject, &[name; 5])? else { return Ok(NO_STREAMS) };
    ensure!(answers.len() == 5, "{} answers to 5 requests", answers.len());
    for (place, answer) in answers.iter().enumerate() {
        ensure!(answer.error.is_empty(), "request {place}: {}", answer.error);
        let response = answer.response.as_ref().context("neither a response nor an error")?;
        ensure!(response.id == place.to_string(), "answer {place} has the id '{}'", response.id);
        subject.model.check(&to_json(response)?)?;
    }
    Ok(Kept)
}

fn stream_error(subject: &Subject) -> Result<Outcome> {
    let name = subject.model.name.as_str();
    let Some(answers) = streamed(subject, &[name, "no-such-model", name])? else { return Ok(NO_STREAMS) };
    let refused: Vec<bool> = answers.iter().map(|answer| !answer.error.is_empty()).collect();
    ensure!(refused == [false, true, false], "of three requests the second is wrong; errors: {refused:?}");
    Ok(Kept)
}

fn checked(subject: &Subject, service: &str) -> Result<grpc::Reply<HealthResponse>> {
    let message = HealthRequest { service: service.to_owned() }.encode_to_vec();
    subject.grpc()?.send("grpc.health.v1.Health", "Check", message)
}

const NO_HEALTH: Outcome = Skipped("the server has no grpc.health.v1");

fn check(subject: &Subject) -> Result<Outcome> {
    for service in ["", grpc::INFERENCE] {
        match checked(subject, service)? {
            Ok(answer) => ensure!(answer.status == 1, "'{service}' has the status {}", answer.status),
            Err(status) if status.code() == Code::Unimplemented => return Ok(NO_HEALTH),
            Err(status) => bail!("Check of '{service}': {}", grpc::shown(&status)),
        }
    }
    Ok(Kept)
}

fn check_unknown(subject: &Subject) -> Result<Outcome> {
    match checked(subject, "no.such.Service")? {
        Err(status) if status.code() == Code::Unimplemented => Ok(NO_HEALTH),
        reply => grpc::refused("Check", reply, &[Code::NotFound]).map(|()| Kept),
    }
}

fn index(subject: &Subject) -> Result<Outcome> {
    if !subject.has("model_repository") {
        return Ok(NOT_ANNOUNCED);
    }
    let index: Index = subject.grpc()?.ask("RepositoryIndex", &())?;
    let own = index.models.iter().find(|entry| entry.name == subject.model.name);
    let own = own.with_context(|| format!("'{}' is not in the index", subject.model.name))?;
    ensure!(own.state == "READY", "'{}' is {}", own.name, own.state);
    Ok(Kept)
}

const NOT_ANNOUNCED: Outcome = Skipped("not announced");

fn config(subject: &Subject) -> Result<Outcome> {
    if !subject.has("model_configuration") {
        return Ok(NOT_ANNOUNCED);
    }
    let told: ConfigResponse = subject.grpc()?.ask("ModelConfig", &named(&subject.model.name, ""))?;
    let told = told.config.context("no config")?;
    let rest = subject.server.get(&subject.model.path("config"))?.good()?;
    let told = json!({ "name": told.name, "platform": told.platform, "max_batch_size": told.max_batch_size });
    for key in ["name", "platform", "max_batch_size"] {
        let same = told[key] == rest[key] || (rest[key].is_null() && (told[key] == "" || told[key] == 0));
        ensure!(same, "'{key}' is {}, REST says {}", told[key], rest[key]);
    }
    Ok(Kept)
}

/// Answered calls, as both doors count them once they agree: a call may be counted after its answer was sent.
fn counts(subject: &Subject) -> Result<(u64, u64)> {
    let mut both = (0, 0);
    for _ in 0..50 {
        let told: Statistics = subject.grpc()?.ask("ModelStatistics", &named(&subject.model.name, ""))?;
        let success = |stats: &ModelStatistics| {
            stats
                .inference_stats
                .as_ref()
                .and_then(|stats| stats.success.as_ref())
                .map_or(0, |success| success.count)
        };
        let rest = subject.server.get(&subject.model.path("stats"))?.good()?;
        let rest = rest["model_stats"].as_array().context("'model_stats' is no list")?;
        let count = |entry: &Value| entry["inference_stats"]["success"]["count"].as_u64().unwrap_or_default();
        let now = (told.models.iter().map(success).sum(), rest.iter().map(count).sum());
        if now == both && now.0 == now.1 {
            break;
        }
        both = now;
        thread::sleep(Duration::from_millis(100));
    }
    Ok(both)
}

fn statistics(subject: &Subject) -> Result<Outcome> {
    if !subject.has("statistics") {
        return Ok(NOT_ANNOUNCED);
    }
    let before = counts(subject)?;
    ensure!(before.0 == before.1, "{} calls, REST says {}", before.0, before.1);
    for _ in 0..3 {
        subject.model.infer_over_grpc(subject.grpc()?, &subject.model.raw_request())?;
        subject.model.answer(&subject.server)?;
    }
    let after = counts(subject)?;
    ensure!(
        after == (before.0 + 6, before.1 + 6),
        "{before:?} before 6 calls, {after:?} after them (gRPC, REST)"
    );
    Ok(Kept)
}
