//! Clocks that jump.

use std::{fs, sync::Arc, time::Duration};

use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory};

use super::{
    records::{Blob, Manifest, VersionRecord},
    *,
};
use crate::{
    execute::Step,
    repository::{Kind, artifacts::tests::faulty::Faulty, catalog::Catalog},
    secret::{LENGTH, Secret},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A gateway's uploads on a store, without anything that could load them.
fn uploads(store: &Arc<Faulty>, folder: &std::path::Path) -> Uploads {
    let secret = Secret::from_bytes([5; LENGTH]);
    let artifacts = Artifacts::new(Arc::clone(store) as Arc<dyn ObjectStore>, &secret);
    let loader: Loader = Arc::new(|_, _, _| Err(LoadError::new(Step::Load, "not here")));
    let namespaces = Arc::new(Namespaces::new(Arc::new(Catalog::new()), true));
    let staging = folder.join("staging");
    let limits = Limits::default();
    let quotas = Arc::new(Quotas::new(&limits));
    Uploads::new(Arc::new(artifacts), namespaces, loader, staging, &limits, quotas).expect("a folder")
}

#[tokio::test]
async fn a_clock_that_jumps_does_not_make_a_blob_old_that_is_on_its_way_into_a_version() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Arc::new(Faulty::new(Arc::new(InMemory::new())));
    let uploads = uploads(&store, folder.path());
    let file = folder.path().join("content");
    fs::write(&file, "content").expect("a file");
    let digest = Digest::of(b"content");
    let there = async || uploads.artifacts.get_blob(&digest, 100).await.is_ok();
    uploads.artifacts.put_blob(&digest, &file).await.expect("it is stored");

    // The clock jumps two days ahead right behind the blob: it is old, nobody names it, and it stays.
    store.set_clock(2 * DAY);
    assert_eq!(uploads.sweep(DAY).await, Ok(Swept::default()));
    assert!(there().await, "its record may be on its way");
    // And back again.
    store.set_clock(Duration::ZERO);
    assert_eq!(uploads.sweep(DAY).await, Ok(Swept::default()));
    store.set_clock(2 * DAY);
    assert_eq!(uploads.sweep(DAY).await, Ok(Swept::default()), "it was not old in between: that counts anew");
    assert!(there().await);

    // Half an hour later by a watch that does not jump.
    let long_ago =
        Instant::now().checked_sub(Duration::from_secs(1801)).expect("this machine runs for longer");
    for (_, since) in lock(&uploads.sightings).values_mut() {
        *since = long_ago;
    }
    // Somebody puts it again: it is fresh, whatever was seen of it before.
    uploads.artifacts.put_blob(&digest, &file).await.expect("it is stored");
    assert_eq!(uploads.sweep(DAY).await, Ok(Swept::default()));
    assert!(there().await);
    store.set_clock(4 * DAY);
    assert_eq!(uploads.sweep(DAY).await, Ok(Swept::default()));
    for (_, since) in lock(&uploads.sightings).values_mut() {
        *since = long_ago;
    }
    assert_eq!(uploads.sweep(DAY).await, Ok(Swept { blobs: 1, ..Swept::default() }));
    assert!(!there().await && lock(&uploads.sightings).len() == 1);
    assert_eq!(uploads.sweep(DAY).await, Ok(Swept::default()));
    assert!(lock(&uploads.sightings).is_empty());
    assert!(store.head(&"blobs".into()).await.is_err());
}

#[test]
fn the_version_that_was_published_last_is_the_latest_though_the_clock_went_back() {
    let mut entry = directory::Entry::default();
    // Ten days on, five days back, and forward again.
    for (version, now, is) in
        [("b", 1000, 1000), ("c", 865_000, 865_000), ("a", 433_000, 865_001), ("d", 900_000, 900_000)]
    {
        let version: Version = version.parse().expect("a version");
        let published = entry.publishing(now);
        assert_eq!(published, is);
        let manifest = Manifest {
            published,
            kind: Kind::Wasm,
            artifact: Blob { digest: Digest::of(b"x"), size: 1 },
            files: Vec::new(),
            config: None,
        };
        entry.versions.insert(version.clone(), (Generation::FIRST, VersionRecord::Published(manifest)));
        assert_eq!(entry.latest(&entry.selected()), Some(version));
    }
}
