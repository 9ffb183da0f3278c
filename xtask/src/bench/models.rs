//! What a request costs beside the number of models that are loaded.

use std::fmt::Write;

use anyhow::Result;

use super::{
    Section,
    bars::{Bar, Wanted},
    figures::{Rounds, figure, mebibytes},
    lab::{Kind, Lab, Running},
    load::{Load, Samples},
};

const COUNTS: [usize; 3] = [1, 100, 1000];
const COUNTS_OF_SMOKE: [usize; 3] = [1, 2, 3];
const CONCURRENCY: usize = 8;
/// How much more a request may cost with the most models.
const FLAT: f64 = 1.2;

/// One gateway.
struct Row {
    models: usize,
    start: f64,
    /// Bytes, before the load.
    idle: f64,
    samples: Samples,
}

pub fn measure(lab: &Lab) -> Result<Section> {
    let mut rows = Vec::new();
    let mut servers: Vec<Running> = Vec::new();
    // One cache for all: the copies are compiled once.
    let state = lab.folder("state")?;
    let more = ["--state", state.to_str().unwrap_or_default()];
    for models in if lab.smoke { COUNTS_OF_SMOKE } else { COUNTS } {
        let repository = lab.copies(models)?;
        let running = lab.start(Kind::Airlock, &repository, &format!("identity_{models:04}"), &more)?;
        let idle = lab.memory(&running)?;
        rows.push(Row { models, start: running.start.as_secs_f64(), idle, samples: Samples::default() });
        servers.push(running);
    }
    for round in 0..lab.rounds {
        eprintln!("==> models, round {} of {}", round + 1, lab.rounds);
        for (row, running) in rows.iter_mut().zip(&servers) {
            let load = Load {
                case: "json4",
                model: "identity",
                models: Some(row.models),
                concurrency: CONCURRENCY,
                memory: false,
                pause: 0.0,
            };
            row.samples.add(Kind::Airlock, load.measure(lab, running, false))?;
        }
    }
    for running in servers {
        running.stop(Kind::Airlock)?;
    }
    Ok(Section { text: text(&rows), bars: bars(&rows) })
}

fn cpu(row: &Row) -> Rounds {
    row.samples.rounds(|sample| sample.cpu_us).unwrap_or_default()
}

fn bars(rows: &[Row]) -> Vec<Bar> {
    let [first, rest @ ..] = rows else { return Vec::new() };
    let measured = rest.iter().map(|row| (format!("{} models", row.models), Ok(cpu(row).ratio(&cpu(first)))));
    vec![Bar {
        number: 12,
        text: "cost flat in the number of models: CPU time of a request to that with one model".into(),
        wanted: Wanted::AtMost(FLAT),
        unit: "×",
        measured: measured.collect(),
    }]
}

fn text(rows: &[Row]) -> String {
    let mut text = format!(
        "\n## The number of models\n\nSo many copies of the wasm identity model in one gateway; FP32 `[1,4]` as JSON, \
         {CONCURRENCY} requests in flight, each for the next model. The gateways share a cache of compiled code, which the first \
         one fills.\n\n| models | CPU µs/request | requests/s | p99 ms | MiB idle | s until the first answer |\n|---|---|---|---|---|---|\n"
    );
    for row in rows {
        let of = |field: fn(&super::load::Sample) -> f64| row.samples.rounds(field).unwrap_or_default();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            row.models,
            cpu(row).spread(),
            of(|sample| sample.requests_per_second).spread(),
            figure(of(|sample| sample.p99_ms).median()),
            figure(mebibytes(&Rounds(vec![row.idle])).median()),
            figure(row.start)
        );
    }
    text
}
