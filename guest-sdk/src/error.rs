//! Why a plugin could not answer.

use std::fmt;

use crate::bindings::airlock::inference::types;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with its text for the caller. `?` makes [`Error::Failed`] of any [`std::error::Error`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The caller sent something this model cannot work with: HTTP 400. The text says what to change.
    InvalidInput(String),
    /// The model could not do its work: HTTP 502.
    Failed(String),
}

impl Error {
    pub fn invalid_input(text: impl fmt::Display) -> Self {
        Self::InvalidInput(text.to_string())
    }

    pub fn failed(text: impl fmt::Display) -> Self {
        Self::Failed(text.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidInput(text) | Self::Failed(text) => f.write_str(text),
        }
    }
}

// As in other catch-all error types, `Error` is not itself a `std::error::Error`: the two would overlap.
impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        Self::failed(error)
    }
}

impl Error {
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn from_wit(error: types::Error) -> Self {
        match error {
            types::Error::InvalidInput(text) => Self::InvalidInput(text),
            types::Error::Failed(text) => Self::Failed(text),
        }
    }

    pub(crate) fn into_wit(self) -> types::Error {
        match self {
            Self::InvalidInput(text) => types::Error::InvalidInput(text),
            Self::Failed(text) => types::Error::Failed(text),
        }
    }
}
