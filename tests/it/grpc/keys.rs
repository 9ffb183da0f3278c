use airlock::{
    authenticate::Scope,
    proto::inference::{
        ModelMetadataRequest, ModelMetadataResponse, ModelRepositoryParameter, RepositoryIndexRequest,
        RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse, ServerLiveRequest,
        ServerLiveResponse, model_repository_parameter::ParameterChoice,
    },
};
use airlock_tests::{
    gateway::Gateway,
    grpc::{Client, bytes, channel, fp32},
    guest,
    store::Store,
};
use tonic::Code;

use super::{refused, repository};

const LIVE: &str = "/inference.GRPCInferenceService/ServerLive";
const INDEX: &str = "/inference.GRPCInferenceService/RepositoryIndex";
const LOAD: &str = "/inference.GRPCInferenceService/RepositoryModelLoad";
const METADATA: &str = "/inference.GRPCInferenceService/ModelMetadata";

async fn index(client: &Client) -> Result<RepositoryIndexResponse, tonic::Status> {
    client.ask(INDEX, RepositoryIndexRequest::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_needs_a_key_with_its_scope() {
    let store = Store::default();
    let key = store.key("acme", &[Scope::Infer]).await;
    let gateway = store.serve_with(repository()).await;
    let nobody = Client::connect(gateway.grpc_address()).await;
    // Health answers everybody.
    let live: ServerLiveResponse = nobody.ask(LIVE, ServerLiveRequest {}).await.expect("alive");
    assert!(live.live);
    refused(
        nobody.infer(fp32("good", &[1.0])).await,
        Code::Unauthenticated,
        "unauthenticated",
        "asks for an API key",
    );
    let other =
        nobody.ask::<_, ServerLiveResponse>("/inference.GRPCInferenceService/Other", ServerLiveRequest {});
    refused(other.await, Code::Unauthenticated, "unauthenticated", "asks for an API key");
    let stream = nobody.stream(futures_util::stream::iter([fp32("good", &[1.0])])).await;
    refused(stream, Code::Unauthenticated, "unauthenticated", "asks for an API key");
    // Another last character than the key has.
    let last = if key.ends_with('0') { '1' } else { '0' };
    let forger = nobody.clone().key(&format!("{}{last}", &key[..key.len() - 1]));
    refused(forger.infer(fp32("good", &[1.0])).await, Code::Unauthenticated, "unauthenticated", "not valid");

    let client = nobody.key(&key);
    let answer = client.infer(fp32("good", &[1.0])).await.expect("an answer");
    assert_eq!(answer.raw_output_contents, [bytes(&[1.0])]);
    refused(index(&client).await, Code::PermissionDenied, "forbidden", "scope repository");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_ends_its_stream() {
    let store = Store::default();
    let key = store.key("acme", &[Scope::Infer]).await;
    let gateway = store.serve_with(repository()).await;
    let client = Client::connect(gateway.grpc_address()).await.key(&key);
    let (requests, receiver) = channel();
    let mut answers = client.stream(receiver).await.expect("a stream");
    requests.send(fp32("good", &[1.0])).await.expect("an open stream");
    assert!(answers.message().await.expect("an answer").is_some());
    gateway.authenticator().install(airlock::authenticate::Keyring::new([]));
    requests.send(fp32("good", &[1.0])).await.expect("an open stream");
    refused(answers.message().await, Code::Unauthenticated, "unauthenticated", "not valid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_model_looks_like_a_missing_one() {
    let store = Store::default();
    let keys = [
        store.key("acme", &[Scope::Infer, Scope::Repository]).await,
        store.key("umbrella", &[Scope::Infer, Scope::Repository]).await,
    ];
    let gateway = store.serve_with(repository()).await;
    let client = Client::connect(gateway.grpc_address()).await;
    let [acme, umbrella] = keys.map(|key| client.clone().key(&key));
    // Files are bytes over gRPC.
    let file = ParameterChoice::BytesParam(guest::good().into());
    let file = ModelRepositoryParameter { parameter_choice: Some(file) };
    let asked = RepositoryModelLoadRequest {
        model_name: "mine".into(),
        parameters: [("file:1/model.wasm".to_owned(), file)].into(),
        ..RepositoryModelLoadRequest::default()
    };
    let loaded: RepositoryModelLoadResponse = acme.ask(LOAD, asked).await.expect("it is published");
    assert!(loaded.is_loaded);
    let answer = acme.infer(fp32("mine", &[3.0])).await.expect("an answer");
    assert_eq!(answer.raw_output_contents, [bytes(&[3.0])]);

    let same = |own: tonic::Status, none: tonic::Status| {
        assert_eq!(own.code(), Code::NotFound);
        assert_eq!(own.code(), none.code());
        assert_eq!(own.message().replace("mine", "none"), none.message());
    };
    let infer = async |model| umbrella.infer(fp32(model, &[3.0])).await.expect_err("a refusal");
    same(infer("mine").await, infer("none").await);
    let metadata = async |model: &str| {
        let asked = ModelMetadataRequest { name: model.into(), version: String::new() };
        umbrella.ask::<_, ModelMetadataResponse>(METADATA, asked).await.expect_err("a refusal")
    };
    same(metadata("mine").await, metadata("none").await);
    let load = async |model: &str| {
        let asked =
            RepositoryModelLoadRequest { model_name: model.into(), ..RepositoryModelLoadRequest::default() };
        umbrella.ask::<_, RepositoryModelLoadResponse>(LOAD, asked).await.expect_err("a refusal")
    };
    same(load("mine").await, load("none").await);
    let seen = |index: RepositoryIndexResponse| index.models.iter().any(|model| model.name == "mine");
    assert!(seen(index(&acme).await.expect("an index")));
    assert!(!seen(index(&umbrella).await.expect("an index")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_its_own_rate_and_its_own_largest_message() {
    let store = Store::default();
    let key = store.key("acme", &[Scope::Infer]).await;
    store.limit("acme", &[("max_body", "1KiB"), ("rate", "1"), ("burst", "3")]).await;
    let gateway = store.serve_with(repository()).await;
    let client = Client::connect(gateway.grpc_address()).await.key(&key);
    refused(
        client.infer(fp32("good", &[0.0; 1024])).await,
        Code::ResourceExhausted,
        "too_large",
        "1024 bytes",
    );
    // A stream has the same rate, and goes on.
    let requests = std::iter::repeat_with(|| fp32("good", &[1.0])).take(5);
    let mut answers = client.stream(futures_util::stream::iter(requests)).await.expect("a stream");
    let mut told = Vec::new();
    while let Some(answer) = answers.message().await.expect("an answer") {
        told.push(answer.error_message);
    }
    assert_eq!(told.len(), 5);
    assert_eq!(told.iter().filter(|text| text.is_empty()).count(), 2, "{told:?}");
    let status = refused(
        client.infer(fp32("good", &[1.0])).await,
        Code::ResourceExhausted,
        "rate_limited",
        "requests a second",
    );
    assert!(status.metadata().contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_only_loopback_names_are_answered() {
    let gateway = Gateway::serve(repository()).await;
    let client = Client::connect(gateway.grpc_address()).await.with("origin", "http://evil.example");
    refused(client.infer(fp32("good", &[1.0])).await, Code::PermissionDenied, "forbidden", "Origin");
    let live = client.ask::<_, ServerLiveResponse>(LIVE, ServerLiveRequest {}).await;
    refused(live, Code::PermissionDenied, "forbidden", "Origin");
}
