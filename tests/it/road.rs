//! The V2 protocol over the real listener: what is answered, and with which status, code and text.

use std::time::Duration;

use airlock_tests::{
    client::{Answer, call, call_http2, get, post},
    gateway::{Gateway, Repository},
    guest,
};
use serde_json::{Value, json};

/// `good` (INPUT0 → OUTPUT0, FP32 [-1]) in versions 1 and 2, and `broken`, which cannot be loaded.
async fn gateway() -> Gateway {
    let good = guest::good();
    let repository = Repository::default()
        .with("good", "1", "model.wasm", &good)
        .with("good", "2", "model.wasm", &good)
        .with("broken", "1", "model.wasm", b"not wasm at all");
    Gateway::serve(repository).await
}

fn fp32(data: Value) -> Value {
    let shape = [data.as_array().map_or(0, Vec::len)];
    json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": shape, "data": data }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metadata() {
    let gateway = gateway().await;
    let at = gateway.address();
    assert_eq!(get(at, "/v2/health/live").await.json(), json!({ "live": true }));
    assert_eq!(get(at, "/v2/health/ready").await.json(), json!({ "ready": true }));
    let server = get(at, "/v2").await.json();
    assert_eq!(server["name"], "airlock");
    let extensions = [
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "model_repository",
        "parameters",
        "statistics",
    ];
    assert_eq!(server["extensions"], json!(extensions));
    assert_eq!(get(at, "/v2/").await.status, 200);

    let tensor = |name| json!([{ "name": name, "datatype": "FP32", "shape": [-1] }]);
    let model = get(at, "/v2/models/good").await.json();
    assert_eq!(
        model,
        json!({
            "name": "good", "versions": ["1", "2"], "platform": "wasm_component",
            "properties": { "namespace": "shared" },
            "inputs": tensor("INPUT0"), "outputs": tensor("OUTPUT0"),
        })
    );
    assert_eq!(get(at, "/v2/models/good/versions/1").await.json()["versions"], json!(["1"]));
    assert_eq!(get(at, "/v2/models/good/ready").await.json(), json!({ "name": "good", "ready": true }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_loaded_says_why_and_leaves_the_server_ready() {
    let gateway = gateway().await;
    let at = gateway.address();
    let answer = get(at, "/v2/models/broken/ready").await;
    assert_eq!((answer.status, answer.json()["ready"].clone()), (503, json!(false)));
    assert!(answer.error().contains("check: "), "{}", answer.error());
    assert!(matches!(answer.header("retry-after"), Some("1" | "2")));
    assert_eq!(post(at, "/v2/models/broken/infer", &fp32(json!([1.0]))).await.code(), "model_not_ready");
    assert_eq!(get(at, "/v2/health/ready").await.status, 200);
    let index = post(at, "/v2/repository/index", &json!({})).await.json();
    assert_eq!(index[0]["name"], "broken");
    assert_eq!(index[0]["state"], "UNAVAILABLE");
    assert!(index[0]["reason"].as_str().is_some_and(|reason| reason.contains("check: ")));
    let ready = post(at, "/v2/repository/index", &json!({ "ready": true })).await.json();
    assert_eq!(
        ready,
        json!([
            { "name": "good", "version": "1", "state": "READY" },
            { "name": "good", "version": "2", "state": "READY" },
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn infer_with_and_without_a_version() {
    let gateway = gateway().await;
    let at = gateway.address();
    let mut request = fp32(json!([1.5, -2.0]));
    request["id"] = json!("42");
    for (path, version) in
        [("good", "2"), ("good/versions/1", "1"), ("good/versions/2", "2"), ("good/versions/%31", "1")]
    {
        let answer = post(at, &format!("/v2/models/{path}/infer?trace=1"), &request).await;
        assert_eq!(answer.status, 200, "{}", answer.error());
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(
            answer.json(),
            json!({
                "id": "42", "model_name": "good", "model_version": version,
                "outputs": [{ "name": "OUTPUT0", "datatype": "FP32", "shape": [2], "data": [1.5, -2.0] }],
            })
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_in_and_out_over_http1_and_http2() {
    let gateway = gateway().await;
    let at = gateway.address();
    let header = json!({
        "parameters": { "binary_data_output": true },
        "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [2], "parameters": { "binary_data_size": 8 } }],
    })
    .to_string();
    let tensor = [1.5f32.to_le_bytes(), f32::NAN.to_le_bytes()].concat();
    let length = header.len().to_string();
    let headers = [("Inference-Header-Content-Length", length.as_str())];
    let body = [header.as_bytes(), &tensor].concat();
    let path = "/v2/models/good/infer";
    let answers = [
        call(at, "POST", path, &headers, body.clone()).await,
        call_http2(at, "POST", path, &headers, body).await,
    ];
    for answer in answers {
        assert_eq!(answer.status, 200, "{}", answer.error());
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
        let length: usize = answer
            .header("inference-header-content-length")
            .and_then(|text| text.parse().ok())
            .expect("a length");
        let json: Value = serde_json::from_slice(&answer.body[..length]).expect("JSON");
        assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 8);
        assert_eq!(&answer.body[length..], tensor);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_both_ways() {
    use std::io::{Read, Write};
    let gateway = gateway().await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(fp32(json!([1.0, 2.0])).to_string().as_bytes()).expect("memory");
    let headers = [("content-encoding", "gzip"), ("accept-encoding", "gzip;q=0.1, deflate")];
    let body = gzip.finish().expect("memory");
    let answer = call(gateway.address(), "POST", "/v2/models/good/infer", &headers, body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-encoding"), Some("deflate"));
    let mut text = String::new();
    flate2::read::ZlibDecoder::new(&answer.body[..]).read_to_string(&mut text).expect("zlib");
    assert!(text.contains("[1.0,2.0]"), "{text}");
}

/// Asserts a refusal: status, code and a part of the text.
fn refused(answer: &Answer, status: u16, code: &str, part: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.error());
    assert!(answer.error().contains(part), "{:?} lacks {part:?}", answer.error());
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_tell_the_client_what_to_fix() {
    let gateway = gateway().await;
    let at = gateway.address();
    let infer = "/v2/models/good/infer";
    let one = |name: &str, datatype: &str, shape: Value, data: Value| json!({ "inputs": [{ "name": name, "datatype": datatype, "shape": shape, "data": data }] });

    refused(&get(at, "/v2/models/nope").await, 404, "model_not_found", "'nope'");
    refused(&get(at, "/v2/models/%2e%2e").await, 404, "model_not_found", "not found");
    refused(
        &post(at, "/v2/models/good/versions/9/infer", &fp32(json!([1]))).await,
        404,
        "model_not_found",
        "9",
    );
    refused(&get(at, "/v2/nope").await, 404, "not_found", "/v2/models/NAME");
    let wrong_method = get(at, infer).await;
    refused(&wrong_method, 405, "method_not_allowed", "POST");
    assert_eq!(wrong_method.header("allow"), Some("POST"));

    refused(&call(at, "POST", infer, &[], "{\"inputs\":").await, 400, "bad_request", "JSON");
    refused(&call(at, "POST", infer, &[], "").await, 400, "bad_request", "");
    let answer = post(at, infer, &one("INPUT0", "INT32", json!([1]), json!([1]))).await;
    refused(&answer, 400, "bad_request", "INT32");
    assert!(answer.error().contains("FP32") && answer.error().contains("INPUT0"));
    let answer = post(at, infer, &one("INPUT0", "FP32", json!([1, 2]), json!([1, 2]))).await;
    refused(&answer, 400, "bad_request", "[1,2]");
    assert!(answer.error().contains("[-1]") && answer.error().contains("INPUT0"));
    refused(
        &post(at, infer, &one("INPUT0", "FP32", json!([3]), json!([1, 2]))).await,
        400,
        "bad_request",
        "INPUT0",
    );
    refused(&post(at, infer, &one("X", "FP32", json!([1]), json!([1]))).await, 400, "bad_request", "'X'");
    refused(&post(at, infer, &json!({ "inputs": [] })).await, 400, "bad_request", "INPUT0");

    let encoded = call(at, "POST", infer, &[("content-encoding", "br")], "x").await;
    refused(&encoded, 415, "unsupported_encoding", "br");
    assert_eq!(encoded.header("accept-encoding"), Some("gzip, deflate"));
    let twice = [("inference-header-content-length", "1"), ("inference-header-content-length", "2")];
    refused(&call(at, "POST", infer, &twice, "{}").await, 400, "bad_request", "more than once");
    refused(&call(at, "GET", "/v2", &[("host", "evil.example")], "").await, 403, "forbidden", "Host");
    refused(
        &call(at, "GET", "/v2", &[("origin", "http://evil.example")], "").await,
        403,
        "forbidden",
        "Origin",
    );
    refused(&post(at, "/v2/repository/models/good/load", &json!({})).await, 503, "not_explicit", "explicit");

    // After all of that the model still answers.
    assert_eq!(post(at, infer, &fp32(json!([1.0]))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_bounded_in_size_and_time() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good());
    let gateway = Gateway::serve_with(repository, |settings| {
        settings.limits.max_body = Some("1KiB".parse().expect("a size"));
        settings.limits.body_idle_timeout = Some("200ms".parse().expect("a time"));
    })
    .await;
    let at = gateway.address();
    let infer = "/v2/models/good/infer";
    refused(&call(at, "POST", infer, &[], vec![b' '; 1025]).await, 413, "too_large", "1024");
    let bomb = {
        use std::io::Write;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![b' '; 500_000]).expect("memory");
        gzip.finish().expect("memory")
    };
    assert!(bomb.len() < 1024);
    refused(&call(at, "POST", infer, &[("content-encoding", "gzip")], bomb).await, 413, "too_large", "1024");

    // (what is sent, status line of the answer)
    for (head, body, status) in [
        // Announced too large: refused before a byte of it is read.
        ("content-length: 1000000", "", "413"),
        // Never announced, and too large.
        ("transfer-encoding: chunked", "800\r\n", "413"),
        // Announced and never sent.
        ("content-length: 100", "{", "408"),
        ("transfer-encoding: chunked", "5\r\n{", "408"),
        ("transfer-encoding: chunked", "nonsense\r\n", "400"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(at).await.expect("the gateway listens");
        let mut request = format!("POST {infer} HTTP/1.1\r\nhost: localhost\r\n{head}\r\n\r\n{body}");
        if body == "800\r\n" {
            request += &" ".repeat(0x800);
        }
        stream.write_all(request.as_bytes()).await.expect("an open connection");
        let mut answer = vec![0; 1024];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut answer));
        let length = read.await.expect("an answer in time").expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
    }
    assert_eq!(post(at, infer, &fp32(json!([1.0]))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded_and_both_kinds_of_http_are_told_apart() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good());
    let gateway = Gateway::serve_with(repository, |settings| {
        settings.limits.header_timeout = Some("300ms".parse().expect("a time"));
    })
    .await;
    let at = gateway.address();
    // Silence, half a word of either protocol, and a head that never ends: each is closed, and none keeps a place.
    for start in ["", "P", "PRI ", "PRI * HTTP/2.0\r\n", "GET /v2 HTTP/1.1\r\nhost: localhost\r\n"] {
        let mut stream = tokio::net::TcpStream::connect(at).await.expect("the gateway listens");
        stream.write_all(start.as_bytes()).await.expect("an open connection");
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest));
        read.await.unwrap_or_else(|_| panic!("{start:?} is still open")).ok();
    }
    let many: Vec<(String, &str)> = (0..65).map(|i| (format!("x-{i}"), "1")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert_eq!(call(at, "GET", "/v2", &many, "").await.status, 431);
    assert_eq!(call(at, "GET", "/v2", &[("x", &"a".repeat(20_000))], "").await.status, 431);
    assert_eq!(call_http2(at, "GET", "/v2", &[], "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_gateway_cannot_take_it_refuses_at_once() {
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good()).with(
        "loops",
        "1",
        "model.wasm",
        guest::module(guest::hostile::LOOP_IN_INFER).expect("a fixture"),
    );
    let gateway = Gateway::serve_with(repository, |settings| {
        settings.limits.max_running = Some(1);
        settings.limits.max_queued = Some(0);
        settings.limits.max_buffered = Some("10KiB".parse().expect("a size"));
        settings.limits.max_body = Some("10KiB".parse().expect("a size"));
        settings.limits.deadline = Some("1s".parse().expect("a time"));
    })
    .await;
    let at = gateway.address();
    let loops = tokio::spawn(async move { post(at, "/v2/models/loops/infer", &fp32(json!([1.0]))).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answer = post(at, "/v2/models/good/infer", &fp32(json!([1.0]))).await;
    refused(&answer, 503, "overloaded", "try again");
    assert!(matches!(answer.header("retry-after"), Some("1" | "2")));
    assert_eq!(get(at, "/v2/health/live").await.status, 200);
    refused(&loops.await.expect("no panic"), 504, "deadline_exceeded", "deadline");
    assert_eq!(post(at, "/v2/models/good/infer", &fp32(json!([1.0]))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_an_answer_keeps_nobody_from_running_and_is_cut_off() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let repository = Repository::default().with("good", "1", "model.wasm", guest::good());
    let gateway = Gateway::serve_with(repository, |settings| {
        settings.limits.max_running = Some(1);
        settings.limits.send_timeout = Some("1s".parse().expect("a time"));
    })
    .await;
    let at = gateway.address();
    // 16 MiB in and out, more than the sockets between us hold.
    let count = 4 << 20;
    let header = json!({
        "parameters": { "binary_data_output": true },
        "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [count],
            "parameters": { "binary_data_size": 4 * count } }],
    })
    .to_string();
    let head = format!(
        "POST /v2/models/good/infer HTTP/1.1\r\nhost: localhost\r\ninference-header-content-length: {}\r\n\
         content-length: {}\r\n\r\n{header}",
        header.len(),
        header.len() + 4 * count
    );
    let mut stream = tokio::net::TcpStream::connect(at).await.expect("the gateway listens");
    stream.write_all(head.as_bytes()).await.expect("an open connection");
    stream.write_all(&vec![0; 4 * count]).await.expect("an open connection");
    // The answer has begun once its first byte is there; nothing more of it is read for now.
    stream.readable().await.expect("an answer");
    assert_eq!(post(at, "/v2/models/good/infer", &fp32(json!([1.0]))).await.status, 200);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut received = Vec::new();
    let rest = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut received)).await;
    assert!(rest.is_ok(), "the connection is still open");
    assert!(received.len() < 4 * count, "the whole answer came");
}
