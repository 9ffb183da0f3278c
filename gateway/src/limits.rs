//! What a request, a model, a tenant and the gateway itself may use. Every figure has a flag, a key in the configuration file
//! and an environment variable, see `config.rs`; the defaults stand here. What an operator sets for one tenant is
//! [`TenantLimits`], and what comes of that [`Quotas`].

mod model;
mod quotas;
mod tenant;
mod values;

use std::time::Duration;

pub use model::ModelLimits;
pub use quotas::Quotas;
use serde::{Deserialize, Serialize};
pub use tenant::{Quota, TenantLimits};
pub use values::{Rate, Size, Span};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Bounds on peers and their bytes, applied while listening.
#[derive(Clone, Debug)]
pub struct ListenLimits {
    pub max_connections: usize,
    /// Connections of one address, or of one IPv6 network (/64); 0 is no limit but `max_connections`.
    pub max_connections_per_address: usize,
    /// Time for the handshake of a TLS connection.
    pub handshake_timeout: Duration,
    /// Time for a request's header block, and for a connection to be without a request.
    pub header_timeout: Duration,
    /// Time within which the next piece of a request's body has to arrive.
    pub body_idle_timeout: Duration,
    /// Time for a whole request body.
    pub body_timeout: Duration,
    /// Bytes within a second, on average, that a request's body has to arrive with; counted from `body_idle_timeout` on.
    pub min_body_rate: usize,
    /// Time within which the next request of a gRPC stream has to begin.
    pub stream_idle_timeout: Duration,
    /// Time for a client to read an answer.
    pub send_timeout: Duration,
    /// Time for a client to read one response of a stream. It is nobody's time to compute: the run waits.
    pub stream_send_timeout: Duration,
    /// How long the run of a stream may wait for its client, for all responses together.
    pub stream_wait: Duration,
    /// Bytes of a request's path and query.
    pub max_uri_bytes: usize,
    pub max_headers: usize,
    pub max_header_bytes: usize,
    pub max_streams: u32,
    /// How long the whole stop may take, from the signal to the end of the last running request.
    pub grace_period: Duration,
}

impl Default for ListenLimits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_connections_per_address: 1024,
            handshake_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(30),
            body_idle_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            min_body_rate: 16 * KIB,
            stream_idle_timeout: Duration::from_secs(300),
            send_timeout: Duration::from_secs(60),
            stream_send_timeout: Duration::from_secs(30),
            stream_wait: Duration::from_secs(300),
            max_uri_bytes: 2 * KIB,
            max_headers: 64,
            max_header_bytes: 16 * KIB,
            max_streams: 64,
            grace_period: Duration::from_secs(30),
        }
    }
}

/// Bounds on what one request may say.
#[derive(Clone, Debug)]
pub struct DecodeLimits {
    /// Bytes of a request body, as sent and also after decompression. Triton's default is the same.
    pub max_body_bytes: usize,
    /// Nesting of arrays and objects.
    pub max_json_depth: usize,
    pub max_inputs: usize,
    pub max_outputs: usize,
    pub max_rank: usize,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { max_body_bytes: 64 * MIB, max_json_depth: 32, max_inputs: 64, max_outputs: 64, max_rank: 16 }
    }
}

/// Bounds on how many requests run and wait at a time.
#[derive(Clone, Debug)]
pub struct AdmitLimits {
    pub max_running: usize,
    pub max_queued: usize,
    /// Sum of the requests and answers that are held in memory at a time, in bytes.
    pub max_buffered_bytes: usize,
    /// Bytes of responses that are kept for models that ask for it; 0: none.
    pub response_cache_bytes: usize,
    /// Time a request may take from its body's last byte to its answer; its `timeout` parameter may shorten it.
    pub deadline: Duration,
}

impl Default for AdmitLimits {
    fn default() -> Self {
        Self {
            max_running: 128,
            max_queued: 1024,
            max_buffered_bytes: 1024 * MIB,
            response_cache_bytes: 64 * MIB,
            deadline: Duration::from_secs(2),
        }
    }
}

