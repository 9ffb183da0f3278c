//! Looks at the store, and what they cost.

use std::sync::atomic::Ordering::SeqCst;

use futures_util::StreamExt;
use object_store::ObjectStoreExt;
use serde_json::{Value, json};

use super::{super::*, beside, in_memory, is_corrupt, record};

/// So many tenants, each with one record.
async fn with_records(artifacts: &Artifacts, count: usize) -> Vec<(RecordPath, Generation)> {
    for number in 0..count {
        artifacts.append(&record(&format!("t{number}")), None, &json!(number)).await.expect("a record");
    }
    artifacts.survey().await.expect("a survey").of(|_, _| true)
}

#[tokio::test]
async fn one_look_is_one_listing_whoever_learns_from_it() {
    let (store, writer) = in_memory();
    with_records(&writer, 3).await;
    let lists = || store.counts().lists.load(SeqCst);
    let before = lists();
    let (follow, surveys) = Follow::begin(Arc::new(beside(&store))).await.expect("a look");
    let others = [surveys.clone(), surveys.clone()];
    assert_eq!(lists(), before + 1);
    follow.look().await.expect("a look");
    assert_eq!(lists(), before + 2);
    for mut surveys in others {
        assert!(surveys.has_changed().expect("somebody looks"));
        assert_eq!(surveys.borrow_and_update().records.len(), 3);
    }
    drop(follow);
    let mut ended = surveys.clone();
    ended.mark_unchanged();
    assert!(ended.changed().await.is_err(), "nobody looks any more");
    assert_eq!(surveys.borrow().records.len(), 3, "what was known is known still");
}

#[tokio::test]
async fn a_look_that_fails_leaves_the_last_one() {
    let (store, writer) = in_memory();
    with_records(&writer, 1).await;
    let (follow, mut surveys) = Follow::begin(Arc::new(beside(&store))).await.expect("a look");
    surveys.mark_unchanged();
    store.set_down(true);
    follow.look().await.expect_err("the store is away");
    assert!(!surveys.has_changed().expect("somebody looks"));
    store.set_down(false);
    writer.append(&record("new"), None, &json!(1)).await.expect("a record");
    follow.look().await.expect("a look");
    assert!(surveys.has_changed().expect("somebody looks"));
    assert_eq!(surveys.borrow().records.len(), 2);
    assert!(Follow::begin(Arc::new(beside(&store))).await.is_ok());
    store.set_down(true);
    assert!(Follow::begin(Arc::new(beside(&store))).await.is_err(), "nothing begins on a store that is away");
}

#[tokio::test]
async fn records_are_read_some_at_a_time_and_each_says_what_it_says() {
    let (store, writer) = in_memory();
    let records = with_records(&writer, 100).await;
    let broken = record("t7");
    store.put(&broken.at(Generation::FIRST), b"{}".as_slice().into()).await.expect("somebody breaks one");
    let reader = beside(&store);
    let read: Vec<_> = reader.read_each::<Value>(records).collect().await;
    assert_eq!(read.len(), 100);
    for (path, generation, says) in read {
        assert_eq!(generation, Generation::FIRST);
        if path == broken {
            assert!(is_corrupt(&says));
        } else {
            let number = says.expect("a record").as_u64().expect("a number");
            assert_eq!(path, record(&format!("t{number}")));
        }
    }
    let at_once = store.counts().most_gets_at_once.load(SeqCst);
    assert!((2..=32).contains(&at_once), "{at_once} at a time");
}
