//! `airlock serve`: configuration → logs → gateway → wait for a signal → drain.

use std::{
    io::IsTerminal,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use reqwest::Url;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, LevelFilter, filter_fn},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use super::{descriptors, otlp::Traces};
use crate::{
    config::{Config, Settings},
    meter::ACCESS,
    server,
};

/// Serve models over HTTP and gRPC
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  airlock serve add.wasm                       one plugin, as model `add`
  airlock serve --model-repository models/     a folder in Triton's layout
  airlock serve --config airlock.toml          the flags' names with `_` for `-`, but for logs and traces; limits under [limits]
  curl -s localhost:8000/v2/models/add         what does it take and give?

Flags win over AIRLOCK_… variables, those over the configuration file. SIGTERM and ctrl-C stop gracefully; a second
signal stops at once.")]
pub(super) struct Serve {
    #[command(flatten)]
    settings: Settings,

    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE", env = "AIRLOCK_CONFIG")]
    config: Option<PathBuf>,

    /// What to log, as `tracing` filters say it: `debug`, `warn,airlock::admit=debug`, …
    #[arg(long, value_name = "FILTER", env = "AIRLOCK_LOG", default_value = "info")]
    log: String,

    /// How to write log lines
    #[arg(long, value_name = "FORMAT", env = "AIRLOCK_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,

    /// Write a line for each request to standard output
    #[arg(long, value_name = "FORMAT", env = "AIRLOCK_ACCESS_LOG", default_value = "off")]
    access_log: AccessLog,

    /// Send a trace of infer requests to this OpenTelemetry collector: http://HOST:4318 (OTLP over HTTP)
    #[arg(long, value_name = "URL", env = "AIRLOCK_OTLP")]
    otlp: Option<Url>,

    /// Which part of the requests that come without a trace is traced; those that come with one say so themselves
    #[arg(long, value_name = "PART", env = "AIRLOCK_OTLP_PART", default_value_t = 1.0)]
    otlp_part: f64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AccessLog {
    Off,
    Text,
    Json,
}

impl Serve {
    pub(super) fn run(self) -> ExitCode {
        match self.try_run() {
            Ok(code) => code,
            Err(error) => {
                eprintln!("airlock: {error:#}");
                ExitCode::FAILURE
            }
        }
    }

    fn try_run(self) -> Result<ExitCode> {
        let mut settings = self.settings;
        if let Some(path) = &self.config {
            settings = settings.or(Settings::from_file(path)?);
        }
        let mut config = Config::try_from(settings)?;
        let traces = self.otlp.map(|url| Traces::to(&url, self.otlp_part)).transpose()?;
        // These write and send what is left when they are dropped.
        let _access = log(&self.log, self.log_format, self.access_log, traces.as_ref())?;
        // One or two ports for models, and with a store one for operators. That of the metrics has few, which the reserve covers.
        let ports = 1 + usize::from(config.grpc.address().is_some()) + usize::from(config.store.is_some());
        descriptors::make_room(&mut config.limits.listen.max_connections, ports);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(server::serving_threads())
            // A request costs tens of microseconds: looked for less often, the next one waits behind many of them.
            .event_interval(8)
            .enable_all()
            .build()
            .context("cannot start the serving threads")?;
        let code = runtime.block_on(serve(config))?;
        // Whatever still blocks a thread (a compile, a native run) must not hold up the exit.
        runtime.shutdown_timeout(Duration::from_millis(100));
        Ok(code)
    }
}

async fn serve(config: Config) -> Result<ExitCode> {
    // Before the port opens: a signal during start-up must find its handler.
    let mut signals = Signals::new()?;
    let drain_delay = config.drain_delay;
    let mut server = server::start(config).await?;
    let _reserve = server.keep_reserve();
    let asked = tokio::select! {
        asked = signals.next() => asked,
        () = server.ended() => bail!("the listener died; its last words are in the log above"),
    };
    let started = Instant::now();
    // Nobody waits for a load balancer to notice who pressed ctrl-C.
    let drain_delay = if asked == SignalKind::terminate() { drain_delay } else { Duration::ZERO };
    tokio::select! {
        cut = server.stop(drain_delay) => {
            let elapsed_ms = started.elapsed().as_millis();
            if cut == 0 {
                tracing::info!(elapsed_ms, "stopped");
            } else {
                tracing::warn!(elapsed_ms, cut, "stopped; the grace period ended before these connections did");
            }
            Ok(ExitCode::SUCCESS)
        }
        _ = signals.next() => {
            tracing::warn!("second signal: stopping at once");
            Ok(ExitCode::from(130))
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        }
    }
}

/// Starts the logs: what the gateway has to say on standard error, and what was asked of it on standard output.
fn log(
    filter: &str,
    format: LogFormat,
    access: AccessLog,
    traces: Option<&Traces>,
) -> Result<Option<WorkerGuard>> {
    let filter =
        EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?} is not a log filter"))?;
    // Without their hints, every line of every level would be looked at before it is left out.
    let others = filter_fn(|line| line.target() != ACCESS).with_max_level_hint(LevelFilter::TRACE);
    let filter = filter.and(others);
    let layer = fmt::layer()
        .with_writer(std::io::stderr)
        // A line that cannot be written (a full disk, a reader that is gone) is lost. To say so where nothing can be said
        // would panic, and end what happens to be logged.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    let layer = match format {
        LogFormat::Text => layer.with_target(false).with_filter(filter).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    };
    let mut layers = vec![layer];
    let requests = || filter_fn(|line| line.target() == ACCESS).with_max_level_hint(LevelFilter::INFO);
    layers.extend(traces.map(|traces| traces.layer().with_filter(requests()).boxed()));
    if access == AccessLog::Off {
        tracing_subscriber::registry().with(layers).init();
        return Ok(None);
    }
    // A thread of its own writes these lines, and where it cannot keep up some are lost: no request waits for whoever reads them.
    let (writer, guard) = tracing_appender::non_blocking(std::io::stdout());
    let layer = fmt::layer()
        .with_writer(writer)
        .log_internal_errors(false)
        .with_ansi(false)
        .with_target(false)
        .with_level(false);
    layers.push(match access {
        AccessLog::Json => layer.json().flatten_event(true).with_filter(requests()).boxed(),
        _ => layer.with_filter(requests()).boxed(),
    });
    tracing_subscriber::registry().with(layers).init();
    Ok(Some(guard))
}
