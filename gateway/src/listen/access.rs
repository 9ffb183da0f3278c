//! The access log: a line for each request, and the name by which client and log know it.
//!
//! Infer requests are told by the [meter](crate::meter), which follows them to their last byte; all others here. What a line holds
//! was checked or is quoted: neither control characters nor keys get into it.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
    http::request::Parts,
};
use percent_encoding::percent_decode_str;
use tracing::Level;

use super::{Door, places::Visitor};
use crate::{authenticate::holds_key, meter::ACCESS};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest name of a request that is taken over, and longest path in a line.
const MAX_ID: usize = 128;
const MAX_PATH: usize = 256;

/// Sees to it that a request has one good name or none: the one that its client gave it, or one that is made for the log. The
/// answer gets it back.
pub(super) fn settle_id(headers: &mut HeaderMap, max_headers: usize) -> Option<HeaderValue> {
    let mut given = headers.get_all(REQUEST_ID).iter();
    let (first, second) = (given.next(), given.next());
    if let (Some(id), None) = (first, second)
        && is_id(id.as_bytes())
    {
        return first.cloned();
    }
    headers.remove(REQUEST_ID);
    // Without a log nobody could look it up.
    if !is_on() || headers.len() >= max_headers {
        return None;
    }
    let id = HeaderValue::try_from(new_id()).ok()?;
    headers.insert(REQUEST_ID, id.clone());
    Some(id)
}

fn is_id(id: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:+/=@-".contains(byte);
    (1..=MAX_ID).contains(&id.len())
        && id.iter().all(fits)
        && str::from_utf8(id).is_ok_and(|text| !holds_key(text))
}

/// Not a secret: what was before it shows what comes after it.
fn new_id() -> String {
    static START: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()));
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{:016x}-{:x}", *START, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Whether anybody reads what is logged here.
pub(super) fn is_on() -> bool {
    tracing::enabled!(target: ACCESS, Level::INFO)
}

/// Writes the line of a request that the meter knows nothing of.
pub(super) fn log(
    door: Door,
    visitor: &Visitor,
    head: &Parts,
    (status, outcome): (u16, &str),
    begun: Instant,
) {
    if !is_on() {
        return;
    }
    tracing::info!(
        target: ACCESS,
        request_id = head.headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()),
        tenant = visitor.tenant().map(|tenant| tenant.as_str()),
        outcome,
        status,
        port = door.word(),
        method = method(head),
        path = path(head.uri.path()),
        total_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        "request"
    );
}

/// Any word may stand there.
fn method(head: &Parts) -> &str {
    match head.method.as_str() {
        method @ ("GET" | "POST" | "PUT" | "DELETE" | "HEAD" | "OPTIONS" | "PATCH") => method,
        _ => "other",
    }
}

fn path(path: &str) -> String {
    if holds_key(&percent_decode_str(path).decode_utf8_lossy()) {
        return "(it holds what looks like a key)".into();
    }
    path.chars().take(MAX_PATH).map(|letter| if letter.is_ascii_graphic() { letter } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settled(values: &[&[u8]]) -> Option<Vec<u8>> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(REQUEST_ID, HeaderValue::from_bytes(value).expect("a header's value"));
        }
        let settled = settle_id(&mut headers, 64);
        assert_eq!(headers.get(REQUEST_ID), settled.as_ref());
        settled.map(|id| id.as_bytes().to_vec())
    }

    #[test]
    fn a_good_name_is_taken_over_and_anything_else_is_forgotten() {
        for good in ["a", "0af7651916cd43dd8448eb211c80319c", "Root=1-67891233-abc:def/1+2@x_y.z"] {
            assert_eq!(settled(&[good.as_bytes()]), Some(good.into()));
        }
        let long = [b'a'; MAX_ID + 1];
        let key: &[u8] = b"ak_0123456789abcdef_secret";
        for bad in [&b""[..], b"a b", b"a\tb", b"\"", b"a\xffb", b"\x1b[31m".trim_ascii_start(), &long, key] {
            if HeaderValue::from_bytes(bad).is_ok() {
                assert_eq!(settled(&[bad]), None, "{bad:?}");
            }
        }
        assert_eq!(settled(&[b"a", b"b"]), None);
    }

    #[test]
    fn paths_are_quoted_and_keys_are_not() {
        assert_eq!(path("/v2/models/a%0Ab"), "/v2/models/a%0Ab");
        assert_eq!(path("/v2/\u{85}\u{1b}é"), "/v2/???");
        assert_eq!(path(&"/a".repeat(1000)).len(), MAX_PATH);
        for key in ["/v2/models/ak_0123456789abcdef_x", "/v2/%61k_0123456789abcdef_x"] {
            assert_eq!(path(key), "(it holds what looks like a key)");
        }
    }

    #[test]
    fn made_names_are_all_different_and_good() {
        let names = [new_id(), new_id()];
        assert_ne!(names[0], names[1]);
        assert!(names.iter().all(|name| is_id(name.as_bytes())));
    }

    proptest! {
        #[test]
        fn whatever_is_sent_the_log_is_plain(id in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,400}") {
            if HeaderValue::from_bytes(&id).is_ok() && let Some(taken_over) = settled(&[&id]) {
                prop_assert!(taken_over.iter().all(|byte| byte.is_ascii_graphic() && !b"\"\\'".contains(byte)));
            }
            let shown = path(&text);
            prop_assert!(shown.len() <= MAX_PATH && shown.chars().all(|letter| ('!'..='~').contains(&letter) || letter == ' '));
        }
    }
}
