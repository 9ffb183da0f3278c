//! A small S3 server in this process: one bucket, and faults on request.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    convert::Infallible,
    fmt::Write as _,
    future::pending,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Nothing; it is one of those that are counted.
    None,
    /// It is refused.
    Status(u16),
    /// It is done, and said to be refused.
    DoneButStatus(u16),
    /// Nothing is done, and nothing is answered.
    Stall,
    /// It is done, and nothing is answered.
    DoneButStall,
    /// It is done; the answer ends half way.
    Cut,
}

pub struct Server {
    /// `http://ADDRESS`
    pub endpoint: String,
    bucket: Arc<Mutex<Bucket>>,
}

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Bytes>,
    /// The parts of each upload that is not finished.
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    begun: usize,
    list: Option<String>,
    faults: HashMap<String, VecDeque<Fault>>,
    all: Option<Fault>,
    ignore_conditions: bool,
    echo: bool,
    headers: String,
}

type Answer = Response<BoxBody<Bytes, io::Error>>;

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let bucket = Arc::new(Mutex::new(Bucket::default()));
        let served = bucket.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let bucket = served.clone();
                let service = service_fn(move |request| answer(bucket.clone(), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { endpoint, bucket }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        lock(&self.bucket)
    }

    /// What happens to the next requests of a method.
    pub fn fail(&self, method: &str, faults: &[Fault]) {
        self.bucket().faults.entry(method.to_owned()).or_default().extend(faults);
    }

    pub fn forget_faults(&self) {
        self.bucket().faults.clear();
    }

    pub fn fail_all(&self, fault: Option<Fault>) {
        self.bucket().all = fault;
    }

    /// Lists go on showing what is there now.
    pub fn freeze_lists(&self) {
        let mut bucket = self.bucket();
        bucket.list = Some(bucket.listing(""));
    }

    pub fn ignore_conditions(&self) {
        self.bucket().ignore_conditions = true;
    }

    /// Refusals repeat the request's headers.
    pub fn echo(&self) {
        self.bucket().echo = true;
    }

    pub fn put(&self, key: &str, bytes: &[u8]) {
        self.bucket().objects.insert(key.to_owned(), Bytes::copy_from_slice(bytes));
    }

    pub fn keys(&self) -> Vec<String> {
        self.bucket().objects.keys().cloned().collect()
    }

    /// How many are not finished.
    pub fn uploads(&self) -> usize {
        self.bucket().uploads.len()
    }

    /// Whether a request's header had that in it.
    pub fn saw(&self, text: &str) -> bool {
        self.bucket().headers.contains(text)
    }
}

fn lock(bucket: &Mutex<Bucket>) -> MutexGuard<'_, Bucket> {
    bucket.lock().expect("no test panicked")
}

async fn answer(bucket: Arc<Mutex<Bucket>>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let headers = format!("{:?}", head.headers);
    let (fault, echo) = {
        let mut bucket = lock(&bucket);
        bucket.headers += &headers;
        let next = bucket.faults.get_mut(head.method.as_str()).and_then(VecDeque::pop_front);
        (bucket.all.or(next).unwrap_or(Fault::None), bucket.echo)
    };
    let key = head.uri.path().strip_prefix("/bucket").unwrap_or_default().trim_start_matches('/').to_owned();
    let query = head.uri.query().unwrap_or_default();
    let serve = || lock(&bucket).serve(&head.method, &key, query, &head.headers, body);
    let refused = |status| {
        let status = StatusCode::from_u16(status).expect("a status");
        let echo = if echo { headers.as_str() } else { "" };
        let text =
            format!("<Error><Code>AccessDenied</Code><CanonicalRequest>{echo}</CanonicalRequest></Error>");
        plain(status, text.into())
    };
    Ok(match fault {
        Fault::None => serve(),
        Fault::Status(status) => refused(status),
        Fault::DoneButStatus(status) => {
            serve();
            refused(status)
        }
        Fault::Stall => pending().await,
        Fault::DoneButStall => {
            serve();
            pending().await
        }
        Fault::Cut => {
            let (mut parts, body) = serve().into_parts();
            let body = body.collect().await.expect("it is in memory").to_bytes();
            parts.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| (body.len() + 10).into());
            let half = body.slice(..body.len() / 2);
            let frames = [Ok(Frame::data(half)), Err(io::Error::other("as requested"))];
            Response::from_parts(parts, BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames))))
        }
    })
}

