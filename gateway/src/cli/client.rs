//! A client of the gateway's HTTP API.

use std::future::Future;

use anyhow::{Context, Result};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde_json::Value;

use super::say::plain;

/// Bytes of an error's body that are looked at.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// Why there is no result from the gateway.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("nothing answers at {0}: is the gateway running?")]
    Nobody(String),
    #[error("{url} cannot be reached: {reason}")]
    Unreachable { url: String, reason: String },
    /// Something was sent, and no whole answer came back.
    #[error("the connection to {url} broke off: {reason}")]
    Broken { url: String, reason: String },
    #[error("{0} did not answer in time; --timeout gives it more")]
    Timeout(String),
    #[error("{}", .0.text())]
    Refused(Refusal),
}

/// What the gateway says when it does not do what it was asked for.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    /// The word that never changes for a kind of fault; empty if what answers is no gateway.
    pub(super) code: String,
    error: String,
    /// Whether a key was sent.
    keyed: bool,
}

impl Refusal {
    fn text(&self) -> String {
        let Self { status, code, error, keyed } = self;
        let hint = if *status == StatusCode::UNAUTHORIZED && !keyed {
            "; no key was sent: set AIRLOCK_API_KEY, or name a file with --key-file"
        } else {
            ""
        };
        match (error.as_str(), code.as_str()) {
            ("", _) => format!("{status}, and no word of why: is this an Airlock gateway?{hint}"),
            (error, "") => format!("{} ({status}){hint}", plain(error)),
            (error, code) => format!("{} [{}]{hint}", plain(error), plain(code)),
        }
    }
}

impl ClientError {
    /// Whether the gateway was never heard, so that trying again elsewhere or later may help.
    pub(super) fn is_silence(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }

    fn new(url: &str, error: &reqwest::Error) -> Self {
        let url = url.to_owned();
        if error.is_timeout() && !error.is_connect() {
            return Self::Timeout(url);
        }
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            let io = source.downcast_ref::<std::io::Error>();
            if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
                return Self::Nobody(url);
            }
            cause = source;
        }
        let reason = plain(&cause.to_string());
        if error.is_connect() { Self::Unreachable { url, reason } } else { Self::Broken { url, reason } }
    }
}

pub(super) struct Client {
    http: reqwest::Client,
    /// Without a slash at its end.
    base: String,
    key: Option<HeaderValue>,
}

impl Client {
    pub(super) fn new(http: reqwest::Client, url: &Url, key: Option<HeaderValue>) -> Self {
        Self { http, base: url.as_str().trim_end_matches('/').to_owned(), key }
    }

    /// A request to a path of the gateway, which begins with a slash.
    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.header(AUTHORIZATION, key.clone()),
            None => request,
        }
    }

    /// Sends a request; an answer that is not a success is an error.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.failed(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response).await) }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        self.json(self.request(Method::GET, path)).await
    }

    pub(super) async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.request(Method::PUT, path).header(CONTENT_TYPE, "application/json");
        self.json(request.body(body.to_string())).await
    }

    /// What a request is answered with, which has to be JSON.
    pub(super) async fn json(&self, request: RequestBuilder) -> Result<Value> {
        let body = self.bytes(self.send(request).await?).await?;
        serde_json::from_slice(&body).with_context(|| {
            format!("{} answers with something else than JSON: is this an Airlock gateway?", self.base)
        })
    }

    pub(super) async fn bytes(&self, response: Response) -> Result<bytes::Bytes> {
        Ok(response.bytes().await.map_err(|error| self.failed(&error))?)
    }

    /// The next piece of an answer; none at its end.
    pub(super) async fn piece(&self, response: &mut Response) -> Result<Option<bytes::Bytes>> {
        Ok(response.chunk().await.map_err(|error| self.failed(&error))?)
    }

    fn failed(&self, error: &reqwest::Error) -> ClientError {
        ClientError::new(&self.base, error)
    }

    async fn refused(&self, mut response: Response) -> ClientError {
        let status = response.status();
        let mut body = Vec::new();
        while let Ok(Some(piece)) = response.chunk().await {
            body.extend_from_slice(&piece);
            if body.len() > MAX_ERROR_BYTES {
                break;
            }
        }
        let told: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
        ClientError::Refused(Refusal {
            status,
            code: text("code"),
            error: text("error"),
            keyed: self.key.is_some(),
        })
    }
}

/// Whether an error is the gateway's refusal with that code.
pub(super) fn is_refusal(error: &anyhow::Error, code: &str) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::Refused(refusal)) if refusal.code == code)
}

/// Runs a command that talks to a gateway.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start a runtime")?.block_on(work)
}
