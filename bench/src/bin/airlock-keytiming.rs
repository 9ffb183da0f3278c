//! Does the time of a refusal tell whether a key's id exists? Measures refusals of unknown ids and of wrong secrets,
//! interleaved at random, and prints Welch's t of their times (the method of dudect). |t| < 4.5 shows no difference.

use std::{hint::black_box, net::IpAddr, time::Instant};

use airlock::{
    authenticate::{Authenticator, KeyId, Keyring, Scopes, Trust, mint},
    digest::{Digest, hex},
    name::TenantName,
    secret::{self, Purpose, Secret},
};
use anyhow::{Context, Result, ensure};
use clap::Parser;
use hyper::{HeaderMap, Uri, header};
use serde_json::json;

#[derive(Debug, Parser)]
#[command(about = "Measure whether refusals tell known key ids from unknown ones by their time")]
struct Cli {
    /// Refusals to measure, of both kinds together.
    #[arg(long, default_value_t = 1_000_000)]
    samples: usize,
    /// Keys that the gateway knows.
    #[arg(long, default_value_t = 1000)]
    keys: usize,
    /// Measure two sets of unknown ids: shows what the machine gives by itself.
    #[arg(long)]
    control: bool,
}

/// The times of one kind of refusal: count, mean and sum of squared differences (Welford).
#[derive(Clone, Copy, Default)]
struct Times {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Times {
    fn add(&mut self, nanoseconds: f64) {
        self.count += 1.0;
        let before = nanoseconds - self.mean;
        self.mean += before / self.count;
        self.squares += before * (nanoseconds - self.mean);
    }

    /// The variance of the mean.
    fn error(&self) -> f64 {
        self.squares / (self.count - 1.0) / self.count
    }
}

fn welch(one: &Times, other: &Times) -> f64 {
    (one.mean - other.mean) / (one.error() + other.error()).sqrt()
}

/// A header block with a key of that id and a secret that is nobody's.
fn guess(id: KeyId, secret: &[u8]) -> Result<HeaderMap> {
    let text = format!("ak_{id}_{}", hex(secret));
    let sum = Digest::of(text.as_bytes()).hex();
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, format!("Bearer {text}_{}", &sum[..8]).parse()?);
    Ok(headers)
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let pepper = Secret::from_bytes(secret::random()?).key(Purpose::ApiKey);
    let tenant: TenantName = "acme".parse()?;
    let known = (0..cli.keys).map(|_| Ok(mint(&pepper, Scopes::all(), 0)?.1)).collect::<Result<Vec<_>>>()?;
    // Each unknown id is the neighbour of a known one. Thousands of random ones would meet fewer entries of the table than
    // the known ones do, and so find more of them in the processor's cache: that tells nobody whether *one* id is known.
    let below = |distance: u64| -> Result<Vec<KeyId>> {
        let number = |id: KeyId| -> Result<u64> {
            Ok(u64::from_str_radix(&id.to_string(), 16)?.wrapping_sub(distance))
        };
        known.iter().map(|record| Ok(format!("{:016x}", number(record.id)?).parse()?)).collect()
    };
    let kinds = [below(if cli.control { 2 } else { 0 })?, below(1)?];
    let authenticator = Authenticator::new(Trust::Loopback, pepper.clone());
    authenticator.install(Keyring::new(known.into_iter().map(|record| (tenant.clone(), record))));
    let (peer, uri) = (IpAddr::from([192, 0, 2, 1]), Uri::from_static("/v2"));

    let mut measured: Vec<(usize, f64)> = Vec::with_capacity(cli.samples);
    while measured.len() < cli.samples {
        // Kind, id and secret are drawn anew each time, and the header is written to where the last one was: what is left
        // to differ is the check itself.
        for draw in secret::random::<36_000>()?.chunks_exact(36) {
            let (choice, secret) = draw.split_at(4);
            let kind = usize::from(choice[0] & 1);
            let id = usize::from(choice[1]) << 8 | usize::from(choice[2]);
            let headers = guess(kinds[kind][id % cli.keys], secret)?;
            let started = Instant::now();
            let answer = black_box(authenticator.principal(peer, &uri, black_box(&headers)));
            let took = started.elapsed();
            ensure!(answer.is_err(), "a guess was accepted");
            measured.push((kind, took.as_secs_f64() * 1e9));
        }
    }

    // Interrupts hit both kinds alike and hide what is looked for: dudect's remedy is to look below percentiles as well.
    let mut sorted: Vec<f64> = measured.iter().map(|(_, time)| *time).collect();
    sorted.sort_by(f64::total_cmp);
    let mut worst = 0.0f64;
    for percent in [100, 99, 95, 90, 75, 50] {
        let at = (sorted.len() * percent / 100).saturating_sub(1);
        let limit = *sorted.get(at).context("no samples")?;
        let mut times = [Times::default(); 2];
        for (kind, time) in measured.iter().filter(|(_, time)| *time <= limit) {
            times[*kind].add(*time);
        }
        let t = welch(&times[0], &times[1]);
        worst = if t.abs() > worst.abs() { t } else { worst };
        println!(
            "{}",
            json!({
                "below_percentile": percent, "t": t,
                "wrong_secret_ns": times[0].mean, "unknown_id_ns": times[1].mean,
                "samples": times[0].count + times[1].count,
            })
        );
    }
    println!("{}", json!({ "worst_t": worst, "passes": worst.abs() < 4.5 }));
    Ok(())
}
