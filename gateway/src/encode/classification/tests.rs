use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::tensor::elements;

fn tensor(datatype: Datatype, shape: &[u64], bytes: Vec<u8>) -> Tensor {
    Tensor { name: "X".into(), datatype, shape: shape.into(), parameters: Vec::new(), bytes: bytes.into() }
}

fn floats(shape: &[u64], values: &[f32]) -> Tensor {
    tensor(Datatype::Fp32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn texts(output: &Tensor) -> Vec<String> {
    output.check_layout().expect("the shape fits the texts");
    let texts =
        elements(&output.bytes).map(|text| String::from_utf8_lossy(text.expect("whole")).into_owned());
    texts.collect()
}

fn classes(batched: bool) -> Classes {
    Classes {
        batched,
        labels: BTreeMap::from([("X".into(), ["cat", "", "dog"].map(Box::from).as_slice().into())]),
    }
}

fn of(output: &Tensor, count: u64, classes: &Classes) -> (Vec<u64>, Vec<String>) {
    let best = best(output, count, classes, 1 << 20).expect("classes");
    (best.shape.clone(), texts(&best))
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn values_are_written_as_triton_writes_them() {
    // What Triton answered to that tensor.
    let output = floats(&[1, 4], &[1.0, 2.5, -3.0, 4.0]);
    assert_eq!(of(&output, 2, &Classes::default()), (vec![2], owned(&["4.000000:3", "2.500000:1"])));
    let output = tensor(Datatype::Int8, &[3], vec![255, 7, 128]);
    assert_eq!(of(&output, 3, &Classes::default()).1, ["7:1", "-1:0", "-128:2"]);
    let output = tensor(Datatype::Fp64, &[2], [1e22f64, -0.000_000_4].map(f64::to_le_bytes).concat());
    assert_eq!(of(&output, 2, &Classes::default()).1, ["10000000000000000000000.000000:0", "-0.000000:1"]);
    let output = tensor(Datatype::Fp16, &[1], f16::from_f32(0.5).to_le_bytes().to_vec());
    assert_eq!(of(&output, 1, &Classes::default()).1, ["0.500000:0"]);
}

#[test]
fn each_item_of_a_batch_has_its_own_and_labels_follow() {
    let output = floats(&[2, 3], &[1.0, 3.0, 2.0, 9.0, 9.0, 9.0]);
    let expected = owned(&["3.000000:1", "2.000000:2:dog", "9.000000:0:cat", "9.000000:1"]);
    assert_eq!(of(&output, 2, &classes(true)), (vec![2, 2], expected));
    assert_eq!(of(&output, 1, &classes(false)), (vec![1], owned(&["9.000000:3"])));
}

#[test]
fn there_are_no_more_classes_than_elements() {
    let output = floats(&[1, 2], &[1.0, 2.0]);
    assert_eq!(of(&output, u64::MAX, &Classes::default()).0, [2]);
    assert_eq!(of(&floats(&[0], &[]), 5, &Classes::default()), (vec![0], vec![]));
    assert_eq!(of(&floats(&[3, 0], &[]), 5, &classes(true)), (vec![3, 0], vec![]));
    assert_eq!(of(&floats(&[0, 3], &[]), 2, &classes(true)), (vec![0, 2], vec![]));
    assert_eq!(of(&floats(&[], &[4.0]), 2, &classes(true)), (vec![1], owned(&["4.000000:0:cat"])));
}

#[test]
fn what_is_no_number_comes_last() {
    let output = floats(&[4], &[f32::NAN, f32::NEG_INFINITY, f32::NAN, f32::INFINITY]);
    assert_eq!(of(&output, 4, &Classes::default()).1, ["inf:3", "-inf:1", "nan:0", "nan:2"]);
}

#[test]
fn what_has_no_classes_or_too_many_is_refused() {
    let told = |output: &Tensor, count, bytes| {
        best(output, count, &Classes::default(), bytes)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    assert!(told(&tensor(Datatype::Bool, &[1], vec![1]), 1, 99).contains("BOOL has no classes"));
    assert!(told(&tensor(Datatype::Bytes, &[0], vec![]), 1, 99).contains("BYTES has no classes"));
    let many = tensor(Datatype::Uint8, &[70_000], vec![0; 70_000]);
    assert!(told(&many, u64::MAX, 1 << 20).contains("at most 65536"));
    assert!(told(&many, 100, 700).contains("more bytes than"));
    let rows = tensor(Datatype::Uint8, &[70_000, 1], vec![0; 70_000]);
    let batched = Classes { batched: true, ..Classes::default() };
    assert!(best(&rows, 1, &batched, 1000).is_err());
}

proptest! {
    #[test]
    fn the_heap_finds_what_sorting_finds(values in proptest::collection::vec(any::<f32>(), 0..50), count in 1..60_u64) {
        let length = values.len() as u64;
        let mut sorted: Vec<(usize, f32)> = values.iter().copied().enumerate().collect();
        sorted.sort_by(|(_, a), (_, b)| f64::from(*b).order(&f64::from(*a)));
        let sorted: Vec<String> = sorted.iter().map(|(index, _)| index.to_string()).collect();
        let (shape, texts) = of(&floats(&[length], &values), count, &Classes::default());
        prop_assert_eq!(shape, [count.min(length)]);
        let found: Vec<&str> = texts.iter().filter_map(|text| text.split(':').nth(1)).collect();
        prop_assert_eq!(found, &sorted[..sorted.len().min(usize::try_from(count).expect("small"))]);
    }
}
