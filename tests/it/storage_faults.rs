//! What a store survives: gateways that are killed at any moment, a loss of power, a disk without room, and content that is
//! not what was published.

mod full;
mod power;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use airlock::repository::uploads::Swept;
use airlock_tests::{
    client::{Answer, call, get, post},
    gateway::Gateway,
    guest,
    process::Process,
    store::{Caller, Store},
};
use serde_json::json;

/// A guest that no other test has, with so many bytes of its own.
fn unique(number: u32) -> Vec<u8> {
    let fixture = format!("(data (i32.const 2048) \"{number:08}\")");
    guest::module(&fixture).expect("a valid fixture")
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

/// Uploads versions of a model one after the other until the gateway is gone; returns those that it acknowledged.
async fn upload_until_killed(process: &Process, model: &str, after: Duration) -> BTreeMap<u32, Vec<u8>> {
    let address = process.address;
    let uploads = async {
        let mut acknowledged = BTreeMap::new();
        for version in 1..=20u32 {
            let artifact = unique(version);
            let path = format!("/v2/repository/models/{model}/versions/{version}");
            let upload = tokio::spawn({
                let artifact = artifact.clone();
                async move { call(address, "PUT", &path, &[], artifact).await }
            });
            // The client fails when its connection breaks.
            let Ok(Answer { status: 200, .. }) = upload.await else { break };
            acknowledged.insert(version, artifact);
        }
        acknowledged
    };
    let kill = async {
        tokio::time::sleep(after).await;
        process.signal("KILL");
    };
    tokio::join!(uploads, kill).0
}

/// 1,000 by `AIRLOCK_KILLS=1000`.
fn rounds() -> u32 {
    std::env::var("AIRLOCK_KILLS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(8)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_half_published_and_nothing_acknowledged_is_lost_when_killed_at_any_moment() {
    let mut store = Store::default();
    let (mut acknowledged_in_all, mut survived_in_all) = (0, 0);
    for round in 0..rounds() {
        // What was removed leaves its tombstones: a store of a thousand rounds takes seconds to start on.
        if round % 100 == 99 {
            store = Store::default();
        }
        let folder = store.path().to_str().expect("UTF-8");
        let arguments = ["--store", folder, "--tenant-versions", "1000", "--tenant-models", "1000"];
        let model = format!("m{round}");
        let process = Process::serve(&arguments);
        // Spread over what an upload takes here, by a sequence without a pattern.
        let after = Duration::from_micros(u64::from(round.wrapping_mul(2_654_435_769) >> 12));
        let acknowledged = upload_until_killed(&process, &model, after).await;
        drop(process);

        let process = Process::serve(&arguments);
        let listed = get(process.address, &format!("/v2/repository/models/{model}")).await;
        let versions = if listed.status == 404 {
            vec![]
        } else {
            listed.json()["versions"].as_array().cloned().expect("a list")
        };
        for (version, artifact) in &acknowledged {
            let digest = airlock::digest::Digest::of(artifact).to_string();
            let found = versions.iter().find(|found| found["version"].as_str() == Some(&version.to_string()));
            let found = found
                .unwrap_or_else(|| panic!("round {round}: version {version} was acknowledged and is gone"));
            assert_eq!(found["digest"], digest, "round {round}");
        }
        for found in &versions {
            assert_eq!(found["state"], "READY", "round {round}: half published: {found}");
            let version = found["version"].as_str().expect("a text");
            let body =
                json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [4.5] }] });
            let answer =
                post(process.address, &format!("/v2/models/{model}/versions/{version}/infer"), &body).await;
            assert_eq!(answer.status, 200, "round {round}: {}", answer.error());
        }
        acknowledged_in_all += acknowledged.len();
        survived_in_all += versions.len();
        if !versions.is_empty() {
            let removed =
                call(process.address, "DELETE", &format!("/v2/repository/models/{model}"), &[], "").await;
            assert_eq!(removed.status, 200);
        }
        process.signal("KILL");
    }
    eprintln!(
        "{} kills: {acknowledged_in_all} versions acknowledged, {survived_in_all} there after the restart",
        rounds()
    );
}

