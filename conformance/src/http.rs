//! HTTP/1.1 as a suite needs it that also sends what no client would: one request a connection, its bytes as given.

use std::{
    fmt,
    io::{ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Time for a server to answer, and to take a connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the server is, and how it knows who asks.
#[derive(Clone, Debug)]
pub struct Server {
    /// `host:port`.
    authority: String,
    /// In front of every path; empty or `/…` without a slash at its end.
    base: String,
    /// Fields of every request, as lines.
    fields: Vec<String>,
}

/// An answer, whole.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Server {
    /// `url` is `http://host[:port][/base]`, the scheme may be left out.
    pub fn new(url: &str, key: Option<&str>) -> Result<Self> {
        ensure!(!url.starts_with("https://"), "TLS is not spoken here: put the suite behind what ends it");
        let rest = url.strip_prefix("http://").unwrap_or(url);
        let (authority, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        ensure!(!authority.is_empty(), "'{url}' names no host");
        let authority =
            if authority.contains(':') { authority.to_owned() } else { format!("{authority}:8000") };
        let fields = key.map(|key| format!("Authorization: Bearer {key}")).into_iter().collect();
        Ok(Self { authority, base: base.trim_end_matches('/').to_owned(), fields })
    }

    pub fn get(&self, path: &str) -> Result<Answer> {
        self.send("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send("POST", path, &["Content-Type: application/json"], body.to_string().as_bytes())
    }

    pub fn send(&self, method: &str, path: &str, lines: &[&str], body: &[u8]) -> Result<Answer> {
        let length = format!("Content-Length: {}", body.len());
        let lines: Vec<&str> = if method == "GET" && body.is_empty() {
            lines.to_vec()
        } else {
            lines.iter().copied().chain([length.as_str()]).collect()
        };
        self.exchange(method, path, &lines, body)
    }

    /// Sends a request whose framing is up to the caller.
    pub fn exchange(&self, method: &str, path: &str, lines: &[&str], body: &[u8]) -> Result<Answer> {
        let mut head = format!(
            "{method} {}{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
            self.base, self.authority
        );
        for line in self.fields.iter().map(String::as_str).chain(lines.iter().copied()) {
            head += line;
            head += "\r\n";
        }
        head += "\r\n";
        let mut stream = self.connect()?;
        // Who is refused early may be cut off while sending: what counts is the answer.
        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        let mut response = Vec::new();
        let read = stream.read_to_end(&mut response);
        if response.is_empty() {
            match (sent, read) {
                (Err(error), _) | (_, Err(error)) if error.kind() == ErrorKind::WouldBlock => {
                    bail!("no answer within {} s", PATIENCE.as_secs())
                }
                (Err(error), _) | (_, Err(error)) => bail!("no answer: {error}"),
                _ => bail!("the connection was closed without an answer"),
            }
        }
        Answer::parse(&response).with_context(|| format!("the answer is not HTTP: {}", quoted(&response)))
    }

    fn connect(&self) -> Result<TcpStream> {
        let addresses = self.authority.to_socket_addrs().with_context(|| format!("'{}'", self.authority))?;
        let mut last = None;
        for address in addresses {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    return Ok(stream);
                }
                Err(error) => last = Some(error),
            }
        }
        bail!(
            "cannot connect to {}: {}",
            self.authority,
            last.map_or_else(|| "no address".to_owned(), |error| error.to_string())
        )
    }
}

impl Answer {
    fn parse(response: &[u8]) -> Option<Self> {
        let end = response.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&response[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let body = &response[end + 4..];
        if status == 100 {
            return Self::parse(body);
        }
        let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if chunked { dechunked(body)? } else { body.to_vec() };
        Some(Self { status, headers, body })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON in {self}"))
    }

    /// The JSON of an answer that has to be 200.
    pub fn good(&self) -> Result<Value> {
        ensure!(self.status == 200, "expected 200, got {self}");
        self.json()
    }

    /// An error as V2 has it: a status from 400 on, and an object with a text. `statuses` are those that fit.
    pub fn refused(&self, statuses: std::ops::RangeInclusive<u16>) -> Result<()> {
        let (from, to) = (statuses.start(), statuses.end());
        ensure!(statuses.contains(&self.status), "expected a status from {from} to {to}, got {self}");
        let document = self.json()?;
        ensure!(document["error"].is_string(), "expected {{\"error\": text}}, got {self}");
        Ok(())
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, quoted(&self.body))
    }
}

fn quoted(bytes: &[u8]) -> String {
    const SHOWN: usize = 160;
    let text: String = String::from_utf8_lossy(bytes).chars().take(SHOWN).collect();
    format!("`{}`", text.escape_debug())
}

fn dechunked(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&body[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        body = &body[end + 2..];
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(body.get(..size)?);
        body = body.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole() {
        let plain =
            Answer::parse(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n\r\nno").expect("HTTP");
        assert_eq!((plain.status, plain.header("content-type")), (404, Some("text/plain")));
        let pieces = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n";
        assert_eq!(Answer::parse(pieces).expect("HTTP").body, b"abcd");
        assert!(Answer::parse(b"HTTP/1.1 200 OK\r\n").is_none());
        assert!(
            Answer::parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc\r\n").is_none()
        );
    }

    #[test]
    fn a_url_has_a_host_and_may_have_more() {
        let server = Server::new("http://localhost/base/", None).expect("a URL");
        assert_eq!((server.authority.as_str(), server.base.as_str()), ("localhost:8000", "/base"));
        let server = Server::new("127.0.0.1:9", Some("k")).expect("a URL");
        assert_eq!((server.authority.as_str(), server.base.as_str()), ("127.0.0.1:9", ""));
        assert!(Server::new("https://localhost", None).is_err());
        assert!(Server::new("http:///v2", None).is_err());
    }
}
