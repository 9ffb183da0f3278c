//! HTTP/2 by hand: floods, windows that stay shut, and streams that are there only to be reset.

use std::time::Duration;

use airlock_tests::client::call_http2;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{BODY, Target};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const INITIAL_WINDOW_SIZE: u16 = 4;

/// Longer than the times these gateways are started with.
const CUT: Duration = Duration::from_secs(20);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// A length below 128, and 128 to 16 K, as HPACK writes them.
fn prefixed(text: &[u8]) -> Vec<u8> {
    let mut coded = Vec::new();
    if text.len() < 127 {
        coded.push(u8::try_from(text.len()).expect("small"));
    } else {
        let rest = text.len() - 127;
        coded.push(127);
        coded.push(u8::try_from(rest & 127).expect("seven bits") | 128);
        coded.push(u8::try_from(rest >> 7).expect("below 16 KiB"));
    }
    coded.extend_from_slice(text);
    coded
}

/// A header as a literal that is not indexed.
fn literal(name: &str, value: &str) -> Vec<u8> {
    [vec![0], prefixed(name.as_bytes()), prefixed(value.as_bytes())].concat()
}

fn head(method: &str, path: &str) -> Vec<u8> {
    [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost")]
        .into_iter()
        .flat_map(|(name, value)| literal(name, value))
        .collect()
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &head("GET", path))
}

/// A request whose body is still to come.
fn begun(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head("POST", "/v2/models/good/infer"))
}

