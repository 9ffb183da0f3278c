use proptest::prelude::*;

use super::*;
use crate::allocator::ALIGNMENT;

fn tensor(datatype: Datatype, data: &[u8]) -> Tensor {
    Tensor::new("T", datatype, &[], data.into())
}

fn told<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn a_view_is_the_bytes_themselves() {
    let tensor = Tensor::from_slice("T", &[2, 1], &[1.5f32, -2.0]).expect("it fits");
    assert_eq!(tensor.datatype, Datatype::Fp32);
    assert_eq!(tensor.data, [0, 0, 0xc0, 0x3f, 0, 0, 0, 0xc0]);
    let view = tensor.as_slice::<f32>().expect("it is FP32");
    assert_eq!(view, [1.5, -2.0]);
    assert_eq!(view.as_ptr().cast(), tensor.data.as_ptr());
}

#[test]
fn bytes_are_aligned_for_every_element() {
    for size in 1..200 {
        let bytes = vec![0u8; size];
        assert!((bytes.as_ptr() as usize).is_multiple_of(ALIGNMENT), "{size}");
    }
    let mut grown = Vec::<u8>::new();
    for byte in 0..200 {
        grown.push(byte);
        assert!((grown.as_ptr() as usize).is_multiple_of(ALIGNMENT), "{byte}");
    }
    assert!(grown.iter().copied().eq(0..200));
}

#[test]
fn a_view_of_another_datatype_is_refused() {
    let tensor = Tensor::from_slice("T", &[1], &[7i64]).expect("it fits");
    assert_eq!(told(tensor.as_slice::<f64>()), "tensor 'T' is INT64, not FP64");
    assert_eq!(told(tensor.byte_strings()), "tensor 'T' is INT64, not BYTES");
    assert_eq!(tensor.as_slice::<i64>(), Ok([7].as_slice()));
}

#[test]
fn half_floats_are_their_bits() {
    for datatype in [Datatype::Fp16, Datatype::Bf16] {
        let tensor = Tensor::from_bits("T", datatype, &[2], &[0x3c00, 1]).expect("it fits");
        assert_eq!(tensor.datatype, datatype);
        assert_eq!(tensor.as_slice::<u16>(), Ok([0x3c00, 1].as_slice()));
    }
    assert_eq!(
        told(Tensor::from_bits("T", Datatype::Int16, &[1], &[1])),
        "tensor 'T': INT16 is neither FP16 nor BF16"
    );
}

#[test]
fn bytes_that_are_not_elements_are_refused() {
    assert_eq!(
        told(tensor(Datatype::Fp32, &[0; 7]).as_slice::<f32>()),
        "tensor 'T' of FP32: its bytes are not whole elements"
    );
    assert_eq!(
        told(tensor(Datatype::Bool, &[0, 2]).as_slice::<bool>()),
        "tensor 'T' of BOOL: an element is neither 0 nor 1"
    );
    assert_eq!(tensor(Datatype::Bool, &[0, 1]).as_slice::<bool>(), Ok([false, true].as_slice()));
    assert_eq!(tensor(Datatype::Fp64, &[]).as_slice::<f64>(), Ok([].as_slice()));
}

#[test]
fn a_tensor_is_filled_in_place() {
    let mut tensor = Tensor::zeroed::<i32>("T", &[2, 2]).expect("it is small");
    tensor.as_mut_slice::<i32>().expect("it is INT32")[3] = 9;
    assert_eq!(tensor.as_slice::<i32>(), Ok([0, 0, 0, 9].as_slice()));
    assert!(Tensor::zeroed::<f64>("T", &[0, u64::MAX]).is_ok_and(|tensor| tensor.data.is_empty()));
    assert_eq!(told(tensor.as_mut_slice::<u32>()), "tensor 'T' is INT32, not UINT32");
    assert!(told(Tensor::zeroed::<f64>("T", &[u64::MAX / 8, 16])).ends_with("is too large"));
    assert!(told(Tensor::zeroed::<f64>("T", &[u64::MAX / 8])).ends_with("is too large"));
}

#[test]
fn a_shape_that_the_elements_do_not_fill_is_refused() {
    assert_eq!(
        told(Tensor::from_slice("T", &[2, 2], &[1u8; 3])),
        "tensor 'T': 3 elements do not fill shape [2, 2]"
    );
    assert!(told(Tensor::from_strings("T", &[2], &["a"])).contains("do not fill"));
    assert!(told(Tensor::from_slice("T", &[u64::MAX, 2], &[1u8])).contains("do not fill"));
    assert!(Tensor::from_slice("T", &[], &[1u8]).is_ok(), "a scalar has one element");
}

#[test]
fn text_that_is_not_utf8_is_the_callers_fault() {
    let tensor = Tensor::from_strings("T", &[2], &[b"ok".as_slice(), &[0xff]]).expect("it fits");
    assert_eq!(tensor.strings(), Err(Error::InvalidInput("tensor 'T': element 1 is not UTF-8 text".into())));
    assert_eq!(tensor.byte_strings(), Ok(vec![b"ok".as_slice(), &[0xff]]));
}

#[test]
fn byte_strings_that_are_cut_short_are_refused() {
    for cut in [&[1, 0, 0][..], &[2, 0, 0, 0, 7], &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]] {
        assert!(told(tensor(Datatype::Bytes, cut).byte_strings()).ends_with("is cut short"), "{cut:?}");
    }
}

proptest! {
    #[test]
    fn byte_strings_come_back_as_they_were(elements: Vec<Vec<u8>>) {
        let tensor = Tensor::from_strings("T", &[elements.len() as u64], &elements).expect("it fits");
        prop_assert_eq!(tensor.byte_strings(), Ok(elements.iter().map(Vec::as_slice).collect()));
    }

    #[test]
    fn any_bytes_are_read_whole_or_refused(data: Vec<u8>) {
        if let Ok(elements) = tensor(Datatype::Bytes, &data).byte_strings() {
            let size: usize = elements.iter().map(|element| element.len() + 4).sum();
            prop_assert_eq!(size, data.len());
        }
    }
}
