//! The worker's own side: it loads one model, then runs it for as long as it is asked to.

use std::{
    cell::Cell,
    io::{self, BufReader, Read},
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use tract_onnx::prelude::{TValue, TVec};

use crate::{
    consumption::Consumption,
    deadline::Deadline,
    execute::{
        ExecuteError, LoadError, Source, Step,
        native::{
            Model, check_limits, convert, load,
            onnxruntime::{self, OnnxRuntime, Unloaded},
            plan::Shapes,
            pool::{self, Watch},
        },
        worker::{Bounds, WorkError, seclusion},
    },
    limits::NativeLimits,
    tensor::{Datatype, InferResponse, Signature, Tensor},
};

use super::{
    shared::Shared,
    wire::{self, Answer, Fault, Load, Order, Placed, Run},
};

/// Time between two looks at whether a call was given up.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Runs one model for the gateway at the other end of stdin, a socket; stdout is the memory that both share, for reading. The
/// library of ONNX Runtime is loaded once the process is bounded: what else its file may do when it is loaded is bounded too.
///
/// # Errors
/// If it could not begin, or was told what no gateway says. Returns when the gateway closes the socket.
pub fn serve(bounds: Bounds, library: Option<&Path>) -> Result<(), WorkError> {
    // First: a new namespace would undo some of the bounds. What the machine does not let it leave, workers that compile tell.
    seclusion::leave().map_err(WorkError::Secluded)?;
    bounds.apply()?;
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let shared = Shared::inherited()?;
    let mut orders = BufReader::new(&control);
    let Some(Order::Load(order)) = wire::read(&mut orders)? else { return Err(WorkError::Order) };
    let (limits, cpu) = (order.native.clone(), order.cpu);
    let source = receive(&mut orders, order)?;
    // Its calls have deadlines, by which they are ended from outside.
    Bounds::on_processor_time(Some(cpu))?;
    let model = match Loaded::load(source, &limits, library) {
        Ok(model) => model,
        Err(Unloaded::Model(error)) => return Ok(wire::write(&control, &Answer::Refused(error))?),
        Err(Unloaded::Library { reason, cause }) => {
            return Ok(wire::write(&control, &Answer::NoLibrary { reason, cause })?);
        }
    };
    Bounds::on_processor_time(None)?;
    wire::write(&control, &Answer::Loaded(model.signature().clone()))?;
    while let Some(order) = wire::read(&mut orders)? {
        let Order::Run(run) = order else { return Err(WorkError::Order) };
        let consumed = Consumption::default();
        let call = run.call;
        shared.begin(call)?;
        let result = {
            let _time = consumed.on_this_thread();
            pool::caught(|| answer(&model, run, &shared)).unwrap_or_else(|panic| Err(pool::trapped(panic)))
        };
        let result = result.map_err(fault);
        wire::write(
            &control,
            &Answer::Ran { call, cpu: Duration::from_nanos(consumed.cpu_nanos()), result },
        )?;
    }
    Ok(())
}

/// The worker's model, on either engine.
enum Loaded {
    Tract(Box<Model>),
    OnnxRuntime(OnnxRuntime),
}

impl Loaded {
    fn load(source: Source, limits: &NativeLimits, library: Option<&Path>) -> Result<Self, Unloaded> {
        let Some(library) = library else {
            return Ok(Self::Tract(Box::new(load(source, limits)?)));
        };
        check_limits(&source, limits)?;
        let loaded = pool::caught(|| onnxruntime::load(library, source, limits)).unwrap_or_else(|panic| {
            Err(LoadError::new(Step::Load, format!("ONNX Runtime cannot load it: {panic:.400}")).into())
        });
        loaded.map(Self::OnnxRuntime)
    }

    fn signature(&self) -> &Signature {
        match self {
            Self::Tract(model) => &model.graph.signature,
            Self::OnnxRuntime(model) => model.signature(),
        }
    }

    fn run(
        &self,
        inputs: TVec<TValue>,
        shapes: &Shapes,
        outputs: &[String],
        watch: &Watch<'_>,
    ) -> Result<InferResponse, ExecuteError> {
        match self {
            Self::Tract(model) => model.run(inputs, shapes, outputs, watch),
            Self::OnnxRuntime(model) => model.run(inputs, outputs, watch),
        }
    }
}

fn receive(mut from: impl Read, order: Load) -> io::Result<Source> {
    let artifact = wire::take(&mut from, order.artifact)?;
    let files = order.files.into_iter().map(|(name, length)| Ok((name, wire::take(&mut from, length)?)));
    Ok(Source {
        label: order.label,
        artifact,
        files: files.collect::<io::Result<_>>()?,
        parameters: Vec::new(),
        declared_inputs: order.declared_inputs,
        limits: order.limits,
        owner: None,
        untrusted: order.untrusted,
        artifact_is_plugin: false,
        isolation: None,
        engine: None,
        batching: None,
    })
}

fn answer(model: &Loaded, run: Run, shared: &Shared) -> Result<Vec<Placed>, ExecuteError> {
    let looked = Cell::new(Instant::now());
    let abandoned = || {
        let look = looked.get().elapsed() >= LOOK_INTERVAL;
        if look {
            looked.set(Instant::now());
        }
        look && shared.is_abandoned(run.call)
    };
    let watch = Watch::new(Deadline::after(run.time), &abandoned);
    let mut shapes = Shapes::new();
    let mut inputs = TVec::new();
    for spec in &model.signature().inputs {
        let placed = run.inputs.iter().find(|input| input.name == spec.name);
        let placed =
            placed.ok_or_else(|| ExecuteError::InvalidInput(format!("input '{}' is missing", spec.name)))?;
        let native = input(placed, shared)?;
        shapes.push(native.shape().to_vec());
        inputs.push(native);
    }
    let response = model.run(inputs, &shapes, &run.outputs, &watch)?;
    let mut end = run.free;
    let place = |output: Tensor| {
        let length = output.bytes.len();
        let offset = shared.place(end, length).ok_or_else(|| {
            ExecuteError::Output(format!("its outputs do not fit into the {} bytes shared", shared.size()))
        })?;
        shared.write(offset, &output.bytes).map_err(|error| pool::trapped(error.to_string()))?;
        end = offset.saturating_add(length as u64);
        let Tensor { name, datatype, shape, .. } = output;
        Ok(Placed { name, datatype, shape, offset, length })
    };
    response.outputs.into_iter().map(place).collect()
}

/// Reads an input from where the gateway put it to where the engine wants it. Its layout was checked by the gateway.
fn input(placed: &Placed, shared: &Shared) -> Result<TValue, ExecuteError> {
    let unreadable = |error: io::Error| pool::trapped(format!("input '{}': {error}", placed.name));
    let mut tensor = Tensor {
        name: placed.name.clone(),
        datatype: placed.datatype,
        shape: placed.shape.clone(),
        parameters: Vec::new(),
        bytes: bytes::Bytes::new(),
    };
    if placed.datatype == Datatype::Bytes {
        tensor.bytes = shared.copy(placed.offset, placed.length).map_err(unreadable)?.into();
        return Ok(convert::to_native(&tensor)?.into());
    }
    let mut native = convert::zeroed(&tensor)?;
    let room = native.as_bytes_mut();
    if room.len() != placed.length {
        return Err(pool::trapped(format!("input '{}' has {} bytes", placed.name, placed.length)));
    }
    shared.read(placed.offset, room).map_err(unreadable)?;
    Ok(native.into())
}

fn fault(error: ExecuteError) -> Fault {
    match error {
        ExecuteError::InvalidInput(text) => Fault::InvalidInput(text),
        ExecuteError::Trapped { detail, .. } => Fault::Trapped(detail),
        ExecuteError::Output(text) => Fault::Output(text),
        ExecuteError::Deadline => Fault::Deadline,
        other => Fault::Failed(other.to_string()),
    }
}
