use proptest::prelude::*;

use super::{super::componentize::componentize, *};

/// A plugin as compilers make them, with these imports, and what is in its memory and code beside.
fn plugin(imports: &str, beside: &str) -> Vec<u8> {
    let module = format!(
        r#"(module
            {imports}
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
            (func (export "airlock:inference/plugin@0.1.1#load") (param i32 i32 i32 i32) (result i32) i32.const 512)
            (func (export "airlock:inference/plugin@0.1.1#signature") (result i32) i32.const 512)
            (func (export "airlock:inference/plugin@0.1.1#infer")
                (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                i32.const 512)
            {beside})"#
    );
    let module = wat::parse_str(module).expect("it is well-formed");
    componentize(&module).expect("it is a plugin")
}

const LOG: &str = r#"(import "airlock:inference/log@0.1.1" "write" (func $log (param i32 i32 i32)))"#;
const EMIT: &str =
    r#"(import "airlock:inference/responses@0.1.1" "emit" (func $emit (param i32 i32 i32 i32)))"#;
const MODELS: &str = r#"(import "airlock:inference/models@0.1.1" "infer"
    (func $infer (param i32 i32 i32 i32 i32 i32 i32 i32)))"#;
/// As a snapshot leaves it: the first was there before, the others are what the memory holds.
const DATA: &str = r#"(data "") (data (i32.const 16) "abc") (data (i32.const 600) "d")"#;

/// Instances of modules, and the tables and memories in them.
fn counted(component: &[u8]) -> (usize, usize, usize) {
    let (mut instances, mut tables, mut memories) = (0, 0, 0);
    for payload in Parser::new(0).parse_all(component) {
        match payload.expect("it is valid") {
            Payload::InstanceSection(section) => {
                let made =
                    |instance: &wasmparser::Result<_>| matches!(instance, Ok(Instance::Instantiate { .. }));
                instances += section.into_iter().filter(made).count();
            }
            Payload::TableSection(section) => tables += section.count() as usize,
            Payload::MemorySection(section) => memories += section.count() as usize,
            _ => {}
        }
    }
    (instances, tables, memories)
}

#[test]
fn functions_that_only_read_are_made_with_the_memory() {
    for imports in [LOG.to_owned(), EMIT.to_owned(), [LOG, EMIT].concat(), [EMIT, LOG].concat()] {
        let before = plugin(&imports, DATA);

        assert_eq!(counted(&before), (3, 1, 1), "{imports}");
        let after = direct(&before).expect("it has the known shape");
        assert_eq!(counted(&after), (2, 0, 1), "{imports}");
    }
}

#[test]
fn what_has_another_shape_stays_as_it_is() {
    let no_import = plugin("", DATA);
    let with_models = plugin(&[LOG, MODELS].concat(), DATA);
    let passive =
        plugin(LOG, r#"(data $p "abc") (func (memory.init $p (i32.const 0) (i32.const 0) (i32.const 3)))"#);
    let by_a_global = plugin(LOG, r#"(global $g i32 (i32.const 8)) (data (global.get $g) "abc")"#);
    for component in [no_import, with_models, passive, by_a_global, b"\0asm".to_vec(), Vec::new()] {
        assert_eq!(direct(&component), None);
    }
    // Once is enough.
    let done = direct(&plugin(LOG, DATA)).expect("it has the known shape");
    assert_eq!(direct(&done), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_is_not_a_component_is_left_alone(changes in proptest::collection::vec(any::<(usize, u8)>(), 0..4)) {
        let mut component = plugin(LOG, DATA);
        for (at, byte) in changes {
            let length = component.len();
            component[at % length] = byte;
        }
        if let Some(made) = direct(&component) {
            prop_assert!(Validator::new().validate_all(&made).is_ok());
        }
    }
}
