//! Authenticate: who is asking?
//!
//! As soon as there is any API key, each request needs one, and the key decides the tenant. Without keys there is one
//! tenant, `default`, and the gateway listens on loopback only. A page in a browser on the same machine could still reach
//! it, under a name of its own that resolves to loopback (DNS rebinding): requests whose `Host` or `Origin` is not
//! loopback are refused. That does not stop another user of the same machine.

mod key;
mod keyring;
mod loopback;
mod scope;
mod throttle;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use hyper::{HeaderMap, Uri, header};
use percent_encoding::percent_decode_str;

use crate::{name::TenantName, secret};

pub use key::{ApiKey, KeyError, KeyId, KeyRecord, Tag, mint};
pub use keyring::Keyring;
pub use scope::{Scope, ScopeError, Scopes};
pub use throttle::{MAX_FAILURES, network};

use throttle::{Throttle, Verdict};

/// Who sent a request; the tenant decides which models it sees, the scopes what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub tenant: TenantName,
    pub scopes: Scopes,
    /// The key it came with; none on a gateway without keys.
    pub key: Option<KeyId>,
}

/// How far a gateway without keys trusts the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Requests made under a loopback name only.
    Loopback,
    /// Anybody who can reach the port (`--insecure`).
    Network,
}

/// Why a request is not let in. Whatever is wrong with a key, the text is the same.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticateError {
    #[error(
        "this gateway has no API keys and answers requests to a loopback name only; {header} says otherwise: \
         call it as 127.0.0.1 or localhost, or start it with --insecure"
    )]
    Foreign { header: &'static str },
    #[error("this gateway asks for an API key: send the header Authorization: Bearer ak_…")]
    Missing,
    #[error("the API key is not valid: it is mistyped, unknown, expired or revoked")]
    Wrong,
    #[error("too many requests with an API key that is not valid; a valid key is accepted at any time")]
    TooManyFailures { seconds: u32 },
    #[error(
        "an API key does not belong into the URL, where logs and proxies keep it: \
         revoke it if it was sent there, and send the header Authorization: Bearer ak_…"
    )]
    KeyInUrl,
    #[error("the header Authorization is sent more than once")]
    Repeated,
    #[error("this API key does not have the scope {0}")]
    Scope(Scope),
}

impl Principal {
    /// Everybody, on a gateway without keys.
    fn anybody() -> Self {
        Self { tenant: TenantName::default_tenant(), scopes: Scopes::all(), key: None }
    }

    /// May do nothing.
    fn nobody() -> Self {
        Self { scopes: Scopes::NONE, ..Self::anybody() }
    }

    pub fn require(&self, scope: Scope) -> Result<(), AuthenticateError> {
        if self.scopes.contains(scope) { Ok(()) } else { Err(AuthenticateError::Scope(scope)) }
    }
}

/// Decides who is asking, by the keys it was given last.
#[derive(Debug)]
pub struct Authenticator {
    trust: Trust,
    pepper: secret::Key,
    keyring: ArcSwap<Keyring>,
    throttle: Throttle,
    /// Whether requests need a key; once they do, they always will.
    required: AtomicBool,
    anybody: Arc<Principal>,
    nobody: Arc<Principal>,
}

impl Authenticator {
    /// Without keys at first. `pepper` is the key under which the tags of API keys are made.
    pub fn new(trust: Trust, pepper: secret::Key) -> Self {
        Self {
            trust,
            pepper,
            keyring: ArcSwap::default(),
            throttle: Throttle::default(),
            required: AtomicBool::new(false),
            anybody: Arc::new(Principal::anybody()),
            nobody: Arc::new(Principal::nobody()),
        }
    }

    /// Puts these keys in the place of all others, for every request from now on.
    pub fn install(&self, keyring: Keyring) {
        if !keyring.is_empty() {
            self.require_keys();
        }
        self.keyring.store(Arc::new(keyring));
    }

    /// Lets nobody in without a key any more, also if there is none: for a store whose keys cannot be read.
    pub fn require_keys(&self) {
        self.required.store(true, Ordering::Release);
    }

