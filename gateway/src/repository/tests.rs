use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::{
        Condvar,
        atomic::{AtomicUsize, Ordering},
    },
};

use tempfile::TempDir;

use crate::{
    execute::{BoxFuture, Call, ExecuteError, Step},
    name::Version,
    tensor::{Datatype, InferRequest, InferResponse, Shape, Signature, TensorSpec},
};

use super::*;

mod poll;

#[derive(Debug)]
struct Echo {
    signature: Signature,
    artifact: String,
}

impl Executor for Echo {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Tests tell executors apart by what they were loaded from.
    fn loaded_bytes(&self) -> u64 {
        1
    }

    fn platform(&self) -> &'static str {
        match self.artifact.as_str() {
            "first" => "first",
            "second" => "second",
            _ => "other",
        }
    }

    fn infer(&self, _: InferRequest, _: Call) -> BoxFuture<'_, Result<InferResponse, ExecuteError>> {
        Box::pin(async { Err(ExecuteError::Busy) })
    }
}

/// A loader that does what the artifact's text says, and notes what it was given.
#[derive(Default)]
struct Fake {
    loads: Mutex<Vec<Source>>,
    running: AtomicUsize,
    most_running: AtomicUsize,
    /// Loads of an artifact `wait…` go on when this is set.
    gate: Mutex<bool>,
    opened: Condvar,
}

impl Fake {
    fn load(&self, source: Source) -> Result<Arc<dyn Executor>, LoadError> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        let artifact = String::from_utf8(source.artifact.clone()).expect("text");
        lock(&self.loads).push(source);
        if artifact.starts_with("wait") {
            let gate = lock(&self.gate);
            let patience = Duration::from_secs(10);
            let (_gate, waited) =
                self.opened.wait_timeout_while(gate, patience, |open| !*open).expect("not poisoned");
            assert!(!waited.timed_out(), "nobody opened the gate");
        }
        std::thread::sleep(Duration::from_millis(2));
        self.running.fetch_sub(1, Ordering::SeqCst);
        match artifact.as_str() {
            "busy" => Err(LoadError::transient(Step::Read, "this machine is busy")),
            "bad" => Err(LoadError::new(Step::Check, "this artifact is bad")),
            "panic" => panic!("a panic of the engine, as the test wants it"),
            _ => {
                let spec = |name: &str| TensorSpec {
                    name: name.into(),
                    datatype: Datatype::Fp32,
                    shape: Shape(vec![-1]),
                };
                let signature = Signature { inputs: vec![spec("IN")], outputs: vec![spec("OUT")] };
                Ok(Arc::new(Echo { signature, artifact }))
            }
        }
    }

    fn open_gate(&self) {
        *lock(&self.gate) = true;
        self.opened.notify_all();
    }
}

struct Bench {
    dir: TempDir,
    fake: Arc<Fake>,
    repository: Repository,
}

impl Bench {
    fn new(mode: ControlMode, files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test");
        files.iter().for_each(|(path, content)| write(dir.path(), path, content));
        let fake = Arc::<Fake>::default();
        let repository = open(RepositorySource::Folder(dir.path().to_owned()), mode, &fake).expect("opens");
        Self { dir, fake, repository }
    }

    async fn started(mode: ControlMode, files: &[(&str, &str)]) -> Self {
        let bench = Self::new(mode, files);
        bench.repository.start().await;
        bench
    }

    fn write(&self, path: &str, content: &str) {
        write(self.dir.path(), path, content);
    }

    fn remove(&self, path: &str) {
        fs::remove_dir_all(self.dir.path().join(path)).expect("removed");
    }

    /// The index as text, one line a version.
    fn index(&self) -> Vec<String> {
        let line = |entry: IndexEntry| {
            let version = entry.version.map_or_else(|| "-".into(), |version| version.to_string());
            let reason = entry.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("{}/{version} {}{reason}", entry.name, entry.state)
        };
        self.repository.catalog().index().into_iter().map(line).collect()
    }

