//! What slow, many and large requests cost: connections that stall, more requests than there is time for, and bodies.
//! Latencies count from the moment at which a request was to be sent. Prints one line of JSON.
//!
//! ```sh
//! cargo build --workspace --bins --config profile.dev.package.airlock.opt-level=2
//! taskset -c 1 target/debug/airlock-peers --gateway target/debug/airlock --core 0 stalled      # or overload, bodies
//! ```

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use airlock_tests::{
    gateway::Repository,
    guest,
    load::{Loaded, connect_from, exchange, infer, shown},
};
use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

#[derive(Debug, Parser)]
#[command(about = "Measure what slow, many and large requests cost")]
struct Cli {
    /// The gateway's binary.
    #[arg(long)]
    gateway: PathBuf,
    /// Core of the gateway; start this program on another one.
    #[arg(long)]
    core: Option<usize>,
    #[arg(value_enum)]
    what: What,
    /// Connections that stall.
    #[arg(long, default_value_t = 9000)]
    stalled: usize,
    /// All of them in the same way, by its place in the list of `stall`; otherwise a quarter of them in each.
    #[arg(long)]
    way: Option<usize>,
    /// Requests that are sent, as a multiple of those that can be answered.
    #[arg(long, default_value_t = 5)]
    times: u32,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, default_value_t = 5)]
    seconds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Stalled,
    Overload,
    Bodies,
}

const BODY: &str = r#"{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"data":[1.5]}]}"#;

/// The addresses that requests come from.
const SOURCES: usize = 16;

/// Milliseconds of each answer, by status.
type Latencies = BTreeMap<u16, Vec<f64>>;

/// Sends that many requests a second over that many connections.
async fn send(gateway: &Loaded, rate: u32, seconds: u32, connections: u32) -> Result<(Latencies, Duration)> {
    let request = Arc::new(infer(gateway.address, BODY.as_bytes()));
    let mut streams = Vec::new();
    for source in 0..connections as usize {
        streams.push(connect_from(source % SOURCES, gateway.address).await?);
    }
    let start = Instant::now() + Duration::from_millis(50);
    let mut tasks = JoinSet::new();
    for (number, mut stream) in (0..connections).zip(streams) {
        let request = Arc::clone(&request);
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            for index in (number..rate * seconds).step_by(connections as usize) {
                let intended = start + Duration::from_secs(1) * index / rate;
                sleep_until(intended).await;
                let status = exchange(&mut stream, &request).await?;
                latencies.push((status, intended.elapsed().as_secs_f64() * 1e3));
            }
            anyhow::Ok(latencies)
        });
    }
    let mut all = Latencies::new();
    while let Some(done) = tasks.join_next().await {
        for (status, latency) in done?? {
            all.entry(status).or_default().push(latency);
        }
    }
    Ok((all, start.elapsed()))
}

