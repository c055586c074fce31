//! What the process takes on: from the configuration and the file descriptors that it may open.

use crate::config::Limits;
use crate::limit::overload::{Cap, Caps};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::sync::Arc;

/// Connections at most, where the configuration does not say: each costs some 20 KiB, so that an
/// idle crowd of as many fits into a gigabyte.
const CONNECTIONS: u64 = 50_000;
/// Descriptors that connections leave to the store, the journal, the logs and the admin API.
const RESERVED: u64 = 64;
/// Connections even where there are hardly any descriptors.
const FEW: u64 = 16;
/// Connections beyond the cap that are told so, and their part of the descriptors where these are few.
const OVERFLOW: u64 = 1024;
const OVERFLOW_PART: u64 = 8;
/// Connections to the admin API and the metrics.
const OPERATORS: u64 = 256;

/// Caps as these limits say.
pub fn new(limits: &Limits) -> Arc<Caps> {
    let caps = Caps {
        connections: Cap::new(0),
        overflow: Cap::new(OVERFLOW),
        operators: Cap::new(OPERATORS),
        in_flight: Cap::new(0),
        buffered: Cap::new(0),
    };
    set(&caps, limits);
    Arc::new(caps)
}

/// Changes them to what these limits say; what is taken stays taken.
pub fn set(caps: &Caps, limits: &Limits) {
    let descriptors = getrlimit(Resource::Nofile).current;
    let connections = limits
        .connections
        .map_or_else(|| usual(descriptors), u64::from);
    if let Some(most) = descriptors.filter(|most| *most < connections.saturating_add(RESERVED)) {
        log::warn!(
            "limits.connections is {connections}, but the process may open {most} files only (ulimit -n)"
        );
    }
    caps.connections.set(connections);
    caps.overflow.set(overflow(descriptors));
    caps.in_flight
        .set(limits.in_flight.map_or(connections, u64::from));
    caps.buffered.set(limits.buffered);
}

/// Half of what may be opened: a request needs a connection to its provider as well.
fn usual(descriptors: Option<u64>) -> u64 {
    let half = descriptors.map(|most| most.saturating_sub(RESERVED + overflow(descriptors)) / 2);
    half.unwrap_or(CONNECTIONS).clamp(FEW, CONNECTIONS)
}

/// Connections beyond the cap that are told so.
fn overflow(descriptors: Option<u64>) -> u64 {
    descriptors.map_or(OVERFLOW, |most| OVERFLOW.min(most / OVERFLOW_PART))
}

/// Lets the process open as many files as it may: what it gets by itself is meant for programs that
/// wait with `select`, which has no numbers above 1024.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    let shown = |limit: Option<u64>| limit.map_or("any number of".to_owned(), |n| n.to_string());
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => log::info!(
            "the process may open {} files, raised from {}",
            shown(limit.maximum),
            shown(limit.current)
        ),
        Err(error) => log::warn!(
            "the process may open {} files only, and cannot raise that: {error}",
            shown(limit.current)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        assert_eq!(usual(None), 50_000);
        assert_eq!(usual(Some(1 << 20)), 50_000);
        assert_eq!(usual(Some(65_536)), 32_224);
        assert_eq!(usual(Some(1024)), 416);
        assert_eq!((usual(Some(256)), overflow(Some(256))), (80, 32));
        assert_eq!(usual(Some(64)), 16);
    }

    #[test]
    fn in_flight_is_as_connections_unless_said() {
        let limits = |text: &str| {
            crate::config::parse("test", text, &|_| None)
                .unwrap()
                .limits
        };
        let caps = new(&limits("limits: { connections: 4, buffered: 40MiB }"));
        let shown = |caps: &Caps| caps.all().map(|(_, cap)| cap.most());
        assert_eq!(shown(&caps), [4, 1024, 256, 4, 40 << 20]);
        set(&caps, &limits("limits: { connections: 3, in_flight: 9 }"));
        assert_eq!(shown(&caps), [3, 1024, 256, 9, 512 << 20]);
    }
}
