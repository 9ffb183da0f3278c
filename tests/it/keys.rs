//! API keys through the real listener: who gets in, to what, and what everybody else is told.

use std::net::SocketAddr;

use airlock::authenticate::{ApiKey, KeyRecord, Keyring, MAX_FAILURES, Scope, mint, now};
use airlock_tests::{
    client::{Answer, call, call_http2, get},
    gateway::{Gateway, Repository},
    guest,
};
use serde_json::{Value, json};

/// A gateway with the model `good` and these keys, each of a tenant.
struct Keyed {
    gateway: Gateway,
    keys: Vec<ApiKey>,
    records: Vec<(&'static str, KeyRecord)>,
}

impl Keyed {
    async fn serve(keys: &[(&'static str, &[Scope])]) -> Self {
        let repository = Repository::default().with("good", "1", "model.wasm", guest::good());
        let gateway = Gateway::serve(repository).await;
        let mut keyed = Self { gateway, keys: Vec::new(), records: Vec::new() };
        for (tenant, scopes) in keys {
            let pepper = keyed.gateway.authenticator().pepper();
            let scopes = scopes.iter().copied().collect();
            let (key, record) = mint(pepper, scopes, now()).expect("random bytes");
            keyed.keys.push(key);
            keyed.records.push((tenant, record));
        }
        keyed.install();
        keyed
    }

    fn install(&self) {
        let records = self.records.iter().map(|(tenant, record)| {
            let tenant = tenant.parse().expect("a name");
            (tenant, record.clone())
        });
        self.gateway.authenticator().install(Keyring::new(records));
    }

    fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    fn bearer(&self, key: usize) -> String {
        format!("Bearer {}", *self.keys[key].reveal())
    }

    async fn call(&self, key: usize, method: &str, path: &str, body: &Value) -> Answer {
        let bearer = self.bearer(key);
        send(self.address(), method, path, &bearer, body).await
    }
}

async fn send(at: SocketAddr, method: &str, path: &str, authorization: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    call(at, method, path, &[("authorization", authorization)], body).await
}

fn request() -> Value {
    json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1.5] }] })
}

const INFER: &str = "/v2/models/good/infer";

