//! What a worker has, how many there are, what they answer, and that none outlives its gateway.

use airlock::execute::Isolation;
use airlock_tests::{
    onnx::{node, value},
    process::Process,
};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_has_an_empty_environment_its_three_files_and_bounds() {
    let fixture = Fixture::new(710, |_| ()).await;
    fixture.put("m", &negation()).await;
    assert_eq!(ok(&fixture.infer("m", &one(1.5)).await), json!([-1.5]));
    let folder = PathBuf::from(format!("/proc/{}", fixture.worker()));
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect("a worker of ours");
    assert_eq!(read("environ"), "");
    let mut open: Vec<String> = fs::read_dir(folder.join("fd"))
        .expect("a worker of ours")
        .map(|entry| fs::read_link(entry.expect("an entry").path()).expect("a link"))
        .map(|link| link.to_string_lossy().split([':', '(']).take(2).collect::<Vec<_>>().join(":"))
        .collect();
    open.sort();
    open.dedup_by_key(|open| open.split('[').next().map(str::to_owned));
    // What this test's own process was started with, such as cargo's pipe, it hands on.
    open.retain(|open| !open.starts_with("pipe:") && !open.starts_with("/dev/"));
    let known = |open: &String| {
        ["socket:", "/memfd:airlock-tensors", "/memfd:airlock-log"]
            .iter()
            .any(|known| open.starts_with(known))
    };
    assert!(open.len() == 3 && open.iter().all(known), "{open:?}");
    // What the engine prints goes nowhere, and not into the memory that stdout stands for.
    let stdout = read("fdinfo/1");
    let flags = stdout.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
    assert!(flags.ends_with('0'), "stdout can be written: {flags}");
    let limits = read("limits");
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).expect(name);
        line[name.len()..].split_whitespace().next().expect("a value").to_owned()
    };
    assert_eq!(limit("Max address space"), fixture.memory.to_string());
    assert_eq!((limit("Max core file size"), limit("Max processes")), ("1".into(), "0".into()));
    assert_eq!(limit("Max open files"), "16");
    assert!(read("status").lines().any(|line| line.split_whitespace().eq(["NoNewPrivs:", "1"])));
    assert!(read("status").lines().any(|line| line.split_whitespace().eq(["Threads:", "1"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_answers_what_the_gateway_s_own_engine_does() {
    let softmax = Graph {
        nodes: vec![
            node("MatMul", &["x", "w"], &["a"], &[]),
            node("Softmax", &["a"], &["y"], &[onnx::int("axis", 1)]),
            node("Shape", &["x"], &["s"], &[]),
        ],
        inputs: vec![value("x", onnx::FLOAT, &["N", "4"]), value("w", onnx::FLOAT, &["4", "3"])],
        outputs: vec![value("y", onnx::FLOAT, &["N", "3"]), value("s", onnx::INT64, &["2"])],
        initializers: vec![],
    };
    let mut graphs =
        vec![("softmax".to_owned(), softmax, json!([fp32("x", &[5, 4], 0.3), fp32("w", &[4, 3], 0.7)]))];
    for (elem_type, datatype, data) in [
        (onnx::BOOL, "BOOL", json!([true, false, true])),
        (onnx::UINT8, "UINT8", json!([0, 128, 255])),
        (onnx::INT16, "INT16", json!([-1, 2, 3])),
        (onnx::INT64, "INT64", json!([i64::MIN, 0, 7])),
        (onnx::FLOAT16, "FP16", json!([0.5, -1.0, 2.0])),
        (onnx::DOUBLE, "FP64", json!([0.1, -1e300, 0.0])),
        (onnx::STRING, "BYTES", json!(["", "€", "three"])),
    ] {
        let x = json!([{ "name": "x", "datatype": datatype, "shape": [3], "data": data }]);
        graphs.push((datatype.to_lowercase(), onnx::unary("Identity", elem_type, &["N"]), x));
    }
    let empty = json!([{ "name": "x", "datatype": "FP32", "shape": [0], "data": [] }]);
    graphs.push(("empty".into(), negation(), empty));
    let clash = Graph {
        inputs: vec![value("a", onnx::FLOAT, &["N"]), value("b", onnx::FLOAT, &["M"])],
        ..onnx::binary("Add", onnx::FLOAT, &["N"])
    };
    graphs.push(("clash".into(), clash, json!([fp32("a", &[2], 1.0), fp32("b", &[3], 1.0)])));
    let mut repository = Repository::default();
    for (name, graph, _) in &graphs {
        repository = repository.with(&format!("own-{name}"), "1", "model.onnx", graph.file());
    }
    let fixture = Fixture::with(711, repository, binary(), |_| ()).await;
    for (name, graph, inputs) in &graphs {
        fixture.put(name, graph).await;
        let own = fixture.infer(&format!("own-{name}"), &json!({ "inputs": inputs })).await;
        let theirs = fixture.infer(name, &json!({ "inputs": inputs })).await;
        assert_eq!(own.status, theirs.status, "{name}: {}", theirs.error());
        assert_eq!(own.json()["outputs"], theirs.json()["outputs"], "{name}");
        assert_eq!(own.json()["error"], theirs.json()["error"], "{name}");
        if own.status == 200 {
            let against = format!("own-{name}/1");
            let same =
                json!({ "inputs": inputs, "parameters": { "against": against, "rtol": 0.0, "atol": 0.0 } });
            let path = format!("/v2/repository/models/{name}/versions/1/verify");
            let answer = fixture.tenant().post(&path, &same).await;
            assert_eq!(answer.json()["pass"], true, "{name}: {}", String::from_utf8_lossy(&answer.body));
        }
    }
    // Many at a time, and 4 MiB there and back.
    let fixture = std::sync::Arc::new(fixture);
    let calls: Vec<_> = (0..16u16)
        .map(|index| {
            let fixture = std::sync::Arc::clone(&fixture);
            tokio::spawn(async move {
                let values = vec![f32::from(index); 1 << 20];
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                let head = json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1 << 20],
                    "parameters": { "binary_data_size": bytes.len() } }], "parameters": { "binary_data_output": true } });
                let head = head.to_string();
                let length = head.len().to_string();
                let headers = [("inference-header-content-length", length.as_str())];
                let body = [head.into_bytes(), bytes.clone()].concat();
                let answer = fixture.tenant().send("POST", "/v2/models/empty/infer", &headers, body).await;
                let expected: Vec<u8> = values.iter().flat_map(|value| (-value).to_le_bytes()).collect();
                assert_eq!(answer.status, 200);
                assert!(answer.body.ends_with(&expected), "{index}");
            })
        })
        .collect();
    for call in calls {
        call.await.expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_share_few_places_and_idle_workers_go() {
    let fixture = Fixture::new(712, |settings| {
        settings.limits.native_workers = Some(1);
        settings.limits.native_idle = Some("300ms".parse().expect("a time"));
    })
    .await;
    for model in ["a", "b", "c"] {
        fixture.put(model, &negation()).await;
        assert!(fixture.workers().len() <= 1);
    }
    for model in ["a", "b", "c", "a", "a", "c"] {
        assert_eq!(ok(&fixture.infer(model, &one(1.0)).await), json!([-1.0]), "{model}");
        assert!(fixture.workers().len() <= 1);
    }
    fixture.until(0).await;
    assert_eq!(ok(&fixture.infer("b", &one(1.0)).await), json!([-1.0]));
    // A model that is removed takes its workers with it.
    let removed = fixture.tenant().send("DELETE", "/v2/repository/models/b", &[], "").await;
    assert_eq!(removed.status, 200);
    fixture.until(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_operator_s_models_run_is_the_operator_s_choice() {
    let repository = || {
        Repository::default()
            .with("own", "1", "model.onnx", negation().file())
            .with("apart", "1", "model.onnx", negation().file())
            .with_config("apart", "model.toml", "onnx_isolation = \"process\"")
            .with("here", "1", "model.onnx", negation().file())
            .with_config("here", "model.toml", "onnx_isolation = \"none\"")
    };
    let fixture = Fixture::with(713, repository(), binary(), |_| ()).await;
    assert_eq!(fixture.workers().len(), 1, "that of `apart`");
    let all = Fixture::with(714, repository(), binary(), |settings| {
        settings.onnx_isolation = Some(Isolation::Process);
    })
    .await;
    assert_eq!(all.workers().len(), 2, "all but that of `here`");
    for model in ["own", "apart", "here"] {
        assert_eq!(ok(&fixture.infer(model, &one(3.0)).await), json!([-3.0]));
        assert_eq!(ok(&all.infer(model, &one(3.0)).await), json!([-3.0]));
    }
    // A tenant cannot have less than a process.
    for (wanted, status) in [("process", 200), ("none", 422), ("sandbox", 422)] {
        let config = format!("onnx_isolation = \"{wanted}\"\r\n");
        let body = [
            b"--frontier\r\ncontent-disposition: form-data; name=\"config\"\r\n\r\n",
            config.as_bytes(),
            b"--frontier\r\ncontent-disposition: form-data; name=\"artifact\"\r\n\r\n",
            &negation().file(),
            b"\r\n--frontier--\r\n",
        ]
        .concat();
        let headers = [("content-type", "multipart/form-data; boundary=frontier")];
        let path = format!("/v2/repository/models/{wanted}/versions/1");
        let answer = fixture.tenant().send("PUT", &path, &headers, body).await;
        assert_eq!(answer.status, status, "{wanted}: {}", answer.error());
        assert!(status == 200 || answer.error().contains("onnx_isolation"), "{}", answer.error());
    }
    assert_eq!(fixture.workers().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_worker_outlives_its_gateway() {
    for signal in ["KILL", "TERM"] {
        let store = Store::default();
        let folder = store.path().to_str().expect("UTF-8").to_owned();
        let process = Process::serve(&["--store", &folder, "--drain-delay", "10ms"]);
        let path = "/v2/repository/models/m/versions/1";
        let answer = airlock_tests::client::call(process.address, "PUT", path, &[], negation().file()).await;
        assert_eq!(answer.status, 200, "{}", answer.error());
        let workers = workers_of(process.id(), None);
        assert_eq!(workers.len(), 1);
        let parent = process.id();
        process.signal(signal);
        process.end();
        let begun = Instant::now();
        while !workers_of(parent, None).is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{signal}: a worker is left");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
