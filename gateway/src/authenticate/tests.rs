use hyper::header::{HeaderName, HeaderValue};

use super::*;
use crate::secret::{LENGTH, Purpose, Secret};

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn pepper() -> secret::Key {
    Secret::from_bytes([7; LENGTH]).key(Purpose::ApiKey)
}

fn authenticator(trust: Trust) -> Authenticator {
    Authenticator::new(trust, pepper())
}

fn tenant(name: &str) -> TenantName {
    name.parse().expect("a name")
}

fn minted(scopes: &[Scope]) -> (ApiKey, KeyRecord) {
    mint(&pepper(), scopes.iter().copied().collect(), now()).expect("random bytes")
}

/// An authenticator that knows one key of the tenant `acme`, and that key.
fn with_a_key() -> (Authenticator, ApiKey) {
    let (key, record) = minted(&[Scope::Infer]);
    let authenticator = authenticator(Trust::Loopback);
    authenticator.install(Keyring::new([(tenant("acme"), record)]));
    (authenticator, key)
}

fn send(authenticator: &Authenticator, authorization: &[u8]) -> Result<Arc<Principal>, AuthenticateError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_bytes(authorization).expect("a header value"));
    authenticator.principal(PEER, &Uri::from_static("/v2"), &headers)
}

fn bearer_of(key: &ApiKey) -> Vec<u8> {
    format!("Bearer {}", *key.reveal()).into_bytes()
}

mod without_keys {
    use super::*;

    fn ask(name: HeaderName, value: &str) -> Result<Arc<Principal>, AuthenticateError> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).expect("a header value"));
        authenticator(Trust::Loopback).principal(PEER, &Uri::from_static("/v2"), &headers)
    }

    #[test]
    fn loopback_names_are_answered() {
        for host in ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000", "[::1]"] {
            assert!(ask(header::HOST, host).is_ok(), "{host}");
        }
        let origin = ask(header::ORIGIN, "http://localhost:3000").expect("loopback");
        assert_eq!((origin.tenant.as_str(), origin.scopes, origin.key), ("default", Scopes::all(), None));
        let nothing = (Uri::from_static("/v2"), HeaderMap::new());
        assert!(authenticator(Trust::Loopback).principal(PEER, &nothing.0, &nothing.1).is_ok());
    }

    #[test]
    fn names_that_only_resolve_to_loopback_are_refused() {
        for host in
            ["evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", "", "[::2]"]
        {
            assert_eq!(ask(header::HOST, host), Err(AuthenticateError::Foreign { header: "Host" }), "{host}");
        }
        for origin in ["http://evil.example", "null", "localhost"] {
            let refused = Err(AuthenticateError::Foreign { header: "Origin" });
            assert_eq!(ask(header::ORIGIN, origin), refused, "{origin}");
        }
        let absolute = Uri::from_static("http://evil.example/v2");
        let none = HeaderMap::new();
        assert!(authenticator(Trust::Loopback).principal(PEER, &absolute, &none).is_err());
        assert!(authenticator(Trust::Loopback).visitor(&absolute, &none).is_err());
        assert!(authenticator(Trust::Network).principal(PEER, &absolute, &none).is_ok());
    }
}

#[test]
fn a_key_is_found_again_by_its_text_and_by_no_other() {
    let (key, record) = minted(&[Scope::Infer]);
    let text = key.reveal();
    assert_eq!(text.len(), 93);
    let again: ApiKey = text.parse().expect("a key");
    assert!(again.matches(&pepper(), &record.tag));
    assert_eq!(again.reveal(), text);
    for at in 0..text.len() {
        let mut other = text.as_bytes().to_vec();
        other[at] = if other[at] == b'0' { b'1' } else { b'0' };
        let other = String::from_utf8(other).expect("ASCII");
        assert!(other.parse::<ApiKey>().is_err(), "one digit differs at {at}");
    }
    for other in [text.to_uppercase(), format!("{} ", *text), text[..92].to_owned(), "é".repeat(46) + "a"] {
        assert_eq!(other.parse::<ApiKey>().expect_err("no key"), KeyError::Form, "{other}");
    }
    let swapped = text.replacen(&key.id().to_string(), "0123456789abcdef", 1);
    assert_eq!(swapped.parse::<ApiKey>().expect_err("no key"), KeyError::Checksum);
}

