//! What a file of somebody who is not trusted has to keep within before the engine sees it: operators from a list, and counts
//! that a model for inference does not reach.
//!
//! It makes the costly cheap to refuse. What a graph that passes makes the engine do is still unknown: that is bounded by the
//! worker process in which it happens.

use std::collections::HashSet;

use airlock_onnx::file::node_name;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto::DataLocation,
    tensor_shape_proto::dimension::Value as Dim,
};

use crate::execute::LoadError;

use super::proto::{refused, short, tensor_type};

/// Nodes of all graphs, those within others included. The engine's time for a chain of them grows with its square.
const MAX_NODES: usize = 10_000;

/// Constants, in initialisers and attributes.
const MAX_TENSORS: usize = 20_000;

/// Inputs and outputs of the main graph, constants not counted.
const MAX_PORTS: usize = 256;

/// Graphs within graphs (`If`).
const MAX_DEPTH: usize = 4;

const MAX_RANK: usize = 16;

/// Elements of an input or output, as far as its dimensions are numbers.
const MAX_ELEMENTS: u64 = 1 << 32;

/// Bytes of a name.
const MAX_NAME: usize = 1024;

/// What the engine knows and an untrusted model may use. Missing are what has random results, and `Scan`, whose body cannot be
/// interrupted. An operator that a later engine knows is not admitted before it is listed here.
#[rustfmt::skip]
const OPERATORS: &[&str] = &[
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "ArrayFeatureExtractor", "Asin", "Asinh", "Atan",
    "Atanh", "Attention", "AveragePool", "BatchNormalization", "BiasGelu", "Binarizer", "BitShift", "BitwiseAnd",
    "BitwiseNot", "BitwiseOr", "BitwiseXor", "BlackmanWindow", "Cast", "CastLike", "CategoryMapper", "Ceil",
    "Celu", "Clip", "Compress", "Concat", "Constant", "ConstantLike", "ConstantOfShape", "Conv", "ConvInteger",
    "ConvTranspose", "Cos", "Cosh", "CumSum", "DFT", "DepthToSpace", "DequantizeLinear", "Div", "Dropout",
    "DynamicQuantizeLinear", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "FastGelu", "Flatten",
    "Floor", "GRU", "Gather", "GatherBlockQuantized", "GatherElements", "GatherND", "Gelu", "Gemm",
    "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GridSample",
    "GroupNormalization", "GroupQueryAttention", "HammingWindow", "HannWindow", "HardSigmoid", "HardSwish",
    "Hardmax", "Identity", "If", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LSTM", "LayerNormalization",
    "LeakyRelu", "Less", "LessOrEqual", "LinearClassifier", "LinearRegressor", "Log", "LogSoftmax",
    "LpNormalization", "MatMul", "MatMulInteger", "MatMulNBits", "Max", "MaxPool", "Mean",
    "MeanVarianceNormalization", "MelWeightMatrix", "Min", "Mish", "Mod", "Mul", "MultiHeadAttention", "Neg",
    "NonMaxSuppression", "NonZero", "Normalizer", "Not", "OneHot", "Or", "PRelu", "Pad", "ParametricSoftplus",
    "Pow", "QLinearConv", "QLinearMatMul", "QuantizeLinear", "QuickGelu", "RMSNormalization", "RNN", "Range",
    "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "RotaryEmbedding",
    "Round", "Rsqrt", "STFT", "ScaledTanh", "Scaler", "Scatter", "ScatterElements", "ScatterND", "Selu",
    "Shape", "Shrink", "Sigmoid", "Sign", "SimplifiedLayerNormalization", "Sin", "Sinh", "Size",
    "SkipLayerNormalization", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt",
    "Squeeze", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Tile", "TopK", "Transpose",
    "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor", "Trilu", "Unsqueeze", "Where", "Xor",
    "ZipMap",
];

/// Checks a file of `artifact` bytes, with `beside` bytes of other files.
pub fn check(file: &ModelProto, artifact: usize, beside: usize) -> Result<(), LoadError> {
    if !file.functions.is_empty() {
        return Err(refused("the file defines functions of its own: export the model with them inlined"));
    }
    let Some(graph) = &file.graph else { return Ok(()) };
    // An initialiser may be listed among the inputs too, once.
    let mut constants: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let inputs = graph.input.iter().filter(|input| !constants.remove(input.name.as_str())).count();
    at_most("inputs and outputs", inputs + graph.output.len(), MAX_PORTS)?;
    for info in graph.input.iter().chain(&graph.output) {
        let Some(shape) = tensor_type(info).and_then(|tensor| tensor.shape.as_ref()) else { continue };
        let fixed = shape.dim.iter().filter_map(|dim| match dim.value {
            Some(Dim::DimValue(value)) => u64::try_from(value).ok().filter(|value| *value > 0),
            _ => None,
        });
        dimensions(&info.name, shape.dim.len(), fixed, MAX_ELEMENTS)?;
    }
    // Elements of half a byte are the smallest that there are.
    let mut seen = Seen {
        elements: (artifact as u64 + beside as u64).saturating_mul(2),
        beside: beside as u64,
        ..Seen::default()
    };
    seen.graph(graph, 0)
}

/// What was counted so far, and what may still come.
#[derive(Default)]
struct Seen {
    nodes: usize,
    tensors: usize,
    /// More elements than one tensor can have of the bytes that there are.
    elements: u64,
    /// Bytes of other files that tensors have not named yet.
    beside: u64,
}

