use super::*;

#[test]
fn every_datatype_is_found_by_its_name_and_only_by_it() {
    for datatype in Datatype::ALL {
        assert_eq!(Datatype::from_name(datatype.name()), Some(datatype));
        assert_eq!(Datatype::from_name(&datatype.name().to_lowercase()), None);
    }
}

#[test]
fn an_empty_shape_is_a_scalar_and_a_zero_dimension_an_empty_tensor() {
    assert_eq!(element_count(&[]), Some(1));
    assert_eq!(element_count(&[7, 0, 3]), Some(0));
    assert_eq!(element_count(&[1 << 62, 1]), Some(1 << 62));
    assert_eq!(element_count(&[1 << 62, 2]), None);
    assert_eq!(element_count(&[u64::MAX, 2]), None);
    assert_eq!(element_count(&[1 << 63, 0]), None, "too large for whoever multiplies before it sees the 0");
}

#[test]
fn layout_errors_say_what_was_expected() {
    let error = check_layout(Datatype::Fp32, &[1, 4], &[0; 12]).expect_err("a refusal");
    assert_eq!(error.to_string(), "shape [1,4] of FP32 takes 16 bytes, got 12");
    let error = check_layout(Datatype::Bytes, &[2], &[1, 0, 0, 0, b'a']).expect_err("a refusal");
    assert_eq!(error.to_string(), "shape [2] has 2 elements, the BYTES data holds 1");
    let error = check_layout(Datatype::Bytes, &[1], &[9, 0, 0, 0, b'a']).expect_err("a refusal");
    assert_eq!(error.to_string(), "BYTES element 0 is cut short: it announces 9 bytes, 1 are left");
    let error = check_layout(Datatype::Bool, &[2], &[1, 7]).expect_err("a refusal");
    assert_eq!(error.to_string(), "BOOL element 1 is 7, expected 0 or 1");
}

#[test]
fn a_spec_admits_its_rank_and_its_fixed_dimensions() {
    let spec = TensorSpec { name: "x".into(), datatype: Datatype::Fp32, shape: Shape(vec![-1, 4]) };
    assert!(spec.admits(&[7, 4]));
    assert!(!spec.admits(&[7, 5]));
    assert!(!spec.admits(&[4]));
}
