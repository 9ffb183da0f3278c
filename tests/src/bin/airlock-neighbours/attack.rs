//! What the attacker does, until it is told to stop.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use airlock_tests::{
    client::call,
    guest::{self, hostile},
    load::{connect_from, exchange},
};
use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::request;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attack {
    /// Guests that never end.
    Loop,
    /// Guests that write all the memory that they may have, again and again.
    Memory,
    /// As many short calls as there are answers.
    Short,
    /// Uploads of modules that keep a compiler busy, one on each connection and no more than a tenant may have at a time.
    Compile,
    /// All of it at once by a tenant that has the limits which every tenant has: ten times the requests that it may send, of
    /// guests that never end, that fill their memory and that flood the log, compile bombs, and a thousand connections that
    /// send a byte now and then.
    All,
}

/// Requests of a tenant within a second, by default, and how many times that it sends.
const RATE: u32 = 50;
const TIMES: u32 = 10;
/// More than may run and wait, and as many again that are refused.
const SENDERS: u32 = 80;
const UPLOADERS: usize = 2;
const SLOW: usize = 1000;

/// The attacker's addresses, by their number: another one than the victim's.
const SOURCES: [usize; 4] = [1, 2, 3, 4];

/// Time in a run of the attacker's guests: short of what makes a model's fault of it.
const TIMEOUT_US: u32 = 500_000;

/// An attacker whose models are published.
pub struct Attacker {
    kind: Attack,
    address: SocketAddr,
    /// In turn.
    calls: Vec<Vec<u8>>,
    key: String,
    bomb: Vec<u8>,
    uploads: AtomicU64,
    answers: AtomicU64,
    stop: AtomicBool,
}

impl Attacker {
    pub async fn new(kind: Attack, address: SocketAddr, key: String) -> Result<Arc<Self>> {
        let models = match kind {
            Attack::Loop => vec![hostile::LOOP_IN_INFER],
            Attack::Memory => vec![hostile::FILL_MEMORY],
            Attack::Short => vec![guest::ECHO],
            Attack::Compile => vec![],
            Attack::All => vec![hostile::LOOP_IN_INFER, hostile::FILL_MEMORY, hostile::LOG_FLOOD],
        };
        let mut calls = Vec::new();
        for (number, fixture) in models.into_iter().enumerate() {
            let name = format!("m{number}");
            publish(address, &key, &name, fixture).await?;
            calls.push(request(address, &key, &name, TIMEOUT_US));
        }
        let (uploads, answers, stop) = (AtomicU64::new(1), AtomicU64::new(0), AtomicBool::new(false));
        Ok(Arc::new(Self { kind, address, calls, key, bomb: bomb()?, uploads, answers, stop }))
    }

    /// Attacks on `connections` connections, if it is not the attack that says how many.
    pub fn begin(self: &Arc<Self>, connections: usize) -> JoinSet<Result<()>> {
        self.stop.store(false, Ordering::Relaxed);
        let mut running = JoinSet::new();
        match self.kind {
            Attack::Compile => (0..connections).for_each(|_| drop(running.spawn(Arc::clone(self).upload()))),
            Attack::All => {
                let start = Instant::now();
                (0..SENDERS).for_each(|number| drop(running.spawn(Arc::clone(self).send(start, number))));
                (0..UPLOADERS).for_each(|_| drop(running.spawn(Arc::clone(self).upload())));
                (0..SLOW).for_each(|number| drop(running.spawn(Arc::clone(self).dawdle(number))));
            }
            _ => (0..connections).for_each(|_| drop(running.spawn(Arc::clone(self).repeat()))),
        }
        running
    }

    /// Ends what [`begin`](Self::begin) began.
    pub async fn end(&self, mut running: JoinSet<Result<()>>) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(done) = running.join_next().await {
            done??;
        }
        Ok(())
    }

    /// Answers so far.
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    async fn connect(&self, number: usize) -> Result<TcpStream> {
        connect_from(SOURCES[number % SOURCES.len()], self.address).await
    }

    /// One request after the other.
    async fn repeat(self: Arc<Self>) -> Result<()> {
        let mut stream = self.connect(0).await?;
        while self.goes_on() {
            let status = exchange(&mut stream, &self.calls[0]).await?;
            ensure!(status != 429, "the attacker is kept out by its own limits");
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Its part of the requests, each at its time or as soon as the one before has its answer.
    async fn send(self: Arc<Self>, start: Instant, number: u32) -> Result<()> {
        let mut stream = self.connect(number as usize).await?;
        for round in 0.. {
            sleep_until(start + Duration::from_secs(1) * (round * SENDERS + number) / (RATE * TIMES)).await;
            if !self.goes_on() {
                break;
            }
            exchange(&mut stream, &self.calls[(number + round) as usize % self.calls.len()]).await?;
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Uploads, each of another version and of other content, so that nothing of the last one is of use.
    async fn upload(self: Arc<Self>) -> Result<()> {
        let mut stream = self.connect(0).await?;
        while self.goes_on() {
            let number = self.uploads.fetch_add(1, Ordering::Relaxed);
            // A custom section: 0, its size, the size of its name, its name, and nothing more.
            let section = [&[0, 9, 8], format!("{number:08}").as_bytes()].concat();
            let head = format!(
                "PUT /v2/repository/models/bomb/versions/{number} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
                 Content-Length: {}\r\n\r\n",
                self.address,
                self.key,
                self.bomb.len() + section.len()
            );
            let upload = [head.as_bytes(), &self.bomb, &section].concat();
            match exchange(&mut stream, &upload).await {
                Ok(status) if status != 429 => {}
                // Refused, perhaps before it was read.
                _ if self.kind == Attack::All => {
                    sleep(Duration::from_millis(100)).await;
                    stream = self.connect(0).await?;
                }
                _ => bail!("the attacker is kept out by its own limits"),
            }
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A head that never ends, a byte of it every second.
    async fn dawdle(self: Arc<Self>, number: usize) -> Result<()> {
        let mut stream = self.connect(number).await?;
        stream.write_all(b"POST /v2/models/m/infer HTTP/1.1\r\nx: ").await?;
        while self.goes_on() {
            sleep(Duration::from_millis(1000)).await;
            stream.write_all(b"y").await?;
        }
        Ok(())
    }
}

pub async fn publish(address: SocketAddr, key: &str, model: &str, fixture: &str) -> Result<()> {
    let bearer = format!("Bearer {key}");
    let path = format!("/v2/repository/models/{model}/versions/1");
    let answer = call(address, "PUT", &path, &[("authorization", &bearer)], guest::module(fixture)?).await;
    ensure!(answer.status == 200, "{}", answer.error());
    Ok(())
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