fn plain(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    *answer.status_mut() = status;
    answer
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
        .map(|(_, value)| value)
}

impl Bucket {
    fn serve(&mut self, method: &Method, key: &str, query: &str, headers: &HeaderMap, body: Bytes) -> Answer {
        let upload = parameter(query, "uploadId");
        let ok = |text: String| plain(StatusCode::OK, text.into());
        let missing = || plain(StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>".into());
        match (method.as_str(), upload) {
            ("GET", _) if key.is_empty() => {
                let prefix = parameter(query, "prefix").unwrap_or_default().replace("%2F", "/");
                ok(self.list.clone().unwrap_or_else(|| self.listing(&prefix)))
            }
            ("GET" | "HEAD", _) => self.objects.get(key).map_or_else(missing, |object| get(object, headers)),
            ("PUT", Some(upload)) => {
                let number = parameter(query, "partNumber").and_then(|number| number.parse().ok());
                match (self.uploads.get_mut(upload), number) {
                    (Some(parts), Some(number)) => {
                        parts.insert(number, body);
                        with_etag(ok(String::new()))
                    }
                    _ => missing(),
                }
            }
            ("PUT", None) => {
                let create = headers.get(header::IF_NONE_MATCH).is_some_and(|value| value == "*");
                if create && !self.ignore_conditions && self.objects.contains_key(key) {
                    return plain(StatusCode::PRECONDITION_FAILED, Bytes::new());
                }
                self.objects.insert(key.to_owned(), body);
                with_etag(ok(String::new()))
            }
            ("POST", None) => {
                self.begun += 1;
                self.uploads.insert(self.begun.to_string(), BTreeMap::new());
                ok(format!(
                    "<InitiateMultipartUploadResult><UploadId>{}</UploadId></InitiateMultipartUploadResult>",
                    self.begun
                ))
            }
            ("POST", Some(upload)) => match self.uploads.remove(upload) {
                Some(parts) => {
                    let parts: Vec<Bytes> = parts.into_values().collect();
                    self.objects.insert(key.to_owned(), parts.concat().into());
                    ok("<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>".into())
                }
                None => missing(),
            },
            ("DELETE", Some(upload)) => {
                self.uploads.remove(upload);
                plain(StatusCode::NO_CONTENT, Bytes::new())
            }
            ("DELETE", None) => {
                self.objects.remove(key);
                plain(StatusCode::NO_CONTENT, Bytes::new())
            }
            _ => plain(StatusCode::METHOD_NOT_ALLOWED, Bytes::new()),
        }
    }

    fn listing(&self, prefix: &str) -> String {
        let mut text = "<ListBucketResult><IsTruncated>false</IsTruncated>".to_owned();
        for (key, object) in self.objects.iter().filter(|(key, _)| key.starts_with(prefix)) {
            write!(
                text,
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>x</ETag>\
                 <Size>{}</Size></Contents>",
                object.len()
            )
            .expect("a string takes it");
        }
        text + "</ListBucketResult>"
    }
}

fn with_etag(mut answer: Answer) -> Answer {
    // Said also in answers to HEAD, of empty objects as well.
    if let Some(length) = answer.body().size_hint().exact() {
        answer.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    answer.headers_mut().insert(header::ETAG, header::HeaderValue::from_static("\"x\""));
    answer
}

/// An object, or the range of it that is asked for.
fn get(object: &Bytes, headers: &HeaderMap) -> Answer {
    let range = headers
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
    let Some((from, to)) = range else { return with_etag(plain(StatusCode::OK, object.clone())) };
    let from: usize = from.parse().expect("a number");
    let end = to.parse::<usize>().map_or(object.len(), |to| object.len().min(to + 1));
    if from >= end {
        return plain(StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new());
    }
    let mut answer = with_etag(plain(StatusCode::PARTIAL_CONTENT, object.slice(from..end)));
    let range = format!("bytes {from}-{}/{}", end - 1, object.len());
    answer.headers_mut().insert(header::CONTENT_RANGE, range.parse().expect("a header"));
    answer
}
