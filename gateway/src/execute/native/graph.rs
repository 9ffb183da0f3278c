//! An ONNX graph, parsed and checked once: its signature, and plans for concrete input shapes.

use tract_onnx::{
    Onnx,
    prelude::{
        DatumType, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, TDim, TractError,
        TractResult, TypedModel, tract_itertools::Itertools,
    },
    tract_hir::infer::{DimFact, Factoid},
};

use crate::{
    execute::{LoadError, Source, Step},
    tensor::{Shape, Signature, TensorSpec},
};

use super::{
    convert,
    plan::{Plan, PlanError, Shapes},
    pool::caught,
    proto::Port,
    settle::{self, Settled},
};

/// Bytes of an engine's reason that reach a client or an operator.
const MAX_REASON: usize = 400;

/// Sizes that are tried for dimensions that vary, the batch's and the others', where a graph says nothing by symbols.
const PROBES: [(usize, usize); 6] = [(1, 1), (2, 64), (1, 64), (1, 32), (1, 224), (3, 96)];

/// A graph whose input shapes may still hold symbols.
#[derive(Debug)]
pub struct Graph {
    model: InferenceModel,
    inputs: Vec<Input>,
    pub signature: Signature,
}

#[derive(Debug)]
struct Input {
    datum_type: DatumType,
    dims: Vec<Dim>,
}

#[derive(Clone, Copy, Debug)]
enum Dim {
    Fixed(usize),
    /// Varies together with the first dimension of some input.
    Batch,
    /// Varies otherwise.
    Other,
}

impl Input {
    fn shape(&self) -> Shape {
        let wire = |dim: &Dim| match dim {
            Dim::Fixed(size) => i64::try_from(*size).unwrap_or(i64::MAX),
            Dim::Batch | Dim::Other => -1,
        };
        Shape(self.dims.iter().map(wire).collect())
    }
}

impl Graph {
    /// Parses and checks an ONNX file, and works out what it takes and gives.
    pub fn load(source: Source) -> Result<Self, LoadError> {
        let onnx = airlock_onnx::engine();
        let Settled { file, inputs: input_ports, outputs: output_ports } = settle::settle(&onnx, source)?;
        let model = parse(&onnx, &file)?;
        drop(file);

        let inputs = inputs(&model, &input_ports)?;
        let specs = input_ports.iter().zip(&inputs).map(|(port, input)| TensorSpec {
            name: port.name.clone(),
            datatype: port.datatype,
            shape: input.shape(),
        });
        let signature = Signature { inputs: specs.collect(), outputs: Vec::new() };
        let mut graph = Self { model, inputs, signature };
        graph.signature.outputs = graph.outputs(&output_ports)?;
        Ok(graph)
    }

    /// The outputs' datatypes and shapes: by symbols, or where these clash from what concrete shapes give.
    fn outputs(&self, ports: &[Port]) -> Result<Vec<TensorSpec>, LoadError> {
        let symbolic = match caught(|| self.model.clone().into_typed()) {
            Ok(Ok(typed)) => return specs(ports, &typed, |_, _, dim| dim),
            Ok(Err(error)) => reason(&error),
            Err(panic) => panic,
        };
        // What a concrete shape gives says nothing of others: only what the file also declares as fixed is fixed.
        let declared = |port: &Port, axis: usize, dim: i64| {
            let declared = port.shape.as_ref().and_then(|shape| shape.get(axis));
            if declared == Some(&dim) { dim } else { -1 }
        };
        let mut found: Option<Vec<TensorSpec>> = None;
        for shapes in self.probes() {
            let Ok(Ok(typed)) = caught(|| self.concrete(&shapes)?.into_typed()) else { continue };
            let next = specs(ports, &typed, declared)?;
            let Some(before) = found else {
                found = Some(next);
                continue;
            };
            return Ok(before.into_iter().zip(next).map(|(a, b)| loosest(a, b)).collect());
        }
        found.ok_or_else(|| {
            LoadError::new(Step::Compile, format!("the native engine cannot run this graph: {symbolic}"))
        })
    }

    /// The inputs' shapes, if nothing varies, so that there is one plan.
    pub fn only_shapes(&self) -> Option<Shapes> {
        self.shapes(None, None)
    }

    /// Shapes of a request for a single item, if nothing but the batch varies.
    pub fn single_item(&self) -> Option<Shapes> {
        self.rows(1)
    }

    /// Shapes of a request for so many items, if nothing but the batch varies.
    pub fn rows(&self, rows: usize) -> Option<Shapes> {
        self.shapes(Some(rows), None)
    }

    /// Whether the first dimension of all inputs is the batch, and the outputs leave theirs open.
    pub fn has_rows(&self) -> bool {
        let outputs = &self.signature.outputs;
        !self.inputs.is_empty()
            && self.inputs.iter().all(|input| matches!(input.dims.first(), Some(Dim::Batch)))
            && outputs.iter().all(|spec| spec.shape.0.first() == Some(&-1))
    }

