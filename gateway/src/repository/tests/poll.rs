//! Polling: what is noticed, when, and what serves meanwhile.

use super::*;

#[tokio::test]
async fn polling_loads_what_is_added_once_it_stands_still() {
    let bench = Bench::started(poll(), &[("a/1/model.wasm", "first")]).await;
    assert_eq!(bench.loads(), ["a/1"]);
    bench.poll_twice().await;
    assert_eq!(bench.loads(), [""; 0]);

    bench.write("b/1/model.wasm", "half");
    bench.repository.poll().await;
    bench.write("b/1/model.wasm", "half and more");
    bench.repository.poll().await;
    assert_eq!(bench.loads(), [""; 0], "it was still being written");
    bench.repository.poll().await;
    assert_eq!(bench.loads(), ["b/1"]);

    bench.write("a/2/model.wasm", "second");
    bench.poll_twice().await;
    assert_eq!(bench.loads(), ["a/2"], "only what is new");
    assert_eq!(bench.serving("a"), "second");
    assert_eq!(bench.index(), ["a/1 READY", "a/2 READY", "b/1 READY"]);
}

#[tokio::test]
async fn polling_reloads_what_changed_and_nothing_else() {
    let bench = Bench::started(
        poll(),
        &[("a/1/model.wasm", "first"), ("a/2/model.wasm", "first"), ("b/1/model.wasm", "first")],
    )
    .await;
    bench.loads();
    let before = bench.found("a", Some("1")).expect("ready");
    bench.write("a/2/model.wasm", "second");
    bench.poll_twice().await;
    assert_eq!(bench.loads(), ["a/2"]);
    assert_eq!(bench.serving("a"), "second");
    assert!(Arc::ptr_eq(&before, &bench.found("a", Some("1")).expect("ready")));

    bench.write("a/1/labels.txt", "cat");
    bench.poll_twice().await;
    assert_eq!(bench.loads(), ["a/1"], "a file beside the artifact counts");
    bench.write("a/model.toml", "[parameters]\nx = 1");
    bench.poll_twice().await;
    assert_eq!(bench.loads(), ["a/1", "a/2"], "the configuration counts for all versions");
    bench.write("README.md", "");
    bench.write("a/1/.swap", "");
    bench.poll_twice().await;
    assert_eq!(bench.loads(), [""; 0]);
}

#[tokio::test]
async fn what_this_machine_could_not_load_waits_longer_each_time_unless_asked_for() {
    let unavailable =
        |wait: u32| format!("a/1 UNAVAILABLE: read: this machine is busy; it is tried again in {wait}s");
    let bench = Bench::started(poll(), &[("a/1/model.wasm", "busy"), ("b/1/model.wasm", "bad")]).await;
    assert_eq!(bench.loads(), ["a/1", "b/1"]);
    assert_eq!(bench.index()[0], unavailable(5));
    bench.poll_twice().await;
    bench.repository.retry().await;
    assert_eq!(bench.loads(), [""; 0], "its time has not come");
    bench.write("a/1/labels.txt", "cat");
    bench.poll_twice().await;
    assert_eq!(bench.loads(), ["a/1"]);
    assert_eq!(bench.index()[0], unavailable(5), "other files have all their attempts before them");

    let bench = Bench::started(explicit(&["*"]), &[("a/1/model.wasm", "busy")]).await;
    let load = async || bench.repository.load(&name("a")).await.expect_err("the machine is busy");
    assert!(load().await.to_string().contains("tried again in 10s"));
    assert!(load().await.to_string().contains("tried again in 20s"));
    assert_eq!(bench.loads(), ["a/1"; 3]);
    bench.repository.unload(&name("a")).await.expect("it is known");
    assert!(load().await.to_string().contains("tried again in 5s"));
}

#[tokio::test]
async fn polling_removes_what_is_gone() {
    let bench = Bench::started(
        poll(),
        &[("a/1/model.wasm", "first"), ("a/2/model.wasm", "second"), ("b/1/model.wasm", "first")],
    )
    .await;
    let held = bench.found("b", None).expect("ready");
    bench.remove("a/2");
    bench.remove("b");
    bench.repository.poll().await;
    assert_eq!(bench.index().len(), 3, "one look is not enough");
    bench.repository.poll().await;
    assert_eq!(bench.index(), ["a/1 READY"]);
    assert_eq!(bench.serving("a"), "first");
    assert!(matches!(bench.found("b", None), Err(FindError::UnknownModel { .. })));
    assert_eq!(held.executor.platform(), "first", "who holds it may end");
    bench.write("b/1/model.wasm", "second");
    bench.poll_twice().await;
    assert_eq!(bench.serving("b"), "second");
}