    /// What was loaded since the last call, sorted.
    fn loads(&self) -> Vec<String> {
        let mut labels: Vec<String> =
            std::mem::take(&mut *lock(&self.fake.loads)).into_iter().map(|source| source.label).collect();
        labels.sort();
        labels
    }

    fn found(&self, model: &str, version: Option<&str>) -> Result<Arc<Model>, FindError> {
        let version: Option<Version> = version.map(|version| version.parse().expect("a version"));
        self.repository.catalog().find(&name(model), &namespaces::Wanted::new(version.as_ref(), None))
    }

    /// Which artifact answers now.
    fn serving(&self, model: &str) -> &'static str {
        self.found(model, None).expect("ready").executor.platform()
    }

    async fn poll_twice(&self) {
        self.repository.poll().await;
        self.repository.poll().await;
    }
}

fn open(
    source: RepositorySource,
    mode: ControlMode,
    fake: &Arc<Fake>,
) -> Result<Repository, RepositoryError> {
    let fake = Arc::clone(fake);
    Repository::new(source, mode, Arc::new(move |_, _, source| fake.load(source)), &Limits::default())
}

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("below the root")).expect("a folder");
    fs::write(path, content).expect("a file");
}

fn name(text: &str) -> ModelName {
    text.parse().expect("a name")
}

fn poll() -> ControlMode {
    ControlMode::Poll { interval: Duration::from_millis(10) }
}

fn explicit(initial: &[&str]) -> ControlMode {
    ControlMode::Explicit { initial: initial.iter().map(|name| (*name).to_owned()).collect() }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain: {what}");
}

#[tokio::test]
async fn a_failing_model_leaves_the_others_alone() {
    let bench = Bench::started(
        ControlMode::None,
        &[
            ("good/1/model.wasm", "first"),
            ("good/2/model.onnx", "second"),
            ("bad/1/model.wasm", "bad"),
            ("bad/2/model.wasm", "first"),
            ("panics/1/model.wasm", "panic"),
            ("none/labels.txt", ""),
            ("empty/1/other.wasm", ""),
            ("faulty/1/model.wasm", "first"),
            ("faulty/model.toml", "x = 1"),
            ("plan/1/model.plan", ""),
            ("plan/config.pbtxt", "platform: \"tensorrt_plan\""),
        ],
    )
    .await;
    let index = bench.index();
    assert_eq!(
        index,
        [
            "bad/1 UNAVAILABLE: check: this artifact is bad",
            "bad/2 READY",
            "empty/1 UNAVAILABLE: read: expected empty/1/model.wasm or empty/1/model.onnx",
            "faulty/- UNAVAILABLE: model.toml line 1: unknown field `x`, expected one of `version_policy`, `max_batch_size`, `response_cache`, `dynamic_batching`, `parameters`, `inputs`, `label_files`, `limits`, `onnx_isolation`, `onnx_engine`",
            "good/1 READY",
            "good/2 READY",
            "none/- UNAVAILABLE: it has no version: expected none/1/model.wasm or none/1/model.onnx",
            "panics/1 UNAVAILABLE: load: the engine panicked while it loaded the model",
            "plan/- UNAVAILABLE: config.pbtxt line 1, column 1: platform: platform 'tensorrt_plan' is not supported: ONNX models (onnxruntime) and wasm are",
        ]
    );
    assert_eq!(bench.serving("good"), "second");
    assert_eq!(bench.found("good", Some("1")).expect("ready").executor.platform(), "first");
    assert!(matches!(bench.found("plan", None), Err(FindError::NotReady { version: None, .. })));
    assert!(matches!(bench.found("good", Some("3")), Err(FindError::UnknownVersion { .. })));
}

#[tokio::test]
async fn loads_share_the_cores() {
    let files: Vec<String> = (0..20).map(|i| format!("m{i}/1/model.wasm")).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|path| (path.as_str(), "first")).collect();
    let bench = Bench::started(ControlMode::None, &files).await;
    assert_eq!(bench.loads().len(), 20);
    let cores = std::thread::available_parallelism().expect("known").get();
    let most = bench.fake.most_running.load(Ordering::SeqCst);
    assert!((1..=cores).contains(&most), "{most} at a time on {cores} cores");
}

