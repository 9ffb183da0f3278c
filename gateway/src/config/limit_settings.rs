//! One line for each limit: its name as flag and key, its variable, and the field of `limits.rs` that it sets.

use bytesize::ByteSize;
use clap::Args;
use serde::Deserialize;

use crate::limits::{Limits, Rate};

use super::{Setting, Span};

macro_rules! limit_settings {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ty, $variable:literal => $($field:ident).+;)+) => {
        /// What one request, one model and the whole gateway may use.
        #[derive(Args, Clone, Debug, Default, Deserialize)]
        #[command(next_help_heading = "Limits")]
        #[serde(default, deny_unknown_fields)]
        pub struct LimitSettings {
            $(
                $(#[doc = $doc])+
                #[arg(long, value_name = value_name(stringify!($kind)), env = $variable)]
                pub $name: Option<$kind>,
            )+
        }

        impl LimitSettings {
            /// These limits, with what they leave open taken from `other`.
            pub(super) fn or(self, other: Self) -> Self {
                Self { $($name: self.$name.or(other.$name),)+ }
            }

            /// Puts what is set in place of the defaults.
            pub(super) fn apply(&self, limits: &mut Limits) -> Result<(), String> {
                $(
                    if let Some(value) = self.$name {
                        limits.$($field).+ = value
                            .limit()
                            .map_err(|error| format!("--{}: {error}", stringify!($name).replace('_', "-")))?;
                    }
                )+
                Ok(())
            }

            /// Each setting with the value that a default would have to be written as.
            #[cfg(test)]
            pub(super) fn defaults() -> Vec<(&'static str, String)> {
                let limits = Limits::default();
                vec![$((stringify!($name), format!("{:?}", limits.$($field).+)),)+]
            }
        }
    };
}

fn value_name(kind: &str) -> &'static str {
    match kind {
        "ByteSize" => "BYTES",
        "Span" => "TIME",
        _ => "N",
    }
}

