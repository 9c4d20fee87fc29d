//! Limits the handshakes that are in progress at the same time. Identities are not known yet, so
//! each address has a share (`crate::origin_table`).
//!
//! At the limit, a new socket begins its handshake in one of three ways:
//! * At once, if another address has at least two handshakes more than its own. The address with
//!   the most handshakes loses its oldest.
//! * When a handshake ends.
//! * When the oldest handshake has had its grace period, and is then aborted. The grace period is
//!   shorter if many sockets wait.
//!
//! The number of waiting sockets has the same limit. Beyond it, the address with the most waiting
//! sockets loses its oldest.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::origin_table::{Origin, OriginTable};

/// The grace period is the handshake timeout divided by this. The default is half a second, enough
/// for two round trips around the world.
const GRACE: u32 = 20;

/// If more than half of the waiting slots are taken, the grace period is divided by this. The rest
/// is enough within one network, and the queue keeps moving.
const HURRY: u32 = 10;

/// The handshakes in progress, and the sockets that wait for one.
pub struct Handshakes<S> {
    in_progress: OriginTable<Begun>,
    waiting: OriginTable<S>,
    max: usize,
    grace: Duration,
    ended: Arc<Ended>,
}

struct Begun {
    since: Instant,
    give_up: Arc<Notify>,
}

/// The handshakes that have ended since [`Handshakes::begin_next`] was last called.
#[derive(Default)]
struct Ended {
    tickets: Mutex<Vec<u64>>,
    any: Notify,
}

/// A handshake in progress, until it is dropped.
pub struct Handshake {
    ticket: u64,
    give_up: Arc<Notify>,
    ended: Arc<Ended>,
}

impl<S> Handshakes<S> {
    /// Allows `max` handshakes, each with this timeout.
    #[must_use]
    pub fn new(max: usize, timeout: Duration) -> Self {
        Self {
            in_progress: OriginTable::default(),
            waiting: OriginTable::default(),
            max,
            grace: timeout / GRACE,
            ended: Arc::default(),
        }
    }

    /// Adds a socket. Returns the waiting socket that was evicted for it, if there were too many.
    #[must_use]
    pub fn add(&mut self, origin: Origin, socket: S) -> Option<S> {
        self.waiting.insert(origin, socket);
        // One more than the limit may wait, because the new socket may begin at once.
        if self.waiting.len() > self.max.saturating_add(1) { self.waiting.evict() } else { None }
    }

    /// The next socket whose handshake may begin now.
    pub fn begin_next(&mut self) -> Option<(S, Handshake)> {
        for ticket in
            std::mem::take(&mut *self.ended.tickets.lock().unwrap_or_else(PoisonError::into_inner))
        {
            self.in_progress.remove(ticket);
        }
        let (newest, origin) = self.waiting.newest()?;
        let (oldest, ..) = self.waiting.oldest()?;
        let next = if self.in_progress.len() < self.max {
            oldest
        } else if self.in_progress.count(origin).saturating_add(1) < self.in_progress.max_count() {
            self.give_up(OriginTable::evict);
            newest
        } else if self.is_due() {
            self.give_up(|in_progress| {
                let (ticket, ..) = in_progress.oldest()?;
                in_progress.remove(ticket).map(|(_, begun)| begun)
            });
            oldest
        } else {
            return None;
        };
        let (origin, socket) = self.waiting.remove(next)?;
        let give_up = Arc::<Notify>::default();
        let ticket = self
            .in_progress
            .insert(origin, Begun { since: Instant::now(), give_up: give_up.clone() });
        Some((socket, Handshake { ticket, give_up, ended: self.ended.clone() }))
    }

    /// Waits until [`Handshakes::begin_next`] may return a socket.
    pub async fn change(&self) {
        if self.waiting.is_empty() {
            return std::future::pending().await;
        }
        match self.in_progress.oldest() {
            Some((.., begun)) => {
                drop(
                    timeout_at(begun.since + self.grace_period(), self.ended.any.notified()).await,
                );
            }
            None => self.ended.any.notified().await,
        }
    }

    /// True if the oldest handshake has had its grace period.
    fn is_due(&self) -> bool {
        self.in_progress
            .oldest()
            .is_some_and(|(.., begun)| begun.since.elapsed() >= self.grace_period())
    }

    fn grace_period(&self) -> Duration {
        if self.waiting.len() > self.max / 2 { self.grace / HURRY } else { self.grace }
    }