impl Seen {
    fn graph(&mut self, graph: &GraphProto, depth: usize) -> Result<(), LoadError> {
        at_most("graphs within each other", depth, MAX_DEPTH)?;
        self.nodes += graph.node.len();
        at_most("nodes", self.nodes, MAX_NODES)?;
        let ports = graph.input.iter().chain(&graph.output).map(|info| &info.name);
        ports.chain(graph.initializer.iter().map(|tensor| &tensor.name)).try_for_each(|text| name(text))?;
        graph.initializer.iter().try_for_each(|tensor| self.tensor(tensor))?;
        dense(graph.sparse_initializer.is_empty())?;
        for node in &graph.node {
            self.node(node)?;
            node.attribute.iter().try_for_each(|attribute| self.attribute(attribute, depth))?;
        }
        Ok(())
    }

    fn node(&self, node: &NodeProto) -> Result<(), LoadError> {
        let names = node.input.iter().chain(&node.output);
        names.chain([&node.name, &node.op_type, &node.domain]).try_for_each(|text| name(text))?;
        if OPERATORS.binary_search(&node.op_type.as_str()).is_ok() {
            return Ok(());
        }
        let (operator, node) = (short(&node.op_type), short(node_name(node)));
        Err(refused(format!(
            "operator '{operator}' of node '{node}' is not among those that uploaded models may use: export the model with \
             others, or serve it as a wasm plugin"
        )))
    }

    fn attribute(&mut self, attribute: &AttributeProto, depth: usize) -> Result<(), LoadError> {
        dense(attribute.sparse_tensor.is_none() && attribute.sparse_tensors.is_empty())?;
        attribute.t.iter().chain(&attribute.tensors).try_for_each(|tensor| self.tensor(tensor))?;
        attribute.g.iter().chain(&attribute.graphs).try_for_each(|graph| self.graph(graph, depth + 1))
    }

    fn tensor(&mut self, tensor: &TensorProto) -> Result<(), LoadError> {
        self.tensors += 1;
        at_most("constants", self.tensors, MAX_TENSORS)?;
        let dims = tensor.dims.iter().map(|dim| u64::try_from(*dim));
        let dims = dims
            .collect::<Result<Vec<u64>, _>>()
            .map_err(|_| refused(format!("constant '{}' has a negative dimension", short(&tensor.name))))?;
        dimensions(&tensor.name, dims.len(), dims.iter().copied(), self.elements)?;
        self.elsewhere(tensor)
    }

    /// Bytes of other files are there once: naming them again and again would make much of little.
    fn elsewhere(&mut self, tensor: &TensorProto) -> Result<(), LoadError> {
        if tensor.data_location != Some(DataLocation::External as i32) {
            return Ok(());
        }
        let length = tensor.external_data.iter().find(|entry| entry.key == "length");
        let name = short(&tensor.name);
        // Without a length it is the rest of the file, and only one tensor's.
        let length = match length.map(|entry| entry.value.parse::<u64>()) {
            None => self.beside,
            Some(Ok(length)) => length,
            Some(Err(_)) => {
                return Err(refused(format!("external data of tensor '{name}': its length is not a number")));
            }
        };
        self.beside = self.beside.checked_sub(length).ok_or_else(|| {
            refused(format!(
                "external data of tensor '{name}': the files beside the model do not hold so much"
            ))
        })?;
        Ok(())
    }
}

/// tract does not read sparse constants. ONNX Runtime does, and the files that they name as well.
fn dense(is_dense: bool) -> Result<(), LoadError> {
    if is_dense { Ok(()) } else { Err(refused("the model has sparse constants: export it with dense ones")) }
}

fn name(text: &str) -> Result<(), LoadError> {
    if text.len() > MAX_NAME {
        return Err(refused(format!(
            "the name '{}…' has {} bytes, at most {MAX_NAME} are admitted",
            short(text),
            text.len()
        )));
    }
    Ok(())
}

fn at_most(what: &str, count: usize, most: usize) -> Result<(), LoadError> {
    if count > most {
        return Err(refused(format!("the model has {count} {what}, an uploaded one may have {most}")));
    }
    Ok(())
}

fn dimensions(
    name: &str,
    rank: usize,
    mut dims: impl Iterator<Item = u64>,
    most: u64,
) -> Result<(), LoadError> {
    let name = short(name);
    if rank > MAX_RANK {
        return Err(refused(format!("'{name}' has {rank} dimensions, at most {MAX_RANK} are admitted")));
    }
    let elements = dims.try_fold(1u64, |product, dim| product.checked_mul(dim));
    if elements.is_none_or(|elements| elements > most) {
        return Err(refused(format!(
            "'{name}' is said to have more elements than the {most} that there can be"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::OPERATORS;

    #[test]
    fn operators_are_in_order_and_known_to_the_engine() {
        assert!(OPERATORS.is_sorted());
        let onnx = airlock_onnx::engine();
        // A scaler becomes arithmetic before the engine sees it, and probabilities are not zipped into maps.
        let known =
            |name: &str| ["Scaler", "ZipMap"].contains(&name) || onnx.op_register.0.contains_key(name);
        let unknown: Vec<_> = OPERATORS.iter().filter(|name| !known(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
