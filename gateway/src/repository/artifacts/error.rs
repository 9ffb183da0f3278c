//! What can go wrong with the store.

use std::io;

use object_store::path::Path;

use super::RecordPath;
use crate::digest::Digest;

/// Why the store did not do what was asked. The texts name places in the store, which are for the operator's log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// It cannot be reached, or refuses to work; what is loaded already serves on.
    #[error("the artifact store is not available: {0}")]
    Unavailable(String),
    /// What lies there is not what was once written.
    #[error("{path} in the artifact store is not what was written there: {reason}")]
    Corrupt { path: String, reason: String },
    #[error("{0} is not in the artifact store")]
    Missing(String),
    /// Somebody else has written that generation of the record.
    #[error("{0} was changed by somebody else at the same time")]
    Taken(RecordPath),
    /// The file that was to become a blob does not have the bytes that it is called by.
    #[error("the file is not {0} any more: it was changed while it was stored")]
    Changed(Digest),
    /// A file on this machine's disk, outside the store, cannot be read or written.
    #[error("this gateway's own disk does not work: {0}")]
    Disk(String),
    #[error(
        "this artifact store does not refuse to overwrite (PUT with If-None-Match: *), so two gateways could each \
         believe that they published: use a store that does, such as AWS S3, MinIO, Ceph or a local folder"
    )]
    NoConditionalPut,
    #[error(
        "this gateway's secret is not the one that the store's records were made with: use the secret file of the \
         gateways that share this store"
    )]
    WrongSecret,
    /// The store's settings cannot work.
    #[error("the artifact store cannot be used: {0}")]
    Settings(String),
}

impl ArtifactError {
    pub(super) fn unavailable(error: &object_store::Error) -> Self {
        Self::Unavailable(told(&error.to_string()))
    }

    /// For a path that was to be read.
    pub(super) fn reading(path: &Path, error: &object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::Missing(path.to_string()),
            error => Self::unavailable(error),
        }
    }

    pub(super) fn corrupt(path: &Path, reason: impl ToString) -> Self {
        Self::Corrupt { path: path.to_string(), reason: reason.to_string() }
    }

    pub(super) fn disk(error: &io::Error) -> Self {
        Self::Disk(error.to_string())
    }
}

/// Where the text of a fault goes over into what the server has sent.
const QUOTES: [&str; 3] =
    ["Server returned non-2xx status code: ", "Server returned error response: ", "Got invalid "];
/// Bytes of a fault's text.
const MAX_TEXT: usize = 500;

/// The text of a fault without what the server has sent, which may repeat the request with its session token (S3 does
/// when a signature is wrong): of that, only the status and the code of the fault.
fn told(text: &str) -> String {
    let cut = QUOTES.iter().filter_map(|quote| text.find(quote).map(|at| at + quote.len())).min();
    let (ours, theirs) = text.split_at(cut.unwrap_or(text.len()));
    let word = |text: &str| -> String {
        text.chars().take(64).take_while(|c| c.is_ascii_alphanumeric() || *c == ' ').collect()
    };
    let code = theirs.split_once("<Code>").map(|(_, code)| word(code)).unwrap_or_default();
    let mut told: String = ours.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    while told.len() > MAX_TEXT {
        told.pop();
    }
    told += word(theirs).trim_end();
    if !code.is_empty() {
        told += ": ";
        told += &code;
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_sends_is_not_repeated() {
        let quoted = "Error performing PUT http://h/b/k in 2ms - Server returned non-2xx status code: 403 Forbidden: \
                      <?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><CanonicalRequest>\
                      x-amz-security-token:TOKEN</CanonicalRequest></Error>";
        assert_eq!(
            told(quoted),
            "Error performing PUT http://h/b/k in 2ms - Server returned non-2xx status code: 403 Forbidden: \
             SignatureDoesNotMatch"
        );
        assert_eq!(
            told("x - Server returned error response: <a>TOKEN</a>"),
            "x - Server returned error response: "
        );
        assert_eq!(told("Got invalid list response: unknown `TOKEN`"), "Got invalid list response");
        assert_eq!(told("a\nb\u{1b}[31m"), "a b [31m");
        assert_eq!(told(&"ü".repeat(1000)).len(), MAX_TEXT);
    }
}
