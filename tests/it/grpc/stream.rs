use std::time::{Duration, Instant};

use airlock_tests::{
    gateway::Gateway,
    grpc::{Client, bytes, channel, fp32},
    process::Process,
};
use tonic::Code;

use super::{refused, repository, serve, works};

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_one_response_in_its_turn() {
    let (_gateway, client) = serve().await;
    let requests = (0..500u16).map(|number| {
        let mut request = fp32("good", &[f32::from(number)]);
        request.id = number.to_string();
        request
    });
    let mut answers = client.stream(futures_util::stream::iter(requests)).await.expect("a stream");
    for number in 0..500u16 {
        let answer = answers.message().await.expect("an answer").expect("there are as many");
        assert_eq!(answer.error_message, "");
        let response = answer.infer_response.expect("a response");
        assert_eq!(response.id, number.to_string());
        assert_eq!(response.raw_output_contents, [bytes(&[f32::from(number)])]);
        let last = response.parameters["triton_final_response"].parameter_choice.clone();
        assert_eq!(format!("{last:?}"), "Some(BoolParam(true))");
    }
    assert!(answers.message().await.expect("a good end").is_none());
    works(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_keeps_the_stream_open_unless_the_client_wants_it_as_the_status() {
    let (_gateway, client) = serve().await;
    let requests = || {
        let mut foul = fp32("none", &[1.0]);
        foul.id = "foul".into();
        futures_util::stream::iter([fp32("good", &[1.0]), foul, fp32("trap", &[1.0]), fp32("good", &[2.0])])
    };
    let mut answers = client.stream(requests()).await.expect("a stream");
    let mut told = Vec::new();
    while let Some(answer) = answers.message().await.expect("an answer") {
        told.push((answer.error_message, answer.infer_response.expect("a response")));
    }
    assert_eq!(told.len(), 4);
    assert!(told[0].0.is_empty() && told[3].0.is_empty());
    assert!(told[1].0.contains("'none'"), "{}", told[1].0);
    assert_eq!((told[1].1.id.as_str(), told[1].1.outputs.len()), ("foul", 0));
    assert!(!told[2].0.is_empty());
    assert_eq!(told[3].1.raw_output_contents, [bytes(&[2.0])]);

    let client = client.with("triton_grpc_error", "true");
    let mut answers = client.stream(requests()).await.expect("a stream");
    assert!(answers.message().await.expect("an answer").is_some());
    refused(answers.message().await, Code::NotFound, "model_not_found", "'none'");
    works(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_ends_the_stream_and_costs_nobody_else_anything() {
    let gateway = Gateway::serve_with(repository(), |settings| {
        settings.limits.max_body = Some("10KiB".parse().expect("a size"));
    })
    .await;
    let client = Client::connect(gateway.grpc_address()).await;
    let large = vec![0.0; 4096];
    let requests = [fp32("good", &[1.0]), fp32("good", &large), fp32("good", &[2.0])];
    let mut answers = client.stream(futures_util::stream::iter(requests)).await.expect("a stream");
    assert!(answers.message().await.expect("an answer").is_some());
    refused(answers.message().await, Code::ResourceExhausted, "too_large", "10240 bytes");
    refused(client.infer(fp32("good", &large)).await, Code::ResourceExhausted, "too_large", "10240 bytes");
    let zipped = client.clone().compressed();
    refused(zipped.infer(fp32("good", &large)).await, Code::ResourceExhausted, "too_large", "10240 bytes");
    works(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_says_nothing_ends_after_its_time() {
    let gateway = Gateway::serve_with(repository(), |settings| {
        settings.limits.stream_idle_timeout = Some("500ms".parse().expect("a time"));
    })
    .await;
    let client = Client::connect(gateway.grpc_address()).await;
    let (requests, receiver) = channel();
    let mut answers = client.stream(receiver).await.expect("a stream");
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        requests.send(fp32("good", &[1.0])).await.expect("an open stream");
        assert!(answers.message().await.expect("an answer").is_some());
    }
    refused(answers.message().await, Code::DeadlineExceeded, "request_timeout", "in time");
    let (_requests, receiver) = channel();
    let hasty = client.clone().with("grpc-timeout", "100m");
    let mut answers = hasty.stream(receiver).await.expect("a stream");
    let status = answers.message().await.expect_err("its time passes");
    // Whoever of the two notices first.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    works(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_answers_what_runs_and_ends_its_streams() {
    let gateway = Gateway::serve(repository()).await;
    let client = Client::connect(gateway.grpc_address()).await;
    let (requests, receiver) = channel();
    let mut answers = client.stream(receiver).await.expect("a stream");
    requests.send(fp32("good", &[1.0])).await.expect("an open stream");
    assert!(answers.message().await.expect("an answer").is_some());
    let started = Instant::now();
    let stopping = tokio::spawn(gateway.stop(Duration::ZERO));
    let status = answers.message().await.expect_err("the stream ends");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    drop((requests, client));
    assert_eq!(stopping.await.expect("no panic"), 0);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_the_answers_is_cut_off_and_keeps_nobody_from_running() {
    let gateway = Gateway::serve_with(repository(), |settings| {
        settings.limits.max_running = Some(1);
        settings.limits.stream_send_timeout = Some("1s".parse().expect("a time"));
    })
    .await;
    let client = Client::connect(gateway.grpc_address()).await;
    // More than the windows hold; the next request is not read before that is taken.
    let large = vec![1.0; 1 << 20];
    let requests = futures_util::stream::iter((0..100).map(move |_| fp32("good", &large)));
    let mut answers = client.stream(requests).await.expect("a stream");
    let other = Client::connect(gateway.grpc_address()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    works(&other).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut read = 0;
    let status = loop {
        match answers.message().await {
            Ok(Some(_)) => read += 1,
            Ok(None) => panic!("a good end after {read} answers"),
            Err(status) => break status,
        }
    };
    assert!(read < 100, "{status}");
    works(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_of_slow_readers_hold_what_they_may_and_no_more() {
    const CONNECTIONS: usize = 20;
    const STREAMS: usize = 50;
    const MESSAGES: usize = 4;
    let repository = repository();
    let folder = repository.path().to_str().expect("UTF-8");
    let process = Process::serve(&[
        "--model-repository",
        folder,
        "--max-buffered",
        "64MiB",
        "--stream-send-timeout",
        "10s",
    ]);
    let port = process.grpc.expect("a port");
    let other = Client::connect(port).await;
    works(&other).await;
    let before = process.own_mib();
    let values = vec![1.0; 16 << 10];
    let (mut clients, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        let client = Client::connect(port).await;
        for _ in 0..STREAMS {
            let requests = vec![fp32("good", &values); MESSAGES];
            streams.push(client.stream(futures_util::stream::iter(requests)).await.expect("a stream"));
        }
        clients.push(client);
    }
    // Answers of 250 MiB in all are asked for, and nobody reads.
    let mut most = 0;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        most = most.max(process.own_mib() - before.min(process.own_mib()));
        works(&other).await;
    }
    println!("{} streams of slow readers hold {most} MiB", CONNECTIONS * STREAMS);
    // What may be buffered, and what a connection's window lets its peer send before anything of it is read.
    assert!(most <= 64 + 4 * CONNECTIONS as u64, "{most} MiB");
    drop((streams, clients));
    works(&other).await;
}
