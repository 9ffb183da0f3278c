//! What a stream may take: no more of memory than a response or two, of the processor nothing while nobody reads, and of others
//! nothing at all.

use std::time::{Duration, Instant};

use airlock_tests::{
    client::post,
    grpc::{Client, bytes, fp32},
    process::Process,
};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{Events, infer_body, repository};
use crate::leaving::Guests;

/// So large that the buffers of a connection hold a few dozen responses.
fn large_body() -> Value {
    json!({ "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [16384], "data": vec![1.5f32; 16384] }] })
}

fn serve(arguments: &[&str]) -> Process {
    let repository = repository();
    let folder = repository.path().to_str().expect("UTF-8");
    Process::serve(&[&["--model-repository", folder], arguments].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_waits_for_its_reader_and_that_time_is_not_its_own() {
    let process = serve(&["--deadline", "300ms"]);
    let guests = Guests::of(&process);
    let mut events = Events::ask(process.address, "/v2/models/endless/infer_stream", &large_body()).await;
    assert!(events.next().await.expect("a response")["outputs"].is_array());
    // It runs until all buffers are full, and then it does not run.
    guests.stop().await;
    let used = guests.used();
    sleep(Duration::from_millis(2000)).await;
    assert!(guests.used() < used + Duration::from_millis(5), "it runs while nobody reads");
    // It goes on where it was, until its own time is over.
    let mut read = 0;
    let end = loop {
        let event = timeout(Duration::from_secs(10), events.next()).await.expect("in time").expect("its end");
        match event["code"].as_str() {
            None => read += 1,
            Some(code) => break code.to_owned(),
        }
    };
    assert_eq!(end, "deadline_exceeded");
    assert!(guests.used() > used + Duration::from_millis(15), "{read} responses were left");
    assert!(events.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_stops_the_model_that_streams() {
    let process = serve(&["--deadline", "60s"]);
    let (at, guests) = (process.address, Guests::of(&process));
    let mut events = Events::ask(at, "/v2/models/endless/infer_stream", &infer_body(1.0)).await;
    for _ in 0..10 {
        events.next().await.expect("it never ends");
    }
    drop(events);
    guests.stop().await;
    let client = Client::connect(process.grpc.expect("a port")).await;
    let requests = futures_util::stream::iter([fp32("endless", &[1.0])]);
    let mut answers = client.stream(requests).await.expect("a stream");
    answers.message().await.expect("an answer");
    drop(answers);
    guests.stop().await;
    // The connection is as good as before, and so is the gateway.
    let answer = client.infer(fp32("good", &[1.0])).await.expect("a good call");
    assert_eq!(answer.raw_output_contents, [bytes(&[1.0])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_cut_off_and_gives_its_place_back() {
    let process = serve(&["--deadline", "60s", "--stream-send-timeout", "1s", "--max-running", "1"]);
    let at = process.address;
    let mut events = Events::ask(at, "/v2/models/endless/infer_stream", &large_body()).await;
    events.next().await.expect("a response");
    // It has the only place until it is cut off.
    let body = infer_body(1.0);
    let since = Instant::now();
    let waits = timeout(Duration::from_secs(20), post(at, "/v2/models/good/infer", &body));
    assert_eq!(waits.await.expect("a place").status, 200);
    assert!(since.elapsed() > Duration::from_millis(700), "{:?}", since.elapsed());
    let cut = async {
        while let Some(frame) = http_body_util::BodyExt::frame(&mut events.body).await {
            if frame.is_err() {
                return true;
            }
        }
        false
    };
    assert!(timeout(Duration::from_secs(20), cut).await.expect("an end"), "it has a good end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_a_little_now_and_then_keeps_a_model_for_a_while_and_not_for_ever() {
    let process = serve(&["--deadline", "1s", "--stream-wait", "2s"]);
    let mut events = Events::ask(process.address, "/v2/models/endless/infer_stream", &large_body()).await;
    let since = Instant::now();
    // Faster than what is cut off, and far slower than the model.
    let end = loop {
        sleep(Duration::from_millis(50)).await;
        let event = timeout(Duration::from_secs(10), events.next()).await.expect("in time").expect("its end");
        if let Some(code) = event["code"].as_str() {
            break code.to_owned();
        }
        assert!(since.elapsed() < Duration::from_secs(60), "it goes on for ever");
    };
    assert_eq!(end, "deadline_exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_tells_the_readers_of_streams() {
    let process = serve(&["--deadline", "60s", "--grace-period", "4s"]);
    let mut events = Events::ask(process.address, "/v2/models/endless/infer_stream", &large_body()).await;
    events.next().await.expect("a response");
    sleep(Duration::from_millis(300)).await;
    process.signal("TERM");
    // Slower than the model, so that there is always something to read ahead of the end.
    let mut last = Value::Null;
    while let Some(event) = timeout(Duration::from_secs(10), events.next()).await.expect("in time") {
        last = event;
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(last["code"], "deadline_exceeded", "{last}");
    assert_eq!(process.end().0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_gives_every_window_and_reads_nothing_holds_little() {
    use hyper_util::rt::TokioExecutor;

    let process = serve(&["--deadline", "60s"]);
    let at = process.address;
    let before = process.own_mib();
    let connection = TokioIo::new(TcpStream::connect(at).await.expect("the gateway listens"));
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size((1 << 31) - 1)
        .initial_connection_window_size((1 << 31) - 1)
        .handshake::<_, Full<bytes::Bytes>>(connection)
        .await
        .expect("HTTP/2");
    let mut connection = Box::pin(connection);
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let mut sender = sender.clone();
        asked.spawn(async move {
            let uri = format!("http://{at}/v2/models/endless/infer_stream");
            let request = hyper::Request::post(uri).body(Full::from(infer_body(1.0).to_string()));
            sender.send_request(request.expect("a request")).await
        });
    }
    // Nobody reads the bodies of the answers, and after a while nobody reads at all.
    let _ = timeout(Duration::from_millis(500), connection.as_mut()).await;
    sleep(Duration::from_secs(4)).await;
    let most = process.own_mib().saturating_sub(before);
    println!("32 streams of a peer that gives every window hold {most} MiB");
    assert!(most <= 64, "{most} MiB");
    drop((connection, asked));
    let answer = post(at, "/v2/models/good/infer", &infer_body(1.0)).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streaming_models_whose_readers_do_not_read_hold_what_they_may() {
    const CONNECTIONS: usize = 20;
    const STREAMS: usize = 50;
    let process = serve(&[
        "--deadline",
        "60s",
        "--max-running",
        "1100",
        "--guest-instances",
        "1200",
        "--max-buffered",
        "128MiB",
    ]);
    let port = process.grpc.expect("a port");
    let other = Client::connect(port).await;
    let works = async || {
        let answer = other.infer(fp32("good", &[1.0])).await.expect("a good call");
        assert_eq!(answer.raw_output_contents, [bytes(&[1.0])]);
    };
    works().await;
    let (before, guests) = (process.own_mib(), Guests::of(&process));
    // 16 KiB a response: what is read ahead of the readers are a few responses of each.
    let values = vec![1.0; 4 << 10];
    let (mut clients, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        let client = Client::connect(port).await;
        for _ in 0..STREAMS {
            let requests = futures_util::stream::iter([fp32("endless", &values)]);
            streams.push(client.stream(requests).await.expect("a stream"));
        }
        clients.push(client);
    }
    let mut most = 0;
    for _ in 0..20 {
        sleep(Duration::from_millis(200)).await;
        most = most.max(process.own_mib().saturating_sub(before));
        works().await;
    }
    guests.stop().await;
    println!("{} models that stream to nobody hold {most} MiB", CONNECTIONS * STREAMS);
    // An instance, its input and two responses each, and what the connections' windows let be written.
    assert!(most <= 400, "{most} MiB");
    drop((streams, clients));
    works().await;
}
