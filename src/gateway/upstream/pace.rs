//! How often the connections to one member are pinged.
//!
//! A gRPC server closes connections that are pinged more often than it likes: etcd's bound is
//! `--grpc-keepalive-min-time` (5 s unless it is set), and it enforces it only where gRPC has a
//! listener of its own (`--listen-client-http-urls`). It says so with GOAWAY ENHANCE_YOUR_CALM and
//! ends every stream. A client is then to double its interval (gRFC A8, "Client-side Keepalive").

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Twice what etcd accepts unless it is set otherwise.
const AT_FIRST: u64 = 10;

/// Two hours, as often as gRPC's own servers ping. So long a silence is noticed by TCP first.
const AT_MOST: u64 = 7200;

/// How often the connections to one member are pinged, in seconds: all workers share it.
#[derive(Debug)]
pub struct Pace(AtomicU64);

impl Default for Pace {
    fn default() -> Self {
        Self(AtomicU64::new(AT_FIRST))
    }
}

impl Pace {
    /// The time between two pings of one connection.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    /// A connection that was pinged at this interval was pinged too often: the interval becomes
    /// twice that, unless other connections have already made it so. True the first time.
    pub fn slow_down(&self, interval: Duration) -> bool {
        let doubled = interval.as_secs().saturating_mul(2).clamp(AT_FIRST, AT_MOST);
        self.0.fetch_max(doubled, Ordering::Relaxed) == AT_FIRST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_doubles_once_for_all_connections() {
        let pace = Pace::default();
        let at_first = pace.interval();
        // Six connections of two workers end at about the same time.
        let news = (0..6).filter(|_| pace.slow_down(at_first)).count();
        assert_eq!((news, pace.interval()), (1, at_first * 2));
        assert!(!pace.slow_down(pace.interval()), "it was said");
        assert_eq!(pace.interval(), at_first * 4);
    }

    #[test]
    fn the_interval_has_a_bound() {
        let pace = Pace::default();
        for _ in 0..100 {
            pace.slow_down(pace.interval());
        }
        assert_eq!(pace.interval(), Duration::from_secs(AT_MOST));
        pace.slow_down(Duration::MAX);
        assert_eq!(pace.interval(), Duration::from_secs(AT_MOST));
    }
}