#[test]
fn neither_debug_nor_record_shows_the_secret() {
    let (key, record) = minted(&[Scope::Infer, Scope::Admin]);
    let text = key.reveal();
    let secret = text.split('_').nth(2).expect("the secret");
    let json = serde_json::to_string(&record).expect("JSON");
    for shown in [format!("{key:?}"), format!("{record:?}"), json.clone(), key.id().to_string()] {
        assert!(!shown.contains(&secret[..8]), "{shown}");
    }
    let read: KeyRecord = serde_json::from_str(&json).expect("a record");
    assert_eq!(read, record);
    assert!(json.contains(r#""scopes":["infer","admin"]"#), "{json}");
}

#[test]
fn records_that_make_no_sense_are_refused() {
    let (_, record) = minted(&[Scope::Infer]);
    let good = serde_json::to_value(&record).expect("JSON");
    for (field, value) in [
        ("id", serde_json::json!("0123")),
        ("id", serde_json::json!("+123456789abcdef")),
        ("tag", serde_json::json!("00")),
        ("scopes", serde_json::json!(["infer", "everything"])),
        ("scopes", serde_json::json!("infer")),
        ("created", serde_json::json!(-1)),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        assert!(serde_json::from_value::<KeyRecord>(bad).is_err(), "{field}");
    }
}

#[test]
fn the_key_decides_tenant_and_scopes() {
    let (one, first) = minted(&[Scope::Infer]);
    let (two, second) = minted(&[Scope::Repository, Scope::Infer]);
    let authenticator = authenticator(Trust::Loopback);
    authenticator.install(Keyring::new([(tenant("acme"), first), (tenant("umbrella"), second)]));
    let acme = send(&authenticator, &bearer_of(&one)).expect("acme's key");
    assert_eq!((acme.tenant.as_str(), acme.key), ("acme", Some(one.id())));
    assert_eq!(acme.require(Scope::Infer), Ok(()));
    assert_eq!(acme.require(Scope::Repository), Err(AuthenticateError::Scope(Scope::Repository)));
    let umbrella = send(&authenticator, &bearer_of(&two)).expect("umbrella's key");
    assert_eq!(umbrella.tenant.as_str(), "umbrella");
    assert_eq!(umbrella.require(Scope::Repository), Ok(()));
    assert!(umbrella.require(Scope::Admin).is_err());
}

#[test]
fn the_scheme_s_case_does_not_matter_and_another_scheme_is_no_key() {
    let (authenticator, key) = with_a_key();
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR "] {
        assert!(send(&authenticator, format!("{scheme} {}", *key.reveal()).as_bytes()).is_ok(), "{scheme}");
    }
    for other in [&b""[..], b"Basic YTpi", b"Bearer", b"Bear", b"Bearerak_", b"\xff\xfe", b"Token x"] {
        let refused = send(&authenticator, other).expect_err("a refusal");
        assert!(matches!(refused, AuthenticateError::Missing | AuthenticateError::Wrong), "{other:?}");
    }
    let raw = send(&authenticator, key.reveal().as_bytes());
    assert_eq!(raw, Err(AuthenticateError::Missing));
}

#[test]
fn whatever_is_wrong_with_a_key_the_answer_is_the_same() {
    let (known, record) = minted(&[Scope::Infer]);
    let (revoked, mut revoked_record) = minted(&[Scope::Infer]);
    let (expired, mut expired_record) = minted(&[Scope::Infer]);
    let (unknown, _) = minted(&[Scope::Infer]);
    revoked_record.revoked = Some(now());
    expired_record.expires = Some(now());
    let authenticator = authenticator(Trust::Loopback);
    let records = [record, revoked_record, expired_record].map(|record| (tenant("acme"), record));
    authenticator.install(Keyring::new(records));
    // A right id with a secret that is not its own, and a right checksum.
    let forged = format!("ak_{}_{}", known.id(), "0".repeat(64));
    let sum = crate::digest::Digest::of(forged.as_bytes()).hex();
    let forged = format!("Bearer {forged}_{}", &sum[..8]);
    assert!(forged["Bearer ".len()..].parse::<ApiKey>().is_ok());
    let huge = [b"Bearer ".to_vec(), vec![b'a'; 1 << 20]].concat();
    for wrong in [
        bearer_of(&revoked),
        bearer_of(&expired),
        bearer_of(&unknown),
        forged.into_bytes(),
        b"Bearer ak_".to_vec(),
        b"Bearer \xc3\xa9".to_vec(),
        b"Bearer    ".to_vec(),
        huge,
    ] {
        let shown = String::from_utf8_lossy(&wrong[..wrong.len().min(200)]).into_owned();
        assert_eq!(send(&authenticator, &wrong), Err(AuthenticateError::Wrong), "{shown}");
    }
    assert!(send(&authenticator, &bearer_of(&known)).is_ok());
}

#[test]
fn a_key_of_another_gateway_s_secret_is_wrong() {
    let (key, record) = minted(&[Scope::Infer]);
    let other = Authenticator::new(Trust::Loopback, Secret::from_bytes([8; LENGTH]).key(Purpose::ApiKey));
    other.install(Keyring::new([(tenant("acme"), record)]));
    assert_eq!(send(&other, &bearer_of(&key)), Err(AuthenticateError::Wrong));
}

#[test]
fn once_keys_are_required_they_always_are() {
    let (authenticator, key) = with_a_key();
    let nothing = HeaderMap::new();
    let foreign = Uri::from_static("http://gateway.example/v2");
    assert_eq!(authenticator.principal(PEER, &foreign, &nothing), Err(AuthenticateError::Missing));
    let visitor = authenticator.visitor(&foreign, &nothing).expect("with keys, the Host is free");
    assert!(visitor.scopes.is_empty());
    authenticator.install(Keyring::default());
    assert_eq!(authenticator.principal(PEER, &foreign, &nothing), Err(AuthenticateError::Missing));
    assert_eq!(send(&authenticator, &bearer_of(&key)), Err(AuthenticateError::Wrong));
}

#[test]
fn two_authorization_headers_are_refused_even_if_they_agree() {
    let (authenticator, key) = with_a_key();
    let value = HeaderValue::from_bytes(&bearer_of(&key)).expect("a header value");
    let mut headers = HeaderMap::new();
    headers.append(header::AUTHORIZATION, value.clone());
    headers.append(header::AUTHORIZATION, value);
    let answer = authenticator.principal(PEER, &Uri::from_static("/v2"), &headers);
    assert_eq!(answer, Err(AuthenticateError::Repeated));
}

#[test]
fn keys_in_the_url_are_refused() {
    let (key, _) = minted(&[Scope::Infer]);
    let text = key.reveal();
    let encoded = text.replace('_', "%5F");
    for query in
        [format!("x={}", *text), format!("a=1&{}", *text), format!("x={encoded}"), "API_KEY=x".to_owned()]
    {
        assert!(carries_key(&query), "{query}");
        let (authenticator, valid) = with_a_key();
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_bytes(&bearer_of(&valid)).expect("a header value");
        headers.insert(header::AUTHORIZATION, value);
        let uri: Uri = format!("/v2?{query}").parse().expect("a URI");
        assert_eq!(authenticator.principal(PEER, &uri, &headers), Err(AuthenticateError::KeyInUrl));
    }
    for query in ["trace=1", "", "ak_", "x=ak_0011", "mask_0123456789abcdef", "key=1"] {
        assert!(!carries_key(query), "{query}");
    }
}

#[test]
fn guesses_are_slowed_down_and_lock_nobody_out() {
    let (authenticator, key) = with_a_key();
    let forged = format!("ak_{}_{}", key.id(), "0".repeat(64));
    let sum = crate::digest::Digest::of(forged.as_bytes()).hex();
    let forged = format!("Bearer {forged}_{}", &sum[..8]);
    let answers: Vec<_> = (0..10_000).map(|_| send(&authenticator, forged.as_bytes())).collect();
    assert_eq!(answers[0], Err(AuthenticateError::Wrong));
    assert!(matches!(answers[9999], Err(AuthenticateError::TooManyFailures { seconds: 1..=60 })));
    // The same address and the same id: the right key gets in.
    assert!(send(&authenticator, &bearer_of(&key)).is_ok());
}

#[test]
fn an_operator_needs_a_key_unless_it_is_on_this_machine() {
    let (key, record) = minted(&[Scope::Admin]);
    let (less, lesser) = minted(&[Scope::Infer, Scope::Repository]);
    let (open, trusted) = (authenticator(Trust::Loopback), authenticator(Trust::Network));
    for authenticator in [&open, &trusted] {
        let records = [record.clone(), lesser.clone()].map(|record| (tenant("acme"), record));
        authenticator.install(Keyring::new(records));
    }
    let ask = |authenticator: &Authenticator, peer: &str, headers: &[(HeaderName, &[u8])]| {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_bytes(value).expect("a header value")));
        let peer = peer.parse().expect("an address");
        authenticator.operator(peer, &Uri::from_static("/metrics"), &headers.collect())
    };
    let (host, origin) = (header::HOST, header::ORIGIN);
    let far = "192.0.2.1";
    for near in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(ask(&open, near, &[(host.clone(), b"localhost:8002")]), Ok(()));
        // A trusted network is no reason to trust pages that a browser on this machine shows.
        for authenticator in [&open, &trusted] {
            let foreign = |header| Err(AuthenticateError::Foreign { header });
            assert_eq!(ask(authenticator, near, &[(host.clone(), b"evil.example")]), foreign("Host"));
            assert_eq!(
                ask(authenticator, near, &[(origin.clone(), b"http://evil.example")]),
                foreign("Origin")
            );
        }
    }
    assert_eq!(ask(&open, far, &[(host.clone(), b"localhost")]), Err(AuthenticateError::Missing));
    assert_eq!(ask(&trusted, far, &[(host.clone(), b"gateway")]), Err(AuthenticateError::Missing));
    // Where nobody has a key, who trusts the network trusts it with this as well.
    assert_eq!(ask(&authenticator(Trust::Network), far, &[(host, b"gateway")]), Ok(()));
    let authorization = header::AUTHORIZATION;
    assert_eq!(ask(&open, far, &[(authorization.clone(), &bearer_of(&key))]), Ok(()));
    let too_little = Err(AuthenticateError::Scope(Scope::Admin));
    assert_eq!(ask(&open, "127.0.0.1", &[(authorization.clone(), &bearer_of(&less))]), too_little);
    assert_eq!(ask(&open, far, &[(authorization, b"Bearer x")]), Err(AuthenticateError::Wrong));
}
