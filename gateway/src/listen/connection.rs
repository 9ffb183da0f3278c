//! One connection: which HTTP it speaks, and every limit that hyper offers, in one visible list.

use std::{
    convert::Infallible,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{Request, body::Incoming, server::conn::http1, server::conn::http2, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::Watcher,
};
use tokio::{net::TcpStream, sync::watch};

use crate::{infer::Gateway, limits::ListenLimits};

use super::{Stop, rest, sending::Sending};

/// What every HTTP/2 connection begins with, and no HTTP/1 request does (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves a connection to its end, until `watcher` is told to stop and its running requests are answered, or until
/// nobody holds the other side of `ends` any more: then its requests are dropped where they are.
pub(super) async fn serve(
    stream: TcpStream,
    gateway: Arc<Gateway>,
    watcher: Watcher,
    mut stop: Stop,
    mut ends: watch::Receiver<()>,
) {
    let limits = gateway.limits.listen.clone();
    // Answers are written whole; waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let version = tokio::select! {
        version = tokio::time::timeout(limits.header_timeout, version(&stream)) => version,
        // Who has said nothing yet has no request to finish.
        _ = stop.wait_for(Option::is_some) => return,
    };
    let Ok(Ok(version)) = version else { return };
    let Ok(peer) = stream.peer_addr() else { return };
    let sending = Sending::default();
    let service = service_fn({
        let sending = sending.clone();
        move |request: Request<Incoming>| {
            let (gateway, sending) = (Arc::clone(&gateway), sending.clone());
            async move { Ok::<_, Infallible>(rest::handle(&gateway, &sending, peer.ip(), request).await) }
        }
    });
    let io = TokioIo::new(stream);
    let served = async {
        match version {
            Version::Http1 => watcher.watch(http1(&limits).serve_connection(io, service)).await,
            Version::Http2 => watcher.watch(http2(&limits).serve_connection(io, service)).await,
            Version::None => Ok(()),
        }
    };
    tokio::select! {
        ended = served => {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
        }
        () = sending.stalled(limits.send_timeout) => {
            tracing::debug!("connection cut: an answer was not read in time");
        }
        _ = ends.changed() => tracing::debug!("connection cut: the gateway stops"),
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

fn http1(limits: &ListenLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Covers the idle time between two requests of a connection as well.
        .header_read_timeout(limits.header_timeout)
        .max_headers(limits.max_headers)
        .max_header_size(limits.max_header_bytes)
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
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_send_buf_size(1 << 20)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