    /// Concrete shapes that the graph might work with.
    fn probes(&self) -> impl Iterator<Item = Shapes> {
        PROBES.iter().filter_map(|(batch, other)| self.shapes(Some(*batch), Some(*other))).dedup()
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
    pub fn plan(&self, shapes: &Shapes) -> Result<Plan, PlanError> {
        let typed = attempt(|| self.concrete(shapes)?.into_typed())?;
        if let Some((node, shape)) = impossible_shape(&typed) {
            return Err(PlanError::Refused(format!("node \"{node}\" cannot have a result of shape {shape}")));
        }
        attempt(|| airlock_onnx::optimise(typed)?.into_runnable()).map(Plan::new)
    }

    fn concrete(&self, shapes: &Shapes) -> TractResult<InferenceModel> {
        let mut model = self.model.clone();
        for (index, (input, shape)) in self.inputs.iter().zip(shapes).enumerate() {
            model.set_input_fact(index, InferenceFact::dt_shape(input.datum_type, shape.as_slice()))?;
        }
        Ok(model)
    }
}

fn attempt<T>(step: impl FnOnce() -> TractResult<T>) -> Result<T, PlanError> {
    caught(step).map_err(PlanError::Panicked)?.map_err(|error| PlanError::Refused(reason(&error)))
}

/// The first node with a dimension that is no number although nothing in it varies, such as 2 broadcast against 3, or with
/// more elements than there can be. The engine itself would find out the one only when it runs the node, and the other never:
/// it multiplies without looking.
fn impossible_shape(typed: &TypedModel) -> Option<(String, String)> {
    let impossible = |dim: &TDim| dim.to_i64().is_err() && dim.symbols().is_empty();
    let countless = |dims: &[TDim]| {
        let mut fixed = dims.iter().filter_map(|dim| dim.to_i64().ok());
        // Of at most 16 bytes each.
        fixed.try_fold(16i64, |elements, dim| elements.checked_mul(dim.max(1))).is_none()
    };
    typed.nodes().iter().find_map(|node| {
        let output = node
            .outputs
            .iter()
            .find(|output| output.fact.shape.iter().any(impossible) || countless(output.fact.shape.dims()))?;
        Some((node.name.clone(), output.fact.shape.iter().join(",")))
    })
}

fn parse(onnx: &Onnx, file: &tract_onnx::pb::ModelProto) -> Result<InferenceModel, LoadError> {
    // Without a folder: the engine then opens no file for a tensor's bytes.
    let parsed = onnx.parse(file, None).map_err(|error| LoadError::new(Step::Check, reason(&error)))?;
    if let Some(name) = parsed.unresolved_inputs.first() {
        return Err(LoadError::new(
            Step::Check,
            format!("a node reads '{name:.64}', which nothing in the graph gives"),
        ));
    }
    Ok(parsed.model)
}

/// The graph's inputs as the engine reads them, in the order of `ports`.
fn inputs(model: &InferenceModel, ports: &[Port]) -> Result<Vec<Input>, LoadError> {
    let unreadable = |error: TractError| LoadError::new(Step::Check, reason(&error));
    let outlets = model.input_outlets().map_err(unreadable)?;
    let in_order =
        outlets.iter().map(|outlet| &model.node(outlet.node).name).eq(ports.iter().map(|port| &port.name));
    if !in_order {
        return Err(LoadError::new(Step::Check, "the graph's inputs are not distinct"));
    }
    let facts = (0..ports.len()).map(|index| model.input_fact(index)).collect::<TractResult<Vec<_>>>();
    let facts = facts.map_err(unreadable)?;
    let symbol = |dim: &DimFact| dim.concretize().filter(|dim| dim.to_i64().is_err());
    let batches: Vec<TDim> =
        facts.iter().filter_map(|fact| fact.shape.dims().next().and_then(symbol)).collect();
    let dim = |dim: &DimFact| match dim.concretize().map(|dim| (dim.to_i64().map(usize::try_from), dim)) {
        Some((Ok(Ok(size)), _)) => Dim::Fixed(size),
        Some((_, symbol)) if batches.contains(&symbol) => Dim::Batch,
        _ => Dim::Other,
    };
    let input = |(fact, port): (&&InferenceFact, &Port)| {
        let datum_type = fact
            .datum_type
            .concretize()
            .ok_or_else(|| LoadError::new(Step::Check, format!("input '{}' has no datatype", port.name)))?;
        Ok(Input { datum_type, dims: fact.shape.dims().map(dim).collect() })
    };
    facts.iter().zip(ports).map(input).collect()
}

/// The outputs of an analysed graph; `settle` has the last word on each dimension that is a number.
fn specs(
    ports: &[Port],
    typed: &TypedModel,
    settle: impl Fn(&Port, usize, i64) -> i64,
) -> Result<Vec<TensorSpec>, LoadError> {
    let spec = |(index, port): (usize, &Port)| {
        let fact = typed.output_fact(index).map_err(|error| LoadError::new(Step::Compile, reason(&error)))?;
        let datatype = convert::datatype(fact.datum_type).ok_or_else(|| {
            LoadError::new(
                Step::Check,
                format!("output '{}' has type {:?}, which V2 does not know", port.name, fact.datum_type),
            )
        })?;
        let dims = fact
            .shape
            .iter()
            .enumerate()
            .map(|(axis, dim)| dim.to_i64().map_or(-1, |dim| settle(port, axis, dim)));
        Ok(TensorSpec { name: port.name.clone(), datatype, shape: Shape(dims.collect()) })
    };
    ports.iter().enumerate().map(spec).collect()
}

/// Fixed only where both are.
fn loosest(mut a: TensorSpec, b: TensorSpec) -> TensorSpec {
    for (dim, other) in a.shape.0.iter_mut().zip(b.shape.0) {
        if *dim != other {
            *dim = -1;
        }
    }
    a
}

/// The engine's error with its causes on one line, cut to a readable length.
pub fn reason(error: &TractError) -> String {
    brief(format!("{error:#}"))
}

/// An engine's text on one line, cut likewise.
pub fn brief(text: String) -> String {
    let mut text = text.replace('\n', " ");
    if text.len() > MAX_REASON {
        text.truncate(text.floor_char_boundary(MAX_REASON));
        text.push('…');
    }
    text
}
