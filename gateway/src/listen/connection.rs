//! One connection: which HTTP it speaks, and every limit that hyper offers, in one visible list.

use std::{
    convert::Infallible,
    io::{self, Cursor},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{
    Request, Version as HttpVersion,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    server::conn::http2,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, Chain, Join, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::watch,
};
use tokio_rustls::server::TlsStream;

use crate::{infer::Gateway, limits::ListenLimits};

use super::{
    Door, Stop, admin, grpc, metrics,
    places::{Place, Visitor},
    rest,
    sending::{Sending, Watched},
    tls::{self, Tls},
};

/// What every HTTP/2 connection begins with, and no HTTP/1 request does (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves a connection to its end, until it is told to stop and its running requests are answered, or until its place is
/// given to another one or nobody holds the other side of `ends` any more: then its requests are dropped where they are.
pub(super) async fn serve(
    stream: TcpStream,
    place: Arc<Place>,
    door: Door,
    tls: Option<Arc<Tls>>,
    gateway: Arc<Gateway>,
    stop: Stop,
    mut ends: watch::Receiver<()>,
) {
    let counted = Arc::clone(&gateway);
    let _open = counted.traffic.connection(door);
    tokio::select! {
        () = begin(stream, &place, door, tls, gateway, stop) => {}
        () = place.lost() => tracing::debug!("connection cut: another one needs its place"),
        _ = ends.changed() => tracing::debug!("connection cut: the gateway stops"),
    }
}

async fn begin(
    stream: TcpStream,
    place: &Arc<Place>,
    door: Door,
    tls: Option<Arc<Tls>>,
    gateway: Arc<Gateway>,
    mut stop: Stop,
) {
    // Answers are written whole; waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let Ok(peer) = stream.peer_addr() else { return };
    let limits = &gateway.limits.listen;
    let begun = async {
        match tls {
            None => {
                let version = tokio::time::timeout(limits.header_timeout, version(&stream)).await??;
                Ok::<_, io::Error>((Stream::Plain(stream), version))
            }
            Some(tls) => Box::pin(secured(stream, &tls, limits)).await,
        }
    };
    let begun = tokio::select! {
        begun = begun => begun,
        // Who has said nothing yet has no request to finish.
        _ = stop.wait_for(Option::is_some) => return,
    };
    match begun {
        Ok((Stream::Plain(stream), version)) => {
            Box::pin(speak(stream, version, door, peer.ip(), place, gateway, stop)).await;
        }
        Ok((Stream::Secured(stream), version)) => {
            Box::pin(speak(stream, version, door, peer.ip(), place, gateway, stop)).await;
        }
        Err(error) => tracing::debug!(%error, "connection ended before its first request"),
    }
}

enum Stream {
    Plain(TcpStream),
    Secured(Secured),
}

/// A TLS connection, with what was read from it already in front.
type Secured = Join<Chain<Cursor<Vec<u8>>, ReadHalf<TlsStream<TcpStream>>>, WriteHalf<TlsStream<TcpStream>>>;

/// The handshake, and the version of HTTP that was agreed on in it.
async fn secured(stream: TcpStream, tls: &Tls, limits: &ListenLimits) -> io::Result<(Stream, Version)> {
    let mut stream = tokio::time::timeout(limits.handshake_timeout, tls.acceptor().accept(stream)).await??;
    let (mut version, mut preface) = (Version::Http1, Vec::new());
    if stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2) {
        // Here as well the whole preface has to be there before hyper waits for it.
        version = Version::Http2;
        preface = vec![0; HTTP2_PREFACE.len()];
        tokio::time::timeout(limits.header_timeout, stream.read_exact(&mut preface)).await??;
    }
    let (reader, writer) = tokio::io::split(stream);
    Ok((Stream::Secured(tokio::io::join(Cursor::new(preface).chain(reader), writer)), version))
}

