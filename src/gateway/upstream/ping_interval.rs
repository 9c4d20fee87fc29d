//! The interval between pings on the connections to one member.
//!
//! A gRPC server closes connections that are pinged too often, with GOAWAY ENHANCE_YOUR_CALM, and
//! ends their streams. etcd's limit is `--grpc-keepalive-min-time` (default 5 s); it enforces the
//! limit only where gRPC has a listener of its own (`--listen-client-http-urls`). A client then has
//! to double its interval (gRFC A8, "Client-side Keepalive").

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Initial interval in seconds: twice etcd's default limit.
const INITIAL: u64 = 10;

/// Longest interval in seconds: two hours, as gRPC's own servers ping. TCP detects a longer silence
/// first.
const MAX: u64 = 7200;

/// Ping interval of the connections to one member, in seconds. All workers share it.
#[derive(Debug)]
pub struct PingInterval(AtomicU64);

impl Default for PingInterval {
    fn default() -> Self {
        Self(AtomicU64::new(INITIAL))
    }
}

impl PingInterval {
    /// The current interval.
    pub fn get(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    /// Doubles `interval`, at which etcd closed a connection, unless another connection has already
    /// doubled it. Returns true the first time that the initial interval is doubled.
    pub(super) fn slow_down(&self, interval: Duration) -> bool {
        let doubled = interval.as_secs().saturating_mul(2).clamp(INITIAL, MAX);
        self.0.fetch_max(doubled, Ordering::Relaxed) == INITIAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_closed_together_double_the_interval_once() {
        let pings = PingInterval::default();
        let initial = pings.get();
        // Six connections of two workers end at about the same time.
        let first = (0..6).filter(|_| pings.slow_down(initial)).count();
        assert_eq!((first, pings.get()), (1, initial * 2));
        assert!(!pings.slow_down(pings.get()), "reported before");
        assert_eq!(pings.get(), initial * 4);
    }

    #[test]
    fn the_interval_is_bounded() {
        let pings = PingInterval::default();
        for _ in 0..100 {
            pings.slow_down(pings.get());
        }
        assert_eq!(pings.get(), Duration::from_secs(MAX));
        pings.slow_down(Duration::MAX);
        assert_eq!(pings.get(), Duration::from_secs(MAX));
    }
}
