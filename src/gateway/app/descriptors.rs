//! Open files: how many there may be, and who has them.
//!
//! A connection is a descriptor. Where a process has no more of them, it can accept no probe, read
//! no file and reach no etcd: so clients are given what is left when all of that has its own,
//! whatever the settings say.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::admin;
use crate::config::{Config, Limits};
use crate::upstream::Class;
use crate::upstream::pool::SPREAD;

/// Standard streams, epoll instances, the audit, files that are read again, etcd's connections for
/// health checks and questions.
const OWN: usize = 64;

/// Connections of one worker to one member: so many of each class, and as many while they are
/// renewed.
const LINKS: usize = Class::ALL.len() * SPREAD * 2;

/// Requests that one connection to etcd carries at least before the next is opened
/// (`upstream::pool`).
const REQUESTS_PER_LINK: usize = 64;

/// Of what there is, at most this part is kept back for connections to etcd beyond the first ones.
const MORE_LINKS: usize = 8;

/// Of what clients have, this part is for handshakes under way, and as much for those that wait for
/// their turn, and so on.
const HANDSHAKES: usize = 10;

/// Raises the soft limit on open files to the hard one, as Go's programs do, and fits the limits on
/// connections to it.
pub fn provide(config: &mut Config) {
    let before = getrlimit(Resource::Nofile);
    if before.current != before.maximum {
        let raised = Rlimit { current: before.maximum, maximum: before.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "cannot raise the limit on open files");
        }
    }
    let Some(most) = getrlimit(Resource::Nofile).current else { return };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let (asked, own) = (config.limits, kept_back(config, most));
    let behind_balancers = !config.proxy_protocol_from.is_empty();
    fit(&mut config.limits, most.saturating_sub(own), behind_balancers);
    let (given, open_files) = (config.limits, most);
    if (asked.max_connections, asked.max_handshakes)
        != (given.max_connections, given.max_handshakes)
    {
        let (connections, handshakes) = (given.max_connections, given.max_handshakes);
        tracing::warn!(
            open_files,
            kept_back = own,
            "the limit on open files is below what `max-connections` and `max-handshakes` ask for: {connections} and {handshakes} are in \
             effect; raise it (LimitNOFILE of systemd, `ulimit -Hn`) to {} or set less",
            sockets(&asked, behind_balancers).saturating_add(own)
        );
    }
}

/// Descriptors that no client is given.
fn kept_back(config: &Config, most: usize) -> usize {
    let doors = usize::from(config.admin_addr.is_some())
        .saturating_add(usize::from(config.admin_socket.is_some()));
    let links =
        config.workers.max(1).saturating_mul(config.upstream.endpoints.len()).saturating_mul(LINKS);
    let more = config.limits.max_requests.div_ceil(REQUESTS_PER_LINK).min(most / MORE_LINKS);
    OWN.saturating_add(doors.saturating_mul(admin::MAX_CONNECTIONS))
        .saturating_add(links)
        .saturating_add(more)
}

/// Sockets of clients at once: connections; handshakes under way, as many that wait, as many that
/// have said nothing; with balancers, as many that are not named yet.
fn sockets(limits: &Limits, behind_balancers: bool) -> usize {
    let handshakes = limits.max_handshakes.saturating_mul(if behind_balancers { 4 } else { 3 });
    limits.max_connections.saturating_add(handshakes)
}

/// Lowers what takes more sockets than these. There is always room for one connection, and one
/// handshake.
fn fit(limits: &mut Limits, room: usize, behind_balancers: bool) {
    if sockets(limits, behind_balancers) <= room {
        return;
    }
    limits.max_handshakes = limits.max_handshakes.min(room / HANDSHAKES).max(1);
    let handshakes = sockets(&Limits { max_connections: 0, ..*limits }, behind_balancers);
    limits.max_connections = limits.max_connections.min(room.saturating_sub(handshakes)).max(1);
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
    fn what_fits_stays_and_what_does_not_is_lowered_to_what_does() {
        assert_eq!(fitted(32_288, 20_000, 4096, false), (20_000, 4096));
        assert_eq!(fitted(600, 20_000, 4096, false), (420, 60));
        assert_eq!(fitted(600, 20_000, 4096, true), (360, 60));
        assert_eq!(fitted(600, 590, 10, false), (570, 10));
        assert_eq!(fitted(600, 100, 4096, false), (100, 60));
        assert_eq!(fitted(0, 20_000, 4096, false), (1, 1));
    }
}
