//! Content types and parameters over the real listener: what MLServer's clients send, and what a client that knows nothing
//! of content types sees.

use airlock_tests::{
    client::{call, post},
    gateway::{Gateway, Repository},
    guest,
};
use serde_json::{Value, json};

/// `mirror` (BYTES [-1], answers with all parameters that it is given) and `good` (FP32 [-1]).
async fn gateway() -> Gateway {
    let mirror = guest::module(guest::MIRROR).expect("a valid fixture");
    let repository = Repository::default().with("mirror", "1", "model.wasm", mirror).with(
        "good",
        "1",
        "model.wasm",
        guest::good(),
    );
    Gateway::serve(repository).await
}

fn bytes(data: Value, parameters: Value) -> Value {
    let shape = [data.as_array().map_or(0, Vec::len)];
    json!({ "name": "INPUT0", "datatype": "BYTES", "shape": shape, "data": data, "parameters": parameters })
}

#[tokio::test(flavor = "multi_thread")]
async fn base64_reaches_the_model_as_bytes_and_leaves_as_base64_only_where_it_is_asked_for() {
    let gateway = gateway().await;
    let at = gateway.address();
    let path = "/v2/models/mirror/infer";
    // The model sees bytes: they are not text, and binary output shows them.
    let request = json!({
        "parameters": { "content_type": "base64" }, "inputs": [bytes(json!(["/wA="]), json!({}))],
        "outputs": [{ "name": "OUTPUT0", "parameters": { "content_type": "own", "binary_data": true } }],
    });
    let answer = post(at, path, &request).await;
    assert_eq!(answer.status, 200, "{}", answer.error());
    assert!(answer.body.ends_with(b"\x02\0\0\0\xff\0"));

    // An input called base64 comes back so from a model that answers with the input's parameters.
    let request = json!({ "inputs": [bytes(json!(["/wA=", "aGk="]), json!({ "content_type": "base64" }))] });
    let answer = post(at, path, &request).await.json();
    assert_eq!(answer["outputs"][0]["data"], json!(["/wA=", "aGk="]));
    assert_eq!(answer["outputs"][0]["parameters"], json!({ "content_type": "base64" }));

    // The answer alone, for the output or for the whole request.
    for (of_output, of_request) in [("base64", "np"), ("", "base64")] {
        let mut request = json!({
            "inputs": [bytes(json!(["hi"]), json!({ "content_type": "str" }))], "outputs": [{ "name": "OUTPUT0" }],
        });
        request["parameters"] = json!({ "content_type": of_request });
        if !of_output.is_empty() {
            request["outputs"][0]["parameters"] = json!({ "content_type": of_output });
        }
        let answer = post(at, path, &request).await.json();
        let expected = if of_output.is_empty() { ("str", "hi") } else { ("base64", "aGk=") };
        assert_eq!(answer["outputs"][0]["parameters"]["content_type"], expected.0);
        assert_eq!(answer["outputs"][0]["data"], json!([expected.1]));
    }

    // Who says nothing of content types sends and gets texts, whatever they look like.
    let answer = post(at, path, &json!({ "inputs": [bytes(json!(["aGk="]), json!({}))] })).await.json();
    assert_eq!(
        answer["outputs"],
        json!([{ "name": "OUTPUT0", "datatype": "BYTES", "shape": [1], "data": ["aGk="] }])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_called_base64_and_is_not_is_refused_with_its_place() {
    let gateway = gateway().await;
    let input = bytes(json!(["aGk=", "a b"]), json!({ "content_type": "base64" }));
    let answer = post(gateway.address(), "/v2/models/mirror/infer", &json!({ "inputs": [input] })).await;
    assert_eq!((answer.status, answer.code()), (400, "bad_request".into()));
    assert!(answer.error().starts_with("input 'INPUT0': element 1 is not base64"), "{}", answer.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_parameter_reaches_the_model_and_none_becomes_a_header() {
    let gateway = gateway().await;
    let extra = json!({
        "content_type": "a type of its own", "headers": { "X-Injected": "1\r\nX-Split: 1", "Set-Cookie": "a=b" },
        "nested": { "list": [1, null, { "deep": true }] }, "nothing": null, "list": [1.5, "a"], "number": -1,
        "large": 18_446_744_073_709_551_615_u64, "real": 0.5, "flag": false, "text": "\"quoted\" \u{2603}",
    });
    let mut request = json!({ "parameters": extra, "inputs": [bytes(json!(["a"]), extra.clone())] });
    request["parameters"]["timeout"] = json!(60_000_000);
    let answer = post(gateway.address(), "/v2/models/mirror/infer", &request).await;
    assert_eq!(answer.status, 200, "{}", answer.error());
    assert_eq!(answer.json()["parameters"], extra);
    assert_eq!(answer.json()["outputs"][0]["parameters"], extra);
    for header in ["x-injected", "x-split", "set-cookie"] {
        assert_eq!(answer.header(header), None);
    }
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_columns_fit_the_models_shape_and_nan_is_null() {
    let gateway = gateway().await;
    let at = gateway.address();
    // As MLServer's codecs write a table of one column.
    let column = |content_type: Value| {
        json!({
            "parameters": { "content_type": content_type },
            "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [3, 1], "data": [1.0, null, 3.0] }],
        })
    };
    for known in ["pd", "np"] {
        let answer = post(at, "/v2/models/good/infer", &column(json!(known))).await.json();
        assert_eq!(answer["outputs"][0]["shape"], json!([3]));
        assert_eq!(answer["outputs"][0]["data"], json!([1.0, null, 3.0]));
    }
    for other in [json!("own"), json!(null), json!(7)] {
        let answer = post(at, "/v2/models/good/infer", &column(other)).await;
        assert_eq!(answer.status, 400);
        assert!(answer.error().contains("shape is [3,1], the model expects [-1]"), "{}", answer.error());
    }
    let strings = json!({ "inputs": [{
        "name": "INPUT0", "datatype": "BYTES", "shape": [2, 1], "data": ["2024-01-02T03:04:05", "b"],
        "parameters": { "content_type": "datetime" },
    }] });
    let answer = post(at, "/v2/models/mirror/infer", &strings).await.json();
    assert_eq!(answer["outputs"][0]["shape"], json!([2]));
    assert_eq!(answer["outputs"][0]["parameters"]["content_type"], "datetime");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_best_classes_come_with_their_labels() {
    let labels =
        "output [{ name: \"OUTPUT0\" data_type: TYPE_FP32 dims: -1 label_filename: \"labels.txt\" }]";
    let repository = Repository::default()
        .with("plain", "1", "model.wasm", guest::good())
        .with("named", "1", "model.wasm", guest::good())
        .with_config("named", "config.pbtxt", labels)
        .with_config("named", "labels.txt", "cat\n\ndog\r\n")
        .with("own", "1", "model.wasm", guest::good())
        .with_config("own", "model.toml", "[label_files]\nOUTPUT0 = \"names\"")
        .with_config("own", "names", "one\ntwo\nthree\nfour")
        .with("missing", "1", "model.wasm", guest::good())
        .with_config("missing", "config.pbtxt", labels)
        .with("mirror", "1", "model.wasm", guest::module(guest::MIRROR).expect("a valid fixture"));
    let gateway = Gateway::serve(repository).await;
    let at = gateway.address();
    let request = |count: Value| {
        json!({
            "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [4], "data": [1.0, 2.5, -3.0, 4.0] }],
            "outputs": [{ "name": "OUTPUT0", "parameters": { "classification": count } }],
        })
    };
    for (model, expected) in [
        ("plain", ["4.000000:3", "2.500000:1", "1.000000:0"]),
        ("named", ["4.000000:3", "2.500000:1", "1.000000:0:cat"]),
        ("own", ["4.000000:3:four", "2.500000:1:two", "1.000000:0:one"]),
        ("missing", ["4.000000:3", "2.500000:1", "1.000000:0"]),
    ] {
        let answer = post(at, &format!("/v2/models/{model}/infer"), &request(json!(3))).await.json();
        assert_eq!(
            answer["outputs"],
            json!([{ "name": "OUTPUT0", "datatype": "BYTES", "shape": [3], "data": expected }]),
            "{model}"
        );
    }
    let path = "/v2/models/plain/infer";
    assert_eq!(post(at, path, &request(json!(u64::MAX))).await.json()["outputs"][0]["shape"], json!([4]));
    // 0 asks for no classes, as in Triton.
    assert_eq!(post(at, path, &request(json!(0))).await.json()["outputs"][0]["datatype"], "FP32");
    for hostile in [json!(-1), json!("3"), json!(1.5), json!(true), json!(null), json!([1])] {
        let answer = post(at, path, &request(hostile)).await;
        assert_eq!((answer.status, answer.code()), (400, "bad_request".into()));
        assert!(answer.error().contains("'classification' must be a whole number"), "{}", answer.error());
    }
    let mut texts = json!({ "inputs": [bytes(json!(["a"]), json!({}))] });
    texts["outputs"] = json!([{ "name": "OUTPUT0", "parameters": { "classification": 1 } }]);
    let answer = post(at, "/v2/models/mirror/infer", &texts).await;
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("BYTES has no classes"), "{}", answer.error());
    // More than anybody reads, of a large output.
    let header = json!({
        "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [100_000], "parameters": { "binary_data_size": 400_000 } }],
        "outputs": [{ "name": "OUTPUT0", "parameters": { "classification": u64::MAX } }],
    })
    .to_string();
    let length = header.len().to_string();
    let body = [header.as_bytes(), &vec![0; 400_000]].concat();
    let answer = call(at, "POST", path, &[("inference-header-content-length", &length)], body).await;
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("at most 65536"), "{}", answer.error());
}
