//! The graph: its signature, and plans for concrete input shapes.

use std::sync::Arc;

use airlock_guest::{Config, Error, Result, Signature, TensorSpec};
use tract_onnx::{
    pb::{ModelProto, tensor_shape_proto::dimension::Value as Dimension, type_proto::Value as Type},
    prelude::{
        DatumType, Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, TDim,
        TractError, TractResult, TypedModel, TypedSimplePlan, tract_itertools::Itertools,
    },
    tract_hir::infer::{DimFact, Factoid},
};

use super::{convert, reason};

/// The shapes of all inputs, in the graph's order.
pub type Shapes = Vec<Vec<usize>>;

/// Sizes that are tried for dimensions that vary, the batch's and the others', where a graph says nothing by symbols.
const PROBES: [(usize, usize); 6] = [(1, 1), (2, 64), (1, 64), (1, 32), (1, 224), (3, 96)];

/// A graph whose input shapes may still hold symbols.
pub struct Graph {
    model: InferenceModel,
    inputs: Vec<Input>,
    pub signature: Signature,
}

struct Input {
    datum_type: DatumType,
    dims: Vec<Dim>,
}

#[derive(Clone, Copy)]
enum Dim {
    Fixed(usize),
    /// Varies together with the first dimension of some input.
    Batch,
    /// Varies otherwise.
    Other,
}

impl Input {
    fn shape(&self) -> Vec<i64> {
        let wire = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size as i64,
            Dim::Batch | Dim::Other => -1,
        };
        self.dims.iter().map(wire).collect()
    }
}

/// An output as the file declares it: its name, and -1 for a dimension that is not a number.
struct Output {
    name: String,
    shape: Option<Vec<i64>>,
}

impl Graph {
    /// Reads the file, and works out what the graph takes and gives.
    pub fn read(bytes: Vec<u8>, config: &Config) -> Result<Self> {
        let onnx = airlock_onnx::engine();
        let failed = |error: TractError| Error::failed(reason(&error));
        let file = onnx.proto_model_for_read(&mut &*bytes).map_err(failed)?;
        drop(bytes);
        let outputs = outputs(&file, config)?;
        let parsed = onnx.parse(&file, None).map_err(failed)?;
        drop(file);
        if let Some(name) = parsed.unresolved_inputs.first() {
            return Err(Error::failed(format_args!(
                "a node reads '{name:.64}', which nothing in the graph gives"
            )));
        }
        let mut graph = Self { model: parsed.model, inputs: Vec::new(), signature: Signature::new() };
        graph.read_inputs().map_err(failed)?;
        graph.signature.outputs = graph.read_outputs(&outputs)?;
        Ok(graph)
    }

    fn read_inputs(&mut self) -> TractResult<()> {
        let outlets = self.model.input_outlets()?.to_vec();
        if !outlets.iter().map(|outlet| outlet.node).all_unique() {
            return Err(TractError::msg("the graph's inputs are not distinct"));
        }
        let facts = outlets.iter().map(|outlet| self.model.outlet_fact(*outlet));
        let facts = facts.collect::<TractResult<Vec<_>>>()?;
        let symbol = |dim: &DimFact| dim.concretize().filter(|dim| dim.to_i64().is_err());
        let batches: Vec<TDim> =
            facts.iter().filter_map(|fact| fact.shape.dims().next().and_then(symbol)).collect();
        let dim = |dim: &DimFact| match dim.concretize().map(|dim| (dim.to_i64().map(usize::try_from), dim)) {
            Some((Ok(Ok(size)), _)) => Dim::Fixed(size),
            Some((_, symbol)) if batches.contains(&symbol) => Dim::Batch,
            _ => Dim::Other,
        };
        for (outlet, fact) in outlets.iter().zip(facts) {
            let name = &self.model.node(outlet.node).name;
            let unknown = || TractError::msg(format!("input '{name}' has no datatype that V2 knows"));
            let datum_type = fact.datum_type.concretize().ok_or_else(unknown)?;
            let datatype = convert::datatype(datum_type).ok_or_else(unknown)?;
            let input = Input { datum_type, dims: fact.shape.dims().map(dim).collect() };
            let spec = TensorSpec { name: name.clone(), datatype, shape: input.shape() };
            self.inputs.push(input);
            self.signature.inputs.push(spec);
        }
        Ok(())
    }

    /// The outputs' datatypes and shapes: by symbols, or where these clash from what concrete shapes give.
    fn read_outputs(&self, outputs: &[Output]) -> Result<Vec<TensorSpec>> {
        let symbolic = match self.model.clone().into_typed() {
            Ok(typed) => return specs(outputs, &typed, |_, _, dim| dim),
            Err(error) => reason(&error),
        };
        // What a concrete shape gives says nothing of others: only what the file also declares as fixed is fixed.
        let declared = |output: &Output, axis: usize, dim: i64| {
            let declared = output.shape.as_ref().and_then(|shape| shape.get(axis));
            if declared == Some(&dim) { dim } else { -1 }
        };
        let probes =
            PROBES.iter().filter_map(|(batch, other)| self.shapes(Some(*batch), Some(*other))).dedup();
        let typed =
            probes.filter_map(|shapes| self.concrete(&shapes).and_then(|model| model.into_typed()).ok());
        let found = typed.take(2).map(|typed| specs(outputs, &typed, declared));
        let found = found.reduce(|a, b| Ok(a?.into_iter().zip(b?).map(|(a, b)| loosest(a, b)).collect()));
        found.unwrap_or_else(|| {
            Err(Error::failed(format_args!("the engine cannot run this graph: {symbolic}")))
        })
    }

