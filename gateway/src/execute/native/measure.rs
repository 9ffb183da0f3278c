//! Two loaded forms of one model beside each other: whether they answer alike, and which is faster, as whoever calls them sees
//! it. Inputs are made up from the signature.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use half::f16;
use tokio::runtime::Handle;

use crate::{
    deadline::Deadline,
    execute::{BoxFuture, Call, ExecuteError, Executor, Models, NestedError},
    tensor::{
        Datatype, InferRequest, InferResponse, Signature, Tensor,
        compare::{Tolerance, compare},
    },
};

/// What one form took and the other, medians.
#[derive(Debug)]
pub struct Times {
    pub tract: Duration,
    pub onnx_runtime: Duration,
    /// ONNX Runtime was, by so much that it is no chance.
    pub faster: bool,
}

/// Sizes of dimensions that vary, but for the first one, which is 1. The first that the model takes.
const SIZES: [u64; 4] = [16, 64, 224, 1];

/// Bytes of all inputs of a request together beyond which none is made up: it is held in the gateway's own memory.
const MAX_BYTES: u64 = 64 << 20;

/// Made-up requests of which the answers are compared.
const SEEDS: u64 = 4;

/// Time of all calls together: whose model it is may make it as slow as they like.
const PATIENCE: Duration = Duration::from_secs(20);

/// Time after which no further round begins, and the number of rounds at most; there is one in any case.
const TIME: Duration = Duration::from_secs(1);
const ROUNDS: usize = 100;

/// Calls of one form in a round that count. One before them does not: a worker may have been ended for the other one's.
const CALLS: usize = 3;

/// The part of tract's time that ONNX Runtime may take to count as faster.
const FASTER: f64 = 0.9;

/// Compares the answers of a model on ONNX Runtime with those on tract, then how long they take. Blocks, for some
/// seconds; for a thread of a runtime that may block.
///
/// # Errors
/// Why ONNX Runtime is not to be taken, whatever time it takes.
pub fn measure(tract: &dyn Executor, onnx_runtime: &dyn Executor) -> Result<Times, String> {
    if tract.signature() != onnx_runtime.signature() {
        return Err("ONNX Runtime has another signature for it".into());
    }
    let runtime = Handle::try_current().map_err(|error| error.to_string())?;
    let end = Deadline::after(PATIENCE);
    let run = |executor: &dyn Executor, request: &InferRequest| {
        runtime.block_on(executor.infer(request.clone(), call(end.remaining())))
    };
    let size = fitting_size(tract.signature(), |request| run(tract, request).map(drop))?;
    let made_up = |seed| request(tract.signature(), size, seed).ok_or(TOO_LARGE);
    let mut times = [Vec::new(), Vec::new()];
    let begun = Instant::now();
    for seed in 0..SEEDS {
        let (request, begun) = (made_up(seed)?, Instant::now());
        let expected = run(tract, &request).map_err(|error| format!("tract: {error}"))?;
        times[0].push(begun.elapsed());
        let begun = Instant::now();
        let given = run(onnx_runtime, &request).map_err(|error| format!("ONNX Runtime: {error}"))?;
        times[1].push(begun.elapsed());
        same(&given, &expected)?;
    }
    // What takes so long needs no more rounds, and there may be no time for them.
    let rounds = if begun.elapsed() < TIME { ROUNDS } else { 0 };
    if rounds > 0 {
        times.iter_mut().for_each(Vec::clear);
    }
    let (request, begun) = (made_up(0)?, Instant::now());
    for round in 0..rounds {
        if round > 0 && begun.elapsed() >= TIME {
            break;
        }
        for (executor, times) in [tract, onnx_runtime].into_iter().zip(&mut times) {
            for number in 0..=CALLS {
                let begun = Instant::now();
                run(executor, &request).map_err(|error| error.to_string())?;
                if number > 0 {
                    times.push(begun.elapsed());
                }
            }
        }
    }
    let [tract, onnx_runtime] = times.map(median);
    Ok(Times { tract, onnx_runtime, faster: onnx_runtime <= tract.mul_f64(FASTER) })
}

const TOO_LARGE: &str = "its inputs are too large to be made up";

fn fitting_size(
    signature: &Signature,
    mut run: impl FnMut(&InferRequest) -> Result<(), ExecuteError>,
) -> Result<u64, String> {
    let mut reason = TOO_LARGE.to_owned();
    for size in SIZES {
        let Some(request) = request(signature, size, 0) else { continue };
        match run(&request) {
            Ok(()) => return Ok(size),
            Err(error) => reason = format!("it does not take inputs that were made up: {error}"),
        }
    }
    Err(reason)
}