async fn speak<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    version: Version,
    door: Door,
    peer: IpAddr,
    place: &Arc<Place>,
    gateway: Arc<Gateway>,
    stop: Stop,
) {
    let limits = gateway.limits.listen.clone();
    let sending = Sending::default();
    let service = service_fn({
        let (sending, place, stop) = (sending.clone(), Arc::clone(place), stop.clone());
        move |request: Request<Incoming>| {
            let (gateway, stop) = (Arc::clone(&gateway), stop.clone());
            let under_way = sending.request(Visitor::new(peer, &place));
            // hyper keeps room for one as long as the connection lives.
            Box::pin(async move {
                let (version, visitor) = (request.version(), under_way.visitor());
                let mut answer = match door {
                    Door::Data => rest::handle(&gateway, visitor, request).await,
                    // Larger than a request over REST, which this would else be made room for as well.
                    Door::Grpc => Box::pin(grpc::handle(&gateway, visitor, request, stop)).await,
                    Door::Admin => Box::pin(admin::handle(&gateway, visitor, request)).await,
                    Door::Metrics => Box::pin(metrics::handle(&gateway, visitor, request)).await,
                };
                gateway.traffic.answered(door, answer.status());
                // HTTP/2 has no word for it that would not end the requests beside this one's.
                if gateway.memory.no_queue() && version < HttpVersion::HTTP_2 {
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer.map(|body| {
                    let limits = &gateway.limits.listen;
                    let patience =
                        if body.has_source() { limits.stream_send_timeout } else { limits.send_timeout };
                    body.on_its_way(under_way.answer(patience), version)
                }))
            })
        }
    });
    let io = TokioIo::new(Watched::new(stream, &sending));
    let served = async {
        match version {
            // hyper itself ends one that is idle.
            Version::Http1 => {
                let connection = Box::pin(http1(&limits).serve_connection(io, service));
                until_told(connection, stop, std::future::pending()).await
            }
            Version::Http2 => {
                let idle = sending.idle(limits.header_timeout);
                let connection = Box::pin(http2(&limits).serve_connection(io, service));
                until_told(connection, stop, idle).await
            }
            Version::None => Ok(()),
        }
    };
    tokio::select! {
        ended = served => {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
        }
        () = sending.stalled(limits.send_timeout, limits.stream_send_timeout) => {
            tracing::debug!("connection cut: an answer was not read in time");
        }
    }
}

/// Time for an HTTP/2 peer to close a connection on which nothing is under way, once it is told that it should.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves until told to stop, then until what is under way is answered; or until there is nothing under way for too long.
async fn until_told<C: GracefulConnection>(
    mut connection: Pin<Box<C>>,
    mut stop: Stop,
    idle: impl Future<Output = ()>,
) -> C::Output {
    let bound = tokio::select! {
        ended = connection.as_mut() => return ended,
        _ = stop.wait_for(Option::is_some) => None,
        () = idle => Some(FAREWELL),
    };
    connection.as_mut().graceful_shutdown();
    match bound {
        None => connection.await,
        // What it has not read by now waits for a window that it does not give.
        Some(bound) => tokio::time::timeout(bound, connection).await.unwrap_or(Ok(())),
    }
}

enum Version {
    Http1,
    Http2,
    /// The peer closed without a word.
    None,
}

/// Time for the rest of an HTTP/2 preface once it has begun. A peer that closes in the middle of it is not noticed any
/// sooner, because what it sent is still there to be read.
const PREFACE_TIME: Duration = Duration::from_secs(1);

/// Looks at the first bytes without taking them. The whole preface has to be there: hyper would wait for the rest of it
/// without a timeout.
async fn version(stream: &TcpStream) -> io::Result<Version> {
    let mut start = [0; HTTP2_PREFACE.len()];
    let mut latest = None;
    loop {
        let length = stream.peek(&mut start).await?;
        let seen = &start[..length];
        match length {
            0 => return Ok(Version::None),
            _ if seen == HTTP2_PREFACE => return Ok(Version::Http2),
            _ if !HTTP2_PREFACE.starts_with(seen) => return Ok(Version::Http1),
            _ if *latest.get_or_insert_with(|| Instant::now() + PREFACE_TIME) < Instant::now() => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // The socket stays readable, so there is no event to wait for.
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Bytes of a request that are read before they are taken, and of answers that are written at once.
const MAX_BUFFER: usize = 400 << 10;

fn http1(limits: &ListenLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Covers the idle time between two requests of a connection as well.
        .header_read_timeout(limits.header_timeout)
        .max_headers(limits.max_headers)
        .max_header_size(limits.max_header_bytes)
        .max_buf_size(MAX_BUFFER)
        .ignore_invalid_headers(false)
        .half_close(false)
        .keep_alive(true);
    builder
}

fn http2(limits: &ListenLimits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        // Rapid reset (CVE-2023-44487) and its kin: so many streams may be reset and still be ours to clean up.
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(64)
        .header_table_size(4096)
        .max_frame_size(16 << 10)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        // What waits here for a peer that has given a window and does not read is in nobody's budget.
        .max_send_buf_size(64 << 10)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
