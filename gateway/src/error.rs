//! The one place where faults become answers: a status, a code word, a text for the client and another for the log.
//!
//! Stations know nothing of HTTP. What a client reads says what to fix; what only the operator may know (a trap's
//! backtrace, an engine's message) goes to the log.

use hyper::StatusCode;

use crate::{
    admin::AdminError,
    admit::AdmitError,
    authenticate::AuthenticateError,
    decode::{self, DecodeError},
    encode::EncodeError,
    execute::{ExecuteError, Step},
    listen::{body::BodyError, head::HeadError, messages::MessageError},
    log_allowance::LogAllowance,
    name::TenantName,
    quarantine::Quarantined,
    repository::{FindError, RepositoryError, artifacts::ArtifactError, uploads::UploadError},
    route::RouteError,
};

/// A code of gRPC, by its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcCode {
    Ok = 0,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// Why a request gets no result.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// A word that programs can match on; it never changes for a kind of fault.
    pub code: &'static str,
    pub text: String,
    /// What the log gets beside the text.
    pub detail: Option<String>,
    /// Seconds after which trying again makes sense.
    pub retry_after: Option<u32>,
    /// The methods that the path answers, for a 405.
    pub allow: Option<&'static str>,
    /// The step of publishing that refused an upload.
    pub step: Option<Step>,
    /// The time in `retry_after` is known, and not a guess that many get.
    pub wait_is_known: bool,
    /// Nothing that comes on this connection is to be believed.
    pub close: bool,
    /// The log has heard enough of this tenant's models.
    quiet: bool,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, text: impl ToString) -> Self {
        Self {
            status,
            code,
            text: text.to_string(),
            detail: None,
            retry_after: None,
            allow: None,
            step: None,
            wait_is_known: false,
            close: false,
            quiet: false,
        }
    }

    /// The same again may succeed in a second.
    pub fn retry(mut self) -> Self {
        self.retry_after = Some(1);
        self
    }

    /// A header that may be sent once was sent more often; which copy counts would be a guess.
    pub fn repeated_header(name: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", format!("the header {name} is sent more than once"))
    }

    pub fn bad_request(text: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", text)
    }

    pub fn unsupported_encoding(text: &str) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", text)
    }

    pub fn not_found() -> Self {
        RouteError::UnknownPath.into()
    }

    /// What V2 or Triton has and this gateway has not, and why.
    pub fn not_implemented(text: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", text)
    }

    pub fn no_shared_memory() -> Self {
        Self::not_implemented(
            "shared memory is not offered: clients of this gateway are strangers to each other; send tensors in the request",
        )
    }

    pub fn log_is_fixed() -> Self {
        Self::not_implemented(
            "what the gateway logs is chosen when it starts (--log, --log-format, --access-log) and cannot be changed over the network",
        )
    }

    pub fn traces_are_fixed() -> Self {
        Self::not_implemented(
            "what is traced is chosen when the gateway starts (--otlp) and cannot be changed over the network",
        )
    }

    pub fn draining() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", "the gateway is stopping").retry()
    }

    pub fn short_of_memory() -> Self {
        let text = "the gateway is short of memory; try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", text).retry()
    }

    pub fn starting() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "starting", "the gateway is still loading its models")
            .retry()
    }

    /// A fault of ours; the client learns only that it was not its own.
    pub fn internal(detail: String) -> Self {
        let mut problem = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the gateway failed to answer this request",
        );
        problem.detail = Some(detail);
        problem
    }

    /// What is sent to the gRPC port, and is not gRPC.
    pub fn not_grpc() -> Self {
        let text = "this port speaks gRPC: POST over HTTP/2, content-type application/grpc; REST is at the HTTP port";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_grpc", text)
    }

    pub fn call_took_too_long() -> Self {
        let text = "the time that the call came with has passed";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", text)
    }

    pub fn unknown_call() -> Self {
        let text = "there is no such call; reflection lists those that there are";
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_found", text)
    }

    /// What the fault is in gRPC.
    pub fn grpc_code(&self) -> GrpcCode {
        match self.status.as_u16() {
            401 => GrpcCode::Unauthenticated,
            403 => GrpcCode::PermissionDenied,
            404 => GrpcCode::NotFound,
            405 | 415 | 501 => GrpcCode::Unimplemented,
            408 | 504 => GrpcCode::DeadlineExceeded,
            409 if self.code == "version_exists" => GrpcCode::AlreadyExists,
            409 | 422 => GrpcCode::FailedPrecondition,
            412 => GrpcCode::Aborted,
            413 | 414 | 429 | 431 => GrpcCode::ResourceExhausted,
            500 | 502 => GrpcCode::Internal,
            503 => GrpcCode::Unavailable,
            _ => GrpcCode::InvalidArgument,
        }
    }

    /// As far as the status tells no model ran: the answer cost nobody's share of the processor. A model that found fault with its
    /// input is taken for one that did not.
    pub fn is_unpaid(&self) -> bool {
        !matches!(
            self.status,
            StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT
        )
    }

    /// A model's fault, in its own words, is told as loudly as its tenant's allowance of the log admits.
    #[must_use]
    pub fn told_within(mut self, log: &LogAllowance, tenant: &TenantName) -> Self {
        if self.status == StatusCode::BAD_GATEWAY {
            let bytes = self.text.len() + self.detail.as_ref().map_or(0, String::len);
            self.quiet = !log.admits(tenant, bytes);
        }
        self
    }

    /// Writes the fault to the log: what the client caused at debug, what a model or we caused louder.
    pub fn log(&self) {
        let (code, text, detail) = (self.code, &self.text, self.detail.as_deref());
        match self.status.as_u16() {
            500 => tracing::error!(code, detail, "{text}"),
            // Only what the client must not read makes it ours: a disk or a store that does not work.
            503 if detail.is_some() => tracing::error!(code, detail, "{text}"),
            502 if !self.quiet => tracing::warn!(code, detail, "{text}"),
            _ => tracing::debug!(code, detail, "{text}"),
        }
    }
}

