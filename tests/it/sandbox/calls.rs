//! What good guests can rely on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use airlock::{
    deadline::Deadline,
    execute::{
        BoxFuture, Call, ExecuteError, Executor, Models, NestedError,
        wasm::{Memories, Sandbox},
    },
    limits::{MAX_CALL_DEPTH, SandboxLimits},
    tensor::{InferRequest, Tensor},
};
use airlock_tests::{
    gateway::workers,
    guest::{self, hostile},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{PATIENCE, call, fp32, good_call, infer, limits, load, load_into, source, values};

#[tokio::test]
async fn a_component_and_a_core_module_both_load() {
    let artifacts = [guest::module(guest::ECHO), guest::component(guest::ECHO)];
    for artifact in artifacts {
        let artifact = artifact.expect("the fixture assembles");
        let model = load_into(super::sandbox(), source(artifact)).await.expect("it loads");
        assert_eq!(model.platform(), "wasm_component");
        let signature = model.signature();
        assert_eq!(
            (signature.inputs[0].name.as_str(), signature.outputs[0].name.as_str()),
            ("INPUT0", "OUTPUT0")
        );
        assert_eq!(signature.outputs[0].shape.to_string(), "[-1]");
        let response = infer(&model, &[f32::NAN, 0.5], PATIENCE).await.expect("it answers");
        assert_eq!(response.outputs[0].shape, [2]);
        assert!(values(&response)[0].is_nan());
    }
}

#[tokio::test]
async fn every_request_starts_from_the_same_state() {
    let model = load(guest::COUNTER).await;
    for _ in 0..50 {
        let response = infer(&model, &[0.0], PATIENCE).await.expect("it answers");
        assert_eq!(values(&response), [1.0], "memory of an earlier request was seen");
    }
}

#[tokio::test]
async fn requests_start_from_what_load_left_behind() {
    let weights: Vec<f32> = (0..1000u16).map(|i| f32::from(i) * 0.5).collect();
    let mut source = source(guest::module(guest::LOADED).expect("the fixture assembles"));
    source.files = vec![("weights.bin".into(), fp32(&weights).bytes.to_vec())];
    let model = load_into(super::sandbox(), source).await.expect("it loads");
    for _ in 0..2 {
        let response = infer(&model, &[0.0], PATIENCE).await.expect("it answers");
        assert_eq!(values(&response), weights);
    }
}

#[tokio::test]
async fn files_beside_the_model_are_bounded() {
    let sandbox =
        Sandbox::new(SandboxLimits { max_file_bytes: 1000, max_instances: 4, ..limits() }, workers(), None)
            .expect("it starts");
    let mut source = source(guest::module(guest::ECHO).expect("the fixture assembles"));
    source.files = vec![("a".into(), vec![0; 600]), ("b".into(), vec![0; 600])];
    let error = load_into(&sandbox, source).await.expect_err("too many bytes");
    assert!(error.to_string().contains("1200 bytes, at most 1000"), "{error}");
}

#[tokio::test]
async fn a_hundred_good_requests_around_hostile_ones_all_succeed() {
    let good = load(guest::ECHO).await;
    let mut hostile_ones = JoinSet::new();
    for fixture in [
        hostile::LOOP_IN_INFER,
        hostile::GROW_MEMORY,
        hostile::STACK_OVERFLOW,
        hostile::UNREACHABLE,
        hostile::SHAPE_AGAINST_BYTES,
        hostile::FILL_MEMORY,
    ] {
        let model = load(fixture).await;
        hostile_ones.spawn(async move {
            for _ in 0..3 {
                infer(&model, &[1.0], Duration::from_millis(200)).await.expect_err("it is hostile");
            }
        });
    }
    for i in 0..100u16 {
        let response = infer(&good, &[f32::from(i)], PATIENCE).await.expect("a good request succeeds");
        assert_eq!(values(&response), [f32::from(i)]);
    }
    hostile_ones.join_all().await;
}

/// Runs a guest until it answers, or the caller has lost patience: its CPU time in nanoseconds and its memory in bytes.
async fn consumed(fixture: &str, deadline: Duration, patience: Duration) -> (u64, u64) {
    let model = load(fixture).await;
    let call = call(deadline);
    let consumed = call.consumed.clone();
    let request = InferRequest { inputs: vec![fp32(&[1.0])], ..InferRequest::default() };
    let _ = timeout(patience, model.infer(request, call)).await;
    // A guest whose caller has gone ends at its next turn.
    while Arc::strong_count(&consumed) > 1 {
        sleep(Duration::from_millis(1)).await;
    }
    (consumed.cpu_nanos(), consumed.peak_memory_bytes())
}

#[tokio::test]
async fn what_a_call_takes_is_counted_however_it_ends() {
    const OWN_MEMORY: u64 = 2 << 16;
    let soon = Duration::from_millis(100);
    for fixture in [guest::ECHO, hostile::INVALID_INPUT, hostile::UNREACHABLE, hostile::OUT_OF_BOUNDS] {
        let (nanos, bytes) = consumed(fixture, PATIENCE, PATIENCE).await;
        assert!(nanos > 1000 && bytes == OWN_MEMORY, "{nanos} ns, {bytes} bytes: {fixture}");
    }
    for (deadline, patience) in [(soon, PATIENCE), (PATIENCE, soon)] {
        let (nanos, bytes) = consumed(hostile::LOOP_IN_INFER, deadline, patience).await;
        // On a busy machine it gets less than a whole thread.
        let allowed = 5_000_000..=200_000_000;
        assert!(allowed.contains(&nanos) && bytes == OWN_MEMORY, "{nanos} ns, {bytes} bytes");
    }
    let (_, bytes) = consumed(hostile::GROW_MEMORY, PATIENCE, PATIENCE).await;
    let limit = limits().memory_bytes as u64;
    assert!((limit - (1 << 20)..=limit).contains(&bytes), "{bytes} bytes");
}

fn one_slot() -> Arc<Sandbox> {
    Sandbox::new(SandboxLimits { max_instances: 1, ..limits() }, workers(), None).expect("the sandbox starts")
}

/// Tries until the only slot is free again.
async fn slot_is_free(model: &Arc<dyn Executor>) -> Duration {
    let started = Instant::now();
    loop {
        match infer(model, &[1.0], PATIENCE).await {
            Ok(_) => return started.elapsed(),
            Err(ExecuteError::Busy) => sleep(Duration::from_millis(1)).await,
            Err(other) => panic!("{other}"),
        }
        assert!(started.elapsed() < PATIENCE, "the guest still runs");
    }
}

#[tokio::test]
async fn a_guest_stops_when_its_caller_goes() {
    let sandbox = one_slot();
    let endless = source(guest::module(hostile::LOOP_IN_INFER).expect("the fixture assembles"));
    let endless = load_into(&sandbox, endless).await.expect("it loads");
    let good = source(guest::module(guest::ECHO).expect("the fixture assembles"));
    let good = load_into(&sandbox, good).await.expect("it loads");

    let gone = timeout(Duration::from_millis(50), infer(&endless, &[1.0], Duration::from_secs(3600))).await;
    assert!(gone.is_err(), "the guest never ends");
    let took = slot_is_free(&good).await;
    assert!(took < Duration::from_secs(2), "the guest ran on for {took:?}");
}

#[tokio::test]
async fn no_free_instance_is_busy_and_a_stopped_guest_frees_its_own() {
    let sandbox = one_slot();
    let endless = source(guest::module(hostile::LOOP_IN_INFER).expect("the fixture assembles"));
    let endless = load_into(&sandbox, endless).await.expect("it loads");
    let good = source(guest::module(guest::ECHO).expect("the fixture assembles"));
    let good = load_into(&sandbox, good).await.expect("it loads");

    let running = tokio::spawn(async move { infer(&endless, &[1.0], Duration::from_millis(300)).await });
    sleep(Duration::from_millis(50)).await;
    let error = infer(&good, &[1.0], PATIENCE).await.expect_err("the only slot is taken");
    assert!(matches!(error, ExecuteError::Busy), "{error:?}");
    let error = running.await.expect("no panic").expect_err("it never ends");
    assert!(matches!(error, ExecuteError::Deadline), "{error:?}");
    slot_is_free(&good).await;
}

#[tokio::test]
async fn a_deadline_that_has_passed_runs_nothing() {
    let model = load(guest::ECHO).await;
    let error = infer(&model, &[1.0], Duration::ZERO).await.expect_err("it is too late");
    assert!(matches!(error, ExecuteError::Deadline), "{error:?}");
    good_call().await;
}

#[tokio::test]
async fn many_guests_that_never_end_are_all_stopped_in_time() {
    let model = load(hostile::LOOP_IN_INFER).await;
    let deadline = Duration::from_millis(300);
    let mut guests = JoinSet::new();
    for _ in 0..64 {
        let model = model.clone();
        guests.spawn(async move {
            let started = Instant::now();
            infer(&model, &[1.0], deadline).await.expect_err("it never ends");
            started.elapsed()
        });
    }
    let mut times = guests.join_all().await;
    times.sort();
    let median = times[times.len() / 2];
    assert!(median <= deadline + Duration::from_millis(50), "half of them took longer than {median:?}");
    good_call().await;
}

/// Answers the name `next`: with `pipeline` down to a given depth, below that with `last`.
struct Chain {
    pipeline: Arc<dyn Executor>,
    last: Arc<dyn Executor>,
    depth: u32,
}

struct Linked(Arc<Chain>);

impl Models for Linked {
    fn infer<'a>(
        &'a self,
        model: &'a str,
        _: Option<&'a str>,
        inputs: Vec<Tensor>,
        caller: &'a Call,
    ) -> BoxFuture<'a, Result<Vec<Tensor>, NestedError>> {
        assert_eq!(model, "next");
        let call = Call { depth: caller.depth + 1, ..caller.clone() };
        let next = if call.depth < self.0.depth { &self.0.pipeline } else { &self.0.last };
        Box::pin(async move {
            let answer = next.infer(InferRequest { inputs, ..InferRequest::default() }, call).await;
            answer.map(|response| response.outputs).map_err(|error| match error {
                ExecuteError::InvalidInput(text) => NestedError::InvalidInput(text),
                other => NestedError::Failed(other.to_string()),
            })
        })
    }
}

