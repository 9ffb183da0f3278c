//! The store in a bucket, of a server that fails as S3 does.

mod server;

use std::{
    io::{self, Write},
    sync::Mutex,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;
use zeroize::Zeroizing;

use self::server::{Fault, Server};
use super::{
    super::{blobs::PUT_BYTES, open::bucket_store, path, *},
    blobs::{content, file},
    is_corrupt, is_unavailable, record, secret,
};

const SECRET_KEY: &str = "the-secret-access-key";
const TOKEN: &str = "the-session-token";
/// Short, so that the tests are; long enough for a loaded machine to answer in.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(700);

fn settings(endpoint: &str) -> S3Settings {
    S3Settings {
        endpoint: Some(endpoint.to_owned()),
        region: Some("eu-test-1".to_owned()),
        allow_http: true,
        credentials: Some(S3Credentials {
            access_key_id: "the-key-id".to_owned(),
            secret_access_key: Zeroizing::new(SECRET_KEY.to_owned()),
            session_token: Some(Zeroizing::new(TOKEN.to_owned())),
        }),
    }
}

async fn in_bucket() -> (Server, Artifacts) {
    let server = Server::start().await;
    let artifacts = gateway(&server);
    (server, artifacts)
}

fn gateway(server: &Server) -> Artifacts {
    let store = bucket_store("bucket", &settings(&server.endpoint), REQUEST_TIMEOUT).expect("a store");
    Artifacts::new(Arc::new(store), &secret(1))
}

#[tokio::test]
async fn a_bucket_is_as_good_as_a_folder() {
    let server = Server::start().await;
    let location: Location = "s3://bucket/a/b".parse().expect("a location");
    let open = || Artifacts::open(&location, &settings(&server.endpoint), &secret(1)).expect("a store");
    let (artifacts, beside) = (open(), open());
    artifacts.self_test().await.expect("a good store");
    let acme = record("acme");
    let first = artifacts.append(&acme, None, &json!(1)).await.expect("a record");
    assert_eq!(beside.append(&acme, None, &json!(2)).await, Err(ArtifactError::Taken(acme.clone())));
    assert_eq!(beside.newest(&acme).await, Ok(Some((first, json!(1)))));
    assert_eq!(beside.survey().await.expect("a survey").records, [(acme, first)].into());
    for length in [0, 10, 2 * PUT_BYTES + 1] {
        let content = content(length);
        let (_folder, file, digest) = file(&content);
        artifacts.put_blob(&digest, &file).await.expect("it is stored");
        assert!(beside.get_blob(&digest, 1 << 30).await.expect("it is there") == content);
        let [blob] = beside.list_blobs().await.expect("a list")[..] else { panic!("not one blob") };
        assert_eq!((blob.digest, blob.size), (digest, length as u64));
        artifacts.delete_blob(&digest).await.expect("it is deleted");
    }
    assert_eq!(server.keys(), ["a/b/secret-check", "a/b/tenants/acme/record/0000000001"]);
    assert_eq!(server.uploads(), 0);
}

#[tokio::test]
async fn a_put_is_done_once_whatever_the_server_says() {
    let cases = [
        vec![Fault::Status(500)],
        vec![Fault::Status(503), Fault::Status(429), Fault::Status(502)],
        vec![Fault::DoneButStatus(500)],
        vec![Fault::DoneButStatus(409)],
        vec![Fault::Stall],
        vec![Fault::DoneButStall],
        vec![Fault::Status(409)],
        vec![Fault::Status(409), Fault::DoneButStall],
        vec![Fault::Status(412)],
        vec![Fault::Cut],
    ];
    join_all(cases.map(async |faults| {
        let (server, artifacts) = in_bucket().await;
        server.fail("PUT", &faults);
        let acme = record("acme");
        assert_eq!(artifacts.append(&acme, None, &json!(1)).await, Ok(Generation::FIRST), "{faults:?}");
        assert_eq!(server.keys(), [acme.at(Generation::FIRST).to_string()], "{faults:?}");
        assert_eq!(gateway(&server).newest(&acme).await, Ok(Some((Generation::FIRST, json!(1)))));
    }))
    .await;
}

#[tokio::test]
async fn a_put_that_fails_strangely_does_not_win_over_somebody_elses() {
    for fault in [Fault::Status(409), Fault::Status(500), Fault::DoneButStatus(500), Fault::Stall] {
        let (server, artifacts) = in_bucket().await;
        let acme = record("acme");
        gateway(&server).append(&acme, None, &json!("theirs")).await.expect("theirs is first");
        server.fail("PUT", &[fault]);
        let append = artifacts.append(&acme, None, &json!("ours")).await;
        assert_eq!(append, Err(ArtifactError::Taken(acme.clone())), "{fault:?}");
        assert_eq!(artifacts.newest(&acme).await, Ok(Some((Generation::FIRST, json!("theirs")))));
    }
}

#[tokio::test]
async fn reading_survives_what_passes() {
    let (server, artifacts) = in_bucket().await;
    let acme = record("acme");
    artifacts.append(&acme, None, &json!({"n": 1})).await.expect("a record");
    for fault in [Fault::Status(500), Fault::Status(429), Fault::Stall, Fault::Cut] {
        // One of the list, one of the record.
        server.fail("GET", &[fault, Fault::None, fault]);
        let newest = artifacts.newest(&acme).await;
        assert_eq!(newest, Ok(Some((Generation::FIRST, json!({"n": 1})))), "{fault:?}");
        server.forget_faults();
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_unavailable_and_loses_nothing() {
    let (server, artifacts) = in_bucket().await;
    let acme = record("acme");
    artifacts.append(&acme, None, &json!(1)).await.expect("a record");
    server.fail_all(Some(Fault::Status(503)));
    assert!(is_unavailable(&artifacts.survey().await));
    assert!(is_unavailable(&artifacts.append(&acme, Some(Generation::FIRST), &json!(2)).await));
    assert!(is_unavailable(&artifacts.self_test().await));
    server.fail_all(Some(Fault::Stall));
    let started = Instant::now();
    assert!(is_unavailable(&artifacts.survey().await));
    assert!(started.elapsed() < REQUEST_TIMEOUT * 10, "{:?}", started.elapsed());
    server.fail_all(None);
    assert_eq!(artifacts.survey().await.expect("a survey").faults, []);
    assert_eq!(artifacts.newest(&acme).await, Ok(Some((Generation::FIRST, json!(1)))));

    let nobody = settings("http://127.0.0.1:1");
    let store = bucket_store("bucket", &nobody, REQUEST_TIMEOUT).expect("a store");
    assert!(is_unavailable(&Artifacts::new(Arc::new(store), &secret(1)).survey().await));
}

#[tokio::test]
async fn an_old_list_of_the_server_disturbs_nothing() {
    let (server, artifacts) = in_bucket().await;
    let acme = record("acme");
    let first = artifacts.append(&acme, None, &json!(1)).await.expect("the first");
    server.freeze_lists();
    let second = artifacts.append(&acme, Some(first), &json!(2)).await.expect("the second");
    let survey = artifacts.survey().await.expect("a survey");
    assert_eq!((survey.records[&acme], survey.faults.len()), (second, 1));
    assert_eq!(artifacts.newest(&acme).await, Ok(Some((second, json!(2)))));
}

#[tokio::test]
async fn uploads_in_pieces_are_finished_or_taken_back() {
    let content = content(2 * PUT_BYTES + 1);
    let (folder, file, digest) = file(&content);
    let cases = [
        ("PUT", vec![Fault::Status(500), Fault::Stall, Fault::DoneButStall], true),
        ("POST", vec![Fault::Status(500), Fault::Status(503)], true),
        // The upload was begun, then completed, and then nobody heard of it.
        ("POST", vec![Fault::None, Fault::DoneButStall], true),
        ("POST", vec![Fault::None, Fault::DoneButStatus(500)], true),
        ("PUT", vec![Fault::None, Fault::Status(403)], false),
        ("PUT", vec![Fault::Status(500); 4], false),
        ("POST", vec![Fault::None, Fault::Status(400)], false),
    ];
    join_all(cases.map(async |(method, faults, stored)| {
        let (server, artifacts) = in_bucket().await;
        server.fail(method, &faults);
        let put = artifacts.put_blob(&digest, &file).await;
        assert_eq!(put.is_ok(), stored, "{method} {faults:?}: {put:?}");
        assert_eq!(server.keys().len(), usize::from(stored), "{method} {faults:?}");
        assert_eq!(server.uploads(), 0, "{method} {faults:?}: an upload is left");
        if stored {
            assert!(artifacts.get_blob(&digest, 1 << 30).await.expect("it is there") == content);
        } else {
            assert!(is_unavailable(&put));
        }
    }))
    .await;
    // Credentials that end while a blob is fetched.
    let (server, artifacts) = in_bucket().await;
    artifacts.put_blob(&digest, &file).await.expect("it is stored");
    let to = folder.path().join("to");
    server.fail("GET", &[Fault::None, Fault::None, Fault::Status(403)]);
    assert!(is_unavailable(&artifacts.fetch_blob(&digest, &to, 1 << 30).await));
    assert!(!to.exists());
    artifacts.fetch_blob(&digest, &to, 1 << 30).await.expect("with new ones");

    server.put(path::blob(&digest).as_ref(), &content[1..]);
    assert!(is_corrupt(&artifacts.get_blob(&digest, 1 << 30).await));
}

#[tokio::test]
async fn a_server_without_conditional_put_is_refused() {
    let (server, artifacts) = in_bucket().await;
    server.ignore_conditions();
    assert_eq!(artifacts.self_test().await, Err(ArtifactError::NoConditionalPut));
    assert!(server.keys().is_empty());
    // One that says that it does not know the header.
    let (server, artifacts) = in_bucket().await;
    server.fail("PUT", &[Fault::Status(501); 12]);
    assert!(is_unavailable(&artifacts.self_test().await));
}

/// Everything that is logged, at any level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no test panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn credentials_are_in_no_text() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let (server, artifacts) = in_bucket().await;
    let acme = record("acme");
    let mut texts = vec![format!("{artifacts:?} {:?}", settings(&server.endpoint))];
    // The server repeats in its answers all headers that it got.
    server.echo();
    for status in [403, 404, 409, 503] {
        // Tests beside this one, without a log, may have switched off for all what they came to first.
        tracing::callsite::rebuild_interest_cache();
        for method in ["GET", "PUT", "HEAD", "POST", "DELETE"] {
            server.fail(method, &[Fault::Status(status); 12]);
        }
        let (_folder, file, digest) = file(&content(PUT_BYTES));
        let faults = [
            artifacts.survey().await.map(drop),
            artifacts.append(&acme, None, &json!(1)).await.map(drop),
            artifacts.read::<Value>(&acme, Generation::FIRST).await.map(drop),
            artifacts.get_blob(&digest, 10).await.map(drop),
            artifacts.put_blob(&digest, &file).await,
            artifacts.delete_blob(&digest).await,
        ];
        texts.extend(faults.into_iter().filter_map(Result::err).map(|error| format!("{error} {error:?}")));
        server.forget_faults();
    }
    assert!(texts.len() > 15, "{texts:#?}");
    assert!(texts.iter().any(|text| text.contains("403 Forbidden: AccessDenied")), "{texts:#?}");
    let log = String::from_utf8_lossy(&log.0.lock().expect("no test panicked")).into_owned();
    assert!(log.contains("object_store"), "the log was not written: {log}");
    assert!(server.saw(TOKEN), "the token was not sent");
    texts.push(log);
    for text in texts {
        assert!(!text.contains(SECRET_KEY) && !text.contains(TOKEN), "{text}");
    }
}

#[test]
fn endpoints_that_are_unsafe_or_not_one_are_refused_and_not_quoted() {
    for (endpoint, allow_http) in [
        ("http://127.0.0.1:9000", false),
        ("https://key:hunter2@127.0.0.1", true),
        ("https://127.0.0.1?key=hunter2", true),
        ("https://", true),
        ("127.0.0.1:9000", true),
        ("ftp://127.0.0.1", true),
    ] {
        let settings = S3Settings { allow_http, ..settings(endpoint) };
        let location: Location = "s3://bucket".parse().expect("a location");
        let error = Artifacts::open(&location, &settings, &secret(1)).expect_err(endpoint);
        assert!(matches!(error, ArtifactError::Settings(_)), "{endpoint}");
        assert!(!error.to_string().contains("hunter2"));
    }
}
