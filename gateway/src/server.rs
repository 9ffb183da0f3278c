//! Building a gateway from its configuration, starting it and stopping it: the only place that makes concrete types.

use std::{
    fs::{self, DirBuilder},
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::{JoinHandle, spawn_blocking},
};

use crate::{
    admin::{FollowKeys, Tenants},
    admit::Admission,
    authenticate::{Authenticator, Trust},
    config::{Config, Port},
    execute::{
        Isolation, LoadError, Reserved, Source, Step,
        native::{Engine, Engines, Isolated, tend_spare},
        wasm::{Cache, OnnxPlugin, Sandbox},
        worker::Workers,
    },
    free_memory::FreeMemory,
    infer::Gateway,
    limits::{Quotas, SandboxLimits},
    listen::{
        self, Door, Traffic,
        tls::{Tls, TlsError},
    },
    log_allowance::LogAllowance,
    memory_watch::MemoryWatch,
    meter::{
        Meter,
        ledger::{Ledger, LedgerError},
    },
    metrics::Metrics,
    quarantine::Quarantine,
    repository::{
        Kind, Loader, Origin, Repository, RepositoryError,
        artifacts::{FOLLOW_INTERVAL, Follow, Surveys},
        namespaces::Namespaces,
        uploads::Uploads,
    },
    response_cache::ResponseCache,
    secret::{self, Purpose, Secret, SecretError},
    store::{Store, StoreError, StorePlace},
};

/// Each text is whole: what it quotes is not its source as well, or whoever prints the chain would print that twice.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {reason}")]
    Listen { address: SocketAddr, reason: io::Error },
    #[error("the wasm sandbox cannot start: {0}")]
    Sandbox(LoadError),
    #[error("the state folder {} cannot be used: {reason}", path.display())]
    State { path: PathBuf, reason: io::Error },
    #[error("the native engine cannot start: {0}")]
    Engine(LoadError),
    #[error("the plugin for ONNX models {} cannot be used: {reason}", path.display())]
    OnnxPlugin { path: PathBuf, reason: io::Error },
    #[error("the library of ONNX Runtime {} cannot be used: {reason}", path.display())]
    OnnxRuntime { path: PathBuf, reason: String },
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(
        "{0} is not a loopback address and there is no API key yet: anybody could use this gateway. \
         Make a key first (airlock tenant create, airlock key create), or say --insecure"
    )]
    NotLoopback(SocketAddr),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Age from which an unfinished file in the store belongs to nobody.
const LEFTOVERS: Duration = Duration::from_secs(24 * 3600);

/// What still runs so long before the end of the grace period is ended, so that its client is told; a quarter of that period if
/// it is short.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Time for the last usage to be written, once the grace period is over.
const LAST_FLUSH: Duration = Duration::from_secs(2);

/// Threads that a gateway's runtime is to have for sockets: one for each core, and one that is kept [in
/// reserve](Server::keep_reserve) for when guests hold all others.
pub fn serving_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) + 1
}

