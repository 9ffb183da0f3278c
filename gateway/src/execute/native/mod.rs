//! The native executor: ONNX models on tract, at full CPU speed and without a sandbox; or, in worker processes, on ONNX
//! Runtime, if the operator has it: see [`Engines`].
//!
//! A panic of the engine costs its request an answer and nothing else. What it does not survive is an abort: see
//! [`pool::caught`]. Models of tenants therefore run in processes of their own, and the operator's where they are told to,
//! see [`Isolated`].

mod batcher;
mod convert;
mod dims;
mod engines;
mod graph;
mod measure;
mod onnxruntime;
mod plan;
mod pool;
mod preflight;
mod process;
mod proto;
mod settle;

use std::{fmt, sync::Arc, time::Instant};

use airlock_onnx::spare;
use tract_onnx::prelude::{TValue, TVec};

use crate::{
    consumption::Consumption,
    deadline::Deadline,
    limits::NativeLimits,
    tensor::{InferRequest, InferResponse, Shape, Signature, TensorSpec},
};

pub use engines::Engines;
pub use process::{Isolated, serve};
pub(super) use settle::for_plugin;

use self::{
    batcher::Batcher,
    graph::Graph,
    plan::{Plan, PlanCache, PlanError, RunError, Shapes},
    pool::{Pool, Watch},
};
use super::{BoxFuture, Call, ExecuteError, Executor, LoadError, Source, Step, check_outputs};

/// Bytes of inputs that are copied on a thread that serves sockets.
const MAX_SHORT_BYTES: usize = 64 << 10;

/// What is kept of the memory of large results for the next runs, and for how many tenths of a second if nothing uses it.
const SPARE_BYTES: usize = 256 << 20;
const SPARE_TENTHS: u32 = 10;

/// Lets runs keep memory of large results for the next ones. To be called ten times a second: what is not used for a while
/// goes back then, and all of it where memory is short.
pub fn tend_spare(memory_is_short: bool) {
    spare::keep(SPARE_BYTES);
    spare::age(if memory_is_short { 0 } else { SPARE_TENTHS });
}

/// The compute threads that run ONNX models.
#[derive(Debug)]
pub struct Engine {
    limits: NativeLimits,
    pool: Pool,
}

impl Engine {
    /// Starts the compute threads.
    pub fn new(limits: NativeLimits) -> Result<Arc<Self>, LoadError> {
        let pool = Pool::new(&limits)?;
        Ok(Arc::new(Self { limits, pool }))
    }

    /// Loads and optimises an ONNX model. Blocks for as long as that takes, on the caller's thread.
    pub fn load(self: &Arc<Self>, source: Source) -> Result<Arc<dyn Executor>, LoadError> {
        let batching = source.batching.clone();
        let model = Arc::new(load(source, &self.limits)?);
        let batcher = batching
            .filter(|_| model.graph.has_rows())
            .map(|batching| Arc::new(Batcher::new(Arc::clone(&model), Arc::clone(self), batching)));
        Ok(Arc::new(NativeExecutor { model, engine: Arc::clone(self), batcher }))
    }
}

/// Loads and optimises a model as [`Engine::load`] does, and says what its signature is. Blocks; for a process that may die
/// of it.
pub(super) fn check(source: Source, limits: &NativeLimits) -> Result<Signature, LoadError> {
    load(source, limits).map(|model| model.graph.signature)
}

fn load(source: Source, limits: &NativeLimits) -> Result<Model, LoadError> {
    check_limits(&source, limits)?;
    pool::caught(|| Model::load(source, limits)).map_err(|panic| {
        LoadError::new(Step::Compile, format!("the native engine cannot load it: {panic:.400}"))
    })?
}

fn check_limits(source: &Source, limits: &NativeLimits) -> Result<(), LoadError> {
    let bytes =
        source.files.iter().map(|(_, bytes)| bytes.len()).fold(source.artifact.len(), usize::saturating_add);
    if bytes > limits.max_artifact_bytes {
        return Err(LoadError::new(
            Step::Check,
            format!("the model has {bytes} bytes, at most {} are accepted", limits.max_artifact_bytes),
        ));
    }
    if source.limits.memory_bytes.is_some() {
        return Err(LoadError::new(
            Step::Read,
            "limits: memory cannot be enforced for an ONNX model, which runs without a sandbox: leave it out",
        ));
    }
    Ok(())
}

