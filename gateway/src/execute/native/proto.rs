//! The ONNX file before the engine sees it: what it takes and gives, and what is refused.

use std::{
    collections::{BTreeMap, HashSet},
    ops::ControlFlow,
};

use tract_onnx::{
    Onnx,
    pb::{
        GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
        tensor_proto::{DataLocation, DataType},
        tensor_shape_proto::{Dimension, dimension::Value as Dim},
        type_proto::{Tensor as TensorType, Value as TypeValue},
    },
    prelude::Framework,
};

use airlock_onnx::file::node_name;

use crate::{
    execute::{LoadError, Step},
    tensor::Datatype,
};

/// Domains whose operators the engine knows; it looks an operator up by its name alone.
const DOMAINS: [&str; 4] = ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"];

/// Unsupported operators that a refusal names; the rest is counted.
const NAMED_OPERATORS: usize = 8;

pub fn refused(reason: impl std::fmt::Display) -> LoadError {
    LoadError::new(Step::Check, reason)
}

/// Decodes an ONNX file.
pub fn decode(onnx: &Onnx, artifact: &[u8]) -> Result<ModelProto, LoadError> {
    onnx.proto_model_for_read(&mut &*artifact)
        .map_err(|error| refused(format!("not an ONNX file: {error:#}")))
}

/// The main graph.
pub fn graph_mut(model: &mut ModelProto) -> Result<&mut GraphProto, LoadError> {
    model.graph.as_mut().ok_or_else(|| refused("the ONNX file holds no graph"))
}

/// Refuses a graph with operators that the engine does not have, and names them.
pub fn check_operators(onnx: &Onnx, graph: &GraphProto) -> Result<(), LoadError> {
    // One entry for each operator, with the first node that uses it.
    let mut unsupported: BTreeMap<String, String> = BTreeMap::new();
    for_each_node(graph, &mut |node| {
        let known = DOMAINS.contains(&node.domain.as_str()) && onnx.op_register.0.contains_key(&node.op_type);
        if !known {
            let operator = match node.domain.as_str() {
                "" => node.op_type.clone(),
                domain => format!("{domain}.{}", node.op_type),
            };
            unsupported.entry(short(&operator)).or_insert_with(|| short(node_name(node)));
        }
    });
    if unsupported.is_empty() {
        return Ok(());
    }
    let mut texts: Vec<String> = unsupported
        .iter()
        .take(NAMED_OPERATORS)
        .map(|(operator, node)| format!("operator '{operator}' of node '{node}'"))
        .collect();
    if let Some(more) = unsupported.len().checked_sub(NAMED_OPERATORS).filter(|more| *more > 0) {
        texts.push(format!("{more} more operators"));
    }
    let verb = if unsupported.len() == 1 { "is" } else { "are" };
    Err(refused(format!(
        "{} {verb} not supported by the native engine: export the model with others, or serve it as a wasm plugin",
        texts.join(", ")
    )))
}

pub fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

fn for_each_node(graph: &GraphProto, visit: &mut impl FnMut(&NodeProto)) {
    for node in &graph.node {
        visit(node);
        for attribute in &node.attribute {
            attribute.g.iter().chain(&attribute.graphs).for_each(|graph| for_each_node(graph, visit));
        }
    }
}

fn for_each_tensor(
    graph: &mut GraphProto,
    visit: &mut impl FnMut(&mut TensorProto) -> ControlFlow<LoadError>,
) -> ControlFlow<LoadError> {
    graph.initializer.iter_mut().try_for_each(&mut *visit)?;
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute.t.iter_mut().chain(&mut attribute.tensors).try_for_each(&mut *visit)?;
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            for_each_tensor(graph, visit)?;
        }
    }
    ControlFlow::Continue(())
}

/// Brings tensors that are kept outside the ONNX file into it. They are looked up by name among `files`, what lies beside
/// the model, and nowhere else: no path is ever opened.
pub fn embed_external_tensors(graph: &mut GraphProto, files: &[(String, Vec<u8>)]) -> Result<(), LoadError> {
    let outcome = for_each_tensor(graph, &mut |tensor| {
        if tensor.data_location != Some(DataLocation::External as i32) {
            return ControlFlow::Continue(());
        }
        match external_bytes(tensor, files) {
            Ok(bytes) => {
                tensor.raw_data = bytes.to_vec();
                tensor.data_location = None;
                tensor.external_data.clear();
                ControlFlow::Continue(())
            }
            Err(reason) => ControlFlow::Break(refused(format!(
                "external data of tensor '{}': {reason}",
                short(&tensor.name)
            ))),
        }
    });
    outcome.break_value().map_or(Ok(()), Err)
}

