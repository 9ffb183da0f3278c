//! What a gateway is started with: flags over environment over file over defaults.
//!
//! One struct is all three: clap reads flags and `AIRLOCK_…` variables into it, serde reads the file into it and refuses
//! keys it does not know.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::{
    execute::{Isolation, OnnxEngine},
    limits::Limits,
    listen::{Profile, Profiles, tls::TlsFiles},
    repository::artifacts::Location,
    store::{StoreError, StorePlace},
};

mod limit_settings;
mod port;
mod s3_settings;

pub use crate::limits::Span;
pub use limit_settings::LimitSettings;
pub use port::{Port, PortError};
pub use s3_settings::S3Options;

/// Everything that `airlock serve` can be told. What is not set keeps its default.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Serve this model alone, under its file name: NAME.wasm or NAME.onnx; wins over a folder
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Serve this folder of models: DIR/MODEL/VERSION/model.wasm or model.onnx
    #[arg(long, value_name = "DIR", env = "AIRLOCK_MODEL_REPOSITORY")]
    pub model_repository: Option<PathBuf>,

    /// When models are loaded: all at start (none), at every change (poll), or those asked for (explicit) [default: none]
    #[arg(long, value_name = "MODE", env = "AIRLOCK_MODEL_CONTROL_MODE")]
    pub model_control_mode: Option<ControlModeName>,

    /// Load this model at start in explicit mode; may be repeated, and `*` is every model
    #[arg(long, value_name = "MODEL", env = "AIRLOCK_LOAD_MODEL", value_delimiter = ',')]
    pub load_model: Option<Vec<String>>,

    /// Time between two looks at the repository in poll mode [default: 15s]
    #[arg(long, value_name = "TIME", env = "AIRLOCK_POLL_INTERVAL")]
    pub poll_interval: Option<Span>,

    /// Address of the HTTP port [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDR", env = "AIRLOCK_HTTP")]
    pub http: Option<SocketAddr>,

    /// Address of the gRPC port, or `off` [default: 127.0.0.1:8001]
    #[arg(long, value_name = "ADDR", env = "AIRLOCK_GRPC")]
    pub grpc: Option<Port>,

    /// Where servers of V2 differ, answer on the HTTP port as this one does; see docs/v2.md [default: airlock]
    #[arg(long, value_name = "SERVER", env = "AIRLOCK_HTTP_PROFILE")]
    pub http_profile: Option<Profile>,

    /// The same on the gRPC port [default: airlock]
    #[arg(long, value_name = "SERVER", env = "AIRLOCK_GRPC_PROFILE")]
    pub grpc_profile: Option<Profile>,

    /// Listen beyond loopback although there are no API keys: whoever reaches the port may use every model
    #[arg(long, env = "AIRLOCK_INSECURE", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub insecure: Option<bool>,

    /// Where tenants, their keys and their models are kept: a folder, or s3://BUCKET/PREFIX
    #[arg(long, value_name = "STORE", env = "AIRLOCK_STORE")]
    pub store: Option<Location>,

    /// What is kept on this machine only: secret, compiled code, usage, uploads on their way [default: `local` in the
    /// store's folder]
    #[arg(long, value_name = "DIR", env = "AIRLOCK_STATE")]
    pub state: Option<PathBuf>,

    /// Where the repository's ONNX models run: in the gateway's own process (none), in worker processes (process), or in the
    /// wasm sandbox (sandbox); a model's own configuration may say otherwise [default: none]
    #[arg(long, value_name = "WHERE", env = "AIRLOCK_ONNX_ISOLATION")]
    pub onnx_isolation: Option<Isolation>,

    /// The plugin that runs ONNX models in the wasm sandbox, as `cargo xtask onnx-plugin` builds it; without it there is no
    /// sandbox for them
    #[arg(long, value_name = "FILE", env = "AIRLOCK_ONNX_PLUGIN")]
    pub onnx_plugin: Option<PathBuf>,

    /// Where the ONNX models of tenants run: in worker processes, unless a model's own configuration says sandbox (process), or
    /// all of them in the wasm sandbox (sandbox) [default: process]
    #[arg(long, value_name = "WHERE", env = "AIRLOCK_TENANT_ONNX_ISOLATION")]
    pub tenant_onnx_isolation: Option<Isolation>,

    /// The library of ONNX Runtime (libonnxruntime.so, 1.20 or later): a second engine for ONNX models, which only worker
    /// processes load; without it all of them run on tract
    #[arg(long, value_name = "FILE", env = "AIRLOCK_ONNXRUNTIME")]
    pub onnxruntime: Option<PathBuf>,

    /// What runs the repository's ONNX models: tract, onnxruntime (always in worker processes), or whichever is measured to be
    /// faster when a model is loaded (fastest); a model's own configuration may say otherwise [default: tract]
    #[arg(long, value_name = "ENGINE", env = "AIRLOCK_ONNX_ENGINE")]
    pub onnx_engine: Option<OnnxEngine>,

    /// Whether the ONNX models of tenants may ask for onnxruntime or fastest; see SECURITY.md [default: false]
    #[arg(long, value_name = "BOOL", env = "AIRLOCK_TENANT_ONNXRUNTIME", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub tenant_onnxruntime: Option<bool>,

    /// Whether tenants may upload ONNX models [default: true]
    #[arg(long, value_name = "BOOL", env = "AIRLOCK_TENANT_ONNX", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub tenant_onnx: Option<bool>,

    /// Whether the repository's models serve every tenant; if not, only the tenant `default` [default: true]
    #[arg(long, value_name = "BOOL", env = "AIRLOCK_SHARED_MODELS", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub shared_models: Option<bool>,

    /// The gateway's secret; made if there is none [default: `secret` in that folder]
    #[arg(long, value_name = "FILE", env = "AIRLOCK_SECRET_FILE")]
    pub secret_file: Option<PathBuf>,

    /// Address of the admin port, for tenants and keys; only with a store [default: 127.0.0.1:8003]
    #[arg(long, value_name = "ADDR", env = "AIRLOCK_ADMIN")]
    pub admin: Option<SocketAddr>,

    /// Address of the metrics port, for Prometheus, or `off` [default: 127.0.0.1:8002]
    #[arg(long, value_name = "ADDR", env = "AIRLOCK_METRICS")]
    pub metrics: Option<Port>,

    /// Speak HTTPS: this file's certificates in PEM, the server's own first; renewed without a restart
    #[arg(long, value_name = "FILE", env = "AIRLOCK_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,

    /// The certificate's private key, in PEM
    #[arg(long, value_name = "FILE", env = "AIRLOCK_TLS_KEY")]
    pub tls_key: Option<PathBuf>,

    /// How JSON answers carry NaN and infinities: literal (as Triton does, Python clients read it) or null [default: literal]
    #[arg(long, value_name = "FORM", env = "AIRLOCK_NON_FINITE")]
    pub non_finite: Option<NonFiniteName>,

    /// After SIGTERM, go on accepting for this long while readiness is down already [default: 1s]
    #[arg(long, value_name = "TIME", env = "AIRLOCK_DRAIN_DELAY")]
    pub drain_delay: Option<Span>,

    #[command(flatten)]
    pub s3: S3Options,

    #[command(flatten)]
    pub limits: LimitSettings,
}

