//! The admissible-component profile, on components and bytes that no compiler makes.

use std::time::Duration;

use airlock::execute::wasm::profile::{Form, check};
use airlock_tests::guest;
use proptest::prelude::*;

use super::{infer, limits, sandbox, source};

fn refusal(artifact: &[u8]) -> String {
    let error = check(artifact, &limits()).expect_err("it is refused").to_string();
    assert!(error.starts_with("check: "), "{error}");
    error
}

fn refused_text(text: &str) -> String {
    refusal(&wat::parse_str(text).expect("the text is valid"))
}

fn echo() -> Vec<u8> {
    guest::component(guest::ECHO).expect("the fixture assembles")
}

#[test]
fn both_forms_are_recognised() {
    let module = guest::module(guest::ECHO).expect("the fixture assembles");
    assert_eq!(check(&module, &limits()), Ok(Form::CoreModule));
    assert_eq!(check(&echo(), &limits()), Ok(Form::Component));
    let pipeline = guest::component(guest::PIPELINE).expect("the fixture assembles");
    assert_eq!(check(&pipeline, &limits()), Ok(Form::Component));
}

#[test]
fn what_is_not_a_component_is_told_what_it_is() {
    assert!(refusal(b"").contains("it is empty"));
    assert!(refusal(b"  (component)").contains("text: convert it to the binary format"));
    assert!(refusal(b";; a comment\n(module)").contains("text"));
    assert!(refusal(b"\x7fELF\x02\x01\x01\0\0\0\0\0").contains("precompiled machine code"));
    assert!(refusal(b"\0asm\x02\0\0\0").contains("unknown version"));
    assert!(refusal(&[0x5a; 300]).contains("not WebAssembly"));
    assert!(refused_text("(module)").contains("without a component type"));
    assert!(refused_text("(component)").contains("it exports nothing"));
}

#[test]
fn a_cut_or_padded_artifact_is_refused() {
    let whole = echo();
    for end in [8, 9, 100, whole.len() / 2, whole.len() - 1] {
        refusal(&whole[..end]);
    }
    let mut padded = whole;
    padded.extend_from_slice(b"trailing");
    refusal(&padded);
}

#[test]
fn an_artifact_has_a_largest_size() {
    let limits = airlock::limits::SandboxLimits { max_artifact_bytes: 100, ..limits() };
    let error = check(&echo(), &limits).expect_err("it is too large").to_string();
    assert!(error.contains("at most 100 are admitted"), "{error}");
}