/// Bounds on the calls of one tenant, but of the tenant `default`.
#[derive(Clone, Debug)]
pub struct CallLimits {
    /// Requests within a second, on average.
    pub rate: Rate,
    /// Requests that may come at once before the rate counts.
    pub burst: u64,
    /// Requests that run at a time; 0 is no limit but the gateway's.
    pub running: u64,
    /// Requests that wait for one of these places.
    pub queued: u64,
    /// Answers within a second for which no model ran, before further ones are held back.
    pub refusals: Rate,
}

impl Default for CallLimits {
    fn default() -> Self {
        let (rate, refusals) = (Rate::per_second(50), Rate::per_second(5000));
        Self { rate, burst: 100, running: 4, queued: 32, refusals }
    }
}

/// Bounds on one instance of a wasm model, and on all of them together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxLimits {
    /// Bytes of linear memory of one request, over all memories of the component.
    pub memory_bytes: usize,
    /// Elements of all tables of one request.
    pub table_elements: usize,
    pub stack_bytes: usize,
    /// Bytes of all output tensors, names and parameters of one answer.
    pub output_bytes: usize,
    /// Bytes that a guest may write to the log in one call; what is more is counted and dropped.
    pub log_bytes: usize,
    /// Instances alive at a time; a pipeline holds one for each level of nesting.
    pub max_instances: u32,
    /// Bytes of what guests wrote that all slots together keep when nothing runs; 0: [`SandboxLimits::warm_of`].
    pub warm_bytes: usize,
    /// Bytes of a component or core module.
    pub max_artifact_bytes: usize,
    /// Bytes of all the files beside `model.wasm` that `load` receives.
    pub max_file_bytes: usize,
    /// Time for `load`, for the snapshot and for `signature`, each.
    pub load_deadline: Duration,
    /// Threads that run guests; 0 takes one for each core.
    pub threads: usize,
}

impl Default for SandboxLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 256 * MIB,
            table_elements: 20_000,
            stack_bytes: 512 * KIB,
            output_bytes: 64 * MIB,
            log_bytes: 4 * KIB,
            max_instances: 1000,
            warm_bytes: 0,
            max_artifact_bytes: 64 * MIB,
            max_file_bytes: 128 * MIB,
            load_deadline: Duration::from_secs(10),
            threads: 0,
        }
    }
}

impl SandboxLimits {
    /// What slots may keep if nobody says how much: a sixteenth of the memory that there is, from 256 MiB to 1 GiB.
    pub fn warm_of(memory: Option<u64>) -> usize {
        let part = usize::try_from(memory.unwrap_or(0) / 16).unwrap_or(usize::MAX);
        part.clamp(256 * MIB, 1024 * MIB)
    }
}

/// Calls that `models.infer` may nest, the client's own call not counted.
pub const MAX_CALL_DEPTH: u32 = 4;

/// Bounds on the native engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NativeLimits {
    /// Threads that run ONNX models; 0 takes one for each core.
    pub threads: usize,
    /// Runs that may wait for such a thread.
    pub max_queued: usize,
    /// Plans kept for each model, one for each combination of concrete input shapes.
    pub max_plans: usize,
    pub max_artifact_bytes: usize,
    /// Bytes of all output tensors of one answer.
    pub output_bytes: usize,
    /// Address space of one worker process that runs a model, its program included.
    pub worker_memory_bytes: usize,
    /// Worker processes that run models, in all. Of one version there are at most as many as threads.
    pub max_workers: usize,
    /// Time after which a worker process that has nothing to do is stopped.
    pub worker_idle: Duration,
}

impl Default for NativeLimits {
    fn default() -> Self {
        Self {
            threads: 0,
            max_queued: 1024,
            max_plans: 16,
            max_artifact_bytes: 2048 * MIB,
            output_bytes: 256 * MIB,
            worker_memory_bytes: 2048 * MIB,
            max_workers: 64,
            worker_idle: Duration::from_secs(300),
        }
    }
}

