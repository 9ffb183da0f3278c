use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use airlock::proto::{
    health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus},
    inference::{
        DataType, InferParameter, LogSettingsRequest, LogSettingsResponse, ModelConfigRequest,
        ModelConfigResponse, ModelInferRequest, ModelMetadataRequest, ModelMetadataResponse,
        ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest, ModelStatisticsResponse,
        RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
        RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse,
        ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
        ServerReadyRequest, ServerReadyResponse, SystemSharedMemoryStatusRequest,
        SystemSharedMemoryStatusResponse, TraceSettingRequest, TraceSettingResponse,
        infer_parameter::ParameterChoice, trace_setting_request,
    },
    reflection::{
        ServerReflectionRequest, ServerReflectionResponse, server_reflection_request::MessageRequest,
        server_reflection_response::MessageResponse,
    },
};
use airlock_tests::{
    client::{call_http2, get, post},
    gateway::Gateway,
    grpc::{Client, bytes, fp32, typed},
};
use prost::Message;
use serde_json::json;
use tonic::Code;

use super::{GRPC, INFER, framed, refused, repository, serve, works};

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metadata_are_those_of_rest() {
    let (gateway, client) = serve().await;
    let live: ServerLiveResponse =
        client.ask("/inference.GRPCInferenceService/ServerLive", ServerLiveRequest {}).await.expect("alive");
    let ready: ServerReadyResponse = client
        .ask("/inference.GRPCInferenceService/ServerReady", ServerReadyRequest {})
        .await
        .expect("ready");
    assert!(live.live && ready.ready);
    let server: ServerMetadataResponse = client
        .ask("/inference.GRPCInferenceService/ServerMetadata", ServerMetadataRequest {})
        .await
        .expect("metadata");
    let rest = get(gateway.address(), "/v2").await.json();
    assert_eq!(
        json!([server.name, server.version, server.extensions]),
        json!([rest["name"], rest["version"], rest["extensions"]])
    );

    let path = "/inference.GRPCInferenceService/ModelMetadata";
    for (version, rest) in [("", "/v2/models/good"), ("1", "/v2/models/good/versions/1")] {
        let asked = ModelMetadataRequest { name: "good".into(), version: version.into() };
        let model: ModelMetadataResponse = client.ask(path, asked).await.expect("metadata");
        let rest = get(gateway.address(), rest).await.json();
        assert_eq!(
            json!([model.name, model.versions, model.platform]),
            json!([rest["name"], rest["versions"], rest["platform"]])
        );
        for (tensors, rest) in [(model.inputs, &rest["inputs"]), (model.outputs, &rest["outputs"])] {
            let tensors: Vec<_> = tensors
                .iter()
                .map(|tensor| json!({ "name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape }))
                .collect();
            assert_eq!(json!(tensors), *rest);
        }
    }
    for (name, version, ready) in [
        ("good", "", true),
        ("good", "2", true),
        ("good", "3", false),
        ("broken", "", false),
        ("none", "", false),
        ("..", "", false),
    ] {
        let asked = ModelReadyRequest { name: name.into(), version: version.into() };
        let answer: ModelReadyResponse =
            client.ask("/inference.GRPCInferenceService/ModelReady", asked).await.expect("an answer");
        assert_eq!(answer.ready, ready, "{name} {version}");
    }
    let unknown = ModelMetadataRequest { name: "none".into(), version: String::new() };
    let told = refused(
        client.ask::<_, ModelMetadataResponse>(path, unknown).await,
        Code::NotFound,
        "model_not_found",
        "none",
    );
    assert_eq!(told.message(), get(gateway.address(), "/v2/models/none").await.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_service_tells_whether_the_gateway_is_ready() {
    let (_gateway, client) = serve().await;
    for service in ["", "inference.GRPCInferenceService"] {
        let asked = HealthCheckRequest { service: service.into() };
        let answer: HealthCheckResponse =
            client.ask("/grpc.health.v1.Health/Check", asked).await.expect("an answer");
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    let asked = HealthCheckRequest { service: "other".into() };
    let answer = client.ask::<_, HealthCheckResponse>("/grpc.health.v1.Health/Check", asked).await;
    assert_eq!(answer.expect_err("a refusal").code(), Code::NotFound);
    let watch = client
        .messages::<_, HealthCheckResponse>(
            "/grpc.health.v1.Health/Watch",
            futures_util::stream::iter([HealthCheckRequest::default()]),
        )
        .await;
    assert_eq!(watch.expect_err("a refusal").code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_and_typed_requests_are_answered_raw() {
    let (_gateway, client) = serve().await;
    for mut request in [fp32("good", &[1.5, f32::NAN]), typed("good", &[1.5, f32::NAN])] {
        for (version, answered) in [("", "2"), ("1", "1"), ("2", "2")] {
            request.model_version = version.into();
            request.id = "42".into();
            let answer = client.infer(request.clone()).await.expect("an answer");
            assert_eq!((answer.model_name.as_str(), answer.model_version.as_str()), ("good", answered));
            assert_eq!(answer.id, "42");
            let [output] = answer.outputs.as_slice() else { panic!("one output") };
            assert_eq!((output.name.as_str(), output.datatype.as_str()), ("OUTPUT0", "FP32"));
            assert_eq!((output.shape.as_slice(), &output.contents), (&[2][..], &None));
            assert_eq!(answer.raw_output_contents, [bytes(&[1.5, f32::NAN])]);
        }
    }
    // Larger than any frame and any window.
    let many: Vec<f32> = (0..3_000_000).map(|number| number as f32).collect();
    for client in [client.clone(), client.compressed()] {
        let answer = client.infer(fp32("good", &many)).await.expect("an answer");
        assert_eq!(answer.raw_output_contents, [bytes(&many)]);
        let answer = client.infer(typed("good", &many)).await.expect("an answer");
        assert_eq!(answer.raw_output_contents, [bytes(&many)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_have_the_codes_and_the_texts_of_rest() {
    let (gateway, client) = serve().await;
    let at = gateway.address();
    let request =
        |data| json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [1], "data": data }] });
    for (model, code, word) in [
        ("none", Code::NotFound, "model_not_found"),
        ("broken", Code::Unavailable, "model_not_ready"),
        ("trap", Code::Internal, "model_failed"),
        ("loops", Code::DeadlineExceeded, "deadline_exceeded"),
    ] {
        let status = refused(client.infer(fp32(model, &[1.0])).await, code, word, "");
        let rest = post(at, &format!("/v2/models/{model}/infer"), &request([1.0])).await;
        assert_eq!((status.message(), word), (rest.error().as_str(), rest.code().as_str()));
        assert_eq!(status.metadata().contains_key("retry-after"), rest.header("retry-after").is_some());
    }
    let mut unknown_version = fp32("good", &[1.0]);
    unknown_version.model_version = "9".into();
    refused(client.infer(unknown_version).await, Code::NotFound, "model_not_found", "9");
    let mut wrong = fp32("good", &[1.0]);
    wrong.inputs[0].datatype = "INT32".into();
    refused(client.infer(wrong).await, Code::InvalidArgument, "bad_request", "datatype is INT32");
    let mut overflow = fp32("good", &[1.0]);
    overflow.inputs[0].shape = vec![i64::MAX, 4];
    refused(
        client.infer(overflow).await,
        Code::InvalidArgument,
        "bad_request",
        "[9223372036854775807,4] overflows",
    );
    let mut both = typed("good", &[1.0]);
    both.raw_input_contents = vec![bytes(&[1.0])];
    refused(client.infer(both).await, Code::InvalidArgument, "bad_request", "one of the two");
    works(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_that_a_call_comes_with_shortens_the_deadline_and_no_more() {
    let (gateway, client) = serve().await;
    // A client of the test's own: tonic's would give up by itself.
    let call = async |timeout: &str, request: &ModelInferRequest| {
        let started = Instant::now();
        let headers = [GRPC, ("grpc-timeout", timeout)];
        let body = framed(&request.encode_to_vec());
        let answer = call_http2(gateway.grpc_address(), "POST", INFER, &headers, body).await;
        (answer.header("grpc-status").map(str::to_owned), started.elapsed())
    };
    let loops = fp32("loops", &[1.0]);
    let (status, time) = call("200m", &loops).await;
    assert!(status.as_deref() == Some("4") && time < Duration::from_millis(1500), "{status:?} {time:?}");
    let mut timeout = loops.clone();
    let micros = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(200_000)) };
    timeout.parameters.insert("timeout".into(), micros);
    let (status, time) = call("9H", &timeout).await;
    assert!(status.as_deref() == Some("4") && time < Duration::from_millis(1500), "{status:?} {time:?}");
    let (status, time) = call("9H", &loops).await;
    assert!(status.as_deref() == Some("4") && time < Duration::from_secs(10), "{status:?} {time:?}");
    assert_eq!(call("soon", &loops).await.0.as_deref(), Some("3"));
    works(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_repository_is_listed_and_models_are_loaded_by_either_field() {
    let gateway = Gateway::serve_with(repository(), |settings| {
        settings.model_control_mode = Some(airlock::config::ControlModeName::Explicit);
    })
    .await;
    let client = Client::connect(gateway.grpc_address()).await;
    let index = async |ready| {
        let asked = RepositoryIndexRequest { ready, ..RepositoryIndexRequest::default() };
        let answer: RepositoryIndexResponse =
            client.ask("/inference.GRPCInferenceService/RepositoryIndex", asked).await.expect("an index");
        answer.models.into_iter().map(|model| (model.name, model.version)).collect::<Vec<_>>()
    };
    assert!(index(true).await.is_empty());
    // Triton's field, and KServe's.
    for triton in [true, false] {
        let (repository_name, model_name) = if triton { ("", "good") } else { ("good", "") };
        let asked = RepositoryModelLoadRequest {
            repository_name: repository_name.into(),
            model_name: model_name.into(),
            parameters: BTreeMap::new(),
        };
        let loaded: RepositoryModelLoadResponse = client
            .ask("/inference.GRPCInferenceService/RepositoryModelLoad", asked)
            .await
            .expect("it is loaded");
        assert_eq!((loaded.model_name.as_str(), loaded.is_loaded), ("good", true));
        let versions = ["1", "2"].map(|version| ("good".to_owned(), version.to_owned()));
        assert_eq!(index(true).await, versions);
        works(&client).await;
        let asked = RepositoryModelUnloadRequest {
            repository_name: repository_name.into(),
            model_name: model_name.into(),
            parameters: BTreeMap::new(),
        };
        let unloaded: RepositoryModelUnloadResponse = client
            .ask("/inference.GRPCInferenceService/RepositoryModelUnload", asked)
            .await
            .expect("it is unloaded");
        assert!(unloaded.is_unloaded);
        assert!(client.infer(fp32("good", &[1.0])).await.is_err());
    }
    let unknown =
        RepositoryModelLoadRequest { model_name: "none".into(), ..RepositoryModelLoadRequest::default() };
    let answer = client
        .ask::<_, RepositoryModelLoadResponse>("/inference.GRPCInferenceService/RepositoryModelLoad", unknown)
        .await;
    refused(answer, Code::NotFound, "model_not_found", "none");
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_statistics_and_settings_are_those_of_rest() {
    let (gateway, client) = serve().await;
    client.infer(fp32("good", &[1.0, 2.0])).await.expect("an answer");
    let at = gateway.address();

    let request = ModelConfigRequest { name: "good".into(), ..ModelConfigRequest::default() };
    let config: ModelConfigResponse =
        client.ask("/inference.GRPCInferenceService/ModelConfig", request).await.expect("a configuration");
    let config = config.config.expect("a configuration");
    let rest = get(at, "/v2/models/good/config").await.json();
    assert_eq!((config.name.as_str(), config.platform.as_str()), ("good", "wasm_component"));
    assert_eq!(json!(config.input[0].dims), rest["input"][0]["dims"]);
    assert_eq!(config.input[0].data_type(), DataType::TypeFp32);

    // A call counts once its answer is handed over, which its client may have seen before.
    let path = "/inference.GRPCInferenceService/ModelStatistics";
    let statistics = loop {
        let request = ModelStatisticsRequest { name: "good".into(), ..ModelStatisticsRequest::default() };
        let statistics: ModelStatisticsResponse = client.ask(path, request).await.expect("statistics");
        if statistics.model_stats.iter().any(|told| told.inference_count > 0) {
            break statistics;
        }
    };
    let told = statistics.model_stats.iter().find(|told| told.inference_count > 0).expect("the call");
    let times = told.inference_stats.as_ref().expect("times");
    let success = times.success.as_ref().expect("answers");
    assert_eq!((told.inference_count, success.count), (1, 1));
    let rest = get(at, &format!("/v2/models/good/versions/{}/stats", told.version)).await.json();
    assert_eq!(json!(success.ns), rest["model_stats"][0]["inference_stats"]["success"]["ns"]);
    let all: ModelStatisticsResponse =
        client.ask(path, ModelStatisticsRequest::default()).await.expect("statistics");
    assert!(all.model_stats.iter().any(|told| told.name == "good"));
    let unknown = ModelStatisticsRequest { name: "none".into(), ..ModelStatisticsRequest::default() };
    let answer = client.ask::<_, ModelStatisticsResponse>(path, unknown).await;
    refused(answer, Code::NotFound, "model_not_found", "none");

    let log: LogSettingsResponse = client
        .ask("/inference.GRPCInferenceService/LogSettings", LogSettingsRequest::default())
        .await
        .expect("settings");
    assert!(log.settings.contains_key("log_info"));
    let trace: TraceSettingResponse = client
        .ask("/inference.GRPCInferenceService/TraceSetting", TraceSettingRequest::default())
        .await
        .expect("settings");
    assert_eq!(trace.settings["trace_level"].value, ["OFF"]);
    // Without keys everybody is the operator, who cannot change it either.
    let change = TraceSettingRequest {
        settings: [(
            "trace_level".into(),
            trace_setting_request::SettingValue { value: vec!["TENSORS".into()] },
        )]
        .into(),
        ..TraceSettingRequest::default()
    };
    let answer =
        client.ask::<_, TraceSettingResponse>("/inference.GRPCInferenceService/TraceSetting", change).await;
    refused(answer, Code::Unimplemented, "not_implemented", "--otlp");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_offered_says_so() {
    let (_gateway, client) = serve().await;
    let shared = client
        .ask::<_, SystemSharedMemoryStatusResponse>(
            "/inference.GRPCInferenceService/SystemSharedMemoryStatus",
            SystemSharedMemoryStatusRequest::default(),
        )
        .await;
    refused(shared, Code::Unimplemented, "not_implemented", "shared memory is not offered");
    for path in ["/inference.GRPCInferenceService/Other", "/other.Service/ServerLive", "/", "/v2/health/live"]
    {
        let answer = client.ask::<_, ServerLiveResponse>(path, ServerLiveRequest {}).await;
        refused(answer, Code::Unimplemented, "not_found", "no such call");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_describes_every_service() {
    let (_gateway, client) = serve().await;
    for path in [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ] {
        let asked = [
            MessageRequest::ListServices(String::new()),
            MessageRequest::FileContainingSymbol("inference.GRPCInferenceService".into()),
            MessageRequest::FileContainingSymbol("inference.ModelInferRequest.InferInputTensor".into()),
            MessageRequest::FileByFilename("health.proto".into()),
            MessageRequest::FileContainingSymbol("none".into()),
        ];
        let requests = asked.map(|asked| ServerReflectionRequest {
            message_request: Some(asked),
            ..ServerReflectionRequest::default()
        });
        let mut answers = client
            .messages::<_, ServerReflectionResponse>(path, futures_util::stream::iter(requests))
            .await
            .expect("a stream");
        let mut told = Vec::new();
        while let Some(answer) = answers.message().await.expect("an answer") {
            told.push(answer.message_response.expect("an answer"));
        }
        let [services, first, second, health, none] = told.as_slice() else {
            panic!("{} answers", told.len())
        };
        let MessageResponse::ListServicesResponse(services) = services else { panic!("{services:?}") };
        let names: Vec<&str> = services.service.iter().map(|service| service.name.as_str()).collect();
        assert!(names.contains(&"inference.GRPCInferenceService"), "{names:?}");
        for file in [first, second, health] {
            assert!(matches!(file, MessageResponse::FileDescriptorResponse(_)), "{file:?}");
        }
        assert_eq!(first, second);
        assert!(matches!(none, MessageResponse::ErrorResponse(error) if error.error_code == 5));
    }
}