impl From<AuthenticateError> for Problem {
    fn from(error: AuthenticateError) -> Self {
        match error {
            AuthenticateError::Foreign { .. } | AuthenticateError::Scope(_) => {
                Self::new(StatusCode::FORBIDDEN, "forbidden", error)
            }
            AuthenticateError::Missing | AuthenticateError::Wrong => {
                Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", error)
            }
            AuthenticateError::TooManyFailures { seconds } => {
                let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", error);
                problem.retry_after = Some(seconds);
                problem
            }
            AuthenticateError::KeyInUrl | AuthenticateError::Repeated => {
                Self::new(StatusCode::BAD_REQUEST, "bad_request", error)
            }
        }
    }
}

impl From<AdminError> for Problem {
    fn from(error: AdminError) -> Self {
        match &error {
            AdminError::UnknownTenant(_) => Self::new(StatusCode::NOT_FOUND, "tenant_not_found", error),
            AdminError::UnknownKey(_) => Self::new(StatusCode::NOT_FOUND, "key_not_found", error),
            AdminError::TooManyKeys { .. } => Self::new(StatusCode::CONFLICT, "too_many_keys", error),
            AdminError::NameTaken(_) => Self::new(StatusCode::CONFLICT, "name_taken", error),
            AdminError::Changed(_) => Self::new(StatusCode::PRECONDITION_FAILED, "changed_meanwhile", error),
            AdminError::NoScopes | AdminError::Label | AdminError::Expired | AdminError::Limits(_) => {
                Self::new(StatusCode::BAD_REQUEST, "bad_request", error)
            }
            AdminError::Artifacts(ArtifactError::Unavailable(_) | ArtifactError::Taken(_)) => {
                let text = "the artifact store does not answer; try again";
                let mut problem =
                    Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", text).retry();
                problem.detail = Some(error.to_string());
                problem
            }
            // What lies in the store, and where, is for the log.
            AdminError::Artifacts(_) | AdminError::Secret(_) => Self::internal(error.to_string()),
        }
    }
}

impl From<RouteError> for Problem {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::UnknownPath | RouteError::NoMetrics => {
                Self::new(StatusCode::NOT_FOUND, "not_found", error)
            }
            RouteError::UnknownModel(_) => Self::new(StatusCode::NOT_FOUND, "model_not_found", error),
            RouteError::Method { allow } => {
                let mut problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", error);
                problem.allow = Some(allow);
                problem
            }
        }
    }
}

impl From<HeadError> for Problem {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Uri { .. } => Self::new(StatusCode::URI_TOO_LONG, "too_large", error),
            HeadError::Headers { .. } => {
                Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_large", error)
            }
            HeadError::Host(_) | HeadError::TransferEncoding => {
                Self { close: true, ..Self::new(StatusCode::BAD_REQUEST, "bad_request", error) }
            }
        }
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error),
            BodyError::Timeout(_) | BodyError::TooSlow { .. } => {
                Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", error)
            }
            BodyError::Broken => Self::new(StatusCode::BAD_REQUEST, "bad_request", error),
        }
    }
}

impl From<MessageError> for Problem {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::Body(error) => error.into(),
            error => Self::new(StatusCode::BAD_REQUEST, "bad_request", error),
        }
    }
}

impl From<DecodeError> for Problem {
    fn from(error: DecodeError) -> Self {
        let (status, code) = match error.kind() {
            decode::Kind::Invalid => (StatusCode::BAD_REQUEST, "bad_request"),
            decode::Kind::NotOffered => (StatusCode::NOT_IMPLEMENTED, "not_implemented"),
            decode::Kind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            decode::Kind::UnsupportedEncoding => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding"),
        };
        Self::new(status, code, error)
    }
}

