//! What a tenant notices of another one that takes all it can get. A victim sends a small request at a fixed rate, alone and
//! beside an attacker, in turns; latencies count from the moment at which a request was to be sent, so that a stall is seen by
//! all that it delays. Prints one line of JSON.
//!
//! ```sh
//! cargo build --workspace --bins --config profile.dev.package.airlock.opt-level=2
//! taskset -c 1 target/debug/airlock-neighbours --gateway target/debug/airlock --core 0 --attack loop
//! ```

mod attack;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use airlock::authenticate::Scope;
use airlock_tests::{
    guest,
    load::{Loaded, connect_from, exchange, shown},
    store::Store,
};
use anyhow::Result;
use clap::Parser;
use serde_json::json;
use tokio::{
    task::{JoinSet, yield_now},
    time::{Instant, sleep, sleep_until},
};

use attack::{Attack, Attacker, publish};

#[derive(Debug, Parser)]
#[command(about = "Measure what a tenant notices of another one that takes all it can get")]
struct Cli {
    /// The gateway's binary.
    #[arg(long)]
    gateway: PathBuf,
    /// Core of the gateway and its workers; start this program on another one.
    #[arg(long)]
    core: Option<usize>,
    #[arg(long, value_enum)]
    attack: Attack,
    /// Connections of the attacker, each with a request under way; `all` has its own number.
    #[arg(long, default_value_t = 16)]
    attackers: usize,
    /// Requests of the victim in a second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each half of a round.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Further settings of the gateway, behind `--`.
    #[arg(last = true)]
    settings: Vec<String>,
}

/// Connections of the victim: more than it has requests under way.
const CONNECTIONS: u32 = 8;

/// From the beginning of an attack to the first request that is measured.
const RAMP: Duration = Duration::from_millis(500);

fn request(address: SocketAddr, key: &str, model: &str, timeout_us: u32) -> Vec<u8> {
    let body = json!({
        "parameters": { "timeout": timeout_us },
        "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [4.5] }]
    })
    .to_string();
    let length = body.len();
    let head =
        format!("POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}");
    format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// Latencies in milliseconds, and the number of refusals.
async fn victim(
    address: SocketAddr,
    request: &Arc<Vec<u8>>,
    rate: u32,
    seconds: u32,
) -> Result<(Vec<f64>, u64)> {
    let start = Instant::now() + Duration::from_millis(20);
    let mut tasks = JoinSet::new();
    for number in 0..CONNECTIONS {
        let request = Arc::clone(request);
        tasks.spawn(async move {
            let mut stream = connect_from(0, address).await?;
            let (mut latencies, mut refused) = (Vec::new(), 0);
            for index in (number..rate * seconds).step_by(CONNECTIONS as usize) {
                let intended = start + Duration::from_secs(1) * index / rate;
                // Timers have a grain of a millisecond, which would be most of what is measured.
                sleep_until(intended - Duration::from_millis(2)).await;
                while Instant::now() < intended {
                    yield_now().await;
                }
                refused += u64::from(exchange(&mut stream, &request).await? != 200);
                latencies.push(intended.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::Ok((latencies, refused))
        });
    }
    let (mut latencies, mut refused) = (Vec::new(), 0);
    while let Some(done) = tasks.join_next().await {
        let (some, more) = done??;
        latencies.extend(some);
        refused += more;
    }
    Ok((latencies, refused))
}

fn p99(latencies: &[f64]) -> f64 {
    let mut sorted = latencies.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() * 99 / 100]
}

/// What holds the attacker back is to be the gateway's fairness and not its own limits, except where those are measured as well.
async fn lift_limits(store: &Store, attack: Attack) {
    let none = [("rate", "0"), ("running", "0"), ("versions", "1000"), ("loaded", "100GiB")];
    store.limit("victim", &none).await;
    if attack != Attack::All {
        store.limit("attacker", &none).await;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let store = Store::default();
    let scopes = [Scope::Infer, Scope::Repository];
    let (victims, attackers) = (store.key("victim", &scopes).await, store.key("attacker", &scopes).await);
    lift_limits(&store, cli.attack).await;
    let mut arguments = vec!["--store".to_owned(), store.path().display().to_string()];
    arguments.extend(cli.settings);
    let gateway = Loaded::start(&cli.gateway, cli.core, &arguments).await?;
    let address = gateway.address;
    publish(address, &victims, "m", guest::ECHO).await?;
    let good = Arc::new(request(address, &victims, "m", 2_000_000));
    let attacker = Attacker::new(cli.attack, address, attackers).await?;

    let (mut alone, mut beside, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut refused = 0;
    for _ in 0..cli.rounds {
        let (solo, lost) = victim(address, &good, cli.rate, cli.seconds).await?;
        refused += lost;
        let attack = attacker.begin(cli.attackers);
        sleep(RAMP).await;
        let (attacked, lost) = victim(address, &good, cli.rate, cli.seconds).await?;
        refused += lost;
        attacker.end(attack).await?;
        ratios.push(p99(&attacked) / p99(&solo));
        alone.extend(solo);
        beside.extend(attacked);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "{}",
        json!({
            "attack": format!("{:?}", cli.attack), "attacks": attacker.answers(), "victim_refused": refused,
            "solo_ms": shown(alone), "attacked_ms": shown(beside), "p99_ratios": ratios,
        })
    );
    Ok(())
}
