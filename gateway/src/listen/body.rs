//! Bodies: a request's is read within bounds of size and time, a response's carries what must live until it is sent.

use std::{
    any::Any,
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, Stream};
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Version,
    body::{Body, Frame, Incoming, SizeHint},
};
use tokio::time::Instant;

use super::sending;
use crate::{
    admit::{Reservation, Seat},
    limits::ListenLimits,
    meter::Usage,
};

#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the request body is larger than the {limit} bytes that are accepted (setting: max_body)")]
    TooLarge { limit: usize },
    #[error("the request body did not arrive in time: {0:?} passed")]
    Timeout(Duration),
    #[error("the request body arrived with less than {rate} bytes a second (setting: min_body_rate)")]
    TooSlow { rate: usize },
    #[error("the request body is broken off or malformed")]
    Broken,
}

/// A request body on its way in, within bounds of time: for the whole, for each piece, and on average. Only the time that
/// is spent waiting for the peer counts for the average.
#[derive(Debug)]
pub struct Arriving<B> {
    body: B,
    end: Instant,
    whole: Duration,
    idle: Duration,
    min_rate: usize,
    waited: Duration,
    received: usize,
}

impl<B: Body<Data = Bytes> + Unpin> Arriving<B> {
    pub fn new(body: B, limits: &ListenLimits, whole: Duration) -> Self {
        Self {
            body,
            end: Instant::now() + whole,
            whole,
            idle: limits.body_idle_timeout,
            min_rate: limits.min_body_rate,
            waited: Duration::ZERO,
            received: 0,
        }
    }

    /// Waits for the first piece of another message of the body, and gives that message its own time; none at the end.
    pub async fn again(&mut self, patience: Duration) -> Result<Option<Bytes>, BodyError> {
        let first = loop {
            let frame = tokio::time::timeout(patience, self.body.frame()).await;
            match frame.map_err(|_| BodyError::Timeout(patience))? {
                None => return Ok(None),
                Some(frame) => match frame.map_err(|_| BodyError::Broken)?.into_data() {
                    Ok(piece) if piece.is_empty() => {}
                    Ok(piece) => break piece,
                    Err(_) => {}
                },
            }
        };
        self.renew();
        Ok(Some(first))
    }

    /// From now on another message arrives.
    pub fn renew(&mut self) {
        (self.end, self.waited, self.received) = (Instant::now() + self.whole, Duration::ZERO, 0);
    }

