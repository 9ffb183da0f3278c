//! REST over keep-alive connections, each with one request under way. It reads no more of an answer than it must, so that the
//! generator is faster than what it measures.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::{PATIENCE, case::Case};

/// Bytes that one read asks for at least.
const READ: usize = 256 << 10;

/// Where things lie in the bytes of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    /// Bytes before the body.
    pub length: usize,
    pub content_length: usize,
    pub header_length: Option<usize>,
}

/// Reads the head of a response, or says that more bytes are needed.
pub fn parse_head(bytes: &[u8]) -> Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..end]).context("the head is not text")?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?;
    let mut head = Head {
        status: status.parse().context("the status is not a number")?,
        length: end + 4,
        content_length: 0,
        header_length: None,
    };
    let mut has_length = false;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            head.content_length = value.trim().parse().context("Content-Length is not a number")?;
            has_length = true;
        } else if name.eq_ignore_ascii_case("inference-header-content-length") {
            head.header_length = Some(value.trim().parse().context("the header's length is not a number")?);
        }
    }
    ensure!(has_length, "a response without Content-Length cannot be measured");
    Ok(Some(head))
}

/// A connection and the last answer that came over it.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(READ) })
    }

    /// Sends a request and waits for the whole answer.
    pub async fn call(&mut self, request: &[u8]) -> Result<Head> {
        timeout(PATIENCE, self.exchange(request)).await.context("no answer in time")?
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Head> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            self.read().await?;
            if let Some(head) = parse_head(&self.buffer)? {
                break head;
            }
        };
        let whole = head.length + head.content_length;
        while self.buffer.len() < whole {
            self.read().await?;
        }
        ensure!(self.buffer.len() == whole, "the server sent more than one answer");
        Ok(head)
    }

    async fn read(&mut self) -> Result<()> {
        self.buffer.reserve(READ);
        let read = self.stream.read_buf(&mut self.buffer).await?;
        ensure!(read > 0, "the server closed the connection");
        Ok(())
    }

    /// The body of the last answer.
    pub fn body(&self, head: Head) -> &[u8] {
        &self.buffer[head.length..]
    }
}

/// All connections to one server, and what they send in turn.
#[derive(Debug)]
pub struct Load {
    connections: Vec<Connection>,
    requests: Arc<Vec<Vec<u8>>>,
    next: Arc<AtomicUsize>,
    /// As the first answer was.
    expected: Head,
    pause: Duration,
}

impl Load {
    /// Opens the connections and checks the first answer of each model value for value. There will be a pause after each answer.
    pub async fn open(
        address: SocketAddr,
        models: &[String],
        case: Case,
        connections: usize,
        pause: Duration,
    ) -> Result<Self> {
        let mut opened = Vec::new();
        for _ in 0..connections.max(1) {
            opened.push(Connection::open(address).await?);
        }
        let first = &mut opened[0];
        let mut expected = None;
        let mut requests = Vec::new();
        for model in models {
            let path = format!("/v2/models/{model}/infer");
            let request = case.request(&address.to_string(), &path);
            let head = first.call(&request).await?;
            let body = first.body(head);
            let shown = String::from_utf8_lossy(&body[..body.len().min(300)]);
            ensure!(head.status == 200, "{path} answers {}: {shown}", head.status);
            case.check(head.header_length, body).with_context(|| format!("{path} answers {shown}"))?;
            requests.push(request);
            expected.get_or_insert(head);
        }
        let expected = expected.context("no model to call")?;
        Ok(Self { connections: opened, requests: Arc::new(requests), next: Arc::default(), expected, pause })
    }

    /// Keeps every connection busy for that long, but for a pause after each answer; gives the latency of each request.
    pub async fn drive(&mut self, duration: Duration) -> Result<Vec<Duration>> {
        let end = Instant::now() + duration;
        let expected = (self.expected.status, self.expected.content_length);
        let pause = self.pause;
        let mut tasks = JoinSet::new();
        for mut connection in self.connections.drain(..) {
            let (requests, next) = (Arc::clone(&self.requests), Arc::clone(&self.next));
            tasks.spawn(async move {
                let mut latencies = Vec::new();
                loop {
                    let started = Instant::now();
                    let request = &requests[next.fetch_add(1, Ordering::Relaxed) % requests.len()];
                    let head = connection.call(request).await?;
                    ensure!(
                        (head.status, head.content_length) == expected,
                        "an answer differs from the first one: status {}, {} bytes",
                        head.status,
                        head.content_length
                    );
                    let ended = Instant::now();
                    latencies.push(ended - started);
                    if ended >= end {
                        return Ok((connection, latencies));
                    }
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                }
            });
        }
        let mut latencies = Vec::new();
        while let Some(done) = tasks.join_next().await {
            let (connection, measured) = done??;
            self.connections.push(connection);
            latencies.extend(measured);
        }
        Ok(latencies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let text = "HTTP/1.1 200 OK\r\nCONTENT-length: 12\r\nInference-Header-Content-Length: 5\r\n\r\nabc";
        let end = text.find("abc").expect("the body");
        assert_eq!(parse_head(&text.as_bytes()[..end - 1]).expect("not wrong yet"), None);
        let head = Head { status: 200, length: end, content_length: 12, header_length: Some(5) };
        assert_eq!(parse_head(text.as_bytes()).expect("a head"), Some(head));
    }

    #[test]
    fn a_response_of_unknown_length_is_refused() {
        assert!(parse_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(parse_head(b"nonsense\r\n\r\n").is_err());
    }
}
