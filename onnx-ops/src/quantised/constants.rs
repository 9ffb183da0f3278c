//! What a graph's file says of its values: which are constant, which node makes one, and how many read it.

use std::{cell::Cell, collections::HashMap};

use tract_onnx::{
    data_resolver,
    pb::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType},
    prelude::{DatumType, Tensor},
    tensor::load_tensor,
    tract_core::internal::tensor0,
};

use super::formulas::Grid;
use crate::attributes::Attributes;

/// Scales whose reciprocals are as exact as they are.
const SCALES: std::ops::Range<f32> = 1e-30..1e30;
/// ONNX's numbers of datatypes.
const UINT8: i64 = DataType::Uint8 as i64;
const INT8: i64 = DataType::Int8 as i64;
/// How deep constants are computed from constants.
const DEPTH: usize = 8;

pub struct Constants<'g> {
    tensors: HashMap<&'g str, &'g TensorProto>,
    makers: HashMap<&'g str, &'g NodeProto>,
    readers: HashMap<&'g str, Vec<&'g NodeProto>>,
    /// How often values leave the graph, or are read within a body of a node.
    others: HashMap<&'g str, usize>,
    /// How many more numbers are read: a file may name the same large constant again and again.
    left: Cell<usize>,
}

/// What every file may have read, beside each of its constants twice.
const READ: usize = 1 << 20;

impl<'g> Constants<'g> {
    pub fn new(graph: &'g GraphProto, nodes: &'g [NodeProto]) -> Self {
        let mut all = Self {
            tensors: graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect(),
            makers: HashMap::new(),
            readers: HashMap::new(),
            others: HashMap::new(),
            left: Cell::new(0),
        };
        for node in nodes {
            for output in &node.output {
                all.makers.insert(output, node);
            }
            for input in &node.input {
                all.readers.entry(input).or_default().push(node);
            }
            for attribute in &node.attribute {
                attribute.g.iter().chain(&attribute.graphs).for_each(|body| all.read_within(body));
            }
        }
        let values = nodes.iter().filter_map(|node| Attributes(node).tensor("value"));
        let sizes = values.chain(&graph.initializer).map(size);
        all.left.set(sizes.fold(READ, |all, size| all.saturating_add(size.saturating_mul(2))));
        for output in &graph.output {
            *all.others.entry(&output.name).or_default() += 1;
        }
        all
    }

    fn read_within(&mut self, body: &'g GraphProto) {
        for node in &body.node {
            for input in &node.input {
                *self.others.entry(input).or_default() += 1;
            }
            for attribute in &node.attribute {
                attribute.g.iter().chain(&attribute.graphs).for_each(|body| self.read_within(body));
            }
        }
        for output in &body.output {
            *self.others.entry(&output.name).or_default() += 1;
        }
    }

