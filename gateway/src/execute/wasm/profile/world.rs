//! Imports and exports against the world `airlock:inference/model@0.1`: names, and the types of their functions.

use wasmparser::{
    component_types::{
        ComponentAnyTypeId, ComponentDefinedType, ComponentEntityType, ComponentFuncType,
        ComponentInstanceTypeId, ComponentValType,
    },
    types::TypesRef,
};

use crate::execute::LoadError;

use super::{refuse, shown, structure::Outline};

const PACKAGE: &str = "airlock:inference/";
const REMEDY: &str = "build against the package airlock:inference@0.1";

/// Longest rendering of a type that is compared. Ours are shorter; a type that unfolds without end is cut here.
const MAX_RENDERED: usize = 4 << 10;

/// The name of one of the package's interfaces, if its version is one that this gateway implements: any `0.1.x`.
fn interface(name: &str) -> Option<&str> {
    interface_and_patch(name).map(|(interface, _)| interface)
}

fn interface_and_patch(name: &str) -> Option<(&str, &str)> {
    let (interface, version) = name.strip_prefix(PACKAGE)?.split_once('@')?;
    let patch = version.strip_prefix("0.1.")?;
    let number = (1..=9).contains(&patch.len()) && patch.bytes().all(|byte| byte.is_ascii_digit());
    number.then_some((interface, patch))
}

/// The patch version of the interface that models export, if that is what is named.
pub(in crate::execute::wasm) fn plugin_patch(name: &str) -> Option<&str> {
    interface_and_patch(name).filter(|(interface, _)| *interface == "plugin").map(|(_, patch)| patch)
}

fn refuse_import(name: &str) -> LoadError {
    let name = shown(name, 200);
    if name.starts_with("wasi") {
        return refuse(format_args!(
            "it imports {name:?}: guests have no WASI (no files, clocks, randomness, network); build for \
             wasm32-unknown-unknown"
        ));
    }
    if name.starts_with(PACKAGE) {
        return refuse(format_args!(
            "it imports {name:?}: this gateway offers log, models, responses and types of airlock:inference@0.1; {REMEDY}"
        ));
    }
    refuse(format_args!(
        "it imports {name:?}: guests may import airlock:inference log, models, responses and types alone"
    ))
}

/// A core module's imports, by the interface that each is to become.
pub(super) fn check_core_imports(outline: &Outline) -> Result<(), LoadError> {
    if !outline.component_type {
        return Err(refuse(
            "it is a core module without a component type: build it with wit-bindgen or the guest SDK, or make it a \
             component (wasm-tools component new)",
        ));
    }
    for import in &outline.imports {
        // The componentizer reads two spellings; the newer leaves the patch version out.
        let named = match import.strip_prefix("cm32p2|") {
            Some(name) if name.ends_with("@0.1") => interface(&format!("{name}.0")).is_some_and(importable),
            Some(name) => interface(name).is_some_and(importable),
            None => interface(import).is_some_and(importable),
        };
        if !named {
            return Err(refuse_import(import));
        }
    }
    Ok(())
}

fn importable(interface: &str) -> bool {
    matches!(interface, "types" | "log" | "models" | "responses")
}

pub(super) fn check(types: TypesRef<'_>, outline: &Outline) -> Result<(), LoadError> {
    for name in &outline.imports {
        let Some(interface) = interface(name).filter(|interface| importable(interface)) else {
            return Err(refuse_import(name));
        };
        let item = types.component_item_for_import(name).map(|item| item.ty);
        let Some(ComponentEntityType::Instance(instance)) = item else {
            return Err(refuse_import(name));
        };
        functions(types, instance, name, |function| expected_import(interface, function))?;
    }
    let plugin = match outline.exports.as_slice() {
        [name] if interface(name) == Some("plugin") => name,
        [] => {
            return Err(refuse(format_args!("it exports nothing; {REMEDY} and export its interface plugin")));
        }
        names => {
            let other = names.iter().find(|name| interface(name) != Some("plugin")).unwrap_or(&names[0]);
            return Err(refuse(format_args!(
                "it exports {:?}: a model exports airlock:inference/plugin@0.1 and nothing else",
                shown(other, 200)
            )));
        }
    };
    let Some(ComponentEntityType::Instance(instance)) =
        types.component_item_for_export(plugin).map(|item| item.ty)
    else {
        return Err(refuse(format_args!("its export {plugin:?} is not an interface; {REMEDY}")));
    };
    functions(types, instance, plugin, expected_export)?;
    for name in PLUGIN {
        if !types[instance].exports.contains_key(name) {
            return Err(refuse(format_args!("its export {plugin:?} lacks the function {name}; {REMEDY}")));
        }
    }
    Ok(())
}

/// Checks every function of an interface against the type it is expected to have.
fn functions(
    types: TypesRef<'_>,
    instance: ComponentInstanceTypeId,
    interface: &str,
    expected: impl Fn(&str) -> Option<String>,
) -> Result<(), LoadError> {
    for (name, item) in &types[instance].exports {
        let shown_name = shown(name, 100);
        match item.ty {
            ComponentEntityType::Func(function) => {
                let expected = expected(name).ok_or_else(|| {
                    refuse(format_args!("{interface:?} has no function {shown_name:?}; {REMEDY}"))
                })?;
                let given = render_function(types, &types[function]);
                if given != expected {
                    return Err(refuse(format_args!(
                        "the function {shown_name:?} of {interface:?} has the type {}, expected {}; {REMEDY}",
                        shown(&given, 200),
                        shown(&expected, 200)
                    )));
                }
            }
            ComponentEntityType::Type { referenced, .. } => {
                if matches!(referenced, ComponentAnyTypeId::Resource(_)) {
                    return Err(refuse(format_args!(
                        "{interface:?} has the resource {shown_name:?}: resources are not admitted"
                    )));
                }
            }
            _ => {
                return Err(refuse(format_args!(
                    "{interface:?} has {shown_name:?}, which is not a function or type"
                )));
            }
        }
    }
    Ok(())
}

