//! The store in a folder: real files that are flipped, cut, moved, and put in the way.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    super::{blobs::PUT_BYTES, path, *},
    blobs::{content, file},
    is_corrupt, is_unavailable, record, secret,
};

fn on_disk() -> (TempDir, PathBuf, Artifacts) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().join("a/objects");
    let artifacts = open(&root);
    (folder, root, artifacts)
}

fn open(root: &std::path::Path) -> Artifacts {
    let location = Location::Folder(root.to_owned());
    Artifacts::open(&location, &S3Settings::default(), &secret(1)).expect("a store")
}

/// All files below a folder.
fn files(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test]
async fn a_folder_is_made_for_its_owner_and_what_is_in_it_is_found_again() {
    let (folder, root, artifacts) = on_disk();
    for made in ["a", "a/objects"] {
        let mode = fs::metadata(folder.path().join(made)).expect("it was made").permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{made}");
    }
    // That what is written survives a loss of power cannot be tried here; that it is asked for can.
    assert!(format!("{:?}", artifacts.store).contains("fsync: true"));
    artifacts.self_test().await.expect("a good store");
    let (acme, other) = (record("acme"), record("other"));
    let first = artifacts.append(&acme, None, &json!(1)).await.expect("a record");
    artifacts.append(&other, None, &json!(1)).await.expect("another");
    let again = open(&root);
    again.self_test().await.expect("a good store");
    assert_eq!(again.newest(&acme).await, Ok(Some((first, json!(1)))));
    assert_eq!(again.survey().await.expect("a survey").records, [(acme, first), (other, first)].into());

    let file = folder.path().join("file");
    fs::write(&file, "x").expect("a file");
    let opened = Artifacts::open(&Location::Folder(file), &S3Settings::default(), &secret(1));
    assert!(matches!(opened, Err(ArtifactError::Settings(_))));
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_what_is_beside_it_is_not() {
    let (_folder, root, artifacts) = on_disk();
    let content = content(PUT_BYTES + 1);
    let (_source, source, digest) = file(&content);
    artifacts.put_blob(&digest, &source).await.expect("it is stored");
    let blob = root.join(path::blob(&digest).as_ref());
    for at in [0, content.len() / 2, content.len() - 1] {
        for bit in [0, 7] {
            let mut flipped = content.clone();
            flipped[at] ^= 1 << bit;
            fs::write(&blob, flipped).expect("it is damaged");
            assert!(is_corrupt(&artifacts.get_blob(&digest, 1 << 30).await), "bit {bit} of byte {at}");
        }
    }
    for length in [0, 1, content.len() - 1, content.len() + 1] {
        let mut cut = content.clone();
        cut.resize(length, 0);
        fs::write(&blob, cut).expect("it is damaged");
        assert!(is_corrupt(&artifacts.get_blob(&digest, 1 << 30).await), "{length} bytes");
        artifacts.put_blob(&digest, &source).await.expect("it is put again");
        assert!(artifacts.get_blob(&digest, 1 << 30).await.expect("it is there") == content);
    }

    let (acme, other) = (record("acme"), record("other"));
    for record in [&acme, &other] {
        artifacts.append(record, None, &json!(1)).await.expect("a record");
    }
    let damaged = root.join(acme.at(Generation::FIRST).as_ref());
    let good = fs::read(&damaged).expect("the record");
    fs::write(&damaged, &good[..good.len() - 1]).expect("it is damaged");
    let gateway = open(&root);
    assert_eq!(gateway.survey().await.expect("a survey").records.len(), 2);
    assert!(is_corrupt(&gateway.newest::<Value>(&acme).await));
    assert_eq!(gateway.newest(&other).await, Ok(Some((Generation::FIRST, json!(1)))));
    // The old file of one tenant as the new one of another.
    let moved = root.join(other.at(Generation::FIRST.next()).as_ref());
    fs::write(moved, good).expect("it is moved");
    assert!(is_corrupt(&gateway.newest::<Value>(&other).await));
    assert_eq!(
        gateway.read(&other, Generation::FIRST).await,
        Ok(json!(1)),
        "what was loaded can be read still"
    );
}

#[tokio::test]
async fn what_is_no_plain_file_is_not_read() {
    let (folder, root, artifacts) = on_disk();
    let (_source, source, digest) = file(b"content");
    artifacts.put_blob(&digest, &source).await.expect("it is stored");
    let acme = record("acme");
    artifacts.append(&acme, None, &json!(1)).await.expect("a record");
    let elsewhere = folder.path().join("elsewhere");
    for path in [path::blob(&digest), acme.at(Generation::FIRST)] {
        let place = root.join(path.as_ref());
        fs::rename(&place, &elsewhere).expect("it is moved out of the store");
        let plant: [fn(&std::path::Path, &std::path::Path) -> io::Result<()>; 3] = [
            |elsewhere, place| symlink(elsewhere, place),
            |_, place| fs::create_dir(place),
            |_, place| Command::new("mkfifo").arg(place).status().map(|status| assert!(status.success())),
        ];
        for plant in plant {
            plant(&elsewhere, &place).expect("it is planted");
            if path == path::blob(&digest) {
                assert!(is_corrupt(&artifacts.get_blob(&digest, 100).await));
                assert!(is_corrupt(&artifacts.fetch_blob(&digest, &folder.path().join("to"), 100).await));
                // Putting it again takes the place of what can be replaced, and never writes through it.
                let mended = artifacts.put_blob(&digest, &source).await.is_ok();
                let plain = fs::symlink_metadata(&place).is_ok_and(|found| found.is_file());
                assert_eq!(mended, plain);
                assert_eq!(artifacts.get_blob(&digest, 100).await.is_ok(), mended);
                assert_eq!(fs::read(&elsewhere).expect("the moved blob"), b"content");
            } else {
                assert!(is_corrupt(&artifacts.read::<Value>(&acme, Generation::FIRST).await));
            }
            fs::remove_file(&place).or_else(|_| fs::remove_dir(&place)).expect("it is taken away");
        }
    }
    assert!(!folder.path().join("to").exists());
}

#[tokio::test]
async fn what_a_killed_gateway_left_is_in_nobodys_way_and_is_removed() {
    let (_folder, root, artifacts) = on_disk();
    let content = content(PUT_BYTES + 1);
    let (_source, source, digest) = file(&content);
    let acme = record("acme");
    let places = [path::blob(&digest), acme.at(Generation::FIRST)];
    // Killed before the link or the rename: the bytes lie beside the place, whole or cut.
    for place in &places {
        let place = root.join(place.as_ref());
        fs::create_dir_all(place.parent().expect("a folder")).expect("the folders");
        for number in [1, 2] {
            fs::write(format!("{}#{number}", place.display()), "half").expect("a leftover");
        }
    }
    assert_eq!(artifacts.survey().await, Ok(Survey::default()));
    assert_eq!(artifacts.list_blobs().await, Ok(Vec::new()));
    artifacts.put_blob(&digest, &source).await.expect("it is stored");
    artifacts.append(&acme, None, &json!(1)).await.expect("a record");
    assert!(artifacts.get_blob(&digest, 1 << 30).await.expect("it is there") == content);
    assert_eq!(files(&root).len(), 6);
    assert_eq!(artifacts.remove_leftovers(Duration::from_secs(60)).await, Ok(0), "they may be in use");
    assert_eq!(artifacts.remove_leftovers(Duration::ZERO).await, Ok(4));
    assert_eq!(files(&root).len(), 2);
    assert_eq!(artifacts.newest(&acme).await, Ok(Some((Generation::FIRST, json!(1)))));
}

#[tokio::test]
async fn a_put_that_is_given_up_leaves_nothing_to_read() {
    let (_folder, root, artifacts) = on_disk();
    let (_source, source, digest) = file(&content(3 * PUT_BYTES));
    {
        let mut put = Box::pin(artifacts.put_blob(&digest, &source));
        // A few steps, and never to the end: the client is gone.
        for _ in 0..3 {
            let _ = tokio::time::timeout(Duration::from_millis(1), put.as_mut()).await;
        }
    }
    let blob = root.join(path::blob(&digest).as_ref());
    if blob.exists() {
        assert!(artifacts.get_blob(&digest, 1 << 30).await.is_ok(), "it was faster");
    } else {
        assert!(matches!(artifacts.get_blob(&digest, 1 << 30).await, Err(ArtifactError::Missing(_))));
    }
    artifacts.put_blob(&digest, &source).await.expect("it is stored");
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_is_unavailable() {
    let (_folder, root, artifacts) = on_disk();
    // A file where a folder is needed: also root cannot write below it.
    for place in ["blobs", "tenants"] {
        fs::write(root.join(place), "x").expect("a file");
    }
    let (_source, source, digest) = file(b"content");
    let put = artifacts.put_blob(&digest, &source).await;
    assert!(is_unavailable(&put), "{put:?}");
    let append = artifacts.append(&record("acme"), None, &json!(1)).await;
    assert!(is_unavailable(&append), "{append:?}");
    for place in ["blobs", "tenants"] {
        fs::remove_file(root.join(place)).expect("it is taken away");
    }
    artifacts.put_blob(&digest, &source).await.expect("it is stored");
    let to = root.join("no/such/folder/file");
    assert!(matches!(artifacts.fetch_blob(&digest, &to, 100).await, Err(ArtifactError::Disk(_))));
}
