//! What became of a call, as gRPC says it: in trailers, or in the head of an answer that has nothing else.

use hyper::{
    HeaderMap,
    header::{self, HeaderName, HeaderValue},
};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use crate::error::{GrpcCode, Problem};
use crate::listen::rest;

/// What is not sent as it is in `grpc-message`; neither is what is not ASCII.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// Bytes of a text, as sent: clients take heads of 8 KiB.
const MAX_TEXT: usize = 4096;

pub(super) fn ok() -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from(GrpcCode::Ok as u16))])
}

/// A problem: its code, its text, its code word, and when to try again.
pub(super) fn of(problem: &Problem) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(5);
    headers.insert("grpc-status", HeaderValue::from(problem.grpc_code() as u16));
    headers.insert("grpc-message", text(&problem.text));
    headers.insert("airlock-code", HeaderValue::from_static(problem.code));
    if let Some(seconds) = rest::retry_after(problem) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if problem.code == "unsupported_encoding" {
        headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity,gzip,deflate"));
    }
    headers
}

fn text(text: &str) -> HeaderValue {
    let mut escaped = String::new();
    // Each is a run of plain characters or one escaped byte.
    for piece in percent_encode(text.as_bytes(), ESCAPED) {
        let room = MAX_TEXT - escaped.len();
        if piece.len() > room {
            if !piece.starts_with('%') {
                escaped.push_str(&piece[..room]);
            }
            break;
        }
        escaped.push_str(piece);
    }
    HeaderValue::from_str(&escaped).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_and_cut() {
        assert_eq!(text("model 'a': 100% ü\n"), "model 'a': 100%25 %C3%BC%0A");
        assert_eq!(text(&"a".repeat(9000)).len(), MAX_TEXT);
        let cut = text(&"ü".repeat(9000));
        assert!(
            cut.len() <= MAX_TEXT
                && cut.to_str().is_ok_and(|cut| cut.ends_with("%BC") || cut.ends_with("%C3"))
        );
    }
}