impl From<AdmitError> for Problem {
    fn from(error: AdmitError) -> Self {
        match error {
            AdmitError::Bytes | AdmitError::QueueFull(_) | AdmitError::Memory => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", error).retry()
            }
            AdmitError::TooOften { seconds, .. } => {
                let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", error);
                problem.retry_after = Some(seconds);
                problem
            }
            AdmitError::Behind { seconds } => {
                let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", error);
                problem.retry_after = Some(seconds);
                problem
            }
            AdmitError::TenantBusy { .. } | AdmitError::TenantBytes(_) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "calls_busy", error).retry()
            }
            AdmitError::Deadline => Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", error),
        }
    }
}

impl From<FindError> for Problem {
    fn from(error: FindError) -> Self {
        match error {
            FindError::UnknownModel { .. } | FindError::UnknownVersion { .. } => {
                Self::new(StatusCode::NOT_FOUND, "model_not_found", error)
            }
            FindError::NotReady { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "model_not_ready", error).retry()
            }
        }
    }
}

impl From<RepositoryError> for Problem {
    fn from(error: RepositoryError) -> Self {
        match error {
            RepositoryError::NotExplicit => Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_explicit", error),
            RepositoryError::UnknownModel(_) | RepositoryError::NothingToUnload(_) => {
                Self::new(StatusCode::NOT_FOUND, "model_not_found", error)
            }
            RepositoryError::Load { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "model_rejected", error)
            }
            // Only ever met at start, and their texts name paths.
            RepositoryError::Source { .. } | RepositoryError::Initial(_) => Self::internal(error.to_string()),
        }
    }
}

impl From<UploadError> for Problem {
    fn from(error: UploadError) -> Self {
        let (status, code) = match &error {
            UploadError::Disabled => (StatusCode::NOT_IMPLEMENTED, "uploads_disabled"),
            UploadError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            UploadError::Form(_) | UploadError::Digest { .. } | UploadError::Settings(_) => {
                (StatusCode::BAD_REQUEST, "bad_request")
            }
            UploadError::Rejected(_) => (StatusCode::UNPROCESSABLE_ENTITY, "model_rejected"),
            UploadError::Changed(_) => (StatusCode::PRECONDITION_FAILED, "changed_meanwhile"),
            UploadError::Conflict { .. } => (StatusCode::CONFLICT, "version_exists"),
            UploadError::Unverified { .. } => (StatusCode::CONFLICT, "not_verified"),
            UploadError::UnknownModel(_) | UploadError::UnknownVersion { .. } => {
                (StatusCode::NOT_FOUND, "model_not_found")
            }
            UploadError::Quota { .. } => (StatusCode::TOO_MANY_REQUESTS, "quota_exceeded"),
            UploadError::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            UploadError::CallsBusy(_) => (StatusCode::TOO_MANY_REQUESTS, "calls_busy"),
            UploadError::NotNow(_) => (StatusCode::SERVICE_UNAVAILABLE, "cannot_load_now"),
            UploadError::Busy(_) => (StatusCode::TOO_MANY_REQUESTS, "uploads_busy"),
            UploadError::TooOften { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            UploadError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
            UploadError::Disk(_) => (StatusCode::SERVICE_UNAVAILABLE, "disk_unavailable"),
        };
        let mut problem = Self::new(status, code, &error);
        match error {
            UploadError::Rejected(error) => problem.step = Some(error.step),
            UploadError::Unavailable(detail) | UploadError::Disk(detail) => {
                problem.detail = Some(detail);
                problem.retry_after = Some(5);
            }
            UploadError::NotNow(_) => problem.retry_after = Some(5),
            // Room comes from removing versions, not from waiting.
            UploadError::Quota { .. } => problem.retry_after = Some(60),
            UploadError::Busy(_) | UploadError::CallsBusy(_) | UploadError::Overloaded => {
                problem.retry_after = Some(1)
            }
            UploadError::TooOften { retry_after, .. } => problem.retry_after = Some(retry_after),
            _ => {}
        }
        problem
    }
}

impl From<ExecuteError> for Problem {
    fn from(error: ExecuteError) -> Self {
        let (status, code) = match &error {
            ExecuteError::InvalidInput(_) => (StatusCode::BAD_REQUEST, "invalid_input"),
            ExecuteError::Several => (StatusCode::BAD_REQUEST, "several_responses"),
            ExecuteError::Failed(_) | ExecuteError::Trapped { .. } => {
                (StatusCode::BAD_GATEWAY, "model_failed")
            }
            ExecuteError::Memory { .. } => (StatusCode::BAD_GATEWAY, "model_memory"),
            ExecuteError::Output(_) => (StatusCode::BAD_GATEWAY, "model_output_invalid"),
            ExecuteError::Deadline => (StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded"),
            ExecuteError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
        };
        let mut problem = Self::new(status, code, &error);
        problem.retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1);
        if let ExecuteError::Trapped { detail, .. } = error {
            problem.detail = Some(detail);
        }
        problem
    }
}

impl From<Quarantined> for Problem {
    fn from(error: Quarantined) -> Self {
        let seconds = error.seconds;
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "model_quarantined", error);
        problem.retry_after = Some(seconds);
        problem.wait_is_known = true;
        problem
    }
}

impl From<EncodeError> for Problem {
    fn from(error: EncodeError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", error)
    }
}
