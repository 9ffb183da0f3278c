//! An ONNX graph, parsed and checked once: its signature, and plans for concrete input shapes.

use tract_onnx::{
    Onnx,
    prelude::{
        DatumType, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, TractError, TractResult,
        TypedModel,
    },
    tract_hir::infer::Factoid,
};

use crate::{
    execute::{LoadError, Source, Step},
    tensor::{Shape, Signature, TensorSpec},
};

use super::{
    convert, dims,
    plan::{Plan, PlanError, Shapes},
    pool::caught,
    proto::{self, Port},
    rewrite,
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
    /// -1 for a dimension that varies.
    shape: Vec<i64>,
}

impl Graph {
    /// Parses and checks an ONNX file, and works out what it takes and gives.
    pub fn load(source: Source) -> Result<Self, LoadError> {
        let onnx = tract_onnx::onnx()
            // Exporters leave stale shapes behind; what the operators say is the truth.
            .with_ignore_output_shapes(true)
            .with_ignore_output_types(true)
            .with_ignore_value_info(true);
        let mut file = proto::decode(&onnx, &source.artifact)?;
        drop(source.artifact);
        let graph = proto::graph_mut(&mut file)?;
        proto::embed_external_tensors(graph, &source.files)?;
        rewrite::rewrite(graph);
        proto::check_operators(&onnx, graph)?;
        drop(source.files);
        dims::settle_dimensions(graph, &source.declared_inputs)?;
        let (input_ports, output_ports) = proto::ports(graph)?;
        let model = parse(&onnx, &file)?;
        drop(file);

        let inputs = inputs(&model, &input_ports)?;
        let specs = input_ports.iter().zip(&inputs).map(|(port, input)| TensorSpec {
            name: port.name.clone(),
            datatype: port.datatype,
            shape: Shape(input.shape.clone()),
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

    /// Whether every input has one shape only, so that there is one plan.
    pub fn only_shapes(&self) -> Option<Shapes> {
        self.inputs.iter().map(|input| sizes(&input.shape, |_| None)).collect()
    }

    /// Shapes of a request for a single item, if nothing but the first dimension varies.
    pub fn single_item(&self) -> Option<Shapes> {
        self.inputs.iter().map(|input| sizes(&input.shape, |axis| (axis == 0).then_some(1))).collect()
    }

    /// Concrete shapes that the graph might work with.
    fn probes(&self) -> impl Iterator<Item = Shapes> {
        PROBES.iter().filter_map(|(batch, other)| {
            let size = |axis| Some(if axis == 0 { *batch } else { *other });
            self.inputs.iter().map(|input| sizes(&input.shape, size)).collect()
        })
    }

    /// Optimises the graph for these input shapes. Takes from milliseconds to seconds.
    pub fn plan(&self, shapes: &Shapes) -> Result<Plan, PlanError> {
        let built = caught(|| self.concrete(shapes)?.into_optimized()?.into_runnable());
        built.map_err(PlanError::Panicked)?.map(Plan).map_err(|error| PlanError::Refused(reason(&error)))
    }

    fn concrete(&self, shapes: &Shapes) -> TractResult<InferenceModel> {
        let mut model = self.model.clone();
        for (index, (input, shape)) in self.inputs.iter().zip(shapes).enumerate() {
            model.set_input_fact(index, InferenceFact::dt_shape(input.datum_type, shape.as_slice()))?;
        }
        Ok(model)
    }
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
    (0..ports.len())
        .map(|index| {
            let fact = model.input_fact(index).map_err(unreadable)?;
            let shape =
                fact.shape.dims().map(|dim| dim.concretize().and_then(|dim| dim.to_i64().ok()).unwrap_or(-1));
            let datum_type = fact.datum_type.concretize().ok_or_else(|| {
                LoadError::new(Step::Check, format!("input '{}' has no datatype", ports[index].name))
            })?;
            Ok(Input { datum_type, shape: shape.collect() })
        })
        .collect()
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

/// A shape with each -1 replaced by what `free` gives for its axis; `None` if it gives nothing.
fn sizes(shape: &[i64], free: impl Fn(usize) -> Option<usize>) -> Option<Vec<usize>> {
    shape.iter().enumerate().map(|(axis, dim)| usize::try_from(*dim).ok().or_else(|| free(axis))).collect()
}

/// The engine's error with its causes on one line, cut to a readable length.
pub fn reason(error: &TractError) -> String {
    let mut text = format!("{error:#}").replace('\n', " ");
    if text.len() > MAX_REASON {
        text.truncate(text.floor_char_boundary(MAX_REASON));
        text.push('…');
    }
    text
}
