//! `cargo xtask promises`: measures at full size what `PROMISES.md` says, and writes the figures there. What was measured is
//! kept below the target folder, so that a run that was ended goes on where it was.

mod table;
#[cfg(test)]
mod tests;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::shell;
use table::{ALL, Figure, Measurement, Run};

/// Gateway and measuring programs are optimised, dependencies are so anyway: the same build for all of it, and a quick one.
const OPTIMISED: [&str; 2] = ["--config", "profile.dev.package.airlock.opt-level=2"];

/// The lines of `PROMISES.md` between which the figures are written.
const BEGIN: &str = "<!-- written by `cargo xtask promises` -->";
const END: &str = "<!-- end -->";

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Measure only these, those that were measured already included
    #[arg(long, value_name = "NAME", num_args = 1.., value_parser = name)]
    only: Vec<String>,
    /// Measure these once more
    #[arg(long, value_name = "NAME", num_args = 1.., value_parser = name)]
    again: Vec<String>,
    /// Say what there is to measure and what was measured, and measure nothing
    #[arg(long)]
    list: bool,
}

fn name(text: &str) -> Result<String, String> {
    let names: Vec<&str> = ALL.iter().map(|measurement| measurement.name).collect();
    if names.contains(&text) { Ok(text.into()) } else { Err(format!("there is {}", names.join(", "))) }
}

pub fn run(options: &Options) -> Result<()> {
    let folder = shell::target().join("promises");
    fs::create_dir_all(&folder)?;
    if options.list {
        return list(&folder);
    }
    let asked = |names: &[String], name: &str| names.iter().any(|asked| asked == name);
    let due: Vec<&Measurement> = ALL
        .iter()
        .filter(|measurement| match options.only.is_empty() {
            true => asked(&options.again, measurement.name) || done(&folder, measurement).is_none(),
            false => asked(&options.only, measurement.name),
        })
        .collect();
    eprintln!("{} of {} to measure, about {} min", due.len(), ALL.len(), minutes(&due));
    if !due.is_empty() {
        build()?;
    }
    let mut failed = Vec::new();
    for (index, measurement) in due.iter().enumerate() {
        let left = minutes(&due[index..]);
        eprintln!(
            "\n[{}/{}] {}: {} (about {left} min left)",
            index + 1,
            due.len(),
            measurement.name,
            measurement.count
        );
        let started = Instant::now();
        // What one of them shows does not depend on the others.
        match measure(&folder, measurement) {
            Ok(figure) => eprintln!("    {figure}, in {:.0} s", started.elapsed().as_secs_f64()),
            Err(error) => {
                eprintln!("    {}: {error:#}", measurement.name);
                failed.push(measurement.name);
            }
        }
        write_figures(&folder)?;
    }
    write_figures(&folder)?;
    ensure!(failed.is_empty(), "not shown: {}", failed.join(", "));
    Ok(())
}

fn minutes(measurements: &[&Measurement]) -> u32 {
    measurements.iter().map(|measurement| measurement.minutes).sum()
}

fn list(folder: &Path) -> Result<()> {
    for measurement in &ALL {
        let state = match done(folder, measurement) {
            Some(done) => format!("{} at {}", text(&done, "figure"), text(&done, "commit")),
            None => format!("to be measured, about {} min", measurement.minutes),
        };
        writeln!(std::io::stdout(), "{:16} promise {:2}  {state}", measurement.name, measurement.promise)?;
    }
    Ok(())
}

fn build() -> Result<()> {
    let mut cargo = shell::command("cargo");
    cargo.args(["build", "--workspace", "--bins"]).args(OPTIMISED);
    shell::run("building what measures and what is measured", cargo.current_dir(shell::root()))
}

/// Runs one measurement, with its output shown and kept in a file, and keeps what it showed.
fn measure(folder: &Path, measurement: &Measurement) -> Result<String> {
    let mut command = measurement.command();
    let shown = measurement.shown();
    eprintln!("==> {shown}");
    let (reader, writer) = std::io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer).current_dir(shell::root());
    let mut child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    // Ours would keep the pipe open after the child's end.
    drop(command);
    let mut log = fs::File::create(folder.join(format!("{}.log", measurement.name)))?;
    let mut output = Vec::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        eprintln!("    {line}");
        writeln!(log, "{line}")?;
        output.push(line);
    }
    let status = child.wait()?;
    ensure!(status.success(), "it ended with {status}");
    let figure = measurement.figure.of(&output).context("its output does not have the figure")?;
    let done = json!({
        "figure": figure, "count": measurement.count, "command": shown, "commit": commit()?,
    });
    // As a whole or not at all.
    let temporary = folder.join(format!("{}.new", measurement.name));
    fs::write(&temporary, serde_json::to_string_pretty(&done)?)?;
    fs::rename(&temporary, state(folder, measurement))?;
    Ok(figure)
}

fn state(folder: &Path, measurement: &Measurement) -> PathBuf {
    folder.join(format!("{}.json", measurement.name))
}

/// What a measurement showed, if it was made. One of another size is none.
fn done(folder: &Path, measurement: &Measurement) -> Option<Value> {
    let done: Value = serde_json::from_slice(&fs::read(state(folder, measurement)).ok()?).ok()?;
    (done["command"] == measurement.shown()).then_some(done)
}

fn text<'a>(done: &'a Value, field: &str) -> &'a str {
    done[field].as_str().unwrap_or("?")
}