/// One loaded version of an ONNX model.
struct NativeExecutor {
    model: Arc<Model>,
    engine: Arc<Engine>,
    /// If its configuration says that requests may run together.
    batcher: Option<Arc<Batcher>>,
}

impl fmt::Debug for NativeExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeExecutor").field("label", &self.model.label).finish_non_exhaustive()
    }
}

impl Executor for NativeExecutor {
    fn signature(&self) -> &Signature {
        &self.model.graph.signature
    }

    fn platform(&self) -> &'static str {
        "onnx_onnxv1"
    }

    /// An estimate: the graph as it is kept, and as the optimised plans hold it.
    fn loaded_bytes(&self) -> u64 {
        self.model.artifact_bytes.saturating_mul(3)
    }

    fn infer(&self, request: InferRequest, call: Call) -> BoxFuture<'_, Result<InferResponse, ExecuteError>> {
        if let Some(batcher) = &self.batcher
            && let Some(rows) = batcher.rows_of(&request, &call.share.tenant)
        {
            return Box::pin(batcher.infer(request, rows, call));
        }
        let consumed = call.consumed;
        if let Some((inputs, plan)) = self.model.short(&request) {
            let deadline = call.deadline.first();
            return Box::pin(async move {
                self.model.run_here(inputs, &plan, &request.outputs, deadline, &consumed)
            });
        }
        let model = Arc::clone(&self.model);
        // The engine computes on the thread that it is called on and on no other.
        Box::pin(self.engine.pool.run(call.deadline.first(), move |watch| {
            let _time = consumed.on_this_thread();
            model.infer(request, watch)
        }))
    }
}

struct Model {
    label: String,
    artifact_bytes: u64,
    graph: Graph,
    plans: PlanCache,
    max_output_bytes: usize,
}

impl Model {
    fn load(source: Source, limits: &NativeLimits) -> Result<Self, LoadError> {
        let label = source.label.clone();
        let artifact_bytes = source.artifact.len() as u64;
        let max_output_bytes = source.limits.native_output(limits);
        let graph = Graph::load(source)?;
        let model =
            Self { label, artifact_bytes, graph, plans: PlanCache::new(limits.max_plans), max_output_bytes };
        // A graph with one shape only is optimised now or refused. Where just the batch varies, the plan for one item is
        // made ready; that it cannot be does not speak against other sizes.
        if let Some(shapes) = model.graph.only_shapes() {
            model.plan(&shapes).map_err(|error| {
                let (PlanError::Refused(reason) | PlanError::Panicked(reason)) = error;
                LoadError::new(Step::Compile, format!("the native engine cannot run this graph: {reason}"))
            })?;
        } else if let Some(shapes) = model.graph.single_item() {
            let _ = model.plan(&shapes);
        }
        Ok(model)
    }

    fn plan(&self, shapes: &Shapes) -> Result<Arc<Plan>, PlanError> {
        self.plans.get_or_build(shapes, || {
            let start = Instant::now();
            let plan = self.graph.plan(shapes);
            tracing::debug!(model = %self.label, ?shapes, ready = plan.is_ok(), elapsed = ?start.elapsed(), "plan built");
            plan
        })
    }

    /// Makes the plan for a batch of so many rows, if nothing else varies. That it cannot be made does not speak against other
    /// sizes.
    fn prepare(&self, rows: u64) {
        if let Some(shapes) = usize::try_from(rows).ok().and_then(|rows| self.graph.rows(rows)) {
            let _ = self.plan(&shapes);
        }
    }

    /// Runs a request. Blocks: for compute threads only.
    fn infer(&self, request: InferRequest, watch: &Watch<'_>) -> Result<InferResponse, ExecuteError> {
        let (inputs, shapes) = self.inputs(&request)?;
        let requested = request.outputs;
        drop(request.inputs);
        self.run(inputs, &shapes, &requested, watch)
    }

