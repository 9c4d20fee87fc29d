//! Divides the limit on open files between clients and the gateway itself.
//!
//! Each connection uses a file descriptor. Without a free one the gateway cannot accept a probe,
//! read a file or connect to etcd. So it reserves descriptors for these, and clients get the rest,
//! whatever the settings are.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::admin;
use crate::config::{Config, Limits};
use crate::upstream::Class;
use crate::upstream::pool::SPREAD;

/// Reserved for standard streams, epoll instances, the audit file, reloaded files, and connections
/// to etcd for health checks and questions.
const RESERVED: usize = 64;

/// Connections of one worker to one member: `SPREAD` of each class, and twice that during a
/// renewal.
const LINKS: usize = Class::ALL.len() * SPREAD * 2;

/// Requests on a connection to etcd from which on another one is opened (`upstream::pool`).
const REQUESTS_PER_LINK: usize = 64;

/// At most one in this many descriptors is reserved for further connections to etcd.
const EXTRA_LINKS_DIVISOR: usize = 8;

/// One in this many descriptors of clients is for running handshakes; the same number is for queued
/// ones, and again for connections that have sent nothing.
const HANDSHAKES_DIVISOR: usize = 10;

/// Raises the soft limit on open files to the hard limit, as the Go runtime does, and lowers the
/// limits on connections to fit.
pub fn fit_limits(config: &mut Config) {
    let before = getrlimit(Resource::Nofile);
    if before.current != before.maximum {
        let raised = Rlimit { current: before.maximum, maximum: before.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "cannot raise the soft limit on open files");
        }
    }
    let Some(most) = getrlimit(Resource::Nofile).current else { return };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let (configured, reserved) = (config.limits, reserved(config, most));
    let behind_balancers = !config.proxy_protocol_from.is_empty();
    fit(&mut config.limits, most.saturating_sub(reserved), behind_balancers);
    let (effective, open_files) = (config.limits, most);
    if (configured.max_connections, configured.max_handshakes)
        != (effective.max_connections, effective.max_handshakes)
    {
        let (connections, handshakes) = (effective.max_connections, effective.max_handshakes);
        tracing::warn!(
            open_files,
            reserved,
            "the limit on open files is too low for `max-connections` and `max-handshakes`: \
             lowered them to {connections} and {handshakes}. Raise the limit to {} (systemd: \
             LimitNOFILE, shell: `ulimit -Hn`) or lower the settings",
            sockets(&configured, behind_balancers).saturating_add(reserved)
        );
    }
}

/// Descriptors that clients cannot use.
fn reserved(config: &Config, most: usize) -> usize {
    let listeners = usize::from(config.admin_addr.is_some())
        .saturating_add(usize::from(config.admin_socket.is_some()));
    let links =
        config.workers.max(1).saturating_mul(config.upstream.endpoints.len()).saturating_mul(LINKS);
    let more =
        config.limits.max_requests.div_ceil(REQUESTS_PER_LINK).min(most / EXTRA_LINKS_DIVISOR);
    RESERVED
        .saturating_add(listeners.saturating_mul(admin::MAX_CONNECTIONS))
        .saturating_add(links)
        .saturating_add(more)
}

/// The most sockets of clients: connections, running handshakes, queued handshakes, and sockets
/// that have sent nothing; with load balancers also sockets whose PROXY header is missing.
fn sockets(limits: &Limits, behind_balancers: bool) -> usize {
    let handshakes = limits.max_handshakes.saturating_mul(if behind_balancers { 4 } else { 3 });
    limits.max_connections.saturating_add(handshakes)
}

/// Lowers the limits that need more than `available` sockets. At least one connection and one
/// handshake are allowed.
fn fit(limits: &mut Limits, available: usize, behind_balancers: bool) {
    if sockets(limits, behind_balancers) <= available {
        return;
    }
    limits.max_handshakes = limits.max_handshakes.min(available / HANDSHAKES_DIVISOR).max(1);
    let handshakes = sockets(&Limits { max_connections: 0, ..*limits }, behind_balancers);
    limits.max_connections =
        limits.max_connections.min(available.saturating_sub(handshakes)).max(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(
        room: usize,
        max_connections: usize,
        max_handshakes: usize,
        behind_balancers: bool,
    ) -> (usize, usize) {
        let mut limits = Limits { max_connections, max_handshakes, ..Limits::default() };
        fit(&mut limits, room, behind_balancers);
        assert!(sockets(&limits, behind_balancers) <= room.max(4));
        (limits.max_connections, limits.max_handshakes)
    }

    #[test]
    fn lowers_limits_only_as_far_as_needed() {
        assert_eq!(fitted(32_288, 20_000, 4096, false), (20_000, 4096));
        assert_eq!(fitted(600, 20_000, 4096, false), (420, 60));
        assert_eq!(fitted(600, 20_000, 4096, true), (360, 60));
        assert_eq!(fitted(600, 590, 10, false), (570, 10));
        assert_eq!(fitted(600, 100, 4096, false), (100, 60));
        assert_eq!(fitted(0, 20_000, 4096, false), (1, 1));
    }
}
