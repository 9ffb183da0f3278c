//! `ModelInfer` of gRPC, some calls under way on each connection. A client of its own, because the stock ones take as much time
//! for a call as a fast server does, and would be what is measured: it sends the same bytes again and again, and of the answers
//! it reads how long they are and what their trailers say.

use std::{
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::{
    PATIENCE,
    case::Case,
    frame::{self, Frame},
};

const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";
/// Bytes that one read asks for at least.
const READ: usize = 64 << 10;
/// What the server may send before it hears of the client again. Half of it is given back at a time.
const WINDOW: u32 = 1 << 30;
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A call under way.
#[derive(Debug)]
struct Call {
    stream: u32,
    started: Instant,
    /// Bytes of the answer so far, with its prefix.
    received: usize,
}

/// What the server said, as far as it matters to calls.
enum Event {
    /// A part of an answer, by where it lies in the input.
    Data(u32, Range<usize>),
    /// The end of a call with status 0.
    Ended(u32),
}

#[derive(Debug)]
struct Connection {
    socket: TcpStream,
    authority: String,
    input: Vec<u8>,
    /// Where the frames begin that were not looked at.
    at: usize,
    output: Vec<u8>,
    next_stream: u32,
    /// Bytes that may be sent on the connection, and on a new stream.
    window: i64,
    stream_window: i64,
    /// Bytes of answers that the server did not get back in its window.
    unreturned: u32,
    calls: Vec<Call>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self> {
        let socket =
            TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        socket.set_nodelay(true)?;
        let mut output = frame::PREFACE.to_vec();
        // Without a table, trailers say in so many words what the status is.
        let settings =
            [frame::setting(frame::HEADER_TABLE_SIZE, 0), frame::setting(frame::INITIAL_WINDOW_SIZE, WINDOW)];
        frame::write(&mut output, frame::SETTINGS, 0, 0, &settings.concat());
        frame::write(&mut output, frame::WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
        Ok(Self {
            socket,
            authority: address.to_string(),
            input: Vec::with_capacity(READ),
            at: 0,
            output,
            next_stream: 1,
            window: frame::DEFAULT_WINDOW,
            stream_window: frame::DEFAULT_WINDOW,
            unreturned: 0,
            calls: Vec::new(),
        })
    }

    /// Begins a call if the server has room for its message, and says whether it had.
    fn begin(&mut self, message: &[u8]) -> Result<bool> {
        let length = i64::try_from(PREFIX + message.len())?;
        ensure!(length <= self.stream_window, "the message is too long for one frame");
        if length > self.window {
            return Ok(false);
        }
        self.window -= length;
        let stream = self.next_stream;
        self.next_stream += 2;
        let headers = frame::call_headers(stream == 1, PATH, &self.authority)?;
        frame::write(&mut self.output, frame::HEADERS, frame::END_HEADERS, stream, &headers);
        let mut data = Vec::with_capacity(PREFIX + message.len());
        data.push(0);
        data.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
        data.extend_from_slice(message);
        frame::write(&mut self.output, frame::DATA, frame::END_STREAM, stream, &data);
        self.calls.push(Call { stream, started: Instant::now(), received: 0 });
        Ok(true)
    }

    /// Sends what there is to send, and waits for something to read.
    async fn exchange(&mut self) -> Result<()> {
        if !self.output.is_empty() {
            self.socket.write_all(&self.output).await?;
            self.output.clear();
        }
        self.input.drain(..self.at);
        self.at = 0;
        self.input.reserve(READ);
        let read = self.socket.read_buf(&mut self.input).await?;
        ensure!(read > 0, "the server closed the connection");
        Ok(())
    }

    /// Looks at the frames that were read, up to the next that matters to a call.
    fn event(&mut self) -> Result<Option<Event>> {
        while let Some(frame) = Frame::parse(&self.input[self.at..])? {
            let from = self.at + frame::HEAD;
            self.at = from + frame.payload.len();
            let ends = frame.flags & frame::END_STREAM != 0;
            match frame.kind {
                frame::DATA => {
                    ensure!(!ends, "a call ended without trailers");
                    self.unreturned += u32::try_from(frame.payload.len())?;
                    let event = Event::Data(frame.stream, from..self.at);
                    if self.unreturned > WINDOW / 2 {
                        let increment = self.unreturned.to_be_bytes();
                        frame::write(&mut self.output, frame::WINDOW_UPDATE, 0, 0, &increment);
                        self.unreturned = 0;
                    }
                    return Ok(Some(event));
                }
                frame::HEADERS if ends => {
                    ensure!(
                        frame::says_ok(frame.payload),
                        "a call failed, its trailers are {:?}",
                        String::from_utf8_lossy(frame.payload)
                    );
                    return Ok(Some(Event::Ended(frame.stream)));
                }
                frame::SETTINGS if frame.flags & frame::ACK == 0 => {
                    for setting in frame.payload.as_chunks::<6>().0 {
                        let [i0, i1, v0, v1, v2, v3] = *setting;
                        let value = u32::from_be_bytes([v0, v1, v2, v3]);
                        match u16::from_be_bytes([i0, i1]) {
                            frame::INITIAL_WINDOW_SIZE => self.stream_window = i64::from(value),
                            frame::HEADER_TABLE_SIZE => {
                                ensure!(value >= 4096, "the server wants a smaller table of headers")
                            }
                            _ => {}
                        }
                    }
                    frame::write(&mut self.output, frame::SETTINGS, frame::ACK, 0, &[]);
                }
                frame::PING if frame.flags & frame::ACK == 0 => {
                    let payload = frame.payload.to_vec();
                    frame::write(&mut self.output, frame::PING, frame::ACK, 0, &payload);
                }
                frame::WINDOW_UPDATE if frame.stream == 0 => {
                    self.window += i64::from(frame.number().context("a short frame")?);
                }
                frame::RST_STREAM => bail!("the server gave a call up: {:?}", frame.payload),
                frame::GOAWAY => {
                    bail!("the server wants no more calls: {:?}", String::from_utf8_lossy(frame.payload))
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn call_of(&mut self, stream: u32) -> Result<(usize, &mut Call)> {
        let found = self.calls.iter_mut().enumerate().find(|(_, call)| call.stream == stream);
        found.context("an answer to no call")
    }

    /// One call, and its message.
    async fn call(&mut self, message: &[u8]) -> Result<Vec<u8>> {
        let mut answer = Vec::new();
        while !self.begin(message)? {
            self.exchange().await?;
            ensure!(self.event()?.is_none(), "an answer to no call");
        }
        loop {
            self.exchange().await?;
            while let Some(event) = self.event()? {
                match event {
                    Event::Data(_, range) => answer.extend_from_slice(&self.input[range]),
                    Event::Ended(stream) => {
                        let (index, _) = self.call_of(stream)?;
                        self.calls.swap_remove(index);
                        ensure!(answer.first() == Some(&0), "the answer is compressed or empty");
                        answer.drain(..PREFIX.min(answer.len()));
                        return Ok(answer);
                    }
                }
            }
        }
    }

    /// Keeps so many calls under way until then. The answers are `expected` bytes long.
    async fn drive(
        &mut self,
        messages: &[Vec<u8>],
        next: &AtomicUsize,
        calls: usize,
        expected: usize,
        end: Instant,
    ) -> Result<Vec<Duration>> {
        let mut latencies = Vec::new();
        loop {
            let over = Instant::now() >= end;
            while !over && self.calls.len() < calls {
                if !self.begin(&messages[next.load(Ordering::Relaxed) % messages.len()])? {
                    break;
                }
                next.fetch_add(1, Ordering::Relaxed);
            }
            if over && self.calls.is_empty() {
                return Ok(latencies);
            }
            self.exchange().await?;
            while let Some(event) = self.event()? {
                match event {
                    Event::Data(stream, range) => self.call_of(stream)?.1.received += range.len(),
                    Event::Ended(stream) => {
                        let (index, call) = self.call_of(stream)?;
                        let received = call.received;
                        ensure!(
                            received == expected,
                            "an answer of {received} bytes, the first had {expected}"
                        );
                        latencies.push(call.started.elapsed());
                        self.calls.swap_remove(index);
                    }
                }
            }
        }
    }
}

/// All connections to one server, and what they send in turn.
#[derive(Debug)]
pub struct Load {
    connections: Vec<Connection>,
    /// Calls under way on each.
    calls: usize,
    messages: Arc<Vec<Vec<u8>>>,
    next: Arc<AtomicUsize>,
    /// Bytes of the first answer, with its prefix.
    expected: usize,
}

impl Load {
    /// Opens the connections and checks the first answer of each model value for value. An `echo` has to answer the message
    /// that it was sent.
    pub async fn open(
        address: SocketAddr,
        models: &[String],
        case: Case,
        (connections, calls): (usize, usize),
        echo: bool,
    ) -> Result<Self> {
        let mut opened = Vec::new();
        for _ in 0..connections.max(1) {
            opened.push(Connection::open(address).await?);
        }
        let messages: Vec<_> = models.iter().map(|model| case.message(model)).collect();
        let mut expected = None;
        for (model, message) in models.iter().zip(&messages) {
            let answer = timeout(PATIENCE, opened[0].call(message)).await.context("no answer in time")?;
            let answer = answer.with_context(|| format!("calling {model}"))?;
            if echo {
                ensure!(answer == *message, "the answer is not the message that was sent");
            } else {
                case.check_message(&answer).with_context(|| format!("calling {model}"))?;
            }
            expected.get_or_insert(PREFIX + answer.len());
        }
        let expected = expected.context("no model to call")?;
        Ok(Self { connections: opened, calls, messages: Arc::new(messages), next: Arc::default(), expected })
    }

    /// Keeps every connection busy for that long; gives the latency of each call.
    pub async fn drive(&mut self, duration: Duration) -> Result<Vec<Duration>> {
        let end = Instant::now() + duration;
        let (calls, expected) = (self.calls, self.expected);
        let mut tasks = JoinSet::new();
        for mut connection in self.connections.drain(..) {
            let (messages, next) = (Arc::clone(&self.messages), Arc::clone(&self.next));
            tasks.spawn(async move {
                let driven = connection.drive(&messages, &next, calls, expected, end);
                let latencies = timeout(duration + PATIENCE, driven).await.context("no answer in time")??;
                anyhow::Ok((connection, latencies))
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
    use tokio::net::TcpListener;

    use super::*;

    const OK: &[u8] = b"\x00\x0bgrpc-status\x010";
    const NOT_FOUND: &[u8] = b"\x00\x0bgrpc-status\x015";

    /// Answers each call with its message; from the `fails`th call on as `end` says: with a byte less, or with other trailers.
    async fn serve(
        listener: TcpListener,
        fails: usize,
        shorter: bool,
        trailers: &'static [u8],
    ) -> Result<()> {
        let (mut socket, _) = listener.accept().await?;
        let mut input = Vec::new();
        let mut at = frame::PREFACE.len();
        let mut calls = 0;
        loop {
            if socket.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
            let mut output = Vec::new();
            while let Some(frame) = input.get(at..).map(Frame::parse).transpose()?.flatten() {
                at += frame::HEAD + frame.payload.len();
                match frame.kind {
                    frame::SETTINGS if frame.flags == 0 => {
                        frame::write(&mut output, frame::SETTINGS, frame::ACK, 0, &[]);
                        frame::write(&mut output, frame::PING, 0, 0, b"12345678");
                    }
                    frame::DATA => {
                        calls += 1;
                        let failing = calls >= fails;
                        let length = frame.payload.len() - usize::from(failing && shorter);
                        let end = if failing { trailers } else { OK };
                        frame::write(&mut output, frame::HEADERS, frame::END_HEADERS, frame.stream, b"\x88");
                        frame::write(&mut output, frame::DATA, 0, frame.stream, &frame.payload[..length]);
                        let flags = frame::END_HEADERS | frame::END_STREAM;
                        frame::write(&mut output, frame::HEADERS, flags, frame.stream, end);
                        let increment = u32::try_from(frame.payload.len())?.to_be_bytes();
                        frame::write(&mut output, frame::WINDOW_UPDATE, 0, 0, &increment);
                    }
                    _ => {}
                }
            }
            socket.write_all(&output).await?;
        }
    }

    /// Three calls at a time over one connection, for a moment.
    async fn driven(fails: usize, shorter: bool, trailers: &'static [u8]) -> Result<usize> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(serve(listener, fails, shorter, trailers));
        let case: Case = "grpc16".parse().map_err(anyhow::Error::msg)?;
        let mut load = Load::open(address, &["identity".into()], case, (1, 3), true).await?;
        let latencies = load.drive(Duration::from_millis(300)).await?;
        drop(load);
        server.await??;
        Ok(latencies.len())
    }

    #[tokio::test]
    async fn every_answer_is_looked_at() {
        assert!(driven(usize::MAX, false, OK).await.expect("all answers are right") >= 3);
        let error = driven(3, true, OK).await.expect_err("a shorter answer").to_string();
        assert!(error.contains("the first had"), "{error}");
        let error = driven(3, false, NOT_FOUND).await.expect_err("a call that failed").to_string();
        assert!(error.contains("a call failed"), "{error}");
        let error = driven(1, false, NOT_FOUND).await.expect_err("the first call failed");
        assert!(format!("{error:#}").contains("a call failed"), "{error:#}");
    }
}
