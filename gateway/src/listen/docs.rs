//! The OpenAPI documents over HTTP, and the page to try calls, which is the same for everybody: it has nothing of any tenant in it
//! and asks for a document with the key that its user types.

use std::sync::LazyLock;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{
    HeaderMap, Response,
    header::{self, HeaderName, HeaderValue},
};

use crate::{
    describe,
    digest::Digest,
    error::Problem,
    infer::{Gateway, off_the_sockets},
    name::TenantName,
    repository::namespaces::Wanted,
    route::{Extension, Route, Target},
    tensor::Signature,
};

use super::{body::ReplyBody, rest::counted_reply};

const PAGE: &str = include_str!("docs/page.html");

/// What the page may do: run its own script, show its own style, and call this gateway.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |tag| BASE64_STANDARD.encode(Digest::of(inline(tag).as_bytes()).as_bytes());
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        hash("script"),
        hash("style"),
    );
    HeaderValue::from_str(&policy).expect("hashes are plain text")
});

/// What stands between a tag of the page and its end.
fn inline(tag: &str) -> &'static str {
    let begin = PAGE.split_once(&format!("<{tag}>")).map_or("", |(_, rest)| rest);
    begin.split_once(&format!("</{tag}>")).map_or("", |(text, _)| text)
}

/// The route that a path of both stands for: the page for whoever rather has HTML, which is browsers, and the document for others.
pub(super) fn negotiated(route: Route, headers: &HeaderMap) -> Route {
    match route {
        Route::Extension(Extension::Docs(_)) if prefers_html(headers) => Route::Extension(Extension::Page),
        other => other,
    }
}

fn prefers_html(headers: &HeaderMap) -> bool {
    let weight = |wanted: &str| {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let ranges =
            values.flat_map(|value| value.split(',')).map(|range| range.trim().split(';').map(str::trim));
        let weights = ranges.filter_map(|mut range| {
            let named = range.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
            let weight = range.find_map(|parameter| parameter.strip_prefix("q="));
            named.then(|| weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0)))
        });
        weights.fold(0.0, f32::max)
    };
    weight("text/html") > weight("application/json")
}

pub(super) fn page() -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::new([Bytes::from_static(PAGE.as_bytes())]));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    guarded(headers, "no-cache");
    for (name, value) in [
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What both the page and the documents say to browsers and caches.
fn guarded(headers: &mut HeaderMap, caches: &'static str) {
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, caches),
        (header::VARY, "accept"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// The document of everything, or of one model.
pub(super) fn document(
    gateway: &Gateway,
    tenant: &TenantName,
    of: Option<&Target>,
) -> Result<Response<ReplyBody>, Problem> {
    let keyed = gateway.authenticator.requires_keys();
    let mut response = match of {
        None => {
            let text = Bytes::from_static(describe::openapi(keyed).as_bytes());
            let mut response = Response::new(ReplyBody::new([text]));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Some(Target { model, version }) => {
            let found = gateway.models.find(tenant, model, &Wanted::new(version.as_ref(), None))?;
            off_the_sockets(weight(found.executor.signature()), || {
                counted_reply(gateway, tenant, &describe::model_openapi(&found, version.as_ref(), keyed))
            })?
        }
    };
    guarded(response.headers_mut(), "no-store");
    Ok(response)
}

/// About how many bytes a document has for its signature.
fn weight(signature: &Signature) -> usize {
    let Signature { inputs, outputs } = signature;
    inputs.iter().chain(outputs).map(|spec| 1024 + 8 * spec.name.len() + 64 * spec.shape.0.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route_of(accept: &[&str]) -> Route {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(header::ACCEPT, value.parse().expect("a value"));
        }
        negotiated(Route::Extension(Extension::Docs(None)), &headers)
    }

    #[test]
    fn browsers_get_the_page_and_all_others_the_document() {
        let (page, document) = (Route::Extension(Extension::Page), Route::Extension(Extension::Docs(None)));
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for accept in [&[browser][..], &["TEXT/HTML"], &["application/json;q=0.5", "text/html; q=0.6"]] {
            assert_eq!(route_of(accept), page, "{accept:?}");
        }
        for accept in [
            &[][..],
            &["*/*"],
            &["text/*"],
            &["application/json"],
            &["application/json, text/html"],
            &["text/html;q=0"],
            &["text/html;q=x"],
            &["text/html;q=NaN"],
            &["text/htmlx"],
            &[";;,,"],
        ] {
            assert_eq!(route_of(accept), document, "{accept:?}");
        }
    }

    #[test]
    fn the_page_needs_nothing_but_itself_and_makes_no_html_of_texts() {
        let script = inline("script");
        assert!(script.len() > 1000 && inline("style").len() > 100);
        assert_eq!(PAGE.matches("<script").count() + PAGE.matches("<style").count(), 2);
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "Function(",
            "setAttribute('on",
            "Storage",
            "cookie",
        ] {
            assert!(!script.contains(word), "{word}");
        }
        for word in [" src=", "<link", "@import", "url(", "http:", "https:", " style=", " onclick"] {
            assert!(!PAGE.contains(word), "{word}");
        }
    }
}
