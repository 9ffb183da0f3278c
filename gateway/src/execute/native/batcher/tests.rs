//! What requests get that run together: what they would get alone.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::runtime::Runtime;

use super::{waiting::Waiting, *};
use crate::{
    consumption::Execution,
    execute::{
        Executor, Source,
        native::tests::{
            call,
            onnx::{self, Graph, node, value},
        },
    },
    limits::NativeLimits,
    tensor::{Datatype, Tensor},
};

fn batching(max: u64, delay: Duration) -> Batching {
    Batching { max, delay, ..Batching::default() }
}

fn load(graph: &Graph, batching: Batching) -> Arc<dyn Executor> {
    let engine = Engine::new(NativeLimits { threads: 1, ..NativeLimits::default() }).expect("threads start");
    let source = Source { artifact: graph.file(), batching: Some(batching), ..Source::default() };
    engine.load(source).expect("the graph loads")
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("it starts")
}

fn fp32(name: &str, shape: &[u64], values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor {
        name: name.into(),
        datatype: Datatype::Fp32,
        shape: shape.to_vec(),
        parameters: vec![],
        bytes: bytes.into(),
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn request(rows: u64, first: f32) -> InferRequest {
    let values: Vec<f32> = (0..2 * rows).map(|index| first + index as f32).collect();
    InferRequest { inputs: vec![fp32("x", &[rows, 2], &values)], ..InferRequest::default() }
}

/// y = 2x, a matrix product.
fn doubles() -> Graph {
    let weights: Vec<u8> = [2f32, 0.0, 0.0, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    Graph {
        nodes: vec![node("MatMul", &["x", "w"], &["y"], &[])],
        inputs: vec![value("x", onnx::FLOAT, &["N", "2"])],
        outputs: vec![value("y", onnx::FLOAT, &["N", "2"])],
        initializers: vec![onnx::tensor("w", onnx::FLOAT, &[2, 2], &weights)],
    }
}

/// Runs all requests at once; their answers in order, and how each was an execution.
fn run(model: &Arc<dyn Executor>, requests: Vec<InferRequest>) -> Vec<(Answer, Execution)> {
    let runs = requests.into_iter().map(|request| {
        let model = Arc::clone(model);
        async move {
            let call = call(Duration::from_secs(60));
            let consumed = Arc::clone(&call.consumed);
            (model.infer(request, call).await, consumed.execution())
        }
    });
    runtime().block_on(join_all(runs))
}

#[test]
fn each_request_gets_its_own_rows_whatever_it_runs_with() {
    let model = load(&doubles(), batching(8, Duration::from_millis(50)));
    let rows = [1, 3, 2, 1, 1, 4, 2, 8, 9, 1, 1];
    let requests: Vec<InferRequest> =
        rows.iter().zip(0u8..).map(|(rows, n)| request(*rows, n.into())).collect();
    let answers = run(&model, requests.clone());
    let mut executions = 0;
    for (request, (answer, execution)) in requests.iter().zip(&answers) {
        let response = answer.as_ref().expect("an answer");
        let expected: Vec<f32> = floats(&request.inputs[0]).iter().map(|value| 2.0 * value).collect();
        assert_eq!(floats(&response.outputs[0]), expected);
        assert_eq!(response.outputs[0].shape, request.inputs[0].shape);
        executions += usize::from(*execution != Execution::Shared);
    }
    assert!(executions < rows.len(), "nothing ran together");
    assert_eq!(answers[8].1, Execution::Own, "more rows than a batch has");
    let led: Vec<u64> = answers
        .iter()
        .filter_map(|(_, execution)| match execution {
            Execution::First { rows } => Some(*rows),
            _ => None,
        })
        .collect();
    assert!(!led.is_empty() && led.iter().all(|rows| (2..=8).contains(rows)), "{led:?}");
}

#[test]
fn a_batch_that_is_full_does_not_wait() {
    let model = load(&doubles(), batching(4, Duration::from_secs(10)));
    let begun = Instant::now();
    let answers = run(&model, (0..8u8).map(|n| request(1, n.into())).collect());
    assert!(answers.iter().all(|(answer, _)| answer.is_ok()));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

fn lookup() -> Graph {
    let table: Vec<u8> = [10f32, 20.0, 30.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    Graph {
        nodes: vec![node("Gather", &["table", "i"], &["y"], &[])],
        inputs: vec![value("i", onnx::INT64, &["N"])],
        outputs: vec![value("y", onnx::FLOAT, &["N"])],
        initializers: vec![onnx::tensor("table", onnx::FLOAT, &[3], &table)],
    }
}

fn at(index: i64) -> InferRequest {
    InferRequest {
        inputs: vec![Tensor {
            name: "i".into(),
            datatype: Datatype::Int64,
            shape: vec![1],
            parameters: vec![],
            bytes: Bytes::copy_from_slice(&index.to_le_bytes()),
        }],
        ..InferRequest::default()
    }
}

#[test]
fn who_spoils_a_batch_is_kept_apart_for_a_while_and_nobody_else() {
    let engine = Engine::new(NativeLimits { threads: 1, ..NativeLimits::default() }).expect("threads start");
    let source = Source { artifact: lookup().file(), ..Source::default() };
    let model = Arc::new(crate::execute::native::load(source, &NativeLimits::default()).expect("it loads"));
    let batcher = Arc::new(Batcher::new(model, engine, batching(8, Duration::from_millis(50))));
    let names = ["good", "bad"].map(|name| name.parse::<TenantName>().expect("a name"));
    let runs = names.iter().zip([1, 7]).map(|(tenant, index)| {
        let mut call = call(Duration::from_secs(60));
        call.share = Arc::new(crate::execute::Share { tenant: tenant.clone(), weight: 100 });
        let batcher = Arc::clone(&batcher);
        async move { batcher.infer(at(index), 1, call).await.is_ok() }
    });
    // It is noted when the answers are on their way.
    let runtime = runtime();
    assert_eq!(runtime.block_on(join_all(runs)), [true, false]);
    let begun = Instant::now();
    while !batcher.apart().contains_key(&names[1]) {
        assert!(begun.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(batcher.rows_of(&at(1), &names[0]), Some(1));
    batcher.apart().insert(names[1].clone(), Instant::now() + Duration::from_secs(60));
    assert_eq!(batcher.rows_of(&at(1), &names[1]), None);
    batcher.apart().insert(names[1].clone(), Instant::now());
    assert_eq!(batcher.rows_of(&at(1), &names[1]), Some(1), "its time is over");
}

#[test]
fn who_is_at_fault_fails_alone() {
    let model = load(&lookup(), batching(8, Duration::from_millis(50)));
    let answers = run(&model, vec![at(0), at(7), at(2)]);
    let values: Vec<Option<Vec<f32>>> =
        answers.iter().map(|(answer, _)| Some(floats(&answer.as_ref().ok()?.outputs[0]))).collect();
    assert_eq!(values, [Some(vec![10.0]), None, Some(vec![30.0])]);
    assert!(answers.iter().all(|(_, execution)| *execution == Execution::Own));
}

#[test]
fn a_model_whose_rows_do_not_match_is_not_batched() {
    let graph = Graph {
        nodes: vec![node("Concat", &["x", "x"], &["y"], &[onnx::int("axis", 0)])],
        inputs: vec![value("x", onnx::FLOAT, &["N", "2"])],
        outputs: vec![value("y", onnx::FLOAT, &["M", "2"])],
        initializers: vec![],
    };
    let model = load(&graph, batching(8, Duration::from_millis(20)));
    for _ in 0..2 {
        for (answer, execution) in run(&model, vec![request(1, 1.0), request(1, 5.0)]) {
            let response = answer.expect("an answer");
            let values = floats(&response.outputs[0]);
            assert_eq!((values.len(), &values[..2], execution), (4, &values[2..], Execution::Own));
        }
    }
}

#[test]
fn strings_of_any_length_find_their_rows() {
    let graph = onnx::unary("Identity", onnx::STRING, &["N"]);
    let model = load(&graph, batching(8, Duration::from_millis(50)));
    let words = |words: &[&str]| {
        let bytes: Vec<u8> = words
            .iter()
            .flat_map(|word| {
                [&u32::try_from(word.len()).expect("short").to_le_bytes()[..], word.as_bytes()].concat()
            })
            .collect();
        InferRequest {
            inputs: vec![Tensor {
                name: "x".into(),
                datatype: Datatype::Bytes,
                shape: vec![words.len() as u64],
                parameters: vec![],
                bytes: bytes.into(),
            }],
            ..InferRequest::default()
        }
    };
    let requests = vec![words(&["a", "", "longer than that"]), words(&[""]), words(&["x", "yz"])];
    for (request, (answer, _)) in requests.iter().zip(run(&model, requests.clone())) {
        assert_eq!(answer.expect("an answer").outputs[0].bytes, request.inputs[0].bytes);
    }
}

fn waits(tenant: &str, rows: u64) -> (Member, oneshot::Receiver<Answer>) {
    let (answer, answered) = oneshot::channel();
    let member = Member {
        request: request(rows, 0.0),
        rows,
        tenant: tenant.parse().expect("a name"),
        since: Instant::now(),
        deadline: Deadline::after(Duration::from_secs(1)),
        consumed: Arc::default(),
        answer,
    };
    (member, answered)
}

#[test]
fn tenants_share_a_batch_by_rows_and_take_turns() {
    let sizes = Sizes::new(&batching(8, Duration::ZERO));
    let mut waiting = Waiting::default();
    let mut receivers = Vec::new();
    let mut add = |waiting: &mut Waiting, tenant, rows| {
        let (member, receiver) = waits(tenant, rows);
        receivers.push(receiver);
        waiting.add(member);
    };
    for _ in 0..20 {
        add(&mut waiting, "many", 1);
    }
    add(&mut waiting, "few", 1);
    add(&mut waiting, "wide", 4);
    let taken = |waiting: &mut Waiting| {
        let batch = waiting.take(&sizes);
        ["many", "few", "wide"].map(|name| {
            let own = batch.iter().filter(|member| member.tenant.as_str() == name);
            own.map(|member| member.rows).sum::<u64>()
        })
    };
    assert_eq!(waiting.rows(), 25);
    assert_eq!(taken(&mut waiting), [3, 1, 4]);
    assert_eq!(taken(&mut waiting), [8, 0, 0]);
    assert_eq!((waiting.rows(), waiting.oldest().is_some()), (9, true));
    taken(&mut waiting);
    taken(&mut waiting);
    assert_eq!((waiting.rows(), waiting.oldest()), (0, None));
}

#[test]
fn a_request_that_fits_no_size_goes_all_the_same() {
    let sizes = Sizes::new(&batching(8, Duration::ZERO));
    let mut waiting = Waiting::default();
    let mut receivers = Vec::new();
    for rows in [3, 4] {
        let (member, receiver) = waits("one", rows);
        receivers.push(receiver);
        waiting.add(member);
        let taken = waiting.take(&sizes).iter().map(|member| member.rows).sum::<u64>();
        assert_eq!((taken, waiting.rows()), (rows, 0));
    }
}

#[test]
fn who_has_left_takes_no_room() {
    let sizes = Sizes::new(&batching(4, Duration::ZERO));
    let mut waiting = Waiting::default();
    let mut receivers: Vec<_> = (0..8)
        .map(|_| {
            let (member, receiver) = waits("one", 1);
            waiting.add(member);
            receiver
        })
        .collect();
    receivers.truncate(2);
    let batch = waiting.take(&sizes);
    assert_eq!((batch.len(), waiting.rows()), (2, 0));
}
