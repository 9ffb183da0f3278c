//! Blobs on a store whose answers are wrong.

use std::{fs, sync::atomic::Ordering::SeqCst, time::SystemTime};

use object_store::ObjectStoreExt;
use tempfile::TempDir;

use super::{
    super::{blobs::PUT_BYTES, path, *},
    faulty::PutFault,
    in_memory, is_corrupt, is_unavailable,
};
use crate::digest::Digest;

/// Bytes of which no two pieces are the same.
pub fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect()
}

/// A folder, a file in it with that content, and what it is called by.
pub fn file(content: &[u8]) -> (TempDir, PathBuf, Digest) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("file");
    fs::write(&path, content).expect("a file");
    (folder, path, Digest::of(content))
}

#[tokio::test]
async fn blobs_of_every_size_come_back_as_they_were() {
    for length in [0, 1, PUT_BYTES - 1, PUT_BYTES, PUT_BYTES + 1, 2 * PUT_BYTES + 3] {
        let content = content(length);
        let (folder, file, digest) = file(&content);
        let (store, artifacts) = in_memory();
        artifacts.put_blob(&digest, &file).await.expect("it is stored");
        let max = length as u64;
        assert!(artifacts.get_blob(&digest, max).await.expect("it is there") == content, "{length}");
        let to = folder.path().join("fetched");
        artifacts.fetch_blob(&digest, &to, max).await.expect("it is fetched");
        assert!(fs::read(&to).expect("the file") == content, "{length}");
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 2, "no parts are left");
        let counts = store.counts();
        assert!(counts.largest_part.load(SeqCst) <= PUT_BYTES, "{counts:?}");
        assert!(counts.most_parts_at_once.load(SeqCst) <= 1, "{counts:?}");

        let puts = (counts.puts.load(SeqCst), counts.completed.load(SeqCst));
        artifacts.put_blob(&digest, &file).await.expect("it is there already");
        assert_eq!((counts.puts.load(SeqCst), counts.completed.load(SeqCst)), puts, "nothing is sent again");
        assert_eq!(puts.0 + puts.1, 1);
    }
}

#[tokio::test]
async fn a_file_with_other_bytes_is_not_stored() {
    for length in [10, 2 * PUT_BYTES + 3] {
        let (_folder, path, _) = file(&content(length));
        let other = Digest::of(b"other");
        let (store, artifacts) = in_memory();
        assert_eq!(artifacts.put_blob(&other, &path).await, Err(ArtifactError::Changed(other)));
        assert!(store.paths().await.is_empty());
        let aborted = store.counts().aborted.load(SeqCst);
        assert_eq!(aborted, usize::from(length > PUT_BYTES));
    }
    let (_, artifacts) = in_memory();
    let missing = artifacts.put_blob(&Digest::of(b""), "no/such/file".as_ref()).await;
    assert!(matches!(missing, Err(ArtifactError::Disk(_))));
}

#[tokio::test]
async fn an_upload_that_fails_leaves_nothing_and_one_whose_answer_is_lost_counts() {
    for length in [10, 2 * PUT_BYTES + 3] {
        let content = content(length);
        let (_folder, path, digest) = file(&content);
        for (fault, stored) in [(PutFault::Refuse, false), (PutFault::LoseAnswer, true)] {
            let (store, artifacts) = in_memory();
            store.fail_puts(vec![fault]);
            let put = artifacts.put_blob(&digest, &path).await;
            assert_eq!(put.is_ok(), stored, "{put:?}");
            assert_eq!(artifacts.get_blob(&digest, 1 << 30).await.is_ok(), stored);
            artifacts.put_blob(&digest, &path).await.expect("the next time it works");
            assert!(artifacts.get_blob(&digest, 1 << 30).await.expect("it is there") == content);
        }
    }
    let (_folder, path, digest) = file(&content(3 * PUT_BYTES));
    let (store, artifacts) = in_memory();
    store.counts().failing_part.store(2, SeqCst);
    assert!(is_unavailable(&artifacts.put_blob(&digest, &path).await));
    assert_eq!(store.counts().aborted.load(SeqCst), 1);
    assert!(store.paths().await.is_empty());
}

