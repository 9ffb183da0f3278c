//! Bodies: a request's is read within bounds of size and time, a response's carries what must live until it is sent.

use std::{
    any::Any,
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    Version,
    body::{Body, Frame, Incoming, SizeHint},
};
use tokio::time::Instant;

use super::sending;
use crate::{limits::ListenLimits, meter::Usage};

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

    /// The next piece; none at the end. Trailers say nothing to us.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let begun = Instant::now();
            let (latest, late) = self.latest(begun);
            let frame = tokio::time::timeout_at(latest, self.body.frame()).await;
            self.waited += begun.elapsed();
            match frame {
                Err(_) => return Err(late),
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => {
                    if let Ok(piece) = frame.map_err(|_| BodyError::Broken)?.into_data() {
                        self.received += piece.len();
                        return Ok(Some(piece));
                    }
                }
            }
        }
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
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut length = 0usize;
    while let Some(piece) = body.next().await? {
        length += piece.len();
        if length > max_bytes {
            return Err(BodyError::TooLarge { limit: max_bytes }.into());
        }
        reserve(piece.len())?;
        if first.is_empty() && rest.is_empty() {
            // A body of one piece, the usual case, is never copied.
            first = piece;
        } else {
            if rest.is_empty() {
                rest.reserve(declared.unwrap_or(length));
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&piece);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// Largest piece of a response body handed over at once, in bytes.
const MAX_PIECE: usize = 256 << 10;

/// The same over HTTP/2, where a piece that was handed over waits in memory for the peer's window: one frame.
const MAX_PIECE_HTTP2: usize = 16 << 10;

/// A response body of known length, sent piece by piece without copying. `held` falls when the last piece is handed to
/// the connection, or when the peer is gone: of an answer that counts as sent, at most that piece and the connection's
/// own buffer are still in memory.
pub struct ReplyBody {
    parts: VecDeque<Bytes>,
    held: Option<Box<dyn Any + Send>>,
    usage: Option<Usage>,
    on_its_way: Option<sending::Answer>,
    max_piece: usize,
}

impl ReplyBody {
    pub fn new(parts: impl IntoIterator<Item = Bytes>) -> Self {
        let parts = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Self { parts, held: None, usage: None, on_its_way: None, max_piece: MAX_PIECE }
    }

    #[must_use]
    pub fn holding(mut self, held: impl Any + Send) -> Self {
        self.held = Some(Box::new(held));
        self
    }

    /// Lets the connection see for how long it is on its way.
    #[must_use]
    pub fn on_its_way(mut self, answer: sending::Answer, version: Version) -> Self {
        self.on_its_way = Some(answer);
        if version == Version::HTTP_2 {
            self.max_piece = MAX_PIECE_HTTP2;
        }
        self
    }

    /// Notes what is handed over. Of a body that is dropped before its end, the rest was not sent.
    #[must_use]
    pub fn metered(mut self, usage: Usage) -> Self {
        self.usage = Some(usage);
        self
    }
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
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
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
            self.on_its_way = None;
        }
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.parts.iter().map(|part| part.len() as u64).sum())
    }
}
