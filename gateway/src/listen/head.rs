//! What every request's head has to keep to, before anything of it is understood.

use hyper::{Version, header, http::request::Parts};

use crate::limits::ListenLimits;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("the path and query have {length} bytes, and {limit} are accepted (setting: max_uri)")]
    Uri { length: usize, limit: usize },
    #[error("the request has {count} headers, and {limit} are accepted (setting: max_headers)")]
    Headers { count: usize, limit: usize },
    #[error("an HTTP/1.1 request has the header Host once; this one has it {0} times")]
    Host(usize),
    #[error("the only Transfer-Encoding that is accepted is chunked, said once")]
    TransferEncoding,
}

/// Checks what hyper leaves open: over HTTP/2 it does not count headers, and over HTTP/1 it lets through requests that
/// two servers in a row may read differently.
pub(super) fn check(head: &Parts, limits: &ListenLimits) -> Result<(), HeadError> {
    let length = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    if length > limits.max_uri_bytes {
        return Err(HeadError::Uri { length, limit: limits.max_uri_bytes });
    }
    let count = head.headers.len();
    if count > limits.max_headers {
        return Err(HeadError::Headers { count, limit: limits.max_headers });
    }
    let hosts = head.headers.get_all(header::HOST).iter().count();
    if hosts > 1 || head.version == Version::HTTP_11 && hosts == 0 {
        return Err(HeadError::Host(hosts));
    }
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    if codings.next().is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        || codings.next().is_some()
    {
        return Err(HeadError::TransferEncoding);
    }
    Ok(())
}
