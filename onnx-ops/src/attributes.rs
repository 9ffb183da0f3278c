//! The attributes of a node of a file, as slices of what the file holds.

use tract_onnx::{
    pb::{AttributeProto, NodeProto, TensorProto},
    prelude::{DatumType, Tensor, TractResult, tensor1},
    tract_core::internal::{anyhow, bail, ensure},
};

/// The attributes of one node, by their names. An attribute that is absent is an empty list.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'n>(pub &'n NodeProto);

impl<'n> Attributes<'n> {
    fn find(self, name: &str) -> Option<&'n AttributeProto> {
        self.0.attribute.iter().find(|attribute| attribute.name == name)
    }

    pub fn ints(self, name: &str) -> &'n [i64] {
        self.find(name).map_or(&[], |attribute| &attribute.ints)
    }

    pub fn floats(self, name: &str) -> &'n [f32] {
        self.find(name).map_or(&[], |attribute| &attribute.floats)
    }

    pub fn strings(self, name: &str) -> &'n [Vec<u8>] {
        self.find(name).map_or(&[], |attribute| &attribute.strings)
    }

    pub fn tensor(self, name: &str) -> Option<&'n TensorProto> {
        self.find(name)?.t.as_ref()
    }

    pub fn int(self, name: &str) -> Option<i64> {
        self.find(name).map(|attribute| attribute.i)
    }

    pub fn float(self, name: &str) -> Option<f32> {
        self.find(name).map(|attribute| attribute.f)
    }

    pub fn text(self, name: &str) -> TractResult<Option<&'n str>> {
        let text = self.find(name).map(|attribute| str::from_utf8(&attribute.s));
        text.transpose().map_err(|_| anyhow!("{name} is not UTF-8"))
    }

    /// A list that is given for each of `length` things, or not at all.
    pub fn ints_for(self, name: &str, length: usize) -> TractResult<Option<&'n [i64]>> {
        let ints = self.ints(name);
        ensure!(
            ints.is_empty() || ints.len() == length,
            "{name} has {} values where there are {length}",
            ints.len()
        );
        Ok((!ints.is_empty()).then_some(ints))
    }

    /// The labels of a classifier: whole numbers or texts, exactly one of both.
    pub fn labels(self, ints: &str, strings: &str) -> TractResult<Labels> {
        Ok(match (self.ints(ints), self.strings(strings)) {
            ([], []) => bail!("it has neither {ints} nor {strings}"),
            (ints, []) => Labels::Ints(ints.to_vec()),
            ([], strings) => {
                let texts = strings.iter().map(|bytes| String::from_utf8(bytes.clone()));
                let texts = texts.collect::<Result<Vec<_>, _>>();
                Labels::Strings(texts.map_err(|_| anyhow!("a label is not UTF-8"))?)
            }
            _ => bail!("it has both {ints} and {strings}"),
        })
    }
}

/// What a classifier calls its classes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Labels {
    Ints(Vec<i64>),
    Strings(Vec<String>),
}

impl Labels {
    pub fn len(&self) -> usize {
        match self {
            Self::Ints(labels) => labels.len(),
            Self::Strings(labels) => labels.len(),
        }
    }

    pub fn datum_type(&self) -> DatumType {
        match self {
            Self::Ints(_) => DatumType::I64,
            Self::Strings(_) => DatumType::String,
        }
    }

    /// The labels of these classes, in their order.
    pub fn of(&self, classes: impl Iterator<Item = usize>) -> Tensor {
        match self {
            Self::Ints(labels) => tensor1(&classes.map(|class| labels[class]).collect::<Vec<i64>>()),
            Self::Strings(labels) => tensor1(&classes.map(|class| labels[class].clone()).collect::<Vec<_>>()),
        }
    }
}
