//! What one tenant does to a model or to the workers costs no other one.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tempfile::TempDir;

use super::{
    deaths::{feature, unending},
    fake::{loaded, output, ran, script},
    *,
};

fn of<'a>(fixture: &'a Fixture, key: &'a str) -> Caller<'a> {
    Caller::new(&fixture.gateway, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_ends_a_shared_model_s_workers_waits_alone() {
    let folder = TempDir::new().expect("a temporary folder");
    // Each worker's first call is well, and its second one ends it.
    let good = json!({ "Ok": [output("y", "FP32", &json!([1]), 128, 4)] });
    let program = script(&folder, &[loaded(), ran(1, &good), ran(99, &good)], "exec sleep 1000");
    let repository = Repository::default().with("m", "1", "model.onnx", negation().file()).with_config(
        "m",
        "model.toml",
        "onnx_isolation = \"process\"",
    );
    let (fixture, [one, other]) = Fixture::of_two(718, repository, program, |settings| {
        settings.limits.native_threads = Some(1);
    })
    .await;
    let (path, body) = ("/v2/models/m/infer", super::one(1.0));
    for _ in 0..4 {
        assert_eq!(ok(&of(&fixture, &other).post(path, &body).await), json!([0.0]));
        told(&of(&fixture, &one).post(path, &body).await, 502, "model_failed");
    }
    told(&of(&fixture, &one).post(path, &body).await, 503, "overloaded");
    assert_eq!(ok(&of(&fixture, &other).post(path, &body).await), json!([0.0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_s_calls_do_not_keep_all_places() {
    let (fixture, [one, other]) = Fixture::of_two(719, Repository::default(), binary(), |settings| {
        settings.limits.native_workers = Some(1);
    })
    .await;
    let fixture = Arc::new(fixture);
    for (key, model, graph) in [(&one, "unending", unending()), (&other, "good", negation())] {
        let answer = of(&fixture, key).put(model, "1", graph.file()).await;
        assert_eq!(answer.status, 200, "{}", answer.error());
    }
    // The one place is never idle from here on: one call waits behind another.
    let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(std::sync::Mutex::new(Vec::new())));
    let greedy: Vec<_> = (0..3)
        .map(|_| {
            let (fixture, one) = (Arc::clone(&fixture), one.clone());
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let answer = of(&fixture, &one).post("/v2/models/unending/infer", &feature(0.25)).await;
                    answers.lock().expect("no panic").push(answer.status);
                }
            })
        })
        .collect();
    let count = || answers.lock().expect("no panic").len();
    for _ in 0..3 {
        let before = count();
        while count() < before + 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let answer = of(&fixture, &other).post("/v2/models/good/infer", &super::one(1.0)).await;
        assert_eq!(ok(&answer), json!([-1.0]));
    }
    stop.store(true, Ordering::Relaxed);
    for task in greedy {
        task.await.expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_tenant_sent_is_not_there_for_the_next() {
    let folder = TempDir::new().expect("a temporary folder");
    // Behind the second caller's own input, where the first one's was.
    let behind = json!({ "Ok": [output("y", "FP32", &json!([1]), 72, 4)] });
    let first = json!({ "Ok": [output("y", "FP32", &json!([1]), 128, 4)] });
    let says = [loaded(), ran(1, &first), ran(2, &behind), ran(3, &behind)];
    let program = script(&folder, &says, "exec sleep 1000");
    let repository = Repository::default().with("m", "1", "model.onnx", negation().file()).with_config(
        "m",
        "model.toml",
        "onnx_isolation = \"process\"",
    );
    let (fixture, [one, other]) = Fixture::of_two(720, repository, program, |_| ()).await;
    let path = "/v2/models/m/infer";
    let sixteen = json!({ "inputs": [fp32("x", &[16], 7.0)] });
    assert_eq!(ok(&of(&fixture, &one).post(path, &sixteen).await), json!([0.0]));
    assert_eq!(ok(&of(&fixture, &other).post(path, &super::one(1.0)).await), json!([0.0]));
}
