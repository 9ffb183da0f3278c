//! Traces by OTLP, as a collector gets them.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::mpsc,
    time::Duration,
};

use airlock_tests::{
    client::call,
    gateway::Repository,
    guest::{self, hostile},
    process::Process,
};
use serde_json::json;

/// A collector that keeps the bodies that it is sent.
fn collector() -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (send, bodies) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut bytes = Vec::new();
            let mut piece = [0; 4096];
            let whole = |bytes: &[u8]| {
                let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
                let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
                assert!(head.starts_with("post /v1/traces "), "{head}");
                let length =
                    head.split("content-length: ").nth(1)?.lines().next()?.trim().parse::<usize>().ok()?;
                (bytes.len() >= end + 4 + length).then(|| bytes[end + 4..].to_vec())
            };
            let body = loop {
                match stream.read(&mut piece) {
                    Ok(0) | Err(_) => break None,
                    Ok(length) => bytes.extend_from_slice(&piece[..length]),
                }
                if let Some(body) = whole(&bytes) {
                    break Some(body);
                }
            };
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            if body.is_some_and(|body| send.send(body).is_err()) {
                return;
            }
        }
    });
    (address, bodies)
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_infer_request_becomes_spans_of_its_clients_trace() {
    let (address, bodies) = collector();
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good()).with(
        "trap",
        "1",
        "model.wasm",
        guest::module(hostile::UNREACHABLE).expect("a valid fixture"),
    );
    let url = format!("http://{address}");
    let models = repository.path().to_str().expect("UTF-8");
    let process = Process::serve(&[
        "--otlp",
        &url,
        "--otlp-part",
        "0",
        "--drain-delay",
        "0s",
        "--model-repository",
        models,
    ]);
    let body = json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1.0] }] })
        .to_string();
    let traced = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")];
    let hidden = [("traceparent", "00-11111111111111111111111111111111-b7ad6b7169203331-00")];
    let broken = [("traceparent", "00-22222222222222222222222222222222-b7ad6b716920333-01")];
    for (headers, model, status) in [
        (&traced[..], "good", 200),
        (&traced, "trap", 502),
        (&hidden, "good", 200),
        (&broken, "good", 200),
        (&[], "good", 200),
    ] {
        let path = format!("/v2/models/{model}/infer");
        assert_eq!(call(process.address, "POST", &path, headers, body.clone()).await.status, status);
    }
    process.signal("TERM");
    let (code, _, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    let sent: Vec<u8> =
        std::iter::from_fn(|| bodies.recv_timeout(Duration::from_secs(1)).ok()).flatten().collect();
    let trace =
        [0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c];
    for part in
        [&trace[..], b"infer", b"decode", b"run", b"encode", b"airlock.tenant", b"default", b"model_failed"]
    {
        assert!(
            contains(&sent, part),
            "{:?} is missing in {:?}",
            String::from_utf8_lossy(part),
            String::from_utf8_lossy(&sent)
        );
    }
    // Two requests of that trace, and none of those that are not to be traced.
    assert_eq!(sent.windows(5).filter(|window| *window == b"infer").count(), 2);
    for byte in [0x11, 0x22] {
        assert!(!contains(&sent, &[byte; 16]));
    }
}
