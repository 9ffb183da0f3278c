//! Dimensions of the inputs: every one is a number or a symbol before the engine sees the graph.

use std::collections::{HashMap, HashSet};

use tract_onnx::{
    dim_expr::parse_onnx_dim,
    pb::{
        GraphProto, TensorShapeProto,
        tensor_shape_proto::{Dimension, dimension::Value as Dim},
    },
    prelude::SymbolScope,
};

use crate::{execute::LoadError, tensor::TensorSpec};

use super::proto::{datatype, refused, short, tensor_type, tensor_type_mut};

/// Longest symbolic dimension that is parsed. The engine's parser recurses, so that a long one could end the process.
const MAX_DIM_PARAM: usize = 64;

/// Gives every dimension of every input a number or a symbol: from the graph, else from the model's configuration,
/// else a symbol of its own.
pub fn settle_dimensions(graph: &mut GraphProto, declared: &[TensorSpec]) -> Result<(), LoadError> {
    for spec in declared {
        let info = graph.input.iter_mut().find(|info| info.name == spec.name);
        let tensor = info.and_then(tensor_type_mut).ok_or_else(|| {
            refused(format!(
                "the configuration declares input '{}', which the graph does not have",
                spec.name
            ))
        })?;
        if let Some(graph_has) = datatype(tensor.elem_type).filter(|datatype| *datatype != spec.datatype) {
            return Err(refused(format!(
                "the configuration declares input '{}' as {}, in the graph it is {graph_has}",
                spec.name, spec.datatype
            )));
        }
        tensor.shape.get_or_insert_with(|| TensorShapeProto {
            dim: spec.shape.0.iter().map(|_| Dimension::default()).collect(),
        });
    }
    // A symbol that the configuration fixes for one input is fixed wherever it occurs.
    let fixed = fixed_symbols(graph, declared)?;
    let mut names = SymbolNames::default();
    let constants: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    for info in graph.input.iter_mut().filter(|info| !constants.contains(info.name.as_str())) {
        let name = short(&info.name);
        let declared = declared.iter().find(|spec| spec.name == info.name);
        let Some(tensor) = tensor_type_mut(info) else { continue };
        let Some(shape) = &mut tensor.shape else {
            return Err(refused(format!(
                "input '{name}' has no shape in the graph: declare its dims in the model's configuration"
            )));
        };
        for (axis, dim) in shape.dim.iter_mut().enumerate() {
            let wanted = declared.and_then(|spec| spec.shape.0.get(axis).copied()).filter(|dim| *dim >= 0);
            dim.value = Some(match dim.value.take() {
                Some(Dim::DimValue(value)) if value >= 0 => Dim::DimValue(value),
                Some(Dim::DimParam(param)) => match fixed.get(&param) {
                    Some(value) => Dim::DimValue(*value),
                    None => Dim::DimParam(names.usable(param)),
                },
                _ => wanted.map_or_else(|| Dim::DimParam(names.fresh()), Dim::DimValue),
            });
        }
    }
    Ok(())
}

/// The symbols that the configuration gives a number, after checking that it does not contradict the graph.
fn fixed_symbols(graph: &GraphProto, declared: &[TensorSpec]) -> Result<HashMap<String, i64>, LoadError> {
    let mut fixed = HashMap::new();
    for spec in declared {
        let info = graph.input.iter().find(|info| info.name == spec.name);
        let Some(shape) = info.and_then(tensor_type).and_then(|tensor| tensor.shape.as_ref()) else {
            continue;
        };
        let contradiction = |what: String| {
            Err(refused(format!(
                "the configuration declares input '{}' with shape {}, but {what}",
                spec.name, spec.shape
            )))
        };
        if shape.dim.len() != spec.shape.0.len() {
            return contradiction(format!("in the graph it has {} dimensions", shape.dim.len()));
        }
        for (dim, wanted) in shape.dim.iter().zip(&spec.shape.0).filter(|(_, wanted)| **wanted >= 0) {
            match &dim.value {
                Some(Dim::DimValue(value)) if *value >= 0 && value != wanted => {
                    return contradiction(format!("the graph fixes {value} where it says {wanted}"));
                }
                Some(Dim::DimParam(param)) if !param.is_empty() => {
                    let before = *fixed.entry(param.clone()).or_insert(*wanted);
                    if before != *wanted {
                        let param = short(param);
                        return contradiction(format!("dimension '{param}' is {before} elsewhere"));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(fixed)
}

/// Names for symbols, where a file has none or one that the engine cannot read.
#[derive(Default)]
struct SymbolNames {
    scope: SymbolScope,
    replaced: HashMap<String, String>,
    count: usize,
}

impl SymbolNames {
    fn fresh(&mut self) -> String {
        self.count += 1;
        format!("unnamed_dim_{}", self.count)
    }

    /// The same dimension under a name that the engine can read.
    fn usable(&mut self, param: String) -> String {
        // "?" means unknown, and every unknown may differ.
        if matches!(param.as_str(), "" | "?") {
            return self.fresh();
        }
        if param.len() <= MAX_DIM_PARAM && parse_onnx_dim(&self.scope, &param).is_ok() {
            return param;
        }
        if let Some(name) = self.replaced.get(&param) {
            return name.clone();
        }
        let name = self.fresh();
        self.replaced.insert(param, name.clone());
        name
    }
}
