//! What a new instance and a trivial call cost, without a server: calls of one plugin, one after the other, through the same
//! executor that serves. Prints one line of JSON.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use airlock::{
    consumption::Consumption,
    deadline::Deadline,
    execute::{
        BoxFuture, Call, Executor, Models, NestedError, Source,
        wasm::{Memories, Sandbox},
        worker::Workers,
    },
    limits::{SandboxLimits, WorkerLimits},
    tensor::{InferRequest, Tensor, element_count},
};
use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::json;

/// Calls before those that are measured.
const WARM_UP: usize = 1000;

#[derive(Debug, Parser)]
#[command(about = "Measure new instances of a plugin")]
struct Cli {
    /// The plugin: a component, or a core module that carries its component type.
    #[arg(long)]
    plugin: PathBuf,
    /// The gateway's program, which compiles it.
    #[arg(long)]
    worker: PathBuf,
    /// Bytes of a file `table.bin` beside the plugin.
    #[arg(long)]
    weights: Option<usize>,
    /// Calls to measure.
    #[arg(long, default_value_t = 20_000)]
    calls: usize,
}

/// No other models.
struct Alone;

impl Models for Alone {
    fn infer<'a>(
        &'a self,
        model: &'a str,
        _: Option<&'a str>,
        _: Vec<Tensor>,
        _: &'a Call,
    ) -> BoxFuture<'a, Result<Vec<Tensor>, NestedError>> {
        Box::pin(async move { Err(NestedError::InvalidInput(format!("no model '{model}'"))) })
    }
}

/// Zeros that fit the plugin's signature, one element in each dimension that is open.
fn request(executor: &dyn Executor) -> Result<InferRequest> {
    let mut inputs = Vec::new();
    for spec in &executor.signature().inputs {
        let shape: Vec<u64> = spec.shape.0.iter().map(|dim| u64::try_from(*dim).unwrap_or(1)).collect();
        let elements = element_count(&shape).context("the shape overflows")?;
        let size = spec.datatype.element_size().context("its elements have no fixed size")?;
        inputs.push(Tensor {
            name: spec.name.clone(),
            datatype: spec.datatype,
            shape,
            parameters: vec![],
            bytes: vec![0; size * usize::try_from(elements)?].into(),
        });
    }
    Ok(InferRequest { inputs, ..InferRequest::default() })
}

/// One call: how long it took, and the processor time of the guest's run.
async fn call(executor: &dyn Executor, request: &InferRequest, models: &Arc<Alone>) -> Result<(u64, u64)> {
    let request = request.clone();
    let consumed = Arc::new(Consumption::default());
    let call = Call {
        deadline: Deadline::after(Duration::from_secs(10)).into(),
        depth: 0,
        consumed: Arc::clone(&consumed),
        share: Arc::default(),
        log: Arc::default(),
        models: models.clone(),
        responses: None,
    };
    let started = Instant::now();
    let answer = executor.infer(request, call).await;
    let nanos = u64::try_from(started.elapsed().as_nanos())?;
    ensure!(answer?.outputs.len() == 1, "not one output");
    Ok((nanos, consumed.cpu_nanos()))
}

fn percentile(sorted: &[u64], of_hundred: usize) -> Option<f64> {
    let nanos = sorted.get((sorted.len() * of_hundred / 100).min(sorted.len().saturating_sub(1)))?;
    Some(Duration::from_nanos(*nanos).as_secs_f64() * 1e6)
}

/// As in the gateway, there is a second thread for the sockets: so calls begin on the first one.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    tokio::spawn(measure(cli)).await?
}

async fn measure(cli: Cli) -> Result<()> {
    let artifact = fs::read(&cli.plugin).with_context(|| cli.plugin.display().to_string())?;
    // Not zeros, which need no memory.
    let table = cli.weights.map(|bytes| ("table.bin".to_owned(), vec![0x3f; bytes]));
    let files = table.into_iter().collect();
    let source = Source { label: "plugin/1".into(), artifact, files, ..Source::default() };
    let workers = Workers::new(WorkerLimits::default(), Some(cli.worker), None)?;
    let sandbox = Sandbox::new(SandboxLimits::default(), workers, None)?;
    ensure!(sandbox.memories() == Memories::Pooled, "too little address space for the instance pool");
    let executor = sandbox.load(source)?;
    let request = request(&*executor)?;
    let models = Arc::new(Alone);
    for _ in 0..WARM_UP.min(cli.calls) {
        call(&*executor, &request, &models).await?;
    }
    let (mut whole, mut guest) = (Vec::with_capacity(cli.calls), Vec::with_capacity(cli.calls));
    for _ in 0..cli.calls {
        let (nanos, of_guest) = call(&*executor, &request, &models).await?;
        whole.push(nanos);
        guest.push(of_guest);
    }
    whole.sort_unstable();
    guest.sort_unstable();
    println!(
        "{}",
        json!({
            "calls": cli.calls,
            "p50_us": percentile(&whole, 50),
            "p99_us": percentile(&whole, 99),
            "guest_p50_us": percentile(&guest, 50),
            "guest_p99_us": percentile(&guest, 99),
        })
    );
    Ok(())
}