    /// The next piece; none at the end. Trailers say nothing to us.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        while !self.body.is_end_stream() {
            // What has arrived is not waited for, and needs no timer.
            let arrived = self.body.frame().now_or_never();
            let arrived = arrived.map(|frame| frame.transpose().map_err(|_| BodyError::Broken));
            let frame = match arrived {
                Some(frame) => frame?,
                None => self.wait().await?,
            };
            let Some(frame) = frame else { return Ok(None) };
            if let Ok(piece) = frame.into_data() {
                self.received += piece.len();
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    async fn wait(&mut self) -> Result<Option<Frame<Bytes>>, BodyError> {
        let begun = Instant::now();
        let (latest, late) = self.latest(begun);
        let frame = tokio::time::timeout_at(latest, self.body.frame()).await;
        self.waited += begun.elapsed();
        frame.map_err(|_| late)?.transpose().map_err(|_| BodyError::Broken)
    }

    /// The moment by which the next piece has to be there, and what is wrong if it is not.
    fn latest(&self, now: Instant) -> (Instant, BodyError) {
        let (mut latest, mut late) = (self.end, BodyError::Timeout(self.whole));
        if now + self.idle < latest {
            (latest, late) = (now + self.idle, BodyError::Timeout(self.idle));
        }
        if self.min_rate > 0 {
            let bought = Duration::from_nanos(1_000_000_000 / self.min_rate as u64)
                .saturating_mul(u32::try_from(self.received).unwrap_or(u32::MAX));
            let left = (self.idle + bought).saturating_sub(self.waited);
            if now + left < latest {
                (latest, late) = (now + left, BodyError::TooSlow { rate: self.min_rate });
            }
        }
        (latest, late)
    }
}

/// Reads a whole body. Asks `reserve` for every piece before it is kept: what a peer announces and does not send costs
/// nothing.
pub async fn read<E: From<BodyError>>(
    body: Incoming,
    max_bytes: usize,
    limits: &ListenLimits,
    mut reserve: impl FnMut(usize) -> Result<(), E>,
) -> Result<Bytes, E> {
    let hint = body.size_hint();
    let too_large = BodyError::TooLarge { limit: max_bytes };
    let declared = match hint.exact() {
        Some(length) => {
            Some(usize::try_from(length).ok().filter(|length| *length <= max_bytes).ok_or(too_large)?)
        }
        None => None,
    };
    let mut body = Arriving::new(body, limits, limits.body_timeout);
    let mut gathered = Gathered::default();
    while let Some(piece) = body.next().await? {
        if gathered.len() + piece.len() > max_bytes {
            return Err(BodyError::TooLarge { limit: max_bytes }.into());
        }
        reserve(piece.len())?;
        gathered.add(piece, declared);
    }
    Ok(gathered.whole())
}

/// Pieces on their way to be one.
#[derive(Debug, Default)]
pub struct Gathered {
    first: Bytes,
    rest: BytesMut,
}

impl Gathered {
    pub fn len(&self) -> usize {
        if self.rest.is_empty() { self.first.len() } else { self.rest.len() }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a piece of what is to have `declared` bytes in all, if that is known.
    pub fn add(&mut self, piece: Bytes, declared: Option<usize>) {
        if self.is_empty() {
            // What comes in one piece, the usual case, is never copied.
            self.first = piece;
            return;
        }
        if self.rest.is_empty() {
            self.rest.reserve(declared.unwrap_or(self.first.len() + piece.len()));
            self.rest.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.rest.extend_from_slice(&piece);
    }

    pub fn whole(self) -> Bytes {
        if self.rest.is_empty() { self.first } else { self.rest.freeze() }
    }
}

/// Largest piece of a response body handed over at once, in bytes.
const MAX_PIECE: usize = 256 << 10;

/// The same over HTTP/2, where a piece that was handed over waits in memory for the peer's window: one frame.
const MAX_PIECE_HTTP2: usize = 16 << 10;

/// What a body that has several messages is made of, in order.
#[derive(Debug)]
pub enum Part {
    Message(Box<Message>),
    /// The last word; nothing follows.
    Trailers(HeaderMap),
}

/// Some bytes of a body, and what they hold until they are sent.
#[derive(Debug, Default)]
pub struct Message {
    pub parts: Vec<Bytes>,
    pub held: Option<(Reservation, Option<Seat>)>,
    pub usage: Option<Usage>,
}

/// Where the messages of a body come from; asked for the next one when the peer has taken the last.
pub type Source = Pin<Box<dyn Stream<Item = Part> + Send>>;

/// A response body, sent piece by piece without copying. `held` falls when the last piece is handed to
/// the connection, or when the peer is gone: of an answer that counts as sent, at most that piece and the connection's
/// own buffer are still in memory.
pub struct ReplyBody {
    parts: VecDeque<Bytes>,
    held: Option<Box<dyn Any + Send>>,
    usage: Option<Usage>,
    source: Option<Source>,
    trailers: Option<Box<HeaderMap>>,
    on_its_way: Option<sending::Answer>,
    max_piece: usize,
}

impl ReplyBody {
    pub fn new(parts: impl IntoIterator<Item = Bytes>) -> Self {
        let parts = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Self {
            parts,
            held: None,
            usage: None,
            source: None,
            trailers: None,
            on_its_way: None,
            max_piece: MAX_PIECE,
        }
    }

    /// A body whose messages are made while it is sent.
    pub fn from_source(source: Source) -> Self {
        Self { source: Some(source), ..Self::new([]) }
    }

    #[must_use]
    pub fn holding(mut self, held: impl Any + Send) -> Self {
        self.held = Some(Box::new(held));
        self
    }

    /// Whether its messages are made while it is sent.
    pub fn has_source(&self) -> bool {
        self.source.is_some()
    }

    /// Lets the connection see for how long it is on its way.
    #[must_use]
    pub fn on_its_way(mut self, mut answer: sending::Answer, version: Version) -> Self {
        if self.source.is_some() {
            answer.pause();
        }
        self.on_its_way = Some(answer);
        if version == Version::HTTP_2 {
            self.max_piece = MAX_PIECE_HTTP2;
        }
        self
    }

    /// Notes what is handed over. Of a body that is dropped before its end, the rest was not sent.
    #[must_use]
    pub fn metered(mut self, usage: impl Into<Option<Usage>>) -> Self {
        self.usage = usage.into();
        self
    }

    /// Ends with these trailers.
    #[must_use]
    pub fn ended_by(mut self, trailers: HeaderMap) -> Self {
        self.trailers = Some(Box::new(trailers));
        self
    }

    /// The next piece of the message that is being sent.
    fn piece(&mut self) -> Option<Bytes> {
        let max_piece = self.max_piece;
        let part = match self.parts.front_mut() {
            Some(part) if part.len() > max_piece => Some(part.split_to(max_piece)),
            _ => self.parts.pop_front(),
        };
        if let (Some(usage), Some(part)) = (&mut self.usage, &part) {
            usage.sent(part.len());
        }
        if self.parts.is_empty() {
            self.held = None;
            self.usage = None;
            if self.source.is_none() {
                self.on_its_way = None;
            }
        }
        part
    }

    /// Takes the next message from the source; `false` if there is none.
    fn refill(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let Some(source) = &mut self.source else { return Poll::Ready(false) };
        if let Some(answer) = &mut self.on_its_way {
            // What no peer reads piles up no further. Else whoever asks has sent what there was.
            ready!(answer.poll_writable(context));
            answer.pause();
        }
        match ready!(source.as_mut().poll_next(context)) {
            Some(Part::Message(message)) => {
                self.parts = joined(message.parts);
                self.usage = message.usage;
                self.held = message.held.map(|held| Box::new(held) as Box<dyn Any + Send>);
                if let Some(answer) = &mut self.on_its_way {
                    answer.resume();
                }
            }
            Some(Part::Trailers(trailers)) => {
                self.source = None;
                self.trailers = Some(Box::new(trailers));
            }
            None => self.source = None,
        }
        Poll::Ready(true)
    }
}

/// The parts of a message as they are handed over: small ones as one, for each takes a frame of its own.
fn joined(parts: Vec<Bytes>) -> VecDeque<Bytes> {
    let length: usize = parts.iter().map(Bytes::len).sum();
    if length <= MAX_PIECE_HTTP2 && parts.len() > 1 {
        return VecDeque::from([Bytes::from(parts.concat())]);
    }
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}

impl std::fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplyBody").field("bytes", &self.size_hint().exact()).finish_non_exhaustive()
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(piece) = self.piece() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if !ready!(self.refill(context)) {
                let trailers = self.trailers.take();
                self.on_its_way = None;
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(*trailers))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty() && self.source.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.parts.iter().map(|part| part.len() as u64).sum();
        if self.source.is_none() && self.trailers.is_none() {
            return SizeHint::with_exact(length);
        }
        let mut hint = SizeHint::new();
        hint.set_lower(length);
        hint
    }
}
