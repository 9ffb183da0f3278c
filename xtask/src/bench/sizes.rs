//! What a request costs beside the size of its tensor.

use std::fmt::Write;

use anyhow::{Context, Result};

use super::{
    Section,
    bars::{Bar, Wanted},
    figures::{Rounds, figure},
    lab::{Kind, Lab},
    load::{Load, Samples},
    peers::Peer,
};

/// Elements of FP32, binary; each case is named after them.
const SIZES: [(u32, &str); 4] =
    [(4, "binary4"), (1024, "binary1024"), (65_536, "binary65536"), (1_048_576, "binary1048576")];
const WHO: [(Kind, &str); 3] = [
    (Kind::Bare, "bare hyper server"),
    (Kind::Airlock, "`identity` (wasm)"),
    (Kind::Peer(Peer::Triton), "Triton"),
];
const BARE: usize = 0;
const AIRLOCK: usize = 1;
const CONCURRENCY: usize = 4;
/// How much more than the bare server's the cost may grow, between the two largest sizes. That server copies what it gets and
/// nothing else: what it grows by is the memory's doing, as large tensors fit no cache.
const LINEAR: f64 = 1.25;

pub fn measure(lab: &Lab) -> Result<Section> {
    let repository = lab.identities()?;
    let mut servers = Vec::new();
    for (kind, _) in WHO {
        servers.push(lab.attempt(kind, &repository)?);
    }
    let samples =
        |server: &Result<_, String>| Samples(server.as_ref().map(|_| Vec::new()).map_err(Clone::clone));
    let mut rows: Vec<Vec<Samples>> = SIZES.iter().map(|_| servers.iter().map(samples).collect()).collect();
    for round in 0..lab.rounds {
        eprintln!("==> sizes, round {} of {}", round + 1, lab.rounds);
        for ((_, case), row) in SIZES.iter().zip(&mut rows) {
            for ((kind, name), (server, samples)) in WHO.iter().zip(servers.iter().zip(row)) {
                let Ok(running) = server else { continue };
                let load = Load {
                    case,
                    model: "identity",
                    models: None,
                    concurrency: CONCURRENCY,
                    memory: false,
                    pause: 0.0,
                };
                let added = samples.add(*kind, load.measure(lab, running, false));
                added.with_context(|| format!("{name}, {case}"))?;
            }
        }
    }
    for ((kind, _), server) in WHO.into_iter().zip(servers) {
        server.map_or(Ok(()), |running| running.stop(kind))?;
    }
    Ok(Section { text: text(&rows), bars: vec![bar(&rows)] })
}

fn cpu(samples: &Samples) -> Result<Rounds, String> {
    samples.rounds(|sample| sample.cpu_us)
}

/// How many times the cost grows for each time that the tensor does, between the two largest sizes. A part that is the same for
/// all sizes makes it less than 1.
fn growth(rows: &[Vec<Samples>], who: usize) -> Result<Rounds, String> {
    let [.., (fewer, _), (more, _)] = SIZES;
    let [.., before, after] = rows else { return Err("not measured".into()) };
    let ratio = cpu(&after[who])?.ratio(&cpu(&before[who])?);
    Ok(ratio.0.iter().map(|ratio| ratio * f64::from(fewer) / f64::from(more)).collect())
}

fn bar(rows: &[Vec<Samples>]) -> Bar {
    let beside_bare = growth(rows, AIRLOCK).and_then(|own| Ok(own.ratio(&growth(rows, BARE)?)));
    Bar {
        number: 12,
        text: "cost linear in the size of the tensor: growth of CPU time from 65,536 to 1,048,576 elements to that of the bare server"
            .into(),
        wanted: Wanted::AtMost(LINEAR),
        unit: "×",
        measured: vec![(String::new(), beside_bare)],
    }
}

fn text(rows: &[Vec<Samples>]) -> String {
    let mut text = format!(
        "\n## The size of a tensor\n\nFP32 `[1,N]`, binary, {CONCURRENCY} requests in flight.\n\n| N | server | CPU µs/request \
         | ns of it for each byte in and out | requests/s |\n|---|---|---|---|---|\n"
    );
    for ((elements, _), row) in SIZES.iter().zip(rows) {
        for ((_, name), samples) in WHO.iter().zip(row) {
            let _ = match (cpu(samples), samples.rounds(|sample| sample.requests_per_second)) {
                (Ok(cpu), Ok(rate)) => writeln!(
                    text,
                    "| {elements} | {name} | {} | {} | {} |",
                    cpu.spread(),
                    figure(cpu.median() * 1000.0 / (8.0 * f64::from(*elements))),
                    figure(rate.median())
                ),
                (Err(reason), _) | (_, Err(reason)) => {
                    writeln!(text, "| {elements} | {name} | not measured: {reason} | | |")
                }
            };
        }
    }
    text += "\nFrom 65,536 to 1,048,576 elements the tensor grows 16 times; for each time, the cost grows ";
    let growths: Vec<String> = WHO
        .iter()
        .enumerate()
        .filter_map(|(who, (_, name))| {
            Some(format!("{} times ({name})", figure(growth(rows, who).ok()?.median())))
        })
        .collect();
    text += &growths.join(", ");
    text += ".\n";
    text
}

#[cfg(test)]
mod tests {
    use super::{super::load::Sample, *};

    #[test]
    fn growth_is_that_of_the_cost_for_each_time_that_the_tensor_grows() {
        let row = |cpu_us: f64| {
            let sample = Sample {
                requests_per_second: 1.0,
                p50_ms: 1.0,
                p99_ms: 1.0,
                cpu_us,
                generator_busy: 0.1,
                memory_bytes: 0.0,
            };
            vec![Samples(Ok(vec![sample])), Samples(Ok(vec![sample])), Samples(Err("left out".into()))]
        };
        let rows = vec![row(10.0), row(12.0), row(100.0), row(3200.0)];
        assert_eq!(growth(&rows, AIRLOCK), Ok(Rounds(vec![2.0])));
        assert_eq!(bar(&rows).measured[0].1, Ok(Rounds(vec![1.0])));
        let text = text(&rows);
        assert!(text.contains("| 65536 | `identity` (wasm) | 100 | 0.191 | 1.00 |"), "{text}");
        assert!(text.contains("| 4 | Triton | not measured: left out | | |"), "{text}");
        assert!(
            text.ends_with("2.00 times (bare hyper server), 2.00 times (`identity` (wasm)).\n"),
            "{text}"
        );
    }
}
