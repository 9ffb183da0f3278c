//! What a server takes: time until its first answer, memory idle and under load, processor time for each request.

use std::{fmt::Write, thread, time::Duration};

use anyhow::{Context, Result};

use super::{
    Section,
    bars::{Bar, Wanted},
    figures::{Rounds, mebibytes},
    lab::{Kind, Lab},
    load::{Load, Samples},
    peers::Peer,
};

const KINDS: [(Kind, &str); 4] = [
    (Kind::Bare, "bare hyper server"),
    (Kind::Airlock, "Airlock"),
    (Kind::Peer(Peer::Triton), "Triton"),
    (Kind::Peer(Peer::Mlserver), "MLServer"),
];
/// Of those, what is compared.
const AIRLOCK: usize = 1;
const TRITON: usize = 2;
const CASES: [(&str, &str); 2] = [("json4", "`[1,4]` JSON"), ("binary150528", "`[1,150528]` binary")];
const CONCURRENCY: usize = 8;
/// What a server still does after its first answer is not its idle state.
const SETTLE: Duration = Duration::from_secs(1);

/// All rounds of one server.
#[derive(Default)]
struct Footprint {
    start: Rounds,
    /// Bytes, before the first request but one.
    idle: Rounds,
    loads: [Samples; CASES.len()],
    missing: Option<String>,
}

pub fn measure(lab: &Lab) -> Result<Section> {
    let repository = lab.identities()?;
    let mut footprints: [Footprint; KINDS.len()] = Default::default();
    for round in 0..lab.rounds {
        for ((kind, name), footprint) in KINDS.into_iter().zip(&mut footprints) {
            if footprint.missing.is_some() {
                continue;
            }
            eprintln!("==> footprint of {name}, round {} of {}", round + 1, lab.rounds);
            let running = match lab.attempt(kind, &repository)? {
                Ok(running) => running,
                Err(reason) => {
                    footprint.missing = Some(reason);
                    continue;
                }
            };
            footprint.start.push(running.start.as_secs_f64());
            thread::sleep(if lab.smoke { Duration::ZERO } else { SETTLE });
            footprint.idle.push(lab.memory(&running)?);
            for ((case, _), samples) in CASES.into_iter().zip(&mut footprint.loads) {
                let load = Load {
                    case,
                    model: "identity",
                    models: None,
                    concurrency: CONCURRENCY,
                    memory: true,
                    pause: 0.0,
                };
                if !samples.failed() {
                    samples.add(kind, load.measure(lab, &running, false)).context(name)?;
                }
            }
            running.stop(kind)?;
        }
    }
    Ok(Section { text: text(&footprints), bars: bars(&footprints) })
}

impl Footprint {
    /// Everything that is measured, by name.
    fn figures(&self) -> Vec<(String, Result<Rounds, String>)> {
        let own = |rounds: &Rounds| self.missing.clone().map_or_else(|| Ok(rounds.clone()), Err);
        let mut figures = vec![
            ("s until the first answer".to_owned(), own(&self.start)),
            ("MiB idle".to_owned(), own(&mebibytes(&self.idle))),
        ];
        for ((_, case), samples) in CASES.into_iter().zip(&self.loads) {
            let of = |field: fn(&super::load::Sample) -> f64| match &self.missing {
                Some(reason) => Err(reason.clone()),
                None => samples.rounds(field),
            };
            let memory = of(|sample| sample.memory_bytes).map(|bytes| mebibytes(&bytes));
            figures.push((format!("MiB under load, {case}"), memory));
            figures.push((format!("CPU µs/request, {case}"), of(|sample| sample.cpu_us)));
        }
        figures
    }
}

fn bars(footprints: &[Footprint; KINDS.len()]) -> Vec<Bar> {
    let (own, other) = (footprints[AIRLOCK].figures(), footprints[TRITON].figures());
    let mut bars = Vec::new();
    for ((name, own), (_, other)) in own.into_iter().zip(other) {
        let ratio = own.and_then(|own| Ok(own.ratio(&other?)));
        bars.push(Bar {
            number: 12,
            text: format!("{name}: Airlock to Triton"),
            wanted: Wanted::Below(1.0),
            unit: "×",
            measured: vec![(String::new(), ratio)],
        });
    }
    bars
}

fn text(footprints: &[Footprint; KINDS.len()]) -> String {
    let mut text = format!(
        "\n## Start, memory and processor time\n\nEach round starts every server anew, with its identity models and nothing \
         cached, waits for the first answer, looks at its memory a second later, and then again under load with {CONCURRENCY} \
         requests in flight. Memory is the proportional set size of all its processes. Median (least–most).\n\n|"
    );
    text += " |";
    for (_, name) in KINDS {
        let _ = write!(text, " {name} |");
    }
    text += "\n|---|---|---|---|---|\n";
    let columns = footprints.each_ref().map(Footprint::figures);
    for (index, (name, _)) in columns[0].iter().enumerate() {
        let cells = columns.iter().map(|column| match &column[index].1 {
            Ok(rounds) => rounds.spread(),
            Err(reason) => format!("not measured: {reason}"),
        });
        let _ = writeln!(text, "| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_compared_with_triton() {
        let mut footprints: [Footprint; KINDS.len()] = Default::default();
        footprints[AIRLOCK].start = Rounds(vec![0.5]);
        footprints[TRITON].start = Rounds(vec![2.0]);
        footprints[3].missing = Some("left out".into());
        let bars = bars(&footprints);
        assert_eq!(bars.len(), 2 + 2 * CASES.len());
        assert_eq!(bars[0].measured[0].1, Ok(Rounds(vec![0.25])));
        let text = text(&footprints);
        assert!(
            text.contains("| s until the first answer | – | 0.500 | 2.00 | not measured: left out |"),
            "{text}"
        );
    }
}
