//! Guests written in WebAssembly text: a fixture's own fields, completed with the parts of a good guest.

use anyhow::{Context, Result};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const PRELUDE: &str = include_str!("../hostile/_prelude.wat");
const WIT: &str = include_str!("../../wit/inference.wit");

/// The package as the fixtures name it: they are guests of an earlier version, which later ones still serve.
fn wit() -> String {
    WIT.replacen("airlock:inference@0.1.1", "airlock:inference@0.1.0", 1)
}

/// The hostile fixtures, one constant each.
pub mod hostile {
    include!(concat!(env!("OUT_DIR"), "/hostile.rs"));
}

/// A good guest: echoes its input.
pub const ECHO: &str = "";

/// Counts its calls in its memory and answers the count as the only element.
pub const COUNTER: &str = r#"
;; replaces: infer
(data (i32.const 1024) "\01\00\00\00\00\00\00\00")
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (i32.store (i32.const 1040) (i32.add (i32.const 1) (i32.load (i32.const 1040))))
  (f32.store (i32.const 1048) (f32.convert_i32_u (i32.load (i32.const 1040))))
  (drop (call $echo (local.get $input)))
  (i32.store (i32.const 524) (i32.const 1024))
  (i32.store (i32.const 540) (i32.const 1048))
  (i32.store (i32.const 544) (i32.const 4))
  (call $ok (i32.const 512) (i32.const 1)))
"#;

/// Echoes its input after some milliseconds of work.
pub const BUSY: &str = r#"
;; replaces: infer
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (local $left i32)
  (local.set $left (i32.const 4000000))
  (loop $again (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
  (drop (call $echo (local.get $input)))
  (call $ok (i32.const 512) (i32.const 1)))
"#;

/// Loops a million times for each unit of its first input, then echoes it; traps instead if that is negative.
pub const WORK: &str = r#"
;; replaces: infer
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (local $value f32) (local $left i64)
  (local.set $value (f32.load (i32.load offset=28 (local.get $input))))
  (local.set $left (i64.trunc_f32_s (f32.mul (f32.abs (local.get $value)) (f32.const 1000000))))
  (block $done
    (loop $again
      (br_if $done (i64.le_s (local.get $left) (i64.const 0)))
      (local.set $left (i64.sub (local.get $left) (i64.const 1)))
      (br $again)))
  (if (f32.lt (local.get $value) (f32.const 0)) (then (unreachable)))
  (drop (call $echo (local.get $input)))
  (call $ok (i32.const 512) (i32.const 1)))
"#;

/// Keeps the bytes of its first file (FP32) in memory that it grows for them, and answers with them whatever the input.
pub const LOADED: &str = r#"
;; replaces: load infer
(global $weights (mut i32) (i32.const 0))
(global $len (mut i32) (i32.const 0))
(data (i32.const 1024) "\00\00\00\00\00\00\00\00")
(func (export "airlock:inference/plugin@0.1.0#load")
  (param i32 i32) (param $files i32) (param i32) (result i32)
  (global.set $len (i32.load offset=12 (local.get $files)))
  (global.set $weights (call $alloc (i32.const 16) (i32.add (i32.const 0x100000) (global.get $len))))
  (memory.copy (global.get $weights) (i32.load offset=8 (local.get $files)) (global.get $len))
  (i32.const 128))
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (i32.store (i32.const 1024) (i32.shr_u (global.get $len) (i32.const 2)))
  (drop (call $echo (local.get $input)))
  (i32.store (i32.const 524) (i32.const 1024))
  (i32.store (i32.const 540) (global.get $weights))
  (i32.store (i32.const 544) (global.get $len))
  (call $ok (i32.const 512) (i32.const 1)))
"#;

/// Calls the model `next` with its input and answers what that answers, errors included.
pub const PIPELINE: &str = r#"
;; replaces: infer
(import "airlock:inference/models@0.1.0" "infer" (func $call (param i32 i32 i32 i32 i32 i32 i32 i32)))
(data (i32.const 1024) "next")
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param $inputs i32) (param i32 i32) (result i32)
  (call $call (i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0)
    (local.get $input) (local.get $inputs) (i32.const 1040))
  (if (result i32) (i32.load8_u (i32.const 1040))
    (then (call $err (i32.load8_u (i32.const 1044)) (i32.load (i32.const 1048)) (i32.load (i32.const 1052))))
    (else (call $ok (i32.load (i32.const 1044)) (i32.load (i32.const 1048))))))
