//! Peers that take their time: each is cut by its deadline, and all of them together keep nobody out.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use super::{BODY, Target, infer, length};
use airlock::authenticate::Scope;
use airlock_tests::{client::call, process::Process, store::Store};

/// Longer than any of the times that these gateways are started with, shorter than their defaults.
const CUT: Duration = Duration::from_secs(20);

/// What comes until the connection is closed; sends `bytes` again and again meanwhile.
async fn until_cut(mut stream: TcpStream, start: &str, bytes: &[u8], every: Duration) -> String {
    stream.write_all(start.as_bytes()).await.expect("an open connection");
    let (mut reader, mut writer) = stream.split();
    let mut text = Vec::new();
    let drips = async {
        loop {
            tokio::time::sleep(every).await;
            if bytes.is_empty() || writer.write_all(bytes).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        _ = reader.read_to_end(&mut text) => {}
        () = drips => {}
        () = tokio::time::sleep(CUT) => panic!("{start:?} is still open"),
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_too_long_is_cut() {
    let target =
        Target::serve(&["--header-timeout", "1s", "--body-idle-timeout", "1s", "--send-timeout", "1s"]).await;
    let hundred = infer("Content-Length: 100\r\n", "");
    let expects = infer("Content-Length: 100\r\nExpect: 100-continue\r\n", "");
    let chunks = infer("Transfer-Encoding: chunked\r\n", "");
    let live = "GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n";
    let whole = format!("{live}\r\n");
    // (name, what is sent at first, what is sent every 100 ms, the beginning of what comes back)
    let cases: [(&str, &str, &[u8], &str); 9] = [
        ("a silent connection", "", b"", ""),
        ("a head that comes byte by byte", live, b"a", ""),
        ("a head that never ends", live, b"A: b\r\n", ""),
        ("empty lines for ever", "", b"\r\n", ""),
        ("a connection that is kept", &whole, b"", "HTTP/1.1 200 "),
        ("a body that does not come", &hundred, b"", "HTTP/1.1 408 "),
        ("a body that comes byte by byte", &hundred, b" ", "HTTP/1.1 408 "),
        ("chunks that come one by one", &chunks, b"1\r\n \r\n", "HTTP/1.1 408 "),
        ("a body that was invited and does not come", &expects, b"", "HTTP/1.1 100 "),
    ];
    let mut running = JoinSet::new();
    for (name, start, drip, answer) in cases {
        let (stream, start, drip) = (target.connect().await, start.to_owned(), drip.to_owned());
        running.spawn(async move {
            let text = until_cut(stream, &start, &drip, Duration::from_millis(100)).await;
            let right = if answer.is_empty() {
                text.is_empty() || text.starts_with("HTTP/1.1 4")
            } else {
                text.starts_with(answer)
            };
            (!right).then(|| format!("{name}: {text}"))
        });
    }
    target.good().await;
    let wrong: Vec<String> = running.join_all().await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    target.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_closes_its_side_is_gone() {
    let target = Target::serve(&[]).await;
    for start in [
        "",
        "GET",
        "GET /v2 HTTP/1.1\r\n",
        &infer("Content-Length: 100\r\n", "x"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = target.connect().await;
        stream.write_all(start.as_bytes()).await.expect("an open connection");
        stream.shutdown().await.expect("an open connection");
        let mut rest = Vec::new();
        let end = tokio::time::timeout(CUT, stream.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "{start:?} is still open");
    }
    target.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_wait_keep_nobody_out() {
    let target = Target::serve(&["--max-connections", "16"]).await;
    let whole = "GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let model = "GET /v2/models/good HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let request = infer(&length(BODY), BODY);
    // One that is at work: its request is under way until the body is there.
    let mut working = target.connect().await;
    let (first, rest) = request.split_at(request.len() - 1);
    working.write_all(first.as_bytes()).await.expect("an open connection");
    let mut held = Vec::new();
    for round in 0..20 {
        for start in ["", "GET", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /v2 HTTP/1.1\r\nA:", whole, model] {
            let mut stream = target.connect().await;
            // Its place may have gone to the next one already.
            let _ = stream.write_all(start.as_bytes()).await;
            held.push(stream);
        }
        if round % 5 == 0 {
            target.good().await;
        }
    }
    target.good().await;
    // Those that came first are gone, though none of their deadlines has passed.
    let mut text = Vec::new();
    let end = tokio::time::timeout(CUT, held[0].read_to_end(&mut text)).await;
    assert!(end.is_ok(), "the oldest is still there");
    // Who was at work is not.
    working.write_all(rest.as_bytes()).await.expect("an open connection");
    let mut status = [0; 12];
    working.read_exact(&mut status).await.expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 200");
    target.done().await;
}

/// A request with a key whose body does not come: at work from the moment at which the gateway asks for that body.
async fn asked_for_its_body(target: &Target, key: &str, line: &str, length: usize) -> TcpStream {
    let head = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    );
    let mut stream = target.connect().await;
    stream.write_all(head.as_bytes()).await.expect("an open connection");
    let mut asked = [0; 25];
    let read = tokio::time::timeout(CUT, stream.read_exact(&mut asked)).await;
    read.expect("a place within time").expect("an open connection");
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

async fn answered_well(stream: &mut TcpStream, body: &str) {
    stream.write_all(body.as_bytes()).await.expect("an open connection");
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 200");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenants_connections_at_work_keep_no_other_out() {
    let store = Store::default();
    let scopes = [Scope::Infer, Scope::Repository];
    let (acme, other) = (store.key("acme", &scopes).await, store.key("other", &scopes).await);
    let folder = store.path().to_str().expect("UTF-8").to_owned();
    let slow = ["--body-idle-timeout", "60s", "--max-connections", "32", "--store", &folder];
    let target = Target::begin_for(Process::serve, &slow, Some(&other)).await;
    let path = "/v2/models/good/infer";
    let mut working = asked_for_its_body(&target, &other, &format!("POST {path}"), BODY.len()).await;
    // No limit of the tenant's counts these.
    let mut held = Vec::new();
    for round in 0..60 {
        held.push(asked_for_its_body(&target, &acme, "POST /v2/repository/index", 2).await);
        if round % 5 == 0 {
            target.good().await;
        }
    }
    let bearer = format!("Bearer {other}");
    // As many as its part is, with the one above.
    let other: Vec<_> = (0..7)
        .map(|_| async {
            let headers = [("authorization", bearer.as_str())];
            let answer = call(target.process.address, "POST", path, &headers, BODY).await;
            assert_eq!(answer.status, 200);
        })
        .collect();
    let all = tokio::time::timeout(CUT, futures_util::future::join_all(other)).await;
    assert!(all.is_ok(), "the other tenant waits for a place");
    // The other one's request is not cut, and neither are the eight that are the tenant's part.
    answered_well(&mut working, BODY).await;
    for part in &mut held[..8] {
        answered_well(part, "{}").await;
    }
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(CUT, held[8].read_to_end(&mut rest)).await;
    assert!(matches!(cut, Ok(Err(_) | Ok(0))), "a ninth one was kept");
    target.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_wait_keep_nobody_out_where_descriptors_are_few() {
    let under = ["sh", "-c", "ulimit -n 200; exec \"$@\"", "sh"];
    let target = Target::begin(|arguments| Process::serve_under(&under, arguments), &[]).await;
    let mut held = Vec::new();
    let mut crowd = async || {
        for round in 0..10 {
            for _ in 0..25 {
                held.push(target.connect().await);
            }
            let good = tokio::time::timeout(CUT, target.good()).await;
            assert!(good.is_ok(), "nobody answers beside {} silent connections", (round + 1) * 25);
        }
    };
    crowd().await;
    // Fewer than there are places: only the accept that fails says so.
    let pid = target.process.id().to_string();
    let lowered = std::process::Command::new("prlimit").args(["--pid", &pid, "--nofile=64:64"]).status();
    assert!(lowered.expect("prlimit runs").success());
    crowd().await;
    drop(held);
    let Target { process, .. } = target;
    process.signal("TERM");
    let (_, _, log) = process.end();
    assert!(log.contains("limit=200 max_connections=4096 connections=50"), "{log}");
    assert!(log.contains("connections that wait are cut: raise"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_no_more_connections_than_it_may() {
    let target = Target::serve(&["--max-connections-per-address", "4"]).await;
    // From another address than the tests' own requests.
    let connect = async || {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 2], 0).into()).expect("a free port");
        socket.connect(target.process.address).await.expect("the gateway listens")
    };
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(connect().await);
    }
    let mut over = connect().await;
    let mut text = Vec::new();
    let end = tokio::time::timeout(CUT, over.read_to_end(&mut text)).await;
    assert!(end.is_ok() && text.is_empty(), "a fifth one is kept");
    target.good().await;
    drop(held);
    // The gateway notices the end of the others in its own time.
    let request = "GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for _ in 0..100 {
        let mut stream = connect().await;
        let _ = stream.write_all(request.as_bytes()).await;
        if matches!(stream.read(&mut [0; 12]).await, Ok(12)) {
            return target.done().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no place comes back");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_do_not_pile_up() {
    let target = Target::serve(&["--send-timeout", "2s", "--header-timeout", "2s"]).await;
    let mut running = JoinSet::new();
    for line in ["GET /v2/health/live", "HEAD /v2/health/live", "GET /v2/nope"] {
        let mut stream = target.connect().await;
        let requests = format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(1000);
        // As many as it takes, until it is cut.
        running.spawn(tokio::time::timeout(CUT, async move {
            let mut sent = 0;
            while stream.write_all(requests.as_bytes()).await.is_ok() {
                sent += 1;
            }
            sent
        }));
    }
    for taken in running.join_all().await {
        let thousands = taken.expect("cut in time");
        assert!(thousands < 1000, "{thousands},000 requests were taken and no answer was read");
    }
    target.done().await;
}
