//! The gateway's ONNX engine beside ONNX Runtime, one thread each, over real models: `onnx-ops/examples/ratios.py`.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    Section,
    bars::{Bar, Wanted},
    figures::Rounds,
    lab::Lab,
};
use crate::{python, shell};

const BATCHES: [u64; 2] = [1, 8];
/// Of one model on one side in a round.
const SECONDS: f64 = 0.3;

/// A model at a batch: microseconds of each round.
struct Row {
    model: String,
    batch: u64,
    onnx_runtime: Rounds,
    ours: Rounds,
}

impl Row {
    /// How much faster ours is.
    fn ratio(&self) -> Rounds {
        self.onnx_runtime.ratio(&self.ours)
    }
}

pub fn measure(lab: &Lab) -> Result<Section> {
    let models = shell::target().join("parity");
    if lab.smoke {
        let requirements = requirements();
        let requirements = requirements.each_ref().map(PathBuf::as_path);
        let python = python::ready("clients", &requirements).filter(|_| models.join("magika").is_dir());
        return smoke(lab, python.as_deref(), &models);
    }
    let rows = match prepare() {
        Ok(python) => rows(lab, &python, &all(&models)?)?,
        Err(error) => {
            let reason = format!("ONNX Runtime cannot be installed: {error:#}").replace(['\n', '|'], " ");
            eprintln!("    {reason}");
            return Ok(Section { text: format!("{HEADING}{reason}\n"), bars: bars(&Err(reason)) });
        }
    };
    Ok(Section { text: text(&rows), bars: bars(&Ok(rows)) })
}

fn requirements() -> [PathBuf; 2] {
    let clients = shell::root().join("tests/clients");
    ["requirements.txt", "requirements-parity.txt"].map(|name| clients.join(name))
}

/// Installs ONNX Runtime and lays the models out; returns the Python that has it.
pub fn prepare() -> Result<PathBuf> {
    let requirements = requirements();
    let python = python::venv("clients", &requirements.each_ref().map(PathBuf::as_path))?;
    let mut lay_out = Command::new(&python);
    lay_out.arg(shell::root().join("tests/clients/models.py")).arg(shell::target().join("parity"));
    shell::run("models from packages", &mut lay_out)?;
    Ok(python)
}

