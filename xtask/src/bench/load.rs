//! One measurement: the load generator against one server.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    figures::Rounds,
    lab::{Kind, Lab, Running},
};

/// What to send.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    /// As `airlock-load --case` names it.
    pub case: &'a str,
    pub model: &'a str,
    /// So many copies of the model in turn.
    pub models: Option<usize>,
    pub concurrency: usize,
    /// Whether the server's memory is of interest.
    pub memory: bool,
    /// Seconds of silence on a connection after each answer.
    pub pause: f64,
}

/// One measurement, as the load generator prints it.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub requests_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub cpu_us: f64,
    pub generator_busy: f64,
    /// 0 if it was not asked for.
    pub memory_bytes: f64,
}

impl Load<'_> {
    pub fn measure(&self, lab: &Lab, running: &Running, echo: bool) -> Result<Sample> {
        let grpc = self.case.starts_with("grpc");
        let address = if grpc { running.grpc } else { running.address() };
        let mut command = lab.on_load_core(lab.binaries.join("airlock-load"));
        command
            .args(["run", "--address", &address.to_string(), "--pid", &running.pid().to_string()])
            .args(["--model", self.model, "--case", self.case])
            .args(["--concurrency", &self.concurrency.to_string()])
            .args(["--seconds", &lab.seconds.to_string(), "--warm-up", &lab.warm_up.to_string()]);
        if let Some(models) = self.models {
            command.args(["--models", &models.to_string()]);
        }
        if grpc {
            command.args(["--connections", &connections(self.concurrency).to_string()]);
        }
        if self.pause > 0.0 {
            command.args(["--pause", &self.pause.to_string()]);
        }
        command.args(self.memory.then_some("--memory")).args(echo.then_some("--echo"));
        sample(&mut command)
    }
}

/// A gRPC client has several calls under way on a connection.
fn connections(calls: usize) -> usize {
    match calls {
        0..=3 => 1,
        4..=15 => 4,
        _ => 8,
    }
}

/// Runs a measuring program, which prints its figures as one line of JSON.
pub fn figures(command: &mut Command) -> Result<Value> {
    // Only what went wrong, not where.
    command.env("RUST_BACKTRACE", "0");
    let output = command.stderr(Stdio::piped()).output();
    let output = output.with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches("Error: ").lines().collect::<Vec<_>>().join(" ");
    ensure!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).context("the measuring program printed no JSON")
}

/// One of them.
pub fn named(figures: &Value, name: &str) -> Result<f64> {
    figures[name].as_f64().with_context(|| format!("{name} is missing"))
}

fn sample(command: &mut Command) -> Result<Sample> {
    let line = figures(command)?;
    Ok(Sample {
        requests_per_second: named(&line, "requests_per_second")?,
        p50_ms: named(&line, "p50_ms")?,
        p99_ms: named(&line, "p99_ms")?,
        cpu_us: named(&line, "cpu_us_per_request")?,
        generator_busy: named(&line, "generator_busy")?,
        memory_bytes: line["memory_bytes"].as_f64().unwrap_or(0.0),
    })
}

/// The measurements of all rounds, or why there are none.
#[derive(Clone, Debug)]
pub struct Samples(pub Result<Vec<Sample>, String>);

impl Default for Samples {
    fn default() -> Self {
        Self(Ok(Vec::new()))
    }
}

impl Samples {
    /// Adds a round. That a peer fails is a result, and makes all its rounds worth nothing.
    ///
    /// # Errors
    /// If one of the project's own servers failed.
    pub fn add(&mut self, kind: Kind, outcome: Result<Sample>) -> Result<()> {
        match (&mut self.0, outcome) {
            (Ok(samples), Ok(sample)) => samples.push(sample),
            (_, Err(error)) if matches!(kind, Kind::Peer(_)) => {
                let mut reason = format!("{error:#}").replace(['\n', '|'], " ");
                if let Some((at, _)) = reason.char_indices().nth(160) {
                    reason.truncate(at);
                }
                self.0 = Err(reason);
            }
            (_, Err(error)) => return Err(error),
            (Err(_), Ok(_)) => {}
        }
        Ok(())
    }

    pub fn failed(&self) -> bool {
        self.0.is_err()
    }

    pub fn rounds(&self, of: impl Fn(&Sample) -> f64) -> Result<Rounds, String> {
        self.0.as_ref().map(|samples| samples.iter().map(of).collect()).map_err(Clone::clone)
    }

    /// Requests per second beside another server's, round by round.
    pub fn rate_to(&self, other: &Self) -> Result<Rounds, String> {
        let rate = |samples: &Self| samples.rounds(|sample| sample.requests_per_second);
        Ok(rate(self)?.ratio(&rate(other)?))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::peers::Peer, *};

    #[test]
    fn only_the_failure_of_a_peer_is_a_result() {
        let mut samples = Samples::default();
        let failure = || Err(anyhow::anyhow!("a|b\nc"));
        assert!(samples.add(Kind::Airlock, failure()).is_err());
        assert!(!samples.failed());
        samples.add(Kind::Peer(Peer::Triton), failure()).expect("a result");
        assert_eq!(samples.rounds(|sample| sample.p50_ms), Err("a b c".into()));
    }
}
