//! One keep-alive connection that sends the same request over and over. It reads no more of an answer than it must, so
//! that the generator is faster than what it measures.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// An answer that takes longer ends the measurement.
const PATIENCE: Duration = Duration::from_secs(60);
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
