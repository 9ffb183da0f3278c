//! An ONNX file made ready for the engine: checked, rewritten where the engine has a gap, every dimension of its inputs a number
//! or a symbol. The engine itself has not seen it yet.

use airlock_onnx::file;
use prost::Message;
use tract_onnx::{Onnx, pb::ModelProto};

use crate::execute::{LoadError, MODEL_FILE, Source, Step};

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
    let mut file = proto::decode(onnx, &source.artifact)?;
    if source.untrusted {
        let beside = source.files.iter().map(|(_, bytes)| bytes.len()).sum();
        preflight::check(&file, source.artifact.len(), beside)?;
    }
    drop(source.artifact);
    let graph = proto::graph_mut(&mut file)?;
    proto::embed_external_tensors(graph, &source.files)?;
    drop(source.files);
    file::rewrite(graph);
    proto::check_operators(onnx, graph)?;
    dims::settle_dimensions(graph, &source.declared_inputs)?;
    let (inputs, outputs) = proto::ports(graph)?;
    file::detach_outputs(graph);
    file::name_nodes(graph);
    Ok(Settled { file, inputs, outputs })
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
