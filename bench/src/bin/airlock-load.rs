//! A closed-loop load generator: each connection sends its next request when it has the answer to the last. Prints one
//! line of JSON. Every server's first answer is checked value for value, every further one by status and length.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use airlock_bench::{
    case::Case,
    client::{Connection, Head},
    process::cpu_time,
};
use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::json;
use tokio::task::JoinSet;

#[derive(Debug, Parser)]
#[command(about = "Measure one kind of request against one server")]
struct Cli {
    /// Address of the server.
    #[arg(long)]
    address: SocketAddr,
    /// Model that echoes INPUT0 as OUTPUT0.
    #[arg(long, default_value = "identity")]
    model: String,
    #[arg(long, value_enum)]
    case: Case,
    /// Connections, each with one request under way.
    #[arg(long, default_value_t = 1)]
    concurrency: usize,
    /// Seconds to measure.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Seconds before that, not measured.
    #[arg(long, default_value_t = 0.3)]
    warm_up: f64,
    /// Process of the server, for its CPU time.
    #[arg(long)]
    pid: u32,
}

/// Keeps every connection busy for that long; gives them back with the latency of each request.
async fn drive(
    connections: Vec<Connection>,
    request: &Arc<Vec<u8>>,
    expected: Head,
    duration: Duration,
) -> Result<(Vec<Connection>, Vec<Duration>)> {
    let end = Instant::now() + duration;
    let mut tasks = JoinSet::new();
    for mut connection in connections {
        let request = Arc::clone(request);
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let started = Instant::now();
                let head = connection.call(&request).await?;
                ensure!(
                    (head.status, head.content_length) == (expected.status, expected.content_length),
                    "an answer differs from the first one: status {}, {} bytes",
                    head.status,
                    head.content_length
                );
                let ended = Instant::now();
                latencies.push(ended - started);
                if ended >= end {
                    return Ok((connection, latencies));
                }
            }
        });
    }
    let mut connections = Vec::new();
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (connection, measured) = done??;
        connections.push(connection);
        latencies.extend(measured);
    }
    Ok((connections, latencies))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let path = format!("/v2/models/{}/infer", cli.model);
    let request = Arc::new(cli.case.request(&cli.address.to_string(), &path));

    let mut connections = Vec::new();
    for _ in 0..cli.concurrency.max(1) {
        connections.push(Connection::open(cli.address).await?);
    }
    let first = &mut connections[0];
    let expected = first.call(&request).await?;
    let body = first.body(expected);
    let shown = String::from_utf8_lossy(&body[..body.len().min(300)]);
    ensure!(expected.status == 200, "{path} answers {}: {shown}", expected.status);
    cli.case.check(expected.header_length, body).with_context(|| format!("{path} answers {shown}"))?;

    let (connections, _) =
        drive(connections, &request, expected, Duration::try_from_secs_f64(cli.warm_up)?).await?;
    let server = cpu_time(cli.pid)?;
    let own = cpu_time(std::process::id())?;
    let started = Instant::now();
    let (_, mut latencies) =
        drive(connections, &request, expected, Duration::try_from_secs_f64(cli.seconds)?).await?;
    let seconds = started.elapsed().as_secs_f64();
    let server = (cpu_time(cli.pid)? - server).as_secs_f64();
    let own = (cpu_time(std::process::id())? - own).as_secs_f64();

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
            "generator_busy": own / seconds,
        })
    );
    Ok(())
}
