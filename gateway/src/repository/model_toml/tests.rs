use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::execute::Isolation;

fn config(text: &str) -> ModelConfig {
    parse(text).expect(text)
}

fn error(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn a_whole_configuration_is_read() {
    let config = config(
        r#"
        version_policy = { latest = 2 }
        max_batch_size = 16
        response_cache = true

        [dynamic_batching]
        max_queue_delay = "2ms"

        [parameters]
        labels = "cat,dog"
        threshold = 0.5
        count = -3
        exact = true
        whole = 1.0

        [[inputs]]
        name = "INPUT0"
        datatype = "FP32"
        shape = [-1, 4]
        "#,
    );
    assert_eq!(config.version_policy, Some(VersionPolicy::Latest(2)));
    assert_eq!(config.max_batch_size, Some(16));
    assert!(config.response_cache);
    let batching = config.batching().expect("it says so");
    assert_eq!((batching.max, batching.delay), (16, Duration::from_millis(2)));
    let parameters: Vec<(&str, &str)> =
        config.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        parameters,
        [("count", "-3"), ("exact", "true"), ("labels", "cat,dog"), ("threshold", "0.5"), ("whole", "1.0")]
    );
    let input = TensorSpec { name: "INPUT0".into(), datatype: Datatype::Fp32, shape: Shape(vec![-1, 4]) };
    assert_eq!(config.inputs, [input]);
}

#[test]
fn label_files_are_names_of_files() {
    let config = config("max_batch_size = 0\n[label_files]\nb = \"names\"\na = \"labels.txt\"");
    assert_eq!(config.label_files, [("a".into(), "labels.txt".into()), ("b".into(), "names".into())]);
    assert_eq!(config.batched, None);
    for path in ["../x", "/etc/passwd", ".hidden", "a/b", ""] {
        let told = error(&format!("[label_files]\na = \"{path}\""));
        assert_eq!(told, format!("model.toml line 2: label_files: '{path}' is not the name of a file"));
    }
}

#[test]
fn limits_are_times_and_sizes_above_zero() {
    assert_eq!(config("").limits, ModelLimits::default());
    let limits =
        config("[limits]\ndeadline = \"500ms\"\nmemory = \"64MiB\"\noutput = 1000\nmax_body = \"1KB\"")
            .limits;
    let expected = ModelLimits {
        deadline: Some(std::time::Duration::from_millis(500)),
        memory_bytes: Some(64 << 20),
        output_bytes: Some(1000),
        max_body_bytes: Some(1000),
    };
    assert_eq!(limits, expected);
    let line = "model.toml line 1: ";
    for (text, part) in [
        ("[limits]\ndeadline = \"0s\"", "deadline '0s' is not a time"),
        ("[limits]\ndeadline = \"soon\"", "deadline 'soon' is not a time"),
        ("[limits]\nmemory = \"0\"", "memory has to be above zero"),
        ("[limits]\nmax_body = 0", "max_body has to be above zero"),
    ] {
        let error = error(text);
        assert!(error.starts_with(line) && error.contains(part), "{error}");
    }
    for text in
        ["[limits]\noutput = -1", "[limits]\noutput = \"much\"", "[limits]\nthreads = 1", "limits = 1"]
    {
        assert!(error(text).starts_with("model.toml line "), "{text}");
    }
    let long = format!("[limits]\ndeadline = \"{}\"", "x".repeat(10_000));
    assert!(error(&long).len() < 200);
}

#[test]
fn where_a_model_runs_is_a_word() {
    assert_eq!(config("").isolation, None);
    assert_eq!(config("onnx_isolation = \"process\"").isolation, Some(Isolation::Process));
    assert_eq!(config("onnx_isolation = \"none\"").isolation, Some(Isolation::None));
    assert_eq!(config("onnx_isolation = \"sandbox\"").isolation, Some(Isolation::Sandbox));
    assert_eq!(
        error("onnx_isolation = \"moon\""),
        "model.toml line 1: onnx_isolation: write process, sandbox or none"
    );
}

