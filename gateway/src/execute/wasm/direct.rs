//! Host functions without a detour.
//!
//! A host function that takes a string can be made only where there is the memory to read it from, and the module that has
//! the memory can be made only with the functions that it imports. So tools make three modules of one: a table with a
//! function for each import (the shim), the module itself, and one that fills the table when the memory is there (the
//! fixup). Each request pays for making all of them and their tables.
//!
//! Here the memory, with what is in it at the start, becomes a module of its own in the place of the shim. The functions are
//! made with that memory, the module imports both, and nothing has to be filled: of three instances and two tables, two and
//! one are left. What the guest sees is the same.
//!
//! Only what the componentizer of [`super::componentize`] makes is taken apart, as others may have their modules do more than
//! that, and what is made of it is validated; whatever has another shape stays as it is. So do modules with an import that has the guest allocate: that is a function of the
//! module's own, which really is not there before.

use std::ops::Range;

use wasm_encoder::{
    Alias, Component, ComponentAliasSection, ComponentSectionId, ExportKind, ExportSection, ImportSection,
    InstanceSection, MemorySection, Module, ModuleArg, RawSection,
    reencode::{Reencode, ReencodeComponent, RoundtripReencoder},
};
use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentAlias, ComponentExternalKind, DataKind, ExternalKind,
    Instance, Operator, Parser, Payload, TypeRef, Validator,
};

/// What the memory's module calls it, and what the main module imports it from: no interface has such a name.
const MEMORY: &str = "memory";

/// The modules of a component in the order in which they come, and the instances that are made of them.
const MAIN: u32 = 0;
const SHIM: u32 = 1;
const FIXUP: u32 = 2;
const SHIM_INSTANCE: u32 = 0;

/// A component that [`super::componentize`] made, with direct functions; `None` if it has none that take a detour, or is not of
/// the known shape.
pub(super) fn direct(component: &[u8]) -> Option<Vec<u8>> {
    let sections = sections(component)?;
    let shape = Shape::of(&sections)?;
    let made = rebuilt(component, sections, &shape)?;
    Validator::new().validate_all(&made).ok()?;
    Some(made)
}

/// A section of the component itself, not of what is in it.
struct Section<'a> {
    payload: Payload<'a>,
    id: u8,
    range: Range<usize>,
}

fn sections(component: &[u8]) -> Option<Vec<Section<'_>>> {
    let mut sections = Vec::new();
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload.ok()?;
        let outer = depth;
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) if depth > 0 => depth -= 1,
            _ => {}
        }
        if outer == 0
            && let Some((id, range)) = payload.as_section()
        {
            sections.push(Section { payload, id, range });
        }
    }
    Some(sections)
}

/// What is taken from one place of the component and put in another.
struct Shape<'a> {
    main: Range<usize>,
    /// The sections of functions for the module, as they are.
    functions: Vec<Range<usize>>,
    /// What they are made of, by name.
    functions_of: Vec<ComponentAlias<'a>>,
    main_instance: u32,
}

