//! The REST front door of uploads: bodies to the staging folder, piece by piece, and answers about what became of them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{
    HeaderMap, Response, StatusCode,
    body::{Body, Incoming},
    header,
};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::{
    admit::Reservation,
    digest::{Digest, Hasher},
    error::Problem,
    infer::Gateway,
    limits::Limits,
    name::{ModelName, TenantName, Version},
    repository::uploads::{
        UploadError, Uploads,
        receive::{MAX_CONFIG, MAX_TEXT, Part, Staged},
        records::{ConfigText, ModelSettings},
    },
    trial,
};

use super::{
    body::{self, Arriving, BodyError, ReplyBody},
    etag::{if_match, tagged},
    rest::json_reply,
};

/// The pieces of a body as they come, within bounds of time, and the digest of all of them.
struct Pieces<B> {
    body: Arriving<B>,
    hasher: Hasher,
    /// Bytes that were handed over and have not been taken out of the parser again.
    unparsed: Arc<AtomicUsize>,
}

/// Bytes that the parser of parts may hold: what one part's headers and the sockets between us may come to. It would
/// gather a body without boundaries as a whole.
const MAX_UNPARSED: usize = 16 << 20;

impl<B: Body<Data = Bytes> + Unpin> Pieces<B> {
    fn new(body: B, limits: &Limits) -> Self {
        let body = Arriving::new(body, &limits.listen, limits.upload.time);
        Self { body, hasher: Hasher::default(), unparsed: Arc::default() }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let Some(piece) = self.body.next().await? else { return Ok(None) };
        self.hasher.update(&piece);
        if self.unparsed.fetch_add(piece.len(), Ordering::Relaxed) > MAX_UNPARSED {
            return Err(BodyError::TooLarge { limit: MAX_UNPARSED });
        }
        Ok(Some(piece))
    }
}

pub(super) fn uploads(gateway: &Gateway) -> Result<&Arc<Uploads>, Problem> {
    gateway.uploads.as_ref().ok_or_else(|| UploadError::Disabled.into())
}

/// `PUT …/versions/{V}`: the artifact as the body, or several files as `multipart/form-data`.
pub(super) async fn upload(
    gateway: &Arc<Gateway>,
    tenant: &TenantName,
    (model, version): (&ModelName, &Version),
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Response<ReplyBody>, Problem> {
    let uploads = uploads(gateway)?;
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Problem::unsupported_encoding("an upload is sent as it is, without Content-Encoding"));
    }
    let expected = content_digest(headers)?;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let limit = uploads.quota(tenant).max_upload.0;
    if length.is_some_and(|length: u64| length > limit) {
        return Err(UploadError::TooLarge { limit }.into());
    }
    let mut upload = uploads.begin(tenant)?;
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let received = match multer::parse_boundary(content_type) {
        Ok(boundary) => multipart(&mut upload.staged, body, boundary, &gateway.limits).await?,
        Err(_) if content_type.starts_with("multipart/") => {
            return Err(Problem::bad_request(format!(
                "Content-Type {:?} cannot be read: send multipart/form-data with a boundary",
                content_type.chars().take(64).collect::<String>()
            )));
        }
        Err(_) => {
            let mut pieces = Pieces::new(body, &gateway.limits);
            let mut writing = upload.staged.open(Part::Artifact).await?;
            while let Some(piece) = pieces.next().await? {
                pieces.unparsed.store(0, Ordering::Relaxed);
                upload.staged.write(&mut writing, &piece).await?;
            }
            upload.staged.finish(writing).await?;
            pieces.hasher.finish()
        }
    };
    if let Some(expected) = expected.filter(|expected| *expected != received) {
        return Err(UploadError::Digest { expected, received }.into());
    }
    let trial = upload.staged.sample.take().map(|sample| trial::of(gateway, tenant, sample));
    let report = uploads.publish(upload, model, version, trial).await?;
    Ok(json_reply(StatusCode::OK, &report))
}

fn content_digest(headers: &HeaderMap) -> Result<Option<Digest>, Problem> {
    let Some(header) = headers.get("content-digest") else { return Ok(None) };
    let text = header.to_str().unwrap_or_default();
    Digest::from_content_digest(text).map(Some).map_err(|error| Problem::bad_request(error.to_string()))
}

