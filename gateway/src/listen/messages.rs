//! The messages of a gRPC call, one after the other out of its body, within bounds of size and time for each.

use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, body::Incoming};

use super::body::{Arriving, BodyError, Gathered};
use crate::{limits::ListenLimits, proto::wire::PREFIX};

#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("the call ends in the middle of a message")]
    Truncated,
    #[error("the call has no message")]
    None,
    #[error("the call takes one message, and has more")]
    More,
    #[error("a message begins with {0}, expected 0 or 1: this is not gRPC")]
    Flag(u8),
    #[error("a message is compressed, but the metadata has no grpc-encoding that says how")]
    Encoding,
}

/// The body of a call.
#[derive(Debug)]
pub struct Messages {
    body: Arriving<Incoming>,
    /// What has come and is not taken yet: a piece of what hyper reads at once.
    piece: Bytes,
    rest: Rest,
    /// The call has one message.
    single: bool,
    encoding: Option<Bytes>,
    compressed: bool,
}

/// What is left of the message that was begun last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Nothing,
    All,
    Bytes(usize),
    /// Where the next message begins is not known.
    Lost,
}

impl Messages {
    /// Of a call whose metadata is `headers`.
    pub(super) fn new(body: Incoming, headers: &HeaderMap, limits: &ListenLimits, single: bool) -> Self {
        let encoding =
            headers.get("grpc-encoding").map(|encoding| Bytes::copy_from_slice(encoding.as_bytes()));
        let body = Arriving::new(body, limits, limits.body_timeout);
        Self { body, piece: Bytes::new(), rest: Rest::Nothing, single, encoding, compressed: false }
    }

    /// Returns when the first byte of the next message is there; `false` at the end of the call.
    pub(super) async fn begins(&mut self, patience: Duration) -> Result<bool, MessageError> {
        if self.piece.is_empty() {
            match self.body.again(patience).await? {
                None => return Ok(false),
                Some(piece) => self.piece = piece,
            }
        } else {
            self.body.renew();
        }
        self.rest = Rest::All;
        Ok(true)
    }

    /// Reads the message that has begun. Asks `reserve` for every piece before it is kept: what a client announces and does not send
    /// costs nothing.
    pub async fn read<E: From<MessageError>>(
        &mut self,
        max_bytes: usize,
        mut reserve: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Bytes, E> {
        self.rest = Rest::Lost;
        let length = self.prefix().await?;
        if length > max_bytes {
            return Err(MessageError::from(BodyError::TooLarge { limit: max_bytes }).into());
        }
        let mut gathered = Gathered::default();
        while gathered.len() < length {
            let piece = self.next(length - gathered.len()).await?;
            self.rest = Rest::Bytes(length - gathered.len() - piece.len());
            reserve(piece.len())?;
            gathered.add(piece, Some(length));
            self.rest = Rest::Lost;
        }
        self.rest = Rest::Nothing;
        if self.single {
            self.end().await?;
        }
        Ok(gathered.whole())
    }

    /// How the message that was read last is compressed.
    pub fn encoding(&self) -> Option<&[u8]> {
        self.encoding.as_deref().filter(|_| self.compressed)
    }

    /// Steps over what is left of the message that was begun last; `false` if the next one cannot be found.
    pub(super) async fn skip(&mut self) -> Result<bool, MessageError> {
        let mut left = match self.rest {
            Rest::Nothing => 0,
            Rest::All => self.prefix().await?,
            Rest::Bytes(left) => left,
            Rest::Lost => return Ok(false),
        };
        self.rest = Rest::Lost;
        while left > 0 {
            left -= self.next(left).await?.len();
        }
        self.rest = Rest::Nothing;
        Ok(true)
    }

    /// What stands before a message: whether it is compressed, and its length.
    async fn prefix(&mut self) -> Result<usize, MessageError> {
        let mut prefix = [0; PREFIX];
        let mut filled = 0;
        while filled < PREFIX {
            let piece = self.next(PREFIX - filled).await?;
            prefix[filled..filled + piece.len()].copy_from_slice(&piece);
            filled += piece.len();
        }
        let [flag, a, b, c, d] = prefix;
        self.compressed = match flag {
            0 => false,
            1 if self.encoding.is_some() => true,
            1 => return Err(MessageError::Encoding),
            other => return Err(MessageError::Flag(other)),
        };
        usize::try_from(u32::from_be_bytes([a, b, c, d]))
            .map_err(|_| BodyError::TooLarge { limit: usize::MAX }.into())
    }

    /// The next bytes of the message, no more than `most`.
    async fn next(&mut self, most: usize) -> Result<Bytes, MessageError> {
        while self.piece.is_empty() {
            self.piece = self.body.next().await?.ok_or(MessageError::Truncated)?;
        }
        Ok(self.piece.split_to(most.min(self.piece.len())))
    }

    /// Waits for the end of the call, before which nothing may come.
    async fn end(&mut self) -> Result<(), MessageError> {
        while self.piece.is_empty() {
            match self.body.next().await? {
                None => return Ok(()),
                Some(piece) => self.piece = piece,
            }
        }
        Err(MessageError::More)
    }
}
