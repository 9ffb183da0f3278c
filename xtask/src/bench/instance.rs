//! A new instance and a trivial call in it, without a server: `airlock-instance`.

use std::fmt::Write;

use anyhow::Result;

use super::{
    Section,
    bars::{Bar, Wanted},
    figures::Rounds,
    lab::Lab,
    load,
};
use crate::{shell, toolchain::TARGET};

/// The plugin, what it is, and the microseconds that are promised of the median and of the 99th percentile.
const PLUGINS: [(&str, &str, f64, Option<f64>); 2] = [
    ("echo", "a small plugin", 6.0, Some(10.0)),
    ("lookup", "a plugin with 8 MiB of weights that `load` made", 10.0, None),
];
/// Bytes of the weights.
const WEIGHTS: usize = 8 << 20;
const CALLS: usize = 20_000;

/// All rounds of one plugin, in microseconds; the last is processor time of the guest's run alone.
#[derive(Default)]
struct Row {
    p50: Rounds,
    p99: Rounds,
    guest_p50: Rounds,
}

pub fn measure(lab: &Lab) -> Result<Section> {
    let plugins = shell::target().join("guests").join(TARGET).join("release");
    let mut rows: [Row; PLUGINS.len()] = Default::default();
    for round in 0..lab.rounds {
        eprintln!("==> instances, round {} of {}", round + 1, lab.rounds);
        for ((plugin, ..), row) in PLUGINS.iter().zip(&mut rows) {
            let mut command = lab.on_load_core(lab.binaries.join("airlock-instance"));
            command.arg("--plugin").arg(plugins.join(format!("{plugin}.wasm")));
            command.arg("--worker").arg(lab.binaries.join("airlock"));
            let calls = if lab.smoke { 20 } else { CALLS };
            command.args(["--calls", &calls.to_string()]);
            if *plugin == "lookup" {
                command.args(["--weights", &WEIGHTS.to_string()]);
            }
            let line = load::figures(&mut command)?;
            row.p50.push(load::named(&line, "p50_us")?);
            row.p99.push(load::named(&line, "p99_us")?);
            row.guest_p50.push(load::named(&line, "guest_p50_us")?);
        }
    }
    Ok(Section { text: text(&rows), bars: bars(&rows) })
}

fn bars(rows: &[Row; PLUGINS.len()]) -> Vec<Bar> {
    let mut bars = Vec::new();
    for ((_, what, p50, p99), row) in PLUGINS.into_iter().zip(rows) {
        let mut bar = |percentile: &str, wanted: f64, rounds: &Rounds| {
            bars.push(Bar {
                number: 6,
                text: format!("new instance and trivial call in the process, {what}: {percentile}"),
                wanted: Wanted::AtMost(wanted),
                unit: " µs",
                measured: vec![(String::new(), Ok(rounds.clone()))],
            });
        };
        bar("median", p50, &row.p50);
        if let Some(p99) = p99 {
            bar("99th percentile", p99, &row.p99);
        }
    }
    bars
}

fn text(rows: &[Row; PLUGINS.len()]) -> String {
    let mut text = format!(
        "\n## Instances\n\n{CALLS} calls one after the other in one process, without HTTP: a new store, a new instance, a call that \
         answers one small tensor, and the end of all of it. The second figure is the processor time of the guest's run alone, \
         from the new store to its end, as the caller is billed for it. Microseconds, median (least–most) of the rounds.\n\n\
         | plugin | p50 | p99 | p50 of the guest's run |\n|---|---|---|---|\n"
    );
    for ((_, what, ..), row) in PLUGINS.into_iter().zip(rows) {
        let Row { p50, p99, guest_p50 } = row;
        let _ = writeln!(text, "| {what} | {} | {} | {} |", p50.spread(), p99.spread(), guest_p50.spread());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_promise_has_its_figure() {
        let row = |p50: f64, p99: f64| Row {
            p50: Rounds(vec![p50]),
            p99: Rounds(vec![p99]),
            guest_p50: Rounds(vec![p50 / 2.0]),
        };
        let rows = [row(5.5, 11.0), row(9.0, 30.0)];
        let figures: Vec<_> = bars(&rows).iter().map(|bar| bar.measured[0].1.clone()).collect();
        assert_eq!(figures, [5.5, 11.0, 9.0].map(|value| Ok(Rounds(vec![value]))));
        assert!(text(&rows).contains("| a small plugin | 5.50 | 11.0 | 2.75 |"));
    }
}