#[tokio::test]
async fn a_repository_that_is_away_unloads_nothing() {
    let bench = Bench::started(poll(), &[("a/1/model.wasm", "first")]).await;
    let moved = bench.dir.path().with_extension("away");
    fs::rename(bench.dir.path(), &moved).expect("renamed");
    bench.poll_twice().await;
    bench.poll_twice().await;
    assert_eq!(bench.index(), ["a/1 READY"]);
    fs::rename(&moved, bench.dir.path()).expect("renamed");
    bench.loads();
    bench.poll_twice().await;
    assert_eq!((bench.index(), bench.loads().len()), (vec!["a/1 READY".into()], 0));
}

#[tokio::test]
async fn a_model_whose_folder_cannot_be_read_serves_on() {
    let bench = Bench::started(poll(), &[("a/1/model.wasm", "first")]).await;
    let (there, away) = (bench.dir.path().join("a"), bench.dir.path().join(".away"));
    fs::rename(&there, &away).expect("renamed");
    symlink("nowhere", &there).expect("a link");
    bench.poll_twice().await;
    assert_eq!(bench.serving("a"), "first");
    assert_eq!(bench.index(), ["a/1 READY: a cannot be read: entity not found"]);
    fs::remove_file(&there).expect("removed");
    fs::rename(&away, &there).expect("renamed");
    bench.loads();
    bench.poll_twice().await;
    assert_eq!((bench.index(), bench.loads().len()), (vec!["a/1 READY".into()], 0));
}

#[tokio::test]
async fn a_failed_reload_keeps_the_old_one_serving() {
    let bench = Bench::started(poll(), &[("a/1/model.wasm", "first")]).await;
    bench.write("a/1/model.wasm", "bad");
    bench.poll_twice().await;
    assert_eq!(bench.serving("a"), "first");
    assert_eq!(bench.index(), ["a/1 READY: check: this artifact is bad"]);
    bench.loads();
    bench.poll_twice().await;
    assert_eq!(bench.loads(), [""; 0], "not tried again until it changes");

    bench.write("a/model.toml", "max_batch_size = \"x\"");
    bench.poll_twice().await;
    assert_eq!(bench.serving("a"), "first");
    fs::remove_file(bench.dir.path().join("a/model.toml")).expect("removed");
    bench.write("a/1/model.wasm", "panic");
    bench.poll_twice().await;
    assert_eq!(bench.serving("a"), "first");
    bench.write("a/1/model.wasm", "second");
    bench.poll_twice().await;
    assert_eq!((bench.serving("a"), bench.index()), ("second", vec!["a/1 READY".into()]));
}

#[tokio::test]
async fn a_new_version_that_fails_does_not_cost_the_one_it_replaces() {
    let bench = Bench::started(
        poll(),
        &[("a/1/model.wasm", "first"), ("a/model.toml", "version_policy = \"latest\"")],
    )
    .await;
    bench.write("a/2/model.wasm", "bad");
    bench.poll_twice().await;
    assert_eq!(bench.index(), ["a/1 READY", "a/2 UNAVAILABLE: check: this artifact is bad"]);
    assert_eq!(bench.serving("a"), "first");
    bench.write("a/2/model.wasm", "second");
    bench.poll_twice().await;
    assert_eq!(bench.index(), ["a/2 READY"]);
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_not_loaded() {
    // What was seen is older than what is read, as it is when a writer comes in between.
    let bench = Bench::new(poll(), &[("a/1/model.wasm", "half")]);
    let shared = &bench.repository.shared;
    let model = name("a");
    let seen = shared.observe(&model).await.expect("readable").expect("a model");
    bench.write("a/1/model.wasm", "half and more");
    let applied = Loading::begin(shared, &model).await.apply(seen, Retry::Changed).await;
    assert_eq!(applied, Err("version 1: read: its files were changed while they were read".into()));
    assert_eq!(bench.loads(), [""; 0]);
    bench.poll_twice().await;
    assert_eq!(bench.index(), ["a/1 READY"]);
}

#[tokio::test]
async fn the_poll_loop_notices_changes_and_stops() {
    let bench = Arc::new(Bench::started(poll(), &[("a/1/model.wasm", "first")]).await);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = {
        let bench = Arc::clone(&bench);
        tokio::spawn(async move { bench.repository.run(async { drop(stopped.await) }).await })
    };
    bench.write("a/1/model.wasm", "second");
    until("the change is served", || bench.serving("a") == "second").await;
    stop.send(()).expect("the loop listens");
    tokio::time::timeout(Duration::from_secs(5), running).await.expect("stops").expect("no panic");
}
