//! What a model's configuration says, whichever of the two files it was read from.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
};

use crate::{
    execute::{Batching, Isolation, OnnxEngine},
    limits::ModelLimits,
    name::Version,
    tensor::{Classes, Signature, TensorSpec},
};

use super::{Kind, labels::Labels};

/// Which of the versions in a model's folder are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VersionPolicy {
    #[default]
    All,
    /// That many of the greatest.
    Latest(usize),
    /// Exactly these; one that has no folder is reported as unavailable.
    Specific(BTreeSet<Version>),
}

impl VersionPolicy {
    /// The versions to serve, out of those that have a folder.
    pub(super) fn select<'a>(
        &self,
        present: impl DoubleEndedIterator<Item = &'a Version>,
    ) -> BTreeSet<Version> {
        match self {
            Self::All => present.cloned().collect(),
            Self::Latest(count) => present.rev().take(*count).cloned().collect(),
            Self::Specific(versions) => versions.clone(),
        }
    }
}

/// A model's configuration; the default is what a model without a configuration file has.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ModelConfig {
    /// The file it was read from; empty if there is none.
    pub(super) file: &'static str,
    /// `None` if it says nothing of versions: then all are served.
    pub(super) version_policy: Option<VersionPolicy>,
    /// Handed to `plugin.load`.
    pub(super) parameters: Vec<(String, String)>,
    /// Declared tensors with their full shapes, batch dimension included.
    pub(super) inputs: Vec<TensorSpec>,
    pub(super) outputs: Vec<TensorSpec>,
    pub(super) max_batch_size: Option<u64>,
    /// Requests that wait at the same time may run together.
    pub(super) batching: Option<Batching>,
    /// The same request always gets the same response, which may be kept.
    pub(super) response_cache: bool,
    /// Whether the first dimension counts the items of a batch; `None` if it says nothing of that.
    pub(super) batched: Option<bool>,
    /// Outputs, and the files that name their classes.
    pub(super) label_files: Vec<(String, String)>,
    pub(super) limits: ModelLimits,
    /// Where it is to run, if it is an ONNX model.
    pub(super) isolation: Option<Isolation>,
    /// On which engine, likewise.
    pub(super) engine: Option<OnnxEngine>,
    /// The kind of artifact that the configuration asks for.
    pub(super) kind: Option<Kind>,
    /// The artifact's file name, where it is not `model.wasm` or `model.onnx`.
    pub(super) artifact: Option<String>,
    /// Fields that make no difference here, such as `instance_group`.
    pub(super) ignored: BTreeSet<String>,
    /// Fields that Triton would act upon and that are not supported, such as `sequence_batching`.
    pub(super) unsupported: BTreeSet<String>,
}

impl ModelConfig {
    /// Checks that every declared tensor is in the model's own signature, with the same datatype. Shapes are not
    /// compared: the model's own are binding.
    pub(super) fn check(&self, signature: &Signature) -> Result<(), String> {
        self.check_tensors("input", &self.inputs, &signature.inputs)?;
        self.check_tensors("output", &self.outputs, &signature.outputs)
    }

    /// How its requests are put together, if they are and a batch may have more than one row.
    pub(super) fn batching(&self) -> Option<Batching> {
        let max = self.max_batch_size.filter(|max| *max > 1)?;
        self.batching.clone().map(|batching| Batching { max, ..batching })
    }

    /// Whether it was read from that file or names it.
    pub(super) fn is_used(&self, file: &OsStr) -> bool {
        file == self.file || self.label_files.iter().any(|(_, named)| file == named.as_str())
    }

    /// How the outputs of a model with that signature are classes. Where the configuration says nothing of batches, a model
    /// whose first dimensions all vary is taken to have them.
    pub(super) fn classes(&self, signature: &Signature, labels: BTreeMap<String, Labels>) -> Classes {
        let varies = |spec: &TensorSpec| spec.shape.0.first() == Some(&-1);
        let all_vary = || signature.inputs.iter().chain(&signature.outputs).all(varies);
        Classes { batched: self.batched.unwrap_or_else(all_vary), labels }
    }

