//! Loopback names: under which `Host` and `Origin` a gateway without keys may be called.

use hyper::{HeaderMap, Uri, header};

use super::AuthenticateError;

/// Refuses a request that was made under a name that is not loopback's.
pub(super) fn check(uri: &Uri, headers: &HeaderMap) -> Result<(), AuthenticateError> {
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
    Ok(())
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