/// `--model-control-mode`, in Triton's words.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ControlModeName {
    #[default]
    None,
    Poll,
    Explicit,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NonFiniteName {
    #[default]
    Literal,
    Null,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}: {reason}", path.display())]
    Read { path: PathBuf, reason: String },
    #[error("the configuration file {} is not valid: {reason}", path.display())]
    Invalid { path: PathBuf, reason: String },
    #[error(
        "nothing to serve: name a model file, a folder of models with --model-repository DIR, or a store for uploads with --store DIR"
    )]
    NothingToServe,
    #[error("--load-model needs --model-control-mode explicit: the other modes load every model")]
    LoadModelNotExplicit,
    #[error(
        "{0} is not a loopback address and this gateway has no API keys: anybody could use it. \
         Listen on 127.0.0.1, or say --insecure if something in front of it decides who may call"
    )]
    NotLoopback(SocketAddr),
    #[error("{0}")]
    Limit(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("--tls-cert and --tls-key belong together: one of them is missing")]
    HalfTls,
    #[error(
        "ONNX models cannot run in the sandbox without the plugin that runs them: name its file with --onnx-plugin \
         (cargo xtask onnx-plugin builds it)"
    )]
    NoOnnxPlugin,
    #[error("--{0} needs the library of ONNX Runtime: name its file with --onnxruntime")]
    NoOnnxRuntime(&'static str),
    #[error(
        "--tenant-onnx-isolation: models of tenants do not run in the gateway's process: write process or sandbox"
    )]
    TenantOnnxInProcess,
}

