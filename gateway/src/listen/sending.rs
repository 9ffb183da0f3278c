//! What is under way on a connection: a peer that does not read its answer must not keep it in memory for ever, and one
//! that asks for nothing must not keep a connection.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::places::Visitor;

/// The requests of one connection that are not answered, or whose answers are not sent yet.
#[derive(Clone, Debug)]
pub(super) struct Sending(Arc<Mutex<UnderWay>>);

#[derive(Debug)]
struct UnderWay {
    begun: u64,
    requests: usize,
    quiet_since: Instant,
    /// By the order in which they began.
    answers: BTreeMap<u64, Instant>,
    /// Since when the peer has taken nothing of what is written to it.
    blocked_since: Option<Instant>,
}

/// One request, from its head to the end of its answer.
#[derive(Debug)]
pub(super) struct Request {
    sending: Sending,
    visitor: Visitor,
}

/// One answer; it counts as sent when this is dropped.
#[derive(Debug)]
pub struct Answer {
    request: Request,
    /// None between the messages of an answer that has several.
    number: Option<u64>,
}

impl Default for Sending {
    fn default() -> Self {
        let answers = BTreeMap::new();
        let quiet_since = Instant::now();
        let quiet = UnderWay { begun: 0, requests: 0, quiet_since, answers, blocked_since: None };
        Self(Arc::new(Mutex::new(quiet)))
    }
}

impl Sending {
    pub(super) fn request(&self, visitor: Visitor) -> Request {
        self.with(|under_way| under_way.requests += 1);
        Request { sending: self.clone(), visitor }
    }

    /// Returns when an answer has been on its way for longer than `timeout`, or when nothing could be written for that
    /// long: what is under way does not cover answers that hyper has taken and the peer has not.
    pub(super) async fn stalled(&self, timeout: Duration) {
        let since = |under_way: &UnderWay| {
            let oldest = under_way.answers.first_key_value().map(|(_, begun)| *begun);
            oldest.into_iter().chain(under_way.blocked_since).min()
        };
        self.passed(timeout, since).await;
    }

    /// Returns when there has been no request for longer than `timeout`.
    pub(super) async fn idle(&self, timeout: Duration) {
        self.passed(timeout, |under_way| (under_way.requests == 0).then_some(under_way.quiet_since)).await;
    }

    /// Returns when what `since` tells is longer ago than `timeout`.
    async fn passed(&self, timeout: Duration, since: impl Fn(&UnderWay) -> Option<Instant>) {
        loop {
            // What begins while this sleeps is not due before it wakes.
            let begun = self.with(|under_way| since(under_way));
            let due = begun.unwrap_or_else(Instant::now) + timeout;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due.into()).await;
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut UnderWay) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Request {
    pub(super) fn visitor(&self) -> &Visitor {
        &self.visitor
    }

    pub(super) fn answer(self) -> Answer {
        let mut answer = Answer { request: self, number: None };
        answer.resume();
        answer
    }
}

impl Answer {
    /// A message of it is on its way: from now on the peer's time to read it passes.
    pub(super) fn resume(&mut self) {
        if self.number.is_none() {
            self.number = Some(self.request.sending.with(|under_way| {
                under_way.begun += 1;
                under_way.answers.insert(under_way.begun, Instant::now());
                under_way.begun
            }));
        }
    }

    /// The peer has taken what there is of it so far.
    pub(super) fn pause(&mut self) {
        if let Some(number) = self.number.take() {
            self.request.sending.with(|under_way| under_way.answers.remove(&number));
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.sending.with(|under_way| {
            under_way.requests -= 1;
            under_way.quiet_since = Instant::now();
        });
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.pause();
    }
}

/// A connection that notes for how long its peer takes nothing.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    sending: Sending,
    blocked: bool,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, sending: &Sending) -> Self {
        Self { stream, sending: sending.clone(), blocked: false }
    }

    fn note<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_pending() != self.blocked {
            self.blocked = written.is_pending();
            let since = self.blocked.then(Instant::now);
            self.sending.with(|under_way| under_way.blocked_since = since);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
