//! Tests of the store, by what is wrong with it: nothing (here), the disk, the answers, the S3 server, its age.

mod archive;
mod blobs;
mod disk;
pub(crate) mod faulty;
mod follow;
mod s3;
mod superseded;

use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
use serde_json::{Value, json};

use self::faulty::{Faulty, PutFault};
use super::*;

fn secret(byte: u8) -> Secret {
    Secret::from_bytes([byte; crate::secret::LENGTH])
}

fn record(tenant: &str) -> RecordPath {
    RecordPath::Tenant(tenant.parse().expect("a name"))
}

fn in_memory() -> (Arc<Faulty>, Artifacts) {
    let store = Arc::new(Faulty::new(Arc::new(InMemory::new())));
    (store.clone(), Artifacts::new(store, &secret(1)))
}

/// Another gateway on the same store.
fn beside(store: &Arc<Faulty>) -> Artifacts {
    Artifacts::new(store.clone(), &secret(1))
}

fn is_corrupt<T: fmt::Debug>(result: &Result<T, ArtifactError>) -> bool {
    matches!(result, Err(ArtifactError::Corrupt { .. }))
}

fn is_unavailable<T: fmt::Debug>(result: &Result<T, ArtifactError>) -> bool {
    matches!(result, Err(ArtifactError::Unavailable(_)))
}