impl Settings {
    /// Reads a configuration file: the same names as the flags, with `_` for `-`; limits in a table `[limits]`.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: path.into(), reason: error.to_string() })?;
        toml::from_str(&text)
            .map_err(|error| ConfigError::Invalid { path: path.into(), reason: error.to_string() })
    }

    /// These settings, with what they leave open taken from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        // What serves is one choice, made in one place: a flag's folder replaces a file's file.
        let chosen = self.file.is_some() || self.model_repository.is_some();
        let (file, model_repository) =
            if chosen { (self.file, self.model_repository) } else { (other.file, other.model_repository) };
        Self {
            file,
            model_repository,
            model_control_mode: self.model_control_mode.or(other.model_control_mode),
            load_model: self.load_model.or(other.load_model),
            poll_interval: self.poll_interval.or(other.poll_interval),
            http: self.http.or(other.http),
            grpc: self.grpc.or(other.grpc),
            http_profile: self.http_profile.or(other.http_profile),
            grpc_profile: self.grpc_profile.or(other.grpc_profile),
            insecure: self.insecure.or(other.insecure),
            admin: self.admin.or(other.admin),
            metrics: self.metrics.or(other.metrics),
            tls_cert: self.tls_cert.or(other.tls_cert),
            tls_key: self.tls_key.or(other.tls_key),
            store: self.store.or(other.store),
            state: self.state.or(other.state),
            secret_file: self.secret_file.or(other.secret_file),
            onnx_isolation: self.onnx_isolation.or(other.onnx_isolation),
            onnx_plugin: self.onnx_plugin.or(other.onnx_plugin),
            tenant_onnx_isolation: self.tenant_onnx_isolation.or(other.tenant_onnx_isolation),
            onnxruntime: self.onnxruntime.or(other.onnxruntime),
            onnx_engine: self.onnx_engine.or(other.onnx_engine),
            tenant_onnxruntime: self.tenant_onnxruntime.or(other.tenant_onnxruntime),
            tenant_onnx: self.tenant_onnx.or(other.tenant_onnx),
            shared_models: self.shared_models.or(other.shared_models),
            non_finite: self.non_finite.or(other.non_finite),
            drain_delay: self.drain_delay.or(other.drain_delay),
            s3: self.s3.or(other.s3),
            limits: self.limits.or(other.limits),
        }
    }
}

/// A complete configuration: checked, with every default in place.
#[derive(Clone, Debug)]
pub struct Config {
    pub source: crate::repository::RepositorySource,
    pub control_mode: crate::repository::ControlMode,
    /// The folder for what is this machine's own; without it there is no cache of compiled code.
    pub state: Option<PathBuf>,
    /// Where the gateway's secret is; by default in that folder.
    pub secret_file: Option<PathBuf>,
    /// The program that workers run; this one if none is named. For tests, whose own program is another.
    pub worker_program: Option<PathBuf>,
    pub http: SocketAddr,
    pub grpc: Port,
    pub profiles: Profiles,
    /// Opened only with a store.
    pub admin: SocketAddr,
    pub metrics: Port,
    pub insecure: bool,
    pub tls: Option<TlsFiles>,
    pub store: Option<StorePlace>,
    pub tenant_onnx: bool,
    pub shared_models: bool,
    /// Where ONNX models of the operator's own run, unless their configuration says otherwise.
    pub onnx_isolation: Isolation,
    /// The same for those of tenants; never in the gateway's process.
    pub tenant_onnx_isolation: Isolation,
    /// The plugin that runs ONNX models in the wasm sandbox.
    pub onnx_plugin: Option<PathBuf>,
    /// The library of ONNX Runtime; never loaded into this process.
    pub onnxruntime: Option<PathBuf>,
    /// What runs ONNX models of the operator's own, unless their configuration says otherwise.
    pub onnx_engine: OnnxEngine,
    /// Whether those of tenants may run on ONNX Runtime.
    pub tenant_onnxruntime: bool,
    pub non_finite: crate::reply::NonFinite,
    pub drain_delay: Duration,
    pub limits: Limits,
}

