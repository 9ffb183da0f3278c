//! A guest's signature: what it announces has to make sense before anything relies on it.

use std::collections::HashSet;

use crate::tensor::{Signature, TensorSpec};

use super::text::shown;

const MAX_TENSORS: usize = 256;
const MAX_NAME: usize = 256;
const MAX_RANK: usize = 16;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SignatureError {
    #[error("it has {given} {side}s, at most {MAX_TENSORS} are admitted")]
    Count { side: &'static str, given: usize },
    #[error("it has no outputs")]
    NoOutputs,
    #[error("{side} {name:?}: a name has 1 to {MAX_NAME} printable characters")]
    Name { side: &'static str, name: String },
    #[error("{side} {name:?} is announced twice")]
    Twice { side: &'static str, name: String },
    #[error("{side} {name:?} has {rank} dimensions, at most {MAX_RANK} are admitted")]
    Rank { side: &'static str, name: String, rank: usize },
    #[error("{side} {name:?} has a dimension of {dimension}; -1 stands for one that varies")]
    Dimension { side: &'static str, name: String, dimension: i64 },
    #[error("{side} {name:?} is too large: the product of its dimensions overflows")]
    Size { side: &'static str, name: String },
}

/// Checks names, ranks, dimensions and sizes.
pub(super) fn check(signature: Signature) -> Result<Signature, SignatureError> {
    if signature.outputs.is_empty() {
        return Err(SignatureError::NoOutputs);
    }
    check_side("input", &signature.inputs)?;
    check_side("output", &signature.outputs)?;
    Ok(signature)
}

fn check_side(side: &'static str, specs: &[TensorSpec]) -> Result<(), SignatureError> {
    if specs.len() > MAX_TENSORS {
        return Err(SignatureError::Count { side, given: specs.len() });
    }
    let mut names = HashSet::new();
    for spec in specs {
        let name = shown(&spec.name, 64);
        let printable = spec.name.chars().all(|c| !c.is_control() && !c.is_whitespace());
        if spec.name.is_empty() || spec.name.len() > MAX_NAME || !printable {
            return Err(SignatureError::Name { side, name });
        }
        if !names.insert(&spec.name) {
            return Err(SignatureError::Twice { side, name });
        }
        let dimensions = &spec.shape.0;
        if dimensions.len() > MAX_RANK {
            return Err(SignatureError::Rank { side, name, rank: dimensions.len() });
        }
        if let Some(dimension) = dimensions.iter().find(|dimension| **dimension < -1) {
            return Err(SignatureError::Dimension { side, name, dimension: *dimension });
        }
        let element = spec.datatype.element_size().unwrap_or(1) as u64;
        let fixed = dimensions.iter().filter_map(|dimension| u64::try_from(*dimension).ok());
        let bytes = fixed.filter(|dimension| *dimension > 0).try_fold(element, u64::checked_mul);
        if bytes.is_none() {
            return Err(SignatureError::Size { side, name });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Datatype, Shape};

    fn spec(name: &str, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype: Datatype::Fp32, shape: Shape(shape.into()) }
    }

    fn check_outputs(outputs: Vec<TensorSpec>) -> Result<(), String> {
        check(Signature { inputs: vec![], outputs }).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn ordinary_signatures_pass() {
        assert_eq!(check_outputs(vec![spec("a", &[-1, 3, 0]), spec("dense/BiasAdd:0", &[])]), Ok(()));
    }

    #[test]
    fn nonsense_is_named() {
        let told = |outputs| check_outputs(outputs).expect_err("it is refused");
        assert_eq!(told(vec![]), "it has no outputs");
        assert!(told(vec![spec("", &[])]).contains("printable"));
        assert!(told(vec![spec("a\u{1b}", &[])]).contains("printable"));
        assert!(told(vec![spec(&"a".repeat(257), &[])]).contains("printable"));
        assert!(told(vec![spec("a", &[1]), spec("a", &[2])]).contains("\"a\" is announced twice"));
        assert!(told(vec![spec("a", &[-2])]).contains("a dimension of -2"));
        assert!(told(vec![spec("a", &[1; 17])]).contains("17 dimensions"));
        assert!(told(vec![spec("a", &[i64::MAX, 2])]).contains("overflows"));
    }
}
