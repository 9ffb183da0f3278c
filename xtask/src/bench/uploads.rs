//! How long it takes from an upload to the first answer, and from the start of a gateway to the same answer again.

use std::{
    fmt::Write,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Section, figures::Rounds, lab::Lab};
use crate::{
    http,
    server::{Server, free_address},
    shell,
};

/// Bytes that the second model is padded to.
const LARGE: usize = 5 << 20;

/// What was measured of one model, in milliseconds, one value a round.
#[derive(Debug, Default)]
struct Uploads {
    bytes: usize,
    /// From the first byte of the upload to its answer.
    published: Rounds,
    /// The first call after that.
    first_call: Rounds,
    /// A later call, for comparison.
    later_call: Rounds,
}

/// Everything that this file measures.
#[derive(Debug, Default)]
struct Report {
    plugin: Uploads,
    onnx: Uploads,
    /// Models that the gateway of the next two figures serves.
    models: usize,
    /// From the start of the process to readiness, with compiled code in the local cache and without.
    start_cached: Rounds,
    start_cold: Rounds,
}

/// Uploads `rounds` versions of each model, then starts the gateway again as often.
pub fn measure(lab: &Lab) -> Result<Section> {
    let rounds = 2 * lab.rounds;
    let store = shell::target().join("store-of-bench");
    if store.exists() {
        fs::remove_dir_all(&store)?;
    }
    let folder = store.to_str().context("the path of the store is not UTF-8")?;
    let models = shell::target().join("models");
    let plugin = fs::read(models.join("identity/1/model.wasm"))?;
    let onnx = fs::read(models.join("identity_onnx/1/model.onnx"))?;
    let versions = rounds.to_string();
    let arguments = ["--store", folder, "--tenant-versions", &versions, "--log", "warn"];
    let start = || -> Result<(Server, f64)> {
        let begun = Instant::now();
        let server = Server::store(&lab.binaries, free_address()?, &arguments)?;
        Ok((server, millis(begun.elapsed())))
    };
    let (server, _) = start()?;
    let mut report = Report { models: 2 * rounds, ..Report::default() };
    for round in 0..rounds {
        eprintln!("==> uploads {} of {rounds}", round + 1);
        let plugin = with_section(&plugin, round);
        let onnx = with_documentation(&onnx, LARGE, round);
        upload(&server, "plugin", round, &plugin, &mut report.plugin)?;
        upload(&server, "graph", round, &onnx, &mut report.onnx)?;
    }
    server.stop()?;
    for _ in 0..rounds {
        let (server, time) = start()?;
        server.stop()?;
        report.start_cached.push(time);
        let _ = fs::remove_dir_all(store.join("local/cache"));
        let (server, time) = start()?;
        server.stop()?;
        report.start_cold.push(time);
    }
    Ok(Section { text: text(&report), bars: Vec::new() })
}

const HEAD: &str = "
## From an upload to the first answer

Each round publishes a version that was never seen before, over loopback into a store in a folder with fsync, calls it, and
calls it again; nothing is pinned to a core. Both models are identities; the ONNX model is padded with documentation.
Milliseconds: the median, and least and most.

| model | bytes | upload until published | first call | later call |
|---|---|---|---|---|
";

fn text(report: &Report) -> String {
    let mut text = String::from(HEAD);
    for (name, uploads) in [("plugin (wasm)", &report.plugin), ("ONNX model", &report.onnx)] {
        let Uploads { bytes, published, first_call, later_call } = uploads;
        let _ = writeln!(
            text,
            "| {name} | {bytes} | {} | {} | {} |",
            published.spread(),
            first_call.spread(),
            later_call.spread()
        );
    }
    let _ = writeln!(
        text,
        "\nA gateway that is started again with these {} versions is ready after {} ms with compiled code in its local \
         cache, after {} ms without it.",
        report.models,
        report.start_cached.spread(),
        report.start_cold.spread()
    );
    text
}

fn upload(server: &Server, model: &str, round: usize, artifact: &[u8], into: &mut Uploads) -> Result<()> {
    let version = round + 1;
    let path = format!("/v2/repository/models/{model}/versions/{version}");
    let begun = Instant::now();
    let answer = http::send(server.address, "PUT", &path, &[], artifact)?;
    into.published.push(millis(begun.elapsed()));
    ensure!(answer.status == 200, "{path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
    into.bytes = artifact.len();
    let path = format!("/v2/models/{model}/versions/{version}/infer");
    let body = json!({
        "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4] }]
    });
    let call = || -> Result<f64> {
        let begun = Instant::now();
        let answer = http::send(server.address, "POST", &path, &[], body.to_string().as_bytes())?;
        let time = millis(begun.elapsed());
        ensure!(answer.status == 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        Ok(time)
    };
    into.first_call.push(call()?);
    into.later_call.push(call()?);
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The same module with a custom section of its own, so that nothing of it is cached.
fn with_section(module: &[u8], round: usize) -> Vec<u8> {
    let name = format!("{round:08}");
    let mut bytes = module.to_vec();
    // Section 0 of 9 bytes: the length of a name, and the name.
    bytes.extend_from_slice(&[0, 9, 8]);
    bytes.extend_from_slice(name.as_bytes());
    bytes
}

/// The same graph with a documentation text that makes it that large.
fn with_documentation(graph: &[u8], size: usize, round: usize) -> Vec<u8> {
    let mut bytes = graph.to_vec();
    let text = format!("{round:08}").repeat(size / 8);
    // ModelProto.doc_string: field 6, wire type 2, and the length as a varint.
    bytes.push(6 << 3 | 2);
    let mut length = text.len();
    while length >= 0x80 {
        bytes.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap_or(0));
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_what_was_measured() {
        let mut report = Report { models: 2, ..Report::default() };
        report.plugin.published = Rounds(vec![30.0, 10.0, 20.0]);
        let text = text(&report);
        assert!(text.contains("| plugin (wasm) | 0 | 20.0 (10.0–30.0) |"), "{text}");
    }
}
