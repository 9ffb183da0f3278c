//! Where a request ends: heads and bodies that two servers in a row could read differently get one answer, and whatever
//! could be taken for a second request is not.

use super::{BODY, Case, Target, closed, infer, kept, length};

/// What would be the second request if the first one's end were taken to be elsewhere.
const SMUGGLED: &str = "GET /v2/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn chunked(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

fn get(lines: &str) -> String {
    format!("GET /v2/health/live HTTP/1.1\r\n{lines}\r\n")
}

fn lengths() -> Vec<Case> {
    let with = |value: &str| infer(&format!("Content-Length: {value}\r\n"), BODY);
    let (right, small) = (BODY.len(), format!("{}{SMUGGLED}", " ".repeat(5)));
    let mut cases: Vec<Case> = ["-1", "+73", "73,5", "0x49", "1e2", "18446744073709551616", "", "73 5"]
        .map(|value| closed(format!("length {value:?}"), with(value), &[400]))
        .into();
    cases.extend([
        kept("white space around a length", with(&format!(" \t{right} ")), &[200]),
        closed("two lengths", infer("Content-Length: 5\r\nContent-Length: 6\r\n", &small), &[400]),
        kept("the same length twice", infer(&length(BODY).repeat(2), BODY), &[200]),
        kept("no length and no body", infer("", ""), &[400]),
        kept("length 0", infer("Content-Length: 0\r\n", ""), &[400]),
        closed("more than was announced", infer("Content-Length: 1\r\n", &"x".repeat(1 << 20)), &[400, 431]),
        kept(
            "exactly two requests",
            [infer(&length(BODY), BODY), get("Host: localhost\r\n")].concat(),
            &[200, 200],
        ),
    ]);
    cases
}

fn transfer_encodings() -> Vec<Case> {
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
    let both = |first: &str, second: &str| infer(&format!("{first}{second}"), &(chunked(BODY) + SMUGGLED));
    let mut cases: Vec<Case> =
        ["chunked, identity", "identity", "gzip", "xchunked", "chunked;q=1", "\"chunked\"", "chunked\u{b}"]
            .map(|value| {
                let lines = format!("Transfer-Encoding: {value}\r\n");
                closed(format!("coding {value:?}"), infer(&lines, &(chunked(BODY) + SMUGGLED)), &[400])
            })
            .into();
    let byte_chunks = |count: usize| "1\r\n \r\n".repeat(count) + &chunked(BODY);
    let old = infer(CHUNKED, &chunked(BODY)).replace("HTTP/1.1", "HTTP/1.0");
    let trailers = format!("{:x}\r\n{BODY}\r\n0\r\n", BODY.len());
    cases.extend([
        kept("chunked", infer(CHUNKED, &chunked(BODY)), &[200]),
        closed("length, then chunked", both(&length(BODY), CHUNKED), &[200]),
        closed("chunked, then length", both(CHUNKED, "Content-Length: 4\r\n"), &[200]),
        closed("chunked twice", both(CHUNKED, CHUNKED), &[400]),
        closed("chunked in HTTP/1.0", old, &[400]),
        kept("70,000 chunks of a byte", infer(CHUNKED, &byte_chunks(70_000)), &[200]),
        closed("a chunk's size is no number", infer(CHUNKED, "zz\r\n"), &[400]),
        closed("a chunk's size overflows", infer(CHUNKED, "fffffffffffffffff\r\n"), &[400]),
        closed("a chunk's size is negative", infer(CHUNKED, "-1\r\n"), &[400]),
        closed("a chunk is longer than its size", infer(CHUNKED, "1\r\nabc\r\n0\r\n\r\n"), &[400]),
        closed("chunk extension of 1 MiB", infer(CHUNKED, &format!("1;{}\r\n", "x".repeat(1 << 20))), &[400]),
        closed("chunk extension with a line feed", infer(CHUNKED, "1;a\nb\r\n"), &[400]),
        kept("trailers", infer(CHUNKED, &format!("{trailers}A: b\r\n\r\n")), &[200]),
        closed("trailer of 1 MiB", infer(CHUNKED, &format!("{trailers}A: {}", "x".repeat(1 << 20))), &[400]),
        closed("100 trailers", infer(CHUNKED, &format!("{trailers}{}\r\n", "a: b\r\n".repeat(100))), &[400]),
    ]);
    cases
}

fn heads() -> Vec<Case> {
    const HOST: &str = "Host: localhost\r\n";
    let uri = |length: usize| format!("GET /v2?{} HTTP/1.1\r\n{HOST}\r\n", "x".repeat(length));
    vec![
        closed("a folded line", get(&format!("{HOST}A: b\r\n c\r\n")), &[400]),
        closed("a space before the colon", get(&format!("{HOST}A : b\r\n")), &[400]),
        closed("a line without a colon", get(&format!("{HOST}A\r\n")), &[400]),
        closed("a name of nothing", get(&format!("{HOST}: b\r\n")), &[400]),
        closed("NUL in a value", get(&format!("{HOST}A: b\0c\r\n")), &[400]),
        closed("a lone carriage return", get(&format!("{HOST}A: b\rc\r\n")), &[400]),
        kept("lone line feeds", get(HOST).replace("\r\n", "\n"), &[200]),
        closed("no protocol", "GET /v2/health/live\r\n\r\n", &[400]),
        closed("HTTP/1.2", get(HOST).replace("HTTP/1.1", "HTTP/1.2"), &[400]),
        closed("HTTP/2.0 without its preface", get(HOST).replace("HTTP/1.1", "HTTP/2.0"), &[400]),
        closed("a method that is none", get(HOST).replace("GET", "G(T"), &[400]),
        closed("two spaces", get(HOST).replace("GET ", "GET  "), &[400]),
        closed("not HTTP at all", "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03", &[400]),
        closed("a header of 64 KiB", get(&format!("{HOST}A: {}\r\n", "x".repeat(64 << 10))), &[431]),
        closed("65 headers", get(&"Host: localhost\r\n".replace("Host", "A").repeat(65)), &[431]),
        kept("a URI of 2 KiB", uri(2 << 10), &[414]),
        kept("a URI a little below", uri(2000), &[200]),
        closed("a URI of 64 KiB", uri(64 << 10), &[431]),
        closed(
            "a trace context of 1 MiB",
            get(&format!("{HOST}traceparent: {}\r\n", "0".repeat(1 << 20))),
            &[431],
        ),
        closed("no host", get(""), &[400]),
        closed("two hosts", get(&HOST.repeat(2)), &[400]),
        kept("a foreign host in the URI", get(HOST).replace("/v2", "http://evil.example/v2"), &[403]),
        kept(
            "an upgrade is not made",
            get(&format!("{HOST}Connection: upgrade\r\nUpgrade: websocket\r\n")),
            &[200],
        ),
        kept(
            "nor to HTTP/2",
            get(&format!(
                "{HOST}Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
            )),
            &[200],
        ),
        kept("1,000 requests in a row", get(HOST).repeat(1000), &[200; 1000]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_in_one_place_only() {
    let target = Target::serve(&["--header-timeout", "5s"]).await;
    let target = target.all(lengths()).await;
    let target = target.all(transfer_encodings()).await;
    target.all(heads()).await.done().await;
}
