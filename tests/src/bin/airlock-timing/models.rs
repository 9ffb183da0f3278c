//! Does the time of an answer tell whether another tenant has a model of that name? Requests for a foreign model, which is
//! loaded, beside requests for a name that nobody has, through the real door over one kept-alive connection.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use airlock::{authenticate::Scope, config::Settings, limits::Rate, secret};
use airlock_tests::{
    gateway::{Gateway, Repository},
    guest,
    store::{Caller, Store},
};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;

use crate::welch;

/// Whether answers tell foreign models from missing ones
#[derive(Args, Debug)]
pub struct Models {
    /// Requests to measure at each door, of both kinds together.
    #[arg(long, default_value_t = 400_000)]
    samples: usize,
    /// Measure two names that nobody has: shows what the machine gives by itself.
    #[arg(long)]
    control: bool,
}

/// The names differ in one letter in the middle: they take the same way through every table that they are not in.
const FOREIGN: &str = "model-f-1";
const MISSING: &str = "model-m-1";
const CONTROL: &str = "model-c-1";

/// What is asked; NAME stands for the model.
const DOORS: [(&str, &str); 8] = [
    ("POST", "/v2/models/NAME/infer"),
    ("POST", "/v2/models/NAME/versions/1/infer"),
    ("GET", "/v2/models/NAME"),
    ("GET", "/v2/models/NAME/ready"),
    ("GET", "/v2/repository/models/NAME"),
    ("GET", "/v2/repository/models/NAME/versions/1"),
    ("POST", "/v2/repository/models/NAME/unload"),
    ("DELETE", "/v2/repository/models/NAME/versions/1"),
];

const SCOPES: [Scope; 2] = [Scope::Infer, Scope::Repository];

impl Models {
    pub fn run(&self) -> Result<()> {
        // The gateway has its threads, this one only asks.
        let runtime = tokio::runtime::Runtime::new()?;
        let store = Store::default();
        let (gateway, key) = runtime.block_on(gateway(&store))?;
        let mut connection = Connection::open(gateway.address())?;
        let names = [if self.control { CONTROL } else { FOREIGN }, MISSING];
        let requests = DOORS.map(|door| names.map(|name| request(door, name, &key, gateway.address())));

        let mut measured = DOORS.map(|_| Vec::with_capacity(self.samples));
        // The first ones find cold caches, and tell where a mistake is.
        for (pair, door) in requests.iter().zip(DOORS).cycle().take(1000) {
            for request in pair {
                let status = connection.call(request)?.1;
                ensure!(status == 404, "{door:?} is answered {status}");
            }
        }
        while measured.iter().any(|times| times.len() < self.samples) {
            for draw in secret::random::<1024>()? {
                let door = usize::from(draw >> 1) % DOORS.len();
                let kind = usize::from(draw & 1);
                let (took, status) = connection.call(&requests[door][kind])?;
                ensure!(status == 404, "answered {status}");
                measured[door].push((kind, took.as_secs_f64() * 1e9));
            }
        }

        let mut worst = 0.0f64;
        for ((method, path), times) in DOORS.iter().zip(&measured) {
            let compared = welch::compare(times)?;
            let of_door = welch::worst(&compared);
            let [t, means, samples] = [
                json!(compared.iter().map(|c| (c.percentile.to_string(), c.t)).collect::<Vec<_>>()),
                json!(compared.last().map(|comparison| comparison.means)),
                json!(times.len()),
            ];
            println!(
                "{}",
                json!({
                    "door": format!("{method} {path}"), "worst_t": of_door, "t_below_percentile": t,
                    "means_ns_below_median": means, "samples": samples,
                })
            );
            worst = if of_door.abs() > worst.abs() { of_door } else { worst };
        }
        println!("{}", json!({ "worst_t": worst, "passes": worst.abs() < welch::THRESHOLD }));
        runtime.block_on(gateway.stop(Duration::ZERO));
        Ok(())
    }
}

/// A gateway on which `acme` has the foreign model, and the key of `umbrella`, who asks. Both have a model besides, and so has
/// the operator.
async fn gateway(store: &Store) -> Result<(Gateway, String)> {
    let acme = store.key("acme", &SCOPES).await;
    let umbrella = store.key("umbrella", &SCOPES).await;
    let repository = Repository::default().with("shared", "1", "model.wasm", guest::good());
    let mut settings = Settings {
        store: Some(store.location()),
        model_repository: Some(repository.path().into()),
        ..Settings::default()
    };
    // What is measured is where names are looked up, and neither a limit that comes before that nor one that comes after it.
    settings.limits.tenant_rate = Some(Rate::NONE);
    settings.limits.tenant_refusals = Some(Rate::NONE);
    let worker = std::env::current_exe()?.with_file_name("airlock");
    ensure!(worker.is_file(), "the airlock binary is missing: build it with the same profile first");
    let gateway = Gateway::serve_with_worker(repository, settings, worker).await;
    for (key, model) in [(&acme, FOREIGN), (&acme, "own"), (&umbrella, "own")] {
        let answer = Caller::new(&gateway, key).put(model, "1", guest::good()).await;
        ensure!(answer.status == 200, "{model}: {}", answer.error());
    }
    let answer = Caller::new(&gateway, &acme).infer(FOREIGN, 1.0).await;
    ensure!(answer.status == 200, "the foreign model does not answer its own tenant");
    Ok((gateway, umbrella))
}

fn request((method, path): (&str, &str), name: &str, key: &str, address: SocketAddr) -> Vec<u8> {
    let body = if path.ends_with("/infer") {
        r#"{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"data":[1.5]}]}"#
    } else {
        ""
    };
    let path = path.replace("NAME", name);
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// One connection, blocking: no other thread of this side has a part in what is measured.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { stream, buffer: vec![0; 64 << 10] })
    }

    /// Sends a request and reads the whole answer: the time until its last byte, and its status.
    fn call(&mut self, request: &[u8]) -> Result<(Duration, u16)> {
        let started = Instant::now();
        self.stream.write_all(request)?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..])?;
            let took = started.elapsed();
            ensure!(read > 0, "the gateway closed the connection");
            filled += read;
            if let Some(status) = whole(&self.buffer[..filled])? {
                return Ok((took, status));
            }
        }
    }
}

/// The status of an answer that is there as a whole.
fn whole(bytes: &[u8]) -> Result<Option<u16>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end])?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("an answer without Content-Length")?.parse()?;
    if bytes.len() < end + 4 + length {
        return Ok(None);
    }
    Ok(Some(head.split(' ').nth(1).context("no status")?.parse()?))
}
