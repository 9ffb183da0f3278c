//! Profiles: where other servers of V2 answer a request in another way, and there are clients that depend on it. Each listener has one.
//! What is not here is answered in one way by all.

use clap::ValueEnum;
use hyper::{Method, Response, StatusCode, http::request::Parts};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{decode::Decoded, digest, error::Problem, secret};

use super::{
    body::ReplyBody,
    rest::{json_reply, refuse},
};

/// The server that clients take this one for.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// What the specification says, and where it says nothing what helps most.
    #[default]
    Airlock,
    Triton,
    Kserve,
    Mlserver,
}

/// Those of the two listeners for V2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Profiles {
    pub http: Profile,
    pub grpc: Profile,
}

impl Profile {
    /// The answer to a probe that finds what it looks for, or to a model's `load` or `unload`: with a body, or with the status alone.
    pub(super) fn done(self, body: &impl Serialize) -> Response<ReplyBody> {
        match self {
            Self::Airlock | Self::Kserve => json_reply(StatusCode::OK, body),
            Self::Triton | Self::Mlserver => Response::new(ReplyBody::new([])),
        }
    }

    /// The answer to a probe that does not: what `body` is made of says why.
    pub(super) fn not_ready(self, problem: &Problem, body: &impl Serialize) -> Response<ReplyBody> {
        let mut response = refuse(problem);
        *response.body_mut() = json_reply(StatusCode::OK, body).into_body();
        if matches!(self, Self::Triton | Self::Mlserver) {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        response
    }

    /// Whether a model that is not there is one that is not ready, to a probe.
    pub(super) fn missing_is_not_ready(self) -> bool {
        self == Self::Triton
    }

    /// The answer to a probe that knows nothing but the port, if there is one.
    pub(super) fn at_the_root(self, head: &Parts) -> Option<Response<ReplyBody>> {
        let asked = self == Self::Kserve && head.method == Method::GET && head.uri.path() == "/";
        asked.then(|| json_reply(StatusCode::OK, &json!({ "status": "alive" })))
    }

    /// Gives a request an id (a random UUID) if it has none and the clients of that server rely on one.
    pub fn identify(self, decoded: &mut Decoded) {
        let none = decoded.reply.id.as_ref().is_none_or(String::is_empty);
        if none && matches!(self, Self::Kserve | Self::Mlserver) {
            let id = uuid();
            decoded.request.id.clone_from(&id);
            decoded.reply.id = id;
        }
    }
}

/// A UUID of version 4 (RFC 9562); `None` if the system has no random bits.
fn uuid() -> Option<String> {
    let mut bytes: [u8; 16] = secret::random().ok()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = digest::hex(&bytes);
    Some([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{reply::Reply, tensor::InferRequest};

    #[test]
    fn ids_are_uuids_and_no_two_are_the_same() {
        let ids = [uuid(), uuid()].map(|id| id.expect("random bits"));
        assert_ne!(ids[0], ids[1]);
        for id in ids {
            let lengths: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12]);
            assert!(id[14..].starts_with('4') && "89ab".contains(&id[19..20]), "{id}");
        }
    }

    #[test]
    fn what_has_an_id_keeps_it() {
        let (request, reply) = (InferRequest::default(), Reply::default());
        let mut decoded = Decoded { request, timeout: None, reply };
        decoded.reply.id = Some("7".into());
        Profile::Mlserver.identify(&mut decoded);
        assert_eq!(decoded.reply.id.as_deref(), Some("7"));
        for (profile, makes) in [
            (Profile::Airlock, false),
            (Profile::Triton, false),
            (Profile::Kserve, true),
            (Profile::Mlserver, true),
        ] {
            for id in [None, Some(String::new())] {
                decoded.reply.id.clone_from(&id);
                profile.identify(&mut decoded);
                let made = decoded.reply.id.as_ref().is_some_and(|id| id.len() == 36);
                assert_eq!(made, makes, "{profile:?}");
                assert!(!makes || decoded.request.id == decoded.reply.id);
            }
        }
    }
}
