//! What is asked for: paths, names, methods, and doors that are not there.

use super::{BODY, Case, Target, kept};
use airlock_tests::client::{call, get};

fn request(method: &str, path: &str, lines: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")
}

fn names() -> Vec<Case> {
    let long = "a".repeat(1000);
    let hostile = [
        "..",
        "%2e%2e",
        "%2E%2E%2Fgood",
        "..%2f..%2fetc%2fpasswd",
        "good%00",
        "good%2f",
        "%5c..%5cgood",
        "%252e%252e",
        "%c0%ae%c0%ae",
        "%ff",
        "g%6",
        "CON",
        ".hidden",
        "good.",
        "good%20",
        "%20good",
        "g%d0%beod",
        "go%cc%88od",
        "good%0d%0aSet-Cookie:a",
        "%F0%9F%92%A9",
        "good%EF%BF%BD",
        "-good",
        &long,
    ];
    let mut cases = Vec::new();
    for name in hostile {
        for path in [format!("/v2/models/{name}"), format!("/v2/models/good/versions/{name}")] {
            cases.push(kept(path.clone(), request("GET", &path, ""), &[404]));
        }
        let path = format!("/v2/models/{name}/infer");
        let lines = format!("Content-Length: {}\r\n", BODY.len());
        cases.push(kept(path.clone(), request("POST", &path, &lines) + BODY, &[404]));
    }
    for path in [
        "/",
        "//v2",
        "/v2//models/good",
        "/v2/models/good/",
        "/v2/models//ready",
        "/v3",
        "/v2/../v2",
        "/V2",
        "/v2/admin/tenants",
    ] {
        cases.push(kept(path, request("GET", path, ""), &[404]));
    }
    cases
}

fn methods() -> Vec<Case> {
    let paths = [
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/good",
        "/v2/models/good/ready",
        "/v2/models/good/infer",
        "/v2/usage",
        "/v2/repository/index",
    ];
    let mut cases = Vec::new();
    for path in paths {
        for method in ["HEAD", "OPTIONS", "TRACE", "PATCH", "DELETE", "BREW"] {
            cases.push(kept(format!("{method} {path}"), request(method, path, ""), &[405]));
        }
    }
    let overridden = "X-HTTP-Method-Override: POST\r\nX-Original-URL: /v2/models/good\r\n";
    cases.extend([
        kept("an overridden method", request("GET", "/v2/repository/index", overridden), &[405]),
        kept("a tunnel", request("CONNECT", "localhost:80", ""), &[404]),
        kept("an asterisk", request("OPTIONS", "*", ""), &[404]),
        kept("a method in small letters", request("get", "/v2", ""), &[405]),
    ]);
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_there_is_can_be_asked_for() {
    let target = Target::serve(&[]).await;
    let target = target.all(names()).await.all(methods()).await;
    let at = target.process.address;
    // Not one of these has a body for a reader to take for the next answer.
    let head = target.send(request("HEAD", "/v2/health/live", "Connection: close\r\n").as_bytes()).await;
    assert!(head.text.ends_with("\r\n\r\n"), "{}", head.text);

    // Names that nobody has are not kept.
    for number in 0..2000 {
        let path = format!("/v2/models/unknown-{number}/infer");
        assert_eq!(call(at, "POST", &path, &[], BODY).await.status, 404);
    }
    let usage = get(at, "/v2/usage").await.json();
    assert!(usage["models"].as_array().is_some_and(|models| models.len() <= 2), "{usage}");
    target.done().await;
}