impl TryFrom<Settings> for Config {
    type Error = ConfigError;

    fn try_from(settings: Settings) -> Result<Self, ConfigError> {
        use crate::repository::{ControlMode, RepositorySource};
        let source = match (settings.file, settings.model_repository) {
            // A folder beside it may come from the environment, which a word on the command line overrides.
            (Some(file), _) => RepositorySource::File(file),
            (None, Some(folder)) => RepositorySource::Folder(folder),
            (None, None) if settings.store.is_some() => RepositorySource::None,
            (None, None) => return Err(ConfigError::NothingToServe),
        };
        let mode = settings.model_control_mode.unwrap_or_default();
        let initial = settings.load_model.unwrap_or_default();
        if mode != ControlModeName::Explicit && !initial.is_empty() {
            return Err(ConfigError::LoadModelNotExplicit);
        }
        let http = settings.http.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8000)));
        let grpc = settings.grpc.unwrap_or_else(|| Port::At(SocketAddr::from(([127, 0, 0, 1], 8001))));
        let insecure = settings.insecure.unwrap_or(false);
        let tls = match (settings.tls_cert, settings.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            _ => return Err(ConfigError::HalfTls),
        };
        let (state, secret_file) = (settings.state, settings.secret_file);
        let place = |store| StorePlace::new(&store, state.clone(), secret_file.clone());
        let store = settings.store.map(place).transpose()?.map(|place| place.with_s3(settings.s3.into()));
        let state = store.as_ref().map(|store| store.state.clone()).or(state);
        // With a store there may be keys: then the server looks again when it knows.
        let metrics = settings.metrics.unwrap_or_else(|| Port::At(SocketAddr::from(([127, 0, 0, 1], 8002))));
        let mut addresses = [Some(http), grpc.address(), metrics.address()].into_iter().flatten();
        if let Some(open) = addresses.find(|address| !address.ip().is_loopback())
            && !insecure
            && store.is_none()
        {
            return Err(ConfigError::NotLoopback(open));
        }
        let onnx_isolation = settings.onnx_isolation.unwrap_or_default();
        let tenant_onnx_isolation = settings.tenant_onnx_isolation.unwrap_or(Isolation::Process);
        if tenant_onnx_isolation == Isolation::None {
            return Err(ConfigError::TenantOnnxInProcess);
        }
        if [onnx_isolation, tenant_onnx_isolation].contains(&Isolation::Sandbox)
            && settings.onnx_plugin.is_none()
        {
            return Err(ConfigError::NoOnnxPlugin);
        }
        let onnx_engine = settings.onnx_engine.unwrap_or_default();
        let tenant_onnxruntime = settings.tenant_onnxruntime.unwrap_or(false);
        if settings.onnxruntime.is_none() && onnx_engine != OnnxEngine::Tract {
            return Err(ConfigError::NoOnnxRuntime("onnx-engine"));
        }
        if settings.onnxruntime.is_none() && tenant_onnxruntime {
            return Err(ConfigError::NoOnnxRuntime("tenant-onnxruntime"));
        }
        let limits = settings.limits.limits()?;
        Ok(Self {
            source,
            control_mode: match mode {
                ControlModeName::None => ControlMode::None,
                ControlModeName::Poll => ControlMode::Poll {
                    interval: settings.poll_interval.map_or(Duration::from_secs(15), |span| span.0),
                },
                ControlModeName::Explicit => ControlMode::Explicit { initial },
            },
            secret_file: secret_file.or_else(|| state.as_ref().map(|state| state.join("secret"))),
            state,
            worker_program: None,
            http,
            grpc,
            profiles: Profiles {
                http: settings.http_profile.unwrap_or_default(),
                grpc: settings.grpc_profile.unwrap_or_default(),
            },
            admin: settings.admin.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8003))),
            metrics,
            insecure,
            tls,
            store,
            tenant_onnx: settings.tenant_onnx.unwrap_or(true),
            shared_models: settings.shared_models.unwrap_or(true),
            onnx_isolation,
            tenant_onnx_isolation,
            onnx_plugin: settings.onnx_plugin,
            onnxruntime: settings.onnxruntime,
            onnx_engine,
            tenant_onnxruntime,
            non_finite: match settings.non_finite.unwrap_or_default() {
                NonFiniteName::Literal => crate::reply::NonFinite::Literal,
                NonFiniteName::Null => crate::reply::NonFinite::Null,
            },
            drain_delay: settings.drain_delay.map_or(Duration::from_secs(1), |span| span.0),
            limits,
        })
    }
}

