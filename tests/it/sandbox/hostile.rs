//! Every hostile fixture gets its documented error, and the next good call succeeds.

use std::time::{Duration, Instant};

use airlock::{
    execute::{ExecuteError, Step},
    tensor::{InferResponse, Parameter},
};
use airlock_tests::{
    foreach_hostile,
    guest::{self, hostile},
    rounds,
};

use super::{PATIENCE, good_call, infer, load, load_into, sandbox, source, values};

macro_rules! each_has_a_test {
    ($($name:ident)*) => {
        #[test]
        fn every_fixture_has_a_test() {
            let _: &[fn()] = &[$($name),*];
        }
    };
}
foreach_hostile!(each_has_a_test);

/// The error of a call, after which a good call succeeds.
async fn fault(fixture: &str) -> ExecuteError {
    let model = load(fixture).await;
    let error = infer(&model, &[1.0, 2.0], PATIENCE).await.expect_err("the guest is hostile");
    good_call().await;
    error
}

/// Why the guest was refused, after which a good call succeeds.
async fn refusal(fixture: &str) -> (Step, String) {
    let module = guest::module(fixture).expect("the fixture assembles");
    let error = load_into(sandbox(), source(module)).await.expect_err("the guest is refused");
    good_call().await;
    (error.step, error.reason)
}

/// Where a call that never ends is stopped. Of a busy machine's three tries the best counts.
async fn stopped(fixture: &str) {
    const DEADLINE: Duration = Duration::from_millis(200);
    let model = load(fixture).await;
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let started = Instant::now();
        let error = infer(&model, &[1.0], DEADLINE).await.expect_err("it never ends");
        assert!(matches!(error, ExecuteError::Deadline), "{error}");
        best = best.min(started.elapsed());
        if best <= DEADLINE + Duration::from_millis(50) {
            break;
        }
    }
    assert!(best >= DEADLINE - Duration::from_millis(5), "stopped too early, after {best:?}");
    assert!(best <= DEADLINE + Duration::from_millis(50), "stopped only after {best:?}");
    good_call().await;
}

fn assert_trapped(error: &ExecuteError, expected: &str) {
    let ExecuteError::Trapped { reason, detail } = error else { panic!("not a trap: {error:?}") };
    assert!(reason.contains(expected), "{reason}");
    assert!(!detail.is_empty() && !detail.contains('\n'), "{detail}");
}

fn assert_output(error: &ExecuteError, expected: &str) {
    let ExecuteError::Output(text) = error else { panic!("not a wrong answer: {error:?}") };
    assert!(text.contains(expected), "{text}");
    assert!(text.len() < 1100, "{} bytes of error text", text.len());
}

fn assert_refused((step, reason): &(Step, String), at: Step, expected: &str) {
    assert_eq!(*step, at, "{reason}");
    assert!(reason.contains(expected), "{reason}");
}

async fn infer_once(fixture: &str) -> Result<InferResponse, ExecuteError> {
    let model = load(fixture).await;
    let answer = infer(&model, &[1.0, 2.0], PATIENCE).await;
    good_call().await;
    answer
}

fn assert_own_loss(answer: Result<InferResponse, ExecuteError>) {
    match answer {
        Ok(answer) => assert!(answer.outputs.len() <= 1, "{} outputs", answer.outputs.len()),
        Err(error) => assert!(error.to_string().len() < 1100, "{error}"),
    }
}

/// `name => check`: an ordinary test function that runs the check, so that it can also be named in a list.
macro_rules! tests {
    ($($name:ident => $check:expr;)*) => { $(
        #[test]
        fn $name() {
            let threads = tokio::runtime::Builder::new_current_thread().enable_all().build();
            threads.expect("a runtime").block_on(rounds::of(stringify!($name), async || $check.await));
        }
    )* };
}

macro_rules! trapped {
    ($fixture:ident, $expected:expr) => {
        async { assert_trapped(&fault(hostile::$fixture).await, $expected) }
    };
}

macro_rules! wrong {
    ($fixture:ident, $expected:expr) => {
        async { assert_output(&fault(hostile::$fixture).await, $expected) }
    };
}

macro_rules! refused {
    ($fixture:ident, $step:ident, $expected:expr) => {
        async { assert_refused(&refusal(hostile::$fixture).await, Step::$step, $expected) }
    };
}

