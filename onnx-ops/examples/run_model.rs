//! Runs one model on given inputs, as the gateway would, and waits for commands: the other half of
//! `against_onnxruntime.py`, which see.
//!
//! `run_model MODEL INPUT…`, the inputs as files with a `TensorProto` each. Lines on standard input: `outputs FOLDER` writes the
//! outputs of one run there as `0.pb`, `1.pb`, …; `run COUNT` runs as often and prints the nanoseconds that each took.

#![expect(clippy::unwrap_used, reason = "a tool for developers: it ends with what is wrong")]

use std::{env, fs, io, time::Instant};

use prost::Message;
use tract_onnx::{
    pb::{ModelProto, TensorProto, tensor_proto::DataType},
    prelude::{
        DatumType, InferenceFact, InferenceModelExt, IntoRunnable, TValue, TVec, Tensor, TractResult,
        TypedSimplePlan,
    },
};

fn main() -> TractResult<()> {
    let mut arguments = env::args().skip(1);
    let model = ModelProto::decode(&*fs::read(arguments.next().unwrap())?)?;
    let inputs = arguments.map(|path| {
        let proto = TensorProto::decode(&*fs::read(path)?)?;
        let tensor = tract_onnx::tensor::load_tensor(&*tract_onnx::data_resolver::default(), &proto, None)?;
        Ok((proto.name, tensor))
    });
    let inputs = inputs.collect::<TractResult<Vec<(String, Tensor)>>>()?;
    let start = Instant::now();
    let plan = plan(model, &inputs)?;
    println!("ready {}", start.elapsed().as_nanos());
    let inputs: TVec<TValue> = inputs.into_iter().map(|(_, tensor)| tensor.into()).collect();
    for line in io::stdin().lines() {
        let line = line?;
        match line.split_once(' ').unwrap() {
            ("outputs", folder) => {
                for (index, value) in plan.run(inputs.clone())?.into_iter().enumerate() {
                    fs::write(format!("{folder}/{index}.pb"), proto(&value)?.encode_to_vec())?;
                }
                println!("written");
            }
            ("run", count) => {
                let mut times = Vec::new();
                for _ in 0..count.parse::<usize>()? {
                    let start = Instant::now();
                    let outputs = plan.run(inputs.clone())?;
                    times.push(start.elapsed().as_nanos().to_string());
                    drop(outputs);
                }
                println!("{}", times.join(" "));
            }
            (other, _) => panic!("unknown command {other}"),
        }
    }
    Ok(())
}

fn plan(mut model: ModelProto, inputs: &[(String, Tensor)]) -> TractResult<std::sync::Arc<TypedSimplePlan>> {
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
