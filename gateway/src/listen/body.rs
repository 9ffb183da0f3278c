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
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::sending;
use crate::{limits::ListenLimits, meter::Usage};

#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the request body is larger than the {limit} bytes that are accepted (setting: max_body)")]
    TooLarge { limit: usize },
    #[error("the request body did not arrive in time: {0:?} passed")]
    Timeout(Duration),
    #[error("the request body is broken off or malformed")]
    Broken,
}

/// Reads a whole body. Asks `reserve` for every piece before it is kept: what a peer announces and does not send costs
/// nothing.
pub async fn read<E: From<BodyError>>(
    mut body: Incoming,
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
    let whole = tokio::time::Instant::now() + limits.body_timeout;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut length = 0usize;
    loop {
        let idle = tokio::time::Instant::now() + limits.body_idle_timeout;
        let frame = match tokio::time::timeout_at(whole.min(idle), body.frame()).await {
            Err(_) if whole <= idle => return Err(BodyError::Timeout(limits.body_timeout).into()),
            Err(_) => return Err(BodyError::Timeout(limits.body_idle_timeout).into()),
            Ok(None) => break,
            Ok(Some(frame)) => frame.map_err(|_| BodyError::Broken)?,
        };
        // Trailers say nothing to us.
        let Ok(piece) = frame.into_data() else { continue };
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

/// A response body of known length, sent piece by piece without copying. `held` falls when the last piece is handed to
/// the connection, or when the peer is gone: of an answer that counts as sent, at most that piece and the connection's
/// own buffer are still in memory.
pub struct ReplyBody {
    parts: VecDeque<Bytes>,
    held: Option<Box<dyn Any + Send>>,
    usage: Option<Usage>,
    on_its_way: Option<sending::Answer>,
}

impl ReplyBody {
    pub fn new(parts: impl IntoIterator<Item = Bytes>) -> Self {
        let parts = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Self { parts, held: None, usage: None, on_its_way: None }
    }

    #[must_use]
    pub fn holding(mut self, held: impl Any + Send) -> Self {
        self.held = Some(Box::new(held));
        self
    }

    /// Lets the connection see for how long it is on its way.
    #[must_use]
    pub fn on_its_way(mut self, answer: sending::Answer) -> Self {
        self.on_its_way = Some(answer);
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
        let part = match self.parts.front_mut() {
            Some(part) if part.len() > MAX_PIECE => Some(part.split_to(MAX_PIECE)),
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
