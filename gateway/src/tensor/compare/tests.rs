use proptest::prelude::*;
use serde_json::json;

use super::*;

const NONE: Tolerance = Tolerance { rtol: 0.0, atol: 0.0 };

fn tensor(name: &str, datatype: Datatype, shape: &[u64], bytes: Vec<u8>) -> Tensor {
    Tensor { name: name.into(), datatype, shape: shape.to_vec(), parameters: vec![], bytes: bytes.into() }
}

fn fp64(values: &[f64]) -> Tensor {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor("y", Datatype::Fp64, &[values.len() as u64], bytes)
}

fn int64(values: &[i64]) -> Tensor {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor("y", Datatype::Int64, &[values.len() as u64], bytes)
}

fn texts(values: &[&[u8]]) -> Tensor {
    let length = |value: &&[u8]| u32::try_from(value.len()).expect("short").to_le_bytes();
    let bytes = values.iter().flat_map(|value| [&length(value)[..], value].concat()).collect();
    tensor("y", Datatype::Bytes, &[values.len() as u64], bytes)
}

/// The report of the only output, as JSON.
fn told(one: Tensor, other: Tensor, tolerance: Tolerance) -> Value {
    let reports = compare(&[one], &[other], tolerance);
    assert_eq!(reports.len(), 1);
    serde_json::to_value(&reports[0]).expect("JSON")
}

#[test]
fn the_rule_is_that_of_numpy() {
    let tolerance = Tolerance { rtol: 0.1, atol: 0.5 };
    // The bound is 0.5 + 0.1 * |b|: the one that is compared with counts.
    for (a, b, close) in [
        (11.5, 10.0, true),
        (11.6, 10.0, false),
        (10.0, 11.6, true),
        (0.5, 0.0, true),
        (-0.6, 0.0, false),
        (0.0, -0.0, true),
        (f64::NAN, f64::NAN, true),
        (f64::NAN, 1.0, false),
        (1.0, f64::NAN, false),
        (f64::INFINITY, f64::INFINITY, true),
        (f64::INFINITY, f64::NEG_INFINITY, false),
        (f64::INFINITY, f64::MAX, false),
        // |a - b| <= rtol * |b| would hold here, infinity against infinity.
        (1.0, f64::INFINITY, false),
    ] {
        let report = told(fp64(&[a]), fp64(&[b]), tolerance);
        assert_eq!(report["pass"], json!(close), "{a} against {b}: {report}");
    }
}

#[test]
fn differences_are_told_with_the_first_place() {
    let report = told(fp64(&[1.0, 2.5, 4.0, 0.0]), fp64(&[1.0, 2.0, 2.0, 0.0]), NONE);
    assert_eq!(
        report,
        json!({ "name": "y", "datatype": "FP64", "shape": [4], "pass": false, "max_abs": 2.0, "max_rel": 1.0,
            "mismatches": 2, "first_mismatch": { "index": [1], "value": 2.5, "against": 2.0 } })
    );
    let wide = |tensor: Tensor| Tensor { shape: vec![2, 1, 2], ..tensor };
    let report = told(wide(fp64(&[0.0, 0.0, 0.0, f64::NAN])), wide(fp64(&[0.0; 4])), NONE);
    assert_eq!(report["first_mismatch"], json!({ "index": [1, 0, 1], "value": "NaN", "against": 0.0 }));
    assert_eq!((&report["max_abs"], &report["max_rel"]), (&json!("Infinity"), &json!("Infinity")));
    let report = told(fp64(&[]), fp64(&[]), NONE);
    assert_eq!(
        (&report["pass"], &report["max_abs"], &report["mismatches"]),
        (&json!(true), &json!(0.0), &json!(0))
    );
}

#[test]
fn half_precision_is_widened() {
    let half = |value: f32| tensor("y", Datatype::Fp16, &[1], f16::from_f32(value).to_le_bytes().to_vec());
    let report = told(half(1.5), half(1.0), NONE);
    assert_eq!((&report["max_abs"], &report["first_mismatch"]["value"]), (&json!(0.5), &json!(1.5)));
    let brain = |value: f32| tensor("y", Datatype::Bf16, &[1], bf16::from_f32(value).to_le_bytes().to_vec());
    let report = told(brain(2.0), brain(3.0), Tolerance { rtol: 0.5, atol: 0.0 });
    assert_eq!((&report["max_abs"], &report["pass"]), (&json!(1.0), &json!(true)));
}

#[test]
fn what_is_counted_exactly_has_to_be_equal() {
    let loose = Tolerance { rtol: 1.0, atol: 1e9 };
    let report = told(int64(&[i64::MAX, 0]), int64(&[i64::MIN, 0]), loose);
    assert_eq!((&report["pass"], &report["mismatches"]), (&json!(false), &json!(1)));
    assert_eq!(report["first_mismatch"], json!({ "index": [0], "value": i64::MAX, "against": i64::MIN }));
    assert_eq!(report["max_abs"], json!(u64::MAX as f64));
    // A double would take these two for the same.
    let report = told(int64(&[(1 << 53) + 1]), int64(&[1 << 53]), loose);
    assert_eq!((&report["pass"], &report["max_abs"]), (&json!(false), &json!(1.0)));
    let unsigned = |value: u64| tensor("y", Datatype::Uint64, &[1], value.to_le_bytes().to_vec());
    let report = told(unsigned(u64::MAX), unsigned(0), loose);
    assert_eq!(report["first_mismatch"]["value"], json!(u64::MAX));
    let boolean = |value: u8| tensor("y", Datatype::Bool, &[1], vec![value]);
    let report = told(boolean(1), boolean(0), loose);
    assert_eq!(report["first_mismatch"], json!({ "index": [0], "value": true, "against": false }));
    assert!(report.get("max_abs").is_none());
    let long = [b'x'; 1000];
    let report = told(texts(&[b"a", &long]), texts(&[b"a", b"\xff\n"]), loose);
    assert_eq!(
        report["first_mismatch"],
        json!({ "index": [1], "value": "x".repeat(64), "against": "\u{fffd}\n" })
    );
}