/// Bounds on what a tenant may upload and keep; all but the first two are what a tenant has without limits of its own.
#[derive(Clone, Debug)]
pub struct UploadLimits {
    /// Bytes of one upload, all its files together.
    pub max_bytes: u64,
    /// Time for a whole upload to arrive.
    pub time: Duration,
    /// Uploads of one tenant at a time; of these, one is compiled at a time.
    pub per_tenant: u64,
    /// Changes of versions and settings within an hour.
    pub max_changes: u64,
    pub max_models: u64,
    /// Published versions of one model.
    pub max_versions: u64,
    /// Bytes of all that a tenant has published.
    pub max_storage_bytes: u64,
    /// Bytes of memory that a tenant's models take while they are loaded.
    pub max_loaded_bytes: u64,
}

impl Default for UploadLimits {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            max_bytes: 256 * MIB,
            time: Duration::from_secs(600),
            per_tenant: 4,
            max_changes: 600,
            max_models: 20,
            max_versions: 5,
            max_storage_bytes: 2048 * MIB,
            max_loaded_bytes: 1024 * MIB,
        }
    }
}

/// Bounds on one worker process, in which models are compiled and checked, and on all of them together.
#[derive(Clone, Debug)]
pub struct WorkerLimits {
    /// Processor time of one worker, over all its threads; counted in whole seconds, rounded up.
    pub cpu: Duration,
    /// Time from the start of a worker to its answer.
    pub time: Duration,
    /// Address space of one worker, its program included.
    pub memory_bytes: usize,
    /// Bytes of the compiled code.
    pub file_bytes: usize,
    /// Workers at a time; 0 takes one for each core.
    pub max_concurrent: usize,
    /// Bytes of compiled code that are kept on disk.
    pub cache_bytes: usize,
    /// Bytes of the log that one tenant's models may take within a second, in workers and in requests together.
    pub log_bytes: usize,
}

impl Default for WorkerLimits {
    fn default() -> Self {
        Self {
            cpu: Duration::from_secs(30),
            time: Duration::from_secs(60),
            memory_bytes: 2048 * MIB,
            file_bytes: 256 * MIB,
            max_concurrent: 0,
            cache_bytes: 4096 * MIB,
            log_bytes: 10 * KIB,
        }
    }
}

/// How much memory there is, and at which share of it what is not done any more.
#[derive(Clone, Debug)]
pub struct MemoryLimits {
    /// Bytes that the gateway's own process may take; 0: what the machine has.
    pub most_bytes: usize,
    /// Percent taken from which nothing is loaded or compiled; 0: never.
    pub no_loads: u32,
    /// Percent taken from which no request waits and no connection is kept; 0: never.
    pub no_queue: u32,
    /// Percent taken from which nothing is answered but health; 0: never.
    pub no_calls: u32,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self { most_bytes: 0, no_loads: 85, no_queue: 92, no_calls: 95 }
    }
}

/// When a model that fails again and again is not run any more.
#[derive(Clone, Debug)]
pub struct QuarantineLimits {
    /// Faults of a model for one tenant, with no good answer between them, that begin a quarantine; 0: there is none.
    pub faults: u32,
    /// Time within which that many count together.
    pub window: Duration,
    /// How long the first quarantine lasts; each further one is twice as long as the last.
    pub time: Duration,
    /// How long one may last.
    pub longest: Duration,
}

impl Default for QuarantineLimits {
    fn default() -> Self {
        Self {
            faults: 20,
            window: Duration::from_secs(10),
            time: Duration::from_secs(30),
            longest: Duration::from_secs(600),
        }
    }
}

/// All of them, as a gateway is started with.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    pub listen: ListenLimits,
    pub decode: DecodeLimits,
    pub admit: AdmitLimits,
    pub sandbox: SandboxLimits,
    pub native: NativeLimits,
    pub calls: CallLimits,
    pub upload: UploadLimits,
    pub worker: WorkerLimits,
    pub quarantine: QuarantineLimits,
    pub memory: MemoryLimits,
}
