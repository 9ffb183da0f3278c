//! A matrix product in a guest, with and without interruption and beside native code: `airlock-guest-kernels`.

use anyhow::{Context, Result};

use super::{
    Section,
    bars::{Bar, Wanted},
    figures::Rounds,
    lab::Lab,
    load,
};
use crate::shell;

/// Rows and columns of the matrices.
const SIZE: usize = 512;
/// Products of each side in one round, in runs that alternate.
const RUNS: usize = 20;
const PRODUCTS: usize = 2;

pub fn measure(lab: &Lab) -> Result<Section> {
    let plugin = shell::target().join("models/matmul/1/model.wasm");
    let (mut price, mut speed, mut widest) = (Rounds::default(), Rounds::default(), Rounds::default());
    for round in 0..lab.rounds {
        eprintln!("==> kernels, round {} of {}", round + 1, lab.rounds);
        let mut command = lab.on_load_core(lab.binaries.join("airlock-guest-kernels"));
        let (size, runs) = if lab.smoke { (64, 1) } else { (SIZE, RUNS) };
        command.arg("--plugin").arg(&plugin).args(["--size", &size.to_string()]);
        command.args(["--rounds", &runs.to_string(), "--repetitions", &PRODUCTS.to_string()]);
        let line = load::figures(&mut command)?;
        let median = |name: &str| line[name]["median"].as_f64().with_context(|| format!("{name} is missing"));
        price.push(median("price_of_interruption")?);
        speed.push(median("speed_beside_native_4x8")?);
        widest.push(median("speed_beside_native_4x16")?);
    }
    Ok(Section { text: text(&price, &speed, &widest), bars: bars(price, speed) })
}

fn bars(price: Rounds, speed: Rounds) -> Vec<Bar> {
    let bar = |number, text: &str, wanted, rounds| Bar {
        number,
        text: text.to_owned(),
        wanted,
        unit: "×",
        measured: vec![(String::new(), Ok(rounds))],
    };
    vec![
        bar(
            7,
            "the SDK's matrix product in a guest that can be interrupted, to one that cannot",
            Wanted::AtMost(1.15),
            price,
        ),
        bar(
            8,
            "the same product, interruptible, to native AVX2 and FMA in tiles of 4 x 8: speed",
            Wanted::AtLeast(0.5),
            speed,
        ),
    ]
}

fn text(price: &Rounds, speed: &Rounds, widest: &Rounds) -> String {
    format!(
        "\n## A matrix product in a guest\n\n{SIZE} x {SIZE} x {SIZE}, FP32, by the SDK's `matmul` in the plugin of that name, \
         its call and the copies of its matrices included; the native sides have the second matrix laid out beforehand. {RUNS} runs of \
         {PRODUCTS} products in each round, the sides in turn in one process; products are compared number by number. Medians (least–most).\n\n\
         | | ratio |\n|---|---|\n| time with interruption to without | {} |\n| speed beside native tiles of 4 x 8 | {} |\n\
         | speed beside native tiles of 4 x 16 | {} |\n",
        price.spread(),
        speed.spread(),
        widest.spread()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_promises_have_their_figure() {
        let rounds = |value| Rounds(vec![value]);
        let bars = bars(rounds(1.1), rounds(0.7));
        let figures: Vec<_> = bars.iter().map(|bar| (bar.number, bar.measured[0].1.clone())).collect();
        assert_eq!(figures, [(7, Ok(rounds(1.1))), (8, Ok(rounds(0.7)))]);
        assert!(
            text(&rounds(1.1), &rounds(0.7), &rounds(0.4))
                .contains("| speed beside native tiles of 4 x 8 | 0.70")
        );
    }
}