async fn chain(last: &str, depth: u32) -> Arc<Chain> {
    Arc::new(Chain { pipeline: load(guest::PIPELINE).await, last: load(last).await, depth })
}

async fn infer_chain(chain: &Arc<Chain>, value: f32, time: Duration) -> Result<Vec<f32>, ExecuteError> {
    let call = Call {
        deadline: Deadline::after(time).into(),
        depth: 0,
        consumed: Arc::default(),
        share: Arc::default(),
        log: Arc::default(),
        models: Arc::new(Linked(chain.clone())),
        responses: None,
    };
    let request = InferRequest { inputs: vec![fp32(&[value])], ..InferRequest::default() };
    chain.pipeline.infer(request, call).await.map(|response| values(&response))
}

#[tokio::test]
async fn pipelines_of_full_depth_do_not_deadlock() {
    let chain = chain(guest::ECHO, MAX_CALL_DEPTH).await;
    let mut pipelines = JoinSet::new();
    for i in 0..32u16 {
        let chain = chain.clone();
        pipelines.spawn(async move {
            let answer = infer_chain(&chain, f32::from(i), PATIENCE).await.expect("the pipeline answers");
            assert_eq!(answer, [f32::from(i)]);
        });
    }
    pipelines.join_all().await;
}

#[tokio::test]
async fn a_pipeline_may_not_nest_without_end() {
    let chain = chain(guest::ECHO, u32::MAX).await;
    let error = infer_chain(&chain, 1.0, PATIENCE).await.expect_err("it calls itself");
    let ExecuteError::Failed(text) = error else { panic!("{error:?}") };
    assert_eq!(text, "models may call each other at most 4 deep");
}