/// Takes an upload apart as it comes, and returns its digest: the part `artifact`, any number of parts `file` with file names,
/// a part `config`, and a part `sample`.
pub async fn multipart<B: Body<Data = Bytes> + Unpin + Send>(
    staged: &mut Staged,
    body: B,
    boundary: String,
    limits: &Limits,
) -> Result<Digest, Problem> {
    let pieces = Pieces::new(body, limits);
    let unparsed = Arc::clone(&pieces.unparsed);
    let parsed = |bytes: usize| {
        // The lengths of boundaries and headers are not told; they make the difference that the limit leaves room for.
        let _ = unparsed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| Some(held.saturating_sub(bytes)));
    };
    let pieces = Arc::new(Mutex::new(pieces));
    let stream = futures_util::stream::try_unfold(Arc::clone(&pieces), |pieces| async move {
        let piece = pieces.lock().await.next().await?;
        Ok::<_, BodyError>(piece.map(|piece| (piece, pieces)))
    });
    let mut parts = multer::Multipart::new(stream, boundary);
    while let Some(mut part) = parts.next_field().await.map_err(broken)? {
        let name = part.name().unwrap_or_default().to_owned();
        let file_name = part.file_name().map(str::to_owned);
        let kind = match (name.as_str(), file_name) {
            ("artifact", _) => Part::Artifact,
            ("file", Some(name)) => Part::File(name),
            ("file", None) => {
                return Err(Problem::bad_request(
                    "the part 'file' needs a filename: it is what `load` is told".into(),
                ));
            }
            ("config", file_name) => {
                let is_json = part.content_type().is_some_and(|kind| kind.subtype() == "json");
                let text = whole(&mut part, MAX_CONFIG).await?;
                parsed(text.len());
                staged.config = Some(config(text, file_name.as_deref(), is_json)?);
                continue;
            }
            ("sample", _) => {
                let sample = whole(&mut part, MAX_TEXT).await?;
                parsed(sample.len());
                staged.sample = Some(sample.into());
                continue;
            }
            (other, _) => {
                let shown: String = other.chars().take(64).collect();
                return Err(Problem::bad_request(format!(
                    "there is no part {shown:?}: an upload has the part 'artifact', any number of parts 'file', and at most one 'config' and one 'sample'"
                )));
            }
        };
        let mut writing = staged.open(kind).await?;
        while let Some(piece) = part.chunk().await.map_err(broken)? {
            parsed(piece.len());
            staged.write(&mut writing, &piece).await?;
        }
        staged.finish(writing).await?;
    }
    drop(parts);
    // What follows the last boundary counts for the digest, and must not be taken for the next request.
    let mut pieces = pieces.lock().await;
    pieces.unparsed.store(0, Ordering::Relaxed);
    while pieces.next().await?.is_some() {}
    Ok(std::mem::take(&mut pieces.hasher).finish())
}

/// A part that is a short text.
async fn whole(part: &mut multer::Field<'_>, limit: usize) -> Result<Vec<u8>, Problem> {
    let mut text = Vec::new();
    while let Some(piece) = part.chunk().await.map_err(broken)? {
        if text.len() + piece.len() > limit {
            return Err(UploadError::TooLarge { limit: limit as u64 }.into());
        }
        text.extend_from_slice(&piece);
    }
    Ok(text)
}

fn config(text: Vec<u8>, file_name: Option<&str>, is_json: bool) -> Result<ConfigText, Problem> {
    let text = String::from_utf8(text)
        .map_err(|_| Problem::bad_request("the part 'config' is not UTF-8 text".into()))?;
    let extension = file_name.and_then(|name| name.rsplit_once('.')).map(|(_, extension)| extension);
    Ok(match extension {
        Some("pbtxt") => ConfigText::Pbtxt(text),
        Some("json") => ConfigText::Json(text),
        _ if is_json => ConfigText::Json(text),
        _ => ConfigText::Toml(text),
    })
}

fn broken(error: multer::Error) -> Problem {
    match error {
        multer::Error::StreamReadFailed(error) => match error.downcast::<BodyError>() {
            Ok(error) => (*error).into(),
            Err(_) => BodyError::Broken.into(),
        },
        error => Problem::bad_request(format!("the multipart body is malformed: {error}")),
    }
}

/// What Triton's clients send with `load`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct LoadRequest {
    #[serde(default)]
    parameters: BTreeMap<String, Value>,
    /// Of its text and of what was taken out of it.
    #[serde(skip)]
    reservation: Option<Reservation>,
}

/// A value of its parameters: JSON has texts only, gRPC has bytes for files.
#[derive(Debug, Deserialize)]
#[serde(from = "String")]
pub(super) enum Value {
    Text(String),
    Bytes(Bytes),
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Value {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// The file that it is: a text is base64.
    fn into_file(self) -> Option<Bytes> {
        match self {
            Self::Text(text) => {
                tokio::task::block_in_place(|| BASE64_STANDARD.decode(&text)).ok().map(Bytes::from)
            }
            Self::Bytes(bytes) => Some(bytes),
        }
    }
}

impl LoadRequest {
    /// With parameters that are in memory, and counted, already.
    pub(super) fn new(parameters: BTreeMap<String, Value>, reservation: Reservation) -> Self {
        Self { parameters, reservation: Some(reservation) }
    }

