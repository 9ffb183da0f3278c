//! The access log: one line for each request, on standard output, without anything that a client could put there.

use std::{collections::BTreeMap, fs, path::Path};

use airlock_tests::{
    client::{Answer, call},
    gateway::Repository,
    guest::{self, hostile},
    process::Process,
};
use serde_json::{Value, json};

fn request() -> String {
    json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1.0] }] }).to_string()
}

/// A gateway that writes its access log into that file.
fn serve(repository: &Repository, form: &str, file: &Path) -> Process {
    let redirect = format!("exec \"$@\" >'{}'", file.display());
    let models = repository.path().to_str().expect("UTF-8");
    let arguments = ["--access-log", form, "--drain-delay", "0s", "--model-repository", models];
    Process::serve_under(&["sh", "-c", &redirect, "sh"], &arguments)
}

const KEY: &str = "ak_0123456789abcdef_abcdef";

/// Good and bad requests: method, path, name of the request, and the status to expect.
const CALLS: [(&str, &str, Option<&str>, u16); 9] = [
    ("POST", "/v2/models/good/infer", Some("call-1"), 200),
    ("POST", "/v2/models/good/infer", None, 200),
    ("POST", "/v2/models/good/versions/1/infer", Some("two words"), 200),
    ("POST", "/v2/models/trap/infer", Some("call-4"), 502),
    ("POST", "/v2/models/ak_0123456789abcdef_abcdef/infer", Some(KEY), 404),
    ("GET", "/v2/models/good?secret=value", Some("call-6"), 200),
    ("GET", "/v2/models/ak_0123456789abcdef_abcdef", None, 404),
    ("BREW", "/v2/models/%0A%1B[31m", Some("call-8"), 404),
    ("GET", "/v2/health/live", None, 200),
];

async fn made(process: &Process) -> Vec<Answer> {
    let mut answers = Vec::new();
    for (method, path, id, status) in CALLS {
        let id = id.map(|id| ("x-request-id", id));
        let body = if method == "POST" { request() } else { String::new() };
        let answer = call(process.address, method, path, id.as_slice(), body).await;
        assert_eq!(answer.status, status, "{method} {path}");
        answers.push(answer);
    }
    answers
}

fn repository() -> Repository {
    Repository::default().with("good", "1", "model.wasm", guest::good()).with(
        "trap",
        "1",
        "model.wasm",
        guest::module(hostile::UNREACHABLE).expect("a valid fixture"),
    )
}

/// What was written by the time the gateway has ended.
fn written(process: Process, file: &Path) -> (String, String) {
    process.signal("TERM");
    let (code, _, log) = process.end();
    assert_eq!(code, Some(0));
    (fs::read_to_string(file).expect("a log"), log)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_one_line_with_what_became_of_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, repository) = (folder.path().join("access"), repository());
    let process = serve(&repository, "json", &file);
    let answers = made(&process).await;
    let (lines, log) = written(process, &file);
    assert!(!log.contains("request_id") && !log.contains("total_us"), "{log}");
    assert!(!lines.contains(KEY) && !lines.contains("secret"), "{lines}");
    let lines: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    assert_eq!(lines.len(), CALLS.len(), "{lines:#?}");
    // A line is written when its request has ended, which its client may know a moment before.
    let mut by_id: BTreeMap<&str, &Value> = BTreeMap::new();
    for line in &lines {
        let id = line["request_id"].as_str().unwrap_or_else(|| panic!("{line}"));
        assert!(by_id.insert(id, line).is_none(), "{id} comes twice");
        assert!(line["timestamp"].is_string() && line["total_us"].is_u64(), "{line}");
    }
    for ((method, path, id, status), answer) in CALLS.iter().zip(&answers) {
        let told = answer.header("x-request-id").expect("a name");
        let taken_over = id.is_some_and(|id| id.starts_with("call-"));
        assert_eq!(id.is_some_and(|id| id == told), taken_over, "{told}");
        let line = by_id[told];
        assert_eq!(line["status"], *status, "{line}");
        assert_eq!(line["outcome"].as_str() == Some("ok"), *status == 200, "{line}");
        if path.ends_with("/infer") {
            assert_eq!(line["tenant"], "default");
            let model = path.split('/').nth(3).filter(|model| ["good", "trap"].contains(model));
            assert_eq!(line["model"].as_str(), model, "{line}");
            assert_eq!(line["version"].as_str(), model.map(|_| "1"), "{line}");
            assert_eq!(line["run_us"].as_u64() > Some(0), *status != 404, "{line}");
        } else {
            assert_eq!(line["port"], "http");
            assert_eq!(line["method"], if *method == "BREW" { "other" } else { "GET" });
            let shown = match path.split_once('?') {
                _ if path.contains("ak_") => "(it holds what looks like a key)",
                Some((path, _)) => path,
                None => path,
            };
            assert_eq!(line["path"], shown);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_holds_the_same_and_without_the_log_only_a_clients_own_name_is_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, repository) = (folder.path().join("access"), repository());
    let process = serve(&repository, "text", &file);
    made(&process).await;
    let (lines, _) = written(process, &file);
    assert_eq!(lines.lines().count(), CALLS.len(), "{lines}");
    assert!(lines.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{lines:?}");
    assert!(lines.contains(r#"request_id="call-1""#) && !lines.contains(KEY), "{lines}");

    let process = serve(&repository, "off", &file);
    let answers = made(&process).await;
    for ((_, _, id, _), answer) in CALLS.iter().zip(&answers) {
        assert_eq!(answer.header("x-request-id"), id.filter(|id| id.starts_with("call-")));
    }
    assert_eq!(written(process, &file).0, "");
}
