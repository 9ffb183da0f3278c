//! `airlock usage`: what a tenant, or every tenant, used since the gateway started.

use std::time::Duration;

use anyhow::Result;
use bytesize::ByteSize;
use clap::Args;
use serde_json::Value;

use super::{
    client,
    connection::Connection,
    records::{Output, moment, table},
    say::{plain, say},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Show what you used: calls, CPU time, bytes, memory
#[derive(Args, Debug)]
pub(super) struct Usage {
    /// What every tenant used, for operators: at the admin port, http://127.0.0.1:8003 unless --url names another
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    answer: super::Answer,
    #[command(flatten)]
    connection: Connection,
}

impl Usage {
    pub(super) fn run(self) -> Result<()> {
        let usage = if self.all {
            let client = self.connection.admin_client(PATIENCE)?;
            client::block_on(client.get("/v2/admin/usage"))?
        } else {
            let client = self.connection.client(PATIENCE)?;
            client::block_on(client.get("/v2/usage"))?
        };
        match self.answer.output {
            Output::Json => say(usage),
            Output::Text if self.all => say(of_all(&usage)),
            Output::Text => say(text(&usage)),
        }
    }
}

fn of_all(usage: &Value) -> String {
    let tenants = usage["tenants"].as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> =
        tenants.map(|tenant| row(&plain(tenant["tenant"].as_str().unwrap_or("?")), tenant)).collect();
    format!("since {}\n{}", since(usage), table(&headings("TENANT"), &rows))
}

fn since(usage: &Value) -> String {
    moment(usage["since"].as_u64().unwrap_or_default() / 1000)
}

fn headings(first: &str) -> [&str; 7] {
    [first, "CALLS", "OK", "CPU", "IN", "OUT", "PEAK MEMORY"]
}

fn text(usage: &Value) -> String {
    let models = usage["models"].as_array().into_iter().flatten();
    let mut rows: Vec<Vec<String>> = models
        .map(|model| row(&plain(model["model"].as_str().unwrap_or("(no such model)")), model))
        .collect();
    rows.push(row("total", &usage["total"]));
    let tenant = plain(usage["tenant"].as_str().unwrap_or("?"));
    format!("tenant {tenant}, since {}\n{}", since(usage), table(&headings("MODEL"), &rows))
}

fn row(name: &str, sum: &Value) -> Vec<String> {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let bytes = |field: &str| ByteSize(number(&sum[field])).to_string();
    let cpu = Duration::from_nanos(number(&sum["cpu_ns"]));
    vec![
        name.to_owned(),
        number(&sum["calls"]).to_string(),
        number(&sum["outcomes"]["ok"]).to_string(),
        format!("{:.3} s", cpu.as_secs_f64()),
        bytes("bytes_in"),
        bytes("bytes_out"),
        bytes("peak_memory"),
    ]
}
