//! What answers say about anything but the question: no paths, no names of others, no digests, no unexpected headers.

use airlock::{authenticate::Scope, digest::Digest};
use airlock_tests::{
    client::Answer,
    gateway::Repository,
    guest::{self, hostile},
    store::{Caller, Store},
};
use serde_json::json;

/// Every header that this server ever sends.
const HEADERS: [&str; 18] = [
    "accept-encoding",
    "allow",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-security-policy",
    "content-type",
    "cross-origin-opener-policy",
    "date",
    "inference-header-content-length",
    "referrer-policy",
    "retry-after",
    "vary",
    "www-authenticate",
    "x-content-type-options",
    "x-frame-options",
    "x-request-id",
];

/// A request of one who tries things: method, path, headers, body.
type Attempt = (&'static str, String, Vec<(&'static str, String)>, Vec<u8>);

fn attempts() -> Vec<Attempt> {
    let infer = |data: &str| {
        format!(r#"{{"inputs":[{{"name":"INPUT0","datatype":"FP32","shape":[1],"data":{data}}}]}}"#)
            .into_bytes()
    };
    let mut attempts: Vec<Attempt> = Vec::new();
    for path in
        ["/", "/v1", "/v2/", "/v2/nothing", "/v2/models/..%2f..%2fetc", "/v2/models/%00", "/v2/admin/tenants"]
    {
        attempts.push(("GET", path.into(), vec![], vec![]));
    }
    for model in ["secret", "nobody", "good", "traps", "broken", "%2e%2e"] {
        for path in ["", "/ready", "/versions/1", "/versions/9/ready"] {
            attempts.push(("GET", format!("/v2/models/{model}{path}"), vec![], vec![]));
        }
        for accept in ["*/*", "text/html"] {
            let headers = vec![("accept", accept.into())];
            attempts.push(("GET", format!("/v2/models/{model}/docs"), headers, vec![]));
        }
        for body in [infer("[1]"), infer("[\"x\"]"), infer("[1,2]"), b"{".to_vec(), vec![], vec![0xff; 64]] {
            attempts.push(("POST", format!("/v2/models/{model}/infer"), vec![], body));
        }
        for path in ["", "/settings", "/versions/1", "/versions/9"] {
            attempts.push(("GET", format!("/v2/repository/models/{model}{path}"), vec![], vec![]));
            attempts.push(("DELETE", format!("/v2/repository/models/{model}{path}"), vec![], vec![]));
            attempts.push(("PUT", format!("/v2/repository/models/{model}{path}"), vec![], b"{}".to_vec()));
        }
        for path in ["load", "unload", "versions/1/verify"] {
            attempts.push(("POST", format!("/v2/repository/models/{model}/{path}"), vec![], infer("[1]")));
        }
    }
    for (name, value) in [
        ("x-request-id", "call-1"),
        ("content-encoding", "br"),
        ("content-encoding", "gzip"),
        ("inference-header-content-length", "-1"),
        ("inference-header-content-length", "99999"),
        ("accept-encoding", "gzip"),
        ("content-digest", "sha-256=:AA==:"),
    ] {
        attempts.push(("POST", "/v2/models/good/infer".into(), vec![(name, value.into())], infer("[1]")));
        attempts.push((
            "PUT",
            "/v2/repository/models/x/versions/1".into(),
            vec![(name, value.into())],
            infer("[1]"),
        ));
    }
    attempts
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_tells_what_was_not_asked() {
    let store = Store::default();
    let both = [Scope::Infer, Scope::Repository];
    let (owner, other) = (store.key("verysecrettenant", &both).await, store.key("other", &both).await);
    let traps = guest::module(hostile::UNREACHABLE).expect("a valid fixture");
    let repository = Repository::default()
        .with("good", "1", "model.wasm", guest::good())
        .with("traps", "1", "model.wasm", traps)
        .with("broken", "1", "model.wasm", b"no model");
    let paths = [store.path().to_owned(), repository.path().to_owned()];
    let gateway = store.serve_with(repository).await;
    let artifact = guest::component(guest::COUNTER).expect("a valid fixture");
    let digest = Digest::of(&artifact).hex();
    let published = Caller::new(&gateway, &owner).put("secret", "1", artifact).await;
    assert_eq!(published.status, 200, "{}", published.error());

    let forbidden: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .chain([
            "verysecrettenant".into(),
            digest,
            "/objects".into(),
            "/local".into(),
            ".rs:".into(),
            "0x".into(),
        ])
        .chain(["panicked".into(), "os error".into(), env!("CARGO_MANIFEST_DIR").into()])
        .collect();
    let check = |what: &str, answer: &Answer| {
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        for word in &forbidden {
            assert!(!body.contains(word.as_str()), "{what} tells {word:?}: {body}");
        }
        for name in answer.headers.keys() {
            assert!(HEADERS.contains(&name.as_str()), "{what} has the header {name}");
        }
        if answer.status >= 400 {
            assert!(answer.json()["code"].is_string(), "{what}: {body}");
        }
    };
    let mut statuses = std::collections::BTreeSet::new();
    for key in [Some(other.as_str()), None] {
        let caller = Caller { gateway: &gateway, key };
        for (method, path, headers, body) in attempts() {
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let answer = caller.send(method, &path, &headers, body).await;
            check(&format!("{method} {path} {headers:?}"), &answer);
            statuses.insert(answer.status);
        }
    }
    for status in [200, 400, 401, 404, 405, 415, 422, 502, 503] {
        assert!(statuses.contains(&status), "no attempt led to {status}: {statuses:?}");
    }
    // And what is the owner's own is told to the owner.
    let listed = Caller::new(&gateway, &owner).get("/v2/repository/models/secret").await;
    assert_eq!(listed.json()["name"], json!("secret"));
}
