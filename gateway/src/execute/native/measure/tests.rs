use std::thread;

use bytes::Bytes;
use tokio::runtime::Runtime;

use crate::tensor::{Shape, TensorSpec};

use super::*;

/// Answers twice its input, after some time and off by a part of it.
#[derive(Debug)]
struct Twice {
    signature: Signature,
    takes: Duration,
    off: f32,
    /// The only size of the second dimension that it takes, if not all.
    only: Option<u64>,
}

fn twice(takes: u64, off: f32) -> Twice {
    let spec =
        |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, shape: Shape(vec![-1, -1]) };
    let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] };
    Twice { signature, takes: Duration::from_millis(takes), off, only: None }
}

impl Executor for Twice {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn platform(&self) -> &'static str {
        "twice"
    }

    fn loaded_bytes(&self) -> u64 {
        0
    }

    fn infer(&self, request: InferRequest, _: Call) -> BoxFuture<'_, Result<InferResponse, ExecuteError>> {
        let mut output = request.inputs[0].clone();
        thread::sleep(self.takes);
        if self.only.is_some_and(|only| output.shape[1] != only) {
            return Box::pin(async { Err(ExecuteError::InvalidInput("another size".into())) });
        }
        let (numbers, _) = output.bytes.as_chunks::<4>();
        let doubled =
            numbers.iter().flat_map(|bytes| (f32::from_le_bytes(*bytes) * (2.0 + self.off)).to_le_bytes());
        output.bytes = doubled.collect::<Bytes>();
        output.name = "y".into();
        Box::pin(async { Ok(InferResponse { outputs: vec![output], ..InferResponse::default() }) })
    }
}

fn measured(tract: &Twice, onnx_runtime: &Twice) -> Result<Times, String> {
    let runtime = Runtime::new().expect("a runtime starts");
    let _guard = runtime.enter();
    measure(tract, onnx_runtime)
}

#[test]
fn who_is_faster_is_faster_by_more_than_chance() {
    let times = measured(&twice(4, 0.0), &twice(1, 1e-4)).expect("they answer alike");
    assert!(times.faster && times.tract > times.onnx_runtime, "{times:?}");
    assert!(!measured(&twice(1, 0.0), &twice(4, 0.0)).expect("they answer alike").faster);
    assert!(!measured(&twice(2, 0.0), &twice(2, 0.0)).expect("they answer alike").faster);
}

#[test]
fn who_answers_otherwise_is_not_measured() {
    let told = measured(&twice(4, 0.0), &twice(0, 0.01)).expect_err("off by half a per cent");
    assert!(told.starts_with("ONNX Runtime answers 'y' differently: in "), "{told}");
    let mut other = twice(0, 0.0);
    other.signature.outputs[0].shape = Shape(vec![-1, 4]);
    assert!(measured(&twice(4, 0.0), &other).expect_err("another signature").contains("signature"));
    let failing = Twice { only: Some(7), ..twice(0, 0.0) };
    assert!(measured(&twice(4, 0.0), &failing).expect_err("it fails").starts_with("ONNX Runtime: "));
}

#[test]
fn a_size_is_looked_for_that_the_model_takes() {
    let only = |size| Twice { only: Some(size), ..twice(0, 0.0) };
    measured(&only(224), &only(224)).expect("one of the sizes");
    let told = measured(&only(7), &only(7)).expect_err("none of the sizes");
    assert!(told.starts_with("it does not take inputs that were made up"), "{told}");
}

#[test]
fn requests_are_made_up_anew_for_each_seed_and_the_same_each_time() {
    let mut signature = twice(0, 0.0).signature;
    for datatype in Datatype::ALL {
        signature.inputs[0].datatype = datatype;
        let made = |seed| request(&signature, 64, seed).expect("small").inputs.remove(0);
        let (one, again, other) = (made(1), made(1), made(2));
        one.check_layout().unwrap_or_else(|error| panic!("{datatype}: {error}"));
        assert_eq!((&one.shape, &one.bytes), (&vec![1, 64], &again.bytes));
        assert!(one.bytes != other.bytes || datatype == Datatype::Bf16, "{datatype}");
    }
    signature.inputs[0].shape = Shape(vec![-1, 1 << 40]);
    assert!(request(&signature, 1, 0).is_none());
}

#[test]
fn what_is_made_up_is_bounded_for_all_inputs_together() {
    let mut signature = twice(0, 0.0).signature;
    let spec =
        TensorSpec { datatype: Datatype::Fp64, shape: Shape(vec![1 << 20]), ..signature.inputs[0].clone() };
    signature.inputs = vec![spec.clone(); 8];
    assert_eq!(request(&signature, 1, 0).expect("64 MiB").inputs.len(), 8);
    signature.inputs.push(TensorSpec { shape: Shape(vec![1]), ..spec.clone() });
    assert!(request(&signature, 1, 0).is_none());
    signature.inputs = vec![TensorSpec { shape: Shape(vec![1 << 62]), ..spec }];
    assert!(request(&signature, 1, 0).is_none());
}

#[test]
fn what_is_too_slow_for_rounds_is_judged_by_its_first_calls() {
    let begun = Instant::now();
    let times = measured(&twice(300, 0.0), &twice(1, 0.0)).expect("they answer alike");
    assert!(times.faster && begun.elapsed() < Duration::from_secs(10), "{times:?}");
}

#[test]
fn answers_that_say_nothing_are_not_compared() {
    let told = measured(&twice(0, f32::NAN), &twice(0, f32::NAN)).expect_err("not a number");
    assert!(told.contains("nothing can be compared"), "{told}");
}
