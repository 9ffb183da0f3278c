//! What clients may send and should not: over raw sockets, against a gateway in a process of its own. Each case says what is
//! answered; after each of them the next good request succeeds, and after all of a group the process's memory is back.
//!
//! Elsewhere: bodies too large, announced or not, heads that never end, readers that stop (`road`); keys in wrong places and
//! guessed ones (`keys`); TLS peers that stop (`tls`); what a stock client never sends (`tests/clients/raw_http.py`).

mod bodies;
mod framing;
mod http2;
mod paths;
mod slow;

use std::{collections::BTreeMap, time::Duration};

use airlock_tests::{
    client::call,
    gateway::Repository,
    guest::{self, hostile},
    process::Process,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// MiB that may be left of a group of cases: the allocator keeps some of what was used.
const LEFT: u64 = 48;

const BODY: &str = r#"{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"data":[1.5]}]}"#;

/// Time after which a connection that says nothing more is done talking.
const QUIET: Duration = Duration::from_millis(700);

struct Target {
    process: Process,
    _repository: Repository,
    begun_with: u64,
    /// Whose requests are the good ones; none on a gateway without keys.
    key: Option<String>,
}

impl Target {
    async fn serve(arguments: &[&str]) -> Self {
        Self::begin(Process::serve, arguments).await
    }

    async fn begin(serve: impl FnOnce(&[&str]) -> Process, arguments: &[&str]) -> Self {
        Self::begin_for(serve, arguments, None).await
    }

    /// The same with keys.
    async fn begin_for(
        serve: impl FnOnce(&[&str]) -> Process,
        arguments: &[&str],
        key: Option<&str>,
    ) -> Self {
        let loops = guest::module(hostile::LOOP_IN_INFER).expect("a valid fixture");
        let repository = Repository::default().with("good", "1", "model.wasm", guest::good()).with(
            "loop",
            "1",
            "model.wasm",
            loops,
        );
        let folder = repository.path().to_str().expect("UTF-8").to_owned();
        let process = serve(&[&["--model-repository", &folder][..], arguments].concat());
        let mut target =
            Self { process, _repository: repository, begun_with: 0, key: key.map(str::to_owned) };
        for _ in 0..20 {
            target.good().await;
        }
        target.begun_with = target.resident();
        target
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.process.address).await.expect("the gateway listens")
    }

    /// The next good request.
    async fn good(&self) {
        let bearer = self.key.as_ref().map(|key| format!("Bearer {key}"));
        let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        let answer = call(self.process.address, "POST", "/v2/models/good/infer", &headers, BODY).await;
        assert_eq!(answer.json()["outputs"][0]["data"], json!([1.5]));
    }

    /// MiB of memory of the process.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("the process lives");
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
    }

    /// After a group of cases.
    async fn done(self) {
        self.good().await;
        let now = self.resident();
        assert!(now <= self.begun_with + LEFT, "{} MiB at first, {now} MiB now", self.begun_with);
    }

    /// Sends bytes on a connection of their own and collects what comes back, until it ends or falls silent.
    async fn send(&self, bytes: &[u8]) -> Answered {
        let mut stream = self.connect().await;
        let (mut reader, mut writer) = stream.split();
        let (mut answered, mut text) = (Answered::default(), Vec::new());
        let writes = async {
            // A gateway that has seen enough closes before all of it is written.
            let _ = writer.write_all(bytes).await;
            std::future::pending::<()>().await;
        };
        let reads = async {
            let mut wait = Duration::from_secs(20);
            while let Ok(read) = tokio::time::timeout(wait, reader.read_buf(&mut text)).await {
                if !matches!(read, Ok(1..)) {
                    answered.closed = true;
                    break;
                }
                wait = QUIET;
            }
        };
        tokio::select! {
            () = reads => {}
            () = writes => {}
        }
        answered.text = String::from_utf8_lossy(&text).into_owned();
        let heads = answered.text.match_indices("HTTP/1.1 ");
        answered.statuses =
            heads.filter_map(|(at, _)| answered.text.get(at + 9..at + 12)?.parse().ok()).collect();
        answered
    }

    /// Sends each case on a connection of its own, side by side, and compares statuses and whether it is closed then.
    async fn all(self, cases: Vec<Case>) -> Self {
        let (target, mut running) = (std::sync::Arc::new(self), JoinSet::new());
        for case in cases {
            let target = std::sync::Arc::clone(&target);
            running.spawn(async move {
                let answered = target.send(&case.bytes).await;
                target.good().await;
                let is = (answered.statuses.as_slice(), answered.closed);
                let told = answered.text.chars().take(600).collect::<String>();
                (is != (case.statuses, case.closed)).then(|| (case.name, format!("{is:?}: {told}")))
            });
        }
        let mut wrong = BTreeMap::new();
        while let Some(done) = running.join_next().await {
            wrong.extend(done.expect("no panic"));
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        std::sync::Arc::into_inner(target).expect("nobody else has it")
    }
}

#[derive(Debug, Default)]
struct Answered {
    statuses: Vec<u16>,
    closed: bool,
    text: String,
}

/// What is sent, the statuses that come back, and whether the connection is closed then.
struct Case {
    name: String,
    bytes: Vec<u8>,
    statuses: &'static [u16],
    closed: bool,
}

fn kept(name: impl Into<String>, bytes: impl Into<Vec<u8>>, statuses: &'static [u16]) -> Case {
    Case { name: name.into(), bytes: bytes.into(), statuses, closed: false }
}

fn closed(name: impl Into<String>, bytes: impl Into<Vec<u8>>, statuses: &'static [u16]) -> Case {
    Case { closed: true, ..kept(name, bytes, statuses) }
}

/// An infer request with these lines in its head.
fn infer(lines: &str, body: &str) -> String {
    format!("POST /v2/models/good/infer HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n{body}")
}

fn length(body: &str) -> String {
    format!("Content-Length: {}\r\n", body.len())
}
