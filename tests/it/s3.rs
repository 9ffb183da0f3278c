//! The artifact store in a bucket of a real S3 server: `tests/s3/serve.py`, run by the Python that `AIRLOCK_TEST_S3` names.
//!
//! `cargo xtask test` makes that Python and sets the variable. Without it these tests do nothing, and say so; with it, a
//! server that does not start is a failure.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::{Arc, LazyLock, mpsc},
    time::Duration,
};

use airlock::{
    digest::Digest,
    repository::artifacts::{
        ArtifactError, Artifacts, Generation, Location, RecordPath, S3Credentials, S3Settings, Survey,
    },
    secret::Secret,
};
use airlock_tests::{client::call, gateway::binary, guest, process::Process};
use serde_json::json;

const PYTHON: &str = "AIRLOCK_TEST_S3";
/// To start in; it loads a large library.
const PATIENCE: Duration = Duration::from_secs(120);

struct Server {
    /// Ends when this process does, which closes its standard input.
    child: Child,
    endpoint: String,
}

impl Server {
    /// `None` if there is no Python for it.
    fn start() -> Option<Self> {
        let Some(python) = env::var_os(PYTHON) else {
            // Past the test harness, which hides what tests print that succeed.
            let _ =
                writeln!(std::io::stderr(), "NOT TESTED: the artifact store on S3, as {PYTHON} is not set");
            return None;
        };
        let mut child = Command::new(&python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/s3/serve.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{PYTHON} names {}: {error}", python.display()));
        let output = child.stdout.take().expect("it is piped");
        let (sender, port) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(output).read_line(&mut line);
            let _ = sender.send(line);
        });
        let line = port.recv_timeout(PATIENCE).expect("the S3 server says its port in time");
        let port: u16 = line.trim().parse().expect("the S3 server starts: its error is above");
        Some(Self { child, endpoint: format!("http://127.0.0.1:{port}") })
    }

    fn gateway(&self, folder: &str, secret: u8) -> Artifacts {
        let settings = S3Settings {
            endpoint: Some(self.endpoint.clone()),
            region: Some("us-east-1".into()),
            allow_http: true,
            credentials: Some(S3Credentials {
                access_key_id: "key".into(),
                secret_access_key: String::from("secret").into(),
                session_token: None,
            }),
        };
        let location: Location = format!("s3://airlock/tests/{folder}").parse().expect("a location");
        Artifacts::open(&location, &settings, &Secret::from_bytes([secret; 32])).expect("a store")
    }
}

/// The one that the tests share, each in a folder of its own.
fn shared() -> Option<&'static Server> {
    static SHARED: LazyLock<Option<Server>> = LazyLock::new(Server::start);
    SHARED.as_ref()
}

fn record(tenant: &str) -> RecordPath {
    RecordPath::Tenant(tenant.parse().expect("a name"))
}

