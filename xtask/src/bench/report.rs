//! The text of `docs/benchmarks.md`.

use std::{fmt::Write, fs, process::Command};

use super::{
    CASES, Row, Sample, TARGETS,
    uploads::{self, Uploads},
};

/// Above this share of its core, the generator may be what limits the figures.
const GENERATOR_LIMIT: f64 = 0.9;

pub fn render(
    rows: &[Row],
    uploads: &uploads::Report,
    rounds: usize,
    seconds: f64,
    load_before: &str,
    commit: &str,
) -> String {
    let mut text = String::from(INTRODUCTION);
    let _ = write!(
        text,
        "\n## Machine and command\n\n`cargo xtask bench --rounds {rounds} --seconds {seconds}` of commit {commit} on {}. Load average \
         before {load_before}, after {}.\n\n{METHOD}",
        machine(),
        load_average()
    );
    for (case, (_, title)) in CASES.iter().enumerate() {
        let _ = write!(text, "\n## {title}\n\n{TABLE_HEAD}");
        for row in rows.iter().filter(|row| row.case == case) {
            if let Some(bare) = rows
                .iter()
                .find(|bare| bare.target == 0 && (bare.case, bare.concurrency) == (case, row.concurrency))
            {
                text += &table_row(row, bare);
            }
        }
    }
    let busiest = rows.iter().map(|row| median(row, |sample| sample.generator_busy)).fold(0.0, f64::max);
    let _ = write!(text, "\nThe generator used at most {:.0} % of its core", busiest * 100.0);
    text += if busiest > GENERATOR_LIMIT {
        ": in that case it may have been the limit, and the true ratio is larger.\n"
    } else {
        ": it was not the limit.\n"
    };
    text += &upload_section(uploads);
    text + LIMITS
}

/// Milliseconds of uploads and of starts.
fn upload_section(report: &uploads::Report) -> String {
    let mut text = String::from(UPLOADS);
    for (name, uploads) in [("plugin (wasm)", &report.plugin), ("ONNX model", &report.onnx)] {
        let Uploads { bytes, published, first_call, later_call } = uploads;
        let _ = writeln!(
            text,
            "| {name} | {bytes} | {} | {} | {} |",
            spread(published),
            spread(first_call),
            spread(later_call)
        );
    }
    let _ = writeln!(
        text,
        "\nA gateway that is started again with these {} versions is ready after {} ms with compiled code in its local \
         cache, after {} ms without it.",
        report.models,
        spread(&report.start_cached),
        spread(&report.start_cold)
    );
    text
}

/// The median, and the least and the most beside it.
fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!("{} ({}–{})", figure(middle(values.to_vec())), figure(least), figure(most))
}

const UPLOADS: &str = "
## From an upload to the first answer

Each round publishes a version that was never seen before, over loopback into a store in a folder with fsync, calls it, and
calls it again; nothing is pinned to a core. Both models are identities; the ONNX model is padded with documentation. Milliseconds: the median, and least and most.

| model | bytes | upload until published | first call | later call |
|---|---|---|---|---|
";

const INTRODUCTION: &str = "\
# Benchmarks

Written by `cargo xtask bench`; do not edit by hand.

What the gateway costs beside the least that any server of this kind can cost. The bare server is hyper with typed
serde_json: it reads and writes the same requests and does nothing else, with no model, no checks and no limits. `identity`
runs in a WebAssembly sandbox, a new instance for each request; `identity_onnx` is an ONNX graph of one `Identity` node that
runs natively. Both echo their input.
";

const METHOD: &str = "\
Release builds. Every server runs on core 0 and the load generator on core 1 (where `taskset` is there), over loopback and
keep-alive connections, closed loop: a connection sends its next request when it has the answer to the last. In each round
every server is measured once in every case, one right after the other and in changing order; the figures are the medians of
the rounds, and the range of requests per second stands beside. The first answer of each measurement is checked value for
value, every further one by status and length. CPU is user and system time of the server's process, all threads, for
each request; it is the steadiest column on a busy machine.
";

