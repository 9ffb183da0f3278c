//! From a core module to a component.

use std::fmt::Display;

use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::execute::{LoadError, Step};

use super::{
    profile,
    text::{MAX_ERROR, shown},
};

const WIT: &str = include_str!("../../../../wit/inference.wit");
const PACKAGE: &str = "package airlock:inference@0.1.1;";

/// Makes an admitted core module a component of the world `airlock:inference/model`.
///
/// The component type that the module carries is put aside for the gateway's own: the tools that read component types
/// recurse without end on some that contradict themselves, which takes the whole process down. A module that does
/// not fit ours is refused, by the names and types of its imports and exports.
pub(super) fn componentize(module: &[u8]) -> Result<Vec<u8>, LoadError> {
    let Bare { mut module, patch } = bare(module).map_err(refused)?;
    // Names carry the whole version, so the package takes on the patch version that the module was built against.
    let wit = WIT.replacen(PACKAGE, &format!("package airlock:inference@0.1.{patch};"), 1);
    let mut resolve = Resolve::default();
    let package = resolve.push_str("inference.wit", &wit).map_err(refused)?;
    let world = resolve.select_world(&[package], Some("model")).map_err(refused)?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).map_err(refused)?;
    ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.validate(true).encode())
        .map_err(refused)
}

fn refused(error: impl Display) -> LoadError {
    // The alternate form tells the causes too.
    let error = shown(&format!("{error:#}"), MAX_ERROR);
    LoadError::new(
        Step::Check,
        format_args!(
            "it cannot be made a component: {error}; build against the package airlock:inference@0.1"
        ),
    )
}

/// A module without the custom sections that tools wrote, but for the names that its traps are told by.
struct Bare {
    module: Vec<u8>,
    /// Of the interface that it exports.
    patch: String,
}

fn bare(module: &[u8]) -> wasmparser::Result<Bare> {
    let mut bare = Bare { module: Vec::with_capacity(module.len()), patch: "0".into() };
    // Each section with its header, which begins where the one before ended.
    let mut start = 0;
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload?;
        let (end, kept) = match &payload {
            Payload::Version { range, .. } => (range.end, true),
            Payload::CustomSection(section) => (section.range().end, section.name() == "name"),
            other => match other.as_section() {
                Some((_, range)) => (range.end, true),
                None => continue,
            },
        };
        if kept {
            bare.module.extend_from_slice(&module[start..end]);
        }
        start = end;
        if let Payload::ExportSection(exports) = payload {
            for export in exports {
                let patch =
                    export?.name.split_once('#').and_then(|(interface, _)| profile::plugin_patch(interface));
                if let Some(patch) = patch {
                    bare.patch = patch.to_owned();
                }
            }
        }
    }
    Ok(bare)
}
