//! TLS on the data port: both versions of HTTP, renewal, and peers that do not keep to the protocol.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use airlock::{
    config::{Config, Settings, Span},
    listen::tls::{Tls, TlsFiles},
    server,
};
use airlock_tests::{
    client::{call_on, collect, open_http2_on},
    gateway::{Gateway, Repository},
    guest,
    tls::{Certificate, NEW, OLD, files},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A gateway that speaks TLS, with short timeouts.
struct Secured {
    gateway: Gateway,
    certificate: Certificate,
    folder: TempDir,
}

impl Secured {
    async fn serve() -> Self {
        let (folder, certificate) = (TempDir::new().expect("a folder"), Certificate::new());
        let TlsFiles { certificate: cert, key } = files(&folder);
        certificate.write(&files(&folder));
        let repository = Repository::default().with("good", "1", "model.wasm", guest::good());
        let gateway = Gateway::serve_with(repository, |settings| {
            settings.tls_cert = Some(cert);
            settings.tls_key = Some(key);
            settings.limits.handshake_timeout = Some(Span(Duration::from_millis(500)));
            settings.limits.header_timeout = Some(Span(Duration::from_millis(500)));
        })
        .await;
        Self { gateway, certificate, folder }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    async fn alive(&self) -> bool {
        let stream = self.certificate.dial(self.address(), &[b"http/1.1"]).await.expect("a handshake");
        call_on(stream, self.address(), "GET", "/v2/health/live", &[], "").await.status == 200
    }
}

/// Waits for the peer's end of a connection; whatever it still says does not matter.
async fn ends(stream: &mut (impl AsyncReadExt + Unpin)) -> Duration {
    let (started, mut rest) = (Instant::now(), Vec::new());
    let end = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "the connection is still open after 10 s");
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_are_spoken_over_both_versions_of_tls() {
    let secured = Secured::serve().await;
    let at = secured.address();
    // More than one TLS record, and more than one frame.
    let data = vec![1.5; 40_000];
    let input = json!({ "name": "INPUT0", "datatype": "FP32", "shape": [data.len()], "data": data });
    let body = json!({ "inputs": [input] }).to_string();
    for version in [OLD, NEW] {
        for (alpn, agreed) in [
            (&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])),
            (&[b"http/1.1"], Some(b"http/1.1")),
            (&[], None),
        ] {
            let stream = TcpStream::connect(at).await.expect("the gateway listens");
            let stream = secured.certificate.connect(stream, alpn, version).await.expect("a handshake");
            assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
            let answer = if agreed == Some(b"h2") {
                let mut connection = open_http2_on(stream, at).await;
                let answer = connection.send("POST", "/v2/models/good/infer", &[], body.clone()).await;
                collect(answer.expect("an answer")).await
            } else {
                call_on(stream, at, "POST", "/v2/models/good/infer", &[], body.clone()).await
            };
            assert_eq!(answer.status, 200, "{}", answer.error());
            assert_eq!(answer.json()["outputs"][0]["shape"], json!([data.len()]));
        }
    }
    let stream = secured.certificate.dial(at, &[b"spdy/3"]).await;
    assert!(stream.is_err(), "no protocol in common");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_silent_in_or_after_the_handshake_is_cut_and_holds_up_nobody() {
    let secured = Secured::serve().await;
    let at = secured.address();
    let connect = || async { TcpStream::connect(at).await.expect("the gateway listens") };
    let mut silent = connect().await;
    // The head of a ClientHello, and then nothing.
    let mut half = connect().await;
    half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00]).await.expect("an open connection");
    let mut http1 = secured.certificate.dial(at, &[b"http/1.1"]).await.expect("a handshake");
    let mut http2 = secured.certificate.dial(at, &[b"h2"]).await.expect("a handshake");
    http2.write_all(b"PRI * HTTP/2.0\r\n").await.expect("an open connection");
    http2.flush().await.expect("an open connection");
    assert!(secured.alive().await);
    let (silent, half, http1, http2) =
        tokio::join!(ends(&mut silent), ends(&mut half), ends(&mut http1), ends(&mut http2));
    for took in [silent, half, http1, http2] {
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
    assert!(secured.alive().await);
}

