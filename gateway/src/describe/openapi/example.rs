//! Requests that a model answers: zeros, `false` and empty texts, of the shapes that its signature fixes; 1 where it fixes none.

use serde_json::{Map, Value, json};

use crate::tensor::{Datatype, Signature, TensorSpec, element_count};

/// Elements of an example, of all inputs together. Where a model takes more, its document has none: it would be longer than all the
/// rest.
const MAX_ELEMENTS: u64 = 4096;

/// The body of an infer request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Example {
    Json(Value),
    /// The body has its JSON in front, of so many bytes, and then zero bytes: for what JSON cannot carry.
    Binary {
        body: String,
        header_length: usize,
    },
}

/// An infer request with all inputs; `None` if they are too large.
pub(super) fn infer(signature: &Signature) -> Option<Example> {
    let sized = sized(signature)?;
    let mut zeros = 0;
    let inputs: Vec<Value> = sized
        .map(|(spec, shape, count)| {
            let mut input = json!({ "name": spec.name, "datatype": spec.datatype.name(), "shape": shape });
            if spec.datatype == Datatype::Bf16 {
                input["parameters"] = json!({ "binary_data_size": 2 * count });
                zeros += 2 * count;
            } else {
                input["data"] = elements(spec.datatype, count).into();
            }
            input
        })
        .collect();
    let mut request = json!({ "inputs": inputs });
    if signature.outputs.iter().any(|spec| spec.datatype == Datatype::Bf16) {
        request["outputs"] = signature.outputs.iter().map(requested).collect();
    }
    if signature.inputs.iter().all(|spec| spec.datatype != Datatype::Bf16) {
        return Some(Example::Json(request));
    }
    let mut body = request.to_string();
    let header_length = body.len();
    body.extend(std::iter::repeat_n('\0', usize::try_from(zeros).ok()?));
    Some(Example::Binary { body, header_length })
}

/// An output as the example asks for it.
fn requested(spec: &TensorSpec) -> Value {
    match spec.datatype {
        Datatype::Bf16 => json!({ "name": spec.name, "parameters": { "binary_data": true } }),
        _ => json!({ "name": spec.name }),
    }
}

/// The body of a `generate` with all inputs; `None` if they are too large.
pub(super) fn generate(signature: &Signature) -> Option<Value> {
    let inputs = sized(signature)?.map(|(spec, _, count)| {
        let mut elements = elements(spec.datatype, count);
        let value = if count == 1 { elements.remove(0) } else { elements.into() };
        (spec.name.clone(), value)
    });
    Some(Value::Object(inputs.collect::<Map<_, _>>()))
}

/// Each input with a shape and its number of elements, if these are few enough.
fn sized(signature: &Signature) -> Option<impl Iterator<Item = (&TensorSpec, Vec<u64>, u64)>> {
    let sized = |spec| {
        let shape = shape(spec);
        let count = element_count(&shape)?;
        Some((spec, shape, count))
    };
    let sized: Vec<_> = signature.inputs.iter().map(sized).collect::<Option<_>>()?;
    let total = sized.iter().try_fold(0u64, |total, (_, _, count)| total.checked_add(*count))?;
    (total <= MAX_ELEMENTS).then(|| sized.into_iter())
}

fn shape(spec: &TensorSpec) -> Vec<u64> {
    spec.shape.0.iter().map(|dim| u64::try_from(*dim).unwrap_or(1)).collect()
}

fn elements(datatype: Datatype, count: u64) -> Vec<Value> {
    let element = match datatype {
        Datatype::Bool => json!(false),
        Datatype::Bytes => json!(""),
        _ => json!(0),
    };
    (0..count).map(|_| element.clone()).collect()
}