#[test]
fn the_engine_is_a_word_and_never_a_path() {
    assert_eq!(config("").engine, None);
    assert_eq!(config("onnx_engine = \"tract\"").engine, Some(OnnxEngine::Tract));
    assert_eq!(config("onnx_engine = \"onnxruntime\"").engine, Some(OnnxEngine::OnnxRuntime));
    assert_eq!(config("onnx_engine = \"fastest\"").engine, Some(OnnxEngine::Fastest));
    for text in ["onnx_engine = \"moon\"", "onnx_engine = \"/tmp/libonnxruntime.so\""] {
        assert_eq!(error(text), "model.toml line 1: onnx_engine: write tract, onnxruntime or fastest");
    }
    assert!(error("onnxruntime = \"/tmp/libonnxruntime.so\"").contains("unknown field"));
}

#[test]
fn version_policies_are_read() {
    assert_eq!(config("").version_policy, None);
    assert_eq!(config(r#"version_policy = "all""#).version_policy, Some(VersionPolicy::All));
    assert_eq!(config(r#"version_policy = "latest""#).version_policy, Some(VersionPolicy::Latest(1)));
    let specific = ["1", "beta"].map(|version| version.parse().expect("a version")).into();
    assert_eq!(
        config(r#"version_policy = { specific = ["1", "beta"] }"#).version_policy,
        Some(VersionPolicy::Specific(specific))
    );
}

#[test]
fn faults_are_named_with_line_and_key() {
    assert_eq!(
        error("\n# comment\nbatch = 1"),
        "model.toml line 3: unknown field `batch`, expected one of `version_policy`, `max_batch_size`, `response_cache`, `dynamic_batching`, `parameters`, `inputs`, `label_files`, `limits`, `onnx_isolation`, `onnx_engine`"
    );
    assert_eq!(
        error("max_batch_size = \"8\""),
        "model.toml line 1: invalid type: string \"8\", expected u64"
    );
    assert_eq!(
        error("\nversion_policy = \"newest\""),
        "model.toml line 2: version_policy 'newest' is neither all nor latest"
    );
    for (text, told) in [
        (
            "version_policy = 3",
            "expected \"all\", \"latest\", { latest = N } or { specific = [\"1\", \"2\"] }",
        ),
        ("version_policy = { latest = 0 }", "latest must be at least 1"),
        ("version_policy = { latest = 1, specific = [\"1\"] }", "expected \"all\""),
        ("version_policy = { specific = [\"../1\"] }", "is not a name"),
        ("max_batch_size = -1", "line 1: invalid value: integer `-1`"),
        ("[parameters]\nday = 2024-01-01", "line 2: expected a string, a number, true or false"),
        ("[parameters]\nlist = [1]", "line 2: expected a string, a number, true or false"),
        (
            "[[inputs]]\nname = \"A\"\ndatatype = \"FP33\"\nshape = [1]",
            "line 1: datatype 'FP33' is not one of BOOL",
        ),
        ("[[inputs]]\nname = \"A\"\ndatatype = \"FP32\"\nshape = [0]", "dimension 0 of 'A' must be -1"),
        ("[[inputs]]\nname = \"A\"\nshape = [1]", "missing field `datatype`"),
        (
            "[[inputs]]\nname = \"A\"\ndatatype = \"FP32\"\nshape = [1]\ndims = 1",
            "line 5: unknown field `dims`",
        ),
        ("a = = b", "line 1: "),
    ] {
        assert!(error(text).contains(told), "{}", error(text));
    }
}

proptest! {
    #[test]
    fn random_text_never_panics(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn random_tokens_never_panic(tokens in prop::collection::vec(
        prop::sample::select(vec!["version_policy", "=", "{", "}", "[", "]", "[[inputs]]", "[parameters]", "\"x\"", "'", "-1", "\n", "é", "latest", ".", "#", "\r\n"]),
        0..32,
    )) {
        let _ = parse(&tokens.join(" "));
    }
}

#[test]
fn deep_nesting_is_refused() {
    assert!(parse(&format!("x = {}", "[".repeat(200_000))).is_err());
    assert!(parse(&format!("x = {}", "{a=".repeat(200_000))).is_err());
}