    fn check_tensors(&self, what: &str, declared: &[TensorSpec], given: &[TensorSpec]) -> Result<(), String> {
        for spec in declared {
            let Some(own) = given.iter().find(|own| own.name == spec.name) else {
                let names: Vec<String> = given.iter().map(|own| format!("'{}'", own.name)).collect();
                return Err(format!(
                    "{} declares {what} '{}', the model's {what}s are {}",
                    self.file,
                    spec.name,
                    names.join(", ")
                ));
            };
            if own.datatype != spec.datatype {
                return Err(format!(
                    "{} declares {what} '{}' as {}, the model has {}",
                    self.file, spec.name, spec.datatype, own.datatype
                ));
            }
        }
        Ok(())
    }
}

/// Adds a declared tensor whose name is not there yet and whose dimensions are -1 or at least 1.
pub(super) fn declare(specs: &mut Vec<TensorSpec>, spec: TensorSpec) -> Result<(), String> {
    if spec.name.is_empty() {
        return Err("a declared tensor has no name".into());
    }
    if let Some(dim) = spec.shape.0.iter().find(|dim| **dim < -1 || **dim == 0) {
        return Err(format!("dimension {dim} of '{}' must be -1 (varies) or at least 1", spec.name));
    }
    if specs.iter().any(|other| other.name == spec.name) {
        return Err(format!("'{}' is declared twice", spec.name));
    }
    specs.push(spec);
    Ok(())
}

/// Whether that is the name of a file that is not hidden.
pub(super) fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

/// What a file says is quoted back, but never at length.
pub(super) fn brief(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Datatype, Shape};

    fn versions(texts: &[&str]) -> BTreeSet<Version> {
        texts.iter().map(|text| text.parse().expect("a version")).collect()
    }

    fn spec(name: &str, datatype: Datatype, dim: i64) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: Shape(vec![dim]) }
    }

    #[test]
    fn a_policy_selects_by_number() {
        let present = versions(&["beta", "2", "10", "9"]);
        assert_eq!(VersionPolicy::All.select(present.iter()), present);
        assert_eq!(VersionPolicy::Latest(2).select(present.iter()), versions(&["9", "10"]));
        assert_eq!(VersionPolicy::Latest(9).select(present.iter()), present);
        let specific = versions(&["2", "3"]);
        assert_eq!(VersionPolicy::Specific(specific.clone()).select(present.iter()), specific);
    }

    #[test]
    fn a_declaration_that_contradicts_the_signature_names_expected_and_given() {
        let signature = Signature {
            inputs: vec![spec("A", Datatype::Fp32, -1), spec("B", Datatype::Int8, -1)],
            outputs: vec![spec("C", Datatype::Bytes, -1)],
        };
        let told = |inputs, outputs| {
            ModelConfig { file: "config.pbtxt", inputs, outputs, ..Default::default() }
                .check(&signature)
                .err()
                .unwrap_or_default()
        };
        assert_eq!(told(vec![spec("B", Datatype::Int8, 4)], vec![]), "");
        assert_eq!(
            told(vec![spec("X", Datatype::Fp32, -1)], vec![]),
            "config.pbtxt declares input 'X', the model's inputs are 'A', 'B'"
        );
        assert_eq!(
            told(vec![], vec![spec("C", Datatype::Fp32, -1)]),
            "config.pbtxt declares output 'C' as FP32, the model has BYTES"
        );
    }

    #[test]
    fn declared_tensors_are_named_once_and_have_sound_dimensions() {
        let mut specs = vec![];
        assert_eq!(declare(&mut specs, spec("A", Datatype::Fp32, -1)), Ok(()));
        assert_eq!(
            declare(&mut specs, spec("A", Datatype::Fp32, -1)),
            Err("'A' is declared twice".to_owned())
        );
        for dim in [0, -2, i64::MIN] {
            assert!(declare(&mut specs, spec("B", Datatype::Fp32, dim)).is_err(), "{dim}");
        }
        assert_eq!(specs.len(), 1);
    }
}