#[tokio::test]
async fn what_one_gateway_publishes_on_s3_another_reads() {
    let Some(server) = shared() else { return };
    let (ours, theirs) = (server.gateway("publish", 1), server.gateway("publish", 1));
    ours.self_test().await.expect("a good store");
    theirs.self_test().await.expect("the same store");
    assert_eq!(theirs.survey().await, Ok(Survey::default()));

    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, to) = (folder.path().join("file"), folder.path().join("fetched"));
    for length in [0, 1000, 20 << 20] {
        let content: Vec<u8> =
            (0..length).map(|at: u32| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        fs::write(&file, &content).expect("a file");
        let digest = Digest::of(&content);
        ours.put_blob(&digest, &file).await.expect("it is stored");
        ours.put_blob(&digest, &file).await.expect("it is there");
        assert!(theirs.get_blob(&digest, length.into()).await.expect("it is there") == content);
        theirs.fetch_blob(&digest, &to, length.into()).await.expect("it is fetched");
        assert!(fs::read(&to).expect("a file") == content);
        let other = Digest::of(b"other");
        assert_eq!(ours.put_blob(&other, &file).await, Err(ArtifactError::Changed(other)));
        assert!(matches!(theirs.get_blob(&other, 100).await, Err(ArtifactError::Missing(_))));
    }
    let blobs = theirs.list_blobs().await.expect("a list");
    assert_eq!(blobs.len(), 3);
    ours.delete_blob(&blobs[0].digest).await.expect("it is deleted");
    ours.delete_blob(&blobs[0].digest).await.expect("it is gone already");
    assert_eq!(theirs.list_blobs().await.expect("a list").len(), 2);

    let acme = record("acme");
    let mut newest = None;
    for number in 1..=3 {
        newest = Some(ours.append(&acme, newest, &json!({"n": number})).await.expect("a generation"));
    }
    let newest = newest.expect("three were written");
    assert_eq!(theirs.newest(&acme).await, Ok(Some((newest, json!({"n": 3})))));
    let survey = theirs.survey().await.expect("a survey");
    assert_eq!(survey, Survey { records: [(acme, newest)].into(), faults: Vec::new() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_gateways_that_publish_the_same_on_s3_one_wins() {
    let Some(server) = shared() else { return };
    let gateways = [1, 1, 1].map(|secret| Arc::new(server.gateway("race", secret)));
    for round in 0..10 {
        let model = record(&format!("acme{round}"));
        let writes = gateways.clone().into_iter().enumerate().map(|(number, gateway)| {
            let model = model.clone();
            tokio::spawn(async move { gateway.append(&model, None, &json!({"by": number})).await })
        });
        let mut winners = Vec::new();
        for (number, write) in writes.collect::<Vec<_>>().into_iter().enumerate() {
            match write.await.expect("no panic") {
                Ok(_) => winners.push(number),
                Err(error) => assert_eq!(error, ArtifactError::Taken(model.clone())),
            }
        }
        let [winner] = winners[..] else { panic!("{winners:?} won") };
        for gateway in &gateways {
            let newest = gateway.newest(&model).await;
            assert_eq!(newest, Ok(Some((Generation::FIRST, json!({"by": winner})))));
        }
        let writes = gateways.clone().map(|gateway| {
            let model = model.clone();
            tokio::spawn(async move { gateway.append(&model, Some(Generation::FIRST), &json!("same")).await })
        });
        for write in writes {
            assert_eq!(write.await.expect("no panic"), Ok(Generation::FIRST.next()));
        }
    }
}

#[tokio::test]
async fn a_gateway_with_another_secret_is_refused_by_the_store_on_s3() {
    let Some(server) = shared() else { return };
    server.gateway("secret", 1).self_test().await.expect("a good store");
    assert_eq!(server.gateway("secret", 2).self_test().await, Err(ArtifactError::WrongSecret));
    server.gateway("secret", 1).self_test().await.expect("a good store");
    server.gateway("secret-of-others", 2).self_test().await.expect("another folder is another store");
}

#[tokio::test]
async fn an_s3_server_that_died_is_unavailable() {
    let Some(mut server) = Server::start() else { return };
    let gateway = server.gateway("down", 1);
    gateway.append(&record("acme"), None, &json!(1)).await.expect("a record");
    server.child.kill().expect("it is killed");
    server.child.wait().expect("it has ended");
    assert!(matches!(gateway.survey().await, Err(ArtifactError::Unavailable(_))));
    let append = gateway.append(&record("acme"), Some(Generation::FIRST), &json!(2)).await;
    assert!(matches!(append, Err(ArtifactError::Unavailable(_))));
}

/// `airlock` with this bucket as its store, and a state folder of its own.
fn on_bucket(server: &Server, state: &std::path::Path, secret: &std::path::Path) -> Vec<String> {
    let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let arguments = [
        "--store".to_owned(),
        "s3://airlock/tests/gateways".to_owned(),
        "--state".to_owned(),
        text(state),
        "--secret-file".to_owned(),
        text(secret),
        "--s3-endpoint".to_owned(),
        server.endpoint.clone(),
        "--s3-region".to_owned(),
        "us-east-1".to_owned(),
        "--s3-allow-http".to_owned(),
    ];
    arguments.into()
}

const CREDENTIALS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")];

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_share_a_bucket_a_key_and_a_model() {
    let Some(server) = shared() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let secret = folder.path().join("secret");
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let arguments = on_bucket(server, &one, &secret);
    let run = |command: &[&str]| {
        let output = Command::new(binary()).args(command).args(&arguments).envs(CREDENTIALS).output();
        let output = output.expect("the binary starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    run(&["tenant", "create", "acme"]);
    let key = run(&["key", "create", "--tenant", "acme", "--scope", "infer,repository"]);
    let serve = |state| {
        let arguments = on_bucket(server, state, &secret);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Process::serve_in(&arguments, &CREDENTIALS)
    };
    let (first, second) = (serve(&one), serve(&two));
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let path = "/v2/repository/models/m/versions/1";
    let published = call(first.address, "PUT", path, &headers, guest::good()).await;
    assert_eq!(published.status, 200, "{}", published.error());
    let body = json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [2.5] }] });
    let begun = std::time::Instant::now();
    loop {
        let answer = call(second.address, "POST", "/v2/models/m/infer", &headers, body.to_string()).await;
        if answer.status == 200 {
            assert_eq!(answer.json()["outputs"][0]["data"], json!([2.5]));
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{}", answer.error());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let nobody = call(second.address, "GET", "/v2/models/m", &[], "").await;
    assert_eq!(nobody.status, 401);
}
