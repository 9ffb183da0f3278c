//! Listen: sockets, HTTP/1.1 and HTTP/2 on one port, with TLS or without, and the end of both.

mod access;
mod admin;
mod authorise;
pub mod body;
mod connection;
mod control;
mod docs;
mod etag;
mod events;
mod extensions;
mod grpc;
pub mod head;
pub mod messages;
mod metrics;
mod places;
mod profile;
mod rest;
mod sending;
pub mod tls;
mod traffic;
mod uploads;

use std::{
    io,
    sync::{Arc, Once},
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::infer::Gateway;

use places::{Place, Places};
use tls::Tls;

pub use profile::{Profile, Profiles};
pub use traffic::Traffic;
pub use uploads::multipart;

/// Told to stop accepting: the moment by which running requests must have finished.
pub type Stop = watch::Receiver<Option<Instant>>;

/// What a port answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// V2, and tenants' own models.
    Data,
    /// V2 over gRPC.
    Grpc,
    /// Tenants and their keys.
    Admin,
    /// What is counted.
    Metrics,
}

impl Door {
    pub const ALL: [Self; 4] = [Self::Data, Self::Grpc, Self::Admin, Self::Metrics];

    /// What metrics and settings call the port.
    pub fn word(self) -> &'static str {
        match self {
            Self::Data => "http",
            Self::Grpc => "grpc",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
        }
    }
}

/// Connections that the metrics port may have: those who watch are few.
const MAX_WATCHERS: usize = 16;

/// Accepts connections until told to stop, then lets running requests finish until the moment that comes with it.
/// Cuts the connections that are left, and returns how many there were.
pub async fn serve(
    listener: TcpListener,
    door: Door,
    tls: Option<Arc<Tls>>,
    gateway: Arc<Gateway>,
    mut stop: Stop,
) -> usize {
    let mut limits = gateway.limits.listen.clone();
    if door == Door::Metrics {
        limits.max_connections = limits.max_connections.min(MAX_WATCHERS);
    }
    let places = Places::new(&limits);
    // Never sent to: its end tells the connections that are still there to go.
    let (over, ends) = watch::channel(());
    loop {
        // Nothing is accepted before the last one has its place: who comes then waits in the kernel's queue and costs
        // nothing here.
        let (place, stream) = tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let gateway = Arc::clone(&gateway);
        let (tls, stop, ends) = (tls.clone(), stop.clone(), ends.clone());
        tokio::spawn(connection::serve(stream, place, door, tls, gateway, stop, ends));
    }
    drop(listener);
    tracing::info!(?door, open = places.open(), "no longer accepting connections; running requests finish");
    let end = stop.borrow().unwrap_or_else(Instant::now);
    let cut = match tokio::time::timeout_at(end.into(), places.empty()).await {
        Ok(()) => 0,
        Err(_) => places.open(),
    };
    drop(over);
    cut
}

/// Time for a connection that was cut to give its descriptor back.
const CLOSES: Duration = Duration::from_millis(5);

async fn accept(listener: &TcpListener, places: &Arc<Places>) -> (Arc<Place>, TcpStream) {
    let mut pause = CLOSES;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Some(place) = places.take(peer.ip()).await {
                    return (place, stream);
                }
                tracing::debug!(%peer, "connection closed: its address has as many as it may");
            }
            Err(error) if is_of_one_peer(&error) => {}
            // Whoever waits holds a descriptor that is needed: it goes, as at `max_connections`.
            Err(error) if is_out_of_descriptors(&error) && places.give_up() => {
                static TOLD: Once = Once::new();
                TOLD.call_once(|| {
                    tracing::warn!(%error, "connections that wait are cut: raise the limit on open files (ulimit -n, LimitNOFILE=), or lower --max-connections");
                });
                // It closes in a task of its own.
                tokio::time::sleep(CLOSES).await;
            }
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

/// Of this process's, or of the machine's.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
