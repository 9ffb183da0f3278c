//! The admin port: who gets in, what can be done there, and that nothing of it is on the data port.

use std::{net::SocketAddr, path::Path, time::Duration};

use airlock::{
    admin::{NewKey, Tenants},
    authenticate::{Scope, Scopes, now},
    repository::artifacts::Location,
    secret::Purpose,
    store::StorePlace,
};
use airlock_tests::{
    client::{Answer, call},
    gateway::{Gateway, Repository},
    guest,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A gateway on a store in which the tenant `ops` has a key for each scope.
struct Administered {
    gateway: Gateway,
    admin: String,
    infer: String,
    _folder: TempDir,
}

/// What works on the store in a folder, as the command line does.
fn tenants(folder: &Path) -> Tenants {
    let place = StorePlace::new(&Location::Folder(folder.into()), None, None).expect("a place");
    let store = place.open().expect("a store");
    Tenants::new(store.artifacts, store.secret.key(Purpose::ApiKey))
}

async fn serve(folder: &Path) -> Gateway {
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good());
    Gateway::serve_with(repository, |settings| settings.store = Some(Location::Folder(folder.into()))).await
}

impl Administered {
    async fn serve() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let (tenants, ops) = (tenants(folder.path()), "ops".parse().expect("a name"));
        tenants.create(&ops, now()).await.expect("a tenant");
        let key = async |scope| {
            let new = NewKey { scopes: Scopes::from_iter([scope]), ..NewKey::default() };
            let (key, _) = tenants.create_key(&ops, new, now()).await.expect("a key");
            format!("Bearer {}", *key.reveal())
        };
        let (admin, infer) = (key(Scope::Admin).await, key(Scope::Infer).await);
        Self { gateway: serve(folder.path()).await, admin, infer, _folder: folder }
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Answer {
        send(self.gateway.admin_address(), method, path, &self.admin, body).await
    }
}