    pub fn requires_keys(&self) -> bool {
        self.required.load(Ordering::Acquire)
    }

    /// The key under which the tags of API keys are made.
    pub fn pepper(&self) -> &secret::Key {
        &self.pepper
    }

    /// The principal of a request, from its head alone.
    pub fn principal(
        &self,
        peer: IpAddr,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Arc<Principal>, AuthenticateError> {
        if !self.requires_keys() {
            self.welcome(uri, headers)?;
            return Ok(Arc::clone(&self.anybody));
        }
        if uri.query().is_some_and(carries_key) {
            return Err(AuthenticateError::KeyInUrl);
        }
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let value = values.next().ok_or(AuthenticateError::Missing)?;
        if values.next().is_some() {
            return Err(AuthenticateError::Repeated);
        }
        let text = bearer(value.as_bytes()).ok_or(AuthenticateError::Missing)?;
        let key = str::from_utf8(text).ok().and_then(|text| text.parse::<ApiKey>().ok());
        let found = key.as_ref().and_then(|key| self.keyring.load().check(&self.pepper, key, now()));
        found.ok_or_else(|| self.failed(peer, key.map(|key| key.id())))
    }

    /// Lets an operator in: with a key of the scope `admin` from anywhere; without one from this machine, but not under a foreign
    /// name nor from a web page, and, as long as there are no keys at all, from a network that is trusted.
    pub fn operator(&self, peer: IpAddr, uri: &Uri, headers: &HeaderMap) -> Result<(), AuthenticateError> {
        if self.requires_keys() && headers.contains_key(header::AUTHORIZATION) {
            return self.principal(peer, uri, headers)?.require(Scope::Admin);
        }
        // An IPv4 peer of a port that listens on both is a mapped address.
        if peer.to_canonical().is_loopback() {
            return loopback::check(uri, headers);
        }
        let open = self.trust == Trust::Network && !self.requires_keys();
        if open { Ok(()) } else { Err(AuthenticateError::Missing) }
    }

    /// Who sends a request that needs no key; may do nothing that needs a scope.
    pub fn visitor(&self, uri: &Uri, headers: &HeaderMap) -> Result<Arc<Principal>, AuthenticateError> {
        if !self.requires_keys() {
            self.welcome(uri, headers)?;
        }
        Ok(Arc::clone(&self.nobody))
    }

    fn welcome(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), AuthenticateError> {
        match self.trust {
            Trust::Network => Ok(()),
            Trust::Loopback => loopback::check(uri, headers),
        }
    }

    fn failed(&self, peer: IpAddr, id: Option<KeyId>) -> AuthenticateError {
        match self.throttle.failed(peer, id) {
            Verdict::Refuse => AuthenticateError::Wrong,
            Verdict::Slow { seconds, first } => {
                if first {
                    let key = id.map(tracing::field::display);
                    tracing::warn!(%peer, key, "too many attempts to authenticate with keys that are not valid");
                }
                AuthenticateError::TooManyFailures { seconds }
            }
        }
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs())
}

/// The credentials of `Bearer <credentials>`; the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer";
    let (scheme, rest) = value.split_at_checked(SCHEME.len())?;
    let rest = rest.strip_prefix(b" ").or_else(|| rest.is_empty().then_some(rest))?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| rest.trim_ascii())
}

/// Whether a query has a parameter that people put keys into, or a value that looks like one.
fn carries_key(query: &str) -> bool {
    const NAMES: [&str; 5] = ["api_key", "apikey", "api-key", "access_token", "authorization"];
    query.split(['&', ';']).any(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or(("", pair));
        let value = percent_decode_str(value).decode_utf8_lossy();
        NAMES.iter().any(|known| name.eq_ignore_ascii_case(known)) || holds_key(&value)
    })
}

/// Whether something in a text looks like a key.
pub fn holds_key(text: &str) -> bool {
    text.match_indices(key::PREFIX).any(|(at, _)| {
        let digits = &text.as_bytes()[at + key::PREFIX.len()..];
        digits.len() > 16 && digits[..16].iter().all(u8::is_ascii_hexdigit) && digits[16] == b'_'
    })
}

#[cfg(test)]
mod tests;
