//! `airlock serve`: configuration → logs → gateway → wait for a signal → drain.

use std::{
    io::IsTerminal,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::descriptors;
use crate::{
    config::{Config, Settings},
    server,
};

/// Serve models over HTTP and gRPC
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  airlock serve add.wasm                       one plugin, as model `add`
  airlock serve --model-repository models/     a folder in Triton's layout
  airlock serve --config airlock.toml          the same names as the flags, with `_` for `-`; limits under [limits]
  curl -s localhost:8000/v2/models/add         what does it take and give?

Flags win over AIRLOCK_… variables, those over the configuration file. SIGTERM and ctrl-C stop gracefully; a second
signal stops at once.")]
pub(super) struct Serve {
    #[command(flatten)]
    settings: Settings,

    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE", env = "AIRLOCK_CONFIG")]
    config: Option<PathBuf>,

    /// What to log, as `tracing` filters say it: `debug`, `info,airlock::meter=debug`, …
    #[arg(long, value_name = "FILTER", env = "AIRLOCK_LOG", default_value = "info")]
    log: String,

    /// How to write log lines
    #[arg(long, value_name = "FORMAT", env = "AIRLOCK_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
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
        log(&self.log, self.log_format)?;
        // One or two ports for models, and with a store one for operators.
        let ports = 1 + usize::from(config.grpc.is_some()) + usize::from(config.store.is_some());
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

fn log(filter: &str, format: LogFormat) -> Result<()> {
    let filter =
        EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?} is not a log filter"))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A line that cannot be written (a full disk, a reader that is gone) is lost. To say so where nothing can be said
        // would panic, and end what happens to be logged.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => subscriber.with_target(false).init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
    Ok(())
}