    pub fn maker(&self, name: &str) -> Option<&'g NodeProto> {
        self.makers.get(name).copied()
    }

    pub fn readers(&self, name: &str) -> &[&'g NodeProto] {
        self.readers.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether only nodes of this graph read a value.
    pub fn stays(&self, name: &str) -> bool {
        !self.others.contains_key(name)
    }

    /// How many inputs of nodes a value is, and outputs of the graph.
    pub fn uses(&self, name: &str) -> usize {
        self.readers(name).len() + self.others.get(name).copied().unwrap_or(0)
    }

    pub fn taken(&self, name: &str) -> bool {
        [self.tensors.contains_key(name), self.makers.contains_key(name), self.readers.contains_key(name)]
            .contains(&true)
    }

    pub fn is_constant(&self, name: &str) -> bool {
        let mut name = name;
        for _ in 0..DEPTH {
            if self.tensors.contains_key(name) {
                return true;
            }
            name = match self.maker(name).map(|node| (node.op_type.as_str(), &node.input[..])) {
                Some(("Constant", [])) => return true,
                Some(("Identity", [input]) | ("Reshape", [input, _])) => input,
                _ => return false,
            };
        }
        false
    }

    /// A constant, or what little nodes make of constants.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        self.tensor_at(name, DEPTH)
    }

    fn load(&self, proto: &TensorProto) -> Option<Tensor> {
        self.left.set(self.left.get().checked_sub(size(proto))?);
        load_tensor(&*data_resolver::default(), proto, None).ok()
    }

    fn tensor_at(&self, name: &str, depth: usize) -> Option<Tensor> {
        if let Some(proto) = self.tensors.get(name) {
            return self.load(proto);
        }
        let node = self.maker(name)?;
        let depth = depth.checked_sub(1)?;
        let attributes = Attributes(node);
        match (node.op_type.as_str(), &node.input[..]) {
            ("Constant", []) => attributes
                .tensor("value")
                .and_then(|proto| self.load(proto))
                .or_else(|| attributes.float("value_float").map(tensor0)),
            ("Identity", [input]) => self.tensor_at(input, depth),
            ("Reshape", [input, shape]) => {
                let shape = self.tensor_at(shape, depth)?;
                reshaped(self.tensor_at(input, depth)?, &numbers::<i64>(&shape)?)
            }
            _ => None,
        }
    }

    pub fn floats(&self, name: &str) -> Option<Tensor> {
        self.tensor(name).filter(|tensor| tensor.datum_type() == DatumType::F32)
    }

    /// The only value of a constant of no dimensions, or one.
    pub fn scalar(&self, name: &str) -> Option<f32> {
        let tensor = self.floats(name).filter(|tensor| tensor.rank() <= 1)?;
        let [value] = numbers::<f32>(&tensor)?[..] else { return None };
        Some(value)
    }

    /// The grid of a `QuantizeLinear` or `DequantizeLinear` of bytes that has one for all values.
    pub fn grid(&self, node: &NodeProto) -> Option<Grid> {
        let (scale, zero) = self.scale_and_zero(node)?;
        let ([scale], Zero { points, signed: Some(signed) }) = (&scale[..], zero) else { return None };
        let [zero] = points[..] else { return None };
        Some(Grid { scale: *scale, zero, signed })
    }

    /// All scales of such a node, and its zero points.
    pub fn scale_and_zero(&self, node: &NodeProto) -> Option<(Vec<f32>, Zero)> {
        if Attributes(node).int("block_size").unwrap_or(0) != 0 {
            return None;
        }
        let scales = self.floats(node.input.get(1)?).filter(|scales| scales.rank() <= 1)?;
        let scales = numbers::<f32>(&scales)?;
        if scales.is_empty() || !scales.iter().all(|scale| SCALES.contains(scale)) {
            return None;
        }
        let zero = match node.input.get(2).map(String::as_str) {
            // From opset 21 on, an attribute may say what comes of it.
            None | Some("") => match Attributes(node).int("output_dtype").unwrap_or(0) {
                0 | UINT8 => Zero { points: vec![0], signed: Some(false) },
                INT8 => Zero { points: vec![0], signed: Some(true) },
                _ => return None,
            },
            Some(name) => {
                let zero = self.tensor(name).filter(|zero| zero.rank() <= 1)?;
                let signed = match zero.datum_type() {
                    DatumType::U8 => Some(false),
                    DatumType::I8 => Some(true),
                    DatumType::I32 => None,
                    _ => return None,
                };
                Zero { points: whole(&zero)?, signed }
            }
        };
        Some((scales, zero))
    }
}

/// Zero points, and whether they are signed bytes; neither for whole numbers of 32 bits.
pub struct Zero {
    pub points: Vec<i32>,
    pub signed: Option<bool>,
}

/// How many values a constant says it has, and may have: none takes less than a bit.
fn size(proto: &TensorProto) -> usize {
    let sizes = proto.dims.iter().map(|size| usize::try_from(*size).unwrap_or(usize::MAX));
    let lists =
        [proto.float_data.len(), proto.int32_data.len(), proto.int64_data.len(), proto.double_data.len()];
    let held = 8 * proto.raw_data.len() + lists.into_iter().sum::<usize>() + proto.string_data.len();
    sizes.fold(1, usize::saturating_mul).min(held)
}

pub fn numbers<T: tract_onnx::prelude::Datum + Copy>(tensor: &Tensor) -> Option<Vec<T>> {
    Some(tensor.to_plain_array_view::<T>().ok()?.iter().copied().collect())
}

/// Bytes and whole numbers of 32 bits.
pub fn whole(tensor: &Tensor) -> Option<Vec<i32>> {
    Some(match tensor.datum_type() {
        DatumType::U8 => numbers::<u8>(tensor)?.into_iter().map(i32::from).collect(),
        DatumType::I8 => numbers::<i8>(tensor)?.into_iter().map(i32::from).collect(),
        DatumType::I32 => numbers(tensor)?,
        _ => return None,
    })
}

/// By `Reshape`'s rules: 0 keeps a dimension, one may be -1.
fn reshaped(tensor: Tensor, shape: &[i64]) -> Option<Tensor> {
    let kept = |(axis, size): (usize, &i64)| match size {
        0 => tensor.shape().get(axis).copied(),
        -1 => Some(0),
        size => usize::try_from(*size).ok(),
    };
    let mut sizes = shape.iter().enumerate().map(kept).collect::<Option<Vec<usize>>>()?;
    if let Some(open) = shape.iter().position(|size| *size == -1) {
        let mut others = sizes.iter().enumerate().filter(|(axis, _)| *axis != open);
        let others = others.try_fold(1usize, |all, (_, size)| all.checked_mul(*size))?;
        sizes[open] = tensor.len().checked_div(others)?;
    }
    tensor.into_shape(&sizes).ok()
}

/// A constant of a file.
pub fn proto(name: String, shape: &[usize], values: &[f32]) -> TensorProto {
    TensorProto {
        name,
        dims: shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect(),
        data_type: DataType::Float as i32,
        raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ..Default::default()
    }
}
