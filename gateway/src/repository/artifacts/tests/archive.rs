//! What is archived is out of the way and not forgotten.

use std::time::Duration;

use object_store::ObjectStoreExt;
use serde_json::{Value, json};

use super::{super::*, beside, faulty::Faulty, in_memory};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn version(name: &str) -> RecordPath {
    let (tenant, model) = ("acme".parse().expect("a name"), "m".parse().expect("a name"));
    RecordPath::Version(tenant, model, name.parse().expect("a version"))
}

/// The objects of a record.
async fn objects(store: &Faulty, record: &RecordPath) -> usize {
    let prefix = format!("{record}/");
    store.paths().await.iter().filter(|path| path.starts_with(&prefix)).count()
}

/// Publishes and removes; the generation of the tombstone.
async fn removed(artifacts: &Artifacts, record: &RecordPath, after: Option<Generation>) -> Generation {
    let published = artifacts.append(record, after, &json!("published")).await.expect("it is published");
    artifacts.append(record, Some(published), &json!("removed")).await.expect("it is removed")
}

async fn archive(artifacts: &Artifacts, record: &RecordPath, generation: Generation) -> usize {
    artifacts.archive_dead(&[(record.clone(), generation)].into(), DAY).await.expect("the store works")
}

#[tokio::test]
async fn a_record_that_is_archived_is_found_by_all_and_goes_on_from_there() {
    let (store, ours) = in_memory();
    let (one, other) = (version("1"), version("2"));
    let second = removed(&ours, &one, None).await;
    let alive = ours.append(&other, None, &json!("published")).await.expect("it is published");
    let theirs = beside(&store);
    theirs.newest::<Value>(&one).await.expect("the store works");
    assert_eq!(archive(&ours, &one, second).await, 0, "a day has not passed");
    store.set_clock(2 * DAY);
    assert_eq!(archive(&ours, &one, Generation::FIRST).await, 0, "something was written on top");
    assert_eq!(archive(&ours, &one, second).await, 1);
    assert_eq!((objects(&store, &one).await, objects(&store, &other).await), (0, 1));
    assert_eq!(archive(&ours, &one, second).await, 0, "once is enough");

    // For who did it, for who had seen it before, and for who comes new.
    for gateway in [&ours, &theirs, &beside(&store)] {
        let survey = gateway.survey().await.expect("a survey");
        assert_eq!((survey.records.get(&one), survey.records.get(&other)), (Some(&second), Some(&alive)));
        assert_eq!(survey.faults, []);
        assert_eq!(gateway.newest(&one).await, Ok(Some((second, json!("removed")))));
        let again = gateway.append(&one, None, &json!("other")).await;
        assert_eq!(again, Err(ArtifactError::Taken(one.clone())), "its first places are not free");
    }

    // Published again, it lives on its own; removed again, it is archived once more.
    let fourth = removed(&theirs, &one, Some(second)).await;
    assert_eq!(fourth, second.next().next());
    assert_eq!(ours.newest(&one).await, Ok(Some((fourth, json!("removed")))));
    store.set_clock(4 * DAY);
    assert_eq!(archive(&ours, &one, second).await, 0);
    // With what was left by those who came too late.
    assert_eq!(objects(&store, &one).await, 3);
    assert_eq!(archive(&theirs, &one, fourth).await, 1);
    assert_eq!(ours.newest(&one).await, Ok(Some((fourth, json!("removed")))));
    assert_eq!(ours.survey().await.expect("a survey").faults, []);
}

#[tokio::test]
async fn a_writer_that_stood_still_while_its_record_was_archived_is_refused() {
    let (store, others) = in_memory();
    let one = version("1");
    let first = others.append(&one, None, &json!("published")).await.expect("it is published");
    let second = others.append(&one, Some(first), &json!("removed")).await.expect("it is removed");
    store.set_clock(2 * DAY);
    assert_eq!(archive(&others, &one, second).await, 1);
    for read in [None, Some(first)] {
        let slow = beside(&store);
        let late = slow.append(&one, read, &json!("late")).await;
        assert_eq!(late, Err(ArtifactError::Taken(one.clone())), "{read:?}");
        // What it left at that place is nothing to anybody, and goes with the next sweep.
        for gateway in [&slow, &others, &beside(&store)] {
            gateway.survey().await.expect("a survey");
            assert_eq!(gateway.newest(&one).await, Ok(Some((second, json!("removed")))), "{read:?}");
        }
        assert_eq!(archive(&others, &one, second).await, 1);
        assert_eq!(objects(&store, &one).await, 0);
    }
    let third = others.append(&one, Some(second), &json!("published")).await.expect("it is published");
    let late = beside(&store).append(&one, Some(second), &json!("late")).await;
    assert_eq!(late, Err(ArtifactError::Taken(one.clone())));
    assert_eq!(others.newest(&one).await, Ok(Some((third, json!("published")))));
}

#[tokio::test]
async fn two_that_archive_at_once_lose_nothing() {
    let (store, ours) = in_memory();
    let theirs = beside(&store);
    let mut dead = std::collections::BTreeMap::new();
    for name in ["1", "2", "3", "4"] {
        dead.insert(version(name), removed(&ours, &version(name), None).await);
    }
    store.set_clock(2 * DAY);
    let half = |from: usize| dead.clone().into_iter().skip(from).take(2).collect();
    let (left, right) = (half(0), half(2));
    let (one, other) = tokio::join!(ours.archive_dead(&left, DAY), theirs.archive_dead(&right, DAY));
    let gone = one.expect("the store works") + other.expect("the store works");
    assert!((2..=4).contains(&gone), "{gone}");
    for gateway in [&ours, &theirs] {
        gateway.archive_dead(&dead, DAY).await.expect("the store works");
    }
    for (record, generation) in &dead {
        assert_eq!(objects(&store, record).await, 0);
        for gateway in [&ours, &theirs, &beside(&store)] {
            assert_eq!(gateway.newest(record).await, Ok(Some((*generation, json!("removed")))));
        }
    }
}

#[tokio::test]
async fn what_cannot_be_read_keeps_nothing_else_from_being_archived() {
    let (store, ours) = in_memory();
    let tenants = ["acme", "bolt", "core"];
    let of = |tenant: &str, name: &str| {
        let model = "m".parse().expect("a name");
        RecordPath::Version(tenant.parse().expect("a name"), model, name.parse().expect("a version"))
    };
    let mut dead = std::collections::BTreeMap::new();
    for record in tenants.iter().flat_map(|tenant| [of(tenant, "1"), of(tenant, "2")]) {
        let generation = removed(&ours, &record, None).await;
        dead.insert(record, generation);
    }
    // Of one tenant a record, of another one its archive.
    let broken = [of("acme", "1"), RecordPath::Archive("bolt".parse().expect("a name"))];
    for record in &broken {
        let newest = dead.get(record).copied().unwrap_or(Generation::FIRST);
        store.put(&record.at(newest), "not a record".into()).await.expect("the store works");
    }
    store.set_clock(2 * DAY);
    assert_eq!(ours.archive_dead(&dead, DAY).await, Ok(3));
    let kept = [of("acme", "1"), of("bolt", "1"), of("bolt", "2")];
    for record in dead.keys() {
        let objects = objects(&store, record).await;
        assert_eq!(objects, if kept.contains(record) { 2 } else { 0 }, "{record}");
    }
    store.set_down(true);
    let down = ours.archive_dead(&dead, DAY).await;
    assert!(matches!(down, Err(ArtifactError::Unavailable(_))), "{down:?}");
}
