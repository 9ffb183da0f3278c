//! What a tenant notices of another one that takes all it can get. A victim sends a small request at a fixed rate, alone and
//! beside an attacker, in turns; latencies count from the moment at which a request was to be sent, so that a stall is seen by
//! all that it delays. Prints one line of JSON.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use airlock::authenticate::Scope;
use airlock_tests::{
    client::call,
    guest::{self, hostile},
    store::Store,
};
use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinSet, yield_now},
    time::{Instant, sleep, sleep_until},
};

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
    /// Connections of the attacker, each with a request under way.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Attack {
    /// Guests that never end.
    Loop,
    /// Guests that write all the memory that they may have, again and again.
    Memory,
    /// As many short calls as there are answers.
    Short,
    /// Uploads of modules that keep a compiler busy, one on each connection and no more than a tenant may have at a time.
    Compile,
}

/// Connections of the victim: more than it has requests under way.
const CONNECTIONS: u32 = 8;

fn request(address: SocketAddr, key: &str, timeout_us: u32) -> Vec<u8> {
    let body = json!({
        "parameters": { "timeout": timeout_us },
        "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [4.5] }]
    })
    .to_string();
    let length = body.len();
    let head = format!("POST /v2/models/m/infer HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}");
    format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// Sends a request and reads its answer, which has a length. Returns the status.
async fn exchange(stream: &mut TcpStream, request: &[u8]) -> Result<u16> {
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    loop {
        ensure!(stream.read_buf(&mut answer).await? > 0, "the connection ended");
        let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&answer[..end])?.to_ascii_lowercase();
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let whole = end + 4 + length.context("no length")?.parse::<usize>()?;
        while answer.len() < whole {
            ensure!(stream.read_buf(&mut answer).await? > 0, "the connection ended");
        }
        return Ok(status);
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Latencies in milliseconds, in ascending order, and the number of refusals.
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
            let mut stream = connect(address).await?;
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
    latencies.sort_by(f64::total_cmp);
    Ok((latencies, refused))
}

fn percentile(sorted: &[f64], of_thousand: usize) -> f64 {
    sorted[(sorted.len() * of_thousand / 1000).min(sorted.len() - 1)]
}

fn shown(sorted: &[f64]) -> Value {
    let at = |of_thousand| percentile(sorted, of_thousand);
    json!({ "p50": at(500), "p99": at(990), "max": at(1000) })
}

struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn start(cli: &Cli, store: &Store) -> Result<(Gateway, SocketAddr)> {
    let log = store.path().join("log");
    let mut command = match cli.core {
        Some(core) => {
            let mut command = Command::new("taskset");
            command.args(["-c", &core.to_string()]).arg(&cli.gateway);
            command
        }
        None => Command::new(&cli.gateway),
    };
    command.args(["serve", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--store"]).arg(store.path());
    let child = command.args(&cli.settings).stdout(Stdio::null()).stderr(fs::File::create(&log)?).spawn()?;
    let gateway = Gateway(child);
    for _ in 0..600 {
        let text = fs::read_to_string(&log)?;
        if text.contains("ready models=") {
            let line = text.lines().find_map(|line| line.split_once("listening on http://"));
            return Ok((gateway, line.context("no address")?.1.trim().parse()?));
        }
        sleep(Duration::from_millis(50)).await;
    }
    bail!("the gateway does not get ready: {}", fs::read_to_string(&log)?)
}

/// Functions that are each within the profile, and together keep a compiler busy for seconds.
fn bomb() -> Result<Vec<u8>> {
    const FUNCTIONS: usize = 40;
    const LOCALS: usize = 5_000;
    const BLOCKS: usize = 9_000;
    let locals = " i32".repeat(LOCALS);
    let mut text = String::new();
    for function in 0..FUNCTIONS {
        write!(text, "(func $bomb{function} (param i32) (result i32) (local{locals})")?;
        for block in 0..BLOCKS {
            let (local, other) = (1 + block % LOCALS, 1 + (block * 7) % LOCALS);
            let sum = format!("(i32.add (local.get {local}) (local.get {other}))");
            writeln!(text, "(if (local.get 0) (then (local.set {local} {sum})))")?;
        }
        text.push_str("(local.get 1))\n");
    }
    guest::module(&text)
}

/// What the attacker sends, one after the other.
struct Bad {
    head: String,
    body: Vec<u8>,
    /// Each upload is of another version and of other content, so that nothing of the last one is of use.
    uploads: Option<AtomicU64>,
}

impl Bad {
    fn next(&self) -> Vec<u8> {
        let Some(uploads) = &self.uploads else { return [self.head.as_bytes(), &self.body].concat() };
        let number = uploads.fetch_add(1, Ordering::Relaxed);
        // A custom section: 0, its size, the size of its name, its name, and nothing more.
        let name = format!("{number:08}");
        let mut body = self.body.clone();
        body.extend([0, 9, 8]);
        body.extend(name.as_bytes());
        let head =
            self.head.replace("VERSION", &number.to_string()).replace("LENGTH", &body.len().to_string());
        [head.into_bytes(), body].concat()
    }
}

/// Runs the attack until told to stop; returns the number of answers.
async fn attack(
    address: SocketAddr,
    bad: Arc<Bad>,
    connections: usize,
    stop: Arc<AtomicBool>,
) -> Result<u64> {
    let answers = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new();
    for _ in 0..connections {
        let (stop, bad, answers) = (Arc::clone(&stop), Arc::clone(&bad), Arc::clone(&answers));
        running.spawn(async move {
            let mut stream = connect(address).await?;
            while !stop.load(Ordering::Relaxed) {
                let status = exchange(&mut stream, &bad.next()).await?;
                ensure!(status != 429, "the attacker is kept out by its own limits");
                answers.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(answers.load(Ordering::Relaxed))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let store = Store::default();
    let scopes = [Scope::Infer, Scope::Repository];
    let (victims, attackers) = (store.key("victim", &scopes).await, store.key("attacker", &scopes).await);
    // What is measured is what fair turns do, not what a tenant's own limits refuse.
    for tenant in ["victim", "attacker"] {
        let none = [("rate", "0"), ("running", "0"), ("versions", "1000"), ("loaded", "100GiB")];
        store.limit(tenant, &none).await;
    }
    let (_gateway, address) = start(&cli, &store).await?;
    let fixture = match cli.attack {
        Attack::Loop => hostile::LOOP_IN_INFER,
        Attack::Memory => hostile::FILL_MEMORY,
        Attack::Short | Attack::Compile => guest::ECHO,
    };
    for (key, fixture) in [(&victims, guest::ECHO), (&attackers, fixture)] {
        let bearer = format!("Bearer {key}");
        let path = "/v2/repository/models/m/versions/1";
        let answer = call(address, "PUT", path, &[("authorization", &bearer)], guest::module(fixture)?).await;
        ensure!(answer.status == 200, "{}", answer.error());
    }
    let good = Arc::new(request(address, &victims, 2_000_000));
    let head = "PUT /v2/repository/models/bomb/versions/VERSION HTTP/1.1";
    let bad = Arc::new(match cli.attack {
        Attack::Compile => Bad {
            head: format!(
                "{head}\r\nHost: {address}\r\nAuthorization: Bearer {attackers}\r\nContent-Length: LENGTH\r\n\r\n"
            ),
            body: bomb()?,
            uploads: Some(AtomicU64::new(1)),
        },
        _ => Bad {
            head: String::from_utf8(request(address, &attackers, 500_000))?,
            body: Vec::new(),
            uploads: None,
        },
    });

    let (mut alone, mut beside, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut refused, mut attacks) = (0, 0);
    for _ in 0..cli.rounds {
        let (solo, lost) = victim(address, &good, cli.rate, cli.seconds).await?;
        refused += lost;
        let stop = Arc::new(AtomicBool::new(false));
        let attack = tokio::spawn(attack(address, Arc::clone(&bad), cli.attackers, Arc::clone(&stop)));
        sleep(Duration::from_millis(300)).await;
        let (attacked, lost) = victim(address, &good, cli.rate, cli.seconds).await?;
        refused += lost;
        stop.store(true, Ordering::Relaxed);
        attacks += attack.await??;
        ratios.push(percentile(&attacked, 990) / percentile(&solo, 990));
        alone.extend(solo);
        beside.extend(attacked);
    }
    for sorted in [&mut alone, &mut beside, &mut ratios] {
        sorted.sort_by(f64::total_cmp);
    }
    println!(
        "{}",
        json!({
            "attack": format!("{:?}", cli.attack), "attacks": attacks, "victim_refused": refused,
            "solo_ms": shown(&alone), "attacked_ms": shown(&beside), "p99_ratios": ratios,
        })
    );
    Ok(())
}