/// The answer to a request that is refused before its body is read, by a client that reads nothing until it has sent all.
async fn refused_while_it_sends<S: AsyncReadExt + AsyncWriteExt + Unpin>(mut stream: S) -> String {
    const BODY: usize = 8 << 20;
    let head =
        format!("POST /v2/models/none/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("an open connection");
    for piece in vec![b' '; BODY].chunks(64 << 10) {
        stream.write_all(piece).await.expect("what is sent is taken");
    }
    stream.flush().await.expect("what is sent is taken");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an end, and no reset");
    String::from_utf8(answer).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_while_it_sends_reads_the_answer() {
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good());
    let (plain, secured) = (Gateway::serve(repository).await, Secured::serve().await);
    for _ in 0..20 {
        let stream = TcpStream::connect(plain.address()).await.expect("the gateway listens");
        let answer = refused_while_it_sends(stream).await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("'none'"), "{answer}");
        let stream = secured.certificate.dial(secured.address(), &[b"http/1.1"]).await.expect("a handshake");
        let answer = refused_while_it_sends(stream).await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("'none'"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_on_the_tls_port_is_closed_cleanly() {
    let secured = Secured::serve().await;
    for sent in
        [&b"GET /v2 HTTP/1.1\r\nhost: localhost\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0"]
    {
        let mut stream = TcpStream::connect(secured.address()).await.expect("the gateway listens");
        stream.write_all(sent).await.expect("an open connection");
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(3), stream.read_to_end(&mut answer)).await;
        read.expect("an end").expect("not a reset");
        // At most a TLS alert.
        assert!(answer.is_empty() || (answer[0] == 0x15 && answer.len() == 7), "{answer:?}");
    }
    assert!(secured.alive().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_in_its_handshake_does_not_hold_up_the_stop() {
    let secured = Secured::serve().await;
    let silent = TcpStream::connect(secured.address()).await.expect("the gateway listens");
    let started = Instant::now();
    secured.gateway.stop(Duration::ZERO).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    drop(silent);
}

/// The certificate that is shown to a client which trusts this one, if the handshake succeeds.
async fn shows(tls: &Tls, certificate: &Certificate) -> bool {
    let (client, server) = tokio::io::duplex(64 << 10);
    let (client, server) = tokio::join!(certificate.connect(client, &[], NEW), tls.acceptor().accept(server));
    client.is_ok() && server.is_ok()
}

#[tokio::test]
async fn a_new_pair_is_shown_and_a_bad_one_is_not() {
    let folder = TempDir::new().expect("a folder");
    let files = files(&folder);
    let (old, new, newer) = (Certificate::new(), Certificate::new(), Certificate::new());
    old.write(&files);
    let tls = Tls::open(files.clone()).expect("a pair");
    let (stop, stopped) = tokio::sync::watch::channel(None);
    let looking = tokio::spawn(Arc::clone(&tls).follow_every(Duration::from_millis(10), stopped));
    assert!(shows(&tls, &old).await && !shows(&tls, &new).await);
    let until_shown = async |certificate: &Certificate| {
        let shown = async {
            while !shows(&tls, certificate).await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), shown).await.expect("the new pair is shown");
    };
    new.write(&files);
    until_shown(&new).await;
    // Pairs that cannot be used: mixed, no PEM, gone.
    let mixed = Certificate { der: newer.der.clone(), key: old.key.clone() };
    mixed.write(&files);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(shows(&tls, &new).await);
    std::fs::write(&files.certificate, "no certificate").expect("a writable folder");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(shows(&tls, &new).await);
    std::fs::remove_file(&files.key).expect("a writable folder");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(shows(&tls, &new).await);
    newer.write(&files);
    until_shown(&newer).await;
    stop.send_replace(Some(Instant::now()));
    looking.await.expect("it ends when it is told to");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_gateway_renews_its_certificate() {
    let secured = Secured::serve().await;
    let at = secured.address();
    let renewed = Certificate::new();
    renewed.write(&files(&secured.folder));
    let started = Instant::now();
    while renewed.dial(at, &[]).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(15), "the old certificate is still shown");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(secured.certificate.dial(at, &[]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_pair_are_refused_at_start_by_name() {
    let folder = TempDir::new().expect("a folder");
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good());
    let TlsFiles { certificate, key } = files(&folder);
    let settings = |cert: &std::path::Path, key: Option<&std::path::Path>| Settings {
        model_repository: Some(repository.path().into()),
        http: Some(([127, 0, 0, 1], 0).into()),
        tls_cert: Some(cert.into()),
        tls_key: key.map(Into::into),
        ..Settings::default()
    };
    let half = Config::try_from(settings(&certificate, None)).expect_err("half a pair").to_string();
    assert!(half.contains("--tls-key"), "{half}");
    let (one, other) = (Certificate::new(), Certificate::new());
    one.write(&files(&folder));
    let mixed = Certificate { der: other.der.clone(), key: one.key.clone() };
    for (prepare, part) in [
        (Box::new(|| mixed.write(&files(&folder))) as Box<dyn Fn()>, "no pair"),
        (Box::new(|| std::fs::write(&key, "x").expect("a file")), "key.pem holds no private key"),
        (Box::new(|| std::fs::write(&certificate, "").expect("a file")), "cert.pem holds no certificate"),
        (Box::new(|| std::fs::remove_file(&certificate).expect("a file")), "cert.pem: "),
    ] {
        prepare();
        let config = Config::try_from(settings(&certificate, Some(&key))).expect("a valid configuration");
        let error = server::start(config).await.expect_err("no pair").to_string();
        assert!(error.contains(part), "{error}");
    }
}
