//! Models that flood the log or forge it, seen in the log of a real process.

use std::time::{Duration, Instant};

use airlock_tests::{client::post, gateway::Repository, guest, guest::hostile, process::Process};
use serde_json::Value;

use super::{fixture, request};

/// Bytes within a second, and bytes at once.
const ALLOWED: usize = 10 << 10;

/// Lines that one call of the fixture writes; each has 1 KiB, so that none is written whole.
const LINES: u64 = 10_000;

/// A log after that many calls of a model that floods it, and for how long it was written.
async fn flooded(calls: u64, format: &str) -> (Vec<String>, Duration) {
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good()).with(
        "flood",
        "1",
        "model.wasm",
        fixture(hostile::LOG_FLOOD),
    );
    let folder = repository.path().to_str().expect("UTF-8").to_owned();
    let begun = Instant::now();
    let process =
        Process::serve(&["--model-repository", &folder, "--log-format", format, "--deadline", "20s"]);
    for _ in 0..calls {
        let answer = post(process.address, "/v2/models/flood/infer", &request()).await;
        assert_eq!(answer.status, 200, "lines are dropped, not calls: {}", answer.error());
    }
    assert_eq!(post(process.address, "/v2/models/good/infer", &request()).await.status, 200);
    let elapsed = begun.elapsed();
    process.signal("TERM");
    let (code, _, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    (log.lines().map(str::to_owned).collect(), elapsed)
}

/// Bytes of the lines that the model caused, and what is told to be missing of those that it wrote.
fn sums<'a>(lines: impl Iterator<Item = (&'a String, String, Option<u64>)>) -> (usize, u64) {
    let (mut bytes, mut missing) = (0, 0);
    for (line, message, count) in lines {
        let told = match count {
            // Of the tenant, not in its words.
            Some(lines) => Some(lines),
            None if message.contains(" lines were cut or left out") => {
                message.split(' ').next().and_then(|n| n.parse().ok())
            }
            None if message.starts_with("guest says ") => None,
            None => continue,
        };
        assert!(line.len() < 256 + 200, "{line}");
        bytes += if count.is_none() { line.len() + 1 } else { 0 };
        missing += told.unwrap_or(0);
    }
    (bytes, missing)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_floods_the_log_gets_its_tenant_s_share_and_every_missing_line_is_counted() {
    const CALLS: u64 = 30;
    let (lines, elapsed) = flooded(CALLS, "text").await;
    let message = |line: &String| line.get(34..).unwrap_or_default().trim_start().to_owned();
    let count = |line: &String| {
        let told = line.contains("lines of this tenant's models were left out or cut");
        told.then(|| {
            line.rsplit_once("lines=").and_then(|(_, count)| count.trim().parse().ok()).expect("a count")
        })
    };
    for line in &lines {
        // Nothing but the gateway's own beginnings of lines, and nothing that a terminal would obey.
        assert!(line.starts_with("20") && !line.contains(char::is_control), "{line}");
        assert!(!line.contains("all is well") || line.contains("guest says \""), "{line}");
    }
    let (bytes, missing) = sums(lines.iter().map(|line| (line, message(line), count(line))));
    assert!(bytes > ALLOWED / 2, "only {bytes} bytes of the model's lines");
    let allowed = ALLOWED as u128 + ALLOWED as u128 * elapsed.as_millis() / 1000;
    assert!(bytes as u128 <= allowed, "{bytes} bytes in {elapsed:?}, allowed {allowed}");
    assert_eq!(missing, CALLS * LINES, "every line was cut or left out");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_json_a_model_cannot_add_fields_either() {
    let (lines, _) = flooded(2, "json").await;
    let parsed: Vec<Value> =
        lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    let guests = parsed.iter().filter(|line| line["target"] == "guest");
    let said: Vec<&Value> = guests
        .filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with("guest says")))
        .collect();
    assert!(!said.is_empty());
    for line in said {
        assert_eq!(
            (line["model"].as_str(), line["tenant"].as_str()),
            (Some("flood/1"), Some("default")),
            "{line}"
        );
        let keys: Vec<&String> = line.as_object().expect("an object").keys().collect();
        assert_eq!(keys.len(), 6, "{keys:?}");
    }
}