#[tokio::test]
async fn the_newest_generation_counts_and_all_gateways_see_it() {
    let (store, ours) = in_memory();
    let theirs = beside(&store);
    let acme = record("acme");
    assert_eq!(ours.newest::<Value>(&acme).await, Ok(None));
    let first = ours.append(&acme, None, &json!({"n": 1})).await.expect("the first");
    let second = theirs.append(&acme, Some(first), &json!({"n": 2})).await.expect("the second");
    assert_eq!((first, second), (Generation::FIRST, Generation::FIRST.next()));
    for gateway in [&ours, &theirs] {
        assert_eq!(gateway.newest(&acme).await, Ok(Some((second, json!({"n": 2})))));
        assert_eq!(gateway.read(&acme, first).await, Ok(json!({"n": 1})));
        let survey = gateway.survey().await.expect("a survey");
        assert_eq!(survey, Survey { records: [(acme.clone(), second)].into(), faults: Vec::new() });
    }
    // Who did not know of the second comes too late, and who says the same again is right.
    assert_eq!(ours.append(&acme, Some(first), &json!(3)).await, Err(ArtifactError::Taken(acme.clone())));
    assert_eq!(ours.append(&acme, Some(first), &json!({"n": 2})).await, Ok(second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_write_one_generation_one_wins() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let location = Location::Folder(folder.path().join("store"));
    for round in 0..20 {
        let (memory, _) = in_memory();
        let acme = record(&format!("acme{round}"));
        let disk =
            || Artifacts::open(&location, &S3Settings::default(), &secret(1)).expect("the folder's store");
        for gateways in [[disk(), disk(), disk()], [beside(&memory), beside(&memory), beside(&memory)]] {
            let gateways = gateways.map(Arc::new);
            let writes = gateways.clone().into_iter().enumerate().map(|(number, gateway)| {
                let acme = acme.clone();
                tokio::spawn(async move { gateway.append(&acme, None, &json!({"by": number})).await })
            });
            let mut winners = Vec::new();
            for (number, write) in writes.collect::<Vec<_>>().into_iter().enumerate() {
                match write.await.expect("no panic") {
                    Ok(_) => winners.push(number),
                    Err(error) => assert_eq!(error, ArtifactError::Taken(acme.clone())),
                }
            }
            let [winner] = winners[..] else { panic!("{winners:?} won") };
            for gateway in &gateways {
                let newest = gateway.newest(&acme).await;
                assert_eq!(newest, Ok(Some((Generation::FIRST, json!({"by": winner})))));
            }

            // The same bytes are no conflict.
            let writes = gateways.into_iter().map(|gateway| {
                let acme = acme.clone();
                tokio::spawn(
                    async move { gateway.append(&acme, Some(Generation::FIRST), &json!("same")).await },
                )
            });
            for write in writes.collect::<Vec<_>>() {
                assert_eq!(write.await.expect("no panic"), Ok(Generation::FIRST.next()));
            }
        }
    }
}

#[tokio::test]
async fn a_put_that_is_known_to_be_undone_or_done_is_repeated_or_kept() {
    for faults in [
        vec![PutFault::Refuse],
        vec![PutFault::Refuse, PutFault::Refuse],
        vec![PutFault::LoseAnswer],
        vec![PutFault::Conflict],
        vec![PutFault::Conflict, PutFault::LoseAnswer],
    ] {
        let (store, artifacts) = in_memory();
        let shown = format!("{faults:?}");
        store.fail_puts(faults);
        let acme = record("acme");
        assert_eq!(artifacts.append(&acme, None, &json!(1)).await, Ok(Generation::FIRST), "{shown}");
        assert_eq!(artifacts.newest(&acme).await, Ok(Some((Generation::FIRST, json!(1)))), "{shown}");
    }
}

#[tokio::test]
async fn a_store_that_goes_on_failing_is_unavailable_and_nothing_is_half_written() {
    for fault in [PutFault::Refuse, PutFault::Conflict] {
        let (store, artifacts) = in_memory();
        store.fail_puts(vec![fault; 3]);
        let acme = record("acme");
        assert!(is_unavailable(&artifacts.append(&acme, None, &json!(1)).await));
        assert_eq!(artifacts.newest::<Value>(&acme).await, Ok(None));
        assert_eq!(artifacts.append(&acme, None, &json!(1)).await, Ok(Generation::FIRST), "it works again");
    }
}

#[tokio::test]
async fn a_put_whose_answer_is_lost_does_not_win_over_somebody_elses() {
    let (store, artifacts) = in_memory();
    let acme = record("acme");
    beside(&store).append(&acme, None, &json!("theirs")).await.expect("theirs is first");
    store.fail_puts(vec![PutFault::LoseAnswer]);
    assert_eq!(artifacts.append(&acme, None, &json!("ours")).await, Err(ArtifactError::Taken(acme.clone())));
    assert_eq!(artifacts.newest(&acme).await, Ok(Some((Generation::FIRST, json!("theirs")))));
}

#[tokio::test]
async fn what_is_not_a_record_of_that_place_and_secret_is_refused() {
    let (store, artifacts) = in_memory();
    let (ours, theirs) = (record("ours"), record("theirs"));
    artifacts.append(&ours, None, &json!({"n": 1})).await.expect("a record");
    let path = ours.at(Generation::FIRST);
    let good = store.get(&path).await.expect("it is there").bytes().await.expect("its bytes");
    let put = |path: &Path, bytes: Vec<u8>| {
        let (store, path) = (store.clone(), path.clone());
        async move { store.put(&path, bytes.into()).await.map(drop).expect("the store takes it") }
    };

    let mut others: Vec<Vec<u8>> = (0..good.len()).map(|length| good[..length].to_vec()).collect();
    for at in 0..good.len() {
        let mut flipped = good.to_vec();
        flipped[at] ^= 1 << (at % 8);
        others.push(flipped);
    }
    others.push([&good[..], b" "].concat());
    for bytes in others {
        put(&path, bytes.clone()).await;
        assert!(is_corrupt(&artifacts.read::<Value>(&ours, Generation::FIRST).await), "{bytes:?}");
        assert!(is_corrupt(&artifacts.newest::<Value>(&ours).await));
        assert!(is_corrupt(&artifacts.append(&ours, None, &json!(2)).await), "it is not taken for a record");
    }
    let max = usize::try_from(objects::MAX_BYTES).expect("it fits");
    for (length, reason) in [(max, "begin with a tag"), (max + 1, "more than")] {
        put(&path, vec![b'0'; length]).await;
        let error = artifacts.read::<Value>(&ours, Generation::FIRST).await.expect_err("it is no record");
        assert!(error.to_string().contains(reason), "{error}");
    }
    // Moved to another tenant, and an old one replayed as a new one.
    for moved in [theirs.at(Generation::FIRST), ours.at(Generation::FIRST.next())] {
        put(&moved, good.to_vec()).await;
        let (record, generation) = RecordPath::parse(&moved).expect("a record's place");
        assert!(is_corrupt(&artifacts.read::<Value>(&record, generation).await), "{moved}");
        assert!(is_corrupt(&artifacts.newest::<Value>(&record).await));
    }
    put(&path, good.to_vec()).await;
    assert_eq!(artifacts.read(&ours, Generation::FIRST).await, Ok(json!({"n": 1})));
    let stranger = Artifacts::new(store.clone(), &secret(2));
    assert!(is_corrupt(&stranger.read::<Value>(&ours, Generation::FIRST).await));
}

#[tokio::test]
async fn a_record_that_could_not_be_read_again_is_not_written() {
    let (_, artifacts) = in_memory();
    let acme = record("acme");
    let large = "x".repeat(usize::try_from(objects::MAX_BYTES).expect("it fits"));
    assert!(is_corrupt(&artifacts.append(&acme, None, &large).await));
    assert_eq!(artifacts.newest::<Value>(&acme).await, Ok(None));
}

#[tokio::test]
async fn a_record_that_went_back_is_a_fault_and_the_others_go_on() {
    let (store, artifacts) = in_memory();
    let (acme, other, new) = (record("acme"), record("other"), record("new"));
    let first = artifacts.append(&acme, None, &json!(1)).await.expect("the first");
    let second = artifacts.append(&acme, Some(first), &json!(2)).await.expect("the second");
    artifacts.append(&other, None, &json!(1)).await.expect("another");
    store.delete(&acme.at(second)).await.expect("somebody deletes it");
    beside(&store).append(&new, None, &json!(1)).await.expect("a new one");

    let survey = artifacts.survey().await.expect("a survey");
    let records = [(acme.clone(), second), (new.clone(), first), (other.clone(), first)];
    assert_eq!(survey.records, records.clone().into());
    assert_eq!(survey.faults.iter().map(|fault| &fault.record).collect::<Vec<_>>(), [&acme]);
    assert!(artifacts.newest::<Value>(&acme).await.is_err(), "the older one is not used");

    store.delete(&acme.at(first)).await.expect("somebody deletes that too");
    let survey = artifacts.survey().await.expect("a survey");
    assert_eq!((survey.records, survey.faults.len()), (records.into(), 1));

    // A gateway that has not seen it cannot know.
    let survey = beside(&store).survey().await.expect("a survey");
    assert_eq!((survey.records.len(), survey.faults), (2, Vec::new()));
}

#[tokio::test]
async fn what_somebody_planted_and_took_away_is_no_lost_record() {
    let (store, artifacts) = in_memory();
    let acme = record("acme");
    let planted = "tenants/acme/record/9999999999";
    let first = artifacts.append(&acme, None, &json!(1)).await.expect("a record");
    store.put(&Path::from(planted), b"{}".as_slice().into()).await.expect("it is planted");
    let newest = artifacts.survey().await.expect("a survey").records[&acme];
    assert_eq!(newest.to_string(), "9999999999");
    assert!(is_corrupt(&artifacts.read::<Value>(&acme, newest).await));
    store.delete(&Path::from(planted)).await.expect("it is taken away");
    let survey = artifacts.survey().await.expect("a survey");
    assert_eq!((survey.records[&acme], survey.faults), (first, Vec::new()));
    assert_eq!(artifacts.newest(&acme).await, Ok(Some((first, json!(1)))));
}

#[tokio::test]
async fn an_old_list_disturbs_nothing_that_was_seen() {
    let (store, artifacts) = in_memory();
    let acme = record("acme");
    let first = artifacts.append(&acme, None, &json!(1)).await.expect("the first");
    store.freeze_lists().await;
    let second = artifacts.append(&acme, Some(first), &json!(2)).await.expect("the second");
    let survey = artifacts.survey().await.expect("a survey");
    assert_eq!((survey.records[&acme], survey.faults.len()), (second, 1));
    assert_eq!(artifacts.newest(&acme).await, Ok(Some((second, json!(2)))));
    store.thaw_lists();
    let survey = artifacts.survey().await.expect("a survey");
    assert_eq!((survey.records[&acme], survey.faults), (second, Vec::new()));
}

#[tokio::test]
async fn what_is_written_during_a_survey_is_no_fault() {
    let (store, artifacts) = in_memory();
    let artifacts = Arc::new(artifacts);
    let gate = store.hold_next_list();
    let surveying = artifacts.clone();
    let survey = tokio::spawn(async move { surveying.survey().await });
    gate.listed().await;
    artifacts.append(&record("acme"), None, &json!(1)).await.expect("a record");
    gate.open();
    assert_eq!(survey.await.expect("no panic"), Ok(Survey::default()));
}

#[tokio::test]
async fn a_store_that_is_down_loses_nothing() {
    let (store, artifacts) = in_memory();
    let acme = record("acme");
    artifacts.append(&acme, None, &json!(1)).await.expect("a record");
    store.set_down(true);
    assert!(is_unavailable(&artifacts.survey().await));
    assert!(is_unavailable(&artifacts.newest::<Value>(&acme).await));
    assert!(is_unavailable(&artifacts.append(&acme, Some(Generation::FIRST), &json!(2)).await));
    store.set_down(false);
    assert_eq!(artifacts.survey().await.expect("a survey").records, [(acme, Generation::FIRST)].into());
}

#[tokio::test]
async fn a_good_store_passes_its_test_and_nothing_is_left_of_it() {
    let (store, artifacts) = in_memory();
    for _ in 0..2 {
        artifacts.self_test().await.expect("a good store");
    }
    beside(&store).self_test().await.expect("the same secret");
    assert_eq!(store.paths().await, ["secret-check"]);
    // A lost answer is not the store's refusal.
    store.fail_puts(vec![PutFault::LoseAnswer]);
    artifacts.self_test().await.expect("a good store");
}

#[tokio::test]
async fn a_store_of_another_secret_is_refused() {
    let (store, artifacts) = in_memory();
    artifacts.self_test().await.expect("a good store");
    let stranger = Artifacts::new(store.clone(), &secret(2));
    assert_eq!(stranger.self_test().await, Err(ArtifactError::WrongSecret));
    store.put(&Path::from("secret-check"), b"abc".as_slice().into()).await.expect("somebody breaks it");
    assert!(is_corrupt(&artifacts.self_test().await));
}

#[tokio::test]
async fn a_store_that_overwrites_is_refused() {
    let (store, artifacts) = in_memory();
    store.overwrite(true);
    assert_eq!(artifacts.self_test().await, Err(ArtifactError::NoConditionalPut));
    assert!(store.paths().await.is_empty());
}