#[tokio::test]
async fn the_configuration_reaches_the_loader_and_the_catalog() {
    let toml = "max_batch_size = 8\n[parameters]\nb = 2\na = \"x\"\n[[inputs]]\nname = \"IN\"\ndatatype = \"FP32\"\nshape = [-1, 4]";
    let bench = Bench::started(
        ControlMode::None,
        &[("m/1/model.wasm", "first"), ("m/1/labels.txt", "cat"), ("m/model.toml", toml)],
    )
    .await;
    assert_eq!(bench.found("m", None).expect("ready").max_batch_size, Some(8));
    let source = lock(&bench.fake.loads).pop().expect("one load");
    assert_eq!(source.label, "m/1");
    assert_eq!(source.files, [("labels.txt".to_owned(), b"cat".to_vec())]);
    let parameter = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(source.parameters, [parameter("a", "x"), parameter("b", "2")]);
    assert_eq!(source.declared_inputs[0].shape, Shape(vec![-1, 4]));
}

#[tokio::test]
async fn a_declaration_that_contradicts_the_model_makes_it_unavailable() {
    let tensor = |name: &str, datatype: &str| format!("{{ name: \"{name}\" data_type: {datatype} dims: 1 }}");
    let unknown = format!("input {}", tensor("X", "TYPE_FP32"));
    let other = format!("input {} output {}", tensor("IN", "TYPE_FP32"), tensor("OUT", "TYPE_INT8"));
    let bench = Bench::started(
        ControlMode::None,
        &[
            ("a/1/model.wasm", "first"),
            ("a/config.pbtxt", &unknown),
            ("b/1/model.wasm", "first"),
            ("b/config.pbtxt", &other),
        ],
    )
    .await;
    assert_eq!(
        bench.index(),
        [
            "a/1 UNAVAILABLE: signature: config.pbtxt declares input 'X', the model's inputs are 'IN'",
            "b/1 UNAVAILABLE: signature: config.pbtxt declares output 'OUT' as INT8, the model has FP32",
        ]
    );
}

#[tokio::test]
async fn version_policies_select_what_is_served() {
    let versions = ["1", "2", "10"];
    for (file, text, expected) in [
        ("config.pbtxt", "", vec!["m/10 READY"]),
        ("config.pbtxt", "version_policy { all { } }", vec!["m/1 READY", "m/2 READY", "m/10 READY"]),
        ("model.toml", "", vec!["m/1 READY", "m/2 READY", "m/10 READY"]),
        ("model.toml", "version_policy = { latest = 2 }", vec!["m/2 READY", "m/10 READY"]),
        (
            "model.toml",
            "version_policy = { specific = [\"2\", \"3\"] }",
            vec!["m/2 READY", "m/3 UNAVAILABLE: model.toml selects it, expected a folder m/3"],
        ),
    ] {
        let bench = Bench::new(ControlMode::None, &[]);
        versions.iter().for_each(|version| bench.write(&format!("m/{version}/model.wasm"), "first"));
        bench.write(&format!("m/{file}"), text);
        bench.repository.start().await;
        assert_eq!(bench.index(), expected, "{file}: {text}");
    }
}

