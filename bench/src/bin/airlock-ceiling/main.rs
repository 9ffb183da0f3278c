//! A bare hyper server: V2 identity requests over HTTP/1, and over HTTP/2 gRPC messages that it answers with themselves. No
//! model, no checks beyond the sizes, no limits: what transport and codec alone cost.

mod grpc;
mod http;

use std::{future::pending, net::SocketAddr};

use anyhow::{Context, Result};
use clap::Parser;
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
};

#[derive(Debug, Parser)]
#[command(about = "A bare hyper server to compare the gateway with")]
struct Cli {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8010")]
    http: SocketAddr,
    /// Address to listen on for gRPC.
    #[arg(long)]
    grpc: Option<SocketAddr>,
}

async fn listener(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// The next connection; none ever without a listener.
async fn accepted(listener: Option<&TcpListener>) -> Result<TcpStream> {
    let Some(listener) = listener else { return pending().await };
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let rest = listener(cli.http).await?;
    let rpc = match cli.grpc {
        Some(address) => Some(listener(address).await?),
        None => None,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        // A connection that breaks is the generator's to notice.
        tokio::select! {
            stream = accepted(Some(&rest)) => {
                let service = service_fn(http::answer);
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream?), service);
                tokio::spawn(async { drop(connection.await) });
            }
            stream = accepted(rpc.as_ref()) => {
                let builder = http2::Builder::new(TokioExecutor::new());
                let connection = builder.serve_connection(TokioIo::new(stream?), service_fn(grpc::echo));
                tokio::spawn(async { drop(connection.await) });
            }
            _ = terminate.recv() => return Ok(()),
        }
    }
}
