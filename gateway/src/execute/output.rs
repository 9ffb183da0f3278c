//! Results are checked against the model's signature before they leave: a guest's word is not trusted.

use crate::tensor::{InferResponse, Signature, Tensor};

use super::ExecuteError;

/// Keeps the outputs that were asked for (all, if none was named) in the order asked for, and checks each against the
/// signature: name, datatype, shape and the layout of its bytes.
pub fn check_outputs(
    signature: &Signature,
    requested: &[String],
    mut response: InferResponse,
) -> Result<InferResponse, ExecuteError> {
    // Of more outputs than announced, one is unknown or given twice, and looking at one more than announced finds it: what
    // this costs is bounded by the signature and not by the guest.
    response.outputs.truncate(signature.outputs.len() + 1);
    for (index, output) in response.outputs.iter().enumerate() {
        check_output(signature, output)?;
        if response.outputs[..index].iter().any(|earlier| earlier.name == output.name) {
            return Err(ExecuteError::Output(format!("output '{}' is given twice", output.name)));
        }
    }
    let names: Vec<&str> = if requested.is_empty() {
        signature.outputs.iter().map(|spec| spec.name.as_str()).collect()
    } else {
        requested.iter().map(String::as_str).collect()
    };
    let mut given = std::mem::take(&mut response.outputs);
    for name in names {
        let Some(position) = given.iter().position(|output| output.name == name) else {
            return Err(ExecuteError::Output(format!("output '{name}' is missing")));
        };
        response.outputs.push(given.swap_remove(position));
    }
    Ok(response)
}

fn check_output(signature: &Signature, output: &Tensor) -> Result<(), ExecuteError> {
    let name: String = output.name.chars().take(64).collect();
    let Some(spec) = signature.outputs.iter().find(|spec| spec.name == output.name) else {
        return Err(ExecuteError::Output(format!("output {name:?} is not in the signature")));
    };
    if spec.datatype != output.datatype {
        return Err(ExecuteError::Output(format!(
            "output '{name}' is {}, the signature says {}",
            output.datatype, spec.datatype
        )));
    }
    if !spec.admits(&output.shape) {
        return Err(ExecuteError::Output(format!(
            "output '{name}' has shape {}, the signature says {}",
            crate::tensor::Shape::from(output.shape.as_slice()),
            spec.shape
        )));
    }
    output.check_layout().map_err(|error| ExecuteError::Output(format!("output '{name}': {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Datatype, Shape, TensorSpec};

    fn output(name: &str, datatype: Datatype, shape: &[u64], bytes: usize) -> Tensor {
        Tensor {
            name: name.into(),
            datatype,
            shape: shape.into(),
            parameters: vec![],
            bytes: vec![0; bytes].into(),
        }
    }

    fn check(requested: &[&str], outputs: Vec<Tensor>) -> Result<Vec<String>, String> {
        let spec =
            |name: &str, datatype| TensorSpec { name: name.into(), datatype, shape: Shape(vec![-1, 2]) };
        let signature =
            Signature { inputs: vec![], outputs: vec![spec("A", Datatype::Fp32), spec("B", Datatype::Int8)] };
        let requested: Vec<String> = requested.iter().map(|name| (*name).into()).collect();
        check_outputs(&signature, &requested, InferResponse { outputs, ..Default::default() })
            .map(|response| response.outputs.into_iter().map(|output| output.name).collect())
            .map_err(|error| error.to_string())
    }

    fn good() -> Vec<Tensor> {
        vec![output("B", Datatype::Int8, &[1, 2], 2), output("A", Datatype::Fp32, &[1, 2], 8)]
    }

    #[test]
    fn outputs_come_in_the_order_asked_for() {
        assert_eq!(check(&[], good()), Ok(vec!["A".into(), "B".into()]));
        assert_eq!(check(&["B"], good()), Ok(vec!["B".into()]));
    }

    #[test]
    fn an_answer_that_breaks_the_signature_is_refused_by_name() {
        let told = |outputs| check(&[], outputs).expect_err("a refusal");
        let a = |datatype, shape: &[u64], bytes| vec![output("A", datatype, shape, bytes)];
        assert!(told(a(Datatype::Fp32, &[1, 2], 8)).ends_with("output 'B' is missing"));
        assert!(
            told(a(Datatype::Fp64, &[1, 2], 16)).ends_with("output 'A' is FP64, the signature says FP32")
        );
        assert!(
            told(a(Datatype::Fp32, &[1, 3], 12))
                .ends_with("output 'A' has shape [1,3], the signature says [-1,2]")
        );
        assert!(told(a(Datatype::Fp32, &[1, 2], 7)).ends_with("shape [1,2] of FP32 takes 8 bytes, got 7"));
        assert!(
            told(vec![output("C", Datatype::Fp32, &[1, 2], 8)])
                .ends_with("output \"C\" is not in the signature")
        );
        let mut twice = good();
        twice.push(output("A", Datatype::Fp32, &[1, 2], 8));
        assert!(told(twice).ends_with("output 'A' is given twice"));
        let mut many = good();
        many.extend((0..100_000).map(|_| output("B", Datatype::Int8, &[1, 2], 2)));
        assert!(told(many).ends_with("output 'B' is given twice"));
    }
}
