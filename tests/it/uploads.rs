//! Tenants upload models of their own, through the real listener.

mod limits;
mod loading;
mod shared;

use std::time::{Duration, Instant};

use airlock::{authenticate::Scope, digest::Digest};
use airlock_tests::{
    client::Answer,
    gateway::{Gateway, Repository},
    guest,
    store::{Caller, Store},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

const BOTH: [Scope; 2] = [Scope::Infer, Scope::Repository];

/// A guest that answers with a value of its own, so that one can tell which version answered.
fn constant(value: f32) -> Vec<u8> {
    let bytes = value.to_le_bytes();
    let escaped: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let fixture = format!(
        r#"
;; replaces: infer
(data (i32.const 1024) "\01\00\00\00\00\00\00\00{escaped}")
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (drop (call $echo (local.get $input)))
  (i32.store (i32.const 524) (i32.const 1024))
  (i32.store (i32.const 540) (i32.const 1032))
  (i32.store (i32.const 544) (i32.const 4))
  (call $ok (i32.const 512) (i32.const 1)))
"#
    );
    guest::module(&fixture).expect("a valid fixture")
}

fn answered(answer: &Answer) -> f64 {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()["outputs"][0]["data"][0].as_f64().expect("a number")
}

fn ok(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()
}

fn refused(answer: &Answer, status: u16, code: &str, told: &str) {
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{text}");
    assert!(answer.error().contains(told), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_called_a_moment_later_and_outlives_the_gateway() {
    let store = Store::default();
    let gateway = store.serve().await;
    let tenant = Caller::anybody(&gateway);
    let artifact = guest::good();
    let begun = Instant::now();
    let report = ok(&tenant.put("mine", "1", artifact.clone()).await);
    assert_eq!(answered(&tenant.infer("mine", 2.5).await), 2.5);
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert_eq!(report["digest"], Digest::of(&artifact).to_string());
    assert_eq!((&report["kind"], &report["state"]), (&json!("wasm"), &json!("READY")));
    assert_eq!(report["size"], artifact.len());
    assert_eq!(report["signature"]["inputs"][0]["name"], "INPUT0");
    assert!(report["load_ms"].is_u64());

    let listed = ok(&tenant.get("/v2/repository/models/mine").await);
    assert_eq!(listed["versions"][0]["digest"], report["digest"]);
    assert_eq!(ok(&tenant.get("/v2/repository/models").await), json!({ "models": ["mine"] }));
    let metadata = ok(&tenant.get("/v2/models/mine").await);
    assert_eq!(metadata["properties"]["namespace"], "tenant");

    gateway.stop(Duration::ZERO).await;
    let gateway = store.serve().await;
    assert_eq!(answered(&Caller::anybody(&gateway).infer("mine", 3.5).await), 3.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_version_never_changes_until_it_is_removed() {
    let store = Store::default();
    let gateway = store.serve().await;
    let tenant = Caller::anybody(&gateway);
    ok(&tenant.put("m", "1", constant(1.0)).await);
    ok(&tenant.put("m", "1", constant(1.0)).await);
    refused(&tenant.put("m", "1", constant(2.0)).await, 409, "version_exists", "use another version");
    assert_eq!(answered(&tenant.infer("m", 0.0).await), 1.0);
    ok(&tenant.put("m", "2", constant(2.0)).await);
    assert_eq!(answered(&tenant.infer("m", 0.0).await), 2.0);
    assert_eq!(answered(&tenant.infer("m/versions/1", 0.0).await), 1.0);

    let removed = tenant.send("DELETE", "/v2/repository/models/m/versions/2", &[], "").await;
    ok(&removed);
    assert_eq!(answered(&tenant.infer("m", 0.0).await), 1.0);
    assert_eq!(tenant.infer("m/versions/2", 0.0).await.status, 404);
    let again = tenant.send("DELETE", "/v2/repository/models/m/versions/2", &[], "").await;
    refused(&again, 404, "model_not_found", "version 2");
    ok(&tenant.put("m", "2", constant(3.0)).await);
    assert_eq!(answered(&tenant.infer("m", 0.0).await), 3.0);
    ok(&tenant.send("DELETE", "/v2/repository/models/m", &[], "").await);
    assert_eq!(tenant.infer("m", 0.0).await.status, 404);
    assert_eq!(ok(&tenant.get("/v2/repository/models").await), json!({ "models": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_model_is_refused_with_its_step_and_nothing_of_it_is_seen() {
    let store = Store::default();
    let gateway = store.serve().await;
    let tenant = Caller::anybody(&gateway);
    ok(&tenant.put("m", "1", constant(1.0)).await);
    let traps = guest::module(
        ";; replaces: load\n(func (export \"airlock:inference/plugin@0.1.0#load\") (param i32 i32 i32 i32) (result i32) unreachable)",
    )
    .expect("a valid fixture");
    for (artifact, step, told) in [
        (b"\x7fELF compiled".to_vec(), "check", "compiled code is not accepted"),
        (b"(module)".to_vec(), "check", "binary form"),
        (b"PK\x03\x04".to_vec(), "check", "archives are not accepted"),
        (b"hello".to_vec(), "check", "neither"),
        (b"\0asm\x01\0\0\0".to_vec(), "check", "it"),
        (vec![0x08, 0x07, 0x3a, 0xff], "", ""),
        (traps, "load", "the model aborted"),
    ] {
        let answer = tenant.put("m", "2", artifact).await;
        refused(&answer, 422, "model_rejected", told);
        let given = answer.json()["step"].as_str().unwrap_or_default().to_owned();
        assert!(step.is_empty() || given == step, "{given} {}", answer.error());
        assert!(!answer.error().contains('/') || !answer.error().contains("tmp"), "{}", answer.error());
        assert_eq!(tenant.get("/v2/models/m/versions/2").await.status, 404);
    }
    refused(&tenant.put("m", "2", "").await, 400, "bad_request", "empty");
    assert_eq!(answered(&tenant.infer("m", 0.0).await), 1.0);
    let staging = std::fs::read_dir(store.path().join("local/staging")).expect("the folder").count();
    assert_eq!(staging, 0, "something is left of the refused uploads");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_that_was_announced_is_checked() {
    let store = Store::default();
    let gateway = store.serve().await;
    let tenant = Caller::anybody(&gateway);
    let path = "/v2/repository/models/m/versions/1";
    let announced =
        |bytes: &[u8]| format!("sha-256=:{}:", BASE64_STANDARD.encode(Digest::of(bytes).as_bytes()));
    let artifact = guest::good();
    let wrong = announced(b"something else");
    let answer = tenant.send("PUT", path, &[("content-digest", &wrong)], artifact.clone()).await;
    refused(&answer, 400, "bad_request", "altered on its way");
    let answer = tenant.send("PUT", path, &[("content-digest", "md5=:AA==:")], artifact.clone()).await;
    refused(&answer, 400, "bad_request", "sha-256");
    let encoded = tenant.send("PUT", path, &[("content-encoding", "gzip")], artifact.clone()).await;
    refused(&encoded, 415, "unsupported_encoding", "Content-Encoding");
    let right = announced(&artifact);
    ok(&tenant.send("PUT", path, &[("content-digest", &right)], artifact).await);
}

fn multipart(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file_name, bytes) in parts {
        body.extend_from_slice(b"--frontier\r\ncontent-disposition: form-data; name=\"");
        body.extend_from_slice(name.as_bytes());
        body.push(b'"');
        if let Some(file_name) = file_name {
            body.extend_from_slice(format!("; filename=\"{file_name}\"").as_bytes());
        }
        body.extend_from_slice(b"\r\n\r\n");
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--frontier--\r\n");
    body
}

const MULTIPART: (&str, &str) = ("content-type", "multipart/form-data; boundary=frontier");

#[tokio::test(flavor = "multi_thread")]
async fn files_and_a_configuration_come_as_parts() {
    let store = Store::default();
    let gateway = store.serve().await;
    let tenant = Caller::anybody(&gateway);
    let artifact = guest::module(guest::LOADED).expect("a valid fixture");
    let weights = 7.5f32.to_le_bytes();
    let path = "/v2/repository/models/m/versions/1";
    let parts: [(&str, Option<&str>, &[u8]); 3] = [
        ("config", Some("model.toml"), b"max_batch_size = 1\n"),
        ("file", Some("weights.bin"), &weights),
        ("artifact", Some("model.wasm"), &artifact),
    ];
    let report = ok(&tenant.send("PUT", path, &[MULTIPART], multipart(&parts)).await);
    assert_eq!(report["files"][0]["name"], "weights.bin");
    assert_eq!(answered(&tenant.infer("m", 0.0).await), 7.5);
    let two = json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [2], "data": [1, 2] }] });
    refused(&tenant.post("/v2/models/m/infer", &two).await, 400, "bad_request", "batch-size must be <= 1");

    type Parts<'a> = Vec<(&'a str, Option<&'a str>, &'a [u8])>;
    let hostile: [(Parts, &str); 8] = [
        (vec![("file", Some("w"), b"x")], "the artifact is empty or missing"),
        (vec![("artifact", None, &artifact), ("artifact", None, &artifact)], "twice"),
        (vec![("artifact", None, &artifact), ("file", Some("../w"), b"x")], "cannot be a file's name"),
        (vec![("artifact", None, &artifact), ("file", None, b"x")], "needs a filename"),
        (vec![("artifact", None, &artifact), ("file", Some("w"), b"x"), ("file", Some("w"), b"y")], "twice"),
        (vec![("other", None, b"x")], "there is no part \"other\""),
        (vec![("config", None, b"\xff")], "not UTF-8"),
        (vec![], "the artifact is empty or missing"),
    ];
    for (parts, told) in hostile {
        let answer =
            tenant.send("PUT", "/v2/repository/models/m/versions/2", &[MULTIPART], multipart(&parts)).await;
        refused(&answer, 400, "bad_request", told);
    }
    let bad_config: Parts = vec![("artifact", None, &artifact), ("config", None, b"nonsense = 1")];
    let answer =
        tenant.send("PUT", "/v2/repository/models/m/versions/2", &[MULTIPART], multipart(&bad_config)).await;
    refused(&answer, 422, "model_rejected", "nonsense");
    for body in ["", "--frontier", "--frontier\r\n\r\n", "no boundary at all"] {
        let answer = tenant.send("PUT", "/v2/repository/models/m/versions/2", &[MULTIPART], body).await;
        assert_eq!(answer.status, 400, "{body:?}");
    }
    let boundless = [("content-type", "multipart/form-data")];
    assert_eq!(tenant.send("PUT", "/v2/repository/models/m/versions/2", &boundless, "x").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_neither_see_nor_reach_each_other() {
    let store = Store::default();
    let (acme, umbrella) = (store.key("acme", &BOTH).await, store.key("umbrella", &BOTH).await);
    let reader = store.key("acme", &[Scope::Infer]).await;
    let shared = Repository::default().with("shared", "1", "model.wasm", constant(100.0));
    let gateway = store.serve_with(shared).await;
    let (acme, umbrella) = (Caller::new(&gateway, &acme), Caller::new(&gateway, &umbrella));
    let reader = Caller::new(&gateway, &reader);
    ok(&acme.put("secret", "1", constant(1.0)).await);
    ok(&umbrella.put("same", "1", constant(2.0)).await);
    ok(&acme.put("same", "1", constant(3.0)).await);

    assert_eq!(answered(&acme.infer("same", 0.0).await), 3.0);
    assert_eq!(answered(&umbrella.infer("same", 0.0).await), 2.0);
    assert_eq!(answered(&reader.infer("secret", 0.0).await), 1.0);
    // Every door: the answer about a foreign model is the one about a model that nobody has, to the byte.
    let body = json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [0] }] });
    for (method, path) in [
        ("GET", "/v2/models/NAME"),
        ("GET", "/v2/models/NAME/versions/1"),
        ("GET", "/v2/models/NAME/ready"),
        ("GET", "/v2/models/NAME/versions/1/ready"),
        ("GET", "/v2/models/NAME/docs"),
        ("GET", "/v2/models/NAME/versions/1/docs/openapi.json"),
        ("POST", "/v2/models/NAME/infer"),
        ("POST", "/v2/models/NAME/versions/1/infer"),
        ("GET", "/v2/repository/models/NAME"),
        ("GET", "/v2/repository/models/NAME/settings"),
        ("GET", "/v2/repository/models/NAME/versions/1"),
        ("DELETE", "/v2/repository/models/NAME"),
        ("DELETE", "/v2/repository/models/NAME/versions/1"),
        ("POST", "/v2/repository/models/NAME/load"),
        ("POST", "/v2/repository/models/NAME/unload"),
    ] {
        let body = if path.ends_with("infer") { body.to_string() } else { String::new() };
        let foreign = umbrella.send(method, &path.replace("NAME", "secret"), &[], body.clone()).await;
        let missing = umbrella.send(method, &path.replace("NAME", "nobody"), &[], body).await;
        assert_eq!(foreign.status, 404, "{method} {path}: {}", String::from_utf8_lossy(&foreign.body));
        let text = String::from_utf8_lossy(&missing.body).replace("nobody", "secret");
        assert_eq!(text, String::from_utf8_lossy(&foreign.body), "{method} {path}");
        let names = |answer: &Answer| {
            answer.headers.keys().map(ToString::to_string).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(names(&missing), names(&foreign), "{method} {path}");
    }
    let index = umbrella.post("/v2/repository/index", &json!({})).await;
    assert!(!String::from_utf8_lossy(&index.body).contains("secret"));

    // The operator's model serves everybody until a tenant has one of the same name, and then everybody else.
    assert_eq!(answered(&umbrella.infer("shared", 0.0).await), 100.0);
    assert_eq!(ok(&umbrella.get("/v2/models/shared").await)["properties"]["namespace"], "shared");
    ok(&acme.put("shared", "1", constant(4.0)).await);
    assert_eq!(answered(&acme.infer("shared", 0.0).await), 4.0);
    assert_eq!(ok(&acme.get("/v2/models/shared").await)["properties"]["namespace"], "tenant");
    assert_eq!(answered(&umbrella.infer("shared", 0.0).await), 100.0);

    // A key that may only infer changes nothing.
    refused(&reader.put("x", "1", constant(1.0)).await, 403, "forbidden", "repository");
    let unload = umbrella.post("/v2/repository/models/shared/unload", &json!({})).await;
    assert_eq!(unload.status, 404, "the operator's model is not a tenant's to unload");
}

#[tokio::test(flavor = "multi_thread")]
async fn tritons_own_load_uploads_too() {
    let store = Store::default();
    let gateway = store.serve().await;
    let tenant = Caller::anybody(&gateway);
    let artifact = guest::module(guest::LOADED).expect("a valid fixture");
    let load = |files: &[(&str, &[u8])], config: Option<&str>| {
        let mut parameters = serde_json::Map::new();
        for (name, bytes) in files {
            parameters.insert((*name).to_owned(), json!(BASE64_STANDARD.encode(bytes)));
        }
        if let Some(config) = config {
            parameters.insert("config".into(), json!(config));
        }
        json!({ "parameters": parameters })
    };
    let weights = 1.5f32.to_le_bytes();
    let files: [(&str, &[u8]); 2] = [("file:1/model.wasm", &artifact), ("file:1/weights.bin", &weights)];
    ok(&tenant.post("/v2/repository/models/m/load", &load(&files, Some(r#"{"maxBatchSize": 8}"#))).await);
    assert_eq!(answered(&tenant.infer("m", 0.0).await), 1.5);
    ok(&tenant
        .post("/v2/repository/models/m/unload", &json!({"parameters": {"unload_dependents": false}}))
        .await);
    let unloaded = tenant.infer("m", 0.0).await;
    refused(&unloaded, 503, "model_not_ready", "unloaded");
    let index = tenant.post("/v2/repository/index", &json!({})).await.json();
    assert_eq!(index[0]["state"], "UNAVAILABLE", "{index}");
    assert_eq!(index[0]["reason"], "unloaded", "{index}");
    assert_eq!(tenant.post("/v2/repository/index", &json!({"ready": true})).await.json(), json!([]));
    ok(&tenant.post("/v2/repository/models/m/load", &json!({})).await);
    assert_eq!(answered(&tenant.infer("m", 0.0).await), 1.5);

    for (parameters, status, told) in [
        (load(&[("file:1", b"x")], None), 400, "file:VERSION/NAME"),
        (load(&[("weights", b"x")], None), 400, "file:VERSION/NAME"),
        (load(&[("file:../1/model.wasm", b"x")], None), 400, "is not a name"),
        (load(&[("file:2/a/model.wasm", b"x")], None), 400, "cannot be a file's name"),
        (load(&[], Some("{}")), 400, "needs the files"),
        (load(&[("file:2/model.wasm", b"x")], Some("{")), 422, "not JSON"),
        (json!({"parameters": {"file:2/model.wasm": "!"}}), 400, "base64"),
        (json!({"parameters": {"file:2/model.wasm": 1}}), 400, "load takes"),
        (json!([]), 400, "load takes"),
    ] {
        let answer = tenant.post("/v2/repository/models/m/load", &parameters).await;
        assert_eq!(answer.status, status, "{parameters} {}", answer.error());
        assert!(answer.error().contains(told), "{}", answer.error());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_choose_what_answers() {
    let store = Store::default();
    let gateway = store.serve().await;
    let tenant = Caller::anybody(&gateway);
    for version in ["1", "2", "3"] {
        ok(&tenant.put("m", version, constant(version.parse().expect("a number"))).await);
    }
    let settings = "/v2/repository/models/m/settings";
    let set = |value: Value| {
        let tenant = tenant.clone();
        async move { tenant.send("PUT", settings, &[], value.to_string()).await }
    };
    ok(&set(json!({ "default_version": "2", "aliases": { "stable": { "1": 1 }, "canary": { "2": 90, "3": 10 } } })).await);
    assert_eq!(answered(&tenant.infer("m", 0.0).await), 2.0);
    assert_eq!(answered(&tenant.infer("m/versions/stable", 0.0).await), 1.0);
    let mut counts = [0; 4];
    for _ in 0..100 {
        let value = answered(&tenant.infer("m/versions/canary", 0.0).await);
        counts[if value == 2.0 { 2 } else { 3 }] += 1;
    }
    assert!((85..=95).contains(&counts[2]), "{counts:?}");
    let mut seen = std::collections::BTreeSet::new();
    for session in 0..40 {
        let session = session.to_string();
        let body = json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [0] }] });
        let mut first = None;
        for _ in 0..3 {
            let answer = tenant
                .send(
                    "POST",
                    "/v2/models/m/versions/canary/infer",
                    &[("airlock-session", &session)],
                    body.to_string(),
                )
                .await;
            let value = answered(&answer).to_string();
            assert_eq!(first.get_or_insert_with(|| value.clone()), &value, "session {session}");
            seen.insert(value);
        }
    }
    assert_eq!(seen.len(), 2, "every session got the same version");

    // Names do not tell which is the latest; the order of publishing does.
    ok(&tenant.put("named", "zebra", constant(1.0)).await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    ok(&tenant.put("named", "ant", constant(2.0)).await);
    assert_eq!(answered(&tenant.infer("named", 0.0).await), 2.0);

    ok(&set(json!({ "version_policy": { "latest": 1 } })).await);
    assert_eq!(answered(&tenant.infer("m", 0.0).await), 3.0);
    assert_eq!(tenant.infer("m/versions/1", 0.0).await.status, 404);
    let listed = ok(&tenant.get("/v2/repository/models/m").await);
    assert_eq!(listed["versions"][0]["state"], "UNAVAILABLE");
    for (value, told) in [
        (json!({ "default_version": "9" }), "version 9 of 'm' is not published"),
        (json!({ "aliases": { "7": { "1": 1 } } }), "numbers are versions"),
        (json!({ "aliases": { "a": { "1": 0 } } }), "weight above 0"),
        (json!({ "aliases": { "a": {} } }), "weight above 0"),
        (json!({ "version_policy": { "latest": 0 } }), "at least 1"),
        (json!({ "colour": "red" }), "unknown field"),
    ] {
        refused(&set(value).await, 400, "bad_request", told);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_on_one_store_see_each_other_within_five_seconds() {
    let store = Store::default();
    let (one, two) = (store.serve().await, store.serve().await);
    let (here, there) = (Caller::anybody(&one), Caller::anybody(&two));
    ok(&here.put("m", "1", constant(1.0)).await);
    until(&there, "m", 200).await;
    assert_eq!(answered(&there.infer("m", 0.0).await), 1.0);
    ok(&there.send("DELETE", "/v2/repository/models/m", &[], "").await);
    until(&here, "m", 404).await;

    // One version name, published on both at the same time: one wins, and both serve what won.
    let (first, second) =
        tokio::join!(here.put("race", "1", constant(1.0)), there.put("race", "1", constant(2.0)));
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409], "{} {}", first.error(), second.error());
    let won = if first.status == 200 { 1.0 } else { 2.0 };
    until(&here, "race", 200).await;
    until(&there, "race", 200).await;
    assert_eq!(answered(&here.infer("race", 0.0).await), won);
    assert_eq!(answered(&there.infer("race", 0.0).await), won);
    let (first, second) =
        tokio::join!(here.put("equal", "1", constant(1.0)), there.put("equal", "1", constant(1.0)));
    assert_eq!([first.status, second.status], [200, 200], "{} {}", first.error(), second.error());
}

/// Waits until calling the model has that status; five seconds is what is promised.
async fn until(caller: &Caller<'_>, model: &str, status: u16) {
    let begun = Instant::now();
    loop {
        let answer = caller.infer(model, 0.0).await;
        if answer.status == status {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{model} is {} after 5 s", answer.status);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_s_model_hides_a_shared_one_before_it_is_loaded_and_goes_with_its_tenant() {
    let store = Store::default();
    let key = store.key("acme", &BOTH).await;
    let shared = || Repository::default().with("same", "1", "model.wasm", constant(100.0));
    let gateway = store.serve_with(shared()).await;
    ok(&Caller::new(&gateway, &key).put("same", "1", constant(1.0)).await);
    gateway.stop(Duration::ZERO).await;
    // Whatever is loaded first: the shared model never answers in its place.
    let gateway = Gateway::serve_unready(shared(), |settings| settings.store = Some(store.location())).await;
    let tenant = Caller::new(&gateway, &key);
    for _ in 0..200 {
        let answer = tenant.infer("same", 0.0).await;
        if answer.status == 200 {
            assert_eq!(answered(&answer), 1.0);
            break;
        }
        assert_eq!(answer.status, 503, "{}", answer.error());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(answered(&tenant.infer("same", 0.0).await), 1.0);

    let removed = store.airlock(&["tenant", "remove", "acme"]);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    let again = store.airlock(&["tenant", "create", "acme"]);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("choose another"));
    let begun = Instant::now();
    let acme = "acme".parse().expect("a name");
    while !gateway.uploads().expect("a store").models(&acme).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(5), "the removed tenant's model is still served");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_a_store_says_so() {
    let gateway = Gateway::serve(Repository::default().with("good", "1", "model.wasm", guest::good())).await;
    let tenant = Caller::anybody(&gateway);
    refused(&tenant.put("m", "1", guest::good()).await, 501, "uploads_disabled", "--store");
    refused(&tenant.get("/v2/repository/models").await, 501, "uploads_disabled", "--store");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_change_settings_at_once_do_not_undo_each_other_unseen() {
    let store = Store::default();
    let (gateway, second) = (store.serve().await, store.serve().await);
    let tenant = Caller::anybody(&gateway);
    ok(&tenant.put("m", "1", constant(1.0)).await);
    let path = "/v2/repository/models/m/settings";
    let put = async |caller: &Caller<'_>, etag: &str, latest: u32| {
        let settings = json!({ "version_policy": { "latest": latest } }).to_string();
        caller.send("PUT", path, &[("if-match", etag)], settings).await
    };
    let seen = async |caller: &Caller<'_>| {
        let answer = caller.get(path).await;
        answer.header("etag").expect("an ETag").to_owned()
    };
    let none = seen(&tenant).await;
    let first = put(&tenant, &none, 1).await;
    ok(&first);
    refused(&put(&tenant, &none, 2).await, 412, "changed_meanwhile", "look again");
    let etag = seen(&tenant).await;
    assert_eq!(first.header("etag"), Some(etag.as_str()));
    ok(&put(&tenant, &etag, 2).await);

    // Another gateway that has not looked at the store since compares with what is there all the same.
    let other = Caller::anybody(&second);
    let begun = Instant::now();
    while other.get(path).await.status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    refused(&put(&other, &etag, 3).await, 412, "changed_meanwhile", "somebody else");
    let etag = seen(&other).await;
    assert_eq!(etag, seen(&tenant).await, "after a refusal it knows");
    ok(&put(&other, &etag, 4).await);
    // Who does not ask for it is not held up.
    ok(&put(&tenant, "*", 5).await);
    let settings = json!({ "version_policy": "all" }).to_string();
    ok(&tenant.send("PUT", path, &[], settings).await);
    refused(&put(&tenant, "5", 1).await, 400, "bad_request", "If-Match");
}
