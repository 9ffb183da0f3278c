//! Listen: sockets, HTTP/1.1 and HTTP/2 on one port, with TLS or without, and the end of both.

mod admin;
mod authorise;
pub mod body;
mod connection;
mod etag;
pub mod rest;
pub mod sending;
pub mod tls;
mod uploads;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper_util::server::graceful::GracefulShutdown;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

use crate::infer::Gateway;

use tls::Tls;

/// Told to stop accepting: the moment by which running requests must have finished.
pub type Stop = watch::Receiver<Option<Instant>>;

/// What a port answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// V2, and tenants' own models.
    Data,
    /// Tenants and their keys.
    Admin,
}

/// Accepts connections until told to stop, then lets running requests finish until the moment that comes with it.
/// Cuts the connections that are left, and returns how many there were.
pub async fn serve(
    listener: TcpListener,
    door: Door,
    tls: Option<Arc<Tls>>,
    gateway: Arc<Gateway>,
    mut stop: Stop,
) -> usize {
    let limits = &gateway.limits.listen;
    let permits = Arc::new(Semaphore::new(limits.max_connections));
    let graceful = GracefulShutdown::new();
    // Never sent to: its end tells the connections that are still there to go.
    let (over, ends) = watch::channel(());
    loop {
        // The permit comes before the accept: who finds no place waits in the kernel's queue and costs nothing here.
        let (permit, stream) = tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        let watcher = graceful.watcher();
        let gateway = Arc::clone(&gateway);
        let (tls, stop, ends) = (tls.clone(), stop.clone(), ends.clone());
        tokio::spawn(async move {
            connection::serve(stream, door, tls, gateway, watcher, stop, ends).await;
            drop(permit);
        });
    }
    drop(listener);
    let open = open_connections(&permits, limits.max_connections);
    tracing::info!(?door, open, "no longer accepting connections; running requests finish");
    let end = stop.borrow().unwrap_or_else(Instant::now);
    let cut = match tokio::time::timeout_at(end.into(), graceful.shutdown()).await {
        Ok(()) => 0,
        Err(_) => open_connections(&permits, limits.max_connections),
    };
    drop(over);
    cut
}

fn open_connections(permits: &Semaphore, max: usize) -> usize {
    max.saturating_sub(permits.available_permits())
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (tokio::sync::OwnedSemaphorePermit, TcpStream) {
    let permit = Arc::clone(permits).acquire_owned().await.expect("the semaphore is never closed");
    let mut pause = Duration::from_millis(5);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (permit, stream),
            Err(error) if is_of_one_peer(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: trying again at once would only spin.
                tracing::warn!(%error, pause_ms = pause.as_millis(), "cannot accept connections");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

fn is_of_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
