//! Rewrites that make a graph load, or answer rightly, where the engine has a gap.

use std::collections::HashSet;

use tract_onnx::pb::{
    AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto::AttributeType,
    tensor_proto::DataType,
};

use super::proto::node_name;

/// Domain of the classical models: trees, scalers, linear classifiers.
const ML: &str = "ai.onnx.ml";

/// Applies the rewrites that change what is computed.
pub fn rewrite(graph: &mut GraphProto) {
    rewrite_scalers(graph);
    graph.node.iter_mut().for_each(rewrite_binary_trees);
    guard_quantised_softmax(graph);
}

/// Rewrites ai.onnx.ml's `Scaler`, which the engine lacks, into `Sub` and `Mul`.
fn rewrite_scalers(graph: &mut GraphProto) {
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut node in std::mem::take(&mut graph.node) {
        let is_scaler = node.op_type == "Scaler" && node.domain == ML;
        let (true, [input], [output]) = (is_scaler, node.input.as_slice(), node.output.as_slice()) else {
            nodes.push(node);
            continue;
        };
        let name = node_name(&node).to_owned();
        let mut value = input.clone();
        // Any number goes in and FP32 comes out, whatever the input was.
        let mut steps = vec![("Cast", None)];
        for (op, attribute) in [("Sub", "offset"), ("Mul", "scale")] {
            if let Some(floats) = node.attribute.iter_mut().find(|a| a.name == attribute) {
                steps.push((op, Some(std::mem::take(&mut floats.floats))));
            }
        }
        let last = steps.len() - 1;
        for (index, (op, operand)) in steps.into_iter().enumerate() {
            let mut step =
                NodeProto { op_type: op.into(), name: format!("{name}/{op}"), ..Default::default() };
            step.input.push(value);
            match operand {
                Some(floats) => {
                    let operand = format!("{name}/{op}/operand");
                    graph.initializer.push(vector(&operand, floats));
                    step.input.push(operand);
                }
                None => step.attribute.push(AttributeProto {
                    name: "to".into(),
                    i: DataType::Float as i64,
                    r#type: AttributeType::Int as i32,
                    ..Default::default()
                }),
            }
            value = if index == last { output.clone() } else { format!("{name}/{op}/result") };
            step.output.push(value.clone());
            nodes.push(step);
        }
    }
    graph.node = nodes;
}

fn vector(name: &str, floats: Vec<f32>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: vec![i64::try_from(floats.len()).unwrap_or(i64::MAX)],
        data_type: DataType::Float as i32,
        float_data: floats,
        ..Default::default()
    }
}

/// Spells out the second class of a `TreeEnsembleClassifier` that scores only one of two, which the engine's labels get
/// wrong. As in onnxruntime, weights that are nowhere negative are probabilities; others are scores around zero.
fn rewrite_binary_trees(node: &mut NodeProto) {
    if node.op_type != "TreeEnsembleClassifier" || node.domain != ML {
        return;
    }
    let Some(forest) = Forest::of(node) else { return };
    let Forest { weights, trees, base } = forest;
    let probabilities = weights.iter().all(|weight| *weight >= 0.0);
    // Summed over all trees, the complements of probabilities make 1.
    let share = if probabilities { 1.0 / trees } else { 0.0 };
    for name in ["class_nodeids", "class_treeids"] {
        if let Some(ids) = attribute(node, name) {
            ids.ints = ids.ints.iter().flat_map(|id| [*id, *id]).collect();
        }
    }
    if let Some(ids) = attribute(node, "class_ids") {
        ids.ints = weights.iter().flat_map(|_| [0, 1]).collect();
    }
    if let Some(floats) = attribute(node, "class_weights") {
        floats.floats = weights.iter().flat_map(|weight| [share - weight, *weight]).collect();
    }
    if let (Some(floats), Some(base)) = (attribute(node, "base_values"), base) {
        floats.floats = vec![-base, base];
    }
    if probabilities && let Some(text) = attribute(node, "post_transform") {
        text.s = b"NONE".to_vec();
    }
}

/// What the leaves of a one-score forest say.
struct Forest {
    weights: Vec<f32>,
    trees: f32,
    base: Option<f32>,
}

impl Forest {
    /// `None` for a classifier whose leaves name several classes, or that has not two of them.
    fn of(node: &mut NodeProto) -> Option<Self> {
        let labels =
            |name, node: &mut NodeProto| attribute(node, name).map_or(0, |a| a.ints.len() + a.strings.len());
        if labels("classlabels_int64s", node) + labels("classlabels_strings", node) != 2 {
            return None;
        }
        let classes: HashSet<i64> = attribute(node, "class_ids")?.ints.iter().copied().collect();
        let trees: HashSet<i64> = attribute(node, "class_treeids")?.ints.iter().copied().collect();
        let weights = attribute(node, "class_weights")?.floats.clone();
        let base = match attribute(node, "base_values").map(|values| values.floats.as_slice()) {
            None | Some([]) => None,
            Some([base]) => Some(*base),
            Some(_) => return None,
        };
        #[expect(clippy::cast_precision_loss, reason = "forests have far fewer than 2^24 trees")]
        let trees = trees.len() as f32;
        (classes.len() == 1).then_some(Self { weights, trees, base })
    }
}

fn attribute<'n>(node: &'n mut NodeProto, name: &str) -> Option<&'n mut AttributeProto> {
    node.attribute.iter_mut().find(|attribute| attribute.name == name)
}

/// Keeps a `Softmax` of a quantised graph out of the engine's lookup tables. The engine takes every operator between a
/// `DequantizeLinear` and a `QuantizeLinear` that keeps the shape for one that works element by element, which this one
/// does not, and every probability would become 1. A result that is used twice is left alone.
fn guard_quantised_softmax(graph: &mut GraphProto) {
    if !graph.node.iter().any(|node| node.op_type == "QuantizeLinear") {
        return;
    }
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut node in std::mem::take(&mut graph.node) {
        let mut guard = None;
        if node.op_type == "Softmax"
            && let [output] = node.output.as_mut_slice()
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
