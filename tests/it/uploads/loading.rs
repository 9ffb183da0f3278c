//! Loading what others published: what is learned meanwhile, what fails for reasons of the machine's, what is compiled once.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use airlock::config::Settings;
use airlock_tests::{
    gateway::{Gateway, Repository, binary},
    guest,
    process::script,
    store::{Caller, Store},
};
use serde_json::json;
use tempfile::TempDir;

use super::{BOTH, answered, constant, ok, refused};

/// Another gateway on a store, with a state of its own and so no compiled code yet, and with a script in the worker's place.
async fn serve(store: &Store, state: &Path, worker: &str) -> Gateway {
    serve_with(Repository::default(), store, state, worker).await
}

/// The same, with models of the operator's.
async fn serve_with(repository: Repository, store: &Store, state: &Path, worker: &str) -> Gateway {
    let settings = Settings {
        model_repository: Some(repository.path().into()),
        store: Some(store.location()),
        state: Some(state.join("state")),
        secret_file: Some(store.path().join("local/secret")),
        ..Settings::default()
    };
    Gateway::serve_with_worker(repository, settings, script(state, worker)).await
}

/// The script's last words: what the real worker does.
fn the_real_one() -> String {
    format!("exec '{}' \"$@\"", binary().display())
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}: not after 30 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_learned_of_a_model_while_it_loads_has_its_turn_afterwards() {
    let store = Store::default();
    let one = store.serve().await;
    let here = Caller::anybody(&one);
    ok(&here.put("m", "1", constant(1.0)).await);

    let folder = TempDir::new().expect("a temporary folder");
    let (gate, begun) = (folder.path().join("gate"), folder.path().join("begun"));
    let worker = format!(
        "echo >> '{}'\n[ -p '{gate}' ] && cat '{gate}'\n{}",
        begun.display(),
        the_real_one(),
        gate = gate.display()
    );
    let two = serve(&store, folder.path(), &worker).await;
    let there = Caller::anybody(&two);
    assert_eq!(answered(&there.infer("m", 0.0).await), 1.0);

    // The second version loads for as long as the gate is closed.
    assert!(Command::new("mkfifo").arg(&gate).status().expect("mkfifo runs").success());
    ok(&here.put("m", "2", constant(2.0)).await);
    let workers = async || fs::read_to_string(&begun).expect("the first one wrote it").lines().count();
    until("the second worker", async || workers().await == 2).await;
    let settings = json!({ "default_version": "1" }).to_string();
    ok(&here.send("PUT", "/v2/repository/models/m/settings", &[], settings).await);
    let learned = async || ok(&there.get("/v2/repository/models/m/settings").await)["default_version"] == "1";
    until("the settings", learned).await;
    assert_eq!(there.infer("m/versions/2", 0.0).await.status, 503);
    let writer = fs::OpenOptions::new().write(true).open(&gate).expect("the worker reads");
    fs::remove_file(&gate).expect("the gate");
    drop(writer);

    until("the second version", async || there.infer("m/versions/2", 0.0).await.status == 200).await;
    assert_eq!(answered(&there.infer("m/versions/2", 0.0).await), 2.0);
    until("the settings' turn", async || answered(&there.infer("m", 0.0).await) == 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_machine_could_not_load_is_tried_again_and_what_cannot_be_loaded_is_not() {
    let store = Store::default();
    let one = store.serve().await;
    let here = Caller::anybody(&one);
    let folder = TempDir::new().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("faulty"), constant(3.0)).expect("a writable folder");
    ok(&here.put("unlucky", "1", constant(1.0)).await);
    ok(&here.put("faulty", "1", constant(3.0)).await);
    one.stop(Duration::ZERO).await;

    let worker = format!(
        "cmp -s artifact '{}' && {{ echo >> '{}'; exit 101; }}\n\
         seen='{}'-$(cksum < artifact | cut -d ' ' -f 1)\n[ -e \"$seen\" ] || {{ echo > \"$seen\"; kill -9 $$; }}\n{}",
        path("faulty"),
        path("attempts"),
        path("killed"),
        the_real_one()
    );
    let shared = Repository::default().with("shared", "1", "model.wasm", constant(4.0));
    let two = serve_with(shared, &store, folder.path(), &worker).await;
    let there = Caller::anybody(&two);
    refused(&there.infer("shared", 0.0).await, 503, "model_not_ready", "tried again in 5s");
    let unlucky = there.infer("unlucky", 0.0).await;
    refused(&unlucky, 503, "model_not_ready", "killed from outside");
    refused(&unlucky, 503, "model_not_ready", "tried again in 5s");
    refused(&there.infer("faulty", 0.0).await, 503, "model_not_ready", "by a panic");
    until("another attempt", async || there.infer("unlucky", 0.0).await.status == 200).await;
    assert_eq!(answered(&there.infer("unlucky", 0.0).await), 1.0);
    until("the operator's", async || there.infer("shared", 0.0).await.status == 200).await;
    assert_eq!(answered(&there.infer("shared", 0.0).await), 4.0);
    refused(&there.infer("faulty", 0.0).await, 503, "model_not_ready", "by a panic");
    let attempts = fs::read_to_string(path("attempts")).expect("the script wrote it");
    assert_eq!(attempts.lines().count(), 1);
}

/// What a worker says or does that says nothing of the model: the code that an upload is then answered with, a part of its
/// text, and what is told of a version that others published.
const NOT_NOW: [(&str, &str, &str, &str); 2] = [
    ("kill -9 $$", "cannot_load_now", "killed from outside", "killed from outside"),
    (
        r#"echo '{"refused":{"step":"compile","reason":"no room","no_room":true}}'; exit 0"#,
        "disk_unavailable",
        "disk",
        "disk is not available",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn unload_and_load_try_at_once_what_this_machine_could_not_load() {
    for (fault, _, _, told) in NOT_NOW {
        let store = Store::default();
        let one = store.serve().await;
        ok(&Caller::anybody(&one).put("m", "1", constant(1.0)).await);
        one.stop(Duration::ZERO).await;
        let folder = TempDir::new().expect("a temporary folder");
        let healed = folder.path().join("healed");
        let worker = format!("[ -e '{}' ] || {{ {fault}; }}\n{}", healed.display(), the_real_one());
        let two = serve(&store, folder.path(), &worker).await;
        let there = Caller::anybody(&two);
        refused(&there.infer("m", 0.0).await, 503, "model_not_ready", told);
        fs::write(&healed, "").expect("a writable folder");
        for change in ["unload", "load"] {
            let path = format!("/v2/repository/models/m/{change}");
            ok(&there.send("POST", &path, &[], "").await);
        }
        assert_eq!(answered(&there.infer("m", 0.0).await), 1.0, "{fault}: not at once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_the_machine_fails_is_not_at_fault() {
    for (fault, code, part, _) in NOT_NOW {
        let (store, folder) = (Store::default(), TempDir::new().expect("a temporary folder"));
        // Only for the secret that the other one takes.
        store.serve().await.stop(Duration::ZERO).await;
        let healed = folder.path().join("healed");
        let worker = format!("[ -e '{}' ] || {{ {fault}; }}\n{}", healed.display(), the_real_one());
        let gateway = serve(&store, folder.path(), &worker).await;
        let here = Caller::anybody(&gateway);
        let answer = here.put("m", "1", constant(1.0)).await;
        refused(&answer, 503, code, part);
        refused(&answer, 503, code, "the artifact is not at fault");
        assert!(answer.header("retry-after").is_some());
        assert_eq!(here.get("/v2/repository/models/m").await.status, 404, "nothing is published");
        fs::write(&healed, "").expect("a writable folder");
        ok(&here.put("m", "1", constant(1.0)).await);
        assert_eq!(answered(&here.infer("m", 0.0).await), 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_code_of_one_tenant_is_not_used_for_another() {
    let store = Store::default();
    let (acme, umbrella) = (store.key("acme", &BOTH).await, store.key("umbrella", &BOTH).await);
    let shared = Repository::default().with("shared", "1", "model.wasm", guest::good());
    let gateway = store.serve_with(shared).await;
    let compiled = || fs::read_dir(store.path().join("local/cache")).expect("the cache").count();
    assert_eq!(compiled(), 1, "the operator's");
    for (key, model, expected) in [(&acme, "a", 2), (&umbrella, "a", 3), (&acme, "b", 3), (&umbrella, "b", 3)]
    {
        ok(&Caller::new(&gateway, key).put(model, "1", guest::good()).await);
        assert_eq!(compiled(), expected, "{model}");
    }
}