"#;

/// Echoes BYTES of any number with the input's parameters, and the request's parameters as the response's.
pub const MIRROR: &str = r#"
;; replaces: data infer
(data (i32.const 0) "INPUT0")
(data (i32.const 16) "OUTPUT0")
(data (i32.const 32) "\ff\ff\ff\ff\ff\ff\ff\ff")
(data (i32.const 48) "\40\00\00\00\01\00\00\00\60\00\00\00\01\00\00\00")
(data (i32.const 64) "\00\00\00\00\06\00\00\00\0d\00\00\00\20\00\00\00\01\00\00\00")
(data (i32.const 96) "\10\00\00\00\07\00\00\00\0d\00\00\00\20\00\00\00\01\00\00\00")
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param $parameters i32) (param $count i32) (param $input i32) (param i32) (param i32 i32)
  (result i32)
  (drop (call $echo (local.get $input)))
  (i32.store8 offset=8 (i32.const 512) (i32.const 13))
  (i64.store offset=20 align=4 (i32.const 512) (i64.load offset=20 align=4 (local.get $input)))
  (drop (call $ok (i32.const 512) (i32.const 1)))
  (i32.store offset=4 (i32.const 256) (local.get $parameters))
  (i32.store offset=8 (i32.const 256) (local.get $count))
  (i32.const 256))
"#;

/// Emits its input as often as its first element says. Then it traps, if that is negative; it returns its input as well, if that
/// has a fraction; and no response otherwise.
pub const STREAM: &str = r#"
;; replaces: infer
(import "airlock:inference/responses@0.1.0" "emit" (func $emit (param i32 i32 i32 i32)))
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (local $value f32) (local $left i32)
  (local.set $value (f32.load (i32.load offset=28 (local.get $input))))
  (local.set $left (i32.trunc_f32_s (f32.abs (local.get $value))))
  (drop (call $echo (local.get $input)))
  (block $done
    (loop $again
      (br_if $done (i32.eqz (local.get $left)))
      (call $emit (i32.const 0) (i32.const 0) (i32.const 512) (i32.const 1))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br $again)))
  (if (f32.lt (local.get $value) (f32.const 0)) (then (unreachable)))
  (call $ok (i32.const 512) (f32.ne (local.get $value) (f32.trunc (local.get $value)))))
"#;

/// A core module that carries its component type, as a linker makes it.
pub fn module(fixture: &str) -> Result<Vec<u8>> {
    let mut module = wat::parse_str(text(fixture)).context("the fixture is not valid WebAssembly text")?;
    let mut resolve = Resolve::default();
    let package = resolve.push_str("inference.wit", &wit())?;
    let world = resolve.select_world(&[package], Some("model"))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    Ok(module)
}

/// A core module that answers as its signature says: INPUT0 → OUTPUT0, FP32 [-1].
pub fn good() -> Vec<u8> {
    module(ECHO).expect("the good guest is a valid fixture")
}

/// The same as a component.
pub fn component(fixture: &str) -> Result<Vec<u8>> {
    ComponentEncoder::default().module(&module(fixture)?)?.validate(true).encode()
}

/// The fixture's fields, and the parts of the prelude that it does not replace.
fn text(fixture: &str) -> String {
    let replaced: Vec<&str> = fixture
        .lines()
        .find_map(|line| line.strip_prefix(";; replaces: "))
        .map(|parts| parts.split_whitespace().collect())
        .unwrap_or_default();
    let parts = PRELUDE.split("\n;; part: ").skip(1).filter(|part| {
        let name = part.lines().next().unwrap_or_default();
        !replaced.contains(&name)
    });
    let kept: Vec<&str> = parts.map(|part| part.split_once('\n').map_or("", |(_, body)| body)).collect();
    format!("(module\n{fixture}\n{})", kept.join("\n"))
}
