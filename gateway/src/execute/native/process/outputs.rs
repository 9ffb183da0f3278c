//! What a worker says that its model answered, before it is believed.

use std::io;

use crate::{
    execute::{ExecuteError, check_outputs, native::too_much},
    tensor::{InferResponse, Signature, Tensor},
};

use super::{shared::Shared, wire::Placed};

/// Bytes of a text of a worker's that reach a client.
const MAX_TEXT: usize = 1024;

/// Copies the outputs out, then checks the copies: the worker could still change what lies in the shared memory. From `free`
/// on it was to put them there.
pub fn take_over(
    shared: &Shared,
    outputs: Vec<Placed>,
    requested: &[String],
    signature: &Signature,
    max_output_bytes: usize,
    free: u64,
) -> Result<InferResponse, ExecuteError> {
    if outputs.len() > signature.outputs.len() {
        return Err(nonsense("it gave more outputs than there are"));
    }
    let bytes = outputs.iter().map(|output| output.length).fold(0usize, usize::saturating_add);
    if bytes > max_output_bytes {
        return Err(too_much(max_output_bytes));
    }
    let mut response = InferResponse::default();
    for Placed { name, datatype, shape, offset, length } in outputs {
        let copied = if offset < free && length > 0 {
            Err(io::Error::other("it lies among the inputs"))
        } else {
            shared.copy(offset, length)
        };
        let bytes = match copied {
            Ok(bytes) => bytes.into(),
            Err(error) => return Err(nonsense(&format!("output '{}': {error}", bounded(name)))),
        };
        response.outputs.push(Tensor { name, datatype, shape, parameters: Vec::new(), bytes });
    }
    check_outputs(signature, requested, response)
}

pub fn nonsense(detail: &str) -> ExecuteError {
    ExecuteError::Trapped {
        reason: "the answer of the model's worker process makes no sense".to_owned(),
        detail: detail.to_owned(),
    }
}

/// Not too long, and on one line.
pub fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::tensor::{Datatype, Shape, TensorSpec};

    use super::*;

    const FREE: u64 = 128;

    fn signature() -> Signature {
        let spec =
            |name: &str, datatype, dim| TensorSpec { name: name.into(), datatype, shape: Shape(vec![dim]) };
        Signature {
            inputs: vec![],
            outputs: vec![spec("y", Datatype::Fp32, -1), spec("s", Datatype::Bytes, 1)],
        }
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0..300u64, any::<u64>(), Just(u64::MAX), Just(1 << 62)]
    }

    fn placed() -> impl Strategy<Value = Placed> {
        let name = prop_oneof![Just("y".to_owned()), Just("s".to_owned()), ".*"];
        let datatype = prop::sample::select(Datatype::ALL.to_vec());
        let length = prop_oneof![0..64usize, any::<usize>(), Just(usize::MAX)];
        (name, datatype, prop::collection::vec(number(), 0..4), number(), length).prop_map(
            |(name, datatype, shape, offset, length)| Placed { name, datatype, shape, offset, length },
        )
    }

    proptest! {
        #[test]
        fn what_a_worker_claims_is_sound_or_refused(outputs in prop::collection::vec(placed(), 0..4)) {
            let shared = Shared::new(4096).expect("memory");
            shared.write(0, &[7; 4096]).expect("room");
            let claimed = outputs.len();
            if let Ok(response) = take_over(&shared, outputs, &[], &signature(), 256, FREE) {
                prop_assert_eq!(response.outputs.len(), claimed);
                let bytes: usize = response.outputs.iter().map(|output| output.bytes.len()).sum();
                prop_assert!(bytes <= 256);
                prop_assert!(response.outputs.iter().all(|output| output.check_layout().is_ok()));
            }
        }
    }

    #[test]
    fn a_text_is_bounded_and_on_one_line() {
        assert_eq!(bounded("a\nb\u{1b}[31m\u{9b}".into()), "a b [31m ");
        assert_eq!(bounded("€".repeat(1000)), "€".repeat(MAX_TEXT / 3));
    }

    #[test]
    fn a_sound_answer_is_taken_and_inputs_are_not_one() {
        let shared = Shared::new(4096).expect("memory");
        shared.write(0, &[7; 4096]).expect("room");
        let strings = [&5u32.to_le_bytes()[..], b"hello"].concat();
        shared.write(192, &strings).expect("room");
        let outputs = |offset| {
            let y = Placed { name: "y".into(), datatype: Datatype::Fp32, shape: vec![2], offset, length: 8 };
            vec![
                y,
                Placed {
                    name: "s".into(),
                    datatype: Datatype::Bytes,
                    shape: vec![1],
                    offset: 192,
                    length: 9,
                },
            ]
        };
        let taken = |offset, most| take_over(&shared, outputs(offset), &[], &signature(), most, FREE);
        let response = taken(FREE, 17).expect("sound");
        assert_eq!(response.outputs[0].bytes[..], [7; 8]);
        assert_eq!(response.outputs[1].bytes[..], strings);
        assert!(matches!(taken(FREE, 16), Err(ExecuteError::Output(_))), "too much");
        for offset in [0, FREE - 1, 4089, u64::MAX] {
            assert!(matches!(taken(offset, 17), Err(ExecuteError::Trapped { .. })), "{offset}");
        }
    }
}