    /// Reads the body, which is one JSON text and so has to be in memory as a whole.
    pub(super) async fn read(
        gateway: &Gateway,
        tenant: &TenantName,
        body: Incoming,
    ) -> Result<Self, Problem> {
        let mut reservation = gateway.reservation(tenant);
        let max = gateway.limits.decode.max_body_bytes;
        let text = body::read(body, max, &gateway.limits.listen, |bytes| {
            // Once as text, once taken apart.
            reservation.grow(bytes.saturating_mul(2)).map_err(Problem::from)
        })
        .await?;
        if text.is_empty() {
            return Ok(Self::default());
        }
        let wrong = |error: &dyn std::fmt::Display| {
            Problem::bad_request(format!("the body is not what load takes: {error}"))
        };
        // A list would be taken for the fields in their order.
        if !text.trim_ascii_start().starts_with(b"{") {
            return Err(wrong(&"expected a JSON object"));
        }
        let mut request: Self =
            tokio::task::block_in_place(|| serde_json::from_slice(&text)).map_err(|error| wrong(&error))?;
        request.reservation = Some(reservation);
        Ok(request)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parameters.is_empty()
    }
}

/// `load` with files, Triton's way: parameters `config` (ModelConfig as JSON) and `file:VERSION/NAME`.
pub(super) async fn load_files(
    gateway: &Gateway,
    tenant: &TenantName,
    model: &ModelName,
    request: LoadRequest,
) -> Result<(), Problem> {
    let uploads = uploads(gateway)?;
    let _held = request.reservation;
    let mut parameters = request.parameters;
    let config = parameters.remove("config");
    if config.as_ref().is_some_and(|config| config.len() > MAX_CONFIG) {
        return Err(UploadError::TooLarge { limit: MAX_CONFIG as u64 }.into());
    }
    let config = match config {
        None => None,
        Some(Value::Text(text)) => Some(text),
        Some(Value::Bytes(bytes)) => Some(
            String::from_utf8(bytes.into())
                .map_err(|_| Problem::bad_request("the parameter 'config' is not UTF-8 text".into()))?,
        ),
    };
    let mut versions: BTreeMap<Version, Vec<(String, Value)>> = BTreeMap::new();
    for (key, value) in parameters {
        let shown: String = key.chars().take(64).collect();
        let place = key.strip_prefix("file:").and_then(|path| path.split_once('/'));
        let Some((version, name)) = place else {
            return Err(Problem::bad_request(format!(
                "load takes the parameters 'config' and 'file:VERSION/NAME', got {shown:?}"
            )));
        };
        let version = version.parse().map_err(|error| Problem::bad_request(format!("{shown:?}: {error}")))?;
        versions.entry(version).or_default().push((name.to_owned(), value));
    }
    if versions.is_empty() {
        return Err(Problem::bad_request(
            "a 'config' needs the files that it is for: file:VERSION/model.wasm or file:VERSION/model.onnx"
                .into(),
        ));
    }
    for (version, files) in versions {
        let mut upload = uploads.begin(tenant)?;
        upload.staged.config = config.clone().map(ConfigText::Json);
        for (name, value) in files {
            let bytes = value.into_file().ok_or_else(|| {
                let name: String = name.chars().take(64).collect();
                Problem::bad_request(format!("the file {name:?} of version {version} is not base64"))
            })?;
            let part = if name.starts_with("model.") { Part::Artifact } else { Part::File(name) };
            let mut writing = upload.staged.open(part).await?;
            upload.staged.write(&mut writing, &bytes).await?;
            upload.staged.finish(writing).await?;
        }
        uploads.publish(upload, model, &version, None).await?;
    }
    Ok(())
}

/// `PUT …/settings`: replaces a model's settings, if they are still those of the header `If-Match`.
pub(super) async fn set_settings(
    gateway: &Gateway,
    tenant: &TenantName,
    model: &ModelName,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Response<ReplyBody>, Problem> {
    let uploads = uploads(gateway)?;
    let expected = if_match(headers)?;
    let mut reservation = gateway.reservation(tenant);
    let text = body::read(body, MAX_CONFIG, &gateway.limits.listen, |bytes| {
        reservation.grow(bytes).map_err(Problem::from)
    })
    .await?;
    let settings: ModelSettings = serde_json::from_slice(&text)
        .map_err(|error| Problem::bad_request(format!("the body is not a model's settings: {error}")))?;
    let (revision, settings) = uploads.set_settings(tenant, model, settings, expected).await?;
    Ok(tagged(json_reply(StatusCode::OK, &settings), revision))
}
