//! Runs one model on given inputs, as the gateway would, and waits for requests: the other half of `against_onnxruntime.py` and
//! `ratios.py`, which see.
//!
//! `measure MODEL INPUT…`, the inputs as files with a `TensorProto` each. Requests are lines of JSON on standard input, and each
//! has one line for an answer.
#![expect(clippy::unwrap_used, reason = "a tool for developers: it ends with what is wrong")]

use std::{collections::BTreeMap, env, fs, io, path::PathBuf, sync::Arc};

use prost::Message;
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::{Value, json};
use tract_onnx::{
    pb::{ModelProto, TensorProto, tensor_proto::DataType},
    prelude::{
        DatumType, InferenceFact, InferenceModelExt, IntoRunnable, TValue, TVec, Tensor, TractResult,
        TypedSimplePlan,
    },
    tract_core::plan::{SimpleState, eval},
};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    /// Writes the outputs of one run to `0.pb`, `1.pb`, … in a folder.
    Outputs { folder: PathBuf },
    /// Runs so often; the answer is what the thread had of a processor for each, in nanoseconds: on a busy machine, less than what
    /// has passed.
    Run { times: usize },
    /// Runs so often; the answer is a list of nodes and the least that each took, the longest first.
    Profile { times: usize },
}

fn main() -> TractResult<()> {
    keep_memory();
    let mut arguments = env::args().skip(1);
    let model = ModelProto::decode(&*fs::read(arguments.next().unwrap())?)?;
    let inputs = arguments.map(|path| {
        let proto = TensorProto::decode(&*fs::read(path)?)?;
        let tensor = tract_onnx::tensor::load_tensor(&*tract_onnx::data_resolver::default(), &proto, None)?;
        Ok((proto.name, tensor))
    });
    let inputs = inputs.collect::<TractResult<Vec<(String, Tensor)>>>()?;
    let plan = plan(model, &inputs)?;
    println!("\"ready\"");
    let inputs: TVec<TValue> = inputs.into_iter().map(|(_, tensor)| tensor.into()).collect();
    for line in io::stdin().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Request::Outputs { folder } => {
                for (index, value) in plan.run(inputs.clone())?.into_iter().enumerate() {
                    fs::write(folder.join(format!("{index}.pb")), proto(&value)?.encode_to_vec())?;
                }
                json!("written")
            }
            Request::Run { times } => run(&plan, &inputs, times)?,
            Request::Profile { times } => profile(&plan, &inputs, times)?,
        };
        println!("{answer}");
    }
    Ok(())
}

/// As the gateway keeps memory, and has its allocator keep it.
#[expect(unsafe_code, reason = "the C library has no safe interface")]
fn keep_memory() {
    airlock_onnx::spare::keep(256 << 20);
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets numbers of the allocator's, under its lock, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 8 << 20);
    }
}

fn plan(mut model: ModelProto, inputs: &[(String, Tensor)]) -> TractResult<Arc<TypedSimplePlan>> {
    let graph = model.graph.as_mut().unwrap();
    airlock_onnx::file::rewrite(graph);
    airlock_onnx::file::detach_outputs(graph);
    airlock_onnx::file::name_nodes(graph);
    // What the file says of its dimensions gives way to the inputs' own.
    let names: Vec<&str> = inputs.iter().map(|(name, _)| name.as_str()).collect();
    graph.input.retain(|info| names.contains(&info.name.as_str()));
    let engine = airlock_onnx::engine();
    let mut parsed = engine.parse(&model, None)?.model;
    for (index, info) in model.graph.as_ref().unwrap().input.iter().enumerate() {
        let (_, tensor) = inputs.iter().find(|(name, _)| *name == info.name).unwrap();
        parsed.set_input_fact(index, InferenceFact::dt_shape(tensor.datum_type(), tensor.shape()))?;
    }
    airlock_onnx::optimise(parsed.into_typed()?)?.into_runnable()
}

fn run(plan: &Arc<TypedSimplePlan>, inputs: &TVec<TValue>, times: usize) -> TractResult<Value> {
    let mut spent = Vec::with_capacity(times);
    for _ in 0..times {
        let begun = processor_time();
        let outputs = SimpleState::new(plan)?.run(inputs.clone())?;
        spent.push(processor_time() - begun);
        drop(outputs);
    }
    Ok(json!(spent))
}

fn profile(plan: &Arc<TypedSimplePlan>, inputs: &TVec<TValue>, times: usize) -> TractResult<Value> {
    let mut least: BTreeMap<usize, (String, i64)> = BTreeMap::new();
    for _ in 0..times {
        SimpleState::new(plan)?.run_plan_with_eval(inputs.clone(), |context, state, node, values| {
            let shape = values.first().map(|value| value.shape().to_vec()).unwrap_or_default();
            let begun = processor_time();
            let results = eval(context, state, node, values);
            let spent = processor_time() - begun;
            let result = results.as_ref().ok().and_then(|results| results.first());
            let result = result.map(|value| value.shape().to_vec()).unwrap_or_default();
            let name = || (format!("{} {} {shape:?} {result:?}", node.op.name(), node.name), i64::MAX);
            let entry = least.entry(node.id).or_insert_with(name);
            entry.1 = entry.1.min(spent);
            results
        })?;
    }
    let mut nodes: Vec<_> = least.into_values().collect();
    nodes.sort_by_key(|(_, spent)| std::cmp::Reverse(*spent));
    Ok(json!(nodes))
}

/// Nanoseconds that this thread has had of a processor.
fn processor_time() -> i64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn proto(value: &Tensor) -> TractResult<TensorProto> {
    let dims = value.shape().iter().map(|dim| i64::try_from(*dim).unwrap()).collect();
    let value = match value.datum_type() {
        DatumType::TDim => value.cast_to::<i64>()?.into_owned(),
        DatumType::String => {
            let texts = value.try_as_plain_ram()?.as_slice::<String>()?.to_vec();
            let string_data = texts.into_iter().map(|text| text.into_bytes()).collect();
            let data_type = DataType::String as i32;
            return Ok(TensorProto { dims, data_type, string_data, ..Default::default() });
        }
        _ => value.clone(),
    };
    let data_type = match value.datum_type() {
        DatumType::F32 => DataType::Float,
        DatumType::F64 => DataType::Double,
        DatumType::I64 => DataType::Int64,
        DatumType::I32 => DataType::Int32,
        DatumType::U8 => DataType::Uint8,
        DatumType::I8 => DataType::Int8,
        DatumType::Bool => DataType::Bool,
        other => panic!("outputs of type {other:?} are not written"),
    };
    let raw_data = value.as_bytes().to_vec();
    Ok(TensorProto { dims, data_type: data_type as i32, raw_data, ..Default::default() })
}