/// The commit that is measured, with a `+` if it was changed since. That figures were written does not count.
pub fn commit() -> Result<String> {
    let git = |arguments: &[&str]| -> Result<String> {
        let output = Command::new("git").args(arguments).current_dir(shell::root()).output()?;
        ensure!(output.status.success(), "git {} failed", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let changed = git(&[
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ".",
        ":!PROMISES.md",
        ":!docs/benchmarks.md",
    ])?;
    Ok(git(&["rev-parse", "--short", "HEAD"])? + if changed.is_empty() { "" } else { "+" })
}

/// Writes all figures that there are between the marks; where a measurement is missing, what stands there of it stays.
fn write_figures(folder: &Path) -> Result<()> {
    let path = shell::root().join("PROMISES.md");
    let before = fs::read_to_string(&path)?;
    let after = with_figures(&before, |measurement| done(folder, measurement))?;
    if after != before {
        fs::write(&path, after)?;
    }
    Ok(())
}

fn with_figures(text: &str, done: impl Fn(&Measurement) -> Option<Value>) -> Result<String> {
    let Some((before, (table, after))) =
        text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?)))
    else {
        bail!("PROMISES.md has no lines {BEGIN:?} and {END:?}");
    };
    let mut rows = String::new();
    for measurement in &ALL {
        let start = format!("| {} | {} |", measurement.promise, measurement.name);
        if let Some(done) = done(measurement) {
            let field = |name| self::text(&done, name).replace('|', "\\|");
            rows += &format!(
                "{start} {} | {} | `{}` | {} |\n",
                field("figure"),
                field("count"),
                field("command"),
                field("commit")
            );
        } else if let Some(there) = table.lines().find(|line| line.starts_with(&start)) {
            rows += &format!("{there}\n");
        }
    }
    let head = "| # | measurement | figure | count | command | commit |\n|---|---|---|---|---|---|";
    Ok(format!("{before}{BEGIN}\n\n{head}\n{rows}\n{END}{after}"))
}

impl Measurement {
    fn command(&self) -> Command {
        let debug = shell::target().join("debug");
        let mut words = self.words(&debug.display().to_string()).into_iter();
        let mut command = shell::command(words.next().unwrap_or_default());
        command.args(words).envs(self.environment.iter().copied());
        command
    }

    /// The command as a person types it in the root of the checkout.
    fn shown(&self) -> String {
        let environment = self.environment.iter().map(|(name, value)| format!("{name}={value}"));
        let words = self.words("target/debug").into_iter();
        // In a table, and in a shell: the one word with spaces is the last but one of `sh -c`.
        let words = words.map(|word| if word.contains(' ') { format!("'{word}'") } else { word });
        environment.chain(words).collect::<Vec<_>>().join(" ")
    }

    fn words(&self, binaries: &str) -> Vec<String> {
        let mut words: Vec<String> = match self.run {
            Run::Tests(filters) => {
                let cargo = ["cargo", "test", "--workspace", "--test", "it"];
                let cargo = [&cargo[..], &OPTIMISED, &["--", "--nocapture"], filters].concat();
                cargo.into_iter().map(str::to_owned).collect()
            }
            Run::TestsOnDemand(filters) => {
                let limit = "ulimit -v 67108864; exec \"$@\"";
                let cargo = Self { run: Run::Tests(filters), ..*self }.words(binaries);
                ["sh", "-c", limit, "sh"].map(str::to_owned).into_iter().chain(cargo).collect()
            }
            Run::Program(program, arguments) => {
                let arguments = arguments.iter().map(|argument| argument.replace("{bin}", binaries));
                std::iter::once(format!("{binaries}/{program}")).chain(arguments).collect()
            }
        };
        if let Some(core) = self.core {
            words.splice(0..0, ["taskset".to_owned(), "-c".to_owned(), core.to_string()]);
        }
        words
    }
}

impl Figure {
    /// What the output of a measurement says.
    fn of(self, output: &[String]) -> Option<String> {
        match self {
            Self::Line(part) => {
                let line = output.iter().rev().find(|line| line.contains(part))?;
                // The harness begins a line with the name of the test.
                Some(line.rsplit_once(" ... ").map_or(line.as_str(), |(_, line)| line).trim().to_owned())
            }
            Self::Json(fields) => {
                let values = output.iter().rev().find_map(|line| {
                    let value: Value = serde_json::from_str(line.trim()).ok()?;
                    fields.iter().all(|field| value.get(field).is_some()).then_some(value)
                })?;
                let field = |name: &&str| format!("{} {}", name.replace('_', " "), short(&values[*name]));
                Some(fields.iter().map(field).collect::<Vec<_>>().join(", "))
            }
            Self::Rounds => {
                let rounds = output.iter().filter_map(|line| {
                    let (before, _) = line.rsplit_once(" rounds")?;
                    before.rsplit(' ').next()?.parse::<u64>().ok()
                });
                let (cases, rounds) = rounds.fold((0, 0), |(cases, all), rounds| (cases + 1, all + rounds));
                (cases > 0).then(|| format!("0 of {rounds} rounds of {cases} cases failed"))
            }
        }
    }
}

/// A value with two decimals at most.
fn short(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => {
            format!("{:.2}", number.as_f64().unwrap_or(f64::NAN))
        }
        Value::Array(values) => values.iter().map(short).collect::<Vec<_>>().join(" · "),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{name} {}", short(value)));
            fields.collect::<Vec<_>>().join(" · ")
        }
        other => other.to_string().trim_matches('"').to_owned(),
    }
}
