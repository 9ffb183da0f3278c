//! `airlock tenant` and `airlock key` on a store, and a gateway that follows them.

use std::{
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use airlock_tests::{
    client::{call, get},
    gateway::{Gateway, Repository, binary},
    guest,
    process::Process,
};
use serde_json::{Value, json};

/// Runs `airlock` on the store in a folder.
fn airlock(store: &Path, arguments: &[&str]) -> Output {
    Command::new(binary())
        .args(arguments)
        .env("AIRLOCK_STORE", store)
        .env_remove("AIRLOCK_STATE")
        .env_remove("AIRLOCK_SECRET_FILE")
        .output()
        .expect("the binary starts")
}

fn good(store: &Path, arguments: &[&str]) -> String {
    let output = airlock(store, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

fn bad(store: &Path, arguments: &[&str]) -> String {
    let output = airlock(store, arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{arguments:?}: {error}");
    assert!(output.stdout.is_empty() && !error.contains("panicked"), "{error}");
    error
}

#[test]
fn the_key_stands_alone_on_stdout_and_nowhere_else() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = folder.path();
    assert!(good(store, &["tenant", "create", "acme"]).contains("is created"));
    assert!(good(store, &["tenant", "create", "acme"]).contains("is there already"));
    let output = airlock(store, &["key", "create", "--tenant", "acme", "--scope", "infer,repository"]);
    let key = String::from_utf8(output.stdout).expect("text");
    let told = String::from_utf8(output.stderr).expect("text");
    let key = key.strip_suffix('\n').expect("one line");
    assert!(key.starts_with("ak_") && key.len() == 93, "{key}");
    let parts: Vec<&str> = key.split('_').collect();
    assert!(told.contains(parts[1]) && told.contains("infer repository"), "{told}");
    let listed = good(store, &["key", "list"]);
    assert!(listed.contains(parts[1]) && listed.contains("live"), "{listed}");
    assert!(!listed.contains(&parts[2][..8]) && !told.contains(&parts[2][..8]));
    assert_nowhere(store, parts[2]);
}

/// No file in a folder has a part of a key's secret.
fn assert_nowhere(folder: &Path, secret: &str) {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path).expect("a file");
                let found = bytes.windows(16).any(|window| window == &secret.as_bytes()[..16]);
                assert!(!found, "{}", path.display());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_used_is_in_no_log_no_file_and_no_core_dump() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = folder.path();
    good(store, &["tenant", "create", "acme"]);
    let key = good(store, &["key", "create", "--tenant", "acme", "--scope", "infer,repository"]);
    let secret = key.split('_').nth(2).expect("a secret");
    let process = Process::serve(&["--store", store.to_str().expect("UTF-8"), "--log", "trace"]);
    let bearer = format!("Bearer {key}");
    // Right, mistyped and in the wrong place.
    for (path, authorization, status) in [
        ("/v2/models/m/infer", &bearer, 200),
        ("/v2/models/m", &bearer, 200),
        ("/v2/models/nobody", &bearer, 404),
        ("/v2/models/m", &bearer[..bearer.len() - 1].to_owned(), 401),
        ("/v2/models/m", &key, 401),
        (&format!("/v2/models/m?key={key}"), &String::new(), 400),
    ] {
        let headers = [("authorization", authorization.as_str())];
        if status == 200 {
            let upload = "/v2/repository/models/m/versions/1";
            assert_eq!(call(process.address, "PUT", upload, &headers, guest::good()).await.status, 200);
        }
        let body = r#"{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"data":[1]}]}"#;
        let (method, body) = if path.ends_with("/infer") { ("POST", body) } else { ("GET", "") };
        assert_eq!(call(process.address, method, path, &headers, body).await.status, status, "{path}");
    }
    // Too little for a core file, and the kernel's word for none at all where dumps are piped to a program. Who is not allowed
    // one anyway keeps his 0.
    let core = process.limit("Max core file size").expect("a limit");
    assert!(["1", "0"].contains(&core.split_whitespace().next().expect("a value")), "{core}");
    assert_eq!(core.split_whitespace().nth(1), core.split_whitespace().next(), "it could be raised: {core}");
    process.signal("INT");
    let (code, _, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("/v2/") || log.contains("acme"), "the log says nothing: {log}");
    assert!(!log.contains(&secret[..16]), "the key is in the log");
    assert_nowhere(store, secret);
}

#[test]
fn lists_are_json_if_asked_and_mistakes_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = folder.path();
    let json = |arguments: &[&str]| -> Value {
        let arguments = [arguments, &["--output", "json"]].concat();
        serde_json::from_str(&good(store, &arguments)).expect("JSON")
    };
    assert_eq!(json(&["tenant", "create", "acme"])["new"], true);
    let made = json(&["key", "create", "--tenant", "acme", "--label", "laptop", "--expires", "90d"]);
    let id = made["id"].as_str().expect("an id");
    assert!(made["key"].as_str().is_some_and(|key| key.contains(id)));
    let days = made["expires"].as_u64().expect("seconds") - made["created"].as_u64().expect("seconds");
    assert_eq!(days, 90 * 24 * 3600);
    assert_eq!(json(&["key", "revoke", id])["state"], "revoked");
    let keys = json(&["key", "list", "--tenant", "acme"]);
    assert_eq!(
        (&keys[0]["id"], &keys[0]["state"], &keys[0]["label"]),
        (&made["id"], &"revoked".into(), &"laptop".into())
    );
    assert!(keys[0].get("key").is_none());
    assert_eq!(json(&["tenant", "list"])[0]["tenant"], "acme");
    assert_eq!(json(&["tenant", "remove", "acme"])["revoked_keys"], 0);
    assert_eq!(json(&["tenant", "list"]).as_array().map(Vec::len), Some(0));

    for (arguments, part) in [
        (&["key", "create", "--tenant", "acme"][..], "airlock tenant create acme"),
        (&["key", "create", "--tenant", "acme", "--scope", "everything"], "infer, repository and admin"),
        (&["key", "create", "--tenant", "../acme"], "is not a name"),
        (&["key", "revoke", "0123456789abcdef"], "0123456789abcdef"),
        (&["key", "revoke", "ak_0123"], "16 hex digits"),
        (&["tenant", "remove", "nobody"], "nobody"),
        (&["tenant", "create", "acme"], "choose another one"),
        (&["tenant", "create", "new", "--limit", "store=1GiB"], "they are rate, burst"),
        (&["tenant", "create", "new", "--limit", "storage"], "LIMIT=VALUE"),
        (&["tenant", "create", "new", "--limit", "deadline=0s"], "deadline: "),
        (&["tenant", "show", "acme"], "there is no tenant 'acme'"),
        (&["tenant", "limits", "acme", "--set", "models=3"], "there is no tenant 'acme'"),
        (&["tenant", "limits", "acme", "--unset", "store"], "they are rate, burst"),
    ] {
        let error = bad(store, arguments);
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    let unsaid = Command::new(binary()).args(["key", "list"]).env_remove("AIRLOCK_STORE").output();
    let unsaid = unsaid.expect("the binary starts");
    assert!(String::from_utf8_lossy(&unsaid.stderr).contains("--store DIR"));
    // The flags may stand behind the command as well.
    let named = ["key", "list", "--store", store.to_str().expect("UTF-8")];
    let named = Command::new(binary()).args(named).env_remove("AIRLOCK_STORE").output();
    assert!(named.expect("the binary starts").status.success());
    for _ in 0..2 {
        good(store, &["tenant", "create", "umbrella"]);
        good(store, &["key", "create", "--tenant", "umbrella"]);
    }
    assert!(bad(store, &["key", "create", "--tenant", "umbrella"]).contains("revoke one first"));
}

#[test]
fn limits_are_given_and_taken_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = folder.path();
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&good(store, &[arguments, &["--output", "json"]].concat())).expect("JSON")
    };
    let made = json(&["tenant", "create", "acme", "--limit", "storage=10GiB", "--limit", "rate=0.5"]);
    assert_eq!(made["limits"], json!({ "storage": 10_u64 << 30, "rate": 0.5 }));
    good(store, &["tenant", "create", "acme", "--limit", "rate=7"]);
    assert_eq!(json(&["tenant", "limits", "acme"]), made["limits"], "one that is there stays as it is");
    let changed = json(&["tenant", "limits", "acme", "--set", "guest-memory=16MiB", "--unset", "storage"]);
    assert_eq!(changed, json!({ "guest_memory": 16 << 20, "rate": 0.5 }));
    for command in ["show", "limits"] {
        let text = good(store, &["tenant", command, "acme"]);
        assert!(text.contains("guest_memory  16MiB") && !text.contains("storage"), "{text}");
    }
    assert!(good(store, &["tenant", "list"]).contains("rate=0.5 guest_memory=16MiB"));
    let open = good(store, &["tenant", "limits", "acme", "--unset", "rate", "--unset", "guest_memory"]);
    assert!(open.contains("has the gateway's"), "{open}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_admin_port_the_commands_do_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = folder.path();
    good(store, &["tenant", "create", "ops"]);
    let key = good(store, &["key", "create", "--tenant", "ops", "--scope", "admin"]);
    let infer = good(store, &["key", "create", "--tenant", "ops"]);
    let location = store.to_str().expect("UTF-8").parse().expect("a location");
    let gateway =
        Gateway::serve_with(Repository::default(), |settings| settings.store = Some(location)).await;
    let url = format!("http://{}", gateway.admin_address());
    let run = |key: &str, arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.args(arguments).args(["--url", &url]).env_clear().env("HOME", store);
        // The gateway named on the command line counts, not the store that the environment names.
        command.env("AIRLOCK_STORE", store.join("elsewhere")).env("AIRLOCK_API_KEY", key);
        command.output().expect("the binary starts")
    };
    let text = |arguments: &[&str]| {
        let output = run(&key, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    };
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&text(&[arguments, &["--output", "json"]].concat())).expect("JSON")
    };
    assert_eq!(text(&["tenant", "create", "acme", "--limit", "models=3"]), "tenant 'acme' is created");
    assert!(text(&["tenant", "create", "acme"]).contains("is there already"));
    let changed = json(&["tenant", "limits", "acme", "--set", "deadline=500ms", "--set", "burst=7"]);
    assert_eq!(changed, json!({ "models": 3, "deadline": "500ms", "burst": 7 }));
    assert_eq!(json(&["tenant", "limits", "acme", "--unset", "burst"]).get("burst"), None);
    let shown = text(&["tenant", "show", "acme"]);
    for row in [
        "LIMIT         OWN    IN FORCE  KEPT",
        "models        3      3         0",
        "versions      -      5         0",
    ] {
        assert!(shown.contains(row), "{shown}");
    }
    let made = json(&["key", "create", "--tenant", "acme", "--label", "laptop", "--expires", "1d"]);
    let id = made["id"].as_str().expect("an id");
    let day = made["expires"].as_u64().expect("seconds") - made["created"].as_u64().expect("seconds");
    assert!((86_390..=86_400).contains(&day), "{day}");
    assert!(text(&["key", "create", "--tenant", "acme", "--scope", "repository"]).starts_with("ak_"));
    let listed = text(&["key", "list"]);
    assert!(listed.contains(id) && listed.contains("laptop") && listed.contains("ops"), "{listed}");
    assert_eq!(json(&["key", "list", "--tenant", "acme"]).as_array().map(Vec::len), Some(2));
    assert!(text(&["key", "revoke", id]).contains("of tenant 'acme' is revoked"));
    assert_eq!(json(&["tenant", "list"]).as_array().map(Vec::len), Some(2));
    assert!(text(&["usage", "--all"]).starts_with("since "));
    assert_eq!(json(&["usage", "--all"])["tenants"], json!([]));
    assert_eq!(json(&["tenant", "remove", "acme"])["revoked_keys"], 1);
    // Both are the same records.
    assert!(!good(store, &["tenant", "list"]).contains("acme"));

    for (key, arguments, code, part) in [
        (
            &key,
            &["tenant", "limits", "ops", "--set", "deadline=3s"][..],
            1,
            "the gateway's own 2s (--deadline)",
        ),
        (&key, &["tenant", "show", "acme"], 1, "[tenant_not_found]"),
        (&infer, &["tenant", "list"], 1, "[forbidden]"),
        (&key, &["tenant", "create", "../x"], 2, "is not a name"),
    ] {
        let output = run(key, arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty() && error.contains(part), "{error}");
    }
    gateway.stop(Duration::ZERO).await;
    assert_eq!(run(&key, &["tenant", "list"]).status.code(), Some(3));
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary folder");
    good(folder.path(), &["tenant", "create", "acme"]);
    let secret = folder.path().join("local/secret");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&secret), mode(&folder.path().join("local"))), (0o600, 0o700));
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    assert!(bad(folder.path(), &["tenant", "list"]).contains("chmod 600"));
}

