//! What the fuzz targets learned, replayed: each input that once led somewhere new, through the same functions.

use std::{fs, panic::catch_unwind, path::Path};

#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// The name of its program and of its folder, and what it does.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 11] = [
    ("api_key", targets::api_key),
    ("component_profile", targets::component_profile),
    ("decode_binary", targets::decode_binary),
    ("decode_generate", targets::decode_generate),
    ("decode_grpc", targets::decode_grpc),
    ("decode_json", targets::decode_json),
    ("decompress", targets::decompress),
    ("model_config", targets::model_config),
    ("multipart", targets::multipart),
    ("onnx_load", targets::onnx_load),
    ("route", targets::paths),
];

#[test]
fn nothing_that_was_found_breaks_a_promise_again() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let programs = fs::read_dir(fuzz.join("fuzz_targets")).expect("the fuzz targets").count();
    assert_eq!(programs, TARGETS.len(), "a target is not replayed here");
    for (name, target) in TARGETS {
        let corpus = fs::read_dir(fuzz.join("corpus").join(name)).expect("each target has a corpus");
        let (mut files, mut bytes) = (0, 0);
        for file in corpus {
            let path = file.expect("a readable folder").path();
            let input = fs::read(&path).expect("a file");
            (files, bytes) = (files + 1, bytes + input.len());
            assert!(catch_unwind(|| target(&input)).is_ok(), "{} breaks a promise", path.display());
        }
        assert!((1..100).contains(&files) && bytes < 200_000, "{name}: {files} files of {bytes} bytes");
    }
}