/// A small model on both sides if they are there, with its answers compared; else one on ours.
fn smoke(lab: &Lab, python: Option<&Path>, models: &Path) -> Result<Section> {
    if let Some(python) = python {
        let small = ["iris", "magika"].map(|name| models.join(name).join("1/model.onnx"));
        let mut compare = script(lab, python, "against_onnxruntime.py", &small);
        shell::run("answers beside ONNX Runtime's", &mut compare)?;
        let rows = rows(lab, python, &small)?;
        return Ok(Section { text: text(&rows), bars: bars(&Ok(rows)) });
    }
    let input = lab.folder("engines")?.join("input.pb");
    // A TensorProto: dimensions, data type (FP32), name and bytes.
    let mut tensor = b"\x08\x01\x08\x04\x10\x01\x42\x06INPUT0\x4a\x10".to_vec();
    tensor.extend([1f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat());
    fs::write(&input, tensor)?;
    let requests = input.with_extension("json");
    fs::write(&requests, json!({ "run": { "times": 3 } }).to_string())?;
    let mut ours = Command::new(program(lab));
    ours.arg(shell::target().join("models/identity_onnx/1/model.onnx")).arg(&input);
    let output = ours.stdin(fs::File::open(&requests)?).stderr(Stdio::inherit()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let times = said.lines().nth(1).and_then(|line| serde_json::from_str::<Vec<u64>>(line).ok());
    ensure!(times.is_some_and(|times| times.len() == 3), "the engine did not run: {said}");
    Ok(Section { text: String::new(), bars: bars(&Err("ONNX Runtime is not there".into())) })
}

fn program(lab: &Lab) -> PathBuf {
    lab.binaries.join("examples/measure")
}

fn script(lab: &Lab, python: &Path, name: &str, models: &[PathBuf]) -> Command {
    let mut command = lab.on_load_core(python);
    command.arg(shell::root().join("onnx-ops/examples").join(name)).arg(program(lab)).args(models);
    command
}

fn all(models: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(models)? {
        files.push(entry?.path().join("1/model.onnx"));
    }
    files.sort();
    Ok(files)
}

fn rows(lab: &Lab, python: &Path, models: &[PathBuf]) -> Result<Vec<Row>> {
    let seconds = if lab.smoke { 0.01 } else { SECONDS };
    let mut command = script(lab, python, "ratios.py", models);
    command.args(["--rounds", &lab.rounds.to_string(), "--seconds", &seconds.to_string()]);
    let output = command.stderr(Stdio::inherit()).output().context("cannot start ratios.py")?;
    ensure!(output.status.success(), "ratios.py ended with {}", output.status);
    String::from_utf8_lossy(&output.stdout).lines().map(row).collect()
}

fn row(line: &str) -> Result<Row> {
    let line: Value = serde_json::from_str(line)?;
    let (Some(model), Some(batch)) = (line["model"].as_str(), line["batch"].as_u64()) else {
        bail!("not a line of ratios.py: {line}");
    };
    let rounds = |side: &str| -> Result<Rounds> {
        let figures = line[side].as_array().with_context(|| format!("{model} at batch {batch}: {line}"))?;
        Ok(figures.iter().filter_map(Value::as_f64).collect())
    };
    Ok(Row { model: model.into(), batch, onnx_runtime: rounds("onnxruntime")?, ours: rounds("ours")? })
}

fn bars(rows: &Result<Vec<Row>, String>) -> Vec<Bar> {
    let bar = |text: &str, bound, of: fn(&[Rounds]) -> Rounds| Bar {
        number: 9,
        text: format!("ONNX models beside ONNX Runtime, one thread: speed, {text}"),
        wanted: Wanted::AtLeast(bound),
        unit: "×",
        measured: BATCHES
            .map(|batch| {
                let ratios = rows.as_ref().map_err(Clone::clone).map(|rows| {
                    let rows = rows.iter().filter(|row| row.batch == batch);
                    of(&rows.map(Row::ratio).collect::<Vec<_>>())
                });
                (format!("batch {batch}"), ratios)
            })
            .into(),
    };
    vec![bar("geometric mean of all models", 1.0, geometric_mean), bar("least of all models", 0.8, least)]
}

/// Round by round.
fn geometric_mean(ratios: &[Rounds]) -> Rounds {
    let rounds = ratios.iter().map(|ratio| ratio.0.len()).min().unwrap_or(0);
    let count = ratios.iter().map(|_| 1.0).sum::<f64>();
    let mean = |round: usize| (ratios.iter().map(|ratio| ratio.0[round].ln()).sum::<f64>() / count).exp();
    (0..rounds).map(mean).collect()
}

/// Of the model with the least median.
fn least(ratios: &[Rounds]) -> Rounds {
    ratios.iter().min_by(|a, b| a.median().total_cmp(&b.median())).cloned().unwrap_or_default()
}

const HEADING: &str = "\n## ONNX models beside ONNX Runtime\n\n";

fn text(rows: &[Row]) -> String {
    let mut text = format!(
        "{HEADING}The gateway's engine with its allocator's settings, and ONNX Runtime 1.32 from Python (some 3 µs of a call), on one \
         core, one thread each, in turn; microseconds of processor time. Models as `tests/clients/models.py` lays them out: weights \
         of squeezenet, shufflenet, densenet121, resnet50 and the encoder (MiniLM's shape, 128 tokens) are random. Ratio: ONNX Runtime's \
         time by ours, medians (least–most).\n\n| model | batch | ONNX Runtime | ours | ratio |\n|---|---|---|---|---|\n"
    );
    for row in rows {
        let (theirs, ours) = (row.onnx_runtime.spread(), row.ours.spread());
        let _ = writeln!(
            text,
            "| {} | {} | {theirs} | {ours} | {} |",
            row.model,
            row.batch,
            row.ratio().spread()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_of_all_models_at_a_batch() {
        let line = |model: &str, batch: u64, ours: [f64; 2]| {
            let line = json!({ "model": model, "batch": batch, "onnxruntime": [4.0, 4.0], "ours": ours });
            row(&line.to_string()).expect("a row")
        };
        let rows = vec![line("a", 1, [1.0, 2.0]), line("b", 1, [4.0, 8.0]), line("a", 8, [2.0, 4.0])];
        assert!(text(&rows).contains("| b | 1 | 4.00 (4.00–4.00) | 6.00 (4.00–8.00) | 0.750 (0.500–1.00) |"));
        let measured: Vec<_> = bars(&Ok(rows)).into_iter().flat_map(|bar| bar.measured).collect();
        let at = |batch: &str, rounds: [f64; 2]| (format!("batch {batch}"), Ok(Rounds(rounds.into())));
        let expected = [at("1", [2.0, 1.0]), at("8", [2.0, 1.0]), at("1", [1.0, 0.5]), at("8", [2.0, 1.0])];
        assert_eq!(measured, expected);
        assert!(row(r#"{"model": "a", "batch": 1, "error": "it ended"}"#).is_err());
    }
}
