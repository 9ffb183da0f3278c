//! Authenticate: who is asking?
//!
//! Without API keys there is one tenant, `default`, and the gateway listens on loopback only. A page in a browser on
//! the same machine could still reach it, under a name of its own that resolves to loopback (DNS rebinding): requests
//! whose `Host` or `Origin` is not loopback are refused. That does not stop another user of the same machine.

use hyper::{HeaderMap, Uri, header};

/// Who sent a request; the tenant decides which models it sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub tenant: &'static str,
}

/// How far a gateway without keys trusts the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Requests made under a loopback name only.
    Loopback,
    /// Anybody who can reach the port (`--insecure`).
    Network,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticateError {
    #[error(
        "this gateway has no API keys and answers requests to a loopback name only; {header} says otherwise: \
         call it as 127.0.0.1 or localhost, or start it with --insecure"
    )]
    Foreign { header: &'static str },
}

/// The principal of a request, from its head alone.
pub fn principal(uri: &Uri, headers: &HeaderMap, trust: Trust) -> Result<Principal, AuthenticateError> {
    if trust == Trust::Loopback {
        // Every copy of the header counts: a proxy may look at another one than we do.
        let hosts = headers.get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or("?"));
        if !hosts.chain(uri.authority().map(|authority| authority.as_str())).all(is_loopback) {
            return Err(AuthenticateError::Foreign { header: "Host" });
        }
        for origin in headers.get_all(header::ORIGIN) {
            let host = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
            if !host.is_some_and(|(_, host)| is_loopback(host)) {
                return Err(AuthenticateError::Foreign { header: "Origin" });
            }
        }
    }
    Ok(Principal { tenant: "default" })
}

/// Whether `host[:port]` names this machine's loopback interface. Nothing else may be in it: user names confuse readers.
fn is_loopback(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, ""),
        Some((host, rest)) => (host, rest.strip_prefix(':').unwrap_or("?")),
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let named = host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    named && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn ask(name: header::HeaderName, value: &str) -> Result<Principal, AuthenticateError> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).expect("a header value"));
        principal(&Uri::from_static("/v2"), &headers, Trust::Loopback)
    }

    #[test]
    fn loopback_names_are_answered() {
        for host in ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000", "[::1]"] {
            assert!(ask(header::HOST, host).is_ok(), "{host}");
        }
        assert!(ask(header::ORIGIN, "http://localhost:3000").is_ok());
        assert!(principal(&Uri::from_static("/v2"), &HeaderMap::new(), Trust::Loopback).is_ok());
    }

    #[test]
    fn names_that_only_resolve_to_loopback_are_refused() {
        for host in
            ["evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", "", "[::2]"]
        {
            assert_eq!(ask(header::HOST, host), Err(AuthenticateError::Foreign { header: "Host" }), "{host}");
        }
        for origin in ["http://evil.example", "null", "localhost"] {
            assert_eq!(
                ask(header::ORIGIN, origin),
                Err(AuthenticateError::Foreign { header: "Origin" }),
                "{origin}"
            );
        }
        let absolute = Uri::from_static("http://evil.example/v2");
        assert!(principal(&absolute, &HeaderMap::new(), Trust::Loopback).is_err());
        assert!(principal(&absolute, &HeaderMap::new(), Trust::Network).is_ok());
    }
}
