//! Who leaves has no more of the processor: a guest that runs for nobody is stopped long before its deadline.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use airlock_tests::{
    client::open_http2,
    gateway::Repository,
    guest::{self, hostile},
    process::Process,
    rounds,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

const BODY: &str = r#"{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"data":[4.5]}]}"#;

/// The threads that run guests. They wait without looking at the clock when there is nothing to run, so that all their time
/// is a guest's.
pub(crate) struct Guests(Vec<PathBuf>);

impl Guests {
    pub(crate) fn of(process: &Process) -> Self {
        let threads = fs::read_dir(format!("/proc/{}/task", process.id())).expect("it lives");
        let named = |thread: &PathBuf| {
            fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.starts_with("guest-"))
        };
        Self(threads.flatten().map(|thread| thread.path()).filter(named).collect())
    }

    /// Processor time of all of them, as the kernel's scheduler counts it.
    pub(crate) fn used(&self) -> Duration {
        let used = self.0.iter().map(|thread| {
            let text = fs::read_to_string(thread.join("schedstat")).expect("it lives");
            text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).expect("nanoseconds")
        });
        Duration::from_nanos(used.sum())
    }

    /// Waits until a guest that never ends has taken some more of the processor.
    async fn run(&self) {
        let (before, begun) = (self.used(), Instant::now());
        while self.used() < before + Duration::from_millis(20) {
            assert!(begun.elapsed() < Duration::from_secs(10), "the guest does not run");
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// The time from now until none of them has done anything for a tenth of a second.
    pub(crate) async fn stop(&self) -> Duration {
        let left = Instant::now();
        let (mut latest, mut since) = (self.used(), left);
        while since.elapsed() < Duration::from_millis(100) {
            assert!(left.elapsed() < Duration::from_secs(10), "the guest runs on");
            sleep(Duration::from_millis(1)).await;
            let now = self.used();
            if now > latest {
                (latest, since) = (now, Instant::now());
            }
        }
        since - left
    }
}

async fn http1(at: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(at).await.expect("the gateway listens");
    let head = format!("POST /v2/models/loop/infer HTTP/1.1\r\nhost: {at}\r\ncontent-length: {}", BODY.len());
    stream.write_all(format!("{head}\r\n\r\n{BODY}").as_bytes()).await.expect("an open connection");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_stops_its_guest() {
    let folder = Repository::default().with("good", "1", "model.wasm", guest::good()).with(
        "loop",
        "1",
        "model.wasm",
        guest::module(hostile::LOOP_IN_INFER).expect("a valid fixture"),
    );
    let folder = folder.path().to_str().expect("UTF-8");
    // As far away as it may be: nothing else stops the guest.
    let process = Process::serve(&["--model-repository", folder, "--deadline", "30s"]);
    let (at, guests) = (process.address, Guests::of(&process));
    let worst = std::sync::Mutex::new(Duration::ZERO);
    let stopped = async || {
        let took = guests.stop().await;
        let mut worst = worst.lock().expect("no panic");
        *worst = took.max(*worst);
    };
    rounds::of("HTTP/1.1 connection closed", async || {
        let stream = http1(at).await;
        guests.run().await;
        drop(stream);
        stopped().await;
    })
    .await;
    rounds::of("HTTP/2 stream reset", async || {
        let mut connection = open_http2(at).await;
        let asked = connection.send("POST", "/v2/models/loop/infer", &[], BODY);
        tokio::select! {
            answer = asked => panic!("{answer:?}"),
            () = guests.run() => {}
        }
        stopped().await;
        // The connection is as good as before.
        let answer = connection.send("GET", "/v2/health/ready", &[], "").await;
        assert_eq!(answer.expect("an answer").status(), 200);
    })
    .await;
    let worst = *worst.lock().expect("no panic");
    eprintln!("a guest stops at most {:.1} ms after its client left", worst.as_secs_f64() * 1e3);
    // A busy machine may be slow to run the gateway at all; the deadline is far beyond.
    assert!(worst < Duration::from_secs(5), "{worst:?}");
    let mut stream = TcpStream::connect(at).await.expect("the gateway listens");
    let head = format!(
        "POST /v2/models/good/infer HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\ncontent-length: {}",
        BODY.len()
    );
    stream.write_all(format!("{head}\r\n\r\n{BODY}").as_bytes()).await.expect("an open connection");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