limit_settings! {
    /// Connections at a time; who comes then takes the place of one that waits, or waits in the kernel's queue [default: 4096]
    max_connections: usize, "AIRLOCK_MAX_CONNECTIONS" => listen.max_connections;
    /// Connections of one address (of IPv6: of one /64) at a time; more are closed; 0: no limit [default: 1024]
    max_connections_per_address: usize, "AIRLOCK_MAX_CONNECTIONS_PER_ADDRESS" => listen.max_connections_per_address;
    /// Time for the handshake of a TLS connection [default: 5s]
    handshake_timeout: Span, "AIRLOCK_HANDSHAKE_TIMEOUT" => listen.handshake_timeout;
    /// Time for a request's head, and idle time of a connection [default: 30s]
    header_timeout: Span, "AIRLOCK_HEADER_TIMEOUT" => listen.header_timeout;
    /// Time within which the next piece of a request body has to come [default: 10s]
    body_idle_timeout: Span, "AIRLOCK_BODY_IDLE_TIMEOUT" => listen.body_idle_timeout;
    /// Time for a whole request body [default: 1m]
    body_timeout: Span, "AIRLOCK_BODY_TIMEOUT" => listen.body_timeout;
    /// Bytes in a second, on average, with which a request body has to come, once the time above is over; 0: any [default: 16KiB]
    min_body_rate: ByteSize, "AIRLOCK_MIN_BODY_RATE" => listen.min_body_rate;
    /// Time within which the next request of a gRPC stream has to begin [default: 5m]
    stream_idle_timeout: Span, "AIRLOCK_STREAM_IDLE_TIMEOUT" => listen.stream_idle_timeout;
    /// Time for a client to read an answer [default: 1m]
    send_timeout: Span, "AIRLOCK_SEND_TIMEOUT" => listen.send_timeout;
    /// Time for a client to read one response of a stream, while the model waits [default: 30s]
    stream_send_timeout: Span, "AIRLOCK_STREAM_SEND_TIMEOUT" => listen.stream_send_timeout;
    /// Time that a model may wait in all for the reader of its stream; what is more counts for its deadline [default: 5m]
    stream_wait: Span, "AIRLOCK_STREAM_WAIT" => listen.stream_wait;
    /// Bytes of a request's path and query [default: 2KiB]
    max_uri: ByteSize, "AIRLOCK_MAX_URI" => listen.max_uri_bytes;
    /// Headers of a request [default: 64]
    max_headers: usize, "AIRLOCK_MAX_HEADERS" => listen.max_headers;
    /// Bytes of a request's head [default: 16KiB]
    max_header_size: ByteSize, "AIRLOCK_MAX_HEADER_SIZE" => listen.max_header_bytes;
    /// HTTP/2 streams at a time on one connection [default: 64]
    max_streams: u32, "AIRLOCK_MAX_STREAMS" => listen.max_streams;
    /// Time for the whole stop, from the signal to the end of the last running request [default: 30s]
    grace_period: Span, "AIRLOCK_GRACE_PERIOD" => listen.grace_period;
    /// Bytes of a request body, as sent and after decompression [default: 64MiB]
    max_body: ByteSize, "AIRLOCK_MAX_BODY" => decode.max_body_bytes;
    /// Nesting of a request's JSON [default: 32]
    max_json_depth: usize, "AIRLOCK_MAX_JSON_DEPTH" => decode.max_json_depth;
    /// Input tensors of a request [default: 64]
    max_inputs: usize, "AIRLOCK_MAX_INPUTS" => decode.max_inputs;
    /// Requested outputs of a request [default: 64]
    max_outputs: usize, "AIRLOCK_MAX_OUTPUTS" => decode.max_outputs;
    /// Dimensions of a tensor [default: 16]
    max_rank: usize, "AIRLOCK_MAX_RANK" => decode.max_rank;
    /// Bytes of one upload, all its files together [default: 256MiB]
    max_upload: ByteSize, "AIRLOCK_MAX_UPLOAD" => upload.max_bytes;
    /// Time for a whole upload to arrive [default: 10m]
    upload_timeout: Span, "AIRLOCK_UPLOAD_TIMEOUT" => upload.time;
    /// Requests of one tenant within a second; 0: no limit. This and the other limits of tenants hold for those that the
    /// operator gave none of their own; calls of the tenant `default` are not limited [default: 50]
    tenant_rate: Rate, "AIRLOCK_TENANT_RATE" => calls.rate;
    /// Requests of one tenant that may come at once, before the rate counts [default: 100]
    tenant_burst: u64, "AIRLOCK_TENANT_BURST" => calls.burst;
    /// Requests of one tenant that run at a time; 0: no limit but the gateway's [default: 4]
    tenant_running: u64, "AIRLOCK_TENANT_RUNNING" => calls.running;
    /// Requests of one tenant that wait for one of these places; more are refused with 429 [default: 32]
    tenant_queued: u64, "AIRLOCK_TENANT_QUEUED" => calls.queued;
    /// Answers that one tenant gets within a second without a model having run, refusals above all, before further ones are held
    /// back, for a second at most; 0: no limit [default: 5000]
    tenant_refusals: Rate, "AIRLOCK_TENANT_REFUSALS" => calls.refusals;
    /// Uploads of one tenant at a time [default: 4]
    tenant_uploads: u64, "AIRLOCK_TENANT_UPLOADS" => upload.per_tenant;
    /// Changes of versions and settings that a tenant may make within an hour [default: 600]
    tenant_changes: u64, "AIRLOCK_TENANT_CHANGES" => upload.max_changes;
    /// Models that a tenant may have uploaded [default: 20]
    tenant_models: u64, "AIRLOCK_TENANT_MODELS" => upload.max_models;
    /// Published versions of one uploaded model [default: 5]
    tenant_versions: u64, "AIRLOCK_TENANT_VERSIONS" => upload.max_versions;
    /// Bytes of all that a tenant has published [default: 2GiB]
    tenant_storage: ByteSize, "AIRLOCK_TENANT_STORAGE" => upload.max_storage_bytes;
    /// Bytes of memory that a tenant's models take while they are loaded [default: 1GiB]
    tenant_loaded: ByteSize, "AIRLOCK_TENANT_LOADED" => upload.max_loaded_bytes;
    /// Requests that run at a time [default: 128]
    max_running: usize, "AIRLOCK_MAX_RUNNING" => admit.max_running;
    /// Requests that may wait for their turn; more are refused with 503 [default: 1024]
    max_queued: usize, "AIRLOCK_MAX_QUEUED" => admit.max_queued;
    /// Bytes of all requests and answers in memory at a time [default: 1GiB]
    max_buffered: ByteSize, "AIRLOCK_MAX_BUFFERED" => admit.max_buffered_bytes;
    /// Bytes of responses that are kept for models whose configuration asks for it (response_cache); 0: none [default: 64MiB]
    response_cache: ByteSize, "AIRLOCK_RESPONSE_CACHE" => admit.response_cache_bytes;
    /// Time for a model's answer; who would wait for more than half of it is refused with 503; a request's `timeout`
    /// parameter may shorten it [default: 2s]
    deadline: Span, "AIRLOCK_DEADLINE" => admit.deadline;
    /// Memory of one request to a wasm model [default: 256MiB]
    guest_memory: ByteSize, "AIRLOCK_GUEST_MEMORY" => sandbox.memory_bytes;
    /// Table elements of one request to a wasm model [default: 20000]
    guest_table_elements: usize, "AIRLOCK_GUEST_TABLE_ELEMENTS" => sandbox.table_elements;
    /// Stack of one request to a wasm model [default: 512KiB]
    guest_stack: ByteSize, "AIRLOCK_GUEST_STACK" => sandbox.stack_bytes;
    /// Bytes of a wasm model's answer [default: 64MiB]
    guest_output: ByteSize, "AIRLOCK_GUEST_OUTPUT" => sandbox.output_bytes;
    /// Bytes that a wasm model may log in one call [default: 4KiB]
    guest_log: ByteSize, "AIRLOCK_GUEST_LOG" => sandbox.log_bytes;
    /// Bytes of the log that one tenant's models may take within a second, all calls together; 0: none [default: 10KiB]
    tenant_log: ByteSize, "AIRLOCK_TENANT_LOG" => worker.log_bytes;
    /// Instances of wasm models alive at a time [default: 1000]
    guest_instances: u32, "AIRLOCK_GUEST_INSTANCES" => sandbox.max_instances;
    /// Memory that stays taken after runs of wasm models, 1MiB each at most, so that the next run of the same model starts faster;
    /// 0: a sixteenth of what there is, from 256MiB to 1GiB [default: 0]
    guest_warm: ByteSize, "AIRLOCK_GUEST_WARM" => sandbox.warm_bytes;
    /// Bytes of a model.wasm [default: 64MiB]
    guest_artifact: ByteSize, "AIRLOCK_GUEST_ARTIFACT" => sandbox.max_artifact_bytes;
    /// Bytes of all files beside a model.wasm [default: 128MiB]
    guest_files: ByteSize, "AIRLOCK_GUEST_FILES" => sandbox.max_file_bytes;
    /// Time for a plugin's `load` [default: 10s]
    guest_load_deadline: Span, "AIRLOCK_GUEST_LOAD_DEADLINE" => sandbox.load_deadline;
    /// Threads that run wasm models; 0 takes one for each core [default: 0]
    guest_threads: usize, "AIRLOCK_GUEST_THREADS" => sandbox.threads;
    /// Memory that the gateway's own process may take before it does less, see the next three; 0: what the machine has. Limits of
    /// its control groups (v2) count in any case [default: 0]
    memory_limit: ByteSize, "AIRLOCK_MEMORY_LIMIT" => memory.most_bytes;
    /// Percent of memory taken from which nothing is loaded or compiled; 0: never [default: 85]
    memory_no_loads: u32, "AIRLOCK_MEMORY_NO_LOADS" => memory.no_loads;
    /// Percent of memory taken from which no request waits for its turn and connections are not kept; 0: never [default: 92]
    memory_no_queue: u32, "AIRLOCK_MEMORY_NO_QUEUE" => memory.no_queue;
    /// Percent of memory taken from which nothing is answered but health (503); 0: never [default: 95]
    memory_no_calls: u32, "AIRLOCK_MEMORY_NO_CALLS" => memory.no_calls;
    /// Failures of a model for one tenant, with no good answer between them, after which it is not run for a while; 0: never
    /// [default: 20]
    quarantine_faults: u32, "AIRLOCK_QUARANTINE_FAULTS" => quarantine.faults;
    /// Time within which that many failures count together [default: 10s]
    quarantine_window: Span, "AIRLOCK_QUARANTINE_WINDOW" => quarantine.window;
    /// How long such a model is not run at first; twice as long each further time [default: 30s]
    quarantine_time: Span, "AIRLOCK_QUARANTINE_TIME" => quarantine.time;
    /// How long it is not run at most [default: 10m]
    quarantine_longest: Span, "AIRLOCK_QUARANTINE_LONGEST" => quarantine.longest;
    /// Threads that run ONNX models; 0 takes one for each core [default: 0]
    native_threads: usize, "AIRLOCK_NATIVE_THREADS" => native.threads;
    /// Runs that may wait for such a thread [default: 1024]
    native_queued: usize, "AIRLOCK_NATIVE_QUEUED" => native.max_queued;
    /// Plans kept for each ONNX model, one for each combination of input shapes [default: 16]
    native_plans: usize, "AIRLOCK_NATIVE_PLANS" => native.max_plans;
    /// Bytes of a model.onnx [default: 2GiB]
    native_artifact: ByteSize, "AIRLOCK_NATIVE_ARTIFACT" => native.max_artifact_bytes;
    /// Bytes of an ONNX model's answer [default: 256MiB]
    native_output: ByteSize, "AIRLOCK_NATIVE_OUTPUT" => native.output_bytes;
    /// Address space of a worker process that runs an ONNX model [default: 2GiB]
    native_memory: ByteSize, "AIRLOCK_NATIVE_MEMORY" => native.worker_memory_bytes;
    /// Worker processes that run ONNX models, of all tenants together [default: 64]
    native_workers: usize, "AIRLOCK_NATIVE_WORKERS" => native.max_workers;
    /// Time after which such a process that has nothing to do is stopped [default: 5m]
    native_idle: Span, "AIRLOCK_NATIVE_IDLE" => native.worker_idle;
    /// Processor time in which a worker process compiles or checks one model, or loads the ONNX model that it is to run
    /// [default: 30s]
    worker_cpu: Span, "AIRLOCK_WORKER_CPU" => worker.cpu;
    /// Time of a worker process from its start to its answer [default: 1m]
    worker_time: Span, "AIRLOCK_WORKER_TIME" => worker.time;
    /// Address space of a worker process [default: 2GiB]
    worker_memory: ByteSize, "AIRLOCK_WORKER_MEMORY" => worker.memory_bytes;
    /// Bytes of the compiled code of one model [default: 256MiB]
    worker_file: ByteSize, "AIRLOCK_WORKER_FILE" => worker.file_bytes;
    /// Worker processes at a time; 0 takes one for each core [default: 0]
    workers: usize, "AIRLOCK_WORKERS" => worker.max_concurrent;
    /// Bytes of compiled code kept in the state folder; those used longest ago go first [default: 4GiB]
    compiled_cache: ByteSize, "AIRLOCK_COMPILED_CACHE" => worker.cache_bytes;
}