    /// A request's inputs in the signature's order, and their shapes.
    fn inputs(&self, request: &InferRequest) -> Result<(TVec<TValue>, Shapes), ExecuteError> {
        let (mut inputs, mut shapes) = (TVec::new(), Shapes::new());
        for spec in &self.graph.signature.inputs {
            let given = request.inputs.iter().find(|input| input.name == spec.name);
            let given = given
                .ok_or_else(|| ExecuteError::InvalidInput(format!("input '{}' is missing", spec.name)))?;
            let native = convert::to_native(given)?;
            shapes.push(native.shape().to_vec());
            inputs.push(native.into());
        }
        Ok((inputs, shapes))
    }

    /// The inputs of a request that may run where it was received, and its plan.
    fn short(&self, request: &InferRequest) -> Option<(TVec<TValue>, Arc<Plan>)> {
        let bytes: usize = request.inputs.iter().map(|input| input.bytes.len()).sum();
        if bytes > MAX_SHORT_BYTES {
            return None;
        }
        let (inputs, shapes) = self.inputs(request).ok()?;
        self.plans.get(&shapes).filter(|plan| plan.is_short()).map(|plan| (inputs, plan))
    }

    /// Runs a short plan on the thread that serves the request.
    fn run_here(
        &self,
        inputs: TVec<TValue>,
        plan: &Plan,
        requested: &[String],
        deadline: Deadline,
        consumed: &Consumption,
    ) -> Result<InferResponse, ExecuteError> {
        let watch = Watch::new(deadline, &|| false);
        if watch.is_over() {
            return Err(ExecuteError::Deadline);
        }
        let _time = consumed.on_this_thread();
        let run = || self.outputs(plan, inputs, requested, &watch);
        pool::caught(run).unwrap_or_else(|detail| Err(pool::trapped(detail)))
    }

    /// Runs on inputs of these shapes, in the signature's order.
    fn run(
        &self,
        inputs: TVec<TValue>,
        shapes: &Shapes,
        requested: &[String],
        watch: &Watch<'_>,
    ) -> Result<InferResponse, ExecuteError> {
        let signature = &self.graph.signature;
        let plan = self.plan(shapes).map_err(|error| match error {
            PlanError::Refused(reason) => ExecuteError::InvalidInput(format!(
                "the model cannot run {}: {reason}",
                named(signature, shapes)
            )),
            PlanError::Panicked(detail) => pool::trapped(detail),
        })?;
        self.outputs(&plan, inputs, requested, watch)
    }

    fn outputs(
        &self,
        plan: &Plan,
        inputs: TVec<TValue>,
        requested: &[String],
        watch: &Watch<'_>,
    ) -> Result<InferResponse, ExecuteError> {
        let values = plan.run(inputs, watch).map_err(|error| match error {
            RunError::Over => ExecuteError::Deadline,
            RunError::Failed(error) => {
                ExecuteError::Failed(format!("the model failed: {}", graph::reason(&error)))
            }
        })?;
        respond(&self.graph.signature, requested, values, self.max_output_bytes)
    }
}

/// The outputs that were asked for, out of all that an engine gave, checked.
fn respond(
    signature: &Signature,
    requested: &[String],
    values: TVec<TValue>,
    max_output_bytes: usize,
) -> Result<InferResponse, ExecuteError> {
    let mut response = InferResponse::default();
    let mut bytes = 0usize;
    for (spec, value) in signature.outputs.iter().zip(values) {
        if !requested.is_empty() && !requested.contains(&spec.name) {
            continue;
        }
        let output = convert::from_native(&spec.name, value)?;
        bytes = bytes.saturating_add(output.bytes.len());
        if bytes > max_output_bytes {
            return Err(too_much(max_output_bytes));
        }
        response.outputs.push(output);
    }
    check_outputs(signature, requested, response)
}

fn too_much(max_output_bytes: usize) -> ExecuteError {
    ExecuteError::Output(format!("its outputs have more than the {max_output_bytes} bytes that are allowed"))
}

/// The inputs of a request with their shapes, for a message.
fn named(signature: &Signature, shapes: &Shapes) -> String {
    let one = |(spec, shape): (&TensorSpec, &Vec<usize>)| {
        let dims = shape.iter().map(|dim| i64::try_from(*dim).unwrap_or(i64::MAX)).collect();
        format!("'{}' {}", spec.name, Shape(dims))
    };
    format!("inputs {}", signature.inputs.iter().zip(shapes).map(one).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests;
