//! What is deleted because it was superseded, and what is not.

use std::time::Duration;

use object_store::{ObjectStoreExt, path::Path};
use serde_json::{Value, json};

use super::{super::*, beside, faulty::Faulty, faulty::PutFault, in_memory, record};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The generations of a record that lie in the store.
async fn there(store: &Faulty, record: &RecordPath) -> Vec<u32> {
    let prefix = format!("{record}/");
    let paths = store.paths().await;
    let numbers = paths.iter().filter_map(|path| path.strip_prefix(&prefix));
    numbers.map(|number| number.parse().expect("a number")).collect()
}

/// Writes that many generations, each one hour after the other.
async fn hourly(store: &Faulty, artifacts: &Artifacts, record: &RecordPath, count: u32) {
    let mut after = None;
    for number in 1..=count {
        store.set_clock(Duration::from_secs(3600) * number);
        after = Some(artifacts.append(record, after, &json!(number)).await.expect("a generation"));
    }
}

#[tokio::test]
async fn a_generation_goes_a_day_after_the_next_one_came_and_the_newest_never() {
    let (store, artifacts) = in_memory();
    let (acme, single) = (record("acme"), record("single"));
    artifacts.append(&single, None, &json!(1)).await.expect("a record");
    hourly(&store, &artifacts, &acme, 4).await;
    assert_eq!(artifacts.delete_superseded(DAY).await, Ok(0));
    assert_eq!(there(&store, &acme).await, [1, 2, 3, 4]);
    // A day after the third: by then the first two were superseded for a day.
    store.set_clock(DAY + Duration::from_secs(3 * 3600 + 1));
    assert_eq!(artifacts.delete_superseded(DAY).await, Ok(2));
    assert_eq!(there(&store, &acme).await, [3, 4]);
    store.set_clock(1000 * DAY);
    assert_eq!(artifacts.delete_superseded(DAY).await, Ok(1));
    assert_eq!(artifacts.delete_superseded(DAY).await, Ok(0));
    assert_eq!((there(&store, &acme).await, there(&store, &single).await), (vec![4], vec![1]));
    assert!(
        store.paths().await.iter().all(|path| !path.starts_with("probes/")),
        "nothing is left of the clock"
    );

    // It is no fault, neither for who has seen all of it nor for who has not.
    for gateway in [&artifacts, &beside(&store)] {
        let survey = gateway.survey().await.expect("a survey");
        assert_eq!((survey.records.len(), survey.faults), (2, Vec::new()));
        let (newest, says) = gateway.newest::<Value>(&acme).await.expect("a record").expect("there");
        assert_eq!(says, json!(4));
        assert_eq!(newest.to_string(), "0000000004");
    }
    // And going back is one still.
    store.delete(&Path::from(format!("{acme}/0000000004"))).await.expect("somebody deletes it");
    assert_eq!(artifacts.survey().await.expect("a survey").faults.len(), 1);
}

#[tokio::test]
async fn a_write_on_a_place_that_was_deleted_is_not_acknowledged() {
    for (name, faults) in [
        ("a slow writer", vec![]),
        ("one whose answer is lost", vec![PutFault::LoseAnswer]),
        ("one whose first try is refused", vec![PutFault::Refuse]),
    ] {
        let (store, others) = in_memory();
        let acme = record("acme");
        others.append(&acme, None, &json!("first")).await.expect("the first");
        let slow = beside(&store);
        let (read, _) = slow.newest::<Value>(&acme).await.expect("a record").expect("there");
        // While it stands still, others go on, and a day later what they superseded is deleted.
        let second = others.append(&acme, Some(read), &json!("second")).await.expect("the second");
        let third = others.append(&acme, Some(second), &json!("third")).await.expect("the third");
        store.set_clock(2 * DAY);
        assert_eq!(others.delete_superseded(DAY).await, Ok(2));
        store.fail_puts(faults);
        let late = slow.append(&acme, Some(read), &json!("late")).await;
        assert_eq!(late, Err(ArtifactError::Taken(acme.clone())), "{name}");
        for gateway in [&slow, &others, &beside(&store)] {
            assert_eq!(gateway.newest(&acme).await, Ok(Some((third, json!("third")))), "{name}");
            assert_eq!(gateway.survey().await.expect("a survey").faults, [], "{name}");
        }
        // Who tries again works on what is newest; what the slow one left goes like the rest.
        let fourth = slow.append(&acme, Some(third), &json!("late")).await.expect("the fourth");
        assert_eq!(others.newest(&acme).await, Ok(Some((fourth, json!("late")))), "{name}");
        store.set_clock(4 * DAY);
        assert_eq!(others.delete_superseded(DAY).await, Ok(2), "{name}");
        assert_eq!(there(&store, &acme).await, [4], "{name}");
    }
}

#[tokio::test]
async fn what_is_no_record_supersedes_nothing() {
    let (store, artifacts) = in_memory();
    let acme = record("acme");
    hourly(&store, &artifacts, &acme, 2).await;
    let planted = Path::from(format!("{acme}/9999999999"));
    store.put(&planted, b"{}".as_slice().into()).await.expect("it is planted");
    store.set_clock(10 * DAY);
    assert_eq!(artifacts.delete_superseded(DAY).await, Ok(0));
    store.delete(&planted).await.expect("it is taken away");
    assert_eq!(artifacts.delete_superseded(DAY).await, Ok(1));
    assert_eq!(there(&store, &acme).await, [2]);
}

#[tokio::test]
async fn the_store_s_clock_counts_and_not_ours() {
    let (store, artifacts) = in_memory();
    let acme = record("acme");
    // The store's clock is ten days ahead of ours when all is written: by ours, nothing is old, and nothing is either
    // when the store's goes back to where ours is.
    store.set_clock(10 * DAY);
    let first = artifacts.append(&acme, None, &json!(1)).await.expect("the first");
    artifacts.append(&acme, Some(first), &json!(2)).await.expect("the second");
    store.set_clock(Duration::ZERO);
    assert_eq!(artifacts.delete_superseded(DAY).await, Ok(0));
    store.set_clock(12 * DAY);
    assert_eq!(artifacts.delete_superseded(DAY).await, Ok(1));
}