const TABLE_HEAD: &str = "\
| server | connections | requests/s | range | p50 ms | p99 ms | CPU µs/request | requests/s to bare | CPU to bare |
|---|---|---|---|---|---|---|---|---|
";

const LIMITS: &str = "
## What this does not show

Loopback has no network. One core serves everything, so nothing is said about how the gateway grows with cores. An identity
model does no work: the tables show overhead, and say nothing about how fast a real model runs. Memory, start-up time,
HTTP/2, many connections, several models at once and mixed sizes are not measured.
";

fn table_row(row: &Row, bare: &Row) -> String {
    let rate = |row: &Row| median(row, |sample| sample.requests_per_second);
    let cpu = |row: &Row| median(row, |sample| sample.cpu_us);
    let rates = row.samples.iter().map(|sample| sample.requests_per_second);
    let least = rates.clone().fold(f64::INFINITY, f64::min);
    let most = rates.fold(0.0, f64::max);
    format!(
        "| {} | {} | {} | {}–{} | {} | {} | {} | {:.2} | {:.2} |\n",
        TARGETS[row.target],
        row.concurrency,
        figure(rate(row)),
        figure(least),
        figure(most),
        figure(median(row, |sample| sample.p50_ms)),
        figure(median(row, |sample| sample.p99_ms)),
        figure(cpu(row)),
        rate(row) / rate(bare),
        cpu(row) / cpu(bare),
    )
}

/// Three significant digits, as much as the measurement is worth.
fn figure(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}

fn median(row: &Row, of: impl Fn(&Sample) -> f64) -> f64 {
    middle(row.samples.iter().map(of).collect())
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Processor, cores, memory, kernel and compiler.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let processor =
        field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "an unnamed processor".into());
    let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let kibibytes: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let compiler = Command::new("rustc").arg("--version").output();
    let compiler = compiler.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!(
        "{cores} cores of {processor}, {} GiB, Linux {}, {}",
        kibibytes.div_ceil(1 << 20),
        kernel.trim(),
        compiler.unwrap_or_default()
    )
}

/// The one-minute load average: others' work on the machine shows here.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(target: usize, rates: &[f64]) -> Row {
        let sample = |rate: &f64| Sample {
            requests_per_second: *rate,
            p50_ms: 0.0375,
            p99_ms: 4.0,
            cpu_us: 1e6 / rate,
            generator_busy: 0.5,
        };
        Row { case: 0, target, concurrency: 8, samples: rates.iter().map(sample).collect() }
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&row(0, &[9.0, 1.0, 5.0]), |sample| sample.requests_per_second), 5.0);
        assert_eq!(median(&row(0, &[9.0, 1.0, 5.0, 6.0]), |sample| sample.requests_per_second), 5.5);
    }

    #[test]
    fn a_server_is_compared_with_the_bare_one() {
        let line = table_row(&row(1, &[20_000.0, 30_000.0, 25_000.0]), &row(0, &[100_000.0]));
        assert_eq!(
            line,
            "| `identity` (wasm) | 8 | 25000 | 20000–30000 | 0.037 | 4.00 | 40.0 | 0.25 | 4.00 |\n"
        );
    }

    #[test]
    fn the_report_has_a_table_for_each_measured_case() {
        let rows = [row(0, &[100_000.0]), row(1, &[50_000.0])];
        let mut uploads = uploads::Report { models: 2, ..uploads::Report::default() };
        uploads.plugin.published = vec![30.0, 10.0, 20.0];
        let text = render(&rows, &uploads, 1, 2.0, "0.1", "abc");
        assert!(text.contains("| plugin (wasm) | 0 | 20.0 (10.0–30.0) |"), "{text}");
        assert!(text.contains("| `identity` (wasm) | 8 | 50000 |"), "{text}");
        assert!(text.contains("The generator used at most 50 %"), "{text}");
    }
}
