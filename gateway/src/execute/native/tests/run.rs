//! What a loaded model answers, and how a run ends that has no answer.

use std::{sync::mpsc, thread, time::Instant};

use super::{
    onnx::{self, Graph, binary, node, unary, value},
    *,
};
use crate::{deadline::Deadline, execute::native::pool::Pool};

#[test]
fn one_model_runs_at_any_batch() {
    let weights: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let model = load(&Graph {
        nodes: vec![node("MatMul", &["x", "w"], &["y"], &[])],
        inputs: vec![value("x", onnx::FLOAT, &["N", "2"])],
        outputs: vec![value("y", onnx::FLOAT, &["N", "2"])],
        initializers: vec![onnx::tensor("w", onnx::FLOAT, &[2, 2], &weights)],
    });
    for batch in [1, 7] {
        let y = output(
            &model,
            vec![fp32("x", &[batch, 2], &[1.0, 1.0].repeat(batch.try_into().expect("small")))],
        );
        assert_eq!(y.shape, [batch, 2]);
        assert!(floats(&y).chunks(2).all(|row| row == [4.0, 6.0]));
    }
}

#[test]
fn an_empty_batch_gives_an_empty_answer() {
    let product = Graph {
        inputs: vec![value("x", onnx::FLOAT, &["N", "4"])],
        initializers: vec![onnx::tensor("b", onnx::FLOAT, &[4, 4], &[0; 64])],
        nodes: vec![node("MatMul", &["x", "b"], &["y"], &[])],
        ..binary("MatMul", onnx::FLOAT, &["N", "4"])
    };
    for graph in
        [unary("Identity", onnx::FLOAT, &["N", "4"]), unary("Softmax", onnx::FLOAT, &["N", "4"]), product]
    {
        let y = output(&load(&graph), vec![fp32("x", &[0, 4], &[])]);
        assert_eq!((y.shape.as_slice(), y.bytes.len()), ([0, 4].as_slice(), 0));
    }
}

#[test]
fn every_datatype_passes_through_bit_for_bit() {
    use Datatype::*;
    let all = [
        (onnx::BOOL, Bool, vec![0u8, 1, 1]),
        (onnx::UINT8, Uint8, vec![0, 128, 255]),
        (onnx::INT8, Int8, vec![0, 128, 255]),
        (onnx::UINT16, Uint16, vec![1, 2, 3, 4, 255, 255]),
        (onnx::INT16, Int16, vec![1, 2, 3, 4, 255, 255]),
        (onnx::FLOAT16, Fp16, vec![0, 0x3c, 0, 0x7e, 1, 0]),
        (onnx::UINT32, Uint32, vec![0xfe; 12]),
        (onnx::INT32, Int32, vec![0xfe; 12]),
        (onnx::FLOAT, Fp32, [f32::NAN, -0.0, f32::INFINITY].iter().flat_map(|v| v.to_le_bytes()).collect()),
        (onnx::UINT64, Uint64, vec![0xff; 24]),
        (onnx::INT64, Int64, vec![0xfe; 24]),
        (onnx::DOUBLE, Fp64, vec![0x42; 24]),
        (onnx::STRING, Bytes, b"\x02\0\0\0hi\0\0\0\0\x03\0\0\0\xe2\x82\xac".to_vec()),
    ];
    for (elem_type, datatype, bytes) in all {
        let model = load(&unary("Identity", elem_type, &["N"]));
        let y = output(&model, vec![tensor("x", datatype, &[3], bytes.clone())]);
        assert_eq!((y.datatype, y.shape.as_slice(), &y.bytes[..]), (datatype, [3].as_slice(), &bytes[..]));
    }
}

#[test]
fn scalars_have_no_dimensions() {
    let model = load(&unary("Neg", onnx::FLOAT, &[]));
    let y = output(&model, vec![fp32("x", &[], &[2.5])]);
    assert_eq!((y.shape.len(), floats(&y)), (0, vec![-2.5]));
}

#[test]
fn inputs_need_not_be_aligned() {
    let model = load(&unary("Neg", onnx::DOUBLE, &["1"]));
    let mut x = tensor("x", Datatype::Fp64, &[1], [vec![0], 2.0f64.to_le_bytes().to_vec()].concat());
    x.bytes = x.bytes.slice(1..);
    assert_eq!(&output(&model, vec![x]).bytes[..], &(-2.0f64).to_le_bytes());
}

#[test]
fn inputs_come_in_any_order_and_outputs_as_asked() {
    let mut graph = binary("Sub", onnx::FLOAT, &["1"]);
    graph.nodes.push(node("Neg", &["y"], &["z"], &[]));
    graph.outputs.push(value("z", onnx::FLOAT, &["1"]));
    let model = load(&graph);
    let inputs = vec![fp32("b", &[1], &[1.0]), fp32("a", &[1], &[3.0])];
    let request = InferRequest { inputs, outputs: vec!["z".into()], ..Default::default() };
    let response = runtime().block_on(model.infer(request, call(Duration::from_secs(60)))).expect("runs");
    assert_eq!(response.outputs.len(), 1);
    assert_eq!((response.outputs[0].name.as_str(), floats(&response.outputs[0])), ("z", vec![-2.0]));
}