fn external_bytes<'f>(tensor: &TensorProto, files: &'f [(String, Vec<u8>)]) -> Result<&'f [u8], String> {
    let entry =
        |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|e| e.value.as_str());
    let number = |key: &str| {
        entry(key)
            .map(|text| {
                text.parse::<usize>().map_err(|_| format!("its {key} {:?} is not a number", short(text)))
            })
            .transpose()
    };
    let location = entry("location").ok_or("it has no location")?;
    let name = location.strip_prefix("./").unwrap_or(location);
    let (_, bytes) = files
        .iter()
        .find(|(file, _)| file == name)
        .ok_or_else(|| format!("{:?} is not a file beside the model", short(location)))?;
    let offset = number("offset")?.unwrap_or(0);
    let rest =
        bytes.get(offset..).ok_or_else(|| format!("its offset {offset} is beyond the end of {name:?}"))?;
    let length = number("length")?.unwrap_or(rest.len());
    rest.get(..length).ok_or_else(|| format!("its length {length} is beyond the end of {name:?}"))
}

/// An input or output of the main graph.
#[derive(Debug)]
pub struct Port {
    pub name: String,
    pub datatype: Datatype,
    /// As the file declares it: `None` without a shape, and -1 for a dimension that is not a number.
    pub shape: Option<Vec<i64>>,
}

/// The inputs that a caller has to give (an input with an initialiser is a constant), and the outputs.
pub fn ports(graph: &GraphProto) -> Result<(Vec<Port>, Vec<Port>), LoadError> {
    let constants: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let inputs = graph.input.iter().filter(|info| !constants.contains(info.name.as_str()));
    let inputs = inputs.map(|info| port("input", info)).collect::<Result<Vec<Port>, LoadError>>()?;
    let outputs =
        graph.output.iter().map(|info| port("output", info)).collect::<Result<Vec<Port>, LoadError>>()?;
    if outputs.is_empty() {
        return Err(refused("the graph has no outputs"));
    }
    for (kind, ports) in [("inputs", &inputs), ("outputs", &outputs)] {
        let mut names = HashSet::new();
        if let Some(twice) = ports.iter().find(|port| !names.insert(port.name.as_str())) {
            return Err(refused(format!("the graph has two {kind} called '{}'", short(&twice.name))));
        }
    }
    Ok((inputs, outputs))
}

fn port(kind: &str, info: &ValueInfoProto) -> Result<Port, LoadError> {
    let name = short(&info.name);
    let Some(tensor) = tensor_type(info) else {
        return Err(refused(format!(
            "{kind} '{name}' is not a tensor: V2 knows no maps, sequences or optionals"
        )));
    };
    let datatype = datatype(tensor.elem_type).ok_or_else(|| {
        let given = DataType::try_from(tensor.elem_type).map_or("UNKNOWN", |known| known.as_str_name());
        refused(format!("{kind} '{name}' has datatype {given}, which the native engine does not support"))
    })?;
    let shape = tensor.shape.as_ref().map(|shape| {
        let fixed = |dim: &Dimension| match dim.value {
            Some(Dim::DimValue(value)) if value >= 0 => value,
            _ => -1,
        };
        shape.dim.iter().map(fixed).collect()
    });
    Ok(Port { name: info.name.clone(), datatype, shape })
}

pub fn tensor_type(info: &ValueInfoProto) -> Option<&TensorType> {
    let TypeValue::TensorType(tensor) = info.r#type.as_ref()?.value.as_ref()?;
    Some(tensor)
}

pub fn tensor_type_mut(info: &mut ValueInfoProto) -> Option<&mut TensorType> {
    let TypeValue::TensorType(tensor) = info.r#type.as_mut()?.value.as_mut()?;
    Some(tensor)
}

/// The datatype of an ONNX element type; `None` where the engine lacks it.
pub fn datatype(elem_type: i32) -> Option<Datatype> {
    Some(match DataType::try_from(elem_type).ok()? {
        DataType::Bool => Datatype::Bool,
        DataType::Uint8 => Datatype::Uint8,
        DataType::Uint16 => Datatype::Uint16,
        DataType::Uint32 => Datatype::Uint32,
        DataType::Uint64 => Datatype::Uint64,
        DataType::Int8 => Datatype::Int8,
        DataType::Int16 => Datatype::Int16,
        DataType::Int32 => Datatype::Int32,
        DataType::Int64 => Datatype::Int64,
        DataType::Float16 => Datatype::Fp16,
        DataType::Float => Datatype::Fp32,
        DataType::Double => Datatype::Fp64,
        DataType::String => Datatype::Bytes,
        _ => return None,
    })
}