#[tokio::test]
async fn a_nested_error_reaches_the_caller_of_the_pipeline() {
    let chain = chain(hostile::INVALID_INPUT, 2).await;
    let error = infer_chain(&chain, 1.0, PATIENCE).await.expect_err("the last one refuses");
    let ExecuteError::InvalidInput(text) = error else { panic!("{error:?}") };
    assert_eq!(text, "INPUT0: too few elements");
}

#[tokio::test]
async fn a_nested_guest_that_never_ends_costs_the_whole_pipeline_its_deadline() {
    let chain = chain(hostile::LOOP_IN_INFER, 2).await;
    let error = infer_chain(&chain, 1.0, Duration::from_millis(200)).await.expect_err("it never ends");
    assert!(matches!(error, ExecuteError::Deadline), "{error:?}");
    good_call().await;
}

#[tokio::test]
async fn an_unknown_model_is_told_to_the_guest() {
    let model = load(guest::PIPELINE).await;
    let request = InferRequest { inputs: vec![fp32(&[1.0])], ..InferRequest::default() };
    let error = model.infer(request, call(PATIENCE)).await.expect_err("there is no such model");
    let ExecuteError::InvalidInput(text) = error else { panic!("{error:?}") };
    assert_eq!(text, "no model 'next'");
}

