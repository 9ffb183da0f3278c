//! ONNX models of tenants run in worker processes: what hostile ones do to these, and that nobody else notices.

pub mod deaths;
mod fake;
mod kept;
mod refused;
mod tenants;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use airlock::{authenticate::Scope, config::Settings};
use airlock_tests::{
    client::Answer,
    gateway::{Gateway, Repository, binary},
    onnx::{self, Graph},
    store::{Caller, Store},
};
use serde_json::{Value, json};

/// A gateway that takes uploads, and whose workers can be told from those of other tests by the memory they may use.
struct Fixture {
    gateway: Gateway,
    memory: u64,
    store: Store,
}

impl Fixture {
    async fn new(megabytes: u64, set: impl FnOnce(&mut Settings)) -> Self {
        Self::with(megabytes, Repository::default(), binary(), set).await
    }

    async fn with(
        megabytes: u64,
        repository: Repository,
        program: PathBuf,
        set: impl FnOnce(&mut Settings),
    ) -> Self {
        Self::on(Store::default(), megabytes, repository, program, set).await
    }

    /// With two tenants, whose keys come with it.
    async fn of_two(
        megabytes: u64,
        repository: Repository,
        program: PathBuf,
        set: impl FnOnce(&mut Settings),
    ) -> (Self, [String; 2]) {
        let store = Store::default();
        let scopes = [Scope::Infer, Scope::Repository];
        let keys = [store.key("one", &scopes).await, store.key("other", &scopes).await];
        for tenant in ["one", "other"] {
            store.limit(tenant, &[("rate", "0"), ("running", "0")]).await;
        }
        (Self::on(store, megabytes, repository, program, set).await, keys)
    }

    async fn on(
        store: Store,
        megabytes: u64,
        repository: Repository,
        program: PathBuf,
        set: impl FnOnce(&mut Settings),
    ) -> Self {
        let mut settings = Settings {
            model_repository: Some(repository.path().into()),
            store: Some(store.location()),
            ..Settings::default()
        };
        settings.limits.native_memory = Some(format!("{megabytes}MiB").parse().expect("a size"));
        settings.limits.deadline = Some("20s".parse().expect("a time"));
        set(&mut settings);
        let gateway = Gateway::serve_with_worker(repository, settings, program).await;
        Self { gateway, memory: megabytes << 20, store }
    }

    fn tenant(&self) -> Caller<'_> {
        Caller::anybody(&self.gateway)
    }

    async fn put(&self, model: &str, graph: &Graph) {
        let answer = self.tenant().put(model, "1", graph.file()).await;
        assert_eq!(answer.status, 200, "{model}: {}", String::from_utf8_lossy(&answer.body));
    }

    async fn infer(&self, model: &str, body: &Value) -> Answer {
        self.tenant().post(&format!("/v2/models/{model}/infer"), body).await
    }

    /// The workers that run now.
    fn workers(&self) -> Vec<u32> {
        workers_of(std::process::id(), Some(self.memory))
    }

    /// The only worker.
    fn worker(&self) -> u32 {
        let [worker] = self.workers()[..] else { panic!("workers: {:?}", self.workers()) };
        worker
    }

    /// Waits until so many workers are left.
    async fn until(&self, workers: usize) {
        let begun = Instant::now();
        while self.workers().len() != workers {
            assert!(begun.elapsed() < Duration::from_secs(30), "workers: {:?}", self.workers());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Children of a process that run models, with so many bytes of memory.
pub(crate) fn workers_of(parent: u32, memory: Option<u64>) -> Vec<u32> {
    let numbers =
        fs::read_dir("/proc").expect("Linux").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    numbers
        .filter_map(|number| number.parse().ok())
        .filter(|number: &u32| {
            let line = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let words: Vec<&str> = line.split('\0').collect();
            words.contains(&"--serve")
                && words.contains(&format!("--parent={parent}").as_str())
                && memory.is_none_or(|memory| words.contains(&format!("--memory={memory}").as_str()))
        })
        .collect()
}

fn fp32(name: &str, shape: &[usize], value: f32) -> Value {
    let count = shape.iter().product();
    json!({ "name": name, "datatype": "FP32", "shape": shape, "data": vec![value; count] })
}

/// Answers -x.
fn negation() -> Graph {
    onnx::unary("Neg", onnx::FLOAT, &["N"])
}

fn one(value: f32) -> Value {
    json!({ "inputs": [fp32("x", &[1], value)] })
}

pub(crate) fn ok(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()["outputs"][0]["data"].clone()
}

pub(crate) fn told(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.error());
    assert!(!answer.error().contains(" /") && !answer.error().contains("0x"), "{}", answer.error());
}
