//! Models that give several responses: as events over HTTP, as messages over gRPC, and never more than the client takes.

use std::{net::SocketAddr, time::Duration};

use airlock_tests::{
    client::{get, open_http2, post},
    gateway::{Gateway, Repository, binary},
    grpc::{Client, bytes, fp32},
    guest,
};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

mod limits;

/// `stream` (see [`guest::STREAM`]), `endless`, and `good`, which gives one response.
fn repository() -> Repository {
    let fixture = |text| guest::module(text).expect("a valid fixture");
    Repository::default()
        .with("stream", "1", "model.wasm", fixture(guest::STREAM))
        .with("endless", "1", "model.wasm", fixture(guest::hostile::EMIT_FOR_EVER))
        .with("good", "1", "model.wasm", guest::good())
}

fn infer_body(first: f32) -> Value {
    json!({ "id": "7", "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [first] }] })
}

/// A stream of events that is being read.
struct Events {
    body: hyper::body::Incoming,
    read: Vec<u8>,
}

impl Events {
    async fn ask(at: SocketAddr, path: &str, body: &Value) -> Self {
        let connection = TokioIo::new(TcpStream::connect(at).await.expect("the gateway listens"));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(connection).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        let request = hyper::Request::post(path)
            .header("host", at.to_string())
            .body(Full::<bytes::Bytes>::from(body.to_string()))
            .expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        assert_eq!(response.headers()["cache-control"], "no-cache");
        Self { body: response.into_body(), read: Vec::new() }
    }

    /// The next event; none at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.read.drain(..end + 2).collect();
                let json = event.strip_prefix(b"data: ").expect("an event");
                return Some(serde_json::from_slice(json).expect("JSON"));
            }
            match self.body.frame().await {
                Some(frame) => {
                    let piece = frame.expect("an open connection").into_data().expect("bytes");
                    self.read.extend_from_slice(&piece);
                }
                None => {
                    assert!(self.read.is_empty(), "{:?}", self.read);
                    return None;
                }
            }
        }
    }

    async fn all(mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_response_is_an_event_in_the_form_of_its_request() {
    let gateway = Gateway::serve(repository()).await;
    let at = gateway.address();
    let inferred = |value: f32| {
        json!({
            "id": "7", "model_name": "stream", "model_version": "1",
            "outputs": [{ "name": "OUTPUT0", "datatype": "FP32", "shape": [1], "data": [value] }],
        })
    };
    for path in ["/v2/models/stream", "/v2/models/stream/versions/1"] {
        for (value, times) in [(1.0, 1), (3.0, 3), (2.5, 3), (0.5, 1), (200.0, 200)] {
            let events =
                Events::ask(at, &format!("{path}/infer_stream"), &infer_body(value)).await.all().await;
            assert_eq!(events, vec![inferred(value); times], "{value}");
        }
        // MLServer's bodies, and Triton's.
        let events = Events::ask(at, &format!("{path}/generate_stream"), &infer_body(3.0)).await.all().await;
        assert_eq!(events, vec![inferred(3.0); 3]);
        let generate = json!({ "INPUT0": 2.0 });
        let events = Events::ask(at, &format!("{path}/generate_stream"), &generate).await.all().await;
        assert_eq!(events, vec![json!({ "OUTPUT0": 2.0, "model_name": "stream", "model_version": "1" }); 2]);
    }
    // A model that gives one response gives one event.
    let events = Events::ask(at, "/v2/models/good/infer_stream", &infer_body(1.5)).await.all().await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["outputs"][0]["data"], json!([1.5]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_one_response_gets_one_or_is_told_how_to_get_more() {
    let gateway = Gateway::serve(repository()).await;
    let at = gateway.address();
    for value in [1.0, 0.5] {
        let answer = post(at, "/v2/models/stream/infer", &infer_body(value)).await;
        assert_eq!(answer.json()["outputs"][0]["data"], json!([value]));
    }
    for value in [2.0, 1.5, 100.0] {
        for last in ["infer", "generate"] {
            let answer = post(at, &format!("/v2/models/stream/{last}"), &infer_body(value)).await;
            assert_eq!((answer.status, answer.code().as_str()), (400, "several_responses"), "{value}");
            assert!(answer.error().contains("infer_stream"), "{}", answer.error());
        }
    }
    // That it gave none at all is its own fault.
    let answer = post(at, "/v2/models/stream/infer", &infer_body(0.0)).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "model_output_invalid"));

    let config = |model| async move { get(at, &format!("/v2/models/{model}/config")).await.json() };
    assert_eq!(config("stream").await["model_transaction_policy"]["decoupled"], json!(true));
    assert_eq!(config("good").await["model_transaction_policy"]["decoupled"], json!(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_before_the_first_response_has_a_status_and_later_an_event() {
    let gateway = Gateway::serve(repository()).await;
    let at = gateway.address();
    let answer = post(at, "/v2/models/none/infer_stream", &infer_body(1.0)).await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "model_not_found"));
    let answer = post(at, "/v2/models/stream/infer_stream", &json!({ "inputs": [] })).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"));
    let answer = post(at, "/v2/models/stream/infer_stream", &infer_body(0.0)).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "model_output_invalid"));
    assert_eq!(get(at, "/v2/models/stream/infer_stream").await.status, 405);

    let events = Events::ask(at, "/v2/models/stream/infer_stream", &infer_body(-2.0)).await.all().await;
    assert_eq!(events.len(), 3);
    assert_eq!(events[1]["outputs"][0]["data"], json!([-2.0]));
    assert_eq!(events[2]["code"], "model_failed");
    assert!(events[2]["error"].as_str().is_some_and(|text| text.contains("aborted")), "{}", events[2]);

    // Each is counted once, by its end.
    let statistics = get(at, "/v2/models/stream/stats").await.json();
    let stats = &statistics["model_stats"][0]["inference_stats"];
    assert_eq!((&stats["success"]["count"], &stats["fail"]["count"]), (&json!(0), &json!(3)), "{statistics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_come_over_http2_too_and_beside_others() {
    let gateway = Gateway::serve(repository()).await;
    let mut connection = open_http2(gateway.address()).await;
    let body = infer_body(50.0).to_string();
    let answers = futures_util::future::join_all((0..10).map(|_| {
        let mut connection = connection.clone();
        let body = body.clone();
        async move {
            let sent = connection.send("POST", "/v2/models/stream/infer_stream", &[], body).await;
            sent.expect("an answer").into_body().collect().await.expect("a whole body").to_bytes()
        }
    }));
    for answer in answers.await {
        assert_eq!(answer.windows(6).filter(|six| six == b"data: ").count(), 50);
    }
    let answer = connection.send("GET", "/v2/health/ready", &[], "").await;
    assert_eq!(answer.expect("an answer").status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_response_is_a_message_of_grpc_that_says_whether_it_is_the_last() {
    let gateway = Gateway::serve(repository()).await;
    let client = Client::connect(gateway.grpc_address()).await;
    let request = |value: f32, id: &str, tells_end: bool| {
        let mut request = fp32("stream", &[value]);
        request.id = id.into();
        if tells_end {
            let choice = airlock::proto::inference::infer_parameter::ParameterChoice::BoolParam(true);
            let parameter = airlock::proto::inference::InferParameter { parameter_choice: Some(choice) };
            request.parameters.insert("triton_enable_empty_final_response".into(), parameter);
        }
        request
    };
    let requests = [
        request(2.0, "a", false),
        request(1.5, "b", true),
        request(2.0, "c", true),
        request(-1.0, "d", false),
        request(0.5, "e", false),
    ];
    let mut answers = client.stream(futures_util::stream::iter(requests)).await.expect("a stream");
    let mut told = Vec::new();
    while let Some(answer) = answers.message().await.expect("an answer") {
        let response = answer.infer_response.expect("a response");
        let last = response
            .parameters
            .get("triton_final_response")
            .map(|last| format!("{:?}", last.parameter_choice).contains("true"));
        let outputs: Vec<bytes::Bytes> = response.raw_output_contents;
        told.push((response.id, last, outputs, answer.error_message.is_empty()));
    }
    let of = |id: &str, last, value: f32| (id.to_owned(), Some(last), vec![bytes(&[value])], true);
    let expected = [
        of("a", false, 2.0),
        of("a", false, 2.0),
        of("b", false, 1.5),
        of("b", true, 1.5),
        of("c", false, 2.0),
        of("c", false, 2.0),
        ("c".to_owned(), Some(true), vec![], true),
        of("d", false, -1.0),
        ("d".to_owned(), None, vec![], false),
        of("e", true, 0.5),
    ];
    assert_eq!(told, expected);
    let status = client.infer(fp32("stream", &[2.0])).await.expect_err("one response only");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("ModelStreamInfer"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_come_while_the_model_runs_on() {
    let gateway = Gateway::serve_with(repository(), |settings| {
        settings.limits.deadline = Some("30s".parse().expect("a time"));
    })
    .await;
    let mut events =
        Events::ask(gateway.address(), "/v2/models/endless/infer_stream", &infer_body(1.0)).await;
    for _ in 0..1000 {
        let event = tokio::time::timeout(Duration::from_secs(5), events.next()).await.expect("in time");
        assert_eq!(event.expect("it never ends")["outputs"][0]["data"], json!([1.0]));
    }
    let client = Client::connect(gateway.grpc_address()).await;
    let requests = futures_util::stream::iter([fp32("endless", &[1.0])]);
    let mut answers = client.stream(requests).await.expect("a stream");
    for _ in 0..1000 {
        let answer = answers.message().await.expect("an answer").expect("it never ends");
        assert_eq!(answer.infer_response.expect("a response").raw_output_contents, [bytes(&[1.0])]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_each_response_and_fails_with_what_ends_them() {
    let gateway = Gateway::serve(repository()).await;
    let url = format!("http://{}", gateway.address());
    let run = async |input: &str| {
        let mut command = std::process::Command::new(binary());
        command.args(["infer", "stream", "--url", &url, "-i", input, "-p", "k=v", "--stream"]);
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs")
    };
    let told = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let output = run("INPUT0=[3]").await;
    assert!(output.status.success(), "{}", told(&output.stderr));
    let lines: Vec<Value> =
        told(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[2]["outputs"][0]["data"], json!([3.0]));
    let output = run("INPUT0=[-2]").await;
    assert_eq!((output.status.code(), told(&output.stdout).lines().count()), (Some(1), 2));
    assert!(told(&output.stderr).contains("[model_failed]"), "{}", told(&output.stderr));
}