/// Answers in a second to as many connections as keep the gateway at work.
async fn capacity(gateway: &Loaded, seconds: u32) -> Result<f64> {
    let request = Arc::new(infer(gateway.address, BODY.as_bytes()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for source in 0..8 {
        let (request, stop, address) = (Arc::clone(&request), Arc::clone(&stop), gateway.address);
        tasks.spawn(async move {
            let (mut stream, mut answers) = (connect_from(source, address).await?, 0_u32);
            while !stop.load(Ordering::Relaxed) {
                ensure!(exchange(&mut stream, &request).await? == 200, "refused");
                answers += 1;
            }
            anyhow::Ok(answers)
        });
    }
    let begun = Instant::now();
    sleep(Duration::from_secs(seconds.into())).await;
    stop.store(true, Ordering::Relaxed);
    let mut answers = 0;
    while let Some(done) = tasks.join_next().await {
        answers += done??;
    }
    Ok(f64::from(answers) / begun.elapsed().as_secs_f64())
}

async fn overload(cli: &Cli) -> Result<Value> {
    let repository = Repository::default().with("m", "1", "model.wasm", guest::module(guest::BUSY)?);
    let gateway = start(cli, &repository, &["--max-connections", "16000"]).await?;
    let mut rounds = Vec::new();
    for _ in 0..cli.rounds {
        let capacity = capacity(&gateway, cli.seconds).await?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few hundred")]
        let rate = capacity as u32 * cli.times;
        let (before, _) = gateway.memory()?;
        gateway.forget_peak()?;
        // Enough connections for all requests that are under way, which have two seconds.
        let (mut answers, took) = send(&gateway, rate, cli.seconds * 2, (rate * 2).min(15_000)).await?;
        let good = answers.remove(&200).unwrap_or_default();
        let goodput = good.len() as f64 / took.as_secs_f64();
        let late: usize = answers.get(&504).map_or(0, Vec::len);
        let refused = answers.remove(&503).unwrap_or_default();
        rounds.push(json!({
            "capacity": capacity.round(), "sent_per_second": rate, "goodput": goodput.round(),
            "goodput_of_capacity": (goodput / capacity * 1000.0).round() / 1000.0,
            "good_ms": shown(good), "refused_ms": shown(refused), "late": late,
            "others": answers.into_iter().map(|(status, all)| (status.to_string(), json!(all.len()))).collect::<serde_json::Map<_, _>>(),
            "memory_growth_kib": gateway.memory()?.1.saturating_sub(before),
        }));
    }
    Ok(json!(rounds))
}

/// Opens a connection that does not go on, and says how long after its beginning it was closed.
async fn stall(number: usize, way: usize, address: std::net::SocketAddr) -> Result<f64> {
    let mut stream = connect_from(number, address).await?;
    let starts = [
        String::new(),
        "GET /v2 HTTP/1.1\r\nHost: localhost\r\nA:".to_owned(),
        "POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{".to_owned(),
        "GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
    ];
    stream.write_all(starts[way % starts.len()].as_bytes()).await?;
    let begun = Instant::now();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    Ok(begun.elapsed().as_secs_f64())
}

/// Time after which each of them has to be closed.
const DEADLINE: u32 = 10;

async fn stalled(cli: &Cli) -> Result<Value> {
    let repository = Repository::default().with("m", "1", "model.wasm", guest::good());
    let settings = ["--max-connections", "20000", "--header-timeout", "10s", "--body-idle-timeout", "10s"];
    let gateway = start(cli, &repository, &settings).await?;
    send(&gateway, 100, 1, 8).await?;
    let mut rounds = Vec::new();
    for _ in 0..cli.rounds {
        let (alone, _) = send(&gateway, 100, cli.seconds, 8).await?;
        let (before, _) = gateway.memory()?;
        let mut stalls = JoinSet::new();
        let begun = Instant::now();
        for number in 0..cli.stalled {
            stalls.spawn(stall(number, cli.way.unwrap_or(number), gateway.address));
            if number % 50 == 49 {
                sleep(Duration::from_millis(10)).await;
            }
        }
        let opened_in = begun.elapsed().as_secs_f64();
        let (beside, _) = send(&gateway, 100, cli.seconds, 8).await?;
        let (with, _) = gateway.memory()?;
        let under_way = stalls.len();
        let mut times = Vec::new();
        while let Some(done) = stalls.join_next().await {
            times.push(done??);
        }
        let late = times.iter().filter(|time| **time > f64::from(DEADLINE) + 1.0).count();
        rounds.push(json!({
            "stalled": under_way, "opened_in_s": opened_in,
            "alone_ms": shown(alone.get(&200).cloned().unwrap_or_default()),
            "beside_ms": shown(beside.get(&200).cloned().unwrap_or_default()),
            "refused": beside.keys().filter(|status| **status != 200).count(),
            "closed_after_s": shown(times), "later_than_deadline_and_1s": late,
            "kib_each": with.saturating_sub(before) as f64 / under_way as f64,
        }));
    }
    Ok(json!(rounds))
}

/// Bodies of 16 MiB that are refused once they are understood.
async fn bodies(cli: &Cli) -> Result<Value> {
    const SIZE: usize = 16 << 20;
    let repository = Repository::default().with("m", "1", "model.wasm", guest::good());
    let gateway = start(cli, &repository, &[]).await?;
    let list = |element: &str| format!("[{}]", vec![element; SIZE / (element.len() + 1)].join(","));
    // The model has no such input, which is seen once all of it is parsed.
    let json = |element: &str| {
        let (count, data) = (SIZE / (element.len() + 1), list(element));
        format!(r#"{{"inputs":[{{"name":"X","datatype":"FP32","shape":[{count}],"data":{data}}}]}}"#)
    };
    // As deep as it may be.
    let nested = format!("{}{}", "[".repeat(30), "]".repeat(30));
    let strange = |rest: String| format!(r#"{{"unknown":{rest},"inputs":[]}}"#);
    let kinds = [
        ("short numbers", json("1")),
        ("long numbers", json("0.12345678901234567")),
        ("white space", format!("{}{BODY}x", " ".repeat(SIZE))),
        ("an id", format!(r#"{{"id":"{}","inputs":[]}}"#, "x".repeat(SIZE))),
        ("escapes", format!(r#"{{"id":"{}","inputs":[]}}"#, r"\u00e9".repeat(SIZE / 6))),
        ("nothing, nested", strange(list(&nested))),
        ("empty objects", strange(list("{}"))),
        ("objects", strange(list(r#"{"a":1}"#))),
        ("empty texts", strange(list("\"\""))),
        ("parameters", format!(r#"{{"parameters":{{"a":{}}},"inputs":[]}}"#, list("{}"))),
    ];
    let mut shown_kinds = serde_json::Map::new();
    for (name, body) in kinds {
        let (mut times, mut growths) = (Vec::new(), Vec::new());
        for _ in 0..cli.rounds {
            let mut stream = connect_from(0, gateway.address).await?;
            let request = infer(gateway.address, body.as_bytes());
            let (before, _) = gateway.memory()?;
            gateway.forget_peak()?;
            let (first, last) = request.split_at(request.len() - 1);
            stream.write_all(first).await?;
            // All but the last byte is there and read.
            sleep(Duration::from_millis(200)).await;
            let begun = Instant::now();
            let status = exchange(&mut stream, last).await?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            ensure!(status == 400, "{name}: {status}");
            growths.push(gateway.memory()?.1.saturating_sub(before) as f64 / 1024.0);
        }
        shown_kinds.insert(name.into(), json!({
            "body_mib": body.len() as f64 / f64::from(1 << 20), "parse_ms": shown(times), "growth_mib": shown(growths),
        }));
    }
    Ok(Value::Object(shown_kinds))
}

async fn start(cli: &Cli, repository: &Repository, settings: &[&str]) -> Result<Loaded> {
    let folder = repository.path().to_string_lossy().into_owned();
    let arguments: Vec<String> = ["--model-repository", &folder]
        .into_iter()
        .chain(settings.iter().copied())
        .map(str::to_owned)
        .collect();
    Loaded::start(&cli.gateway, cli.core, &arguments).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let figures = match cli.what {
        What::Stalled => stalled(&cli).await?,
        What::Overload => overload(&cli).await?,
        What::Bodies => bodies(&cli).await?,
    };
    println!("{}", json!({ "measured": format!("{:?}", cli.what), "figures": figures }));
    Ok(())
}