#[tokio::test]
async fn hostile_folders_are_reported_and_stop_nothing() {
    let bench = Bench::new(
        ControlMode::None,
        &[
            ("good/1/model.wasm", "first"),
            ("unreadable/1/model.wasm", "first"),
            ("..evil/1/model.wasm", "first"),
        ],
    );
    let root = bench.dir.path();
    symlink("self", root.join("self")).expect("a link");
    symlink("/", root.join("slash")).expect("a link");
    symlink(".", root.join("dot")).expect("a link");
    fs::create_dir_all(root.join("pipe/1")).expect("a folder");
    let made = std::process::Command::new("mkfifo").arg(root.join("pipe/1/model.onnx")).status();
    assert!(made.expect("mkfifo runs").success());
    let locked = root.join("unreadable/1/model.wasm");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).expect("set");
    let privileged = fs::read(&locked).is_ok();

    let started = tokio::time::timeout(Duration::from_secs(20), bench.repository.start()).await;
    assert!(started.is_ok(), "the start hangs");
    assert_eq!(bench.serving("good"), "first");
    assert_eq!(bench.found("unreadable", None).is_ok(), privileged);
    let index = bench.index();
    let unavailable: BTreeSet<&str> = index
        .iter()
        .filter(|line| line.contains("UNAVAILABLE"))
        .filter_map(|line| line.split('/').next())
        .filter(|name| *name != "unreadable")
        .collect();
    assert_eq!(unavailable, ["dot", "pipe", "self", "slash"].into());
    assert!(index.contains(&"pipe/1 UNAVAILABLE: read: pipe/1/model.onnx is not a regular file".into()));
}

#[tokio::test]
async fn the_old_version_serves_until_the_new_one_is_ready() {
    let bench = Bench::started(explicit(&["*"]), &[("a/1/model.wasm", "first")]).await;
    bench.write("a/1/model.wasm", "wait for the gate");
    bench.loads();
    let model = name("a");
    let mut load = std::pin::pin!(bench.repository.load(&model));
    let waited = tokio::time::timeout(Duration::from_millis(50), &mut load).await;
    assert!(waited.is_err(), "the gate is shut");
    until("the load begins", || !lock(&bench.fake.loads).is_empty()).await;
    assert_eq!((bench.serving("a"), bench.index()), ("first", vec!["a/1 READY".into()]));
    bench.fake.open_gate();
    assert_eq!(load.await, Ok(()));
    assert_eq!(bench.serving("a"), "other");
}

#[tokio::test]
async fn a_load_goes_on_when_its_caller_goes_away() {
    let bench = Bench::started(explicit(&[]), &[("a/1/model.wasm", "wait")]).await;
    let model = name("a");
    let called = tokio::time::timeout(Duration::from_millis(50), bench.repository.load(&model)).await;
    assert!(called.is_err(), "the gate is shut");
    until("the load begins", || bench.index() == ["a/1 LOADING"]).await;
    bench.fake.open_gate();
    until("the model is ready", || bench.index() == ["a/1 READY"]).await;
    bench.loads();
    assert_eq!(bench.repository.load(&model).await, Ok(()));
    assert_eq!(bench.loads(), [""; 0], "it is known to be loaded");
}

#[tokio::test]
async fn explicit_mode_loads_and_unloads_by_name() {
    let files = [("a/1/model.wasm", "first"), ("b/1/model.wasm", "first"), ("c/1/model.wasm", "bad")];
    let bench = Bench::started(explicit(&["b", "typo"]), &files).await;
    assert_eq!(bench.index(), ["a/- UNAVAILABLE", "b/1 READY", "c/- UNAVAILABLE"]);
    assert_eq!(bench.repository.load(&name("a")).await, Ok(()));
    assert_eq!(bench.serving("a"), "first");
    bench.loads();
    assert_eq!(bench.repository.load(&name("a")).await, Ok(()));
    assert_eq!(bench.loads(), [""; 0], "nothing has changed");

    let error = bench.repository.load(&name("c")).await.expect_err("bad");
    assert_eq!(error.to_string(), "load failed for model 'c': version 1: check: this artifact is bad");
    bench.loads();
    assert!(bench.repository.load(&name("c")).await.is_err());
    assert_eq!(bench.loads(), ["c/1"], "what failed is tried again");

    let held = bench.found("a", None).expect("ready");
    assert_eq!(bench.repository.unload(&name("a")).await, Ok(()));
    assert_eq!(bench.index()[0], "a/1 UNLOADING: unloaded");
    drop(held);
    assert_eq!(bench.index()[0], "a/1 UNAVAILABLE: unloaded");
    assert_eq!(bench.repository.unload(&name("a")).await, Ok(()));
    assert_eq!(bench.repository.load(&name("a")).await, Ok(()));
    assert_eq!(bench.index()[0], "a/1 READY");

    bench.write("later/1/model.wasm", "first");
    assert_eq!(bench.repository.load(&name("later")).await, Ok(()));
    bench.remove("later");
    let gone = bench.repository.load(&name("later")).await.expect_err("gone");
    assert_eq!(gone.to_string(), "failed to load 'later': there is no such model in the model repository");
    assert_eq!(bench.serving("later"), "first", "until it is unloaded");
    let unknown = bench.repository.unload(&name("nope")).await.expect_err("unknown");
    assert_eq!(unknown.to_string(), "failed to unload 'nope': there is no such model");
    assert!(lock(&bench.repository.shared.models).keys().all(|known| *known != name("nope")));
}

