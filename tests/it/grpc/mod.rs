//! The gRPC port: what it answers, to whom, and what it does with peers that do not keep to the protocol.

mod calls;
mod hostile;
mod keys;
mod stream;
mod tls;

use airlock_tests::{
    gateway::{Gateway, Repository},
    grpc::{Client, bytes, fp32},
    guest,
};
use tonic::{Code, Status};

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// A message as it stands in a body.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    [&[0][..], &length, message].concat()
}

fn fixture(text: &str) -> Vec<u8> {
    guest::module(text).expect("a valid fixture")
}

/// `good` (INPUT0 → OUTPUT0, FP32 [-1]) in versions 1 and 2, and models that fail.
fn repository() -> Repository {
    Repository::default()
        .with("good", "1", "model.wasm", guest::good())
        .with("good", "2", "model.wasm", guest::good())
        .with("trap", "1", "model.wasm", fixture(guest::hostile::UNREACHABLE))
        .with("loops", "1", "model.wasm", fixture(guest::hostile::LOOP_IN_INFER))
        .with("broken", "1", "model.wasm", b"not wasm at all")
}

async fn serve() -> (Gateway, Client) {
    let gateway = Gateway::serve(repository()).await;
    let client = Client::connect(gateway.grpc_address()).await;
    (gateway, client)
}

/// Fails unless the next good call works.
async fn works(client: &Client) {
    let answer = client.infer(fp32("good", &[1.5, -2.0])).await.expect("a good call");
    assert_eq!(answer.raw_output_contents, [bytes(&[1.5, -2.0])]);
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, word: &str, text: &str) -> Status {
    let status = answer.expect_err("a refusal");
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(text), "{status}");
    let told = status.metadata().get("airlock-code").and_then(|word| word.to_str().ok());
    assert_eq!(told, Some(word), "{status}");
    status
}