#[test]
fn shapes_in_the_graph_leave_as_int64() {
    let mut graph = unary("Shape", onnx::FLOAT, &["N", "3"]);
    graph.outputs = vec![value("y", onnx::INT64, &["2"])];
    let y = output(&load(&graph), vec![fp32("x", &[2, 3], &[0.0; 6])]);
    assert_eq!(y, int64("y", &[2], &[2, 3]));
}

#[test]
fn shapes_that_do_not_go_together_are_the_callers_mistake() {
    let mut graph = binary("Add", onnx::FLOAT, &["N"]);
    graph.inputs[1] = value("b", onnx::FLOAT, &["M"]);
    let model = load(&graph);
    for _ in 0..2 {
        let error =
            run(&model, vec![fp32("a", &[2], &[0.0; 2]), fp32("b", &[3], &[0.0; 3])]).expect_err("fails");
        let text = error.to_string();
        assert!(matches!(error, ExecuteError::InvalidInput(_)), "{error:?}");
        assert!(text.starts_with("the model cannot run inputs 'a' [2], 'b' [3]: "), "{text}");
    }
    run(&model, vec![fp32("a", &[2], &[0.0; 2]), fp32("b", &[2], &[0.0; 2])])
        .expect("the next call succeeds");
}

#[test]
fn inputs_that_contradict_themselves_are_refused_by_name() {
    let refused = |graph: &Graph, input| match run(&load(graph), vec![input]) {
        Err(ExecuteError::InvalidInput(text)) => text,
        other => panic!("{other:?}"),
    };
    let floats = unary("Neg", onnx::FLOAT, &["N"]);
    let short = tensor("x", Datatype::Fp32, &[2], vec![0; 7]);
    assert!(refused(&floats, short).contains("input 'x': shape [2] of FP32 takes 8 bytes, got 7"));
    assert!(refused(&floats, fp32("z", &[1], &[0.0])).contains("input 'x' is missing"));
    let bool = tensor("x", Datatype::Bool, &[1], vec![2]);
    assert!(refused(&unary("Not", onnx::BOOL, &["N"]), bool).contains("BOOL element 0 is 2"));
    let bytes = tensor("x", Datatype::Bytes, &[1], b"\x01\0\0\0\xff".to_vec());
    assert!(refused(&unary("Identity", onnx::STRING, &["N"]), bytes).contains("element 0 is not UTF-8"));
}

fn gather() -> Graph {
    Graph {
        nodes: vec![node("Gather", &["x", "i"], &["y"], &[])],
        inputs: vec![value("x", onnx::FLOAT, &["3"]), value("i", onnx::INT64, &["1"])],
        outputs: vec![value("y", onnx::FLOAT, &["1"])],
        initializers: vec![],
    }
}

