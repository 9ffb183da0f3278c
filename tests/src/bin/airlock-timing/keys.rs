//! Does the time of a refusal tell whether a key's id exists? Refusals of unknown ids beside those of wrong secrets.

use std::{hint::black_box, net::IpAddr, time::Instant};

use airlock::{
    authenticate::{Authenticator, KeyId, Keyring, Scopes, Trust, mint},
    digest::{Digest, hex},
    name::TenantName,
    secret::{self, Purpose, Secret},
};
use anyhow::{Result, ensure};
use clap::Args;
use hyper::{HeaderMap, Uri, header};
use serde_json::json;

use crate::welch;

/// Whether refusals tell known key ids from unknown ones
#[derive(Args, Debug)]
pub struct Keys {
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

/// A header block with a key of that id and a secret that is nobody's.
fn guess(id: KeyId, secret: &[u8]) -> Result<HeaderMap> {
    let text = format!("ak_{id}_{}", hex(secret));
    let sum = Digest::of(text.as_bytes()).hex();
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, format!("Bearer {text}_{}", &sum[..8]).parse()?);
    Ok(headers)
}

impl Keys {
    pub fn run(&self) -> Result<()> {
        let pepper = Secret::from_bytes(secret::random()?).key(Purpose::ApiKey);
        let tenant: TenantName = "acme".parse()?;
        let known =
            (0..self.keys).map(|_| Ok(mint(&pepper, Scopes::all(), 0)?.1)).collect::<Result<Vec<_>>>()?;
        // Each unknown id is the neighbour of a known one. Thousands of random ones would meet fewer entries of the table than
        // the known ones do, and so find more of them in the processor's cache: that tells nobody whether *one* id is known.
        let below = |distance: u64| -> Result<Vec<KeyId>> {
            let number = |id: KeyId| -> Result<u64> {
                Ok(u64::from_str_radix(&id.to_string(), 16)?.wrapping_sub(distance))
            };
            known.iter().map(|record| Ok(format!("{:016x}", number(record.id)?).parse()?)).collect()
        };
        let kinds = [below(if self.control { 2 } else { 0 })?, below(1)?];
        let authenticator = Authenticator::new(Trust::Loopback, pepper.clone());
        authenticator.install(Keyring::new(known.into_iter().map(|record| (tenant.clone(), record))));
        let (peer, uri) = (IpAddr::from([192, 0, 2, 1]), Uri::from_static("/v2"));

        let mut measured: Vec<(usize, f64)> = Vec::with_capacity(self.samples);
        while measured.len() < self.samples {
            // Kind, id and secret are drawn anew each time, and the header is written to where the last one was: what is left
            // to differ is the check itself.
            for draw in secret::random::<36_000>()?.chunks_exact(36) {
                let (choice, secret) = draw.split_at(4);
                let kind = usize::from(choice[0] & 1);
                let id = usize::from(choice[1]) << 8 | usize::from(choice[2]);
                let headers = guess(kinds[kind][id % self.keys], secret)?;
                let started = Instant::now();
                let answer = black_box(authenticator.principal(peer, &uri, black_box(&headers)));
                let took = started.elapsed();
                ensure!(answer.is_err(), "a guess was accepted");
                measured.push((kind, took.as_secs_f64() * 1e9));
            }
        }

        let compared = welch::compare(&measured)?;
        for comparison in &compared {
            let [wrong_secret_ns, unknown_id_ns] = comparison.means;
            println!(
                "{}",
                json!({
                    "below_percentile": comparison.percentile, "t": comparison.t,
                    "wrong_secret_ns": wrong_secret_ns, "unknown_id_ns": unknown_id_ns,
                    "samples": comparison.samples,
                })
            );
        }
        let worst = welch::worst(&compared);
        println!("{}", json!({ "worst_t": worst, "passes": worst.abs() < welch::THRESHOLD }));
        Ok(())
    }
}
