//! A gateway of the test's own: the real server on a port that the kernel picks, over a repository in a folder of its own.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use airlock::{
    authenticate::Authenticator,
    config::{Config, Port, Settings},
    execute::worker::Workers,
    limits::WorkerLimits,
    meter::Meter,
    repository::uploads::Uploads,
    server::{self, Server},
};
use tempfile::TempDir;

/// A model repository in a temporary folder, in Triton's layout.
#[derive(Debug)]
pub struct Repository(TempDir);

impl Default for Repository {
    fn default() -> Self {
        Self(TempDir::new().expect("a temporary folder"))
    }
}

impl Repository {
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Adds `model/version/file`.
    #[must_use]
    pub fn with(self, model: &str, version: &str, file: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.put(model, version, file, bytes);
        self
    }

    /// Adds a file beside the versions: `model/file`.
    #[must_use]
    pub fn with_config(self, model: &str, file: &str, text: &str) -> Self {
        let folder = self.path().join(model);
        fs::create_dir_all(&folder).expect("a writable folder");
        fs::write(folder.join(file), text).expect("a writable folder");
        self
    }

    pub fn put(&self, model: &str, version: &str, file: &str, bytes: impl AsRef<[u8]>) {
        let folder = self.path().join(model).join(version);
        fs::create_dir_all(&folder).expect("a writable folder");
        fs::write(folder.join(file), bytes).expect("a writable folder");
    }
}

/// A gateway in this process, ready to be called.
#[derive(Debug)]
pub struct Gateway {
    server: Server,
    /// Kept for as long as the gateway may read from it.
    _repository: Option<Repository>,
}

impl Gateway {
    /// Serves a repository with default settings.
    pub async fn serve(repository: Repository) -> Self {
        Self::serve_with(repository, |_| ()).await
    }

    /// Serves a repository with settings of the test's choice.
    pub async fn serve_with(repository: Repository, set: impl FnOnce(&mut Settings)) -> Self {
        let mut settings =
            Settings { model_repository: Some(repository.path().into()), ..Settings::default() };
        set(&mut settings);
        Self::serve_with_worker(repository, settings, binary()).await
    }

    /// The same, with a program of the test's choice as the worker.
    pub async fn serve_with_worker(repository: Repository, settings: Settings, program: PathBuf) -> Self {
        let mut gateway = Self::start(settings, program).await;
        gateway._repository = Some(repository);
        gateway
    }

    /// Serves a repository without waiting until anything of it is loaded.
    pub async fn serve_unready(repository: Repository, set: impl FnOnce(&mut Settings)) -> Self {
        let mut settings =
            Settings { model_repository: Some(repository.path().into()), ..Settings::default() };
        set(&mut settings);
        let mut gateway = Self::begin(settings, binary()).await;
        gateway._repository = Some(repository);
        gateway
    }

    async fn begin(mut settings: Settings, program: PathBuf) -> Self {
        settings.http = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        settings.grpc = settings.http.map(Port::At);
        settings.admin = settings.http;
        settings.metrics = Some(Port::At(SocketAddr::from(([127, 0, 0, 1], 0))));
        let mut config = Config::try_from(settings).expect("a valid configuration");
        config.worker_program = Some(program);
        let server = server::start(config).await.expect("the gateway starts");
        Self { server, _repository: None }
    }

    async fn start(settings: Settings, program: PathBuf) -> Self {
        let gateway = Self::begin(settings, program).await;
        // Loading compiles wasm; a machine with both cores busy takes its time.
        for _ in 0..6000 {
            if gateway.server.gateway().ready().is_ok() {
                return gateway;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the gateway is not ready after two minutes");
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn grpc_address(&self) -> SocketAddr {
        self.server.grpc_address().expect("it is not off")
    }

    /// The admin port of a gateway with a store.
    pub fn admin_address(&self) -> SocketAddr {
        self.server.admin_address().expect("a store")
    }

    pub fn metrics_address(&self) -> SocketAddr {
        self.server.metrics_address().expect("a metrics port")
    }

    /// Where a test puts keys; without any, everybody is the tenant `default`.
    pub fn authenticator(&self) -> &Authenticator {
        &self.server.gateway().authenticator
    }

    pub fn uploads(&self) -> Option<&Arc<Uploads>> {
        self.server.gateway().uploads.as_ref()
    }

    pub fn meter(&self) -> &Arc<Meter> {
        &self.server.gateway().meter
    }

    /// Lets it answer as at its end, although it goes on.
    pub fn drain(&self) {
        self.server.gateway().draining.store(true, Ordering::Relaxed);
    }

    pub async fn stop(self, drain_delay: Duration) -> usize {
        self.server.stop(drain_delay).await
    }
}

/// Where the example models are laid out.
pub fn examples() -> std::path::PathBuf {
    target().join("models")
}

/// The folder that cargo builds into: the one that holds this test's own binary.
pub fn target() -> std::path::PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    // target/PROFILE/deps/it-HASH
    test.ancestors().nth(3).expect("cargo's layout").to_owned()
}

/// Workers that run the `airlock` binary of the same build, with default limits.
pub fn workers() -> Arc<Workers> {
    Workers::new(WorkerLimits::default(), Some(binary()), None).expect("a folder for temporary files")
}

/// The `airlock` binary of the same build.
pub fn binary() -> std::path::PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let binary = test.ancestors().nth(2).expect("cargo's layout").join("airlock");
    assert!(binary.is_file(), "the airlock binary is missing: run `cargo build --workspace`");
    binary
}

/// The plugin for ONNX models, which is built by a task of its own.
pub fn onnx_plugin() -> PathBuf {
    let plugin = binary().ancestors().nth(2).expect("cargo's layout").join("onnx-plugin.wasm");
    assert!(plugin.is_file(), "the plugin for ONNX models is missing: run `cargo xtask onnx-plugin`");
    plugin
}
