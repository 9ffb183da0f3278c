//! The wasm sandbox, driven directly: good guests, hostile ones, and good ones around hostile ones.

mod calls;
mod hostile;
mod kernels;
mod profile;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use airlock::{
    deadline::Deadline,
    execute::{
        BoxFuture, Call, ExecuteError, Executor, LoadError, Models, NestedError, Source,
        wasm::{Memories, Sandbox},
    },
    limits::SandboxLimits,
    tensor::{Datatype, InferRequest, InferResponse, Tensor},
};
use airlock_tests::{gateway::workers, guest};
use tokio::task::spawn_blocking;

/// Long enough for any guest that ends by itself, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(20);

fn limits() -> SandboxLimits {
    SandboxLimits {
        memory_bytes: 64 << 20,
        output_bytes: 1 << 20,
        max_instances: 256,
        load_deadline: Duration::from_millis(500),
        threads: 2,
        ..SandboxLimits::default()
    }
}

fn sandbox() -> &'static Arc<Sandbox> {
    static SANDBOX: OnceLock<Arc<Sandbox>> = OnceLock::new();
    SANDBOX.get_or_init(|| {
        let sandbox = Sandbox::new(limits(), workers(), None).expect("the sandbox starts");
        // `AIRLOCK_TEST_ON_DEMAND`: run under a limit of address space (`ulimit -v`), to try the other mode.
        let limited = std::env::var_os("AIRLOCK_TEST_ON_DEMAND").is_some();
        let expected = if limited { Memories::OnDemand } else { Memories::Pooled };
        assert_eq!(sandbox.memories(), expected, "these tests take 1 TiB of address space");
        sandbox
    })
}

fn source(artifact: Vec<u8>) -> Source {
    Source { label: "test/1".into(), artifact, ..Source::default() }
}

async fn load_into(sandbox: &Arc<Sandbox>, source: Source) -> Result<Arc<dyn Executor>, LoadError> {
    let sandbox = sandbox.clone();
    spawn_blocking(move || sandbox.load(source)).await.expect("loading does not panic")
}

async fn load(fixture: &str) -> Arc<dyn Executor> {
    let module = guest::module(fixture).expect("the fixture assembles");
    load_into(sandbox(), source(module)).await.expect("the fixture loads")
}

fn fp32(values: &[f32]) -> Tensor {
    Tensor {
        name: "INPUT0".into(),
        datatype: Datatype::Fp32,
        shape: vec![values.len() as u64],
        parameters: vec![],
        bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into(),
    }
}

fn values(response: &InferResponse) -> Vec<f32> {
    let bytes = response.outputs[0].bytes.chunks_exact(4);
    bytes.map(|value| f32::from_le_bytes(value.try_into().expect("four bytes"))).collect()
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

fn call(time: Duration) -> Call {
    Call {
        deadline: Deadline::after(time).into(),
        depth: 0,
        consumed: Arc::default(),
        share: Arc::default(),
        log: Arc::default(),
        models: Arc::new(Alone),
        responses: None,
    }
}

async fn infer(
    model: &Arc<dyn Executor>,
    input: &[f32],
    time: Duration,
) -> Result<InferResponse, ExecuteError> {
    let request = InferRequest { inputs: vec![fp32(input)], ..InferRequest::default() };
    model.infer(request, call(time)).await
}

/// A call that succeeds, on a good model, in the same sandbox as the hostile ones.
async fn good_call() {
    static GOOD: tokio::sync::OnceCell<Arc<dyn Executor>> = tokio::sync::OnceCell::const_new();
    let model = GOOD.get_or_init(|| load(guest::ECHO)).await;
    let response = infer(model, &[1.0, -2.5], PATIENCE).await.expect("a good call succeeds");
    assert_eq!(values(&response), [1.0, -2.5]);
}
