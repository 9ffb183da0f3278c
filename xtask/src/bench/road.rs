//! Whole requests: the gateway's identity models, the bare server and the other servers, with the same bytes.

use std::fmt::Write;

use anyhow::{Context, Result};

use super::{
    Section,
    bars::{Bar, Wanted},
    figures::{Rounds, figure},
    lab::{Kind, Lab, Running},
    load::{Load, Sample, Samples},
    peers::Peer,
};

/// Above this share of its core, the generator may be what limits the figures.
const GENERATOR_LIMIT: f64 = 0.95;

/// Who answers; the first is what the others are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Bare,
    Wasm,
    Native,
    /// A wasm model whose response is kept.
    Kept,
    Triton,
    Cached,
    Mlserver,
}

use Who::{Bare, Cached, Kept, Mlserver, Native, Triton, Wasm};

impl Who {
    fn name(self) -> &'static str {
        match self {
            Bare => "bare hyper server",
            Wasm => "`identity` (wasm)",
            Native => "`identity_onnx` (native)",
            Kept => "Airlock, from its response cache",
            Triton => "Triton",
            Cached => "Triton, from its response cache",
            Mlserver => "MLServer",
        }
    }

    fn server(self) -> Kind {
        match self {
            Bare => Kind::Bare,
            Wasm | Native | Kept => Kind::Airlock,
            Triton | Cached => Kind::Peer(Peer::Triton),
            Mlserver => Kind::Peer(Peer::Mlserver),
        }
    }

    fn model(self) -> &'static str {
        match self {
            Bare | Wasm | Triton | Mlserver => "identity",
            Native => "identity_onnx",
            Kept | Cached => "identity_cached",
        }
    }
}

/// One kind of request, and what is promised of it: the number of the promise, whose rate beside whose, and how many times.
struct Scene {
    case: &'static str,
    title: &'static str,
    concurrency: &'static [usize],
    /// Of these, where the promises count.
    promised: &'static [usize],
    who: &'static [Who],
    bars: &'static [(u32, Who, Who, f64)],
}

const SCENES: [Scene; 4] = [
    Scene {
        case: "json4",
        title: "FP32 `[1,4]`, JSON",
        concurrency: &[1, 8, 32],
        promised: &[8, 32],
        who: &[Bare, Wasm, Native, Kept, Triton, Cached, Mlserver],
        bars: &[
            (1, Wasm, Bare, 0.5),
            (1, Wasm, Triton, 8.0),
            (1, Wasm, Cached, 2.5),
            (1, Wasm, Mlserver, 20.0),
            (2, Native, Bare, 0.7),
        ],
    },
    Scene {
        case: "json150528",
        title: "FP32 `[1,150528]`, JSON",
        concurrency: &[1, 8],
        promised: &[1, 8],
        who: &[Bare, Wasm, Native, Triton, Mlserver],
        bars: &[
            (3, Wasm, Bare, 2.0),
            (3, Wasm, Triton, 10.0),
            (3, Wasm, Mlserver, 10.0),
            (3, Native, Bare, 2.0),
            (3, Native, Triton, 10.0),
            (3, Native, Mlserver, 10.0),
        ],
    },
    Scene {
        case: "binary150528",
        title: "FP32 `[1,150528]`, binary",
        concurrency: &[1, 8],
        promised: &[1, 8],
        who: &[Bare, Wasm, Native, Triton, Mlserver],
        bars: &[(4, Wasm, Bare, 0.75), (4, Wasm, Triton, 2.2)],
    },
    Scene {
        case: "grpc16",
        title: "FP32 `[1,16]`, gRPC `ModelInfer` with `raw_input_contents`",
        concurrency: &[1, 8, 32],
        promised: &[8, 32],
        // Triton's response cache ends its process over gRPC.
        who: &[Bare, Wasm, Native, Triton, Mlserver],
        bars: &[
            (5, Wasm, Bare, 0.3),
            (5, Wasm, Triton, 8.0),
            (5, Native, Bare, 0.3),
            (5, Native, Triton, 8.0),
        ],
    },
];

/// All rounds of one server at one concurrency.
struct Row {
    who: Who,
    concurrency: usize,
    samples: Samples,
}

pub fn measure(lab: &Lab, case: &str) -> Result<Section> {
    let scene = SCENES.iter().find(|scene| scene.case == case).context("no such case")?;
    let repository = lab.identities()?;
    let mut servers: Vec<(Kind, Result<Running, String>)> = Vec::new();
    for who in scene.who {
        let kind = who.server();
        if !servers.iter().any(|(started, _)| *started == kind) {
            servers.push((kind, lab.attempt(kind, &repository)?));
        }
    }
    let server = |who: Who| {
        let found = servers.iter().find(|(kind, _)| *kind == who.server());
        found.map_or_else(
            || Err("it was not started".to_owned()),
            |(_, server)| server.as_ref().map_err(Clone::clone),
        )
    };
    let mut rows: Vec<Row> = Vec::new();
    for concurrency in scene.concurrency {
        rows.extend(scene.who.iter().map(|who| Row {
            who: *who,
            concurrency: *concurrency,
            samples: Samples(server(*who).map(|_| Vec::new())),
        }));
    }
    for round in 0..lab.rounds {
        eprintln!("==> {case}, round {} of {}", round + 1, lab.rounds);
        for group in rows.chunks_mut(scene.who.len()) {
            // Another server begins in each round, so that none always follows the same one.
            let first = round % group.len();
            for index in (first..group.len()).chain(0..first) {
                let row = &mut group[index];
                let (Ok(running), false) = (server(row.who), row.samples.failed()) else { continue };
                let load = Load {
                    case,
                    model: row.who.model(),
                    models: None,
                    concurrency: row.concurrency,
                    memory: false,
                    pause: 0.0,
                };
                let echo = row.who == Bare && case.starts_with("grpc");
                let added = row.samples.add(row.who.server(), load.measure(lab, running, echo));
                added.with_context(|| row.who.name())?;
            }
        }
    }
    for (kind, server) in servers {
        server.map_or(Ok(()), |running| running.stop(kind))?;
    }
    Ok(Section { text: text(scene, &rows), bars: bars(scene, &rows) })
}