async fn send(at: SocketAddr, method: &str, path: &str, authorization: &str, body: Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    call(at, method, path, &[("authorization", authorization)], body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_and_keys_are_made_and_ended_over_http() {
    let ops = Administered::serve().await;
    let made = ops.ask("PUT", "/v2/admin/tenants/acme", Value::Null).await;
    assert_eq!((made.status, &made.json()["new"]), (200, &json!(true)));
    assert_eq!(ops.ask("PUT", "/v2/admin/tenants/acme", Value::Null).await.json()["new"], false);
    let listed = ops.ask("GET", "/v2/admin/tenants", Value::Null).await.json();
    let names: Vec<_> = listed["tenants"].as_array().expect("a list").iter().map(|t| &t["tenant"]).collect();
    assert_eq!(names, ["acme", "ops"]);

    let asked = json!({ "scopes": ["infer"], "label": "laptop", "expires_in": 3600 });
    let made = ops.ask("POST", "/v2/admin/tenants/acme/keys", asked).await;
    assert_eq!(made.status, 200, "{}", made.error());
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let made = made.json();
    let bearer = format!("Bearer {}", made["key"].as_str().expect("a key"));
    let status = async || send(ops.gateway.address(), "GET", "/v2", &bearer, Value::Null).await.status;
    within_five_seconds(async || status().await == 200).await;

    let keys = ops.ask("GET", "/v2/admin/tenants/acme/keys", Value::Null).await.json();
    assert_eq!((&keys["keys"][0]["id"], &keys["keys"][0]["label"]), (&made["id"], &json!("laptop")));
    assert!(keys["keys"][0].get("key").is_none());
    let path = format!("/v2/admin/tenants/acme/keys/{}", made["id"].as_str().expect("an id"));
    let foreign = path.replace("acme", "ops");
    assert_eq!(ops.ask("DELETE", &foreign, Value::Null).await.code(), "key_not_found");
    assert_eq!(ops.ask("DELETE", &path, Value::Null).await.json()["state"], "revoked");
    // 401, or 429 to somebody who asks this often.
    within_five_seconds(async || status().await != 200).await;

    let removed = ops.ask("DELETE", "/v2/admin/tenants/acme", Value::Null).await;
    assert_eq!((removed.status, &removed.json()["revoked_keys"]), (200, &json!(0)));
    assert_eq!(ops.ask("DELETE", "/v2/admin/tenants/acme", Value::Null).await.code(), "tenant_not_found");
}

async fn within_five_seconds(condition: impl AsyncFn() -> bool) {
    let met = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), met).await.expect("within five seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_admin_scope_opens_the_admin_port() {
    let ops = Administered::serve().await;
    let (admin, data) = (ops.gateway.admin_address(), ops.gateway.address());
    for path in ["/v2/admin/tenants", "/v2/admin/tenants/ops/keys", "/elsewhere"] {
        assert_eq!(call(admin, "GET", path, &[], "").await.status, 401, "{path}");
        let refused = send(admin, "GET", path, &ops.infer, Value::Null).await;
        assert_eq!((refused.status, refused.code().as_str()), (403, "forbidden"), "{path}");
    }
    assert_eq!(ops.ask("GET", "/v2/models/good", Value::Null).await.status, 404);
    assert_eq!(ops.ask("PATCH", "/v2/admin/tenants", Value::Null).await.header("allow"), Some("GET"));
    // And nothing of it is on the data port, whoever asks.
    for key in [&ops.admin, &ops.infer] {
        for (method, path) in [
            ("GET", "/v2/admin/tenants"),
            ("PUT", "/v2/admin/tenants/evil"),
            ("POST", "/v2/admin/tenants/ops/keys"),
        ] {
            let answer = send(data, method, path, key, Value::Null).await;
            // Without the scope for the data port, which paths there are is not told either.
            assert!(
                answer.status == 404 && answer.code() == "not_found",
                "{method} {path}: {}",
                answer.status
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_key_the_admin_port_lets_nobody_in() {
    let folder = TempDir::new().expect("a temporary folder");
    let gateway = serve(folder.path()).await;
    assert_eq!(call(gateway.address(), "GET", "/v2", &[], "").await.status, 200);
    for method in ["GET", "PUT"] {
        let refused = call(gateway.admin_address(), method, "/v2/admin/tenants/acme", &[], "").await;
        assert_eq!((refused.status, refused.code().as_str()), (401, "unauthenticated"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_named() {
    let ops = Administered::serve().await;
    let keys = "/v2/admin/tenants/ops/keys";
    for (method, path, body, status, part) in [
        ("POST", keys, json!({ "scopes": [] }), 400, "at least one scope"),
        ("POST", keys, json!({ "scopes": ["everything"] }), 400, "infer, repository and admin"),
        ("POST", keys, json!({ "scopes": ["infer"], "lable": "x" }), 400, "lable"),
        ("POST", keys, json!({ "scopes": ["infer"], "expires_in": 0 }), 400, "expired"),
        ("POST", keys, Value::Null, 400, "scopes"),
        ("POST", keys, json!({ "scopes": ["infer"], "label": "x".repeat(65) }), 400, "label"),
        ("POST", "/v2/admin/tenants/nobody/keys", json!({ "scopes": ["infer"] }), 404, "nobody"),
        ("DELETE", "/v2/admin/tenants/ops/keys/0123456789abcdef", Value::Null, 404, "0123456789abcdef"),
        ("DELETE", "/v2/admin/tenants/ops/keys/x", Value::Null, 404, "nothing at this path"),
        ("PUT", "/v2/admin/tenants/..", Value::Null, 404, "nothing at this path"),
    ] {
        let answer = ops.ask(method, path, body.clone()).await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.error());
        assert!(answer.error().contains(part), "{method} {path}: {}", answer.error());
    }
    let one = json!({ "scopes": ["repository"] });
    for status in [200, 200, 409] {
        assert_eq!(ops.ask("POST", keys, one.clone()).await.status, status);
    }
}