#[test]
fn a_panic_of_the_engine_costs_its_request_and_no_other() {
    let model = load(&gather());
    let at = |index| vec![fp32("x", &[3], &[1.0, 2.0, 3.0]), int64("i", &[1], &[index])];
    for _ in 0..5 {
        match run(&model, at(1_000_000)) {
            Err(ExecuteError::Trapped { reason, detail }) => {
                assert_eq!(reason, "the native engine failed while it ran the model");
                assert!(detail.contains("1000000"), "{detail}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(floats(&output(&model, at(2))), [3.0]);
    }
}

#[test]
fn integer_division_by_zero_is_a_failure_of_the_model() {
    let model = load(&binary("Div", onnx::INT64, &["1"]));
    let divided = |by| run(&model, vec![int64("a", &[1], &[6]), int64("b", &[1], &[by])]);
    assert!(matches!(divided(0), Err(ExecuteError::Trapped { .. })));
    assert_eq!(divided(2).expect("runs").outputs, [int64("y", &[1], &[3])]);
}

#[test]
fn outputs_over_the_limit_are_not_sent() {
    let artifact = unary("Neg", onnx::FLOAT, &["N"]).file();
    let limits = NativeLimits { output_bytes: 8, ..limits() };
    let model = load_with(limits, Source { artifact, ..Default::default() }).expect("loads");
    run(&model, vec![fp32("x", &[2], &[0.0; 2])]).expect("fits");
    let error = run(&model, vec![fp32("x", &[3], &[0.0; 3])]).expect_err("does not fit");
    assert!(matches!(&error, ExecuteError::Output(_)) && error.to_string().contains("8 bytes"), "{error}");
}

#[test]
fn a_deadline_in_the_past_starts_nothing() {
    let model = load(&unary("Neg", onnx::FLOAT, &["N"]));
    let request = InferRequest { inputs: vec![fp32("x", &[1], &[0.0])], ..Default::default() };
    let error = runtime().block_on(model.infer(request, call(Duration::ZERO))).expect_err("too late");
    assert!(matches!(error, ExecuteError::Deadline), "{error:?}");
}

/// A hundred multiplications of large matrices one after another: seconds of work, in nodes of milliseconds.
fn long_chain() -> Graph {
    let name = |index: usize| if index == 0 { "x".to_owned() } else { format!("y{index}") };
    Graph {
        nodes: (0..100).map(|index| node("MatMul", &[&name(index), "w"], &[&name(index + 1)], &[])).collect(),
        inputs: vec![value("x", onnx::FLOAT, &["512", "512"]), value("w", onnx::FLOAT, &["512", "512"])],
        outputs: vec![value("y100", onnx::FLOAT, &["512", "512"])],
        initializers: vec![],
    }
}

#[test]
fn a_run_ends_at_its_deadline_and_gives_its_thread_back() {
    let limits = NativeLimits { threads: 1, max_queued: 0, ..limits() };
    let model =
        load_with(limits, Source { artifact: long_chain().file(), ..Default::default() }).expect("loads");
    let inputs =
        || vec![fp32("x", &[512, 512], &[0.5; 512 * 512]), fp32("w", &[512, 512], &[0.5; 512 * 512])];
    let runtime = runtime();
    let infer = |deadline| {
        let request = InferRequest { inputs: inputs(), ..Default::default() };
        runtime.block_on(model.infer(request, call(deadline)))
    };
    let start = Instant::now();
    infer(Duration::from_secs(60)).expect("runs");
    let whole = start.elapsed();
    assert!(matches!(infer(whole / 20), Err(ExecuteError::Deadline)));
    // The thread is free again long before the run would have ended by itself.
    thread::sleep(whole / 4);
    assert!(matches!(infer(whole / 20), Err(ExecuteError::Deadline)));
}

#[test]
fn a_run_is_billed_for_its_thread_s_time_also_when_it_is_stopped() {
    let limits = NativeLimits { threads: 1, ..limits() };
    let model =
        load_with(limits, Source { artifact: long_chain().file(), ..Default::default() }).expect("loads");
    let infer = |deadline| {
        let inputs =
            vec![fp32("x", &[512, 512], &[0.5; 512 * 512]), fp32("w", &[512, 512], &[0.5; 512 * 512])];
        let call = call(deadline);
        let consumed = Arc::clone(&call.consumed);
        let request = InferRequest { inputs, ..Default::default() };
        let started = Instant::now();
        let answer = runtime().block_on(model.infer(request, call));
        // Work that was given up goes on until it looks at its watch.
        while Arc::strong_count(&consumed) > 1 {
            thread::sleep(Duration::from_millis(1));
        }
        (answer.is_ok(), consumed.cpu_nanos(), started.elapsed())
    };
    let (answered, whole, took) = infer(Duration::from_secs(60));
    assert!(answered && whole > 1_000_000 && u128::from(whole) <= took.as_nanos(), "{whole} ns in {took:?}");
    let (answered, part, _) = infer(took / 20);
    assert!(!answered && (1..whole).contains(&part), "{part} of {whole} ns");
}

#[test]
fn a_full_queue_is_busy_and_abandoned_runs_do_not_start() {
    let pool = Pool::new(&NativeLimits { threads: 1, max_queued: 1, ..limits() }).expect("threads start");
    let deadline = Deadline::after(Duration::from_secs(60));
    let (release, released) = mpsc::channel::<()>();
    let (started, starts) = mpsc::channel::<&str>();
    runtime().block_on(async {
        let first_started = started.clone();
        let mut first = Box::pin(pool.run(deadline, move |_| {
            first_started.send("first").expect("the test waits");
            released.recv().expect("the test releases it");
            Ok(())
        }));
        let mut second = Box::pin(pool.run(deadline, move |_| {
            started.send("second").expect("the test listens");
            Ok(())
        }));
        assert!(poll_once(&mut first).is_none());
        assert_eq!(starts.recv(), Ok("first"));
        assert!(poll_once(&mut second).is_none());
        assert!(matches!(pool.run(deadline, |_| Ok(())).await, Err(ExecuteError::Busy)));
        drop(second);
        release.send(()).expect("the first run waits");
        first.await.expect("the first run ends well");
        pool.run(deadline, |_| Ok(())).await.expect("there is room again");
    });
    assert!(starts.recv().is_err(), "the abandoned run never started");
}

/// Polls once: `None` while there is no result.
fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(future).poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn runs_at_the_same_time_do_not_mix() {
    let model = load(&unary("Neg", onnx::FLOAT, &["N"]));
    thread::scope(|scope| {
        for worker in 0..4u16 {
            let model = &model;
            scope.spawn(move || {
                for size in 1..20u16 {
                    let values = vec![f32::from(worker); usize::from(size)];
                    let y = output(model, vec![fp32("x", &[u64::from(size)], &values)]);
                    assert_eq!(floats(&y), vec![-f32::from(worker); usize::from(size)]);
                }
            });
        }
    });
}