#[tokio::test]
async fn a_blob_of_a_wrong_size_is_replaced() {
    let content = content(PUT_BYTES + 1);
    let (_folder, file, digest) = file(&content);
    let (store, artifacts) = in_memory();
    for wrong in [&content[..100], &[&content[..], b"more"].concat()] {
        store.put(&path::blob(&digest), wrong.to_vec().into()).await.expect("somebody breaks it");
        assert!(is_corrupt(&artifacts.get_blob(&digest, 1 << 30).await));
        artifacts.put_blob(&digest, &file).await.expect("it is stored");
        assert!(artifacts.get_blob(&digest, 1 << 30).await.expect("it is there") == content);
    }
}

#[tokio::test]
async fn what_is_not_the_blob_is_not_read() {
    let content = content(PUT_BYTES + 1);
    let (folder, file, digest) = file(&content);
    let (store, artifacts) = in_memory();
    let to = folder.path().join("fetched");
    let missing = Err(ArtifactError::Missing(path::blob(&digest).to_string()));
    assert_eq!(artifacts.get_blob(&digest, 1 << 30).await.map(drop), missing);
    assert_eq!(artifacts.fetch_blob(&digest, &to, 1 << 30).await, missing);
    artifacts.put_blob(&digest, &file).await.expect("it is stored");

    // Short reads, long reads, flipped bits on the way.
    let changes: [fn(Vec<u8>) -> Vec<u8>; 4] = [
        |mut bytes| {
            bytes.pop();
            bytes
        },
        |mut bytes| {
            bytes.push(0);
            bytes
        },
        |mut bytes| {
            bytes[0] ^= 0x80;
            bytes
        },
        |_| Vec::new(),
    ];
    for change in changes {
        store.change_reads(Some(change));
        assert!(is_corrupt(&artifacts.get_blob(&digest, 1 << 30).await));
        assert!(is_corrupt(&artifacts.fetch_blob(&digest, &to, 1 << 30).await));
    }
    store.change_reads(None);
    let short = content.len() as u64 - 1;
    assert!(is_corrupt(&artifacts.get_blob(&digest, short).await), "more than was asked for");
    assert!(is_corrupt(&artifacts.fetch_blob(&digest, &to, short).await));
    store.set_down(true);
    assert!(is_unavailable(&artifacts.get_blob(&digest, 1 << 30).await));
    assert!(is_unavailable(&artifacts.fetch_blob(&digest, &to, 1 << 30).await));
    store.set_down(false);

    // Another's content under this digest.
    let other = store.get(&path::blob(&digest)).await.expect("it is there").bytes().await.expect("its bytes");
    let stolen = Digest::of(b"stolen");
    store.put(&path::blob(&stolen), other.into()).await.expect("it is copied");
    assert!(is_corrupt(&artifacts.get_blob(&stolen, 1 << 30).await));
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1, "no file and no part is left");
}

#[tokio::test]
async fn blobs_are_listed_and_deleted() {
    let (store, artifacts) = in_memory();
    let (_folder, path, digest) = file(b"abc");
    artifacts.put_blob(&digest, &path).await.expect("it is stored");
    let strays = ["blobs/sha256/00/abc".into(), format!("blobs/sha256/00/{}", digest.hex())];
    for stray in strays {
        store.put(&stray.into(), b"x".as_slice().into()).await.expect("a stray object");
    }
    let [blob] = artifacts.list_blobs().await.expect("a list")[..] else { panic!("not one blob") };
    assert_eq!((blob.digest, blob.size), (digest, 3));
    assert!(blob.modified <= SystemTime::now());
    for _ in 0..2 {
        artifacts.delete_blob(&digest).await.expect("it is deleted");
    }
    assert_eq!(artifacts.list_blobs().await, Ok(Vec::new()));
}
