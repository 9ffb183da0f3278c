//! `airlock check`: all checks of a model, without a gateway.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use airlock_tests::{
    gateway::binary,
    guest::{self, hostile},
};
use serde_json::{Value, json};
use tempfile::TempDir;

fn put(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("a writable folder");
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Exit code, stdout and stderr.
fn check(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary()).arg("check").args(arguments).output().expect("the binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// An ONNX file with one node of this type, from x to y, FP32 [2].
fn onnx(op: &str) -> Vec<u8> {
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).expect("a short field");
        assert!(length < 128);
        [&[number << 3 | 2, length], bytes].concat()
    }
    let value = |name: &str| {
        let shape = field(2, &field(1, &[0x08, 2]));
        let tensor = field(1, &[&[0x08, 1][..], &shape].concat());
        [field(1, name.as_bytes()), field(2, &tensor)].concat()
    };
    let node = [field(1, b"x"), field(2, b"y"), field(4, op.as_bytes())].concat();
    let graph = [field(1, &node), field(2, b"g"), field(11, &value("x")), field(12, &value("y"))].concat();
    [&[0x08, 8][..], &field(7, &graph), &field(8, &[0x10, 17])].concat()
}

#[test]
fn a_good_model_is_described() {
    let folder = TempDir::new().expect("a temporary folder");
    let wasm = put(&folder, "echo.wasm", guest::good());
    let (code, out, err) = check(&[text(&wasm)]);
    assert_eq!(code, Some(0), "{err}");
    for part in ["good: core module", "INPUT0 FP32[-1]", "OUTPUT0 FP32[-1]", "imports", "compile "] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    let component = put(&folder, "pipeline.wasm", guest::component(guest::PIPELINE).expect("a fixture"));
    let (code, out, err) = check(&[text(&component), "--output", "json"]);
    assert_eq!(code, Some(0), "{err}");
    let told: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&told["good"], &told["format"]), (&json!(true), &json!("component")));
    assert_eq!(told["inputs"], json!([{ "name": "INPUT0", "datatype": "FP32", "shape": [-1] }]));
    let imports = told["imports"].as_array().expect("a list");
    assert!(imports.contains(&json!("airlock:inference/models@0.1.0")), "{imports:?}");
    assert!(told["steps"][0]["milliseconds"].is_number() && told["compiled_bytes"].as_u64() > Some(1000));
}

#[test]
fn files_beside_a_model_reach_its_load() {
    let folder = TempDir::new().expect("a temporary folder");
    let wasm = put(&folder, "loaded.wasm", guest::module(guest::LOADED).expect("a fixture"));
    let weights = put(&folder, "weights.bin", [0; 4000]);
    let (code, out, err) = check(&[text(&wasm), "--with", text(&weights), "--output", "json"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON")["file_bytes"], json!(4000));
}

#[test]
fn a_rejected_model_and_a_wrong_command_line_differ() {
    let folder = TempDir::new().expect("a temporary folder");
    let bad = put(&folder, "bad.wasm", guest::module(hostile::WASI_IMPORT).expect("a fixture"));
    let (code, out, err) = check(&[text(&bad)]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains("rejected: check: ") && err.contains("wasi:"), "{err}");
    let (code, out, _) = check(&[text(&bad), "--output", "json"]);
    assert_eq!(code, Some(1));
    let told: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&told["good"], &told["step"]), (&json!(false), &json!("check")));

    let other = put(&folder, "notes.txt", "hello");
    for arguments in [&["/nowhere.wasm"][..], &[text(&other)], &[], &[text(&bad), "--worker-cpu", "0s"]] {
        let (code, out, err) = check(arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}: {err}");
    }
}

#[test]
fn an_onnx_model_is_loaded_to_be_checked() {
    let folder = TempDir::new().expect("a temporary folder");
    let good = put(&folder, "relu.onnx", onnx("Relu"));
    let (code, out, err) = check(&[text(&good)]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("good: ONNX") && out.contains("x FP32[2]"), "{out}");
    let unknown = put(&folder, "unknown.onnx", onnx("Dance"));
    let (code, _, err) = check(&[text(&unknown)]);
    assert_eq!(code, Some(1));
    assert!(err.contains("Dance"), "{err}");
    let (code, _, err) = check(&[text(&put(&folder, "broken.onnx", [7; 100]))]);
    assert_eq!(code, Some(1), "{err}");
}