impl<'a> Shape<'a> {
    fn of(sections: &[Section<'a>]) -> Option<Self> {
        use ComponentAlias::{CoreInstanceExport, InstanceExport};

        let mut modules = Vec::new();
        let (mut instances, mut memories) = (Vec::new(), 0);
        let (mut core_functions, mut shimmed, mut numbered) = (0, 0_u32, true);
        let (mut functions, mut functions_of) = (Vec::new(), Vec::new());
        let (mut first, mut count) = (None, 0);
        for Section { payload, range, .. } in sections {
            match payload {
                Payload::ModuleSection { .. } => modules.push(range.clone()),
                Payload::InstanceSection(section) => {
                    for instance in section.clone() {
                        instances.push(instance.ok()?);
                    }
                }
                Payload::ComponentAliasSection(section) => {
                    for alias in section.clone() {
                        match alias.ok()? {
                            CoreInstanceExport { kind: ExternalKind::Func, instance_index, name } => {
                                if instance_index == SHIM_INSTANCE {
                                    numbered &= name.parse() == Ok(shimmed);
                                    shimmed += 1;
                                }
                                core_functions += 1;
                            }
                            CoreInstanceExport { kind: ExternalKind::Memory, .. } => memories += 1,
                            // What the fixup fills.
                            CoreInstanceExport {
                                kind: ExternalKind::Table,
                                instance_index: SHIM_INSTANCE,
                                ..
                            } => {}
                            CoreInstanceExport { .. } => return None,
                            alias @ InstanceExport { kind: ComponentExternalKind::Func, .. } => {
                                functions_of.push(alias);
                            }
                            _ => {}
                        }
                    }
                }
                Payload::ComponentCanonicalSection(section) => {
                    let lowered = count;
                    for function in section.clone() {
                        let CanonicalFunction::Lower { func_index, options } = function.ok()? else { break };
                        let reads_only =
                            |option| matches!(option, &CanonicalOption::UTF8 | &CanonicalOption::Memory(0));
                        if func_index != count || !options.iter().all(reads_only) {
                            return None;
                        }
                        first.get_or_insert(core_functions);
                        count += 1;
                    }
                    if count - lowered == section.count() {
                        functions.push(range.clone());
                    } else if count > lowered {
                        return None;
                    }
                }
                _ => {}
            }
        }
        let first = first?;
        let main_instance = instances.iter().position(|instance| is_of(instance, MAIN))?;
        // The shim, what the module imports, the module, what fills the table, and the fixup.
        let known = modules.len() == 3
            && instances.len() == main_instance + 3
            && is_of(&instances[0], SHIM)
            && are_functions_from(first, &instances[main_instance + 1])
            && is_of(&instances[main_instance + 2], FIXUP)
            && instances[1..main_instance]
                .iter()
                .all(|instance| matches!(instance, Instance::FromExports(_)))
            && memories == 1
            && numbered
            && shimmed == count
            && functions_of.len() == count as usize;
        let main = modules.into_iter().next()?;
        let main_instance = u32::try_from(main_instance).ok()?;
        known.then_some(Self { main, functions, functions_of, main_instance })
    }
}

fn is_of(instance: &Instance<'_>, module: u32) -> bool {
    matches!(instance, Instance::Instantiate { module_index, .. } if *module_index == module)
}

/// Whether those are what the fixup fills the table with: the functions from that one on, by their numbers in the table.
fn are_functions_from(first: u32, instance: &Instance<'_>) -> bool {
    let Instance::FromExports(exports) = instance else { return false };
    exports
        .iter()
        .filter(|export| export.kind == ExternalKind::Func)
        .zip(0..)
        .all(|(export, number)| export.name.parse() == Ok(number) && export.index == first + number)
}

/// The same sections in the same order, so that all indices stay: the memory's module has that of the shim, and the functions
/// those of what the shim exported. Where they were made before they are made once more, for their indices alone.
fn rebuilt(bytes: &[u8], sections: Vec<Section<'_>>, shape: &Shape<'_>) -> Option<Vec<u8>> {
    let Split { main, memory } = split(&bytes[shape.main.clone()])?;
    let (mut modules, mut instances, mut moved) = (0, 0, false);
    let mut component = Component::new();
    for Section { payload, id, range } in sections {
        let as_it_is = RawSection { id, data: &bytes[range] };
        match payload {
            Payload::ModuleSection { .. } => {
                match modules {
                    MAIN => drop(component.section(&RawSection { id, data: &main })),
                    SHIM => drop(component.section(&RawSection { id, data: &memory })),
                    _ => {}
                }
                modules += 1;
            }
            Payload::InstanceSection(section) => {
                let mut kept = InstanceSection::new();
                for instance in section {
                    if instances <= shape.main_instance {
                        add_instance(&mut kept, instance.ok()?, instances == shape.main_instance)?;
                    }
                    instances += 1;
                }
                if !kept.is_empty() {
                    component.section(&kept);
                }
            }
            Payload::ComponentAliasSection(section) => {
                let (mut kept, mut is_place) = (ComponentAliasSection::new(), false);
                for alias in section {
                    match alias.ok()? {
                        ComponentAlias::CoreInstanceExport { instance_index: SHIM_INSTANCE, .. } => {
                            is_place = true
                        }
                        ComponentAlias::CoreInstanceExport { kind: ExternalKind::Memory, .. }
                        | ComponentAlias::InstanceExport { kind: ComponentExternalKind::Func, .. } => {}
                        alias => drop(kept.alias(RoundtripReencoder.component_alias(alias).ok()?)),
                    }
                }
                if !kept.is_empty() {
                    component.section(&kept);
                }
                if is_place && !moved {
                    moved = true;
                    add_functions(&mut component, bytes, shape)?;
                }
            }
            _ => drop(component.section(&as_it_is)),
        }
    }
    moved.then(|| component.finish())
}

fn add_instance(section: &mut InstanceSection, instance: Instance<'_>, is_main: bool) -> Option<()> {
    match instance {
        Instance::Instantiate { module_index, args } => {
            let memory = is_main.then_some((MEMORY, ModuleArg::Instance(SHIM_INSTANCE)));
            let args = args.iter().map(|arg| (arg.name, ModuleArg::Instance(arg.index)));
            section.instantiate(module_index, args.chain(memory).collect::<Vec<_>>());
        }
        Instance::FromExports(exports) => {
            let kind = |kind| RoundtripReencoder.export_kind(kind).ok();
            let exports: Option<Vec<_>> =
                exports.iter().map(|export| Some((export.name, kind(export.kind)?, export.index))).collect();
            section.export_items(exports?);
        }
    }
    Some(())
}

/// The memory, and the functions that read from it.
fn add_functions(component: &mut Component, bytes: &[u8], shape: &Shape<'_>) -> Option<()> {
    let mut aliases = ComponentAliasSection::new();
    aliases.alias(Alias::CoreInstanceExport {
        instance: SHIM_INSTANCE,
        kind: ExportKind::Memory,
        name: MEMORY,
    });
    for function in &shape.functions_of {
        aliases.alias(RoundtripReencoder.component_alias(function.clone()).ok()?);
    }
    component.section(&aliases);
    let id = ComponentSectionId::CanonicalFunction.into();
    for functions in &shape.functions {
        component.section(&RawSection { id, data: &bytes[functions.clone()] });
    }
    Some(())
}

/// A module that imports its memory, and one that has it.
struct Split {
    main: Vec<u8>,
    memory: Vec<u8>,
}

/// Takes the memory out of a module that has one, and functions for imports.
fn split(module: &[u8]) -> Option<Split> {
    let (mut main, mut memory) = (Module::new(), Module::new());
    let (mut imported, mut owned) = (false, None);
    // What the imports are followed by comes before the memory, so that is looked for first.
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::MemorySection(section) = payload.ok()? {
            let mut memories = section.into_iter();
            owned = Some(RoundtripReencoder.memory_type(memories.next()?.ok()?).ok()?);
            if memories.next().is_some() {
                return None;
            }
        }
    }
    let owned = owned?;
    let mut memories = MemorySection::new();
    memories.memory(owned);
    memory.section(&memories);
    let mut exports = ExportSection::new();
    exports.export(MEMORY, ExportKind::Memory, 0);
    memory.section(&exports);
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.ok()?;
        let Some((id, range)) = payload.as_section() else { continue };
        let as_it_is = RawSection { id, data: &module[range] };
        match payload {
            Payload::ImportSection(section) => {
                let mut imports = ImportSection::new();
                for import in section.into_imports() {
                    let import = import.ok()?;
                    if import.module == MEMORY || !matches!(import.ty, TypeRef::Func(_)) {
                        return None;
                    }
                    let kind = RoundtripReencoder.entity_type(import.ty).ok()?;
                    imports.import(import.module, import.name, kind);
                }
                imports.import(MEMORY, MEMORY, owned);
                main.section(&imports);
                imported = true;
            }
            Payload::MemorySection(_) => {}
            // With it, the code may name segments, which are no longer there.
            Payload::DataCountSection { .. } => return None,
            Payload::DataSection(section) => {
                for data in section {
                    // A passive one is what a snapshot leaves of one that was there, and nothing can name it.
                    if let DataKind::Active { memory_index, offset_expr } = data.ok()?.kind {
                        // One that is not a number could be a global of the module's.
                        let offset = offset_expr.get_operators_reader().read().ok()?;
                        if memory_index != 0 || !matches!(offset, Operator::I32Const { .. }) {
                            return None;
                        }
                    }
                }
                memory.section(&as_it_is);
            }
            _ => drop(main.section(&as_it_is)),
        }
    }
    imported.then(|| Split { main: main.finish(), memory: memory.finish() })
}

#[cfg(test)]
mod tests;