/// Publishes two versions, damages something in the store, and says how the next gateway calls each.
async fn after_damage(damage: impl FnOnce(&Path)) -> (Answer, Answer) {
    let store = Store::default();
    let gateway = store.serve().await;
    let tenant = Caller::anybody(&gateway);
    for version in [1, 2] {
        let answer = tenant.put("m", &version.to_string(), unique(version)).await;
        assert_eq!(answer.status, 200, "{}", answer.error());
    }
    gateway.stop(Duration::ZERO).await;
    // What was compiled is kept beside the store; here the store itself is asked.
    let _ = fs::remove_dir_all(store.path().join("local/cache"));
    damage(&store.path().join("objects"));
    let gateway: Gateway = store.serve().await;
    let tenant = Caller::anybody(&gateway);
    let good = tenant.infer("m/versions/1", 1.0).await;
    let bad = tenant.infer("m/versions/2", 1.0).await;
    assert_eq!(tenant.get("/v2/health/ready").await.status, 200);
    (good, bad)
}

/// The blob of version 2.
fn blob(objects: &Path) -> PathBuf {
    let hex = airlock::digest::Digest::of(&unique(2)).hex();
    files(objects).into_iter().find(|path| path.ends_with(&hex)).expect("a blob")
}

/// The record of version 1 or 2.
fn manifest(objects: &Path, version: u32) -> PathBuf {
    objects.join(format!("tenants/default/models/m/versions/{version}/0000000001"))
}

fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("a file");
    change(&mut bytes);
    fs::write(path, bytes).expect("a writable file");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_what_was_published_or_nothing() {
    type Damage = (&'static str, Box<dyn FnOnce(&Path)>);
    let of_a_blob: Vec<Damage> = vec![
        ("one bit", Box::new(|objects| rewrite(&blob(objects), |bytes| bytes[100] ^= 1))),
        ("truncated", Box::new(|objects| rewrite(&blob(objects), |bytes| bytes.truncate(50)))),
        ("grown", Box::new(|objects| rewrite(&blob(objects), |bytes| bytes.push(0)))),
        ("another's", Box::new(|objects| rewrite(&blob(objects), |bytes| *bytes = unique(1)))),
        ("gone", Box::new(|objects| fs::remove_file(blob(objects)).expect("a file"))),
    ];
    for (name, damage) in of_a_blob {
        let (good, bad) = after_damage(damage).await;
        assert_eq!(good.status, 200, "{name}: {}", good.error());
        assert_eq!((bad.status, bad.code().as_str()), (503, "model_not_ready"), "{name}: {}", bad.error());
        assert!(!bad.error().contains("sha256") && !bad.error().contains('/'), "{name}: {}", bad.error());
    }
    let of_a_manifest: Vec<Damage> = vec![
        ("one bit", Box::new(|objects| rewrite(&manifest(objects, 2), |bytes| bytes[80] ^= 1))),
        ("no tag", Box::new(|objects| rewrite(&manifest(objects, 2), |bytes| _ = bytes.drain(..65)))),
        ("empty", Box::new(|objects| rewrite(&manifest(objects, 2), Vec::clear))),
        (
            "swapped",
            Box::new(|objects| {
                fs::copy(manifest(objects, 1), manifest(objects, 2)).expect("a file");
            }),
        ),
        (
            "a later one, forged",
            Box::new(|objects| {
                let path = manifest(objects, 2);
                fs::copy(&path, path.with_file_name("0000000002")).expect("a file");
                fs::remove_file(path).expect("a file");
            }),
        ),
    ];
    for (name, damage) in of_a_manifest {
        let (good, bad) = after_damage(damage).await;
        assert_eq!(good.status, 200, "{name}: {}", good.error());
        assert_eq!(bad.status, 404, "{name}: {}", bad.error());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_again_mends_what_is_damaged() {
    let store = Store::default();
    let gateway = store.serve().await;
    assert_eq!(Caller::anybody(&gateway).put("m", "2", unique(2)).await.status, 200);
    gateway.stop(Duration::ZERO).await;
    let _ = fs::remove_dir_all(store.path().join("local/cache"));
    rewrite(&blob(&store.path().join("objects")), |bytes| bytes[100] ^= 1);
    let gateway = store.serve().await;
    let tenant = Caller::anybody(&gateway);
    assert_eq!(tenant.infer("m", 1.0).await.status, 503);
    let mended = tenant.put("m", "2", unique(2)).await;
    assert_eq!((mended.status, &mended.json()["state"]), (200, &json!("READY")), "{}", mended.error());
    assert_eq!(tenant.infer("m", 1.0).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_no_version_names_is_swept_and_nothing_else() {
    let store = Store::default();
    let gateway = store.serve().await;
    let tenant = Caller::anybody(&gateway);
    for version in [1, 2] {
        assert_eq!(tenant.put("m", &version.to_string(), unique(version)).await.status, 200);
    }
    let removed = tenant.send("DELETE", "/v2/repository/models/m/versions/2", &[], "").await;
    assert_eq!(removed.status, 200);
    let uploads = gateway.uploads().expect("a store");
    let swept = |generations, archived, blobs| Ok(Swept { generations, archived, blobs });
    let hour = Duration::from_secs(3600);
    assert_eq!(uploads.sweep(hour).await, swept(0, 0, 0), "it may be on its way into a version");
    // Version 2 was published and removed: that it was published is superseded, and that it was removed is archived.
    assert_eq!(uploads.sweep(Duration::ZERO).await, swept(1, 1, 1));
    assert_eq!(uploads.sweep(Duration::ZERO).await, swept(0, 0, 0));
    let records = store.path().join("objects/tenants/default/models/m/versions/2");
    assert!(files(&records).is_empty(), "the version's own records");
    gateway.stop(Duration::ZERO).await;
    let _ = fs::remove_dir_all(store.path().join("local/cache"));
    let gateway = store.serve().await;
    let tenant = Caller::anybody(&gateway);
    assert_eq!(tenant.infer("m", 1.0).await.status, 200, "version 1 is there still");
    assert_eq!(tenant.get("/v2/repository/models/m/versions/2").await.status, 404);
    assert_eq!(tenant.put("m", "2", unique(2)).await.status, 200);
    assert_eq!(tenant.infer("m/versions/2", 1.0).await.status, 200);
    assert_eq!(tenant.put("m", "2", unique(3)).await.status, 409);
    assert!(records.join("0000000003").is_file(), "it goes on from where it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_costs_nothing_that_is_loaded() {
    let store = Store::default();
    let gateway = store.serve().await;
    let tenant = Caller::anybody(&gateway);
    assert_eq!(tenant.put("m", "1", unique(1)).await.status, 200);
    let (objects, away) = (store.path().join("objects"), store.path().join("away"));
    fs::rename(&objects, &away).expect("a folder");
    fs::write(&objects, "not a folder").expect("a file");
    // Longer than the time between two looks at the store.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(tenant.infer("m", 1.0).await.status, 200);
    assert_eq!(tenant.get("/v2/health/ready").await.status, 200);
    let refused = tenant.put("m", "2", unique(2)).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "store_unavailable"), "{}", refused.error());
    assert!(!refused.error().contains('/'), "{}", refused.error());
    assert!(refused.header("retry-after").is_some());
    fs::remove_file(&objects).expect("a file");
    fs::rename(&away, &objects).expect("a folder");
    assert_eq!(tenant.put("m", "2", unique(2)).await.status, 200);
    assert_eq!(tenant.infer("m/versions/2", 1.0).await.status, 200);
}
