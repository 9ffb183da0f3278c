//! Rewrites of a file that make its graph load, or answer rightly, where the engine has a gap.

use std::collections::HashSet;

use tract_onnx::pb::{
    GraphProto, NodeProto, TypeProto,
    tensor_proto::DataType,
    type_proto::{Tensor as TensorType, Value as TypeValue},
};

use crate::quantised;

/// Domain of the classical models: trees, scalers, linear classifiers.
const ML: &str = "ai.onnx.ml";

/// Applies the rewrites that change what is computed.
pub fn rewrite(graph: &mut GraphProto) {
    remove_zip_maps(graph);
    quantised::rewrite(graph);
    guard_from_tables(graph);
}

/// Removes a `ZipMap` behind which nothing comes but an output: the output is then the tensor of the probabilities, in the
/// order of the classes, of which the `ZipMap` would make a list of maps. The interface knows no maps.
pub fn remove_zip_maps(graph: &mut GraphProto) {
    let is_zip_map = |node: &NodeProto| node.op_type == "ZipMap" && node.domain == ML;
    if !graph.node.iter().any(is_zip_map) {
        return;
    }
    let read: HashSet<String> = graph.node.iter().flat_map(|node| &node.input).cloned().collect();
    for node in graph.node.iter_mut().filter(|node| is_zip_map(node)) {
        let ([_], [output]) = (node.input.as_slice(), node.output.as_slice()) else { continue };
        let info = graph.output.iter_mut().find(|info| info.name == *output);
        let (Some(info), false) = (info, read.contains(output)) else { continue };
        node.op_type = "Identity".into();
        node.domain = String::new();
        node.attribute.clear();
        let tensor = TensorType { elem_type: DataType::Float as i32, shape: None };
        info.r#type = Some(TypeProto { value: Some(TypeValue::TensorType(tensor)), ..Default::default() });
    }
}

/// Operators whose result has the input's shape, but each of whose elements depends on others.
const ACROSS_ELEMENTS: [&str; 12] = [
    "CumSum",
    "GroupNormalization",
    "Hardmax",
    "InstanceNormalization",
    "LayerNormalization",
    "LogSoftmax",
    "LpNormalization",
    "MeanVarianceNormalization",
    "Normalizer",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    "Softmax",
];

/// Keeps such operators of a quantised graph out of the engine's lookup tables. The engine takes every operator between a
/// `DequantizeLinear` and a `QuantizeLinear` that keeps the shape for one that works element by element, and makes a table of
/// what it does to the 256 values of a byte: of a softmax every probability would become 1. A result that is used twice is
/// left alone.
fn guard_from_tables(graph: &mut GraphProto) {
    if !graph.node.iter().any(|node| node.op_type == "QuantizeLinear") {
        return;
    }
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut node in std::mem::take(&mut graph.node) {
        let mut guard = None;
        if ACROSS_ELEMENTS.contains(&node.op_type.as_str())
            && let Some(output) = node.output.first_mut().filter(|output| !output.is_empty())
        {
            let unguarded = format!("{output}/unguarded");
            guard = Some(NodeProto {
                op_type: "Max".into(),
                input: vec![unguarded.clone(); 2],
                output: vec![std::mem::replace(output, unguarded)],
                ..Default::default()
            });
        }
        nodes.push(node);
        nodes.extend(guard);
    }
    graph.node = nodes;
}

/// Puts a node between the graph's outputs and the inputs and constants among them: the engine forgets what it knows of
/// a value when it makes it an output. The outputs are called differently from then on.
pub fn detach_outputs(graph: &mut GraphProto) {
    let inputs = graph.input.iter().map(|info| &info.name);
    let given: HashSet<&String> = inputs.chain(graph.initializer.iter().map(|tensor| &tensor.name)).collect();
    for output in graph.output.iter_mut().filter(|output| given.contains(&output.name)) {
        let name = format!("{}/output", output.name);
        graph.node.push(NodeProto {
            op_type: "Identity".into(),
            input: vec![std::mem::replace(&mut output.name, name.clone())],
            output: vec![name],
            ..Default::default()
        });
    }
}

/// Gives every node a name of its own; the engine refuses a graph where two share one.
pub fn name_nodes(graph: &mut GraphProto) {
    let inputs = graph.input.iter().map(|info| info.name.clone());
    let constants = graph.initializer.iter().map(|tensor| tensor.name.clone());
    let mut taken: HashSet<String> = inputs.chain(constants).collect();
    for (index, node) in graph.node.iter_mut().enumerate() {
        if node.name.is_empty() || taken.contains(&node.name) {
            node.name = format!("{}#{index}", node_name(node));
        }
        taken.insert(node.name.clone());
        for attribute in &mut node.attribute {
            attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(name_nodes);
        }
    }
}

/// A node's name, or that of its first output where it has none.
pub fn node_name(node: &NodeProto) -> &str {
    match node.name.as_str() {
        "" => node.output.first().map_or("", String::as_str),
        name => name,
    }
}
