//! Runs ONNX models on tract with and without this crate's pass, as another process asks: one JSON object a line in,
//! one a line out.
//!
//! `{"load": 0, "path": "m.onnx", "fast": true, "inputs": [{"dtype": "f32", "shape": [1, 3], "file": "x.bin"}]}`
//! loads a model with its inputs under a number; `{"run": 0, "times": 5}` answers with the times of that many runs in
//! nanoseconds, and what the thread had of a CPU meanwhile; `{"outputs": 0, "prefix": "out"}` writes each output to a file of its own; `{"profile": 0, "times": 5}`
//! answers with the time by kind of operator.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;

struct Loaded {
    plan: Arc<TypedSimplePlan>,
    inputs: TVec<TValue>,
}

fn main() {
    let mut loaded = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a line");
        let answer = match answer(&mut loaded, &line) {
            Ok(answer) => answer,
            Err(error) => json!({"error": format!("{error:?}")}),
        };
        println!("{answer}");
        std::io::stdout().flush().expect("somebody reads");
    }
}

fn answer(loaded: &mut BTreeMap<u64, Loaded>, line: &str) -> TractResult<Value> {
    let ask: Value = serde_json::from_str(line)?;
    let number = |name: &str| ask[name].as_u64();
    if let Some(id) = number("load") {
        let start = Instant::now();
        let one = load(&ask)?;
        loaded.insert(id, one);
        return Ok(json!({"load_ns": nanos(start)}));
    }
    if let Some(id) = number("drop") {
        loaded.remove(&id);
        return Ok(json!({}));
    }
    let one = |id: u64| loaded.get(&id).context("no such model");
    if let Some(id) = number("run") {
        let one = one(id)?;
        let mut state = one.plan.spawn()?;
        let (mut times, mut cpu_times) = (vec![], vec![]);
        for _ in 0..number("times").unwrap_or(1) {
            let (start, cpu_start) = (Instant::now(), cpu_time());
            let outputs = state.run(one.inputs.clone())?;
            times.push(nanos(start));
            cpu_times.push(cpu_time() - cpu_start);
            drop(outputs);
        }
        return Ok(json!({"ns": times, "cpu_ns": cpu_times}));
    }
    if let Some(id) = number("outputs") {
        let one = one(id)?;
        let prefix = ask["prefix"].as_str().context("a prefix")?;
        let mut all = vec![];
        for (index, output) in one.plan.run(one.inputs.clone())?.into_iter().enumerate() {
            let file = format!("{prefix}.{index}");
            let tensor = output.into_tensor();
            if tensor.datum_type() == String::datum_type() {
                all.push(json!({"dtype": "String"}));
                continue;
            }
            let tensor = if tensor.datum_type() == TDim::datum_type() {
                tensor.cast_to::<i64>()?.into_owned()
            } else {
                tensor
            };
            std::fs::write(&file, tensor.as_bytes())?;
            all.push(
                json!({"dtype": format!("{:?}", tensor.datum_type()), "shape": tensor.shape(), "file": file}),
            );
        }
        return Ok(json!({"outputs": all}));
    }
    if let Some(id) = number("profile") {
        return profile(one(id)?, number("times").unwrap_or(1), ask["nodes"].as_bool() == Some(true));
    }
    bail!("not understood: {line}")
}

/// What this thread has had of a CPU, in nanoseconds: on a busy machine, less than what has passed.
fn cpu_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    (time.tv_sec * 1_000_000_000 + time.tv_nsec).unsigned_abs()
}

fn load(ask: &Value) -> TractResult<Loaded> {
    let path = ask["path"].as_str().context("a path")?;
    let mut model = airlock_onnx::engine().model_for_path(path)?;
    let mut inputs = tvec!();
    for (index, input) in ask["inputs"].as_array().context("inputs")?.iter().enumerate() {
        let shape: Vec<usize> = serde_json::from_value(input["shape"].clone())?;
        let bytes = std::fs::read(input["file"].as_str().context("a file")?)?;
        let tensor = match input["dtype"].as_str() {
            Some("f32") => Tensor::from_shape(&shape, &values(&bytes, f32::from_le_bytes))?,
            Some("i32") => Tensor::from_shape(&shape, &values(&bytes, i32::from_le_bytes))?,
            Some("i64") => Tensor::from_shape(&shape, &values(&bytes, i64::from_le_bytes))?,
            other => bail!("datatype {other:?}"),
        };
        model.set_input_fact(index, InferenceFact::dt_shape(tensor.datum_type(), &shape))?;
        inputs.push(tensor.into_tvalue());
    }
    let typed = model.into_typed()?;
    let typed = if ask["fast"].as_bool() == Some(true) {
        airlock_onnx::optimise(typed)?
    } else {
        typed.into_optimized()?
    };
    Ok(Loaded { plan: typed.into_runnable()?, inputs })
}

fn profile(one: &Loaded, times: u64, nodes: bool) -> TractResult<Value> {
    // The least that each node took: on a busy machine the mean says little.
    let mut by_node: BTreeMap<usize, (String, u64)> = BTreeMap::new();
    let mut state = one.plan.spawn()?;
    for _ in 0..times {
        state.run_plan_with_eval(one.inputs.clone(), |session, op_state, node, input| {
            let shape = input.first().map(|i| format!("{:?}", i.shape())).unwrap_or_default();
            let start = Instant::now();
            let result = tract_onnx::tract_core::plan::eval(session, op_state, node, input);
            let spent = nanos(start);
            let kind = if nodes {
                let out = result.as_ref().ok().and_then(|r| r.first().map(|o| format!("{:?}", o.shape())));
                format!("{} {} {shape}->{}", node.op.name(), node.name, out.unwrap_or_default())
            } else {
                node.op.name().to_string()
            };
            let entry = by_node.entry(node.id).or_insert((kind, u64::MAX));
            entry.1 = entry.1.min(spent);
            result
        })?;
    }
    let mut by_kind: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (kind, least) in by_node.into_values() {
        let entry = by_kind.entry(kind).or_default();
        entry.0 += least;
        entry.1 += 1;
    }
    let mut kinds: Vec<_> = by_kind.into_iter().collect();
    kinds.sort_by_key(|(_, (ns, _))| std::cmp::Reverse(*ns));
    let all: Vec<_> =
        kinds.iter().map(|(kind, (ns, count))| json!([kind, *ns as f64 / 1e3, count])).collect();
    Ok(json!({"profile_us": all}))
}

fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn values<T, const SIZE: usize>(bytes: &[u8], value: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|bytes| value(*bytes)).collect()
}
