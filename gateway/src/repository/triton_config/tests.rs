use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Result<ModelConfig, String> {
    let model = "resnet".parse().expect("a name");
    parse(text, &model).map_err(|error| error.to_string())
}

fn config(text: &str) -> ModelConfig {
    read(text).expect(text)
}

fn error(text: &str) -> String {
    read(text).expect_err(text)
}

fn specific(versions: &[&str]) -> VersionPolicy {
    VersionPolicy::Specific(versions.iter().map(|version| version.parse().expect("a version")).collect())
}

fn names(set: &BTreeSet<String>) -> Vec<&str> {
    set.iter().map(String::as_str).collect()
}

#[test]
fn a_whole_configuration_is_read() {
    let config = config(
        r#"
        name: "resnet"
        platform: "onnxruntime_onnx"
        max_batch_size: 8
        input [
          { name: "IMAGE" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, 224 ] },
          { name: "LABEL" data_type: TYPE_STRING dims: [ -1 ] optional: true }
        ]
        output { name: "SCORES" data_type: TYPE_BF16 dims: 1000 label_filename: "labels.txt" }
        version_policy: { specific: { versions: [1, 3] } }
        instance_group [ { count: 2 kind: KIND_CPU } ]
        dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 priority_levels: 2 }
        response_cache { enable: true }
        sequence_batching { max_sequence_idle_microseconds: 5 }
        parameters: { key: "threads" value: { string_value: "1" } }
        parameters { key: "mode" value { string_value: "fast" } }
        parameters { key: "threads" value { string_value: "2" } }
        default_model_filename: "resnet.onnx"
        "#,
    );
    assert_eq!(config.max_batch_size, Some(8));
    assert_eq!(config.kind, Some(Kind::Onnx));
    assert_eq!(config.artifact.as_deref(), Some("resnet.onnx"));
    assert_eq!(config.version_policy, Some(specific(&["1", "3"])));
    let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
        name: name.into(),
        datatype,
        shape: Shape(shape.to_vec()),
    };
    assert_eq!(
        config.inputs,
        [spec("IMAGE", Datatype::Fp32, &[-1, 3, 224, 224]), spec("LABEL", Datatype::Bytes, &[-1, -1])]
    );
    assert_eq!(config.outputs, [spec("SCORES", Datatype::Bf16, &[-1, 1000])]);
    assert_eq!(config.parameters, [("mode".into(), "fast".into()), ("threads".into(), "2".into())]);
    assert_eq!(names(&config.ignored), ["input.format", "instance_group"]);
    assert!(config.response_cache);
    let delay = Duration::from_micros(100);
    assert_eq!(config.batching(), Some(Batching { max: 8, preferred: vec![4, 8], delay }));
    assert_eq!(config.label_files, [("SCORES".into(), "labels.txt".into())]);
    assert_eq!(config.batched, Some(true));
    assert_eq!(
        names(&config.unsupported),
        ["dynamic_batching.priority_levels", "input.optional", "sequence_batching"]
    );
}

