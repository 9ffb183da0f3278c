//! Runs an ONNX model inside the gateway's wasm sandbox: `model.onnx` is read, optimised and snapshotted by `load`, and each
//! request starts from the optimised graph.
//!
//! The gateway has looked through the file before: external tensors are in it, what the engine lacks or gets wrong is
//! rewritten, and every dimension of its inputs is a number or a symbol. The parameters `output_0`, `output_1`, … are the
//! outputs' own names.

mod convert;
mod graph;

use std::sync::Arc;

use airlock_guest::prelude::*;
use tract_onnx::prelude::{TVec, TractError, TypedSimplePlan};

use graph::{Graph, Shapes};

/// Bytes of an engine's reason that reach a client or an operator.
const MAX_REASON: usize = 400;

struct Onnx {
    signature: Signature,
    /// `None` where all shapes are fixed: the one plan is all that is ever needed.
    graph: Option<Graph>,
    /// The plan that is part of the snapshot, and the shapes that it is for.
    ready: Option<(Shapes, Arc<TypedSimplePlan>)>,
}

impl Plugin for Onnx {
    fn load(config: Config, mut files: Files) -> Result<Self> {
        let graph = Graph::read(files.take("model.onnx")?, &config)?;
        let signature = graph.signature.clone();
        // As in the gateway: a graph with one shape only is optimised now or refused. Where just the batch varies, the plan
        // for one item is made ready; that it cannot be does not speak against other sizes.
        if let Some(shapes) = graph.only_shapes() {
            let plan = graph.plan(&shapes).map_err(|error| Error::failed(reason(&error)))?;
            return Ok(Self { signature, graph: None, ready: Some((shapes, plan)) });
        }
        let ready = graph.single_item().and_then(|shapes| Some((shapes.clone(), graph.plan(&shapes).ok()?)));
        Ok(Self { signature, graph: Some(graph), ready })
    }

    fn signature(&self) -> Signature {
        self.signature.clone()
    }

    fn infer(&self, request: Request) -> Result<Response> {
        let (mut inputs, mut shapes) = (TVec::new(), Shapes::new());
        for spec in &self.signature.inputs {
            let native = convert::to_native(request.input(&spec.name)?)?;
            shapes.push(native.shape().to_vec());
            inputs.push(native.into());
        }
        let values = self
            .plan(&shapes)?
            .run(inputs)
            .map_err(|error| Error::failed(format_args!("the model failed: {}", reason(&error))))?;
        let named = self.signature.outputs.iter().zip(values);
        let outputs = named.filter(|(spec, _)| request.wants(&spec.name));
        let outputs = outputs.map(|(spec, value)| convert::from_native(&spec.name, &value));
        Ok(Response::new(outputs.collect::<Result<Vec<_>>>()?))
    }
}

impl Onnx {
    /// The plan of the snapshot if it fits; else one that is made for this request, and gone with it.
    fn plan(&self, shapes: &Shapes) -> Result<Arc<TypedSimplePlan>> {
        let plan = match (&self.ready, &self.graph) {
            (Some((ready, plan)), _) if ready == shapes => return Ok(Arc::clone(plan)),
            (_, Some(graph)) => graph.plan(shapes),
            (_, None) => return Err(Error::failed("the inputs' shapes are not those of the signature")),
        };
        plan.map_err(|error| {
            Error::invalid_input(format_args!(
                "the model cannot run inputs of shapes {shapes:?}: {}",
                reason(&error)
            ))
        })
    }
}

/// The engine's error with its causes on one line, cut to a readable length.
fn reason(error: &TractError) -> String {
    let mut text = format!("{error:#}").replace('\n', " ");
    if text.len() > MAX_REASON {
        text.truncate(text.floor_char_boundary(MAX_REASON));
        text.push('…');
    }
    text
}

airlock_guest::export!(Onnx);