    fn give_up(&mut self, which: impl FnOnce(&mut OriginTable<Begun>) -> Option<Begun>) {
        if let Some(begun) = which(&mut self.in_progress) {
            begun.give_up.notify_one();
        }
    }
}

impl Handshake {
    /// Waits until the handshake must end to make room for another.
    pub async fn given_up(&self) {
        self.give_up.notified().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.ended.tickets.lock().unwrap_or_else(PoisonError::into_inner).push(self.ticket);
        self.ended.any.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use futures_util::FutureExt as _;

    use super::*;

    const AN_HOUR: Duration = Duration::from_secs(3600);

    fn origin(last: u8) -> Origin {
        Origin::from(IpAddr::from(Ipv4Addr::new(192, 0, 2, last)))
    }

    /// Adds a socket from this address. Returns its handshake, if it may begin now.
    fn arrive(handshakes: &mut Handshakes<u8>, last: u8) -> Option<Handshake> {
        let _ = handshakes.add(origin(last), last);
        handshakes.begin_next().map(|(_, handshake)| handshake)
    }

    fn is_given_up(handshake: &Handshake) -> bool {
        handshake.given_up().now_or_never().is_some()
    }

    #[test]
    fn a_flood_of_one_address_does_not_delay_another() {
        let mut handshakes = Handshakes::new(4, AN_HOUR);
        let flood: Vec<_> = (0..100)
            .filter_map(|_| {
                let _ = handshakes.add(origin(1), 1);
                handshakes.begin_next()
            })
            .collect();
        assert_eq!(flood.len(), 4);
        let others: Vec<_> =
            [2, 3].iter().map(|last| arrive(&mut handshakes, *last).expect("it begins")).collect();
        // Only the two oldest of the flood made room, and each address has its share.
        assert_eq!(
            flood.iter().map(|(_, one)| is_given_up(one)).collect::<Vec<_>>(),
            [true, true, false, false]
        );
        assert!(!others.iter().any(is_given_up));
    }

    #[test]
    fn an_address_evicts_only_its_own_waiting_sockets() {
        let mut handshakes = Handshakes::new(2, AN_HOUR);
        let _held = [arrive(&mut handshakes, 1), arrive(&mut handshakes, 2)];
        assert!(arrive(&mut handshakes, 2).is_none());
        let evicted: Vec<_> = (0..10).filter_map(|_| handshakes.add(origin(1), 1)).collect();
        assert_eq!(evicted, [1; 8]);
        assert!(handshakes.begin_next().is_none());
    }

    #[tokio::test]
    async fn at_the_limit_the_oldest_makes_room_after_its_grace() {
        let mut handshakes = Handshakes::new(2, Duration::from_millis(40));
        let (oldest, second) =
            (arrive(&mut handshakes, 1).unwrap(), arrive(&mut handshakes, 2).unwrap());
        let mut third = arrive(&mut handshakes, 3);
        while third.is_none() {
            handshakes.change().await;
            third = handshakes.begin_next().map(|(_, handshake)| handshake);
        }
        assert!(is_given_up(&oldest));
        assert!(!is_given_up(&second));
    }

    #[tokio::test]
    async fn the_grace_period_is_shorter_when_many_wait() {
        let mut handshakes = Handshakes::new(4, AN_HOUR);
        let first: Vec<_> = (0..4).filter_map(|last| arrive(&mut handshakes, last)).collect();
        assert!((4..6).all(|last| arrive(&mut handshakes, last).is_none()));
        assert_eq!(handshakes.grace_period(), handshakes.grace);
        assert!(arrive(&mut handshakes, 6).is_none());
        assert_eq!(handshakes.grace_period(), handshakes.grace / HURRY);
        handshakes.grace = Duration::from_millis(100);
        handshakes.change().await;
        assert!(handshakes.begin_next().is_some() && is_given_up(&first[0]));
    }

    #[tokio::test]
    async fn a_handshake_that_ends_makes_room_at_once() {
        let mut handshakes = Handshakes::new(2, AN_HOUR);
        let (oldest, second) =
            (arrive(&mut handshakes, 1).unwrap(), arrive(&mut handshakes, 2).unwrap());
        assert!(handshakes.change().now_or_never().is_none(), "nothing waits");
        assert!(arrive(&mut handshakes, 3).is_none());
        assert!(handshakes.change().now_or_never().is_none());
        drop(second);
        handshakes.change().await;
        assert!(handshakes.begin_next().is_some());
        assert!(!is_given_up(&oldest));
    }
}