/// Client's stream ids.
fn ids(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

/// What came on a connection.
#[derive(Debug, Default)]
struct Seen {
    /// (kind, stream, payload), pings and settings left out.
    frames: Vec<(u8, u32, Vec<u8>)>,
    closed: bool,
}

impl Seen {
    fn of(bytes: &[u8], closed: bool) -> Self {
        let (mut frames, mut rest) = (Vec::new(), bytes);
        while rest.len() >= 9 {
            let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
            let Some(payload) = rest.get(9..9 + length) else { break };
            let stream = u32::from_be_bytes([rest[5], rest[6], rest[7], rest[8]]);
            if ![SETTINGS, PING, WINDOW_UPDATE].contains(&rest[3]) {
                frames.push((rest[3], stream, payload.to_vec()));
            }
            rest = &rest[9 + length..];
        }
        Self { frames, closed }
    }

    /// The error code of the last GOAWAY.
    fn goaway(&self) -> Option<u32> {
        let last = self.frames.iter().rev().find(|(kind, ..)| *kind == GOAWAY)?;
        Some(u32::from_be_bytes(last.2[4..8].try_into().expect("four bytes")))
    }

    /// The status of a stream's answer: indexed, or a literal of an indexed name.
    fn status(&self, stream: u32) -> Option<u16> {
        let head = self.frames.iter().find(|(kind, id, _)| (*kind, *id) == (HEADERS, stream))?;
        Some(match head.2.as_slice() {
            [0x88, ..] => 200,
            [0x8c, ..] => 400,
            [0x8d, ..] => 404,
            [0x48, 0x82, code @ ..] => match code {
                [0x68, 0x01, ..] => 401,
                // Huffman codes of the digits that these tests meet.
                [0x6c, 0x09, ..] => 421,
                [first, second, ..] => 1000 + u16::from(*first) + u16::from(*second),
                _ => 0,
            },
            [0x48, 0x03, code @ ..] => String::from_utf8_lossy(&code[..3]).parse().unwrap_or(0),
            _ => 0,
        })
    }

    fn count(&self, wanted: u8) -> usize {
        self.frames.iter().filter(|(kind, ..)| *kind == wanted).count()
    }

    /// Bytes of a stream's answer.
    fn body(&self, stream: u32) -> usize {
        let data = self.frames.iter().filter(|(kind, id, _)| (*kind, *id) == (DATA, stream));
        data.map(|(.., payload)| payload.len()).sum()
    }
}

/// Opens a connection and writes `frames` while it reads what comes, until it ends or falls silent for `quiet`.
async fn exchange(target: &Target, mine: &[u8], frames: &[u8], quiet: Duration) -> Seen {
    let stream = target.connect().await;
    exchange_on(stream, mine, frames, quiet).await
}

async fn exchange_on(mut stream: TcpStream, mine: &[u8], frames: &[u8], quiet: Duration) -> Seen {
    let ack = frame(SETTINGS, 1, 0, &[]);
    let all = [PREFACE, mine, &ack, frames].concat();
    let (mut reader, mut writer) = stream.split();
    let writes = async {
        if writer.write_all(&all).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let mut reads = std::pin::pin!(async {
        let mut bytes = Vec::new();
        loop {
            match tokio::time::timeout(quiet, reader.read_buf(&mut bytes)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => break Seen::of(&bytes, true),
                Err(_) => break Seen::of(&bytes, false),
            }
        }
    });
    tokio::select! {
        seen = &mut reads => seen,
        () = writes => reads.await,
    }
}

const SOON: Duration = Duration::from_secs(2);

/// Each is a peer that the gateway should be rid of, and the error code that it is told.
#[tokio::test(flavor = "multi_thread")]
async fn floods_end_the_connection_and_nothing_else() {
    let target = Target::serve(&["--header-timeout", "3s"]).await;
    let open_head = frame(HEADERS, 0, 1, &head("GET", "/v2"));
    let continuations =
        [open_head.clone(), frame(CONTINUATION, 0, 1, &literal("a", "b")).repeat(20_000)].concat();
    let empty_continuations = [open_head, frame(CONTINUATION, 0, 1, &[]).repeat(100_000)].concat();
    let empty = [begun(1), frame(DATA, 0, 1, &[]).repeat(100_000)].concat();
    let one_byte = [begun(1), frame(DATA, 0, 1, b" ").repeat(200_000)].concat();
    // Errors that make the server reset a stream, as often as it takes.
    let provoked: Vec<u8> = ids(2000)
        .flat_map(|id| [begun(id), frame(WINDOW_UPDATE, 0, id, &0x7fff_ffff_u32.to_be_bytes())].concat())
        .collect();
    let overflow = [begun(1), frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())].concat();
    let itself = [&5_u32.to_be_bytes()[..], &[1]].concat();
    const FLOOD: &[u32] = &[11];
    // Protocol, flow control, closed stream, frame size, compression: which of them is a matter of taste.
    const MALFORMED: &[u32] = &[1, 3, 5, 6, 9];
    let cases: Vec<(&str, Vec<u8>, &[u32])> = vec![
        ("a head that goes on for ever", continuations, &[9, 11]),
        ("a head that goes on with nothing", empty_continuations, FLOOD),
        ("a body of empty frames", empty, FLOOD),
        ("a body of single bytes", one_byte, FLOOD),
        ("resets that the server is made to send", provoked, FLOOD),
        ("a window that overflows", overflow, MALFORMED),
        ("a frame of 1 MiB", frame(DATA, 0, 1, &vec![0; 1 << 20]), MALFORMED),
        ("data on no stream", frame(DATA, 0, 0, b"x"), MALFORMED),
        ("a stream with an even number", get(2, "/v2"), MALFORMED),
        ("an earlier stream", [get(5, "/v2"), get(3, "/v2")].concat(), MALFORMED),
        ("headers that cannot be read", frame(HEADERS, 5, 1, &[0xff; 64]), MALFORMED),
        ("a ping of the wrong size", frame(PING, 0, 0, b"x"), MALFORMED),
        ("settings of the wrong size", frame(SETTINGS, 0, 0, b"x"), MALFORMED),
        ("a window of more than 2^31", settings(&[(INITIAL_WINDOW_SIZE, u32::MAX)]), MALFORMED),
    ];
    for (name, frames, codes) in cases {
        let seen = exchange(&target, &settings(&[]), &frames, SOON).await;
        assert!(seen.closed, "{name}: {seen:?}");
        // A peer that goes on writing loses what it was told with its connection.
        assert!(seen.goaway().is_none_or(|code| codes.contains(&code)), "{name}: {:?}", seen.goaway());
        target.good().await;
    }
    // A stream that depends on itself costs that stream only, or the connection.
    let seen = exchange(&target, &settings(&[]), &frame(PRIORITY, 0, 5, &itself), SOON).await;
    assert!(seen.status(5).is_none(), "{seen:?}");
    target.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_reset_at_once_and_what_asks_for_nothing_costs_little() {
    let target = Target::serve(&["--header-timeout", "3s", "--send-timeout", "3s"]).await;
    let cancel = 8_u32.to_be_bytes();
    let rapid: Vec<u8> = ids(50_000)
        .flat_map(|id| [get(id, "/v2/models/good"), frame(RST_STREAM, 0, id, &cancel)].concat())
        .collect();
    let uploads: Vec<u8> =
        ids(20_000).flat_map(|id| [begun(id), frame(RST_STREAM, 0, id, &cancel)].concat()).collect();
    let priorities: Vec<u8> = ids(50_000)
        .flat_map(|id| frame(PRIORITY, 0, id + 2, &[&id.to_be_bytes()[..], &[1]].concat()))
        .collect();
    for (name, frames) in [
        ("rapid reset", rapid),
        ("rapid reset of bodies", uploads),
        ("settings", settings(&[(INITIAL_WINDOW_SIZE, 65_535)]).repeat(50_000)),
        ("pings", frame(PING, 0, 0, &[0; 8]).repeat(50_000)),
        ("priorities", priorities),
        ("frames that nobody knows", frame(0x20, 0, 0, &[0; 8]).repeat(50_000)),
        ("windows", frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()).repeat(50_000)),
    ] {
        // Read, and not read at all: then what the gateway would say must not pile up.
        exchange(&target, &settings(&[]), &frames, Duration::from_millis(500)).await;
        target.good().await;
        let mut stream = target.connect().await;
        let unread = [PREFACE, &settings(&[]), &frames].concat();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.write_all(&unread)).await;
        target.good().await;
        let answer = call_http2(target.process.address, "GET", "/v2", &[], "").await;
        assert_eq!(answer.status, 200, "{name}");
    }
    target.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded_here_too() {
    let target = Target::serve(&[]).await;
    let with = |more: &[u8]| {
        frame(HEADERS, END_STREAM | END_HEADERS, 1, &[head("GET", "/v2"), more.to_vec()].concat())
    };
    // 65 headers; one of 17 KiB over two frames; one of 4,000 bytes in the table, and 100 references to it.
    let many: Vec<u8> = (0..65).flat_map(|number| literal(&format!("a{number}"), "b")).collect();
    let value = "x".repeat(9000);
    let large = [
        frame(HEADERS, END_STREAM, 1, &[head("GET", "/v2"), literal("a", &value)].concat()),
        frame(CONTINUATION, END_HEADERS, 1, &literal("b", &value)),
    ]
    .concat();
    let entry = [vec![0x40], prefixed(b"a"), prefixed("x".repeat(4000).as_bytes())].concat();
    let bomb = with(&[entry, vec![0xbe; 100]].concat());
    let uri = frame(HEADERS, 5, 1, &head("GET", &format!("/v2?{}", "x".repeat(3000))));
    for (name, frames) in [("many", with(&many)), ("large", large), ("bomb", bomb), ("uri", uri)] {
        let seen = exchange(&target, &settings(&[]), &frames, SOON).await;
        assert!(
            seen.status(1).map_or_else(|| seen.goaway() == Some(11), |status| status != 200),
            "{name}: {seen:?}"
        );
        target.good().await;
    }
    for status in [431, 414] {
        let long = format!("/v2?{}", "x".repeat(if status == 414 { 3000 } else { 10 }));
        let names: Vec<String> = (0..65).map(|number| format!("a{number}")).collect();
        let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "b")).collect();
        let headers = if status == 431 { &headers[..] } else { &[] };
        let answer = call_http2(target.process.address, "GET", &long, headers, "").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, "too_large"));
    }
    target.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_no_more_streams_than_it_may() {
    let target = Target::serve(&[]).await;
    let frames: Vec<u8> = ids(1000).flat_map(begun).collect();
    let seen = exchange(&target, &settings(&[]), &frames, Duration::from_millis(500)).await;
    // The connection is closed, or streams are refused; 64 at most are waited for.
    assert!(seen.closed || seen.count(RST_STREAM) >= 1000 - 64, "{} resets", seen.count(RST_STREAM));
    target.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_stay_shut_are_waited_for_no_longer_than_a_slow_reader() {
    let target = Target::serve(&["--send-timeout", "1s", "--header-timeout", "2s"]).await;
    let large = format!(
        r#"{{"inputs":[{{"name":"INPUT0","datatype":"FP32","shape":[10000],"data":[{}]}}]}}"#,
        vec!["1.5"; 10_000].join(",")
    );
    let body: Vec<u8> =
        large.as_bytes().chunks(16 << 10).flat_map(|piece| frame(DATA, 0, 1, piece)).collect();
    let asks = [begun(1), body, frame(DATA, END_STREAM, 1, &[])].concat();
    let small = [begun(1), frame(DATA, END_STREAM, 1, BODY.as_bytes())].concat();
    // No window at all, one of a byte, and one of a byte that is opened by another one again and again.
    let drips = [&asks[..], &frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()).repeat(50)].concat();
    for (name, window, frames) in
        [("shut", 0, &asks), ("a byte", 1, &asks), ("bytes", 1, &drips), ("a small answer", 1, &small)]
    {
        let seen = exchange(&target, &settings(&[(INITIAL_WINDOW_SIZE, window)]), frames, CUT).await;
        assert_eq!(seen.status(1), Some(200), "{name}: {seen:?}");
        assert!(seen.closed, "{name}: still open");
        assert!(seen.body(1) <= 51, "{name}: {} bytes", seen.body(1));
        target.good().await;
    }
    target.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_requests_is_ended_politely() {
    let target = Target::serve(&["--header-timeout", "1s", "--body-idle-timeout", "1s"]).await;
    // Silent from the beginning, after an answer, in the middle of a head, and with pings all the time.
    let half = frame(HEADERS, 0, 1, &head("GET", "/v2"));
    for (name, frames) in [("silent", Vec::new()), ("answered", get(1, "/v2")), ("half", half)] {
        let seen = exchange(&target, &settings(&[]), &frames, CUT).await;
        assert!(seen.closed, "{name}: {seen:?}");
        assert_eq!(seen.goaway(), Some(0), "{name}: {seen:?}");
    }
    // A body that stops is answered.
    let seen = exchange(&target, &settings(&[]), &[begun(1), frame(DATA, 0, 1, b"{")].concat(), CUT).await;
    assert!(seen.closed && seen.status(1).is_some_and(|status| status != 200), "{seen:?}");
    target.done().await;
}
