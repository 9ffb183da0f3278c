//! Dynamic batching: a native model of dense layers, once as it is and once with batches, and what a delay adds to a request
//! that is alone.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Result;

use super::{
    Section,
    bars::{Bar, Wanted},
    figures::Rounds,
    lab::{Kind, Lab},
    load::{Load, Sample, Samples},
};
use crate::{python, shell};

const CASE: &str = "binary1024";
const TOGETHER: usize = 32;
const DELAY_MS: f64 = 5.0;
const GAIN: f64 = 2.0;

/// A model, the rest of its `model.toml`, and what it is.
const MODELS: [(&str, &str, &str); 3] = [
    ("plain", "", "one by one"),
    ("batched", "max_batch_size = 32\n[dynamic_batching]\n", "batches, no delay"),
    (
        "delayed",
        "max_batch_size = 32\n[dynamic_batching]\nmax_queue_delay = \"5ms\"\n",
        "batches, a delay of 5 ms",
    ),
];
const PLAIN: usize = 0;
const BATCHED: usize = 1;
const DELAYED: usize = 2;

/// One model: alone, and with many requests in flight.
#[derive(Default)]
struct Row {
    alone: Samples,
    together: Samples,
}

pub fn measure(lab: &Lab) -> Result<Section> {
    let running = lab.start(Kind::Airlock, &repository(lab)?, "identity", &[])?;
    let mut rows: [Row; MODELS.len()] = Default::default();
    for round in 0..lab.rounds {
        eprintln!("==> batching, round {} of {}", round + 1, lab.rounds);
        for ((model, ..), row) in MODELS.into_iter().zip(&mut rows) {
            // Alone it comes after a pause in any case: a machine that was idle for so long answers later.
            let pause = DELAY_MS / 1e3;
            for (concurrency, pause, samples) in
                [(1, pause, &mut row.alone), (TOGETHER, 0.0, &mut row.together)]
            {
                let load = Load { case: CASE, model, models: None, concurrency, memory: false, pause };
                samples.add(Kind::Airlock, load.measure(lab, &running, false))?;
            }
        }
    }
    running.stop(Kind::Airlock)?;
    Ok(Section { text: text(&rows), bars: bars(&rows) })
}

/// The model under its three configurations, and the identity model that tells that the gateway answers.
fn repository(lab: &Lab) -> Result<PathBuf> {
    let folder = lab.identities()?;
    let requirements = shell::root().join("examples/requirements.txt");
    let python = python::venv("examples", &[&requirements])?;
    let file = lab.folder("permutations")?.join("model.onnx");
    let script = shell::root().join("bench/models/permutations.py");
    shell::run("making a model of dense layers", Command::new(python).arg(script).arg(&file))?;
    for (model, configuration, _) in MODELS {
        let version = folder.join(model).join("1");
        fs::create_dir_all(&version)?;
        fs::copy(&file, version.join("model.onnx"))?;
        fs::write(folder.join(model).join("model.toml"), configuration)?;
    }
    Ok(folder)
}

fn bars(rows: &[Row; MODELS.len()]) -> Vec<Bar> {
    let p50 = |row: &Row| row.alone.rounds(|sample| sample.p50_ms);
    let added = p50(&rows[DELAYED]).and_then(|delayed| {
        let plain = p50(&rows[PLAIN])?;
        Ok(delayed.0.iter().zip(&plain.0).map(|(delayed, plain)| delayed - plain).collect::<Rounds>())
    });
    vec![
        Bar {
            number: 11,
            text: format!("dynamic batching of a native model at c={TOGETHER}: throughput to that without"),
            wanted: Wanted::AtLeast(GAIN),
            unit: "×",
            measured: vec![(String::new(), rows[BATCHED].together.rate_to(&rows[PLAIN].together))],
        },
        Bar {
            number: 11,
            text: format!("what a configured delay of {DELAY_MS} ms adds to a request that is alone: p50"),
            wanted: Wanted::AtMost(DELAY_MS),
            unit: " ms",
            measured: vec![(String::new(), added)],
        },
    ]
}

fn text(rows: &[Row; MODELS.len()]) -> String {
    let mut text = format!(
        "\n## Dynamic batching\n\nFour dense layers of 1024 x 1024 that permute their input and back, native; FP32 `[1,1024]`, \
         binary. Median (least–most) of the rounds.\n\n| model | p50 ms, alone after a pause of {DELAY_MS} ms | requests/s, {TOGETHER} in flight | p50 ms | \
         p99 ms | CPU µs/request |\n|---|---|---|---|---|---|\n"
    );
    for ((.., what), row) in MODELS.into_iter().zip(rows) {
        let spread = |samples: &Samples, of: fn(&Sample) -> f64| {
            samples.rounds(of).map_or_else(|reason| reason, |rounds| rounds.spread())
        };
        let cells = [
            spread(&row.alone, |sample| sample.p50_ms),
            spread(&row.together, |sample| sample.requests_per_second),
            spread(&row.together, |sample| sample.p50_ms),
            spread(&row.together, |sample| sample.p99_ms),
            spread(&row.together, |sample| sample.cpu_us),
        ];
        text += &format!("| {what} | {} |\n", cells.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gain_and_added_delay_are_taken_round_by_round() {
        let samples = |p50_ms: f64, requests_per_second: f64| {
            let (p99_ms, cpu_us, generator_busy, memory_bytes) = (9.0, 1.0, 0.1, 0.0);
            Samples(Ok(vec![Sample {
                requests_per_second,
                p50_ms,
                p99_ms,
                cpu_us,
                generator_busy,
                memory_bytes,
            }]))
        };
        let row = |alone: f64, rate: f64| Row { alone: samples(alone, 1.0), together: samples(1.0, rate) };
        let rows = [row(0.5, 100.0), row(0.5, 300.0), row(5.25, 250.0)];
        let figures: Vec<_> = bars(&rows).into_iter().map(|bar| bar.measured[0].1.clone()).collect();
        assert_eq!(figures, [3.0, 4.75].map(|figure| Ok(Rounds(vec![figure]))));
        assert!(text(&rows).contains("| one by one | 0.500 | 100 | 1.00 | 9.00 | 1.00 |"), "{}", text(&rows));
    }
}