#[test]
fn another_secret_than_the_store_s_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = folder.path();
    good(store, &["tenant", "create", "acme"]);
    let other = store.join("other");
    let other = other.to_str().expect("UTF-8");
    for arguments in
        [&["tenant", "create", "evil"][..], &["key", "create", "--tenant", "acme"], &["key", "list"]]
    {
        let error = bad(store, &[arguments, &["--secret-file", other]].concat());
        assert!(error.contains("this gateway's secret is not the one"), "{error}");
    }
    assert!(!good(store, &["tenant", "list"]).contains("evil"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_gateway_follows_the_store_within_five_seconds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = folder.path();
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good());
    let location = store.to_str().expect("UTF-8").parse().expect("a location");
    let gateway = Gateway::serve_with(repository, |settings| settings.store = Some(location)).await;
    let at = gateway.address();
    assert_eq!(get(at, "/v2/models/good").await.status, 200, "no key yet: loopback is the tenant `default`");

    good(store, &["tenant", "create", "acme"]);
    let key = good(store, &["key", "create", "--tenant", "acme"]);
    let made = Instant::now();
    let bearer = format!("Bearer {key}");
    let status = async || call(at, "GET", "/v2", &[("authorization", &bearer)], "").await.status;
    // A look at the store may see that there is a key, and not yet whose: then nobody is let in until the next one.
    while get(at, "/v2").await.status != 401 || status().await != 200 {
        assert!(made.elapsed() < Duration::from_secs(5), "the first key is not in force");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let id = key.split('_').nth(1).expect("an id");
    good(store, &["key", "revoke", id]);
    let revoked = Instant::now();
    while status().await != 401 {
        assert!(revoked.elapsed() < Duration::from_secs(5), "the revocation is not in force");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(get(at, "/v2").await.status, 401, "revoking the last key opens nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_a_key_has_to_be_there_first() {
    use airlock::{
        config::{Config, Settings},
        server,
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good());
    let settings = || Settings {
        model_repository: Some(repository.path().into()),
        http: Some(([0, 0, 0, 0], 0).into()),
        admin: Some(([127, 0, 0, 1], 0).into()),
        store: Some(folder.path().to_str().expect("UTF-8").parse().expect("a location")),
        ..Settings::default()
    };
    let config = || Config::try_from(settings()).expect("a valid configuration");
    let error = server::start(config()).await.expect_err("no key").to_string();
    assert!(error.contains("airlock key create"), "{error}");
    good(folder.path(), &["tenant", "create", "acme"]);
    good(folder.path(), &["key", "create", "--tenant", "acme"]);
    let server = server::start(config()).await.expect("with a key it starts");
    server.stop(Duration::ZERO).await;
}
