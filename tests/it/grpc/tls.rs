//! The gRPC port over TLS, with a client that speaks TLS by itself.

use airlock::listen::tls::TlsFiles;
use airlock_tests::{
    gateway::Gateway,
    grpc::{Client, bytes, channel, fp32},
    tls::{Certificate, files},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use super::{refused, repository, works};

/// A gateway with TLS on all ports, and the folder that its certificate lies in.
async fn serve(certificate: &Certificate) -> (Gateway, TempDir) {
    let folder = TempDir::new().expect("a folder");
    certificate.write(&files(&folder));
    let TlsFiles { certificate, key } = files(&folder);
    let gateway = Gateway::serve_with(repository(), |settings| {
        settings.tls_cert = Some(certificate);
        settings.tls_key = Some(key);
    })
    .await;
    (gateway, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_trusts_the_certificate_calls_and_streams() {
    let certificate = Certificate::new();
    let (gateway, _folder) = serve(&certificate).await;
    let client = Client::connect_tls(gateway.grpc_address(), &certificate).await.expect("a handshake");
    works(&client).await;
    // More than a record of TLS, a frame, and a window.
    let many: Vec<f32> = (0..300_000).map(|number| number as f32).collect();
    let answer = client.infer(fp32("good", &many)).await.expect("an answer");
    assert_eq!(answer.raw_output_contents, [bytes(&many)]);
    refused(client.infer(fp32("none", &[1.0])).await, Code::NotFound, "model_not_found", "none");

    let (sender, requests) = channel();
    let mut answers = client.stream(requests).await.expect("a stream");
    for number in 0..3 {
        let mut request = fp32(if number == 1 { "none" } else { "good" }, &[number as f32]);
        request.id = number.to_string();
        sender.send(request).await.expect("an open stream");
        let answer = answers.message().await.expect("a message").expect("an answer");
        assert_eq!(answer.error_message.contains("none"), number == 1, "{}", answer.error_message);
        let response = answer.infer_response.expect("a response");
        assert_eq!(response.id, number.to_string());
        if number != 1 {
            assert_eq!(response.raw_output_contents, [bytes(&[number as f32])]);
        }
    }
    drop(sender);
    assert!(answers.message().await.expect("an end").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_trust_it_or_speaks_no_tls_gets_no_answer_and_others_do() {
    let certificate = Certificate::new();
    let (gateway, folder) = serve(&certificate).await;
    let at = gateway.grpc_address();
    let client = Client::connect_tls(at, &certificate).await.expect("a handshake");
    assert!(Client::connect_tls(at, &Certificate::new()).await.is_err(), "another certificate is trusted");
    // What a client without TLS begins with.
    let mut plain = TcpStream::connect(at).await.expect("the gateway listens");
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("a connection");
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).await.expect("an end");
    assert!(answer.is_empty() || answer[0] == 0x15, "{answer:?}");
    works(&client).await;
    drop(folder);
    works(&client).await;
}
