//! The structure of an artifact: sections, counts and sizes. Read before validation, so nothing is taken for granted.

use wasmparser::{
    BinaryReaderError, CanonicalFunction, CanonicalOption, ComponentExternalKind, CustomSectionReader,
    ElementItems, Encoding, GlobalSectionReader, MemoryType, Parser, Payload, ValType,
};

use crate::{
    execute::{LoadError, wasm::engine},
    limits::SandboxLimits,
};

use super::{Form, body::Bodies, invalid, refuse, shown};

/// Items of one kind: over all core modules of the artifact, or over its components.
pub(super) const MAX_FUNCTIONS: u64 = 10_000;
const MAX_TYPES: u64 = 10_000;
const MAX_SEGMENTS: u64 = 10_000;
/// Functions that segments put into tables.
const MAX_ELEMENTS: u64 = 100_000;
const MAX_GLOBALS: u64 = 1_000;
const MAX_IMPORTS: u64 = 1_000;
const MAX_EXPORTS: u64 = 1_000;
const MAX_COMPONENT_ITEMS: u64 = 10_000;
const MAX_SECTIONS: u64 = 2_000;
/// Components inside the component: the componentizer makes one for each exported interface, for its types.
const MAX_NESTED: u64 = 16;
const PAGE: u64 = 64 << 10;

/// What the checks of types need to know of the structure.
#[derive(Debug, Default)]
pub(super) struct Outline {
    /// Imports of the outermost component, or module names that a core module imports from.
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
    /// Whether a core module carries its component type.
    pub(super) component_type: bool,
}

pub(super) fn check(
    artifact: &[u8],
    form: Form,
    limits: &SandboxLimits,
    max_functions: u64,
) -> Result<Outline, LoadError> {
    let mut walk = Walk {
        limits,
        max_functions,
        form,
        depth: 0,
        module: None,
        counts: Counts::default(),
        bodies: Bodies::default(),
        outline: Outline::default(),
    };
    for payload in Parser::new(0).parse_all(artifact) {
        walk.payload(payload.map_err(|error| invalid(&error))?)?;
    }
    Ok(walk.outline)
}

struct Walk<'a> {
    limits: &'a SandboxLimits,
    max_functions: u64,
    form: Form,
    /// Components that are open.
    depth: u32,
    /// The core module that is open.
    module: Option<Module>,
    counts: Counts,
    bodies: Bodies,
    outline: Outline,
}

/// What a snapshot needs to know of a core module.
#[derive(Default)]
struct Module {
    has_exports: bool,
    has_state: bool,
    name_section: bool,
}

#[derive(Default)]
struct Counts {
    sections: u64,
    modules: u64,
    nested: u64,
    types: u64,
    functions: u64,
    memories: u64,
    pages: u64,
    tables: u64,
    table_elements: u64,
    globals: u64,
    imports: u64,
    exports: u64,
    segments: u64,
    elements: u64,
    component_items: u64,
}

fn bound(count: &mut u64, more: u32, limit: u64, what: &str) -> Result<(), LoadError> {
    *count += u64::from(more);
    if *count > limit {
        return Err(refuse(format_args!("it has {count} {what}, at most {limit} are admitted")));
    }
    Ok(())
}

fn read<T>(item: Result<T, BinaryReaderError>) -> Result<T, LoadError> {
    item.map_err(|error| invalid(&error))
}