/// Grows its memory, counts the bytes there that are not zero, answers the count, and leaves its own bytes everywhere.
const RESIDUE: &str = r#"
;; replaces: infer
(data (i32.const 1024) "\01\00\00\00\00\00\00\00")
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (local $at i32) (local $found i32)
  (drop (memory.grow (i32.const 30)))
  (local.set $at (i32.const 65536))
  (loop $more
    (local.set $found (i32.add (local.get $found) (i64.ne (i64.load (local.get $at)) (i64.const 0))))
    (i64.store (local.get $at) (i64.const 0xa5a5a5a5a5a5a5a5))
    (local.set $at (i32.add (local.get $at) (i32.const 8)))
    (br_if $more (i32.lt_u (local.get $at) (i32.const 0x200000))))
  (f32.store (i32.const 1048) (f32.convert_i32_u (local.get $found)))
  (drop (call $echo (local.get $input)))
  (i32.store (i32.const 524) (i32.const 1024))
  (i32.store (i32.const 540) (i32.const 1048))
  (i32.store (i32.const 544) (i32.const 4))
  (call $ok (i32.const 512) (i32.const 1)))
"#;

#[tokio::test]
async fn no_bytes_of_one_request_are_seen_by_another() {
    let module = guest::module(RESIDUE).expect("the fixture assembles");
    for sandbox in [super::sandbox(), &without_a_pool()] {
        let models = [
            load_into(sandbox, source(module.clone())).await.expect("it loads"),
            load_into(sandbox, source(module.clone())).await.expect("it loads"),
        ];
        for i in 0..100 {
            let response = infer(&models[i % 2], &[0.0], PATIENCE).await.expect("it answers");
            assert_eq!(values(&response), [0.0], "words of another request, in round {i}");
        }
    }
}

/// More slots than there is address space.
fn without_a_pool() -> Arc<Sandbox> {
    let sandbox = Sandbox::new(SandboxLimits { max_instances: 200_000, ..limits() }, workers(), None)
        .expect("the sandbox starts");
    assert_eq!(sandbox.memories(), Memories::OnDemand);
    sandbox
}

#[tokio::test]
async fn without_address_space_for_a_pool_the_same_holds() {
    let sandbox = without_a_pool();
    let module = |fixture| source(guest::module(fixture).expect("the fixture assembles"));
    let good = load_into(&sandbox, module(guest::ECHO)).await.expect("it loads");
    let endless = load_into(&sandbox, module(hostile::LOOP_IN_INFER)).await.expect("it loads");
    let greedy = load_into(&sandbox, module(hostile::GROW_MEMORY)).await.expect("it loads");
    let error = infer(&endless, &[1.0], Duration::from_millis(100)).await.expect_err("it never ends");
    assert!(matches!(error, ExecuteError::Deadline), "{error:?}");
    let error = infer(&greedy, &[1.0], PATIENCE).await.expect_err("it takes too much");
    assert!(matches!(error, ExecuteError::Memory { .. }), "{error:?}");
    let response = infer(&good, &[3.0], PATIENCE).await.expect("it answers");
    assert_eq!(values(&response), [3.0]);
}