    /// The inputs' shapes, if nothing varies, so that there is one plan.
    pub fn only_shapes(&self) -> Option<Shapes> {
        self.shapes(None, None)
    }

    /// Shapes of a request for a single item, if nothing but the batch varies.
    pub fn single_item(&self) -> Option<Shapes> {
        self.shapes(Some(1), None)
    }

    /// All inputs' shapes with these sizes for what varies; `None` where one is needed and not given.
    fn shapes(&self, batch: Option<usize>, other: Option<usize>) -> Option<Shapes> {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => Some(*size),
            Dim::Batch => batch,
            Dim::Other => other,
        };
        self.inputs.iter().map(|input| input.dims.iter().map(size).collect()).collect()
    }

    /// Optimises the graph for these input shapes. Takes from milliseconds to seconds.
    pub fn plan(&self, shapes: &Shapes) -> TractResult<Arc<TypedSimplePlan>> {
        let typed = self.concrete(shapes)?.into_typed()?;
        if let Some((node, shape)) = impossible_shape(&typed) {
            return Err(TractError::msg(format!("node \"{node}\" cannot have a result of shape {shape}")));
        }
        airlock_onnx::optimise(typed)?.into_runnable()
    }

    fn concrete(&self, shapes: &Shapes) -> TractResult<InferenceModel> {
        let mut model = self.model.clone();
        for (index, (input, shape)) in self.inputs.iter().zip(shapes).enumerate() {
            model.set_input_fact(index, InferenceFact::dt_shape(input.datum_type, shape.as_slice()))?;
        }
        Ok(model)
    }
}

/// The outputs as the file declares them, under their own names.
fn outputs(file: &ModelProto, config: &Config) -> Result<Vec<Output>> {
    let graph = file.graph.as_ref().ok_or_else(|| Error::failed("the ONNX file holds no graph"))?;
    let output = |(index, info): (usize, &tract_onnx::pb::ValueInfoProto)| {
        let shape = info.r#type.as_ref().and_then(|r#type| match r#type.value.as_ref()? {
            Type::TensorType(tensor) => tensor.shape.as_ref(),
        });
        let fixed = |dim: &tract_onnx::pb::tensor_shape_proto::Dimension| match dim.value {
            Some(Dimension::DimValue(value)) if value >= 0 => value,
            _ => -1,
        };
        let shape = shape.map(|shape| shape.dim.iter().map(fixed).collect());
        Ok(Output { name: config.require(&format!("output_{index}"))?.to_owned(), shape })
    };
    graph.output.iter().enumerate().map(output).collect()
}

/// The outputs of an analysed graph; `settle` has the last word on each dimension that is a number.
fn specs(
    outputs: &[Output],
    typed: &TypedModel,
    settle: impl Fn(&Output, usize, i64) -> i64,
) -> Result<Vec<TensorSpec>> {
    let spec = |(index, output): (usize, &Output)| {
        let fact = typed.output_fact(index).map_err(|error| Error::failed(reason(&error)))?;
        let datatype = convert::datatype(fact.datum_type).ok_or_else(|| {
            Error::failed(format_args!(
                "output '{}' has type {:?}, which V2 does not know",
                output.name, fact.datum_type
            ))
        })?;
        let dims = fact.shape.iter().enumerate();
        let shape =
            dims.map(|(axis, dim)| dim.to_i64().map_or(-1, |dim| settle(output, axis, dim))).collect();
        Ok(TensorSpec { name: output.name.clone(), datatype, shape })
    };
    outputs.iter().enumerate().map(spec).collect()
}

/// Fixed only where both are.
fn loosest(mut a: TensorSpec, b: TensorSpec) -> TensorSpec {
    for (dim, other) in a.shape.iter_mut().zip(b.shape) {
        if *dim != other {
            *dim = -1;
        }
    }
    a
}

/// The first node with a dimension that is no number although nothing in it varies, such as 2 broadcast against 3, or with
/// more elements than an address of 32 bits reaches. The engine itself would find out the one only when it runs the node,
/// and the other never: it multiplies without looking.
fn impossible_shape(typed: &TypedModel) -> Option<(String, String)> {
    let impossible = |dim: &TDim| dim.to_i64().is_err() && dim.symbols().is_empty();
    let countless = |dims: &[TDim]| {
        let mut fixed = dims.iter().filter_map(|dim| dim.to_i64().ok());
        // Of at most 16 bytes each.
        fixed.try_fold(16usize, |bytes, dim| bytes.checked_mul(usize::try_from(dim.max(1)).ok()?)).is_none()
    };
    typed.nodes().iter().find_map(|node| {
        let output = node
            .outputs
            .iter()
            .find(|output| output.fact.shape.iter().any(impossible) || countless(output.fact.shape.dims()))?;
        Some((node.name.clone(), output.fact.shape.iter().join(",")))
    })
}
