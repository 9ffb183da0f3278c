//! An ONNX file made ready for the engine: checked, rewritten where the engine has a gap, every dimension of its inputs a number
//! or a symbol. The engine itself has not seen it yet.

use airlock_onnx::file;
use prost::Message;
use tract_onnx::{Onnx, pb::ModelProto};

use crate::{
    execute::{LoadError, MODEL_FILE, Source, Step},
    tensor::TensorSpec,
};

use super::{
    dims,
    pool::caught,
    preflight,
    proto::{self, Port},
};

/// A file that the engine may parse.
pub struct Settled {
    pub file: ModelProto,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
}

/// Checks the file of a source and makes it ready.
pub fn settle(onnx: &Onnx, source: Source) -> Result<Settled, LoadError> {
    let (mut file, declared) = read(onnx, source)?;
    let graph = proto::graph_mut(&mut file)?;
    file::rewrite(graph);
    proto::check_operators(onnx, graph)?;
    dims::settle_dimensions(graph, &declared)?;
    let (inputs, outputs) = proto::ports(graph)?;
    file::detach_outputs(graph);
    file::name_nodes(graph);
    Ok(Settled { file, inputs, outputs })
}

/// The same for ONNX Runtime: no operator is missing there, so that nothing is rewritten but what the interface does not know.
pub fn for_onnx_runtime(onnx: &Onnx, source: Source) -> Result<Settled, LoadError> {
    let (mut file, declared) = read(onnx, source)?;
    let graph = proto::graph_mut(&mut file)?;
    file::remove_zip_maps(graph);
    // It needs no dimension to be settled, and refuses a graph of which a branch that is not taken does not fit them.
    let unsettled = graph.input.clone();
    dims::settle_dimensions(graph, &declared)?;
    let (inputs, outputs) = proto::ports(graph)?;
    graph.input = unsettled;
    file::name_nodes(graph);
    // What says nothing of the graph is nobody's business: only what was checked is written.
    let ModelProto { ir_version, opset_import, graph, functions, .. } = file;
    let file = ModelProto { ir_version, opset_import, graph, functions, ..ModelProto::default() };
    Ok(Settled { file, inputs, outputs })
}

/// The file of a source, checked and with all its constants in it, and the inputs that its configuration declares.
fn read(onnx: &Onnx, source: Source) -> Result<(ModelProto, Vec<TensorSpec>), LoadError> {
    let mut file = proto::decode(onnx, &source.artifact)?;
    if source.untrusted {
        let beside = source.files.iter().map(|(_, bytes)| bytes.len()).sum();
        preflight::check(&file, source.artifact.len(), beside)?;
    }
    drop(source.artifact);
    proto::embed_external_tensors(proto::graph_mut(&mut file)?, &source.files)?;
    Ok((file, source.declared_inputs))
}

/// Makes the model of a source that [`Source::in_plugin`] gave ready for the plugin: `onnx-plugin/` reads the rewritten file and
/// the outputs' names, and need not know what was rewritten. No part of the engine but its reader sees the file here.
pub(in crate::execute) fn for_plugin(mut source: Source) -> Result<Source, LoadError> {
    let model = source.files.iter().position(|(name, _)| name == MODEL_FILE);
    let model = model.ok_or_else(|| LoadError::new(Step::Read, "there is no ONNX file beside the plugin"))?;
    let (_, artifact) = source.files.swap_remove(model);
    let onnx = Source {
        artifact,
        files: std::mem::take(&mut source.files),
        declared_inputs: source.declared_inputs.clone(),
        untrusted: source.untrusted,
        ..Source::default()
    };
    let settled = caught(|| settle(&airlock_onnx::engine(), onnx))
        .map_err(|panic| LoadError::new(Step::Check, format!("the file cannot be read: {panic:.400}")))??;
    let names = settled.outputs.iter().enumerate();
    source.parameters = names.map(|(index, port)| (format!("output_{index}"), port.name.clone())).collect();
    source.files = vec![(MODEL_FILE.to_owned(), settled.file.encode_to_vec())];
    Ok(source)
}