fn render_function(types: TypesRef<'_>, function: &ComponentFuncType) -> String {
    let mut out = String::from(if function.async_ { "async func(" } else { "func(" });
    fields(types, function.params.iter().map(|(name, ty)| (name.as_str(), Some(*ty))), &mut out);
    out.push(')');
    if let Some(result) = function.result {
        out.push_str(" -> ");
        render(types, result, &mut out);
    }
    out
}

/// Writes a type with everything it is made of. Stops early once the text is longer than any of ours.
fn render(types: TypesRef<'_>, ty: ComponentValType, out: &mut String) {
    let id = match ty {
        ComponentValType::Primitive(primitive) => return out.push_str(&primitive.to_string()),
        ComponentValType::Type(id) => id,
    };
    if out.len() > MAX_RENDERED {
        return;
    }
    match &types[id] {
        ComponentDefinedType::Primitive(primitive) => out.push_str(&primitive.to_string()),
        ComponentDefinedType::Record(record) => {
            out.push_str("record{");
            fields(types, record.fields.iter().map(|(name, ty)| (name.as_str(), Some(*ty))), out);
            out.push('}');
        }
        ComponentDefinedType::Variant(variant) => {
            out.push_str("variant{");
            fields(types, variant.cases.iter().map(|(name, case)| (name.as_str(), case.ty)), out);
            out.push('}');
        }
        ComponentDefinedType::Enum(cases) => {
            out.push_str("enum{");
            fields(types, cases.iter().map(|name| (name.as_str(), None)), out);
            out.push('}');
        }
        ComponentDefinedType::List { element, .. } => wrapped(types, "list<", &[Some(*element)], out),
        ComponentDefinedType::Option { ty, .. } => wrapped(types, "option<", &[Some(*ty)], out),
        ComponentDefinedType::Result { ok, err, .. } => wrapped(types, "result<", &[*ok, *err], out),
        ComponentDefinedType::Tuple(tuple) => {
            let elements: Vec<_> = tuple.types.iter().map(|ty| Some(*ty)).collect();
            wrapped(types, "tuple<", &elements, out);
        }
        // Flags, maps, fixed-length lists, handles, futures and streams: the interface has none.
        _ => out.push('?'),
    }
}

fn fields<'a>(
    types: TypesRef<'_>,
    fields: impl Iterator<Item = (&'a str, Option<ComponentValType>)>,
    out: &mut String,
) {
    for (i, (name, ty)) in fields.enumerate() {
        if out.len() > MAX_RENDERED {
            return;
        }
        if i > 0 {
            out.push_str(", ");
        }
        out.push_str(name);
        if let Some(ty) = ty {
            out.push_str(": ");
            render(types, ty, out);
        }
    }
}

fn wrapped(types: TypesRef<'_>, open: &str, elements: &[Option<ComponentValType>], out: &mut String) {
    out.push_str(open);
    for (i, element) in elements.iter().enumerate() {
        if out.len() > MAX_RENDERED {
            return;
        }
        if i > 0 {
            out.push_str(", ");
        }
        match element {
            Some(ty) => render(types, *ty, out),
            None => out.push('_'),
        }
    }
    out.push('>');
}

const PLUGIN: [&str; 3] = ["load", "signature", "infer"];

const DATATYPE: &str =
    "enum{bool, uint8, uint16, uint32, uint64, int8, int16, int32, int64, fp16, bf16, fp32, fp64, bytes}";
const PARAMETERS: &str = "list<tuple<string, variant{boolean: bool, int64: s64, uint64: u64, double: f64, text: string, \
                          json: string}>>";
const ERROR: &str = "variant{invalid-input: string, failed: string}";

fn tensor() -> String {
    format!(
        "record{{name: string, datatype: {DATATYPE}, shape: list<u64>, parameters: {PARAMETERS}, data: list<u8>}}"
    )
}

fn response() -> String {
    format!("record{{parameters: {PARAMETERS}, outputs: list<{}>}}", tensor())
}

/// The type of a function that may be imported, in the form of [`render_function`].
fn expected_import(interface: &str, function: &str) -> Option<String> {
    match (interface, function) {
        ("log", "write") => {
            Some("func(level: enum{trace, debug, info, warn, error}, message: string)".into())
        }
        ("responses", "emit") => Some(format!("func(response: {})", response())),
        ("models", "infer") => Some(format!(
            "func(model: string, version: option<string>, inputs: list<{0}>) -> result<list<{0}>, {ERROR}>",
            tensor()
        )),
        _ => None,
    }
}

fn expected_export(function: &str) -> Option<String> {
    match function {
        "load" => Some(format!(
            "func(config: list<tuple<string, string>>, files: list<record{{name: string, data: list<u8>}}>) -> \
             result<_, {ERROR}>"
        )),
        "signature" => {
            let specs = format!("list<record{{name: string, datatype: {DATATYPE}, shape: list<s64>}}>");
            Some(format!("func() -> record{{inputs: {specs}, outputs: {specs}}}"))
        }
        "infer" => Some(format!(
            "func(request: record{{id: option<string>, parameters: {PARAMETERS}, inputs: list<{0}>, outputs: \
             list<string>}}) -> result<{1}, {ERROR}>",
            tensor(),
            response()
        )),
        _ => None,
    }
}