#[test]
fn what_is_absent_has_tritons_default() {
    let empty = config("");
    assert_eq!(empty.version_policy, Some(VersionPolicy::Latest(1)));
    assert_eq!((empty.max_batch_size, empty.kind, empty.artifact), (None, None, None));
    assert_eq!(config(r#"name: "" platform: "" default_model_filename: """#).kind, None);
    assert_eq!(
        (config("max_batch_size: 0").max_batch_size, config("max_batch_size: 0").batched),
        (None, Some(false))
    );
    assert_eq!(empty.batched, None);
}

#[test]
fn version_policies_are_read() {
    let policy =
        |text: &str| config(&format!("version_policy {{ {text} }}")).version_policy.expect("a policy");
    assert_eq!(policy(""), VersionPolicy::Latest(1));
    assert_eq!(policy("all { }"), VersionPolicy::All);
    assert_eq!(policy("latest { }"), VersionPolicy::Latest(1));
    assert_eq!(policy("latest { num_versions: 3 }"), VersionPolicy::Latest(3));
    assert_eq!(policy("specific { versions: 2 versions: 5 }"), specific(&["2", "5"]));
    let told = |text: &str| error(&format!("version_policy {{ {text} }}"));
    assert_eq!(told("all {} latest {}"), "config.pbtxt line 1, column 25: latest: 'all' is chosen already");
    assert!(
        told("latest { num_versions: 0 }").ends_with("num_versions: expected a whole number, at least 1")
    );
    assert!(told("specific { versions: [0] }").contains("each at least 1"));
    assert!(told("newest { }").ends_with("newest: expected one of latest, all, specific"));
}

#[test]
fn the_platform_or_backend_must_be_one_that_is_here() {
    for (text, kind) in [
        (r#"backend: "onnxruntime""#, Kind::Onnx),
        (r#"platform: "onnxruntime_onnx""#, Kind::Onnx),
        (r#"backend: "wasm""#, Kind::Wasm),
        (r#"backend: "openvino" default_model_filename: "m.onnx""#, Kind::Onnx),
    ] {
        assert_eq!(config(text).kind, Some(kind), "{text}");
    }
    for name in ["tensorrt_plan", "ensemble", "pytorch_libtorch", "tensorflow_savedmodel"] {
        let told = error(&format!("platform: \"{name}\""));
        assert!(told.contains(&format!("platform '{name}' is not supported")), "{told}");
    }
    for name in ["python", "openvino", "dali"] {
        let told = error(&format!("backend: \"{name}\""));
        assert!(told.contains(&format!("backend '{name}' is not supported")), "{told}");
    }
}

#[test]
fn a_reshaped_tensor_has_the_models_own_shape() {
    let config = config(
        r#"input { name: "data_0" data_type: TYPE_FP32 dims: [3, 224, 224] reshape { shape: [1, 3, 224, 224] } }"#,
    );
    assert_eq!(config.inputs[0].shape, Shape(vec![1, 3, 224, 224]));
    assert_eq!(names(&config.unsupported), ["input.reshape"]);
}

#[test]
fn fields_nobody_knows_are_reported() {
    let config = config(r#"max_batchsize: 8 input { name: "A" data_type: TYPE_INT8 dim: 1 }"#);
    assert_eq!(names(&config.unsupported), ["input.dim", "max_batchsize"]);
}

#[test]
fn faults_are_named_with_line_and_field() {
    for (text, told) in [
        (
            "\nname: \"vgg\"",
            "config.pbtxt line 2, column 1: name: the name is 'vgg', it must be that of the folder, 'resnet'",
        ),
        ("name: resnet", "config.pbtxt line 1, column 1: name: expected a string, given resnet"),
        (
            "max_batch_size: 1 max_batch_size: 2",
            "config.pbtxt line 1, column 19: max_batch_size: it is given twice",
        ),
        ("input: 5", "config.pbtxt line 1, column 1: input: expected { … }, given 5"),
        ("input { dims: 1 }", "config.pbtxt line 1, column 1: input: the input has no name"),
        ("input { name: \"A\" }", "config.pbtxt line 1, column 1: input: input 'A' has no data_type"),
        (
            "platform: {",
            "config.pbtxt line 1, column 12: expected a field name or '}', found the end of the file",
        ),
    ] {
        assert_eq!(error(text), told);
    }
    for bad in ["-1", "2147483648", "1.5", "\"8\""] {
        assert!(error(&format!("max_batch_size: {bad}")).contains("max_batch_size: expected a whole number"));
    }
    for bad in ["FP32", "TYPE_FP8", "TYPE_BYTES", "TYPE_INVALID", "\"TYPE_FP32\""] {
        let told = error(&format!("output {{ name: \"A\" data_type: {bad} }}"));
        assert!(told.contains("data_type: "), "{told}");
    }
    for bad in ["../model.onnx", "a/b.onnx", "..", ".hidden.onnx", "a\\\\b", "a\\000b"] {
        let told = error(&format!("default_model_filename: \"{bad}\""));
        assert!(told.contains("expected the name of a file"), "{told}");
    }
    for bad in ["0", "-2", "9223372036854775808"] {
        assert!(read(&format!("input {{ name: \"A\" data_type: TYPE_FP32 dims: {bad} }}")).is_err(), "{bad}");
    }
    let twice = "input [{ name: \"A\" data_type: TYPE_FP32 }, { name: \"A\" data_type: TYPE_FP32 }]";
    assert!(error(twice).ends_with("'A' is declared twice"));
}

proptest! {
    #[test]
    fn random_configurations_never_panic(fields in prop::collection::vec((
        prop::sample::select(vec!["name", "platform", "max_batch_size", "input", "output", "version_policy", "parameters", "default_model_filename", "x"]),
        prop::sample::select(vec!["1", "-1", "\"a\"", "{}", "[]", "{ name: \"A\" data_type: TYPE_FP32 dims: [1] }", "{ latest {} }", "{ key: \"k\" }", "TYPE_FP32", "1.5"]),
    ), 0..6)) {
        let text: String = fields.into_iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        let _ = read(&text);
    }
}
