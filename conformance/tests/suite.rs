//! The suite against servers that keep nothing, or nearly nothing: what cannot fail would say nothing of a server that is good.

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::{Command, Output},
    thread,
};

const METADATA: &str = r#"{"name":"m","versions":["1"],"platform":"","inputs":[{"name":"a","datatype":"UINT8","shape":[-1,2]},
    {"name":"b","datatype":"FP32","shape":[2]}],"outputs":[{"name":"c","datatype":"FP32","shape":[2]}]}"#;

/// A server that answers every request as `answer` says by its path, and the suite's verdict of it.
fn verdict(answer: fn(&str) -> (u16, String)) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            thread::spawn(move || {
                let mut head = vec![0; 64 << 10];
                let length = stream.read(&mut head).unwrap_or_default();
                let head = String::from_utf8_lossy(&head[..length]).into_owned();
                let (status, body) = answer(head.split(' ').nth(1).unwrap_or_default());
                let length = body.len();
                let response = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
                let _ = stream.write_all(response.as_bytes());
            });
        }
    });
    let mut suite = Command::new(env!("CARGO_BIN_EXE_airlock-conformance"));
    suite.args(["--url", &url, "--model", "m", "--all"]).output().expect("the suite starts")
}

fn summary(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_server_that_says_yes_to_everything_keeps_nearly_nothing() {
    let output = verdict(|path| match path {
        "/v2" => (200, r#"{"name":"x","version":"1","extensions":[]}"#.to_owned()),
        "/v2/models/m" => (200, METADATA.to_owned()),
        _ => (200, "{}".to_owned()),
    });
    assert_eq!(output.status.code(), Some(1));
    // The server's and the model's metadata are there.
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(summary(&output).starts_with("2 kept, ") && text.lines().count() > 70, "{text}");
}

#[test]
fn a_server_that_says_no_to_everything_keeps_what_is_to_be_refused_and_lives_no_more() {
    let output = verdict(|path| match path {
        "/v2" => (200, r#"{"name":"x","version":"1","extensions":[]}"#.to_owned()),
        "/v2/models/m" => (200, METADATA.to_owned()),
        _ => (400, r#"{"error":"no"}"#.to_owned()),
    });
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    for case in
        ["GET /v2/health/live", "an answer fits", "a shape whose product overflows", "each answered request"]
    {
        assert!(
            text.lines().any(|line| line.trim_start().starts_with(&format!("not kept {case}"))),
            "{text}"
        );
    }
    assert!(text.contains("kept     malformed JSON is a 4xx"), "{text}");
}

#[test]
fn where_nothing_can_be_checked_the_code_is_2() {
    let output = verdict(|_| (500, "no".to_owned()));
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("expected 200, got 500"));
}

#[test]
fn a_server_that_is_gone_is_not_asked_any_more() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        // It answers the two requests for metadata, the first case, and then nothing.
        for body in [r#"{"name":"x","version":"1","extensions":[]}"#, METADATA, "no"] {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    let mut suite = Command::new(env!("CARGO_BIN_EXE_airlock-conformance"));
    let output = suite.args(["--url", &url, "--model", "m"]).output().expect("the suite starts");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("does not answer any more") && summary(&output).starts_with("0 kept, 1 not kept"),
        "{text}"
    );
}
