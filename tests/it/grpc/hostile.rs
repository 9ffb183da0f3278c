//! Bytes that no client of gRPC sends.

use std::time::{Duration, Instant};

use airlock::{
    meter::ledger,
    proto::{inference::ModelInferResponse, wire::PREFIX},
};
use airlock_tests::{
    client::{call, call_http2, open_http2},
    gateway::Gateway,
    grpc::{Client, fp32},
};
use prost::Message;
use tempfile::TempDir;
use tonic::Code;

use super::{GRPC, INFER, STREAM, framed, repository, serve, works};

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_messages_are_refused() {
    let (gateway, client) = serve().await;
    let at = gateway.grpc_address();
    let good = framed(&fp32("good", &[1.0]).encode_to_vec());
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", Vec::new(), "has no message"),
        ("half a prefix", vec![0, 0], "ends in the middle"),
        ("a giant that does not come", vec![0, 3, 0, 0, 0, 1, 2], "ends in the middle"),
        ("a giant that is too large", vec![0, 0xff, 0xff, 0xff, 0xff, 1], "larger than"),
        ("a cut message", good[..good.len() - 3].to_vec(), "ends in the middle"),
        ("two messages", [good.clone(), good.clone()].concat(), "has more"),
        ("a strange flag", [&[7][..], &good[1..]].concat(), "begins with 7"),
        ("compressed, without a word", [&[1][..], &good[1..]].concat(), "no grpc-encoding"),
        ("not protobuf", framed(&[0xff; 40]), "malformed"),
        ("a group", framed(&[0x0b, 0x0c]), "malformed"),
        ("no model", framed(&[]), "unknown model"),
        ("text that is none", framed(&[0x0a, 1, 0xff]), "not UTF-8"),
        (
            "a thousand empty inputs",
            framed(&[&[0x0a, 4][..], b"good", &[0x2a, 0].repeat(1000)].concat()),
            "datatype",
        ),
        ("a million fields", framed(&[0x78, 0].repeat(1_000_000)), "fields"),
    ];
    for (name, body, text) in cases {
        let answer = call_http2(at, "POST", INFER, &[GRPC], body).await;
        assert_eq!(answer.status, 200, "{name}");
        assert_eq!(answer.header("content-type"), Some("application/grpc"), "{name}");
        let message = answer.header("grpc-message").unwrap_or_default();
        assert!(message.contains(text), "{name}: {message}");
        assert!(matches!(answer.header("grpc-status"), Some("3" | "5" | "8")), "{name}");
        works(&client).await;
    }
    // Who has no key gets no room for more than a service's name; a model is not inflated where sockets are served.
    let health = call_http2(at, "POST", "/grpc.health.v1.Health/Check", &[GRPC], framed(&[0; 300])).await;
    assert_eq!(health.header("airlock-code"), Some("too_large"));
    let load = "/inference.GRPCInferenceService/RepositoryModelLoad";
    let zipped = [&[1][..], &framed(&[0x1f, 0x8b, 8, 0])[1..]].concat();
    let load = call_http2(at, "POST", load, &[GRPC, ("grpc-encoding", "gzip")], zipped).await;
    assert_eq!(load.header("airlock-code"), Some("not_implemented"));
    let headers = [GRPC, ("grpc-encoding", "zstd")];
    let answer = call_http2(at, "POST", INFER, &headers, [&[1][..], &good[1..]].concat()).await;
    assert_eq!(answer.header("grpc-status"), Some("12"));
    assert_eq!(answer.header("grpc-accept-encoding"), Some("identity,gzip,deflate"));
    let headers = [GRPC, ("grpc-encoding", "gzip")];
    let answer = call_http2(at, "POST", INFER, &headers, [&[1][..], &good[1..]].concat()).await;
    assert_eq!(answer.header("grpc-status"), Some("3"));
    works(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_grpc_is_told_where_it_is() {
    let (gateway, client) = serve().await;
    let at = gateway.grpc_address();
    let body = framed(&fp32("good", &[1.0]).encode_to_vec());
    let answers = [
        call(at, "GET", "/v2/health/live", &[], "").await,
        call(at, "POST", INFER, &[GRPC], body.clone()).await,
        call_http2(at, "POST", INFER, &[("content-type", "application/json")], body.clone()).await,
        call_http2(at, "POST", INFER, &[("content-type", "application/grpc-web")], body.clone()).await,
        call_http2(at, "POST", INFER, &[], body.clone()).await,
        call_http2(at, "GET", INFER, &[GRPC], body.clone()).await,
    ];
    for answer in answers {
        assert_eq!((answer.status, answer.code().as_str()), (415, "not_grpc"));
        assert!(answer.error().contains("this port speaks gRPC"));
    }
    for kind in ["application/grpc+proto", "application/grpc;charset=utf-8"] {
        let answer = call_http2(at, "POST", INFER, &[("content-type", kind)], body.clone()).await;
        assert_eq!(answer.status, 200);
        ModelInferResponse::decode(&answer.body[PREFIX..]).expect("an answer");
    }
    works(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_stays_away_is_given_up() {
    let gateway = Gateway::serve_with(repository(), |settings| {
        settings.limits.body_idle_timeout = Some("300ms".parse().expect("a time"));
    })
    .await;
    let client = Client::connect(gateway.grpc_address()).await;
    // An endless body: what was announced does not come.
    for path in [INFER, STREAM] {
        let started = Instant::now();
        let announced = futures_util::stream::once(async {
            Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(bytes::Bytes::from_static(&[
                0, 0, 1, 0, 0,
            ])))
        });
        let endless = futures_util::StreamExt::chain(announced, futures_util::stream::pending());
        let body = http_body_util::StreamBody::new(Box::pin(endless));
        let stream = tokio::net::TcpStream::connect(gateway.grpc_address()).await.expect("it listens");
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io)
                .await
                .expect("HTTP/2");
        tokio::spawn(connection);
        let request = hyper::Request::post(format!("http://{}{path}", gateway.grpc_address()))
            .header("content-type", "application/grpc")
            .body(body)
            .expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        let (head, body) = response.into_parts();
        let collected = http_body_util::BodyExt::collect(body).await.expect("a whole answer");
        let status = head.headers.get("grpc-status").cloned();
        let status = status.or_else(|| collected.trailers()?.get("grpc-status").cloned());
        assert_eq!(status.expect("a status"), "4");
        assert!(started.elapsed() < Duration::from_secs(5));
        works(&client).await;
    }
}

/// Waits until so many requests are on the road.
async fn open(gateway: &Gateway, count: usize) {
    while gateway.meter().open() != count {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_away_leave_nothing_behind_and_are_counted() {
    let state = TempDir::new().expect("a temporary folder");
    let gateway = Gateway::serve_with(repository(), |settings| {
        settings.state = Some(state.path().into());
    })
    .await;
    let at = gateway.grpc_address();
    let client = Client::connect(at).await;
    for _ in 0..20 {
        let connection = open_http2(at).await;
        let body = framed(&fp32("loops", &[1.0]).encode_to_vec());
        let mut sender = connection.clone();
        let gone = tokio::spawn(async move { drop(sender.send("POST", INFER, &[GRPC], body).await) });
        open(&gateway, 1).await;
        gone.abort();
        drop(connection);
        open(&gateway, 0).await;
    }
    works(&client).await;
    let requests = [fp32("good", &[1.0]), fp32("none", &[1.0]), fp32("trap", &[1.0])];
    let mut answers = client.stream(futures_util::stream::iter(requests)).await.expect("a stream");
    while answers.message().await.expect("an answer").is_some() {}
    assert_eq!(client.infer(fp32("none", &[1.0])).await.expect_err("a refusal").code(), Code::NotFound);
    drop((answers, client));
    gateway.stop(Duration::ZERO).await;

    let mut calls = std::collections::BTreeMap::new();
    for (key, figures) in ledger::read(&state.path().join("ledger")).expect("a ledger") {
        let model = key.model.map(|model| model.to_string()).unwrap_or_default();
        *calls.entry((model, key.outcome.into_owned())).or_default() += figures.calls;
    }
    let expected = [
        (("", "model_not_found"), 2u64),
        (("good", "ok"), 2),
        (("loops", "client_gone"), 20),
        (("trap", "model_failed"), 1),
    ];
    let expected = expected.map(|((model, outcome), calls)| ((model.to_owned(), outcome.to_owned()), calls));
    assert_eq!(calls, expected.into());
}
