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
    for path in [
        "/v2/admin/tenants",
        "/v2/admin/tenants/ops/keys",
        "/v2/admin/tenants/ops/limits",
        "/v2/admin/usage",
        "/v2/admin/ledger",
        "/v2/admin/keys",
        "/elsewhere",
    ] {
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
        ("PUT", "/v2/admin/tenants/new", json!({ "models": -1 }), 400, "limits: models"),
        (
            "PUT",
            "/v2/admin/tenants/new",
            json!({ "running": 1000 }),
            400,
            "the gateway's own 128 (--max-running)",
        ),
        ("GET", "/v2/admin/tenants/new", Value::Null, 404, "there is no tenant 'new'"),
        ("GET", "/v2/admin/tenants/new/limits", Value::Null, 404, "there is no tenant 'new'"),
        ("PUT", "/v2/admin/tenants/new/limits", json!({}), 404, "there is no tenant 'new'"),
        ("PUT", "/v2/admin/tenants/ops/limits", Value::Null, 400, "limits: expected a JSON object"),
        ("PUT", "/v2/admin/tenants/ops/limits", json!({ "sotrage": 1 }), 400, "sotrage"),
        (
            "PUT",
            "/v2/admin/tenants/ops/limits",
            json!({ "deadline": "3s" }),
            400,
            "above the gateway's own 2s (--deadline)",
        ),
        (
            "PUT",
            "/v2/admin/tenants/ops/limits",
            json!({ "max_body": "65MiB" }),
            400,
            "own 64MiB (--max-body)",
        ),
        ("GET", "/v2/admin/ledger?lines=5", Value::Null, 400, "tenant, since, until and limit"),
        ("GET", "/v2/admin/ledger?limit=0", Value::Null, 400, "1 to 10000"),
        ("GET", "/v2/admin/ledger?since=yesterday", Value::Null, 400, "since"),
        ("GET", "/v2/admin/ledger?tenant=../a", Value::Null, 400, "is not a name"),
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

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_as_a_whole_and_nobody_undoes_another_s_change_unseen() {
    let ops = Administered::serve().await;
    let path = "/v2/admin/tenants/acme/limits";
    let made = ops.ask("PUT", "/v2/admin/tenants/acme", json!({ "storage": "10GiB" })).await;
    assert_eq!((made.status, &made.json()["limits"]), (200, &json!({ "storage": 10_u64 << 30 })));
    let seen = ops.ask("GET", path, Value::Null).await;
    assert_eq!(seen.json(), json!({ "storage": 10_u64 << 30 }));
    let first = seen.header("etag").expect("an ETag").to_owned();

    let put = async |etag: &str, limits: Value| {
        let headers = [("authorization", ops.admin.as_str()), ("if-match", etag)];
        call(ops.gateway.admin_address(), "PUT", path, &headers, limits.to_string()).await
    };
    let changed = put(&first, json!({ "models": 1, "deadline": "500ms" })).await;
    assert_eq!(changed.status, 200, "{}", changed.error());
    let second = changed.header("etag").expect("an ETag").to_owned();
    assert_ne!(first, second);
    let late = put(&first, json!({ "models": 7 })).await;
    assert_eq!((late.status, late.code().as_str()), (412, "changed_meanwhile"));
    assert!(late.error().contains("look again"), "{}", late.error());
    assert_eq!(put("\"never\"", json!({})).await.code(), "bad_request");

    let shown = ops.ask("GET", "/v2/admin/tenants/acme", Value::Null).await;
    assert_eq!(shown.header("etag"), Some(second.as_str()));
    let shown = shown.json();
    assert_eq!(shown["limits"], json!({ "models": 1, "deadline": "500ms" }));
    for (limit, value) in [
        ("models", json!(1)),
        ("versions", json!(5)),
        ("storage", json!(2_u64 << 30)),
        ("deadline", json!("500ms")),
        ("rate", json!(50.0)),
    ] {
        assert_eq!(shown["quota"][limit], value, "{limit}");
    }
    assert_eq!(shown["kept"], json!({ "models": 0, "versions": 0, "storage": 0, "loaded": 0 }));

    assert_eq!(put(&second, json!({ "models": 2 })).await.status, 200);
    assert_eq!(put("*", json!({ "models": 3 })).await.status, 200);
    assert_eq!(ops.ask("PUT", path, json!({})).await.json(), json!({}));
    assert_eq!(ops.ask("DELETE", "/v2/admin/tenants/acme", Value::Null).await.status, 200);
    assert_eq!(ops.ask("PUT", path, json!({})).await.code(), "tenant_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_are_set_over_http_bind_the_next_requests() {
    let ops = Administered::serve().await;
    let body = json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1.0] }] });
    let infer = async || {
        let path = "/v2/models/good/infer";
        send(ops.gateway.address(), "POST", path, &ops.infer, body.clone()).await.status
    };
    assert_eq!(infer().await, 200);
    let limits = json!({ "rate": 0.001, "burst": 1 });
    assert_eq!(ops.ask("PUT", "/v2/admin/tenants/ops/limits", limits).await.status, 200);
    within_five_seconds(async || infer().await == 429).await;
    assert_eq!(ops.ask("PUT", "/v2/admin/tenants/ops/limits", json!({})).await.status, 200);
    within_five_seconds(async || infer().await == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tenants_use_and_keep_is_told() {
    let ops = Administered::serve().await;
    let put = ops.ask("POST", "/v2/admin/tenants/ops/keys", json!({ "scopes": ["repository"] })).await.json();
    let bearer = format!("Bearer {}", put["key"].as_str().expect("a key"));
    let path = "/v2/repository/models/mine/versions/1";
    let upload = async || {
        let headers = [("authorization", bearer.as_str())];
        call(ops.gateway.address(), "PUT", path, &headers, guest::good()).await.status
    };
    within_five_seconds(async || upload().await == 200).await;
    let kept = ops.ask("GET", "/v2/admin/tenants/ops", Value::Null).await.json()["kept"].clone();
    assert_eq!((&kept["models"], &kept["versions"]), (&json!(1), &json!(1)));
    assert_eq!(kept["storage"], guest::good().len());
    assert!(kept["loaded"].as_u64().is_some_and(|bytes| bytes > 0), "{kept}");

    for path in ["/v2/models/good/infer", "/v2/models/nobody/infer"] {
        send(ops.gateway.address(), "POST", path, &ops.infer, json!({})).await;
    }
    let usage = ops.ask("GET", "/v2/admin/usage", Value::Null).await.json();
    assert_eq!((&usage["tenants"][0]["tenant"], &usage["tenants"][0]["calls"]), (&json!("ops"), &json!(2)));
    let lines = async |query: &str| -> Vec<Value> {
        let answer = ops.ask("GET", &format!("/v2/admin/ledger{query}"), Value::Null).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/x-ndjson")));
        let text = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    within_five_seconds(async || lines("").await.len() == 2).await;
    let all = lines("?tenant=ops&since=0&limit=10").await;
    assert_eq!((&all[0]["tenant"], &all[0]["calls"]), (&json!("ops"), &json!(1)));
    assert!(all[0]["instance"].as_str().is_some_and(|instance| instance.len() == 32));
    assert_eq!(lines("?limit=1").await, all[1..]);
    assert!(lines("?tenant=other").await.is_empty() && lines("?until=1000").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_all_tenants_are_listed_and_revoked_by_their_id_alone() {
    let ops = Administered::serve().await;
    assert_eq!(ops.ask("PUT", "/v2/admin/tenants/acme", Value::Null).await.status, 200);
    let made = ops.ask("POST", "/v2/admin/tenants/acme/keys", json!({ "scopes": ["infer"] })).await.json();
    let keys = ops.ask("GET", "/v2/admin/keys", Value::Null).await.json();
    let tenants: Vec<_> = keys["keys"].as_array().expect("a list").iter().map(|key| &key["tenant"]).collect();
    assert_eq!(tenants, ["acme", "ops", "ops"]);
    let path = format!("/v2/admin/keys/{}", made["id"].as_str().expect("an id"));
    let revoked = ops.ask("DELETE", &path, Value::Null).await.json();
    assert_eq!((&revoked["tenant"], &revoked["state"]), (&json!("acme"), &json!("revoked")));
    assert_eq!(
        ops.ask("DELETE", "/v2/admin/keys/0123456789abcdef", Value::Null).await.code(),
        "key_not_found"
    );
}
