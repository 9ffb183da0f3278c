//! The suite against gRPC servers that keep nothing, or nearly nothing, beside a REST door that has the metadata.

use std::{
    convert::Infallible,
    net::SocketAddr,
    process::{Command, Output},
};

use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Bytes, Frame, Incoming},
    header::{HeaderMap, HeaderValue},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

const METADATA: &str = r#"{"name":"m","versions":["1"],"platform":"","inputs":[{"name":"a","datatype":"UINT8","shape":[-1,2]},
    {"name":"b","datatype":"BYTES","shape":[-1]}],"outputs":[{"name":"c","datatype":"FP32","shape":[2]}]}"#;

/// What the metadata are over REST.
async fn rest(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = match request.uri().path() {
        "/v2" => {
            r#"{"name":"x","version":"1","extensions":["statistics","model_configuration","model_repository"]}"#
        }
        "/v2/models/m" => METADATA,
        _ => "{}",
    };
    Ok(Response::new(Full::new(Bytes::from_static(body.as_bytes()))))
}

/// A call's answer: an empty message, or none, and a status.
fn call(status: &'static str) -> Response<BoxBody<Bytes, Infallible>> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let message = (status == "0").then(|| Frame::data(Bytes::from_static(&[0; 5])));
    let frames = message.into_iter().chain([Frame::trailers(trailers)]).map(Ok);
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// Both doors, and the suite's verdict of the gRPC one.
async fn verdict(status: &'static str) -> Output {
    let rest_at = listen(move |stream| async move {
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(rest)).await;
    })
    .await;
    let grpc_at = listen(move |stream| async move {
        let answer = service_fn(move |request: Request<Incoming>| async move {
            let _ = request.into_body().collect().await;
            Ok::<_, Infallible>(call(status))
        });
        let connection = http2::Builder::new(TokioExecutor::new());
        let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
    })
    .await;
    let parts = ["grpc", "grpc_errors", "grpc_extensions", "grpc_stream", "grpc_health", "grpc_robustness"];
    let mut suite = Command::new(env!("CARGO_BIN_EXE_airlock-conformance"));
    suite.args(["--url", &format!("http://{rest_at}"), "--grpc-url", &format!("http://{grpc_at}")]);
    suite.args(["--model", "m"]).args(parts.iter().flat_map(|part| ["--only", part]));
    tokio::task::spawn_blocking(move || suite.output().expect("the suite starts")).await.expect("it ends")
}

async fn listen<F>(serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// The names of the cases that ended so.
fn cases(output: &Output, outcome: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let start = format!("  {outcome:<8} ");
    text.lines().filter_map(|line| line.strip_prefix(&start)).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_every_call_with_an_empty_message_keeps_nothing() {
    let output = verdict("0").await;
    assert_eq!(output.status.code(), Some(1));
    let none: Vec<String> = Vec::new();
    assert_eq!(cases(&output, "kept"), none, "{}", String::from_utf8_lossy(&output.stdout));
    assert!(cases(&output, "not kept").len() > 30, "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_every_call_keeps_what_is_to_be_refused_so() {
    // INVALID_ARGUMENT
    let output = verdict("3").await;
    assert_eq!(output.status.code(), Some(1));
    let (kept, broken) = (cases(&output, "kept"), cases(&output, "not kept"));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(kept.iter().all(|case| case.ends_with("INVALID_ARGUMENT")), "{text}");
    assert!(kept.len() > 8, "{text}");
    for case in
        ["ServerLive and ServerReady say yes", "an unknown version is NOT_FOUND", "a message that is none"]
    {
        assert!(broken.iter().any(|broken| broken == case), "{text}");
    }
}

#[test]
fn where_nobody_says_where_grpc_is_the_code_is_2() {
    let mut suite = Command::new(env!("CARGO_BIN_EXE_airlock-conformance"));
    let output = suite.args(["--model", "m", "--only", "grpc"]).output().expect("the suite starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--grpc-url"));
}
