//! The matrix product of the guest SDK, in a guest: what it costs that the guest can be interrupted, and how fast it is beside
//! native code. One process and one core, the sides in turns; the guest is the example plugin `matmul`, called through its interface.
//!
//! ```sh
//! taskset -c 1 target/release/airlock-guest-kernels --plugin target/models/matmul/1/model.wasm
//! ```

mod guest;
mod native;

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::{Value, json};

use guest::Guest;

#[derive(Debug, Parser)]
#[command(about = "A matrix product in a guest, interruptible and not, beside a native one")]
struct Cli {
    /// The example plugin `matmul`.
    #[arg(long, default_value = "target/models/matmul/1/model.wasm")]
    plugin: PathBuf,
    /// Rows and columns of both matrices; a multiple of 16.
    #[arg(long, default_value_t = 512)]
    size: usize,
    /// Rounds; each measures every side once.
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// Products in one measurement. A guest's contain the call, with the copies of the matrices, once.
    #[arg(long, default_value_t = 4)]
    repetitions: u32,
}

/// What is measured, as the report names it.
const SIDES: [&str; 4] = ["guest", "guest_uninterruptible", "native_4x8", "native_4x16"];

fn main() -> Result<()> {
    let cli = Cli::parse();
    let Cli { size, repetitions, .. } = cli;
    ensure!(size > 0 && size.is_multiple_of(16), "the size is no multiple of 16");
    ensure!(cli.rounds > 0 && repetitions > 0, "nothing would be measured");
    let plugin = fs::read(&cli.plugin)
        .with_context(|| format!("cannot read {}: `cargo xtask guests` builds it", cli.plugin.display()))?;
    let mut guests = [Guest::new(&plugin, true)?, Guest::new(&plugin, false)?];
    let (a, b) = (matrix(size, 3), matrix(size, 5));
    let expected = naive(&a, &b, size);
    let request = guest::request(&a, &b, size, repetitions);

    let mut samples = [const { Vec::new() }; SIDES.len()];
    // The first round warms up.
    for round in 0..=cli.rounds {
        for turn in 0..SIDES.len() {
            // Another side begins in each round, so that none always follows the same one.
            let side = (round + turn) % SIDES.len();
            let started = Instant::now();
            let product = match side {
                0 | 1 => Product::Bytes(guests[side].product(&request)?),
                2 => Product::Elements(native::product::<1>(&a, &b, size, repetitions)?),
                _ => Product::Elements(native::product::<2>(&a, &b, size, repetitions)?),
            };
            let took = started.elapsed().as_secs_f64() * 1e3 / f64::from(repetitions);
            ensure!(product.elements() == expected, "{}: the product is wrong", SIDES[side]);
            if round > 0 {
                samples[side].push(took);
            }
        }
    }

    let [guest, uninterruptible, native, best] = &samples;
    let milliseconds: serde_json::Map<String, Value> =
        SIDES.iter().zip(&samples).map(|(side, samples)| ((*side).into(), spread(samples.clone()))).collect();
    let report = json!({
        "size": size,
        "rounds": cli.rounds,
        "repetitions": repetitions,
        "milliseconds": milliseconds,
        "price_of_interruption": spread(ratios(guest, uninterruptible)),
        "speed_beside_native_4x8": spread(ratios(native, guest)),
        "speed_beside_native_4x16": spread(ratios(best, guest)),
    });
    println!("{report}");
    Ok(())
}

enum Product {
    Elements(Vec<f32>),
    /// Of the elements, little-endian.
    Bytes(Vec<u8>),
}

impl Product {
    fn elements(self) -> Vec<f32> {
        match self {
            Self::Elements(elements) => elements,
            Self::Bytes(bytes) => {
                bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
            }
        }
    }
}

/// Multiples of 1/8, so small that every sum of products is exact: all sides have to agree to the last bit.
fn matrix(size: usize, seed: u16) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(25173).wrapping_add(13849);
        f32::from(state >> 11) / 8.0 - 2.0
    };
    (0..size * size).map(|_| next()).collect()
}

fn naive(a: &[f32], b: &[f32], size: usize) -> Vec<f32> {
    let mut product = vec![0.0; size * size];
    for (a, out) in a.chunks_exact(size).zip(product.chunks_exact_mut(size)) {
        for (a, b) in a.iter().zip(b.chunks_exact(size)) {
            for (out, b) in out.iter_mut().zip(b) {
                *out += a * b;
            }
        }
    }
    product
}

/// The ratio of each round.
fn ratios(numerators: &[f64], denominators: &[f64]) -> Vec<f64> {
    numerators.iter().zip(denominators).map(|(numerator, denominator)| numerator / denominator).collect()
}

fn spread(mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    let at = |percent: usize| (values[(values.len() - 1) * percent / 100] * 1e3).round() / 1e3;
    json!({"min": at(0), "p10": at(10), "median": at(50), "max": at(100)})
}
