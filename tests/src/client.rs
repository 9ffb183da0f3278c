//! A small HTTP client: one connection a call, so that no test sees what another left in a pool.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, client::conn::http2, header::HeaderName};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; the test fails with the body's text if it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The `code` of an error.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The `error` text of an error.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }
}

pub async fn get(address: SocketAddr, path: &str) -> Answer {
    call(address, "GET", path, &[], Bytes::new()).await
}

pub async fn post(address: SocketAddr, path: &str, body: &Value) -> Answer {
    call(address, "POST", path, &[], Bytes::from(body.to_string())).await
}

/// One request over HTTP/1.1 on a connection of its own.
pub async fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let stream = TcpStream::connect(address).await.expect("the gateway listens");
    call_on(stream, address, method, path, headers, body).await
}

/// The same on a connection that is there already.
pub async fn call_on(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    let connection = tokio::spawn(connection);
    let response =
        sender.send_request(request(address, method, path, headers, body)).await.expect("an answer");
    let answer = collect(response).await;
    connection.abort();
    answer
}

/// One request over HTTP/2 with prior knowledge.
pub async fn call_http2(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let mut connection = open_http2(address).await;
    collect(connection.send(method, path, headers, body).await.expect("an answer")).await
}

/// A connection that speaks HTTP/2, for several requests at a time; closed with its last clone.
#[derive(Clone, Debug)]
pub struct Http2 {
    address: SocketAddr,
    sender: http2::SendRequest<Full<Bytes>>,
}

pub async fn open_http2(address: SocketAddr) -> Http2 {
    let stream = TcpStream::connect(address).await.expect("the gateway listens");
    open_http2_on(stream, address).await
}

/// The same on a connection that is there already.
pub async fn open_http2_on(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
) -> Http2 {
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    Http2 { address, sender }
}

impl Http2 {
    /// Sends one request; the answer's body is cancelled if it is dropped.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> hyper::Result<hyper::Response<hyper::body::Incoming>> {
        let path = format!("http://{}{path}", self.address);
        self.sender.send_request(request(self.address, method, &path, headers, body)).await
    }
}

fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path);
    if path.starts_with('/') && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header("host", address.to_string());
    }
    for (name, value) in headers {
        request = request.header(name.parse::<HeaderName>().expect("a header name"), *value);
    }
    request.body(Full::new(body.into())).expect("a valid request")
}

/// The whole of an answer.
pub async fn collect(response: hyper::Response<hyper::body::Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    Answer { status: head.status.as_u16(), headers: head.headers, body }
}