#[test]
fn other_imports_are_refused_by_name() {
    let instance = |name: &str| refused_text(&format!(r#"(component (import "{name}" (instance)))"#));
    assert!(
        instance("wasi:clocks/monotonic-clock@0.2.0")
            .contains("\"wasi:clocks/monotonic-clock@0.2.0\": guests have no WASI")
    );
    for name in
        ["random/random", "filesystem/types", "sockets/tcp", "cli/environment", "http/types", "io/poll"]
    {
        assert!(instance(&format!("wasi:{name}@0.2.0")).contains("guests have no WASI"), "{name}");
    }
    assert!(instance("airlock:inference/log@0.2.0").contains("\"airlock:inference/log@0.2.0\""));
    assert!(instance("airlock:inference/log@0.1.0-rc").contains("\"airlock:inference/log@0.1.0-rc\""));
    assert!(instance("airlock:inference/plugin@0.1.0").contains("\"airlock:inference/plugin@0.1.0\""));
    assert!(instance("other:thing/log@0.1.0").contains("\"other:thing/log@0.1.0\""));
    assert!(refused_text(r#"(component (import "now" (func (result u64))))"#).contains("\"now\""));
}

#[test]
fn a_later_patch_of_the_package_is_admitted() {
    let error = refused_text(r#"(component (import "airlock:inference/log@0.1.7" (instance)))"#);
    assert!(error.contains("it exports nothing"), "{error}");
}

#[test]
fn functions_of_another_type_are_refused() {
    let log = |function: &str| {
        refused_text(&format!(r#"(component (import "airlock:inference/log@0.1.0" (instance {function})))"#))
    };
    let error = log(r#"(export "write" (func (param "level" u32) (param "message" string)))"#);
    assert!(
        error.contains("has the type func(level: u32, message: string), expected func(level: enum{trace"),
        "{error}"
    );
    assert!(log(r#"(export "read" (func))"#).contains("has no function \"read\""));
    assert!(log(r#"(export "handle" (type (sub resource)))"#).contains("resource"));
}

#[test]
fn a_type_that_unfolds_without_end_is_cut() {
    let mut types = String::from(r#"(type $t0 (tuple u8 u8))"#);
    for i in 0..60 {
        types.push_str(&format!("(type $t{} (tuple $t{i} $t{i}))", i + 1));
    }
    let error = refused_text(&format!(
        r#"(component (import "airlock:inference/log@0.1.0" (instance {types} (export "write" (func (param "x" $t60))))))"#
    ));
    assert!(error.len() < 2000, "{error}");
}

#[test]
fn what_the_interface_does_not_have_is_refused() {
    assert!(
        refused_text("(component (type $r (resource (rep i32))) (core func (canon resource.new $r)))")
            .contains("resources")
    );
    let lifted = |options: &str| {
        refused_text(&format!(
            r#"(component
                (core module $m (memory (export "m") 1) (func (export "f") (result i32) (i32.const 0)))
                (core instance $i (instantiate $m))
                (func $f (result string) (canon lift (core func $i "f") (memory (core memory $i "m")) {options})))"#
        ))
    };
    assert!(lifted("string-encoding=utf16").contains("UTF-16"));
    assert!(lifted("string-encoding=latin1+utf16").contains("UTF-16"));
    assert!(lifted("string-encoding=utf8").contains("it exports nothing"));
    assert!(lifted("async").contains("async functions"));
    for wanted in ["(type (stream u8))", "(type (future u8))"] {
        refused_text(&format!("(component {wanted})"));
    }
    for (module, word) in
        [("(type (struct))", "gc"), ("(type (array i8))", "gc"), ("(func (param anyref))", "gc")]
    {
        let error = refused_text(&format!("(module {module})"));
        assert!(error.contains(word) || error.contains("not valid"), "{error}");
    }
}

#[test]
fn nesting_and_counts_are_bounded() {
    assert!(refused_text("(component (component (core module)))").contains("inside it has core modules"));
    assert!(refused_text("(component (component (component)))").contains("more than two deep"));
    assert!(refused_text(&format!("(component {})", "(component)".repeat(17))).contains("17 components"));
    assert!(refused_text(&format!("(component {})", "(core module)".repeat(5))).contains("5 core modules"));
    assert!(refused_text(&format!("(module {})", "(func)".repeat(10_001))).contains("10001 functions"));
    assert!(refused_text(&format!("(module {})", "(table 1 funcref)".repeat(5))).contains("5 tables"));
    let two = r#"(core module (memory (export "m") 1))"#.repeat(2);
    assert!(refused_text(&format!("(component {two})")).contains("2 memories"));
}

#[test]
fn functions_that_keep_the_compiler_busy_are_refused() {
    let body = |body: &str| refused_text(&format!("(module (func {body}))"));
    assert!(body(&format!("(local {})", "i32 ".repeat(10_001))).contains("10001 locals"));
    assert!(body(&"(block)".repeat(20_001)).contains("20001 blocks"));
    assert!(
        body(&format!("(local {}) {}", "i32 ".repeat(9_000), "(block)".repeat(9_000)))
            .contains("blocks and targets times locals")
    );
    assert!(body(&"nop ".repeat(300_000)).contains("bytes, at most"));
    let nested = |depth| format!("{}{}", "(block ".repeat(depth), ")".repeat(depth));
    assert!(body(&nested(5_001)).contains("nested 5001 deep"));
    let table = |targets| format!("(block (br_table {} (i32.const 0)))", "0 ".repeat(targets));
    assert!(body(&table(20_001)).contains("20001 targets"));
    assert!(
        body(&format!("(local {}) {}", "i32 ".repeat(9_000), table(9_000))).contains("9000 br_table targets")
    );
    // Each within its own bounds.
    let one = format!("(func (local {}) {})", "i32 ".repeat(9_900), "(block)".repeat(5_000));
    assert!(refused_text(&format!("(module {})", one.repeat(41))).contains("one too many"));
}

#[test]
fn binaries_that_no_tool_makes_are_refused() {
    const HEAD: &[u8] = b"\0asm\x01\0\0\0";
    let module = |rest: &[u8]| refusal(&[HEAD, rest].concat());
    // A size of six bytes, one of five that says more than 32 bits, one that ends too early, and one beyond the end.
    assert!(module(b"\x01\x80\x80\x80\x80\x80\x00").contains("not valid"));
    assert!(module(b"\x01\xff\xff\xff\xff\x7f").contains("not valid"));
    assert!(module(b"\x01\x80").contains("not valid"));
    assert!(module(b"\x01\xff\xff\xff\xff\x0f").contains("not valid"));
    assert!(module(&b"\0\x01\0".repeat(100_000)).contains("2001 sections"));
    assert!(module(b"\x0d\x01\0").contains("exceptions") || module(b"\x0d\x01\0").contains("not valid"));
    // A section of another section's number, twice.
    assert!(module(b"\x01\x01\0\x01\x01\0").contains("not valid"));
}

#[test]
fn counts_are_bounded_at_any_size() {
    let module =
        |field: &str, count: usize| refused_text(&format!("(module (func $f) {})", field.repeat(count)));
    assert!(module("(func)", 1_000_000).contains("1000001 functions, at most 10000"));
    let exports: String = (0..100_000).map(|number| format!("(export \"{number}\" (func $f))")).collect();
    assert!(module(&exports, 1).contains("100000 core exports"));
    let imports: String = (0..100_000).map(|number| format!("(import \"m\" \"{number}\" (func))")).collect();
    assert!(refused_text(&format!("(module {imports})")).contains("100000 core imports"));
    assert!(
        module(&format!("(elem func {})", "$f ".repeat(100_001)), 1).contains("100001 elements of segments")
    );
    assert!(module("(data \"\")", 10_001).contains("10001 segments"));
}

#[test]
fn component_types_that_nest_without_end_are_refused_or_cut() {
    let mut types = String::from("(type $t0 (list u8))");
    for i in 0..20_000 {
        types.push_str(&format!("(type $t{} (list $t{i}))", i + 1));
    }
    refused_text(&format!("(component {types})"));
}

#[test]
fn what_a_snapshot_cannot_keep_is_refused() {
    assert!(refused_text("(module (global (mut v128) (v128.const i64x2 0 0)))").contains("snapshot"));
    assert!(refused_text("(module (global (mut funcref) (ref.null func)))").contains("snapshot"));
    assert!(refused_text("(module (memory 1))").contains("exports nothing"));
}

#[test]
fn sections_after_the_names_are_refused() {
    let mut module =
        wat::parse_str(r#"(module (@custom "name" (before first) "") (func))"#).expect("valid text");
    assert!(refusal(&module).contains("must come last"));
    module.clear();
    refusal(&module);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn mutated_components_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        static ARTIFACTS: std::sync::LazyLock<[Vec<u8>; 2]> = std::sync::LazyLock::new(|| {
            [guest::component(guest::PIPELINE), guest::module(guest::PIPELINE)].map(|made| made.expect("it assembles"))
        });
        for artifact in ARTIFACTS.iter() {
            let mut bytes = artifact.clone();
            for (at, byte) in &flips {
                *at.get_mut(&mut bytes) = *byte;
            }
            if !whole {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Err(error) = check(&bytes, &limits()) {
                prop_assert!(error.reason.len() < 3000);
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..400)) {
        for magic in [&b""[..], b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"] {
            let _ = check(&[magic, &tail].concat(), &limits());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn mutated_guests_load_or_are_refused(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
        module in any::<bool>(),
    ) {
        let guest = if module { guest::module(guest::PIPELINE) } else { guest::component(guest::PIPELINE) };
        let mut bytes = guest.expect("the fixture assembles");
        for (at, byte) in &flips {
            *at.get_mut(&mut bytes) = *byte;
        }
        match sandbox().load(source(bytes)) {
            Ok(model) => {
                let threads = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                let _ = threads.block_on(infer(&model, &[1.0], Duration::from_millis(100)));
            }
            // The text of a panic that was caught on the way.
            Err(error) => prop_assert!(!error.reason.contains("its shape is not supported"), "{error}"),
        }
    }
}

/// Two packages that need each other: reading such a component type overflows the reader's stack, which cannot be caught.
#[test]
fn a_component_type_that_contradicts_itself_is_put_aside() {
    let mut module = guest::module(guest::PIPELINE).expect("the fixture assembles");
    let name = b"airlock:inference/plugin@0.1.0";
    let at =
        module.windows(name.len()).rposition(|bytes| bytes == name).expect("the component type names it");
    module[at + 12] = b'g';
    sandbox().load(source(module)).expect("the gateway's own component type serves");
}