#[tokio::test]
async fn only_explicit_mode_takes_orders() {
    for mode in [ControlMode::None, poll()] {
        let bench = Bench::started(mode, &[("a/1/model.wasm", "first")]).await;
        assert_eq!(bench.repository.load(&name("a")).await, Err(RepositoryError::NotExplicit));
        assert_eq!(bench.repository.unload(&name("a")).await, Err(RepositoryError::NotExplicit));
        assert_eq!(bench.index(), ["a/1 READY"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_of_one_model_come_one_after_another() {
    let bench = Arc::new(Bench::started(explicit(&[]), &[("a/1/model.wasm", "first")]).await);
    let mut orders = JoinSet::new();
    for i in 0..40 {
        let bench = Arc::clone(&bench);
        orders.spawn(async move {
            let model = name("a");
            if i % 2 == 0 {
                bench.repository.load(&model).await
            } else {
                bench.repository.unload(&model).await
            }
        });
    }
    while let Some(order) = orders.join_next().await {
        assert_eq!(order.expect("no panic"), Ok(()));
    }
    assert_eq!(bench.fake.most_running.load(Ordering::SeqCst), 1);
    assert_eq!(bench.repository.load(&name("a")).await, Ok(()));
    assert_eq!(bench.index(), ["a/1 READY"]);
}

#[tokio::test]
async fn one_file_is_served_under_its_name() {
    let dir = tempfile::tempdir().expect("a folder");
    write(dir.path(), "text-clean.wasm", "first");
    write(dir.path(), "labels.txt", "not picked up");
    let fake = Arc::<Fake>::default();
    let path = dir.path().join("text-clean.wasm");
    let repository = open(RepositorySource::File(path.clone()), poll(), &fake).expect("opens");
    repository.start().await;
    let model =
        repository.catalog().find(&name("text-clean"), &namespaces::Wanted::default()).expect("ready");
    assert_eq!((model.version.as_str(), model.executor.platform()), ("1", "first"));
    assert_eq!(lock(&fake.loads)[0].files, []);
    fs::write(path, "second").expect("a file");
    repository.poll().await;
    repository.poll().await;
    let model =
        repository.catalog().find(&name("text-clean"), &namespaces::Wanted::default()).expect("ready");
    assert_eq!(model.executor.platform(), "second");
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().expect("a folder");
    let told = |file: &str| {
        let source = RepositorySource::File(dir.path().join(file));
        open(source, ControlMode::None, &Arc::default()).expect_err("to be refused").to_string()
    };
    write(dir.path(), "my model.wasm", "");
    write(dir.path(), "model.txt", "");
    fs::create_dir(dir.path().join("folder.wasm")).expect("a folder");
    assert!(told("my model.wasm").contains("use 1 to 64 of A-Z a-z 0-9 . _ -"));
    assert!(told("model.txt").ends_with("the file's name must end in .wasm or .onnx"));
    assert!(told("folder.wasm").ends_with("it is not a file"));
    assert!(told("nowhere.onnx").ends_with("it is not a file"));
    let folder = RepositorySource::Folder(dir.path().to_owned());
    let error = open(folder, explicit(&["a/b"]), &Arc::default()).expect_err("to be refused");
    assert!(matches!(error, RepositoryError::Initial(_)));
}