/// Whether an answer is close to the one that is expected, and that says something.
fn same(given: &InferResponse, expected: &InferResponse) -> Result<(), String> {
    if !expected.outputs.iter().any(says_something) {
        return Err(
            "its answers to made-up inputs are empty or no numbers, so nothing can be compared".into()
        );
    }
    let outputs = compare(&given.outputs, &expected.outputs, Tolerance::default());
    match outputs.into_iter().find(|output| !output.pass) {
        None => Ok(()),
        Some(output) => {
            let mismatches = output.differences.map_or(0, |differences| differences.mismatches);
            let reason = output.reason.unwrap_or_else(|| format!("in {mismatches} elements"));
            Err(format!("ONNX Runtime answers '{:.64}' differently: {reason}", output.name))
        }
    }
}

/// Whether an output has an element that is not NaN.
fn says_something(output: &Tensor) -> bool {
    let bytes = &output.bytes;
    match output.datatype {
        Datatype::Fp16 => bytes.as_chunks().0.iter().any(|bytes| !f16::from_le_bytes(*bytes).is_nan()),
        Datatype::Fp32 => bytes.as_chunks().0.iter().any(|bytes| !f32::from_le_bytes(*bytes).is_nan()),
        Datatype::Fp64 => bytes.as_chunks().0.iter().any(|bytes| !f64::from_le_bytes(*bytes).is_nan()),
        _ => !bytes.is_empty(),
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// A call of the gateway's own.
pub fn call(time: Duration) -> Call {
    Call {
        deadline: Deadline::after(time).into(),
        depth: 0,
        consumed: Arc::default(),
        share: Arc::default(),
        log: Arc::default(),
        models: Arc::new(NoModels),
        responses: None,
    }
}

/// ONNX models call no others.
struct NoModels;

impl Models for NoModels {
    fn infer<'a>(
        &'a self,
        _: &'a str,
        _: Option<&'a str>,
        _: Vec<Tensor>,
        _: &'a Call,
    ) -> BoxFuture<'a, Result<Vec<Tensor>, NestedError>> {
        Box::pin(async { Err(NestedError::Failed("there are no other models".into())) })
    }
}

/// A request of one row with that size for all else that varies; `None` if it would be too large.
fn request(signature: &Signature, size: u64, seed: u64) -> Option<InferRequest> {
    // Any number but 0 will do to begin with.
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut left = MAX_BYTES;
    let input = |spec: &crate::tensor::TensorSpec| {
        let dim =
            |(axis, dim): (usize, &i64)| u64::try_from(*dim).unwrap_or(if axis == 0 { 1 } else { size });
        let shape: Vec<u64> = spec.shape.0.iter().enumerate().map(dim).collect();
        let elements = shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
        // Of BYTES an element is its length and one byte.
        let size = spec.datatype.element_size().unwrap_or(5) as u64;
        left = left.checked_sub(elements?.checked_mul(size)?)?;
        let mut bytes = BytesMut::new();
        (0..elements?).for_each(|_| random.element(spec.datatype, &mut bytes));
        let (name, datatype) = (spec.name.clone(), spec.datatype);
        Some(Tensor { name, datatype, shape, parameters: Vec::new(), bytes: bytes.freeze() })
    };
    let inputs = signature.inputs.iter().map(input).collect::<Option<_>>()?;
    Some(InferRequest { inputs, ..InferRequest::default() })
}

/// Numbers that look random and are the same each time: xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From -1 to 1.
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// An element that most models take: wide integers are 0 or 1, as they are places in tables and masks.
    fn element(&mut self, datatype: Datatype, bytes: &mut BytesMut) {
        let bit = self.next() >> 63;
        match datatype {
            Datatype::Fp16 => bytes.extend(f16::from_f32(self.float()).to_le_bytes()),
            Datatype::Fp32 => bytes.extend(self.float().to_le_bytes()),
            Datatype::Fp64 => bytes.extend(f64::from(self.float()).to_le_bytes()),
            Datatype::Bf16 => bytes.extend([0, 0]),
            Datatype::Int8 | Datatype::Uint8 => bytes.extend(&self.next().to_le_bytes()[..1]),
            Datatype::Bool => bytes.extend(&bit.to_le_bytes()[..1]),
            Datatype::Int16 | Datatype::Uint16 => bytes.extend(&bit.to_le_bytes()[..2]),
            Datatype::Int32 | Datatype::Uint32 => bytes.extend(&bit.to_le_bytes()[..4]),
            Datatype::Int64 | Datatype::Uint64 => bytes.extend(bit.to_le_bytes()),
            Datatype::Bytes => {
                bytes.extend(1u32.to_le_bytes());
                bytes.extend(if bit == 0 { b"a" } else { b"b" });
            }
        }
    }
}

#[cfg(test)]
mod tests;