/// A gateway that serves.
#[derive(Debug)]
pub struct Server {
    gateway: Arc<Gateway>,
    address: SocketAddr,
    stop: watch::Sender<Option<Instant>>,
    listener: JoinHandle<usize>,
    /// The gRPC port, if there is one.
    grpc: Option<(SocketAddr, JoinHandle<usize>)>,
    /// The admin port, with a store.
    admin: Option<(SocketAddr, JoinHandle<usize>)>,
    /// The metrics port, unless it is off.
    metrics: Option<(SocketAddr, JoinHandle<usize>)>,
    repository: JoinHandle<()>,
    /// Looks at the memory until the last request has ended.
    memory: JoinHandle<()>,
    /// Writes what is left when told to stop; none without a folder to write to.
    ledger: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// Binds the port, then loads the models; answers from the first moment, and is ready when the first load has ended.
pub async fn start(config: Config) -> Result<Server, StartError> {
    let (listener, address) = bind(config.http).await?;
    let grpc = match config.grpc {
        Port::Off => None,
        Port::At(address) => Some(bind(address).await?),
    };
    let admin = match &config.store {
        None => None,
        Some(_) => Some(bind(config.admin).await?),
    };
    let metrics = match config.metrics {
        Port::Off => None,
        Port::At(address) => Some(bind(address).await?),
    };

    let trust = if config.insecure { Trust::Network } else { Trust::Loopback };
    let tls = config.tls.clone().map(Tls::open).transpose()?;
    let store = config.store.as_ref().map(StorePlace::open).transpose()?;
    let secret = match &store {
        Some(store) => store.secret.clone(),
        None => secret_of(&config)?,
    };
    let memory = Arc::new(MemoryWatch::new(&config.limits.memory));
    let engines = engines(&config, &memory)?;
    let (loader, sandbox, log) = loader(&config, &secret, Arc::clone(&engines), Arc::clone(&memory))?;
    if let Some(path) = config.onnxruntime.clone() {
        let checked = spawn_blocking(move || engines.check_library()).await;
        let failed = "the check panicked".to_owned();
        checked
            .map_or(Err(failed), |checked| checked.map_err(|error| error.reason))
            .map_err(|reason| StartError::OnnxRuntime { path, reason })?;
    }
    let authenticator = Arc::new(Authenticator::new(trust, secret.key(Purpose::ApiKey)));
    let repository =
        Repository::new(config.source, config.control_mode, Arc::clone(&loader), &config.limits)?;
    let models = Arc::new(Namespaces::new(repository.catalog(), config.shared_models));
    let meter = Arc::<Meter>::default();
    let quotas = Arc::new(Quotas::new(&config.limits));
    let (mut follow, mut uploads, mut tenants) = (None, None, None);
    let ledger_folder = config.state.map(|state| state.join("ledger"));
    let ledger = ledger_folder.as_deref().map(|folder| keep_ledger(folder, &meter)).transpose()?;
    if let Some(Store { artifacts, state, .. }) = store {
        artifacts.self_test().await.map_err(StoreError::from)?;
        artifacts.remove_leftovers(LEFTOVERS).await.map_err(StoreError::from)?;
        tenants = Some(Tenants::new(Arc::clone(&artifacts), authenticator.pepper().clone()));
        // Before the first request: whether there are keys decides who may send one, and whose models hide which.
        let (looks, surveys) = Follow::begin(Arc::clone(&artifacts)).await.map_err(StoreError::from)?;
        let survey = Arc::clone(&surveys.borrow());
        let (artifacts_of_keys, authenticator) = (Arc::clone(&artifacts), Arc::clone(&authenticator));
        let mut keys = FollowKeys::new(artifacts_of_keys, authenticator, Arc::clone(&quotas));
        keys.learn(&survey).await.map_err(StoreError::from)?;
        let (models, quotas, staging) = (Arc::clone(&models), Arc::clone(&quotas), state.join("staging"));
        let own = Uploads::new(artifacts, models, loader, staging.clone(), &config.limits, quotas)
            .map_err(|reason| StartError::State { path: staging, reason })?;
        own.learn(&survey).await;
        follow = Some((looks, keys, surveys));
        uploads = Some(Arc::new(own));
    }
    let ports = [
        Some(address),
        grpc.as_ref().map(|(_, address)| *address),
        metrics.as_ref().map(|(_, address)| *address),
    ];
    let mut open = ports.into_iter().flatten().filter(|address| !address.ip().is_loopback());
    if let Some(address) = open.next()
        && !config.insecure
        && !authenticator.requires_keys()
    {
        return Err(StartError::NotLoopback(address));
    }
    let gateway = Arc::new(Gateway {
        authenticator,
        non_finite: config.non_finite,
        profiles: config.profiles,
        quarantine: Quarantine::new(&config.limits.quarantine),
        responses: ResponseCache::new(config.limits.admit.response_cache_bytes),
        admission: Admission::new(&config.limits, Arc::clone(&memory)),
        repository: Arc::new(repository),
        uploads,
        models,
        meter,
        traffic: Traffic::default(),
        metrics: Metrics::default(),
        sandbox,
        log,
        tenants,
        ledger: ledger_folder,
        limits: config.limits,
        quotas,
        started: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        interrupt: watch::Sender::new(false),
        memory,
    });

    let (stop, stopped) = watch::channel(None);
    let log = Arc::clone(&gateway.log);
    let until = told_to_stop(stopped.clone());
    tokio::spawn(async move {
        tokio::select! { () = log.keep_reporting() => (), () = until => () }
    });
    let memory = Arc::clone(&gateway.memory);
    let mut free = FreeMemory::default();
    let tend = move |memory_is_short| {
        tend_spare(memory_is_short);
        free.look(memory_is_short);
    };
    let memory = tokio::spawn(async move { memory.keep_looking(tend).await });
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!("listening on {scheme}://{address}");
    if let Some(tls) = &tls {
        tokio::spawn(Arc::clone(tls).follow(stopped.clone()));
    }
    let surveys = follow.map(|(looks, keys, surveys)| {
        tokio::spawn(looks.run(FOLLOW_INTERVAL, told_to_stop(stopped.clone())));
        tokio::spawn(keys.run(surveys.clone()));
        surveys
    });
    let repository = tokio::spawn(keep_loaded(Arc::clone(&gateway), surveys, stopped.clone()));
    let serve = |listener, door, tls, stopped| {
        tokio::spawn(listen::serve(listener, door, tls, Arc::clone(&gateway), stopped))
    };
    let grpc = grpc.map(|(listener, address)| {
        tracing::info!("gRPC on {scheme}://{address}");
        (address, serve(listener, Door::Grpc, tls.clone(), stopped.clone()))
    });
    let admin = admin.map(|(listener, address)| {
        tracing::info!("admin port on {scheme}://{address}");
        (address, serve(listener, Door::Admin, tls.clone(), stopped.clone()))
    });
    let metrics = metrics.map(|(listener, address)| {
        tracing::info!("metrics on {scheme}://{address}/metrics");
        (address, serve(listener, Door::Metrics, tls.clone(), stopped.clone()))
    });
    let listener = serve(listener, Door::Data, tls, stopped);
    Ok(Server { gateway, address, stop, listener, grpc, admin, metrics, repository, memory, ledger })
}

/// The secret of a gateway without a store: it has no keys to check, at most compiled code to recognise.
fn secret_of(config: &Config) -> Result<Secret, StartError> {
    let (Some(state), Some(file)) = (&config.state, &config.secret_file) else {
        return Ok(Secret::from_bytes(secret::random()?));
    };
    let failed = |reason| StartError::State { path: state.clone(), reason };
    DirBuilder::new().mode(0o700).recursive(true).create(state).map_err(failed)?;
    Ok(Secret::open_or_create(file)?)
}

/// What makes executors of artifacts: workers prepare them, the engines of this process run them. And what models may say
/// in the log while they do.
fn loader(
    config: &Config,
    secret: &Secret,
    engines: Arc<Engines>,
    memory: Arc<MemoryWatch>,
) -> Result<(Loader, Arc<Sandbox>, Arc<LogAllowance>), StartError> {
    let limits = &config.limits;
    let cache = config.state.as_ref().map(|state| {
        let folder = state.join("cache");
        Cache::open(folder.clone(), secret.key(Purpose::CompiledCode), limits.worker.cache_bytes)
            .map_err(|reason| StartError::State { path: folder, reason })
    });
    let folder = config.state.as_ref().map(|state| state.join("workers"));
    let workers = Workers::new(limits.worker.clone(), config.worker_program.clone(), folder)
        .map_err(StartError::Sandbox)?;
    let mut of_guests = limits.sandbox.clone();
    if of_guests.warm_bytes == 0 {
        of_guests.warm_bytes = SandboxLimits::warm_of(memory.bytes());
    }
    let sandbox =
        Sandbox::new(of_guests, Arc::clone(&workers), cache.transpose()?).map_err(StartError::Sandbox)?;
    let plugin = config.onnx_plugin.as_ref().map(|path| {
        OnnxPlugin::read(path).map_err(|reason| StartError::OnnxPlugin { path: path.clone(), reason })
    });
    let plugin = plugin.transpose()?;
    let (limits, config) = (limits.clone(), config.clone());
    let (log, engine_of_guests) = (Arc::clone(workers.log()), Arc::clone(&sandbox));
    let loader: Loader = Arc::new(move |kind, origin, mut source| {
        if memory.no_loads() {
            return Err(LoadError::transient(Step::Read, "the gateway is short of memory"));
        }
        let isolation = isolation(&config, kind, &origin, &source)?;
        let sandboxed = isolation == Isolation::Sandbox;
        let output_bytes = if sandboxed { limits.sandbox.output_bytes } else { limits.native.output_bytes };
        let own = source.limits.check(&limits, output_bytes);
        own.map_err(|reason| LoadError::new(Step::Read, reason))?;
        if let Origin::Tenant(quota) = &origin {
            source.limits = source.limits.within_quota(quota, sandboxed);
        }
        if source.batching.is_some() && (kind, isolation) != (Kind::Onnx, Isolation::None) {
            tracing::info!(
                model = source.label,
                "dynamic_batching makes no difference: it is for ONNX models in the gateway's own process"
            );
        }
        match (kind, isolation) {
            (Kind::Wasm, _) => sandbox.load(source),
            (Kind::Onnx, Isolation::None | Isolation::Process) => engines.load(source, isolation),
            (Kind::Onnx, Isolation::Sandbox) => match &plugin {
                Some(plugin) => {
                    engines.choose(&source, isolation)?;
                    plugin.load(&sandbox, source)
                }
                None => Err(LoadError::new(
                    Step::Read,
                    "onnx_isolation: this gateway has no sandbox for ONNX models: its operator starts it with --onnx-plugin, or \
                     write process",
                )),
            },
        }
    });
    Ok((loader, engine_of_guests, log))
}

/// What runs ONNX models outside the sandbox.
fn engines(config: &Config, memory: &Arc<MemoryWatch>) -> Result<Arc<Engines>, StartError> {
    let limits = &config.limits;
    let engine = Engine::new(limits.native.clone()).map_err(StartError::Engine)?;
    // JSON may say in two bytes what takes eight.
    let input_bytes = limits.decode.max_body_bytes.saturating_mul(4);
    let program = config.worker_program.clone();
    let isolated =
        Isolated::new(limits.native.clone(), program, input_bytes, &limits.worker, Arc::clone(memory));
    let library = config.onnxruntime.as_deref().map(library).transpose()?;
    let (default, for_tenants) = (config.onnx_engine, config.tenant_onnxruntime);
    Ok(Arc::new(Engines::new(engine, isolated, library, default, for_tenants)))
}

/// Where the library is, for workers, whose working folder is another. It is not opened here.
fn library(path: &Path) -> Result<PathBuf, StartError> {
    let failed = |reason: String| StartError::OnnxRuntime { path: path.into(), reason };
    let metadata = fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if !metadata.is_file() {
        return Err(failed("it is not a file".into()));
    }
    std::path::absolute(path).map_err(|error| failed(error.to_string()))
}

/// Where a model is to run: its configuration says, else the gateway's.
fn isolation(config: &Config, kind: Kind, origin: &Origin, source: &Source) -> Result<Isolation, LoadError> {
    match (kind, origin) {
        (Kind::Wasm, _) => Ok(Isolation::Sandbox),
        (Kind::Onnx, Origin::Operator) => Ok(source.isolation.unwrap_or(config.onnx_isolation)),
        (Kind::Onnx, Origin::Tenant(_)) if !config.tenant_onnx => Err(LoadError::new(
            Step::Check,
            "this gateway takes no ONNX models from tenants (setting: tenant_onnx): upload a wasm plugin",
        )),
        // A tenant may want more walls around its model than the operator, and not fewer.
        (Kind::Onnx, Origin::Tenant(_)) if config.tenant_onnx_isolation == Isolation::Sandbox => {
            match source.isolation {
                Some(Isolation::Process | Isolation::None) => Err(LoadError::new(
                    Step::Read,
                    "onnx_isolation: on this gateway uploaded ONNX models run in the sandbox: write sandbox, or leave it out",
                )),
                _ => Ok(Isolation::Sandbox),
            }
        }
        (Kind::Onnx, Origin::Tenant(_)) if source.isolation == Some(Isolation::None) => Err(LoadError::new(
            Step::Read,
            "onnx_isolation: uploaded ONNX models do not run in the gateway's process: write process or sandbox, or leave it out",
        )),
        (Kind::Onnx, Origin::Tenant(_)) => Ok(source.isolation.unwrap_or(Isolation::Process)),
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |reason| StartError::Listen { address, reason };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn keep_ledger(
    folder: &Path,
    meter: &Arc<Meter>,
) -> Result<(oneshot::Sender<()>, JoinHandle<()>), LedgerError> {
    let ledger = Ledger::open(folder)?;
    let (stop, stopped) = oneshot::channel();
    Ok((stop, tokio::spawn(ledger.keep(Arc::clone(meter), stopped))))
}

async fn told_to_stop(mut stopped: listen::Stop) {
    let _ = stopped.wait_for(Option::is_some).await;
}

async fn keep_loaded(gateway: Arc<Gateway>, surveys: Option<Surveys>, stopped: listen::Stop) {
    gateway.repository.start().await;
    if let (Some(uploads), Some(surveys)) = (&gateway.uploads, surveys) {
        let survey = Arc::clone(&surveys.borrow());
        uploads.load_all(&survey).await;
        tokio::spawn(Arc::clone(uploads).run(surveys));
        tokio::spawn(Arc::clone(uploads).keep_swept(told_to_stop(stopped.clone())));
    }
    gateway.started.store(true, Ordering::Relaxed);
    tracing::info!(models = gateway.models.ready(), "ready");
    gateway.repository.run(told_to_stop(stopped)).await;
}

impl Server {
    /// Takes a thread of the current runtime into reserve for as long as the returned value lives: see [`serving_threads`]. Not
    /// for a runtime that has a single thread.
    pub fn keep_reserve(&self) -> Reserved {
        self.gateway.sandbox.keep_reserve()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.grpc.as_ref().map(|(address, _)| *address)
    }

    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|(address, _)| *address)
    }

    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(|(address, _)| *address)
    }

    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Returns when the gateway no longer accepts connections although nobody told it to stop.
    pub async fn ended(&mut self) {
        let grpc = async {
            match &mut self.grpc {
                Some((_, listener)) => drop(listener.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = &mut self.listener => (),
            () = grpc => (),
        }
    }

    /// Stops: readiness goes down, connections are still accepted for `drain_delay`, then running requests finish, and those
    /// that take too long are ended in time to be told so. All of that within the grace period; then what they used is written to the ledger, for which there are two seconds.
    /// Returns how many connections had to be cut.
    pub async fn stop(self, drain_delay: Duration) -> usize {
        let grace = self.gateway.limits.listen.grace_period;
        let end = Instant::now() + grace;
        let gateway = Arc::clone(&self.gateway);
        let interrupt = tokio::spawn(async move {
            tokio::time::sleep(grace - LAST_ANSWERS.min(grace / 4)).await;
            gateway.interrupt.send_replace(true);
        });
        self.gateway.draining.store(true, Ordering::Relaxed);
        tracing::info!(drain_delay_ms = drain_delay.as_millis(), "stopping: readiness is down");
        tokio::time::sleep(drain_delay.min(grace)).await;
        self.stop.send_replace(Some(end));
        let mut cut = self.listener.await.unwrap_or(0);
        for (_, port) in [self.grpc, self.admin, self.metrics].into_iter().flatten() {
            cut += port.await.unwrap_or(0);
        }
        interrupt.abort();
        self.memory.abort();
        self.gateway.log.report();
        // A load that still runs publishes nothing that anybody could call.
        self.repository.abort();
        if let Some((stop, ledger)) = self.ledger {
            let last = Instant::now() + LAST_FLUSH;
            settled(&self.gateway.meter, last - LAST_FLUSH / 2).await;
            drop(stop);
            if tokio::time::timeout_at(last.into(), ledger).await.is_err() {
                tracing::error!("the ledger could not be written in time; the last usage is missing in it");
            }
        }
        cut
    }
}

/// Waits until the last request is noted: those of connections that were cut, and guests until their next tick.
async fn settled(meter: &Meter, latest: Instant) {
    while !meter.settled() {
        if Instant::now() > latest {
            tracing::warn!("requests that would not end in time are missing in the ledger");
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
