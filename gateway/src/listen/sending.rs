//! What is under way on a connection: a peer that does not read its answer must not keep it in memory for ever, and one
//! that asks for nothing must not keep a connection.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::places::Visitor;

/// The requests of one connection that are not answered, or whose answers are not sent yet.
#[derive(Clone, Debug)]
pub(super) struct Sending(Arc<Mutex<UnderWay>>);

#[derive(Debug)]
struct UnderWay {
    begun: u64,
    requests: usize,
    quiet_since: Instant,
    /// When the peer is to have read what there is of them, by their numbers: there are no more of them than streams, and mostly one.
    answers: Vec<(u64, Instant)>,
    /// Since when the peer has taken nothing of what is written to it.
    blocked_since: Option<Instant>,
    /// Answers that wait for it to take something, by their ids.
    waiting: BTreeMap<u64, Waker>,
    ids: u64,
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
    id: u64,
    /// None between the messages of an answer that has several.
    number: Option<u64>,
    patience: Duration,
}

impl Default for Sending {
    fn default() -> Self {
        let answers = Vec::new();
        let quiet_since = Instant::now();
        let quiet = UnderWay {
            begun: 0,
            requests: 0,
            quiet_since,
            answers,
            blocked_since: None,
            waiting: BTreeMap::new(),
            ids: 0,
        };
        Self(Arc::new(Mutex::new(quiet)))
    }
}

impl Sending {
    pub(super) fn request(&self, visitor: Visitor) -> Request {
        self.with(|under_way| under_way.requests += 1);
        Request { sending: self.clone(), visitor }
    }

    /// Returns when an answer has been on its way for longer than it may be, or when nothing could be written for longer than
    /// `timeout`: what is under way does not cover answers that hyper has taken and the peer has not. No answer may be on its
    /// way for less than `shortest`.
    pub(super) async fn stalled(&self, timeout: Duration, shortest: Duration) {
        let due = |under_way: &UnderWay| {
            let blocked = under_way.blocked_since.map(|since| since + timeout);
            under_way.answers.iter().map(|(_, due)| *due).chain(blocked).min()
        };
        self.passed(timeout.min(shortest), due).await;
    }

    /// Returns when there has been no request for longer than `timeout`.
    pub(super) async fn idle(&self, timeout: Duration) {
        let due = |under_way: &UnderWay| (under_way.requests == 0).then_some(under_way.quiet_since + timeout);
        self.passed(timeout, due).await;
    }

    /// Returns when it is later than `due` tells. Nothing becomes due earlier than `soonest` after it began.
    async fn passed(&self, soonest: Duration, due: impl Fn(&UnderWay) -> Option<Instant>) {
        loop {
            let now = Instant::now();
            let due = self.with(|under_way| due(under_way));
            if due.is_some_and(|due| due <= now) {
                return;
            }
            // What begins while this sleeps is not due before it wakes.
            let wake = due.map_or(now + soonest, |due| due.min(now + soonest));
            tokio::time::sleep_until(wake.into()).await;
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

    /// An answer, which is to be read within that time.
    pub(super) fn answer(self, patience: Duration) -> Answer {
        let id = self.sending.with(|under_way| {
            under_way.ids += 1;
            under_way.ids
        });
        let mut answer = Answer { request: self, id, number: None, patience };
        answer.resume();
        answer
    }
}

impl Answer {
    /// A message of it is on its way: from now on the peer's time to read it passes.
    pub(super) fn resume(&mut self) {
        if self.number.is_none() {
            let due = Instant::now() + self.patience;
            self.number = Some(self.request.sending.with(|under_way| {
                under_way.begun += 1;
                under_way.answers.push((under_way.begun, due));
                under_way.begun
            }));
        }
    }

    /// Ready unless the peer takes nothing of what is written to it.
    pub(super) fn poll_writable(&self, context: &Context<'_>) -> Poll<()> {
        self.request.sending.with(|under_way| {
            if under_way.blocked_since.is_none() {
                return Poll::Ready(());
            }
            under_way.waiting.insert(self.id, context.waker().clone());
            Poll::Pending
        })
    }

    /// The peer has taken what there is of it so far.
    pub(super) fn pause(&mut self) {
        if let Some(number) = self.number.take() {
            self.request.sending.with(|under_way| under_way.answers.retain(|(other, _)| *other != number));
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
        self.request.sending.with(|under_way| under_way.waiting.remove(&self.id));
    }
}

/// A connection that notes for how long its peer takes nothing.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    sending: Sending,
    blocked: bool,
    /// Since this side of the connection has ended.
    lingers: Option<Lingers>,
}

/// Time for a peer that still sends when its connection ends. Closed with bytes unread, the connection would be reset, and who is
/// refused before its body is read would see that instead of the answer (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);
/// Who sends nothing for so long does not send any more.
const QUIET: Duration = Duration::from_millis(250);

/// How long what the peer still sends is taken and thrown away.
#[derive(Debug)]
struct Lingers {
    end: Instant,
    quiet: Pin<Box<Sleep>>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, sending: &Sending) -> Self {
        Self { stream, sending: sending.clone(), blocked: false, lingers: None }
    }

    fn note<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_pending() != self.blocked {
            self.blocked = written.is_pending();
            let since = self.blocked.then(Instant::now);
            let waiting = self.sending.with(|under_way| {
                under_way.blocked_since = since;
                if self.blocked { BTreeMap::new() } else { mem::take(&mut under_way.waiting) }
            });
            waiting.into_values().for_each(Waker::wake);
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
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

    /// Ends this side, and takes what the other one sends until it has ended as well, or is quiet.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingers.is_none() {
            let ended = Pin::new(&mut self.stream).poll_shutdown(context);
            ready!(self.note(ended))?;
            self.lingers =
                Some(Lingers { end: Instant::now() + LINGER, quiet: Box::pin(tokio::time::sleep(QUIET)) });
        }
        let Self { stream, lingers: Some(lingers), .. } = &mut *self else { return Poll::Ready(Ok(())) };
        let mut thrown_away = [0; 16 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut thrown_away);
            match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && Instant::now() < lingers.end => {
                    lingers.quiet.as_mut().reset(tokio::time::Instant::now() + QUIET);
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return lingers.quiet.as_mut().poll(context).map(Ok),
            }
        }
    }
}
