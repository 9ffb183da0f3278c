//! Descriptors: as many as the machine lets the gateway have, and no more connections than these suffice for.

use rustix::process::{Resource, getrlimit, setrlimit};

/// What is left to everything but connections: models, workers, the store and the ledger. Of few descriptors, half.
const RESERVE: usize = 256;

/// Raises the soft limit on open files to the hard one, and lowers the connections that each port may have to what is then
/// possible. Worker processes set limits of their own.
pub(super) fn make_room(max_connections: &mut usize, ports: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit.current = limit.maximum,
            Err(error) => tracing::warn!(%error, "the limit on open files cannot be raised to the hard one"),
        }
    }
    let Some(limit) = limit.current else { return };
    let room = room(usize::try_from(limit).unwrap_or(usize::MAX), ports);
    if room < *max_connections {
        tracing::warn!(
            limit,
            max_connections,
            connections = room,
            "the limit on open files is too low for --max-connections: each port takes only so many connections; raise it (ulimit -Hn, LimitNOFILE=)"
        );
        *max_connections = room;
    }
}

/// Connections that each port may have, one at least.
fn room(limit: usize, ports: usize) -> usize {
    ((limit - RESERVE.min(limit / 2)) / ports).max(1)
}

#[cfg(test)]
mod tests {
    use super::room;

    #[test]
    fn connections_leave_some_descriptors_to_the_rest() {
        assert_eq!(room(1_048_576, 2), 524_160);
        assert_eq!([room(1024, 1), room(1024, 2)], [768, 384]);
        assert_eq!([room(200, 1), room(3, 2), room(0, 1)], [100, 1, 1]);
        assert!(room(usize::MAX, 1) > 1 << 20);
    }
}