fn bars(scene: &Scene, rows: &[Row]) -> Vec<Bar> {
    let samples = |who: Who, concurrency: usize| {
        rows.iter().find(|row| (row.who, row.concurrency) == (who, concurrency)).map(|row| &row.samples)
    };
    let bar = |(number, who, against, times): &(u32, Who, Who, f64)| {
        let measured = scene.promised.iter().filter_map(|concurrency| {
            let rounds = samples(*who, *concurrency)?.rate_to(samples(*against, *concurrency)?);
            Some((format!("c={concurrency}"), rounds))
        });
        Bar {
            number: *number,
            text: format!("{}: {} to {}", scene.title, who.name(), against.name()),
            wanted: Wanted::AtLeast(*times),
            unit: "×",
            measured: measured.collect(),
        }
    };
    scene.bars.iter().map(bar).collect()
}

const TABLE_HEAD: &str = "\
| server | in flight | requests/s | p50 ms | p99 ms | CPU µs/request | requests/s to bare | CPU to bare | generator busy |
|---|---|---|---|---|---|---|---|---|
";

fn text(scene: &Scene, rows: &[Row]) -> String {
    let mut text = format!("\n## {}\n\n{TABLE_HEAD}", scene.title);
    for row in rows {
        let bare = rows.iter().find(|bare| (bare.who, bare.concurrency) == (Bare, row.concurrency));
        if let Some(bare) = bare {
            text += &table_row(row, bare);
        }
    }
    let busy = |row: &&Row| {
        let busy = row.samples.rounds(|sample| sample.generator_busy);
        busy.is_ok_and(|busy| busy.median() > GENERATOR_LIMIT)
    };
    let limited: Vec<String> = rows
        .iter()
        .filter(busy)
        .map(|row| format!("{}, {} in flight", row.who.name(), row.concurrency))
        .collect();
    if !limited.is_empty() {
        let _ = writeln!(
            text,
            "\nThe generator used its whole core for {}: there it may have been the limit, and the server may be faster.",
            limited.join("; ")
        );
    }
    text
}

fn table_row(row: &Row, bare: &Row) -> String {
    let head = format!("| {} | {} | ", row.who.name(), row.concurrency);
    let of = |field: fn(&Sample) -> f64| row.samples.rounds(field);
    let rates = match of(|sample| sample.requests_per_second) {
        Ok(rates) => rates,
        Err(reason) => return format!("{head}not measured: {reason} | | | | | | |\n"),
    };
    let cpu = |row: &Row| row.samples.rounds(|sample| sample.cpu_us).unwrap_or_default();
    let median = |field| figure(of(field).unwrap_or_default().median());
    let rate_to_bare = row.samples.rate_to(&bare.samples).unwrap_or_default();
    let cpu_to_bare: Rounds = cpu(row).ratio(&cpu(bare));
    format!(
        "{head}{} | {} | {} | {} | {} | {:.2} | {:.0} % |\n",
        rates.spread(),
        median(|sample| sample.p50_ms),
        median(|sample| sample.p99_ms),
        figure(cpu(row).median()),
        rate_to_bare.spread(),
        cpu_to_bare.median(),
        of(|sample| sample.generator_busy).unwrap_or_default().median() * 100.0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(who: Who, concurrency: usize, rates: &[f64]) -> Row {
        let sample = |rate: &f64| Sample {
            requests_per_second: *rate,
            p50_ms: 0.0375,
            p99_ms: 4.0,
            cpu_us: 1e6 / rate,
            generator_busy: rate / 100_000.0,
            memory_bytes: 0.0,
        };
        Row { who, concurrency, samples: Samples(Ok(rates.iter().map(sample).collect())) }
    }

    #[test]
    fn a_server_is_compared_with_the_bare_one_round_by_round() {
        let line = table_row(&row(Wasm, 8, &[20_000.0, 30_000.0]), &row(Bare, 8, &[80_000.0, 100_000.0]));
        assert_eq!(
            line,
            "| `identity` (wasm) | 8 | 25000 (20000–30000) | 0.037 | 4.00 | 41.7 | 0.275 (0.250–0.300) | 3.67 | 25 % |\n"
        );
    }

    #[test]
    fn a_promise_has_a_figure_for_each_concurrency() {
        let mut rows = vec![row(Bare, 8, &[100_000.0]), row(Wasm, 8, &[60_000.0])];
        rows.extend([row(Bare, 32, &[90_000.0]), row(Wasm, 32, &[30_000.0])]);
        let mut failed = row(Triton, 8, &[]);
        failed.samples = Samples(Err("it ended".into()));
        rows.push(failed);
        let bars = bars(&SCENES[0], &rows);
        assert_eq!(bars.len(), SCENES[0].bars.len());
        let text = super::super::bars::table(&bars.iter().collect::<Vec<_>>());
        assert!(text.contains("| c=8: 0.600 · c=32: 0.333 | **not reached** |"), "{text}");
        assert!(text.contains("| c=8: it ended | not measured |"), "{text}");
    }

    #[test]
    fn a_busy_generator_is_named() {
        let text = text(&SCENES[0], &[row(Bare, 8, &[99_000.0]), row(Wasm, 8, &[50_000.0])]);
        assert!(text.contains("whole core for bare hyper server, 8 in flight:"), "{text}");
    }
}