#[test]
fn what_cannot_be_compared_fails_with_the_reason() {
    let one = [fp64(&[1.0]), Tensor { name: "only here".into(), ..fp64(&[1.0]) }];
    let other = [int64(&[1]), Tensor { name: "only there".into(), ..fp64(&[1.0]) }];
    let reports = compare(&one, &other, NONE);
    let told: Vec<(&str, bool, &str)> = reports
        .iter()
        .map(|report| (report.name.as_str(), report.pass, report.reason.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(
        told,
        [
            ("y", false, "datatype FP64 against INT64"),
            ("only here", false, "the version that it is compared with does not answer it"),
            ("only there", false, "only the version that it is compared with answers it"),
        ]
    );
    let reports = compare(&[fp64(&[1.0])], &[fp64(&[1.0, 2.0])], NONE);
    assert_eq!(reports[0].reason.as_deref(), Some("shape [1] against [2]"));
    assert!(!reports[0].pass);
}

fn any_tensor() -> impl Strategy<Value = Tensor> {
    let datatype = prop::sample::select(Datatype::ALL.to_vec());
    (datatype, prop::collection::vec(0u64..4, 0..4), any::<Vec<u8>>()).prop_map(|(datatype, shape, seed)| {
        let count = usize::try_from(shape.iter().product::<u64>()).expect("small");
        let byte = |at: usize| seed.get(at % seed.len().max(1)).copied().unwrap_or(0);
        let bytes: Vec<u8> = match datatype {
            Datatype::Bool => (0..count).map(|at| byte(at) & 1).collect(),
            Datatype::Bytes => (0..count).flat_map(|at| [1, 0, 0, 0, byte(at)]).collect(),
            _ => (0..count * datatype.element_size().expect("fixed")).map(byte).collect(),
        };
        tensor("y", datatype, &shape, bytes)
    })
}

proptest! {
    #[test]
    fn an_answer_is_like_itself(tensor in any_tensor()) {
        tensor.check_layout().expect("a sound tensor");
        let report = &compare(std::slice::from_ref(&tensor), std::slice::from_ref(&tensor), NONE)[0];
        let differences = report.differences.as_ref().expect("compared");
        prop_assert!(report.pass && differences.first_mismatch.is_none());
        prop_assert!(differences.max_abs.is_none_or(|size| size.0 == 0.0));
        prop_assert!(differences.max_rel.is_none_or(|size| size.0 == 0.0));
    }

    #[test]
    fn each_element_is_judged_by_the_rule(
        pairs in prop::collection::vec((prop::num::f64::ANY, prop::num::f64::ANY), 0..20),
        rtol in 0.0..2.0f64,
        atol in 0.0..1e300f64,
    ) {
        let (one, other): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        let tolerance = Tolerance { rtol, atol };
        let report = &compare(&[fp64(&one)], &[fp64(&other)], tolerance)[0];
        let differences = report.differences.as_ref().expect("compared");
        let far = |(a, b): &(f64, f64)| {
            let finite = a.is_finite() && b.is_finite();
            let near = (a - b).abs() <= atol + rtol * b.abs();
            !(a == b || (a.is_nan() && b.is_nan()) || (finite && near))
        };
        prop_assert_eq!(differences.mismatches, pairs.iter().filter(|pair| far(pair)).count() as u64);
        let first = pairs.iter().position(far).map(|at| vec![at as u64]);
        prop_assert_eq!(differences.first_mismatch.as_ref().map(|mismatch| mismatch.index.clone()), first);
        let (max_abs, max_rel) = (differences.max_abs.expect("numbers"), differences.max_rel.expect("numbers"));
        prop_assert!(max_abs.0 >= 0.0 && max_rel.0 >= 0.0, "never NaN");
        prop_assert_eq!(report.pass, differences.mismatches == 0);
    }

    #[test]
    fn one_integer_that_differs_is_found_where_it_is(
        mut values in prop::collection::vec(any::<i64>(), 1..40),
        at in any::<prop::sample::Index>(),
        by in 1..=i64::MAX,
    ) {
        let same = int64(&values);
        let at = at.index(values.len());
        values[at] = values[at].wrapping_add(by);
        let report = &compare(&[same], &[int64(&values)], Tolerance::default())[0];
        let differences = report.differences.as_ref().expect("compared");
        let first = differences.first_mismatch.as_ref().expect("a mismatch");
        prop_assert_eq!((differences.mismatches, &first.index), (1, &vec![at as u64]));
        prop_assert!(differences.max_abs.expect("numbers").0 >= 1.0);
    }

    #[test]
    fn an_index_leads_back_to_its_position(shape in prop::collection::vec(1u64..6, 0..5), at in any::<prop::sample::Index>()) {
        let count = usize::try_from(shape.iter().product::<u64>()).expect("small");
        let position = at.index(count) as u64;
        let found = index(position, &shape);
        prop_assert!(found.iter().zip(&shape).all(|(at, dim)| at < dim));
        let back = found.iter().zip(&shape).fold(0, |back, (at, dim)| back * dim + at);
        prop_assert_eq!(back, position);
    }
}
