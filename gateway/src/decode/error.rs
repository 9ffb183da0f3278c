//! Why a request was refused, in words that tell the client what to change.

use crate::tensor::LayoutError;

/// Why a request could not be decoded. [`DecodeError::kind`] groups the causes for whoever answers the client.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// `position` counts bytes from the start of the body, after decompression.
    #[error("the JSON is not valid at byte {position}: {reason}")]
    Json { position: usize, reason: String },
    /// Something about the request as a whole.
    #[error("{0}")]
    Request(String),
    #[error("input '{name}': {reason}")]
    Input { name: String, reason: String },
    #[error("output '{name}': {reason}")]
    Output { name: String, reason: String },
    /// `what` is an input or an output.
    #[error("{what} '{name}': shared memory is not offered: send the tensor in the request")]
    SharedMemory { what: &'static str, name: String },
    #[error("the body is not valid {encoding}: {reason}")]
    Compression { encoding: &'static str, reason: String },
    #[error("the decompressed body is larger than the {limit} bytes that are accepted")]
    TooLarge { limit: usize },
    #[error("the tensors of the request take more than the {limit} bytes that are accepted")]
    Tensors { limit: usize },
    #[error("content encoding '{0}' is not supported: use gzip, deflate or identity")]
    ContentEncoding(String),
}

/// What a client can do about a [`DecodeError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Correct the request.
    Invalid,
    /// Do without what is not offered.
    NotOffered,
    /// Send less.
    TooLarge,
    /// Encode the body in another way.
    UnsupportedEncoding,
}

impl DecodeError {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Json { .. }
            | Self::Request(_)
            | Self::Input { .. }
            | Self::Output { .. }
            | Self::Compression { .. } => Kind::Invalid,
            Self::SharedMemory { .. } => Kind::NotOffered,
            Self::TooLarge { .. } | Self::Tensors { .. } => Kind::TooLarge,
            Self::ContentEncoding(_) => Kind::UnsupportedEncoding,
        }
    }

    pub(super) fn json(position: usize, reason: impl Into<String>) -> Self {
        Self::Json { position, reason: reason.into() }
    }

    pub(super) fn request(reason: impl Into<String>) -> Self {
        Self::Request(reason.into())
    }

    pub(super) fn input(name: &str, reason: impl Into<String>) -> Self {
        Self::Input { name: shown(name), reason: reason.into() }
    }

    pub(super) fn output(name: &str, reason: impl Into<String>) -> Self {
        Self::Output { name: shown(name), reason: reason.into() }
    }

    /// The same, said of an input, once its name is known.
    pub(super) fn of_input(self, name: Option<&str>) -> Self {
        match (self, name) {
            (Self::Request(reason), Some(name)) => Self::input(name, reason),
            (error, _) => error,
        }
    }

    pub(super) fn layout(name: &str, error: &LayoutError) -> Self {
        Self::input(name, error.to_string())
    }
}

/// What came from outside is quoted back, but neither at length nor with control characters.
pub(super) fn shown(text: &str) -> String {
    const MAX_CHARS: usize = 64;
    let mut shown: String = text.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    shown
}