impl Walk<'_> {
    fn payload(&mut self, payload: Payload<'_>) -> Result<(), LoadError> {
        bound(
            &mut self.counts.sections,
            u32::from(payload.as_section().is_some()),
            MAX_SECTIONS,
            "sections",
        )?;
        if let Some(module) = &self.module
            && module.name_section
            && !matches!(payload, Payload::CustomSection(_) | Payload::End(_))
        {
            return Err(refuse("the name section of a core module must come last"));
        }
        match payload {
            Payload::Version { encoding: Encoding::Component, .. } => self.depth += 1,
            Payload::Version { encoding: Encoding::Module, .. } => {
                let limit = u64::from(engine::MAX_CORE_MODULES);
                bound(&mut self.counts.modules, 1, limit, "core modules")?;
                if self.depth > 1 {
                    return Err(refuse(
                        "a component inside it has core modules: link them into one component",
                    ));
                }
                self.module = Some(Module::default());
            }
            Payload::ComponentSection { .. } => {
                bound(&mut self.counts.nested, 1, MAX_NESTED, "components inside the component")?;
                if self.depth > 1 {
                    return Err(refuse("components are nested more than two deep"));
                }
            }
            Payload::End(_) => self.end()?,
            Payload::CustomSection(section) => self.custom(&section),
            payload if self.module.is_some() => self.core(payload)?,
            payload => self.component(payload)?,
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), LoadError> {
        let Some(module) = self.module.take() else {
            self.depth = self.depth.saturating_sub(1);
            return Ok(());
        };
        if module.has_state && !module.has_exports {
            return Err(refuse("a core module has a memory or variables but exports nothing"));
        }
        Ok(())
    }

    fn custom(&mut self, section: &CustomSectionReader<'_>) {
        if let Some(module) = &mut self.module {
            module.name_section |= section.name() == "name";
            self.outline.component_type |= section.name().starts_with("component-type");
        }
    }

    fn core(&mut self, payload: Payload<'_>) -> Result<(), LoadError> {
        let counts = &mut self.counts;
        match payload {
            Payload::TypeSection(types) => bound(&mut counts.types, types.count(), MAX_TYPES, "types")?,
            Payload::FunctionSection(functions) => {
                bound(&mut counts.functions, functions.count(), self.max_functions, "functions")?;
            }
            Payload::ImportSection(imports) => {
                bound(&mut counts.imports, imports.count(), MAX_IMPORTS, "core imports")?;
                if self.form == Form::CoreModule {
                    for import in imports.into_imports() {
                        self.outline.imports.push(read(import)?.module.to_owned());
                    }
                }
            }
            Payload::ExportSection(exports) => {
                bound(&mut counts.exports, exports.count(), MAX_EXPORTS, "core exports")?;
                self.module_state(|module| module.has_exports = true);
            }
            Payload::ElementSection(elements) => {
                bound(&mut counts.segments, elements.count(), MAX_SEGMENTS, "segments")?;
                for segment in elements {
                    let items = match read(segment)?.items {
                        ElementItems::Functions(items) => items.count(),
                        ElementItems::Expressions(_, items) => items.count(),
                    };
                    bound(&mut counts.elements, items, MAX_ELEMENTS, "elements of segments")?;
                }
            }
            Payload::DataSection(data) => {
                bound(&mut counts.segments, data.count(), MAX_SEGMENTS, "segments")?
            }
            Payload::TableSection(tables) => {
                bound(&mut counts.tables, tables.count(), u64::from(engine::MAX_TABLES), "tables")?;
                for table in tables {
                    let elements = read(table)?.ty.initial;
                    counts.table_elements = counts.table_elements.saturating_add(elements);
                }
                if counts.table_elements > self.limits.table_elements as u64 {
                    return Err(refuse(format_args!(
                        "its tables begin with {} elements, at most {} are admitted",
                        counts.table_elements, self.limits.table_elements
                    )));
                }
            }
            Payload::MemorySection(memories) => {
                bound(&mut counts.memories, memories.count(), 1, "memories")?;
                for memory in memories {
                    self.memory(&read(memory)?)?;
                }
            }
            Payload::GlobalSection(globals) => self.globals(globals)?,
            Payload::CodeSectionEntry(body) => {
                if let Some(problem) = read(self.bodies.check(&body))? {
                    let at = body.range().start;
                    return Err(refuse(format_args!("the function at offset {at:#x} {problem}: split it")));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn memory(&mut self, memory: &MemoryType) -> Result<(), LoadError> {
        self.module_state(|module| module.has_state = true);
        self.counts.pages = self.counts.pages.saturating_add(memory.initial);
        let bytes = self.counts.pages.saturating_mul(PAGE);
        if bytes > self.limits.memory_bytes as u64 {
            return Err(refuse(format_args!(
                "its memory begins with {bytes} bytes, a request may use {}",
                self.limits.memory_bytes
            )));
        }
        Ok(())
    }

    fn globals(&mut self, globals: GlobalSectionReader<'_>) -> Result<(), LoadError> {
        bound(&mut self.counts.globals, globals.count(), MAX_GLOBALS, "globals")?;
        for global in globals {
            let global = read(global)?.ty;
            if global.mutable {
                if matches!(global.content_type, ValType::V128 | ValType::Ref(_)) {
                    return Err(refuse(
                        "a global that changes is a vector or a reference: a snapshot cannot keep it",
                    ));
                }
                self.module_state(|module| module.has_state = true);
            }
        }
        Ok(())
    }

    fn module_state(&mut self, change: impl FnOnce(&mut Module)) {
        if let Some(module) = &mut self.module {
            change(module);
        }
    }

    fn component(&mut self, payload: Payload<'_>) -> Result<(), LoadError> {
        let outermost = self.depth == 1;
        let items = match &payload {
            Payload::InstanceSection(items) => items.count(),
            Payload::CoreTypeSection(items) => items.count(),
            Payload::ComponentInstanceSection(items) => items.count(),
            Payload::ComponentAliasSection(items) => items.count(),
            Payload::ComponentTypeSection(items) => items.count(),
            Payload::ComponentCanonicalSection(items) => items.count(),
            Payload::ComponentImportSection(items) => items.count(),
            Payload::ComponentExportSection(items) => items.count(),
            Payload::ComponentStartSection { .. } => return Err(refuse("it has a component start function")),
            _ => 0,
        };
        bound(&mut self.counts.component_items, items, MAX_COMPONENT_ITEMS, "component items")?;
        match payload {
            Payload::ComponentImportSection(imports) if outermost => {
                for import in imports {
                    let import = read(import)?;
                    let name = import.name.name;
                    // Types are imported one by one where an interface uses those of another.
                    if !matches!(
                        import.ty.kind(),
                        ComponentExternalKind::Instance | ComponentExternalKind::Type
                    ) {
                        return Err(refuse(format_args!(
                            "it imports {:?}, which is not an interface",
                            shown(name, 200)
                        )));
                    }
                    if import.ty.kind() == ComponentExternalKind::Instance {
                        self.outline.imports.push(name.to_owned());
                    }
                }
            }
            Payload::ComponentExportSection(exports) if outermost => {
                for export in exports {
                    self.outline.exports.push(read(export)?.name.name.to_owned());
                }
            }
            Payload::ComponentCanonicalSection(functions) => {
                for function in functions {
                    canonical(&read(function)?)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn canonical(function: &CanonicalFunction) -> Result<(), LoadError> {
    let (CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. }) = function
    else {
        return Err(refuse("it uses resources, streams, futures or tasks: the interface has none"));
    };
    for option in options {
        match option {
            CanonicalOption::UTF8
            | CanonicalOption::Memory(_)
            | CanonicalOption::Realloc(_)
            | CanonicalOption::PostReturn(_) => {}
            CanonicalOption::UTF16 | CanonicalOption::CompactUTF16 => {
                return Err(refuse("its strings are UTF-16: build it with UTF-8 strings"));
            }
            CanonicalOption::Async | CanonicalOption::Callback(_) => {
                return Err(refuse("it has async functions: the interface is synchronous"));
            }
            CanonicalOption::CoreType(_) | CanonicalOption::Gc => {
                return Err(refuse("it passes values by garbage-collected references"));
            }
        }
    }
    Ok(())
}
