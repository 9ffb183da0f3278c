use crate::{
    execute::{BoxFuture, Call, ExecuteError},
    limits::ModelLimits,
    tensor::{InferRequest, InferResponse, Signature},
};

use super::*;

#[derive(Debug)]
struct Silent(Signature);

impl Executor for Silent {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn loaded_bytes(&self) -> u64 {
        1
    }

    fn platform(&self) -> &'static str {
        "test"
    }

    fn infer(&self, _: InferRequest, _: Call) -> BoxFuture<'_, Result<InferResponse, ExecuteError>> {
        Box::pin(async { Err(ExecuteError::Busy) })
    }
}

fn name() -> ModelName {
    "iris".parse().expect("a name")
}

fn version(text: &str) -> Version {
    text.parse().expect("a version")
}

fn model(text: &str) -> Model {
    let executor = Arc::new(Silent(Signature::default()));
    Model {
        namespace: Namespace::Shared,
        name: name(),
        version: version(text),
        executor,
        content: Digest::of(b""),
        max_batch_size: None,
        response_cache: false,
        version_policy: VersionPolicy::All,
        classes: Classes::default(),
        limits: ModelLimits::default(),
        queue: Queue::default(),
    }
}

fn catalog(versions: &[&str]) -> Catalog {
    let catalog = Catalog::new();
    versions.iter().for_each(|text| catalog.publish(model(text)));
    catalog
}

fn found(catalog: &Catalog, text: Option<&str>) -> Result<String, String> {
    let version = text.map(version);
    let found = catalog.find(&name(), &Wanted::new(version.as_ref(), None));
    found.map(|model| model.version.to_string()).map_err(|error| error.to_string())
}

fn told(catalog: &Catalog, text: Option<&str>) -> String {
    found(catalog, text).expect_err("not to be found")
}

fn index(catalog: &Catalog) -> Vec<String> {
    let line = |entry: IndexEntry| {
        let version = entry.version.map_or_else(|| "-".into(), |version| version.to_string());
        format!("{}/{version} {} {}", entry.name, entry.state, entry.reason.unwrap_or_default())
    };
    catalog.index().into_iter().map(|entry| line(entry).trim_end().to_owned()).collect()
}

#[test]
fn without_a_version_the_greatest_ready_one_is_found() {
    let catalog = catalog(&["9", "10", "beta"]);
    assert_eq!(found(&catalog, None), Ok("10".into()));
    assert_eq!(found(&catalog, Some("9")), Ok("9".into()));
    catalog.loading(&name(), &version("11"));
    assert_eq!(found(&catalog, None), Ok("10".into()));
    assert_eq!(catalog.versions(&name()), ["beta", "9", "10"].map(version));
}

#[test]
fn what_cannot_be_found_is_told_apart() {
    let catalog = Catalog::new();
    assert_eq!(told(&catalog, None), "Request for unknown model: 'iris' is not found");
    assert_eq!(catalog.state(&name(), None), None);
    catalog.list(&name());
    assert_eq!(told(&catalog, None), "model 'iris' is not ready: it is not loaded");
    assert_eq!(told(&catalog, Some("1")), "model 'iris' is not ready: it is not loaded");
    catalog.problem(&name(), Some("config.pbtxt is faulty"));
    assert_eq!(told(&catalog, Some("1")), "model 'iris' is not ready: config.pbtxt is faulty");
    catalog.problem(&name(), None);
    catalog.loading(&name(), &version("1"));
    assert_eq!(told(&catalog, None), "model 'iris' version 1 is not ready: it is loading");
    assert_eq!(told(&catalog, Some("2")), "Request for unknown model: 'iris' version 2 is not found");
    catalog.failed(&name(), &version("1"), "check: no");
    assert_eq!(told(&catalog, Some("1")), "model 'iris' version 1 is not ready: check: no");
    assert_eq!(catalog.state(&name(), Some(&version("2"))), None);
}

#[test]
fn a_ready_version_serves_on_while_its_reload_runs_and_when_it_fails() {
    let catalog = catalog(&["1"]);
    let before = catalog.find(&name(), &Wanted::default()).expect("ready");
    catalog.loading(&name(), &version("1"));
    assert_eq!(index(&catalog), ["iris/1 READY"]);
    catalog.failed(&name(), &version("1"), "compile: no");
    assert_eq!(index(&catalog), ["iris/1 READY compile: no"]);
    assert!(Arc::ptr_eq(&before, &catalog.find(&name(), &Wanted::default()).expect("ready")));
    catalog.publish(model("1"));
    assert_eq!(index(&catalog), ["iris/1 READY"]);
    assert!(!Arc::ptr_eq(&before, &catalog.find(&name(), &Wanted::default()).expect("ready")));
}

#[test]
fn an_unloaded_version_is_unloading_while_a_request_holds_it() {
    let catalog = catalog(&["1"]);
    let held = catalog.find(&name(), &Wanted::default()).expect("ready");
    catalog.unload(&name());
    assert_eq!(index(&catalog), ["iris/1 UNLOADING unloaded"]);
    assert_eq!(catalog.state(&name(), None), Some(State::Unloading));
    assert_eq!(told(&catalog, Some("1")), "model 'iris' version 1 is not ready: unloaded");
    drop(held);
    assert_eq!(index(&catalog), ["iris/1 UNAVAILABLE unloaded"]);
}

#[test]
fn the_index_lists_models_without_versions() {
    let catalog = catalog(&["2", "10"]);
    catalog.list(&"empty".parse().expect("a name"));
    catalog.problem(&name(), Some("model.toml is faulty"));
    assert_eq!(
        index(&catalog),
        ["empty/- UNAVAILABLE", "iris/2 READY model.toml is faulty", "iris/10 READY model.toml is faulty"]
    );
    catalog.retain(&name(), &BTreeSet::new());
    assert_eq!(index(&catalog)[1], "iris/- UNAVAILABLE model.toml is faulty");
    catalog.remove(&name());
    assert_eq!(index(&catalog), ["empty/- UNAVAILABLE"]);
}

#[test]
fn the_most_useful_state_of_any_version_is_the_models() {
    let catalog = Catalog::new();
    let mut states = vec![];
    catalog.failed(&name(), &version("1"), "no");
    states.push(catalog.state(&name(), None));
    catalog.loading(&name(), &version("2"));
    states.push(catalog.state(&name(), None));
    catalog.publish(model("3"));
    states.push(catalog.state(&name(), None));
    assert_eq!(states, [Some(State::Unavailable), Some(State::Loading), Some(State::Ready)]);
    assert_eq!(catalog.state(&name(), Some(&version("1"))), Some(State::Unavailable));
}

#[test]
fn concurrent_changes_are_all_kept() {
    let catalog = catalog(&[]);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let catalog = &catalog;
            scope.spawn(move || {
                (1..=50).for_each(|i| catalog.publish(model(&format!("{}", thread * 50 + i))))
            });
        }
    });
    assert_eq!(catalog.versions(&name()).len(), 200);
    assert_eq!(found(&catalog, None), Ok("200".into()));
}