/// A key of the right form and checksum that nobody has; with the id of `key` or with one of its own.
fn forged(key: Option<&ApiKey>) -> String {
    let id = key.map_or_else(|| "0123456789abcdef".to_owned(), |key| key.id().to_string());
    let text = format!("ak_{id}_{}", "ab".repeat(32));
    let sum = airlock::digest::Digest::of(text.as_bytes()).hex();
    format!("Bearer {text}_{}", &sum[..8])
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_each_get_in_with_their_own_key() {
    let gateway = Keyed::serve(&[("acme", &[Scope::Infer]), ("umbrella", &[Scope::Infer])]).await;
    for key in [0, 1] {
        let answer = gateway.call(key, "POST", INFER, &request()).await;
        assert_eq!(answer.status, 200, "{}", answer.error());
        let bearer = gateway.bearer(key);
        let headers = [("authorization", bearer.as_str())];
        let answer = call_http2(gateway.address(), "POST", INFER, &headers, request().to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.error());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_only_health_is_answered() {
    let gateway = Keyed::serve(&[("acme", &[Scope::Infer])]).await;
    let at = gateway.address();
    for path in ["/v2/health/live", "/v2/health/ready"] {
        assert_eq!(get(at, path).await.status, 200, "{path}");
        // A probe's own credentials are of no interest, and are no attempt.
        assert_eq!(send(at, "GET", path, "Basic YTpi", &Value::Null).await.status, 200, "{path}");
    }
    let missing = get(at, "/v2").await;
    assert_eq!((missing.status, missing.code().as_str()), (401, "unauthenticated"));
    assert_eq!(missing.header("www-authenticate"), Some("Bearer"));
    assert!(missing.error().contains("Authorization: Bearer"), "{}", missing.error());
    // Nor does anybody learn what there is.
    for (method, path) in [
        ("GET", "/v2/models/good"),
        ("GET", "/v2/models/missing"),
        ("GET", "/v2/models/a%2Fb"),
        ("POST", INFER),
        ("GET", INFER),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/good/unload"),
        ("GET", "/elsewhere"),
        ("OPTIONS", "/v2"),
    ] {
        let answer = call(at, method, path, &[], "").await;
        assert_eq!((answer.status, &answer.body), (401, &missing.body), "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_a_key_the_answer_is_the_same() {
    let mut gateway =
        Keyed::serve(&[("acme", &[Scope::Infer]), ("acme", &[Scope::Infer]), ("acme", &[Scope::Infer])])
            .await;
    gateway.records[1].1.revoked = Some(now());
    gateway.records[2].1.expires = Some(now());
    gateway.install();
    let at = gateway.address();
    let first = send(at, "GET", "/v2", &forged(None), &Value::Null).await;
    assert_eq!((first.status, first.code().as_str()), (401, "unauthenticated"));
    assert_eq!(first.header("www-authenticate"), Some("Bearer"));
    for wrong in [
        forged(Some(&gateway.keys[0])),
        gateway.bearer(1),
        gateway.bearer(2),
        "Bearer ak_".to_owned(),
        "Bearer x".to_owned(),
        format!("Bearer {}", "a".repeat(8000)),
    ] {
        let answer = send(at, "GET", "/v2", &wrong, &Value::Null).await;
        assert_eq!((answer.status, &answer.body), (401, &first.body), "{}", &wrong[..wrong.len().min(40)]);
        let names = |answer: &Answer| answer.headers.keys().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&answer), names(&first));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_opens_its_own_routes_only() {
    let gateway = Keyed::serve(&[
        ("acme", &[Scope::Infer]),
        ("acme", &[Scope::Repository]),
        ("acme", &[Scope::Admin]),
        ("acme", &[Scope::Infer, Scope::Repository]),
        ("ops", &[Scope::Repository, Scope::Admin]),
    ])
    .await;
    let infer =
        [("GET", "/v2"), ("GET", "/v2/models/good"), ("GET", "/v2/models/good/ready"), ("POST", INFER)];
    let repository = [("POST", "/v2/repository/index")];
    for (key, may_infer, may_change) in
        [(0, true, false), (1, false, true), (2, false, false), (3, true, true)]
    {
        for (routes, may, scope) in
            [(&infer[..], may_infer, "infer"), (&repository[..], may_change, "repository")]
        {
            for (method, path) in routes {
                let body = if *path == INFER { request() } else { Value::Null };
                let answer = gateway.call(key, method, path, &body).await;
                let forbidden = (answer.status, answer.code().as_str()) == (403, "forbidden");
                assert_eq!(!forbidden, may, "{key} {method} {path}: {}", answer.status);
                assert!(may || answer.error().contains(scope), "{}", answer.error());
            }
        }
    }
    // What all tenants share is the operator's to load and unload, and here not even that: the mode is not explicit. To a
    // tenant it is like any model that is not its own.
    for (key, status) in [(1, 404), (2, 403), (3, 404), (4, 503)] {
        let answer = gateway.call(key, "POST", "/v2/repository/models/good/load", &Value::Null).await;
        assert_eq!(answer.status, status, "{key}: {}", answer.error());
    }
    // A model that is not there is no way around the scope.
    let refused = gateway.call(2, "GET", "/v2/models/missing", &Value::Null).await;
    assert_eq!(refused.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_the_url_and_repeated_headers_are_refused() {
    let gateway = Keyed::serve(&[("acme", &[Scope::Infer])]).await;
    let at = gateway.address();
    let bearer = gateway.bearer(0);
    let path = format!("/v2?token={}", *gateway.keys[0].reveal());
    for headers in [&[][..], &[("authorization", bearer.as_str())]] {
        let answer = call(at, "GET", &path, headers, "").await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"));
        assert!(answer.error().contains("Authorization"), "{}", answer.error());
        assert!(!answer.error().contains(&gateway.keys[0].id().to_string()), "{}", answer.error());
    }
    let twice = [("authorization", bearer.as_str()), ("authorization", bearer.as_str())];
    assert_eq!(call(at, "GET", "/v2", &twice, "").await.status, 400);
    // Stock clients may add parameters of their own.
    assert_eq!(gateway.call(0, "GET", "/v2?trace=1", &Value::Null).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_down_and_the_right_key_still_gets_in() {
    let gateway = Keyed::serve(&[("acme", &[Scope::Infer])]).await;
    let at = gateway.address();
    let guess = forged(Some(&gateway.keys[0]));
    let mut last = send(at, "GET", "/v2", &guess, &Value::Null).await;
    assert_eq!(last.status, 401);
    // A window may end in the middle of it: then the count begins again, once.
    for _ in 0..2 * MAX_FAILURES {
        last = send(at, "GET", "/v2", &guess, &Value::Null).await;
        if last.status == 429 {
            break;
        }
    }
    assert_eq!((last.status, last.code().as_str()), (429, "rate_limited"));
    let wait: u32 = last.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(gateway.call(0, "POST", INFER, &request()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_is_felt_by_the_next_request_and_the_door_stays_shut() {
    let mut gateway = Keyed::serve(&[("acme", &[Scope::Infer])]).await;
    assert_eq!(gateway.call(0, "GET", "/v2", &Value::Null).await.status, 200);
    gateway.records[0].1.revoked = Some(now());
    gateway.install();
    assert_eq!(gateway.call(0, "GET", "/v2", &Value::Null).await.status, 401);
    // No keys left is not no keys: nobody gets in without one.
    gateway.records.clear();
    gateway.install();
    assert_eq!(get(gateway.address(), "/v2").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_keys_the_host_is_free() {
    let gateway = Keyed::serve(&[("acme", &[Scope::Infer])]).await;
    let bearer = gateway.bearer(0);
    let headers = [("host", "gateway.example"), ("authorization", bearer.as_str())];
    assert_eq!(call(gateway.address(), "GET", "/v2", &headers, "").await.status, 200);
}
