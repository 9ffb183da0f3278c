//! ETags: two who change the same thing must not undo each other's work without noticing.

use hyper::{
    HeaderMap, Response,
    header::{ETAG, HeaderValue, IF_MATCH},
};

use crate::{error::Problem, repository::artifacts::Revision};

use super::body::ReplyBody;

/// An answer that says which revision it shows.
pub(super) fn tagged(mut response: Response<ReplyBody>, revision: Revision) -> Response<ReplyBody> {
    let tag = HeaderValue::from_str(&format!("\"{revision}\"")).expect("digits are a header's value");
    response.headers_mut().insert(ETAG, tag);
    response
}

/// The revision that a change is meant for; `None` if it is for whichever there is.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<Revision>, Problem> {
    let mut values = headers.get_all(IF_MATCH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::repeated_header("If-Match"));
    }
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let digits = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let revision = digits.and_then(|digits| digits.parse().ok());
    revision.map(Some).ok_or_else(|| {
        Problem::bad_request("If-Match is not an ETag that this path answers with, nor *".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::artifacts::Generation;

    #[test]
    fn what_is_answered_can_be_sent_back() {
        for revision in [Revision(None), Generation::FIRST.into()] {
            let answer = tagged(Response::new(ReplyBody::new([])), revision);
            let headers = HeaderMap::from_iter([(IF_MATCH, answer.headers()[ETAG].clone())]);
            assert_eq!(if_match(&headers).ok(), Some(Some(revision)));
        }
        for (text, expected) in [("*", Some(None)), ("1", None), ("W/\"0000000001\"", None), ("", None)] {
            let headers = HeaderMap::from_iter([(IF_MATCH, HeaderValue::from_static(text))]);
            assert_eq!(if_match(&headers).ok(), expected, "{text}");
        }
        assert_eq!(if_match(&HeaderMap::new()).ok(), Some(None));
    }
}
