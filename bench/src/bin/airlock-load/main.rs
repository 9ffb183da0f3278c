//! A closed-loop load generator: the next request goes out when the answer to one is there. The first answer of every model is
//! checked value for value, every further one by status and length.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use airlock_bench::{
    awake::Awake,
    case::{Case, Form},
    grpc, http,
    process::{cpu_time, memory},
};
use anyhow::Result;
use clap::Parser;
use serde_json::json;

#[derive(Debug, Parser)]
#[command(about = "Measure a server", disable_help_subcommand = true)]
enum Cli {
    /// Measure one kind of request, and print one line of JSON
    Run(Run),
    /// Print the bytes of memory of a process and of what it started
    Memory {
        #[arg(long)]
        pid: u32,
    },
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Address of the server.
    #[arg(long)]
    address: SocketAddr,
    /// Model that echoes INPUT0 as OUTPUT0.
    #[arg(long, default_value = "identity")]
    model: String,
    /// So many models in turn, named with _0001 and so on.
    #[arg(long)]
    models: Option<usize>,
    /// Form and number of elements: json4, binary150528, grpc16.
    #[arg(long)]
    case: Case,
    /// Requests under way.
    #[arg(long, default_value_t = 1)]
    concurrency: usize,
    /// Connections that share them; only for gRPC, where one can have several under way. One for each without it.
    #[arg(long)]
    connections: Option<usize>,
    /// The server answers gRPC messages with themselves.
    #[arg(long)]
    echo: bool,
    /// Seconds to measure.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Seconds before that, not measured.
    #[arg(long, default_value_t = 0.3)]
    warm_up: f64,
    /// Seconds of silence on a connection after each answer; REST only.
    #[arg(long, default_value_t = 0.0)]
    pause: f64,
    /// Process of the server, for its CPU time and memory; what it started counts as well.
    #[arg(long)]
    pid: u32,
    /// Look at the server's memory while it is busy, in a part of its own after the measurement.
    #[arg(long)]
    memory: bool,
}

impl Run {
    fn models(&self) -> Vec<String> {
        let Some(count) = self.models else { return vec![self.model.clone()] };
        // Equally long, so that all answers are.
        (1..=count).map(|number| format!("{}_{number:04}", self.model)).collect()
    }
}

enum Load {
    Http(http::Load),
    Grpc(grpc::Load),
}

impl Load {
    async fn open(cli: &Run) -> Result<Self> {
        let (models, concurrency) = (cli.models(), cli.concurrency.max(1));
        if cli.case.form != Form::Grpc {
            let pause = Duration::try_from_secs_f64(cli.pause)?;
            return Ok(Self::Http(
                http::Load::open(cli.address, &models, cli.case, concurrency, pause).await?,
            ));
        }
        let connections = cli.connections.unwrap_or(concurrency).clamp(1, concurrency);
        let shape = (connections, concurrency / connections);
        Ok(Self::Grpc(grpc::Load::open(cli.address, &models, cli.case, shape, cli.echo).await?))
    }

    async fn drive(&mut self, seconds: f64) -> Result<Vec<Duration>> {
        let duration = Duration::try_from_secs_f64(seconds)?;
        match self {
            Self::Http(load) => load.drive(duration).await,
            Self::Grpc(load) => load.drive(duration).await,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Cli::parse() {
        Cli::Run(cli) => run(&cli).await,
        Cli::Memory { pid } => {
            println!("{}", memory(pid)?);
            Ok(())
        }
    }
}

async fn run(cli: &Run) -> Result<()> {
    let mut load = Load::open(cli).await?;
    let awake = Awake::keep();
    load.drive(cli.warm_up).await?;
    let server = cpu_time(cli.pid)?;
    let idle = awake.idle();
    let started = Instant::now();
    let mut latencies = load.drive(cli.seconds).await?;
    let seconds = started.elapsed().as_secs_f64();
    let server = (cpu_time(cli.pid)? - server).as_secs_f64();
    let idle = (awake.idle() - idle).as_secs_f64();
    let bytes = if cli.memory { Some(memory_under_load(&mut load, cli.pid).await?) } else { None };

    latencies.sort_unstable();
    let count = latencies.len();
    let percentile = |of_hundred: usize| {
        let index = (count * of_hundred / 100).min(count - 1);
        latencies[index].as_secs_f64() * 1e3
    };
    let requests = f64::from(u32::try_from(count)?);
    println!(
        "{}",
        json!({
            "requests": count,
            "requests_per_second": requests / seconds,
            "p50_ms": percentile(50),
            "p99_ms": percentile(99),
            "cpu_us_per_request": server * 1e6 / requests,
            "server_busy": server / seconds,
            "generator_busy": 1.0 - idle / seconds,
            "memory_bytes": bytes,
        })
    );
    Ok(())
}

/// The most of a few looks.
async fn memory_under_load(load: &mut Load, pid: u32) -> Result<u64> {
    let looks = tokio::task::spawn_blocking(move || {
        let mut most = 0;
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(80));
            most = most.max(memory(pid)?);
        }
        anyhow::Ok(most)
    });
    while !looks.is_finished() {
        load.drive(0.1).await?;
    }
    looks.await?
}