impl LimitSettings {
    /// All limits: what is set, and the defaults for the rest.
    pub fn limits(&self) -> Result<Limits, ConfigError> {
        let mut limits = Limits::default();
        self.apply(&mut limits).map_err(ConfigError::Limit)?;
        check(&limits).map_err(ConfigError::Limit)?;
        Ok(limits)
    }
}

/// Refuses limits with which the gateway could not start, or would start and answer nobody.
fn check(limits: &Limits) -> Result<(), String> {
    const MANY: usize = 1 << 20;
    const THREADS: usize = 1024;
    let (listen, decode, admit) = (&limits.listen, &limits.decode, &limits.admit);
    let (sandbox, native, worker) = (&limits.sandbox, &limits.native, &limits.worker);
    let instances = sandbox.max_instances as usize;
    for (name, value, least, most) in [
        ("max-connections", listen.max_connections, 1, MANY),
        ("max-connections-per-address", listen.max_connections_per_address, 0, MANY),
        ("max-uri", listen.max_uri_bytes, 256, 64 << 10),
        ("max-headers", listen.max_headers, 1, MANY),
        ("max-header-size", listen.max_header_bytes, 256, MANY),
        ("max-streams", listen.max_streams as usize, 1, MANY),
        ("max-json-depth", decode.max_json_depth, 4, 100),
        ("max-inputs", decode.max_inputs, 1, MANY),
        ("max-rank", decode.max_rank, 1, 64),
        ("max-body", decode.max_body_bytes, 1, admit.max_buffered_bytes),
        ("max-running", admit.max_running, 1, MANY),
        ("max-queued", admit.max_queued, 0, MANY),
        ("tenant-burst", usize::try_from(limits.calls.burst).unwrap_or(usize::MAX), 1, MANY),
        ("guest-memory", sandbox.memory_bytes, 64 << 10, 4 << 30),
        ("guest-stack", sandbox.stack_bytes, 16 << 10, 64 << 20),
        ("guest-instances", instances, 1, 30_000),
        ("guest-threads", sandbox.threads, 0, THREADS),
        ("native-threads", native.threads, 0, THREADS),
        ("native-queued", native.max_queued, 0, MANY),
        ("native-plans", native.max_plans, 1, MANY),
        ("native-memory", native.worker_memory_bytes, 256 << 20, 1 << 40),
        ("native-workers", native.max_workers, 1, MANY),
        ("worker-memory", worker.memory_bytes, 256 << 20, 1 << 40),
        ("worker-file", worker.file_bytes, 1 << 20, 1 << 40),
        ("memory-no-loads", limits.memory.no_loads as usize, 0, 100),
        ("memory-no-queue", limits.memory.no_queue as usize, 0, 100),
        ("memory-no-calls", limits.memory.no_calls as usize, 0, 100),
        ("workers", worker.max_concurrent, 0, THREADS),
    ] {
        if !(least..=most).contains(&value) {
            return Err(format!("--{name}: {value} is not between {least} and {most}"));
        }
    }
    Ok(())
}

/// How a setting's text becomes a limit's value.
trait Setting<T> {
    fn limit(self) -> Result<T, String>;
}

impl<T> Setting<T> for T {
    fn limit(self) -> Result<T, String> {
        Ok(self)
    }
}

impl Setting<usize> for ByteSize {
    fn limit(self) -> Result<usize, String> {
        usize::try_from(self.as_u64()).map_err(|_| format!("{self} is more than this machine can address"))
    }
}

impl Setting<u64> for ByteSize {
    fn limit(self) -> Result<u64, String> {
        Ok(self.as_u64())
    }
}

impl Setting<Duration> for Span {
    fn limit(self) -> Result<Duration, String> {
        if self.0.is_zero() {
            Err("a time limit of zero would refuse everything".to_owned())
        } else {
            Ok(self.0)
        }
    }
}

#[cfg(test)]
mod tests;