tests! {
    // Time.
    loop_in_infer => stopped(hostile::LOOP_IN_INFER);
    loop_in_realloc => stopped(hostile::LOOP_IN_REALLOC);
    loop_in_post_return => stopped(hostile::LOOP_IN_POST_RETURN);
    fill_memory => stopped(hostile::FILL_MEMORY);
    copy_memory => stopped(hostile::COPY_MEMORY);
    slow_realloc => stopped(hostile::SLOW_REALLOC);
    recursion_to_the_brink => stopped(hostile::RECURSION_TO_THE_BRINK);
    denormals => stopped(hostile::DENORMALS);
    loop_in_start => refused!(LOOP_IN_START, Load, "did not end within 500ms");
    loop_in_load => refused!(LOOP_IN_LOAD, Load, "did not end within 500ms");
    loop_in_signature => refused!(LOOP_IN_SIGNATURE, Signature, "did not end within 500ms");

    // Memory.
    grow_memory => async {
        let error = fault(hostile::GROW_MEMORY).await;
        assert!(matches!(error, ExecuteError::Memory { limit_bytes: 0x400_0000 }), "{error:?}");
    };
    two_memories => refused!(TWO_MEMORIES, Check, "it has 2 memories, at most 1 are admitted");
    large_memory => refused!(LARGE_MEMORY, Check, "its memory begins with 131072000 bytes, a request may use 67108864");
    large_table => refused!(LARGE_TABLE, Check, "its tables begin with 30000 elements, at most 20000 are admitted");
    stack_overflow => trapped!(STACK_OVERFLOW, "overflowed its stack of 524288 bytes");
    recursion_through_log => trapped!(RECURSION_THROUGH_LOG, "overflowed its stack of 524288 bytes");
    passive_data => trapped!(PASSIVE_DATA, "accessed memory out of bounds");
    load_takes_all_memory => refused!(LOAD_TAKES_ALL_MEMORY, Snapshot, "able to grow by one more page");

    // Traps.
    unreachable => trapped!(UNREACHABLE, "aborted");
    out_of_bounds => trapped!(OUT_OF_BOUNDS, "accessed memory out of bounds");
    load_traps => refused!(LOAD_TRAPS, Load, "the model aborted");

    // Answers.
    shape_against_bytes => wrong!(SHAPE_AGAINST_BYTES, "'OUTPUT0': shape [3] of FP32 takes 12 bytes, got 8");
    shape_overflow => wrong!(SHAPE_OVERFLOW, "'OUTPUT0': the product of shape");
    huge_rank => wrong!(HUGE_RANK, "output 'OUTPUT0' has shape [0,0,0,");
    wrong_datatype => wrong!(WRONG_DATATYPE, "output 'OUTPUT0' is INT32, the signature says FP32");
    datatype_out_of_range => trapped!(DATATYPE_OUT_OF_RANGE, "broke its interface");
    missing_output => wrong!(MISSING_OUTPUT, "output 'OUTPUT0' is missing");
    extra_output => wrong!(EXTRA_OUTPUT, "output \"EXTRA\" is not in the signature");
    duplicate_output => wrong!(DUPLICATE_OUTPUT, "output 'OUTPUT0' is given twice");
    name_not_utf8 => trapped!(NAME_NOT_UTF8, "invalid utf-8");
    answer_out_of_memory => trapped!(ANSWER_OUT_OF_MEMORY, "broke its interface");
    answer_misaligned => trapped!(ANSWER_MISALIGNED, "broke its interface");
    pointer_out_of_memory => trapped!(POINTER_OUT_OF_MEMORY, "out of bounds of memory");
    length_of_4_gib => trapped!(LENGTH_OF_4_GIB, "out of bounds of memory");
    pointer_overflow => trapped!(POINTER_OVERFLOW, "out of bounds of memory");
    result_out_of_range => trapped!(RESULT_OUT_OF_RANGE, "broke its interface");
    parameter_out_of_range => trapped!(PARAMETER_OUT_OF_RANGE, "broke its interface");
    bool_of_two => async {
        let model = load(hostile::BOOL_OF_TWO).await;
        let answer = infer(&model, &[1.0], PATIENCE).await.expect("a good answer");
        assert_eq!(answer.parameters, [("INPUT0".to_owned(), Parameter::Boolean(true))]);
        good_call().await;
    };
    zero_dimension => wrong!(ZERO_DIMENSION, "OUTPUT0");
    long_name => wrong!(LONG_NAME, "is not in the signature");
    list_of_lists => wrong!(LIST_OF_LISTS, "larger than the 1048576 bytes");
    realloc_traps => trapped!(REALLOC_TRAPS, "aborted");
    realloc_out_of_bounds => trapped!(REALLOC_OUT_OF_BOUNDS, "broke its interface");
    realloc_misaligned => trapped!(REALLOC_MISALIGNED, "broke its interface");
    // What lies upon what is the guest's own loss; it answers nonsense or nothing.
    realloc_null => async { assert_own_loss(infer_once(hostile::REALLOC_NULL).await) };
    realloc_overlaps => async { assert_own_loss(infer_once(hostile::REALLOC_OVERLAPS).await) };
    giant_output => wrong!(GIANT_OUTPUT, "larger than the 1048576 bytes");
    many_outputs => wrong!(MANY_OUTPUTS, "larger than the 1048576 bytes");
    error_text => async {
        let ExecuteError::Failed(text) = fault(hostile::ERROR_TEXT).await else { panic!("it failed") };
        assert!(text.starts_with("\\u{1b}[31mroot\\nrootAAAA"), "{}", &text[..40]);
        assert!(text.ends_with('…') && text.len() <= 1024 + 3, "{} bytes", text.len());
    };
    invalid_input => async {
        let ExecuteError::InvalidInput(text) = fault(hostile::INVALID_INPUT).await else { panic!("it refused") };
        assert_eq!(text, "INPUT0: too few elements");
    };
    signature_twice => refused!(SIGNATURE_TWICE, Signature, "input \"INPUT0\" is announced twice");
    load_fails => async {
        let (step, reason) = refusal(hostile::LOAD_FAILS).await;
        assert_eq!((step, reason.as_str()), (Step::Load, "no file 'weights'\\n"));
    };

    // The log.
    log_flood => async {
        let model = load(hostile::LOG_FLOOD).await;
        infer(&model, &[1.0], PATIENCE).await.expect("lines are dropped, the answer is good");
        good_call().await;
    };
    log_out_of_memory => trapped!(LOG_OUT_OF_MEMORY, "out of bounds of memory");

    // Responses ahead of the last.
    emit_in_load => refused!(EMIT_IN_LOAD, Load, "emit is called while the model is being loaded");
    emit_nothing => async {
        assert_output(&fault(hostile::EMIT_NOTHING).await, "output 'OUTPUT0' is missing");
    };
    emit_out_of_memory => trapped!(EMIT_OUT_OF_MEMORY, "out of bounds of memory");
    emit_for_ever => async {
        let error = fault(hostile::EMIT_FOR_EVER).await;
        assert!(matches!(error, ExecuteError::Several), "{error}");
    };

    // Authority.
    load_calls_models => refused!(LOAD_CALLS_MODELS, Load, "cannot be called while the model is being loaded");
    wasi_import => refused!(WASI_IMPORT, Check, "\"wasi:clocks/monotonic-clock@0.2.0\": guests have no WASI");
    other_version_import => refused!(OTHER_VERSION_IMPORT, Check, "\"airlock:inference/log@0.2.0\"");
    unknown_interface_import => refused!(UNKNOWN_INTERFACE_IMPORT, Check, "\"airlock:inference/files@0.1.0\"");
    other_signature_import => refused!(OTHER_SIGNATURE_IMPORT, Check, "airlock:inference/log@0.1.0");
    env_import => refused!(ENV_IMPORT, Check, "env");
    other_export_type => refused!(OTHER_EXPORT_TYPE, Check, "infer");
    missing_export => refused!(MISSING_EXPORT, Check, "`airlock:inference/plugin@0.1.0` function `infer`");

    // Features.
    table_grow => refused!(TABLE_GROW, Snapshot, "table.grow");
    table_fill => refused!(TABLE_FILL, Snapshot, "table.fill");
    memory64 => refused!(MEMORY64, Check, "memory64");
    threads => refused!(THREADS, Check, "threads");
    exceptions => refused!(EXCEPTIONS, Check, "exceptions");
    tail_call => refused!(TAIL_CALL, Check, "tail calls");
}

/// Code without a loop or a call has no place at which it could be interrupted, but it ends: a function has 256 KiB at most.
#[test]
fn a_hundred_thousand_instructions_in_a_line() {
    let text = format!(
        ";; replaces: infer
(func (export \"airlock:inference/plugin@0.1.0#infer\")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (local $sum i32) (local.get $sum) {} (local.set $sum)
  (call $ok (call $echo (local.get $input)) (i32.const 1)))",
        "(i32.const 3) (i32.mul) ".repeat(50_000)
    );
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    threads.block_on(async {
        let model = load(&text).await;
        infer(&model, &[1.0], PATIENCE).await.expect("it ends");
    });
}

/// Which bits a NaN has is the model's business.
#[test]
fn every_bit_of_a_nan_comes_back() {
    let odd = [0x7fa0_1234_u32, 0xffff_ffff, 0x7fc0_0001, 0x8000_0000].map(f32::from_bits);
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    threads.block_on(async {
        let model = load(guest::ECHO).await;
        let answer = infer(&model, &odd, PATIENCE).await.expect("a good answer");
        let bits: Vec<u32> = values(&answer).into_iter().map(f32::to_bits).collect();
        assert_eq!(bits, odd.map(f32::to_bits));
    });
}
